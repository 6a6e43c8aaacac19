//! Formats ext4 filesystems on the host, in well under a millisecond each: the scratch disk for the writable layer of one
//! run, which is thrown away with the run, and the disk on which an appliance keeps its data.
//!
//! Follows the kernel's `Documentation/filesystems/ext4/`. What is left out is left out because the guest pays for it: no
//! checksums but those of the group descriptors, which let every group but the first and the last stay unwritten
//! ("uninitialised"), and no journal and no backups of the superblock where nothing outlives the VM. A file of 10 GiB then
//! holds less than 50 KiB of data.

mod geometry;
mod structures;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use geometry::{BLOCK, Geometry, Purpose};
pub use geometry::{LARGEST, SMALLEST};

/// Why a disk could not be formatted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The size asked for is outside what can be formatted.
    #[error("a writable disk of {0} bytes cannot be made: choose from 16 MiB to 16 TiB")]
    Size(u64),
    /// The file's host filesystem does not take a file of this size.
    #[error("cannot make a file of {bytes} bytes for the writable disk: {source}")]
    Resize {
        /// Bytes asked for.
        bytes: u64,
        /// What the host said.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write the writable disk: {0}")]
    Write(#[from] io::Error),
}

/// Turns `file`, a regular file, into an empty ext4 filesystem of `bytes` bytes for one run; whatever it held is lost.
///
/// The file becomes sparse and exactly `bytes` long. The result is a function of `bytes` alone, the UUID and
/// the directory hash seed included.
pub fn format(file: &File, bytes: u64) -> Result<(), Error> {
    write(file, bytes, Purpose::Scratch)
}

/// The same for data that are kept: it has a journal, so that it is whole again after the power has gone, and it can be grown
/// while it is mounted (`EXT4_IOC_RESIZE_FS`), to 16 TiB.
pub fn format_kept(file: &File, bytes: u64) -> Result<(), Error> {
    write(file, bytes, Purpose::Kept)
}

fn write(file: &File, bytes: u64, purpose: Purpose) -> Result<(), Error> {
    let geometry = Geometry::of(bytes, purpose).ok_or(Error::Size(bytes))?;
    let resize = |to| file.set_len(to).map_err(|source| Error::Resize { bytes, source });
    resize(0)?;
    resize(bytes)?;

    let put = |block: u32, data: &[u8]| file.write_all_at(data, u64::from(block) * BLOCK as u64);
    put(geometry.block_bitmap(0), &structures::first_block_bitmap(&geometry))?;
    put(geometry.inode_bitmap(0), &structures::first_inode_bitmap(&geometry))?;
    put(geometry.inode_table(0), &structures::first_inodes(&geometry))?;
    put(geometry.root_directory(), &structures::directories(&geometry))?;
    if geometry.journal_blocks > 0 {
        put(geometry.journal(), &structures::journal_superblock(&geometry))?;
    }
    if geometry.groups > 1 {
        let last = geometry.groups - 1;
        put(geometry.block_bitmap(last), &structures::last_block_bitmap(&geometry))?;
    }
    let descriptors = structures::group_descriptors(&geometry);
    for group in geometry.backup_groups() {
        put(geometry.first_block(group), &structures::superblock(&geometry, group))?;
        put(geometry.first_block(group) + 1, &descriptors)?;
    }
    put(1, &descriptors)?;
    file.write_all_at(&structures::superblock(&geometry, 0), 1024)?;
    Ok(())
}

#[cfg(test)]
mod tests;
