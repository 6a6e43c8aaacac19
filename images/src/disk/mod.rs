//! Appliance disks: a partitioned disk image that holds container images and what is to be run of them, for machines without
//! a host that would tell PID 1. Where everything is on it says [`layout`].
//!
//! It is written as an ordinary file: no root, no loop device. What is empty on it takes no room in the file, and the bytes
//! are a function of what is put on it.

mod gpt;
pub mod layout;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use sha2::{Digest as _, Sha256};

use crate::digest::{DiffId, Digest};
use crate::erofs::read;
use crate::erofs::tree::Tree;
use crate::progress::Progress;
use crate::source::Segment;
use crate::store::{self, Store};
use crate::verity::{self, Salt, Sealed};
use crate::{ext4, layer};
use gpt::{Partition, SECTOR};
use layout::{ALIGNMENT, SPEC, STATE};

/// Blocks that are looked at for being empty.
const BLOCK: usize = 4096;

/// Blocks read at once.
const BLOCKS_AT_ONCE: usize = 256;

/// Whether what is read-only on a disk carries hash trees for dm-verity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verity {
    /// No.
    Without,
    /// Each image and layer does, behind it in its partition.
    Trees,
}

/// Images that are ready to go on a disk, each with its layers.
#[derive(Debug)]
pub struct Images {
    /// The layers of each image asked for, in that order.
    asked: Vec<Vec<DiffId>>,
    /// What is to be written for them, each once.
    parts: Vec<Part>,
}

/// The partitions of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The one to be mounted.
    pub metadata: Place,
    /// Those of its layers, in the order of its device table.
    pub layers: Vec<Place>,
}

/// A partition with something to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Its hash tree, if it has one, which is in the same partition.
    pub sealed: Option<Sealed>,
}

/// A disk that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its size in bytes: a multiple of 1 MiB.
    pub bytes: u64,
    /// Its partitions.
    pub partitions: usize,
}

/// Why a disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store lacks something of it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An image's metadata cannot be read.
    #[error("an image in the store is damaged: {0}")]
    Image(#[from] read::Error),
    /// A hash tree.
    #[error("an image cannot be sealed: {0}")]
    Verity(#[from] verity::Error),
    /// The state partition's size.
    #[error(transparent)]
    State(#[from] ext4::Error),
    /// The specification partition.
    #[error("the specification does not fit on the disk: {0}")]
    Specification(#[from] layer::Error),
    /// More than Linux looks at.
    #[error("the disk would have {0} partitions, and Linux looks at {most} of them: build images with fewer layers",
        most = gpt::MOST)]
    TooMany(usize),
    /// Reading what goes on it, or writing it.
    #[error("cannot write the disk: {0}")]
    Io(#[from] io::Error),
}

/// A partition before it has its place.
#[derive(Debug)]
struct Part {
    name: String,
    content: File,
    bytes: u64,
    /// Behind the content: its hash tree.
    tree: Option<(Sealed, File)>,
    writable: bool,
}

impl Part {
    fn new(name: String, content: File, writable: bool) -> io::Result<Self> {
        let bytes = content.metadata()?.len();
        Ok(Self { name, content, bytes, tree: None, writable })
    }

    /// The same with a hash tree behind it, whose salt follows from `digest`.
    fn sealed(mut self, store: &Store, digest: Digest) -> Result<Self, Error> {
        let file = store.temporary()?;
        let mut sealed = verity::seal(&self.content, Salt::from(digest), &file, 0)?;
        sealed.offset = self.bytes;
        self.tree = Some((sealed, file));
        Ok(self)
    }

    /// Bytes of everything in it.
    fn length(&self) -> io::Result<u64> {
        let tree = self.tree.as_ref().map(|(_, file)| file.metadata()).transpose()?;
        Ok(self.bytes + tree.map_or(0, |tree| tree.len()))
    }
}

impl Images {
    /// Images that consist of these layers, each lowest first; all of them are in the store.
    pub fn of(store: &Store, images: &[&[DiffId]], verity: Verity) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut add = |name: String, segment: Segment, digest: Digest| -> Result<(), Error> {
            let part = Part::new(name, File::open(segment.path)?, false)?;
            parts.push(match verity {
                Verity::Without => part,
                Verity::Trees => part.sealed(store, digest)?,
            });
            Ok(())
        };
        for layers in layout::each_once(images.iter().copied()) {
            add(layout::image_name(layers), store.joined(layers)?, layout::image_digest(layers))?;
        }
        for layer in layout::each_once(images.iter().copied().flatten().copied()) {
            add(layout::layer_name(&layer), store.layer(&layer)?, layer.0)?;
        }
        Ok(Self { asked: images.iter().map(|layers| layers.to_vec()).collect(), parts })
    }

    /// The partitions of the image with this index; none where there is no such image.
    pub fn root(&self, index: usize) -> Option<Root> {
        let layers = self.asked.get(index)?;
        Some(Root {
            metadata: self.place(layout::image_name(layers)),
            layers: layers.iter().map(|layer| self.place(layout::layer_name(layer))).collect(),
        })
    }

    fn place(&self, name: String) -> Place {
        let part = self.parts.iter().find(|part| part.name == name);
        let sealed = part.and_then(|part| part.tree.as_ref()).map(|(sealed, _)| sealed.clone());
        Place { name, sealed }
    }

    /// Which of these paths are directories in the image with this index. One behind a symbolic link is none: where that
    /// leads is not for the image to say.
    pub fn directories<'a>(&self, index: usize, paths: &'a [String]) -> Result<Vec<&'a str>, Error> {
        let root = self.root(index).filter(|_| !paths.is_empty());
        let part = root.and_then(|root| self.parts.iter().find(|part| part.name == root.metadata.name));
        let Some(part) = part else { return Ok(Vec::new()) };
        let tree = read::load(&part.content)?;
        let is_directory = |path: &str| {
            let mut names = path.split('/').filter(|name| !matches!(*name, "" | "."));
            let found = names.try_fold(Tree::ROOT, |at, name| tree.child(at, name.as_bytes()));
            found.is_some_and(|node| tree.node(node).is_directory())
        };
        Ok(paths.iter().map(String::as_str).filter(|path| is_directory(path)).collect())
    }
}

