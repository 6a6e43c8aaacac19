//! Where the writer's bytes go: a file, in pieces that are worth a system call each.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::format::BLOCK;

/// Buffered writing at a place of a file.
pub(super) struct Output<'a> {
    out: &'a File,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Output<'a> {
    const CAPACITY: usize = 1 << 20;

    /// Writing that begins at byte `start`.
    pub(super) fn at(out: &'a File, start: u64) -> Output<'a> {
        Output { out, start, buffer: Vec::with_capacity(Self::CAPACITY) }
    }

    /// The byte that comes next.
    pub(super) fn offset(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// Bytes, there.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > Self::CAPACITY {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Bytes at a place of their own: further on, with zeros up to there, or in a gap that was left.
    pub(super) fn put_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset >= self.offset() {
            self.zeros_to(offset)?;
            return self.put(bytes);
        }
        match offset.checked_sub(self.start) {
            Some(at) => self.buffer[at as usize..][..bytes.len()].copy_from_slice(bytes),
            None => self.out.write_all_at(bytes, offset)?,
        }
        Ok(())
    }

    /// Zeros up to `offset`, which is not behind: less than a block of them.
    pub(super) fn zeros_to(&mut self, offset: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let mut left = offset.saturating_sub(self.offset());
        while left != 0 {
            let piece = left.min(BLOCK as u64);
            self.put(&ZEROS[..piece as usize])?;
            left -= piece;
        }
        Ok(())
    }

    /// All of it reaches the file.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.write_all_at(&self.buffer, self.start)?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
