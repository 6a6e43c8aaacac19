//! dm-verity: the hash tree that lets a kernel check each block of a read-only image as it is read, and the one digest at
//! its root that stands for the whole image.
//!
//! Format 1 of the kernel's `Documentation/admin-guide/device-mapper/verity.rst` with SHA-256 and blocks of 4096 bytes,
//! behind the superblock of cryptsetup's `veritysetup`: for the same salt and UUID the bytes are those that it writes.
//! Nothing is signed here: whoever keeps the root digest decides whom to trust.
//!
//! Hash area of an image, from where it begins: one block of superblock, the level of one block that the root is the
//! digest of, the level below it, and so on down to the level with a digest for each block of the image. An image of
//! one block has no levels: its digest is the root.

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// Bytes in a block, of images as well as of hash areas.
pub const BLOCK: u64 = 4096;

/// Digests in a block of a level.
const PER_BLOCK: u64 = BLOCK / DIGEST as u64;
const DIGEST: usize = 32;

/// What is hashed before every block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salt(Vec<u8>);

impl Salt {
    /// As long as the superblock has room for, in bytes.
    pub const LONGEST: usize = 256;

    /// These bytes, at most [`Salt::LONGEST`] of them; none are possible too.
    pub fn new(bytes: &[u8]) -> Option<Salt> {
        (bytes.len() <= Self::LONGEST).then(|| Salt(bytes.to_vec()))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Digest> for Salt {
    /// The salt of whatever has this digest. Hash trees must follow from their input alone, as images do, so no salt is
    /// drawn: a layer's is its diff-ID, that of the metadata which joins layers is the digest of their list (the name
    /// that the store knows it by). Different images have different salts, which is all that a salt is for.
    fn from(digest: Digest) -> Salt {
        Salt(digest.bytes().to_vec())
    }
}

impl fmt::Display for Salt {
    /// As device-mapper tables have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why an image has no hash tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to hash.
    #[error("an empty image cannot be verified")]
    Empty,
    /// dm-verity knows whole blocks only.
    #[error("an image of {0} bytes cannot be verified: it must be a multiple of 4096")]
    NotWholeBlocks(u64),
    /// A hash area begins at a block.
    #[error("a hash area cannot begin at byte {0}: it must be a multiple of 4096")]
    Unaligned(u64),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An image whose hash area was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What stands for the image: to be kept where it can be trusted.
    pub root: Digest,
    /// The salt, which is in the superblock too.
    pub salt: Salt,
    /// Blocks of the image.
    pub blocks: u64,
    /// Where in its file or device the hash area begins, in bytes.
    pub offset: u64,
}

impl Sealed {
    /// The device-mapper target that checks the image on `data` against the hash area on `hashes`: a table's line behind
    /// `0 SECTORS verity`. Devices are written as the kernel takes them (`8:1`, `/dev/vda1`).
    pub fn target(&self, data: &str, hashes: &str) -> String {
        let Sealed { root, salt, blocks, offset } = self;
        let first = offset / BLOCK + 1;
        format!("1 {data} {hashes} {BLOCK} {BLOCK} {blocks} {first} sha256 {} {salt}", root.hex())
    }

    /// Sectors of 512 bytes that the target spans.
    pub fn sectors(&self) -> u64 {
        self.blocks * (BLOCK / 512)
    }
}

/// Bytes of the hash area of an image of so many `blocks`, its superblock included.
pub fn area(blocks: u64) -> u64 {
    BLOCK * (1 + levels(blocks).iter().sum::<u64>())
}

/// Blocks of each level, the lowest first.
fn levels(blocks: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut below = blocks;
    while below > 1 {
        below = below.div_ceil(PER_BLOCK);
        levels.push(below);
    }
    levels
}

/// Writes the hash area of the image that is all of the file `image` into `out`, to begin at byte `offset`, which is a
/// multiple of 4096. `out` may hold other things before and behind; it may be the image's own file if the area lies
/// behind the image.
///
/// Memory is bounded, however large the image.
pub fn seal(image: &File, salt: Salt, out: &File, offset: u64) -> Result<Sealed, Error> {
    let bytes = image.metadata()?.len();
    seal_first(image, bytes, salt, out, offset)
}

/// The same of the first so many `bytes` of `image`.
pub fn seal_first(image: &File, bytes: u64, salt: Salt, out: &File, offset: u64) -> Result<Sealed, Error> {
    let blocks = bytes / BLOCK;
    if bytes == 0 {
        return Err(Error::Empty);
    }
    if !bytes.is_multiple_of(BLOCK) {
        return Err(Error::NotWholeBlocks(bytes));
    }
    if !offset.is_multiple_of(BLOCK) {
        return Err(Error::Unaligned(offset));
    }
    let salted = Sha256::new().chain_update(salt.bytes());
    // Where the lowest level begins: behind all the others.
    let mut end = offset + area(blocks);
    let (mut from, mut at, mut count) = (image, 0, blocks);
    for size in levels(blocks) {
        end -= size * BLOCK;
        hash(&salted, Blocks { file: from, at, count }, out, end)?;
        (from, at, count) = (out, end, size);
    }
    let mut top = vec![0; BLOCK as usize];
    from.read_exact_at(&mut top, at)?;
    let root = Digest::from_sha256(salted.chain_update(&top));
    out.write_all_at(&superblock(&salt, blocks, uuid(&root)), offset)?;
    Ok(Sealed { root, salt, blocks, offset })
}

/// A row of blocks in a file.
struct Blocks<'a> {
    file: &'a File,
    at: u64,
    count: u64,
}

/// Writes the digests of `blocks`, padded to whole blocks, to byte `to` of `out`.
fn hash(salted: &Sha256, blocks: Blocks, out: &File, mut to: u64) -> io::Result<()> {
    let Blocks { file, mut at, mut count } = blocks;
    let mut read = vec![0; (PER_BLOCK * BLOCK) as usize];
    while count != 0 {
        let some = count.min(PER_BLOCK);
        let read = &mut read[..(some * BLOCK) as usize];
        file.read_exact_at(read, at)?;
        let mut digests = [0; BLOCK as usize];
        for (block, digest) in read.chunks_exact(BLOCK as usize).zip(digests.chunks_exact_mut(DIGEST)) {
            digest.copy_from_slice(&salted.clone().chain_update(block).finalize());
        }
        out.write_all_at(&digests, to)?;
        at += some * BLOCK;
        to += BLOCK;
        count -= some;
    }
    Ok(())
}

/// A UUID that follows from the root: version 8 of RFC 9562, whose bits anyone may choose.
fn uuid(root: &Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&root.bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// The superblock (`struct verity_sb` of cryptsetup), as a whole block.
fn superblock(salt: &Salt, blocks: u64, uuid: [u8; 16]) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"verity\0\0");
    // Version of the superblock, and type of hash: salt first, digests padded to a power of two.
    put(8, &1u32.to_le_bytes());
    put(12, &1u32.to_le_bytes());
    put(16, &uuid);
    put(32, b"sha256");
    put(64, &(BLOCK as u32).to_le_bytes());
    put(68, &(BLOCK as u32).to_le_bytes());
    put(72, &blocks.to_le_bytes());
    // No longer than [`Salt::LONGEST`].
    put(80, &(salt.bytes().len() as u16).to_le_bytes());
    put(88, salt.bytes());
    block
}