/// Writes a disk into `out`, a regular file, whatever it held: the files of the specification partition, by name, the
/// images, and a partition of `state_bytes`, rounded up to whole MiB, that is written to.
pub fn write(
    store: &Store,
    specification: &[(&str, &[u8])],
    images: &Images,
    state_bytes: u64,
    out: &File,
    progress: &dyn Progress,
) -> Result<Written, Error> {
    let first = Part::new(SPEC.to_owned(), self::specification(store, specification)?, false)?;
    let state = store.temporary()?;
    ext4::format_kept(&state, state_bytes.next_multiple_of(ALIGNMENT))?;
    let last = Part::new(STATE.to_owned(), state, true)?;
    let parts: Vec<&Part> = std::iter::once(&first).chain(&images.parts).chain([&last]).collect();

    let count = parts.len();
    if count > gpt::MOST {
        return Err(Error::TooMany(count));
    }
    let aligned = ALIGNMENT / SECTOR;
    let mut next = gpt::head(count).next_multiple_of(aligned);
    let mut placed = Vec::with_capacity(count);
    for part in &parts {
        // No partition is empty, whatever is in it.
        let sectors = part.length()?.max(1).next_multiple_of(ALIGNMENT) / SECTOR;
        placed.push((next, sectors));
        next += sectors;
    }
    let sectors = (next + gpt::tail(count)).next_multiple_of(aligned);
    crate::empty(out)?;
    out.set_len(sectors * SECTOR)?;

    progress.begin("disk", Some(parts.iter().map(|part| part.bytes).sum()));
    let written = parts.iter().zip(placed).map(|(part, (first, length))| {
        let content = copy(&part.content, out, first * SECTOR, progress)?;
        if let Some((_, tree)) = &part.tree {
            copy(tree, out, first * SECTOR + part.bytes, progress)?;
        }
        let guid = guid(&["partition", &part.name, &length.to_string(), &content.to_string()]);
        let last = first + length - 1;
        Ok(Partition { name: part.name.clone(), guid, first, last, writable: part.writable })
    });
    let written = written.collect::<io::Result<Vec<_>>>();
    progress.end();
    let partitions = written?;
    let all: Vec<String> = partitions.iter().map(|partition| format!("{:?}", partition.guid)).collect();
    let disk = guid(&[&["disk"], &all.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    gpt::write(out, &disk, &partitions, sectors)?;
    Ok(Written { bytes: sectors * SECTOR, partitions: count })
}

/// Whether the file at `path` is a disk with a GUID partition table.
pub fn is_one(path: &Path) -> bool {
    let mut start = [0; gpt::SIGNATURE.len()];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut start, SECTOR));
    read.is_ok() && start == *gpt::SIGNATURE
}

/// Makes `to`, a regular file that is empty, the same as `from`, holes included.
pub fn duplicate(from: &File, to: &File) -> io::Result<()> {
    to.set_len(from.metadata()?.len())?;
    copy(from, to, 0, &()).map(drop)
}

/// The specification partition: a layer like any other.
fn specification(store: &Store, files: &[(&str, &[u8])]) -> Result<File, Error> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o444);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, *bytes)?;
    }
    let out = store.temporary()?;
    layer::convert(&tar.into_inner()?[..], &out, &store.temporary()?, &layer::Limits::default())?;
    Ok(out)
}

/// Copies what is not zero in `from` to `out` at `place`, where all is zero. Returns a digest of it and of where it is.
fn copy(from: &File, out: &File, place: u64, progress: &dyn Progress) -> io::Result<Digest> {
    let length = from.metadata()?.len();
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BLOCK * BLOCKS_AT_ONCE];
    let mut at = 0;
    while let Some(data) = next_data(from, at)?.filter(|data| *data < length) {
        progress.advance(data - at);
        at = data;
        let wanted = buffer.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
        from.read_exact_at(&mut buffer[..wanted], at)?;
        for (number, block) in buffer[..wanted].chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                let offset = at + (number * BLOCK) as u64;
                hasher.update(offset.to_le_bytes());
                hasher.update(block);
                out.write_all_at(block, place + offset)?;
            }
        }
        at += wanted as u64;
        progress.advance(wanted as u64);
    }
    Ok(Digest::from_sha256(hasher))
}

/// The first block at or after `at`, itself the beginning of one, that is no hole.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data - data % BLOCK as u64)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // A filesystem that knows no holes has none.
        Err(rustix::io::Errno::INVAL) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

/// A GUID that follows from these words (RFC 9562, version 8).
fn guid(words: &[&str]) -> [u8; 16] {
    let text = format!("ferry {}", words.join("\0"));
    let hex = Digest::of(text.as_bytes()).hex();
    let mut guid = [0; 16];
    for (byte, digits) in guid.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
        *byte = digit(digits[0]) << 4 | digit(digits[1]);
    }
    // The version is in the third field, which is little-endian here.
    guid[7] = guid[7] & 0x0f | 0x80;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}
