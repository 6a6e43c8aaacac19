//! Moving bytes between a file and scattered guest memory: `preadv` and `pwritev`, as often as it takes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::Direction;
use crate::backends::scatter::Cursor;

/// Moves exactly `bytes` between `file` at `offset` and the cursor's next buffers.
pub(super) fn transfer(
    file: &File,
    direction: Direction,
    mut offset: u64,
    cursor: &mut Cursor<'_, '_>,
    mut bytes: u64,
) -> io::Result<()> {
    while bytes > 0 {
        let vectors = cursor.describe(bytes);
        let (list, count) = vectors.as_raw();
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the buffers end before the request does",
            ));
        }
        let at = libc::off64_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let fd = file.as_raw_fd();
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
