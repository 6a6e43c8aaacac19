//! Errands: calls whose answer may take its time, worked out by a child.
//!
//! A path in a container may lead to somebody's own filesystem (FUSE), and a process's arguments may lie in
//! memory that its owner pages in: whoever looks there waits for as long as the container likes. So PID 1 never
//! looks itself; a child does, and writes its answer into a pipe.

use super::container::Stage;
use super::process::Caller;
use super::{Agent, CHUNK, Outcome, Role, StreamId, System};
use crate::api::frame::MAX_MESSAGE;
use crate::api::ttrpc::Request;
use crate::prelude::*;
use crate::sys::process::SIGKILL;

/// Most errands at once.
const LIMIT: usize = 64;

/// A child on an errand.
pub struct Errand {
    /// Who asked.
    pub caller: Caller,
    /// The child, until it has ended.
    pub pid: Option<i32>,
    /// What it has said: a zero byte and the answer's payload, or a fault.
    answer: Vec<u8>,
}

impl<S: System> Agent<S> {
    /// Sends a child, for a call about a container or about the guest.
    pub(super) fn send_child(&mut self, caller: Caller, id: Option<&str>, request: &Request) -> Outcome {
        refuse_if!(self.errands.len() >= LIMIT, ResourceExhausted, "too many errands at once; try again");
        let mut space = None;
        if let Some(id) = id {
            let container = self.containers.get(id).ok_or_else(|| fault!(NotFound, "no container {id}"))?;
            // Only the root of one that stands can be looked into.
            let stands = matches!(container.stage, Stage::Created | Stage::Running | Stage::Ended);
            refuse_if!(!stands, FailedPrecondition, "container {id} does not stand");
            space = container.system.as_ref();
        }
        let (pid, stream) = self.system.send_child(space, request)?;
        self.roles.insert(stream, Role::Errand);
        self.errands.insert(stream, Errand { caller, pid: Some(pid), answer: Vec::new() });
        Ok(None)
    }

    /// A child has said something, or is done.
    pub(super) fn child_reported(&mut self, stream: StreamId) {
        loop {
            let Agent { system, errands, chunk, .. } = self;
            let Some(errand) = errands.get_mut(&stream) else { return };
            match system.read(stream, &mut chunk[..CHUNK]) {
                Err(Errno::EAGAIN) => return,
                Ok(length) if length > 0 => {
                    let is_too_long = errand.answer.len() + length > MAX_MESSAGE;
                    if is_too_long || errand.answer.try_reserve(length).is_err() {
                        errand.answer = fault!(Internal, "the answer is too long").encode();
                        break;
                    }
                    errand.answer.extend_from_slice(&chunk[..length]);
                }
                Ok(_) | Err(_) => break,
            }
        }
        let Some(errand) = self.give_up_errand(stream) else { return };
        let answer = match errand.answer.as_slice() {
            [0, payload @ ..] => Ok(payload.to_vec()),
            [] => Err(fault!(Internal, "the child that worked on it was killed")),
            fault => Err(Fault::decode(fault)),
        };
        self.answer(errand.caller, answer);
    }

    /// Ends an errand, done or not.
    pub(super) fn give_up_errand(&mut self, stream: StreamId) -> Option<Errand> {
        let errand = self.errands.remove(&stream)?;
        if let Some(pid) = errand.pid {
            let _ = self.system.signal(pid, SIGKILL);
        }
        self.close([stream]);
        Some(errand)
    }
}
