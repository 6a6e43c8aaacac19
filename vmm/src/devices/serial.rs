//! The serial port: where a guest kernel writes when nothing better works yet, or any more.
//!
//! The registers are `vm-superio`'s 16550. What the guest writes goes to an [`Output`], and the last part of it is kept
//! for error messages.

use super::bus::Registers;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// How much of the output is kept.
const TAIL: usize = 16 << 10;

/// Where a stream of guest output goes. The machine keeps its last part besides, for error messages.
#[derive(Debug)]
pub enum Output {
    /// Nowhere.
    Discard,
    /// This process's standard error.
    Stderr,
    /// A file or pipe.
    File(File),
}

/// The last part of what the guest wrote, shared with whoever explains the guest's end.
#[derive(Clone, Debug, Default)]
pub struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// The text, what is not UTF-8 or not printable replaced.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let printable = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
        String::from_utf8_lossy(&bytes).replace("\r\n", "\n").chars().map(printable).collect()
    }

    /// Adds to it.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = &bytes[bytes.len().saturating_sub(TAIL)..];
        let excess = (tail.len() + bytes.len()).saturating_sub(TAIL);
        tail.drain(..excess);
        tail.extend(bytes);
    }
}

/// The transmitter: passes on whole lines, since the bytes arrive one by one.
struct Transmitter {
    output: Output,
    tail: Tail,
    line: Vec<u8>,
}

impl Transmitter {
    fn pass_on(&mut self) {
        // A reader that went away must not stop the guest: what cannot be written is lost.
        let _ = match &mut self.output {
            Output::Discard => Ok(()),
            Output::Stderr => io::stderr().write_all(&self.line),
            Output::File(file) => file.write_all(&self.line),
        };
        self.line.clear();
    }
}

impl Write for Transmitter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tail.push(bytes);
        self.line.extend(bytes);
        if self.line.ends_with(b"\n") || self.line.len() >= 256 {
            self.pass_on();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Transmitter {
    fn drop(&mut self) {
        self.pass_on();
    }
}

struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// A 16550 with only a transmitter.
pub struct SerialPort(Mutex<Serial<Line, vm_superio::serial::NoEvents, Transmitter>>);

impl SerialPort {
    /// A port that raises `interrupt`, writes to `output` and remembers in `tail`.
    pub fn new(interrupt: EventFd, output: Output, tail: Tail) -> Self {
        let transmitter = Transmitter { output, tail, line: Vec::new() };
        Self(Mutex::new(Serial::new(Line(interrupt), transmitter)))
    }
}

impl Registers for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let [byte] = data {
            *byte = self.0.lock().unwrap_or_else(PoisonError::into_inner).read(offset as u8);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let [byte] = data {
            // The only error is an interrupt that could not be raised, which the guest's own timeout covers.
            let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write(offset as u8, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn passes_output_on_and_keeps_the_last_of_it() {
        let mut file = tempfile::tempfile().unwrap();
        let tail = Tail::default();
        let port =
            SerialPort::new(EventFd::new(0).unwrap(), Output::File(file.try_clone().unwrap()), tail.clone());
        for _ in 0..2000 {
            for byte in b"hello, line\r\n" {
                port.write(0, &[*byte]);
            }
        }
        for byte in b"\x1b[31mlast" {
            port.write(0, &[*byte]);
        }
        drop(port);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.len(), 2000 * 13 + 9);
        assert!(text.ends_with("line\r\n\x1b[31mlast"));
        assert!(tail.text().ends_with("hello, line\n\u{fffd}[31mlast"));
        assert!(tail.text().len() <= TAIL);
    }

    #[test]
    fn is_always_ready_to_transmit() {
        let port = SerialPort::new(EventFd::new(0).unwrap(), Output::Discard, Tail::default());
        let mut status = [0xff];
        port.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
        // Accesses of other widths, and registers read as data, are harmless.
        port.write(0, &[1, 2, 3, 4]);
        port.read(0, &mut [0; 8]);
    }
}
