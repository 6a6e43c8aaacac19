//! Layers: a tar stream in, an EROFS image out, in one pass over the input.
//!
//! File data goes straight to whole blocks of the image while the names, attributes and places are kept in
//! memory, or on disk where there are too many of them; the metadata follows the data when the stream has
//! ended. The image holds nothing but what the archive holds, so it is a function of its bytes.
//!
//! What a layer says of the layers below it is stored the way overlayfs would have it, and taken out again
//! when layers are joined: see [`marks`].
//!
//! How entries are applied (OCI image specification, "Layer"; where it is silent, as containerd and umoci do):
//! - Names are taken relative to the root whether absolute or not; `..` in a name is refused.
//! - A later entry of a name replaces an earlier one, with all below it; a directory's entry for a directory
//!   changes only its attributes. Directories without an entry belong to root, 0755, from 1970, unless a lower
//!   layer has them.
//! - A symbolic link on the way to an entry is followed, inside the root.
//! - A hard link to a name that the layer does not have refers to the layers below.
//! - A whiteout hides what lower layers have, never what its own layer has, in whatever order they come. A
//!   character device 0:0 is a whiteout, as it is for overlayfs.
//! - Attributes outside the namespaces that Linux filesystems store are left out, as are overlayfs's own
//!   (`trusted.overlay.*`), which no container sees, and `user.*` where Linux forbids it (links, devices).

mod apply;
mod blocks;
pub(crate) mod marks;
mod packed;
mod tar;
pub(crate) mod way;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead};

use crate::erofs::space::Space;
use crate::erofs::{format, write};

pub use packed::{Unpacked, convert_packed, discard};

/// How much a layer may hold. What is beyond is an error, before memory or disk is spent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub archive: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of one file, its holes included.
    pub file: u64,
    /// Bytes of names and of links' targets.
    pub names: u64,
    /// Bytes of memory for what few files have: extended attributes, links to lower layers, maps of holes.
    pub memory: u64,
}

impl Default for Limits {
    /// 256 GiB of archive, 16 Mi entries, files of 16 TiB, 2 GiB of names, 256 MiB of memory.
    fn default() -> Limits {
        Limits { archive: 256 << 30, entries: 16 << 20, file: 16 << 40, names: 2 << 30, memory: 256 << 20 }
    }
}

/// A layer that was converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Size of the image: a multiple of 4096.
    pub bytes: u64,
    /// Inodes in the image, whiteouts included.
    pub inodes: u64,
}

/// Why a layer was not converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream failed: what its reader says.
    #[error(transparent)]
    Read(io::Error),
    /// The image could not be written.
    #[error("cannot write the layer: {0}")]
    Write(io::Error),
    /// The stream is not a tar archive that can be trusted.
    #[error("the layer is not a proper tar archive: {what} (at byte {offset})")]
    Archive {
        /// What is wrong.
        what: &'static str,
        /// Where, in the uncompressed stream.
        offset: u64,
    },
    /// An entry cannot be applied.
    #[error("the layer's entry {path}: {what}")]
    Entry {
        /// Its name, made printable.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The layer is larger than allowed.
    #[error("the layer has more than {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// The image would be larger than the format allows.
    #[error("the layer is larger than EROFS allows (16 TiB)")]
    TooLarge,
}

impl Error {
    /// `what` is wrong with the entry `path`.
    fn entry(path: &[u8], what: &'static str) -> Error {
        Error::Entry { path: path.escape_ascii().to_string(), what }
    }
}

impl From<write::Error> for Error {
    fn from(error: write::Error) -> Error {
        match error {
            write::Error::TooLarge => Error::TooLarge,
            write::Error::Io(error) => Error::Write(error),
        }
    }
}

/// Converts the uncompressed archive `tar` into a layer image in `out`, a regular file, whatever it held. What is too much
/// for memory meanwhile is in `scratch`, a file that nobody else uses and whose content is worth nothing.
///
/// The stream is read to its very end, so that a reader around it can check a digest; an error of the reader
/// comes back as [`Error::Read`]. After an error `out` holds nothing of use.
pub fn convert(tar: impl BufRead, out: &File, scratch: &File, limits: &Limits) -> Result<Layer, Error> {
    crate::empty(out).map_err(Error::Write)?;
    let mut archive = tar::Archive::new(tar, limits.archive);
    // The superblock's block is written last.
    let space = Space::in_file(scratch).map_err(Error::Write)?;
    let mut blocks = blocks::Blocks::new(out, &space, 1).map_err(Error::Write)?;
    let mut layer = apply::Layer::new(&space, limits)?;
    while let Some(entry) = archive.next()? {
        let Some(place) = layer.place(&entry, archive.offset())? else { continue };
        let data = match entry.kind {
            tar::Kind::File => Some(blocks.store(&mut archive, &entry, limits)?),
            _ => None,
        };
        layer.apply(place, entry, data)?;
    }
    let metadata_block = blocks.finish()?;
    let mut tree = layer.finish();
    let plan = write::Plan::new(&mut tree, metadata_block)?;
    let bytes = u64::from(plan.blocks()) * format::BLOCK as u64;
    plan.write(out, &[])?;
    let inodes = plan.inodes();
    // Cuts off what was written and turned out to be there already.
    out.set_len(bytes).map_err(Error::Write)?;
    Ok(Layer { bytes, inodes })
}
