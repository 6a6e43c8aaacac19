//! Disks as the block device sees them: a number of bytes that can be read and perhaps written at an offset.
//!
//! [`Raw`] is one file. [`Composite`] is many read-only files joined end to end, as an image's layers are.

mod composite;
pub(crate) mod engine;
mod pool;
mod raw;
mod ring;
mod transfer;

pub use composite::{Composite, Segment};
pub use pool::Worker;
pub use raw::{Access, Raw};

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use thiserror::Error;
use vm_memory::VolatileSlice;

/// Storage behind a block device.
///
/// Offsets and lengths are bytes. The device has already checked that a request lies inside [`Disk::bytes`], but a
/// backend must answer one that does not with an error all the same.
pub trait Disk: Send {
    /// The disk's size in bytes, a multiple of 512.
    fn bytes(&self) -> u64;

    /// Whether every write is refused.
    fn is_read_only(&self) -> bool;

    /// Fills `buffers`, in order, from `offset` on. Reading less than asked for is an error.
    fn read(&mut self, offset: u64, buffers: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Writes `buffers`, in order, from `offset` on. Writing less than asked for is an error.
    fn write(&mut self, offset: u64, buffers: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Makes every completed write durable.
    fn flush(&mut self) -> io::Result<()>;

    /// Tells that the contents of a range no longer matter. Ignoring it is right, only wasteful.
    fn discard(&mut self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Makes a range read as zeroes.
    fn write_zeroes(&mut self, offset: u64, bytes: u64) -> io::Result<()>;

    /// The files that [`Disk::place`] and [`Disk::flushed`] speak of; none where everything is done by the calls above.
    fn files(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Where in the files a range of at least one byte is, if it lies within one of them and may be read, or written.
    fn place(&self, _direction: Direction, _offset: u64, _bytes: u64) -> Option<Place> {
        None
    }

    /// Whether a [`Disk::place`] for writing may be given back to the file system instead, and reads as zeroes then.
    fn can_give_back(&self) -> bool {
        false
    }

    /// The file that a flush has to make durable, where it is one.
    fn flushed(&self) -> Option<u32> {
        None
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}

/// A place in the files of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the file.
    pub file: u32,
    /// The offset in it, in bytes.
    pub offset: u64,
}

/// Why a disk could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file cannot be opened or measured.
    #[error("cannot open the disk {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is shorter than the disk's plan says.
    #[error("{} has {found} bytes where {expected} were expected: it is truncated; remove it, and it is made again", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// The length asked for.
        expected: u64,
    },
    /// The length asked for is not one a disk can have.
    #[error("{}: {bytes} bytes are not a whole number of sectors, or too many", path.display())]
    Unaligned {
        /// The file.
        path: PathBuf,
        /// The length asked for.
        bytes: u64,
    },
}
