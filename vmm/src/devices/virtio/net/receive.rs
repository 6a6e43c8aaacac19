//! The way into the guest: one frame at a time goes into as many of its buffers as it takes.

use super::super::{Fault, Io};
use super::gate::Gate;
use crate::backends::net::{HEADER, MAX_FRAME, Port};
use std::io;
use vm_memory::Bytes;

/// Where in a frame's header the number of its buffers is.
const COUNT: usize = 10;
/// As many frames as are moved in one turn, so that a flood of them leaves time for others.
const TURN: usize = 64;

/// A frame on its way in.
pub(super) struct Incoming {
    /// Its bytes; none before there has been one.
    frame: Vec<u8>,
    /// The length of the frame that waits for buffers; 0: none does.
    waiting: usize,
    /// The buffers it is being put into: number and bytes written. Kept for its storage.
    used: Vec<(u16, u32)>,
}

/// What became of a frame.
enum Delivery {
    Done,
    /// The guest has not given enough buffers.
    Short,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self { frame: Vec::new(), waiting: 0, used: Vec::new() }
    }

    /// Whether a frame waits for the guest's buffers: then none is taken from the port.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Drops the frame that waits.
    pub(super) fn forget(&mut self) {
        self.waiting = 0;
    }

    /// Moves frames from `port` to the guest until there are none, or no buffers, or enough for one turn, or `gate` lets no
    /// more pass. The inner error is the port's end.
    pub(super) fn deliver(
        &mut self,
        port: &mut dyn Port,
        queue: usize,
        mergeable: bool,
        gate: &mut Gate,
        io: &mut Io<'_>,
    ) -> Result<io::Result<()>, Fault> {
        // A machine's start is quicker without it, and one without traffic smaller.
        self.frame.resize(MAX_FRAME, 0);
        io.queues[queue].suppress_kicks(io.memory)?;
        let mut turns = 0..TURN;
        // Nobody would tell of frames that the port has taken already, so those are more than a turn's if need be.
        while turns.next().is_some() || port.holds_frame() {
            if self.waiting == 0 {
                if !gate.lets_pass(io.poller)? {
                    break;
                }
                match port.receive(&mut self.frame) {
                    Ok(length) => self.waiting = length.min(MAX_FRAME),
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => break,
                        io::ErrorKind::Interrupted => continue,
                        _ => return Ok(Err(error)),
                    },
                }
            }
            match self.put(queue, mergeable, io)? {
                Delivery::Done => {
                    gate.passed(self.waiting - HEADER.min(self.waiting));
                    self.waiting = 0;
                }
                Delivery::Short => break,
            }
        }
        Ok(Ok(()))
    }

    /// Puts the waiting frame into the guest's buffers.
    fn put(&mut self, queue: usize, mergeable: bool, io: &mut Io<'_>) -> Result<Delivery, Fault> {
        let frame = &self.frame[..self.waiting];
        let most = if mergeable { usize::from(io.queues[queue].size()) } else { 1 };
        let mut count_bytes = [None, None];
        let mut done = 0;
        self.used.clear();
        while done < frame.len() {
            if self.used.len() == most {
                // It fits into none of what this driver ever gives: it is lost, as on a wire.
                io.queues[queue].rewind(self.used.len());
                return Ok(Delivery::Done);
            }
            let Some(chain) = io.pop(queue)? else {
                // Asked now, since a kick is due for what comes after all that was given so far.
                if io.queues[queue].ask_for_kicks(io.memory)? {
                    continue;
                }
                io.queues[queue].rewind(self.used.len());
                return Ok(Delivery::Short);
            };
            if self.used.is_empty() {
                count_bytes = [COUNT, COUNT + 1].map(|at| chain.writable_byte(at));
            }
            let written = chain.write_at(0, &frame[done..]);
            done += written;
            let number = io.queues[queue].release(chain);
            self.used.push((number, written as u32));
        }
        for (byte, value) in count_bytes.into_iter().zip((self.used.len() as u16).to_le_bytes()) {
            byte.and_then(|byte| byte.write_obj(value, 0).ok())
                .ok_or(Fault("a receive buffer has no room for a header"))?;
        }
        io.queues[queue].push_together(io.memory, &self.used)?;
        Ok(Delivery::Done)
    }
}
