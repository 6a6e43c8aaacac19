//! The connection to a debugger: bytes in, answers out, each with one system call where it can be.

use gdbstub::conn::{Connection, ConnectionExt};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// A connected socket. As a file, so that reading and writing are the system calls that every lock allows.
pub struct Wire {
    socket: File,
    incoming: [u8; 4096],
    /// What of `incoming` has come and is not read.
    unread: std::ops::Range<usize>,
    outgoing: Vec<u8>,
}

impl Wire {
    /// Takes a connected socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket: socket.into(), incoming: [0; 4096], unread: 0..0, outgoing: Vec::new() }
    }

    /// The descriptor to wait for.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next byte, if one has come already.
    pub fn next_buffered(&mut self) -> Option<u8> {
        self.unread.next().map(|at| self.incoming[at])
    }

    /// Waits for bytes; the end of the connection is an error.
    pub fn fill(&mut self) -> io::Result<()> {
        let length = loop {
            match self.socket.read(&mut self.incoming) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.unread = 0..length;
        if length == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl Connection for Wire {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.outgoing.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.socket.write_all(&self.outgoing);
        self.outgoing.clear();
        result
    }
}

impl ConnectionExt for Wire {
    fn read(&mut self) -> io::Result<u8> {
        loop {
            if let Some(byte) = self.next_buffered() {
                return Ok(byte);
            }
            self.fill()?;
        }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok((!self.unread.is_empty()).then(|| self.incoming[self.unread.start]))
    }
}
