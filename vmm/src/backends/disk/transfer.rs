//! Moving bytes between a file and scattered guest memory: `preadv` and `pwritev`, as often as it takes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::VolatileSlice;

/// As many buffers as go into one system call. A longer request takes several; nothing is allocated either way.
const BATCH: usize = 64;

/// Which way the bytes go.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    /// From the file into the buffers.
    Read,
    /// From the buffers into the file.
    Write,
}

/// A position inside a list of buffers.
pub(super) struct Cursor<'a, 'm> {
    buffers: &'a [VolatileSlice<'m>],
    /// Bytes of the first buffer that are done.
    skip: usize,
}

impl<'a, 'm> Cursor<'a, 'm> {
    pub(super) fn new(buffers: &'a [VolatileSlice<'m>]) -> Self {
        Self { buffers, skip: 0 }
    }

    /// All bytes still to come.
    pub(super) fn remaining(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.len() as u64).sum::<u64>() - self.skip as u64
    }

    /// Describes up to `limit` of the next bytes in `vectors` and says how many entries that took.
    fn describe(&self, limit: u64, vectors: &mut [libc::iovec; BATCH]) -> usize {
        let (mut left, mut skip, mut count) = (limit, self.skip, 0);
        for buffer in self.buffers {
            if left == 0 || count == BATCH {
                break;
            }
            let length = left.min((buffer.len() - skip) as u64) as usize;
            if length > 0 {
                let base = buffer.ptr_guard_mut().as_ptr().wrapping_add(skip).cast();
                vectors[count] = libc::iovec { iov_base: base, iov_len: length };
                count += 1;
                left -= length as u64;
            }
            skip = 0;
        }
        count
    }

    fn advance(&mut self, mut bytes: usize) {
        while let Some((first, rest)) = self.buffers.split_first() {
            let left = first.len() - self.skip;
            if bytes < left {
                self.skip += bytes;
                return;
            }
            bytes -= left;
            self.skip = 0;
            self.buffers = rest;
        }
    }
}

/// Moves exactly `bytes` between `file` at `offset` and the cursor's next buffers.
pub(super) fn transfer(
    file: &File,
    direction: Direction,
    mut offset: u64,
    cursor: &mut Cursor<'_, '_>,
    mut bytes: u64,
) -> io::Result<()> {
    while bytes > 0 {
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        let count = cursor.describe(bytes, &mut vectors);
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the buffers end before the request does",
            ));
        }
        let at = libc::off64_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let (fd, list, count) = (file.as_raw_fd(), vectors.as_ptr(), count as libc::c_int);
        // SAFETY: the vectors describe guest memory that the cursor's slices keep mapped; `fd` is open for the call.
        // The guest may change that memory meanwhile, which only changes the bytes moved.
        let done = unsafe {
            match direction {
                Direction::Read => libc::preadv64(fd, list, count, at),
                Direction::Write => libc::pwritev64(fd, list, count, at),
            }
        };
        match done {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file ends before the request does",
                ));
            }
            1.. => {
                cursor.advance(done as usize);
                offset += done as u64;
                bytes -= done as u64;
            }
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
