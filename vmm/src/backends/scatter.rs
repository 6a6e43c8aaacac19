//! Scattered guest memory as the vectored system calls take it.

use vm_memory::VolatileSlice;

/// As many buffers as go into one system call. More take several; nothing is allocated either way.
pub(crate) const BATCH: usize = 64;
const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// The arguments of one system call.
pub(crate) struct Vectors {
    list: [libc::iovec; BATCH],
    count: usize,
}

impl Vectors {
    /// The list and its length. The pointers in it are good as long as the slices they were made from.
    pub(crate) fn as_raw(&self) -> (*const libc::iovec, libc::c_int) {
        (self.list.as_ptr(), self.count as libc::c_int)
    }
}

/// A position inside a list of buffers.
pub(crate) struct Cursor<'a, 'm> {
    buffers: &'a [VolatileSlice<'m>],
    /// Bytes of the first buffer that are done.
    skip: usize,
}

impl<'a, 'm> Cursor<'a, 'm> {
    pub(crate) fn new(buffers: &'a [VolatileSlice<'m>]) -> Self {
        Self { buffers, skip: 0 }
    }

    /// All bytes still to come.
    pub(crate) fn remaining(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.len() as u64).sum::<u64>() - self.skip as u64
    }

    /// Describes up to `limit` of the next bytes, as many as go into one system call.
    pub(crate) fn describe(&self, limit: u64) -> Vectors {
        let mut vectors = Vectors { list: [EMPTY; BATCH], count: 0 };
        let (mut left, mut skip) = (limit, self.skip);
        for buffer in self.buffers {
            if left == 0 || vectors.count == BATCH {
                break;
            }
            let length = left.min((buffer.len() - skip) as u64) as usize;
            if length > 0 {
                let base = buffer.ptr_guard_mut().as_ptr().wrapping_add(skip).cast();
                vectors.list[vectors.count] = libc::iovec { iov_base: base, iov_len: length };
                vectors.count += 1;
                left -= length as u64;
            }
            skip = 0;
        }
        vectors
    }

    /// Goes on by `bytes`, which are at most what remains.
    pub(crate) fn advance(&mut self, mut bytes: usize) {
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

    /// Calls `each` with everything that remains, piece by piece.
    pub(crate) fn for_each_rest(&self, mut each: impl FnMut(VolatileSlice<'m>)) {
        let mut skip = self.skip;
        for buffer in self.buffers {
            if let Ok(rest) = buffer.offset(skip) {
                each(rest);
            }
            skip = 0;
        }
    }
}
