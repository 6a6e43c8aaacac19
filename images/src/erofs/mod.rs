//! EROFS images: a file tree, the writer of it and the reader of what the writer wrote.
//!
//! Follows the kernel's `fs/erofs/erofs_fs.h` (Linux 6.12) and `Documentation/filesystems/erofs.rst`. Only
//! what layers need is here: 4 KiB blocks, no compression, file data in whole blocks (so that a second image
//! can point at it), directories and symlinks with inline tails, chunk maps for files with holes.

pub mod format;
pub mod read;
pub mod space;
pub mod tree;
pub mod write;

mod directory;
mod output;
mod window;
mod xattrs;

pub(crate) use read::LARGEST_XATTRS;

/// Whether an inode can have all these attributes.
pub(crate) fn xattrs_fit(set: &[tree::Xattr]) -> bool {
    xattrs::body_size(set) <= xattrs::LARGEST_BODY
}

#[cfg(test)]
mod tests;
