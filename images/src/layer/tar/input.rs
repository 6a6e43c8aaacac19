//! The archive's bytes, through a buffer.

use std::io::{self, Read};

use super::header::BLOCK;
use crate::layer::Error;

/// Large enough that reading is done in few calls, small enough to stay in a cache.
const CAPACITY: usize = 256 << 10;

pub(super) struct Input<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes consumed so far.
    offset: u64,
    /// Bytes that may still be read.
    room: u64,
    limit: u64,
}

impl<R: Read> Input<R> {
    pub fn new(reader: R, limit: u64) -> Input<R> {
        let buffer = vec![0; CAPACITY].into_boxed_slice();
        Input { reader, buffer, start: 0, end: 0, offset: 0, room: limit, limit }
    }

    /// Where in the archive this is, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The archive is broken here.
    pub fn broken(&self, what: &'static str) -> Error {
        Error::Archive { what, offset: self.offset }
    }

    /// The archive ends too soon.
    pub fn truncated(&self) -> Error {
        self.broken("it ends in the middle of an entry")
    }

    /// Refuses at once what is announced to be more than may be read at all.
    pub fn announced(&self, length: u64) -> Result<(), Error> {
        match length > self.limit.saturating_sub(self.offset) {
            true => Err(Error::Limit { what: "bytes", limit: self.limit }),
            false => Ok(()),
        }
    }

    /// At least `wanted` bytes (at most a block of them).
    pub fn fill(&mut self, wanted: usize) -> Result<&[u8], Error> {
        if !self.have(wanted)? {
            return Err(self.truncated());
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Reads until there are `wanted` bytes in the buffer, or until the end: then the answer is no.
    fn have(&mut self, wanted: usize) -> Result<bool, Error> {
        while self.end - self.start < wanted {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            } else if self.start + wanted > self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            let read = match self.reader.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(Error::Read)?,
            };
            if read == 0 {
                return Ok(false);
            }
            let room = self.room.checked_sub(read as u64);
            self.room = room.ok_or(Error::Limit { what: "bytes", limit: self.limit })?;
            self.end += read;
        }
        Ok(true)
    }

    pub fn consume(&mut self, length: usize) {
        self.start += length;
        self.offset += length as u64;
        debug_assert!(self.start <= self.end);
    }

    /// The next block of the archive; nothing where it ends.
    pub fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        if !self.have(BLOCK)? {
            return if self.start == self.end { Ok(None) } else { Err(self.truncated()) };
        }
        let mut block = [0; BLOCK];
        block.copy_from_slice(&self.buffer[self.start..self.start + BLOCK]);
        self.consume(BLOCK);
        Ok(Some(block))
    }

    pub fn skip(&mut self, mut length: u64) -> Result<(), Error> {
        while length != 0 {
            let available = self.fill(1)?.len();
            let step = length.min(available as u64);
            self.consume(step as usize);
            length -= step;
        }
        Ok(())
    }

    /// Reads to the stream's end: whoever checks a digest around it wants to see all of it.
    pub fn drain(&mut self) -> Result<(), Error> {
        loop {
            self.consume(self.end - self.start);
            if !self.have(1)? {
                return Ok(());
            }
        }
    }
}
