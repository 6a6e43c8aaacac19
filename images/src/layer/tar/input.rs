//! The archive's bytes, counted.

use std::io::{self, BufRead};

use super::header::BLOCK;
use crate::layer::Error;

pub(super) struct Input<R> {
    reader: R,
    /// Bytes consumed so far.
    offset: u64,
    limit: u64,
}

impl<R: BufRead> Input<R> {
    pub fn new(reader: R, limit: u64) -> Input<R> {
        Input { reader, offset: 0, limit }
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

    /// What can be had at once: nothing where the archive ends, and nowhere else.
    fn available(&mut self) -> Result<&[u8], Error> {
        // Asked twice, since the borrow checker does not see that an error ends the loop; a buffer that is filled is not
        // filled again.
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
        let bytes = self.reader.fill_buf().map_err(Error::Read)?;
        if bytes.len() as u64 > self.limit.saturating_sub(self.offset) {
            return Err(Error::Limit { what: "bytes", limit: self.limit });
        }
        Ok(bytes)
    }

    /// At least one byte.
    pub fn fill(&mut self) -> Result<&[u8], Error> {
        if self.available()?.is_empty() {
            return Err(self.truncated());
        }
        self.available()
    }

    pub fn consume(&mut self, length: usize) {
        self.reader.consume(length);
        self.offset += length as u64;
    }

    /// The next block of the archive; nothing where it ends.
    pub fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = self.available()?;
            if bytes.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(self.truncated()) };
            }
            let step = bytes.len().min(BLOCK - filled);
            block[filled..filled + step].copy_from_slice(&bytes[..step]);
            self.consume(step);
            filled += step;
        }
        Ok(Some(block))
    }

    pub fn skip(&mut self, mut length: u64) -> Result<(), Error> {
        while length != 0 {
            let available = self.fill()?.len();
            let step = length.min(available as u64);
            self.consume(step as usize);
            length -= step;
        }
        Ok(())
    }

    /// Reads to the stream's end: whoever checks a digest around it wants to see all of it.
    pub fn drain(&mut self) -> Result<(), Error> {
        loop {
            match self.available()?.len() {
                0 => return Ok(()),
                length => self.consume(length),
            }
        }
    }
}
