//! One port's line: to and from files of the host.

use super::super::{Fault, Io};
use super::PortConfig;
use crate::devices::reactor::{EventSet, Poller};
use std::fs::File;
use std::io::{self, Read, Write};
use vm_memory::Bytes;

/// How much is moved at once.
const PIECE: usize = 4096;

/// What is known of the input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// Waiting for the input to have something.
    Waited,
    /// It has something, or is a file that always has, but the guest gave no buffers for it.
    Blocked,
    /// It has ended, or there is none, or the guest does not want it.
    Ended,
}

/// A port.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) is_console: bool,
    input: Option<File>,
    state: Input,
    output: File,
    receive: usize,
    transmit: usize,
    token: u32,
}

impl Line {
    /// The port that these queues belong to; events of its input come with `token`.
    pub(super) fn new(config: PortConfig, receive: usize, transmit: usize, token: u32) -> Self {
        let PortConfig { name, is_console, input, output } = config;
        Self { name, is_console, input, state: Input::Ended, output, receive, transmit, token }
    }

    /// The guest wants input from now on.
    pub(super) fn open(&mut self, poller: &Poller) {
        if self.input.is_some() && self.state == Input::Ended {
            self.state = Input::Blocked;
            self.wait(poller, false);
        }
    }

    /// The guest wants no input any more.
    pub(super) fn close(&mut self, poller: &Poller) {
        if let (Some(input), Input::Waited) = (&self.input, self.state) {
            let _ = poller.remove(input);
        }
        self.state = Input::Ended;
    }

    /// The guest has given buffers.
    pub(super) fn has_buffers(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        match self.state {
            Input::Blocked => self.receive(io),
            _ => Ok(()),
        }
    }

    /// Moves input to the guest until one of the two has no more.
    pub(super) fn receive(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        let queue = self.receive;
        let Some(input) = &mut self.input else { return Ok(()) };
        let mut blocked = true;
        // One piece a turn: more may block, since the descriptor is not ours to make non-blocking.
        while self.state != Input::Ended {
            io.queues[queue].suppress_kicks(io.memory)?;
            let Some(chain) = io.pop(queue)? else {
                if io.queues[queue].ask_for_kicks(io.memory)? {
                    continue;
                }
                break;
            };
            let mut piece = [0; PIECE];
            let room = (chain.writable_bytes() as usize).min(PIECE);
            match input.read(&mut piece[..room]) {
                Ok(0) if room > 0 => {
                    self.end(io.poller);
                    io.undo_pop(queue, chain);
                    return io.notify(queue);
                }
                Ok(count) => {
                    let written = chain.write_at(0, &piece[..count]);
                    io.push(queue, chain, written as u32)?;
                }
                Err(error) => {
                    io.undo_pop(queue, chain);
                    if !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) {
                        self.end(io.poller);
                        return io.notify(queue);
                    }
                }
            }
            blocked = false;
            break;
        }
        self.wait(io.poller, blocked);
        io.notify(queue)
    }

    /// The input is over, for good.
    fn end(&mut self, poller: &Poller) {
        if let Some(input) = self.input.take() {
            let _ = poller.remove(&input);
        }
        self.state = Input::Ended;
    }

    /// Waits for input, unless there is nowhere to put it.
    fn wait(&mut self, poller: &Poller, blocked: bool) {
        let Some(input) = &self.input else { return };
        match (self.state, blocked) {
            (Input::Waited, true) => {
                let _ = poller.remove(input);
                self.state = Input::Blocked;
            }
            // What cannot be waited for, as a regular file, is read as the guest gives buffers.
            (Input::Blocked, false) if poller.add(input, self.token, EventSet::IN).is_ok() => {
                self.state = Input::Waited;
            }
            _ => {}
        }
    }

    /// Passes on what the guest has written.
    pub(super) fn transmit(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        let output = &mut self.output;
        io.serve(self.transmit, |chain| {
            for buffer in chain.readable() {
                let mut piece = [0; PIECE];
                for start in (0..buffer.len()).step_by(PIECE) {
                    let length = PIECE.min(buffer.len() - start);
                    let read = buffer.read_slice(&mut piece[..length], start);
                    // A reader that went away must not stop the guest: what cannot be written is lost.
                    let _ = read.is_ok() && output.write_all(&piece[..length]).is_ok();
                }
            }
            Ok(0)
        })
    }

    /// Writes a byte that came without a queue.
    pub(super) fn write_byte(&mut self, byte: u8) {
        let _ = self.output.write_all(&[byte]);
    }
}
