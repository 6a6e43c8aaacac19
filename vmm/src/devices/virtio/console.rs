//! virtio-console with one port: a line to and from files of the host. Specification, section 5.3.

use super::{Device, Fault, Io};
use crate::devices::reactor::{EventSet, Poller};
use std::fs::File;
use std::io::{self, Read, Write};
use vm_memory::Bytes;

/// The device type.
const ID: u32 = 3;
/// Receive and transmit queue of port 0.
const QUEUES: &[u16] = &[64, 64];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// The only descriptor waited for: the input.
const INPUT: u32 = 0;
/// How much is moved at once.
const PIECE: usize = 4096;

/// What is known of the input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// Waiting for the input to have something.
    Waited,
    /// It has something, or is a file that always has, but the guest gave no buffers for it.
    Blocked,
    /// It has ended, or there is none.
    Ended,
}

/// A console.
pub struct Console {
    input: Option<File>,
    state: Input,
    output: File,
}

impl Console {
    /// A console that reads what the guest gets from `input` and writes what the guest says to `output`.
    pub fn new(input: Option<File>, output: File) -> Self {
        Self { input, state: Input::Ended, output }
    }

    /// Moves input to the guest until one of the two has no more.
    fn receive(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        let Some(input) = &mut self.input else { return Ok(()) };
        let mut blocked = true;
        // One piece a turn: more may block, since the descriptor is not ours to make non-blocking.
        while self.state != Input::Ended {
            io.queues[RECEIVE].suppress_kicks(io.memory)?;
            let Some(chain) = io.pop(RECEIVE)? else {
                if io.queues[RECEIVE].ask_for_kicks(io.memory)? {
                    continue;
                }
                break;
            };
            let mut piece = [0; PIECE];
            let room = (chain.writable_bytes() as usize).min(PIECE);
            match input.read(&mut piece[..room]) {
                Ok(0) if room > 0 => {
                    self.state = Input::Ended;
                    io.undo_pop(RECEIVE, chain);
                }
                Ok(count) => {
                    let written = chain.write_at(0, &piece[..count]);
                    io.push(RECEIVE, chain, written as u32)?;
                }
                Err(error) => {
                    if !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) {
                        self.state = Input::Ended;
                    }
                    io.undo_pop(RECEIVE, chain);
                }
            }
            blocked = false;
            break;
        }
        self.wait(io.poller, blocked);
        io.notify(RECEIVE)
    }

    /// Waits for input, unless there is nowhere to put it.
    fn wait(&mut self, poller: &Poller, blocked: bool) {
        let Some(input) = &self.input else { return };
        match (self.state, blocked) {
            (Input::Ended, _) => {
                let _ = poller.remove(input);
                self.input = None;
            }
            (Input::Waited, true) => {
                let _ = poller.remove(input);
                self.state = Input::Blocked;
            }
            // What cannot be waited for, as a regular file, is read as the guest gives buffers.
            (Input::Blocked, false) if poller.add(input, INPUT, EventSet::IN).is_ok() => {
                self.state = Input::Waited;
            }
            _ => {}
        }
    }
}

impl Device for Console {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        QUEUES
    }

    fn activate(&mut self, _: u64, io: &mut Io<'_>) -> Result<(), Fault> {
        if self.input.is_some() {
            self.state = Input::Blocked;
            self.wait(io.poller, false);
        }
        Ok(())
    }

    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        if queue != TRANSMIT {
            return match self.state {
                Input::Blocked => self.receive(io),
                _ => Ok(()),
            };
        }
        io.serve(TRANSMIT, |chain| {
            for buffer in chain.readable() {
                let mut piece = [0; PIECE];
                for start in (0..buffer.len()).step_by(PIECE) {
                    let length = PIECE.min(buffer.len() - start);
                    let read = buffer.read_slice(&mut piece[..length], start);
                    // A reader that went away must not stop the guest: what cannot be written is lost.
                    let _ = read.is_ok() && self.output.write_all(&piece[..length]).is_ok();
                }
            }
            Ok(0)
        })
    }

    fn ready(&mut self, _: u32, _: EventSet, io: &mut Io<'_>) -> Result<(), Fault> {
        self.receive(io)
    }

    fn reset(&mut self, poller: &Poller) {
        if let (Some(input), Input::Waited) = (&self.input, self.state) {
            let _ = poller.remove(input);
        }
        self.state = Input::Ended;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BUFFERS, Driver};
    use super::*;
    use std::os::fd::OwnedFd;

    fn pipe() -> (File, File) {
        let (reader, writer) = io::pipe().unwrap();
        (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
    }

    #[test]
    fn passes_output_on() {
        let (mut reader, writer) = pipe();
        let mut driver = Driver::start(Box::new(Console::new(None, writer)), u64::MAX);
        driver.put(BUFFERS, b"hello, ");
        driver.put(BUFFERS + 4096, b"world");
        driver.add(TRANSMIT, &[(BUFFERS, 7, false), (BUFFERS + 4096, 5, false)]);
        driver.kick(TRANSMIT as u32);
        assert_eq!(driver.used(TRANSMIT), [(0, 0)]);
        drop(driver);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello, world");
    }

    #[test]
    fn keeps_input_until_there_are_buffers_for_it() {
        let ((reader, mut writer), (_, output)) = (pipe(), pipe());
        let mut driver = Driver::start(Box::new(Console::new(Some(reader), output)), u64::MAX);
        writer.write_all(b"typed").unwrap();
        driver.work();
        driver.work();
        driver.add(RECEIVE, &[(BUFFERS, 3, true)]);
        driver.add(RECEIVE, &[(BUFFERS + 4096, 64, true)]);
        driver.kick(RECEIVE as u32);
        driver.work();
        driver.work();
        assert_eq!(driver.used(RECEIVE), [(0, 3), (1, 2)]);
        assert_eq!(driver.get(BUFFERS, 3), b"typ");
        assert_eq!(driver.get(BUFFERS + 4096, 2), b"ed");
        driver.add(RECEIVE, &[(BUFFERS, 64, true)]);
        driver.kick(RECEIVE as u32);
        assert!(driver.used(RECEIVE).is_empty());
        drop(writer);
        driver.work();
        driver.work();
        assert!(driver.used(RECEIVE).is_empty(), "the end of the input is no input");
    }

    #[test]
    fn outlives_a_reader_that_went_away() {
        let (reader, writer) = pipe();
        drop(reader);
        let mut driver = Driver::start(Box::new(Console::new(None, writer)), u64::MAX);
        driver.add(TRANSMIT, &[(BUFFERS, 7, false)]);
        driver.kick(TRANSMIT as u32);
        assert_eq!(driver.used(TRANSMIT), [(0, 0)]);
    }
}
