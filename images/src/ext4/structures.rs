//! The on-disk structures, as bytes.

use super::geometry::{BLOCK, BLOCKS_PER_GROUP, Backups, DESCRIPTOR, Geometry, INODE};

/// Identifies the filesystem, and seeds the descriptor checksums. The same for every disk: nothing looks one up by UUID,
/// and the same size must give the same bytes.
const UUID: [u8; 16] = *b"ferry scratch fs";
/// Seed of the directory hashes.
const HASH_SEED: [u8; 16] = *b"ferry hash seed.";

const ROOT_INODE: u32 = 2;
const JOURNAL_INODE: u32 = 8;
/// Inodes 1 to 10 are the filesystem's own; the sub-directories follow.
const FIRST_INODE: u32 = 11;

// Features: what the guest may use (compat, incompat) and must respect when writing (ro_compat).
const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_EXT_ATTR: u32 = 0x8;
const COMPAT_DIR_INDEX: u32 = 0x20;
/// Superblock backups only in the groups that the superblock names: none.
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const INCOMPAT_FILETYPE: u32 = 0x2;
const INCOMPAT_EXTENTS: u32 = 0x40;
/// With flexible groups of one group each, which is the layout without them, the allocator reads ahead one group's bitmap
/// at a time. Without the feature it makes 32 of them up for the first block it hands out: a million instructions.
const INCOMPAT_FLEX_BG: u32 = 0x200;
/// Superblock backups in group 1 and in those whose number is a power of 3, 5 or 7.
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_LARGE_FILE: u32 = 0x2;
const RO_COMPAT_HUGE_FILE: u32 = 0x8;
const RO_COMPAT_GDT_CSUM: u32 = 0x10;
const RO_COMPAT_DIR_NLINK: u32 = 0x20;
const RO_COMPAT_EXTRA_ISIZE: u32 = 0x40;

// Flags of a group descriptor. INODE_ZEROED is true of a hole, and spares the guest the zeroing.
const INODE_UNINIT: u16 = 0x1;
const BLOCK_UNINIT: u16 = 0x2;
const INODE_ZEROED: u16 = 0x4;

/// The journal's superblock, version 2 (jbd2's `JBD2_MAGIC_NUMBER` and `JBD2_SUPERBLOCK_V2`); its numbers are big-endian.
const JOURNAL_MAGIC: u32 = 0xc03b_3998;
const JOURNAL_SUPERBLOCK: u32 = 4;

const EXTENTS_FLAG: u32 = 0x80000;
const EXTENT_MAGIC: u16 = 0xf30a;
/// Bytes of an inode beyond the original 128 that have a meaning.
const EXTRA_INODE: u16 = 32;
const DIRECTORY_TYPE: u8 = 2;

fn put16(to: &mut [u8], at: usize, value: u16) {
    to[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn put32(to: &mut [u8], at: usize, value: u32) {
    to[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Inodes in use.
fn used_inodes(geometry: &Geometry) -> u32 {
    FIRST_INODE - 1 + geometry.subdirectories.len() as u32
}

/// The 1024 bytes at byte 1024, or those at the beginning of the group that has a copy of them.
pub(super) fn superblock(geometry: &Geometry, group: u32) -> Vec<u8> {
    let mut sb = vec![0; 1024];
    let inodes = geometry.groups * geometry.inodes_per_group;
    put32(&mut sb, 0x00, inodes);
    put32(&mut sb, 0x04, geometry.blocks);
    // 0x08: blocks reserved for root: none, since everything in the guest may be root.
    put32(&mut sb, 0x0c, geometry.free_blocks());
    put32(&mut sb, 0x10, inodes - used_inodes(geometry));
    // 0x14: first data block: 0.
    put32(&mut sb, 0x18, 2); // log2 of the block size, less 10
    put32(&mut sb, 0x1c, 2); // the same for clusters
    put32(&mut sb, 0x20, BLOCKS_PER_GROUP);
    put32(&mut sb, 0x24, BLOCKS_PER_GROUP);
    put32(&mut sb, 0x28, geometry.inodes_per_group);
    put16(&mut sb, 0x36, u16::MAX); // mounts before a check: no limit
    put16(&mut sb, 0x38, 0xef53);
    put16(&mut sb, 0x3a, 1); // cleanly unmounted
    put16(&mut sb, 0x3c, 1); // on errors: continue
    put32(&mut sb, 0x4c, 1); // dynamic revision
    put32(&mut sb, 0x54, FIRST_INODE); // first inode for users
    put16(&mut sb, 0x58, INODE as u16);
    put16(&mut sb, 0x5a, group as u16);
    let has_journal = if geometry.journal_blocks > 0 { COMPAT_HAS_JOURNAL } else { 0 };
    let (compat_backups, ro_compat_backups) = match geometry.backups {
        Backups::None => (COMPAT_SPARSE_SUPER2, 0),
        Backups::Sparse => (0, RO_COMPAT_SPARSE_SUPER),
    };
    put32(&mut sb, 0x5c, has_journal | COMPAT_EXT_ATTR | COMPAT_DIR_INDEX | compat_backups);
    put32(&mut sb, 0x60, INCOMPAT_FILETYPE | INCOMPAT_EXTENTS | INCOMPAT_FLEX_BG);
    let ro_compat = ro_compat_backups
        | RO_COMPAT_LARGE_FILE
        | RO_COMPAT_HUGE_FILE
        | RO_COMPAT_GDT_CSUM
        | RO_COMPAT_DIR_NLINK
        | RO_COMPAT_EXTRA_ISIZE;
    put32(&mut sb, 0x64, ro_compat);
    sb[0x68..0x78].copy_from_slice(&UUID);
    let label: &[u8] = if geometry.journal_blocks > 0 { b"state" } else { b"scratch" };
    sb[0x78..0x78 + label.len()].copy_from_slice(label);
    if geometry.journal_blocks > 0 {
        put32(&mut sb, 0xe0, JOURNAL_INODE);
        // A copy of its block map and size, for repairs.
        let inode = journal_inode(geometry);
        sb[0xfd] = 1;
        sb[0x10c..0x148].copy_from_slice(&inode[0x28..0x64]);
        sb[0x14c..0x150].copy_from_slice(&inode[0x04..0x08]);
    }
    sb[0xec..0xfc].copy_from_slice(&HASH_SEED);
    sb[0xfc] = 1; // directory hash: half MD4
    put16(&mut sb, 0xfe, DESCRIPTOR as u16);
    put32(&mut sb, 0x100, 0x4 | 0x8); // default mount options: user xattrs, ACLs
    put16(&mut sb, 0x15c, EXTRA_INODE);
    put16(&mut sb, 0x15e, EXTRA_INODE);
    put32(&mut sb, 0x160, 1); // directory hashes of signed characters, as on x86
    put32(&mut sb, 0x248, geometry.overhead_blocks());
    // 0x24c: where `sparse_super2` has superblock backups: 0 and 0, that is nowhere.
    sb
}

/// All group descriptors, padded to whole blocks.
pub(super) fn group_descriptors(geometry: &Geometry) -> Vec<u8> {
    let mut table = vec![0; geometry.descriptor_blocks() as usize * BLOCK];
    for (group, descriptor) in (0..geometry.groups).zip(table.chunks_exact_mut(DESCRIPTOR)) {
        put32(descriptor, 0x00, geometry.block_bitmap(group));
        put32(descriptor, 0x04, geometry.inode_bitmap(group));
        put32(descriptor, 0x08, geometry.inode_table(group));
        let used_inodes = if group == 0 { used_inodes(geometry) } else { 0 };
        let free_inodes = (geometry.inodes_per_group - used_inodes) as u16;
        put16(descriptor, 0x0c, (geometry.blocks_in(group) - geometry.used_blocks_in(group)) as u16);
        put16(descriptor, 0x0e, free_inodes);
        put16(descriptor, 0x10, if group == 0 { geometry.directories() as u16 } else { 0 });
        // The first group is in use; e2fsck wants the last one's block bitmap written, since it may be short.
        let flags = match group {
            0 => INODE_ZEROED,
            _ if group == geometry.groups - 1 => INODE_ZEROED | INODE_UNINIT,
            _ => INODE_ZEROED | INODE_UNINIT | BLOCK_UNINIT,
        };
        put16(descriptor, 0x12, flags);
        put16(descriptor, 0x1c, free_inodes); // inodes at the table's end that were never used
        let mut checksum = crc16(0xffff, &UUID);
        checksum = crc16(checksum, &group.to_le_bytes());
        checksum = crc16(checksum, &descriptor[..0x1e]);
        put16(descriptor, 0x1e, checksum);
    }
    table
}

/// CRC-16 (polynomial 0x8005, reflected), continued from `crc`.
fn crc16(crc: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(crc, |crc, byte| {
        let mut crc = crc ^ u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0xa001 };
        }
        crc
    })
}

/// A bitmap block whose first `used` bits are set, and those from `end` on, which stand for nothing.
fn bitmap(used: u32, end: u32) -> Vec<u8> {
    let mut bits = vec![0; BLOCK];
    for bit in (0..used).chain(end..BLOCKS_PER_GROUP) {
        bits[bit as usize / 8] |= 1 << (bit % 8);
    }
    bits
}

pub(super) fn first_block_bitmap(geometry: &Geometry) -> Vec<u8> {
    bitmap(geometry.used_blocks_in(0), geometry.blocks_in(0))
}

pub(super) fn last_block_bitmap(geometry: &Geometry) -> Vec<u8> {
    let last = geometry.groups - 1;
    bitmap(geometry.used_blocks_in(last), geometry.blocks_in(last))
}

pub(super) fn first_inode_bitmap(geometry: &Geometry) -> Vec<u8> {
    bitmap(used_inodes(geometry), geometry.inodes_per_group)
}

/// The first block of the first inode table: the root directory, the journal and the sub-directories.
pub(super) fn first_inodes(geometry: &Geometry) -> Vec<u8> {
    let mut table = vec![0; BLOCK];
    let mut put = |number: u32, inode: Vec<u8>| {
        let at = (number as usize - 1) * INODE;
        table[at..at + INODE].copy_from_slice(&inode);
    };
    if geometry.journal_blocks > 0 {
        put(JOURNAL_INODE, journal_inode(geometry));
    }
    let modes = [0o755].into_iter().chain(geometry.subdirectories.iter().map(|directory| directory.mode));
    for (number, mode) in (0..).zip(modes) {
        // The name and its own `.` (for the root its own `..`), and the `..` of each that is in it.
        let links = 2 + children(geometry, number).count() as u16;
        put(directory_number(number), directory_inode(mode, links, geometry.directory(number)));
    }
    table
}

/// The inode of a directory: 0 is the root.
fn directory_number(number: u32) -> u32 {
    if number == 0 { ROOT_INODE } else { FIRST_INODE + number - 1 }
}

/// The directories in one, by inode and name.
fn children(geometry: &Geometry, parent: u32) -> impl Iterator<Item = (u32, &'static str)> {
    let all = (FIRST_INODE..).zip(geometry.subdirectories);
    all.filter(move |(_, directory)| directory.parent == parent)
        .map(|(inode, directory)| (inode, directory.name))
}

fn directory_inode(mode: u16, links: u16, block: u32) -> Vec<u8> {
    inode(0o040000 | mode, links, block, 1)
}

fn journal_inode(geometry: &Geometry) -> Vec<u8> {
    inode(0o100600, 1, geometry.journal(), geometry.journal_blocks as u16)
}

/// An inode of `length` consecutive blocks, at most 32768.
fn inode(mode: u16, links: u16, block: u32, length: u16) -> Vec<u8> {
    let mut inode = vec![0; INODE];
    put16(&mut inode, 0x00, mode);
    put32(&mut inode, 0x04, u32::from(length) * BLOCK as u32);
    put16(&mut inode, 0x1a, links);
    put32(&mut inode, 0x1c, u32::from(length) * BLOCK as u32 / 512);
    put32(&mut inode, 0x20, EXTENTS_FLAG);
    // The extent tree's root: a header and one extent at logical block 0.
    put16(&mut inode, 0x28, EXTENT_MAGIC);
    put16(&mut inode, 0x2a, 1); // entries
    put16(&mut inode, 0x2c, 4); // room for
    put16(&mut inode, 0x38, length); // the 0s before are depth, generation, logical block
    put32(&mut inode, 0x3c, block);
    put16(&mut inode, 0x80, EXTRA_INODE);
    inode
}

/// The first block of an empty journal. What follows it may hold anything.
pub(super) fn journal_superblock(geometry: &Geometry) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, value: u32| block[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(0x00, JOURNAL_MAGIC);
    put(0x04, JOURNAL_SUPERBLOCK);
    put(0x0c, BLOCK as u32);
    put(0x10, geometry.journal_blocks);
    put(0x14, 1); // the first block of the log
    put(0x18, 1); // the first transaction's number
    // 0x1c: where the log starts: 0, it is empty.
    put(0x40, 1); // file systems that use it
    block[0x30..0x40].copy_from_slice(&UUID);
    block
}

/// The blocks of all directories, in the order they are on the disk.
pub(super) fn directories(geometry: &Geometry) -> Vec<u8> {
    let parents = [0].into_iter().chain(geometry.subdirectories.iter().map(|directory| directory.parent));
    let block = |(number, parent)| {
        let mut entries = vec![(directory_number(number), "."), (directory_number(parent), "..")];
        entries.extend(children(geometry, number));
        directory(&entries)
    };
    (0..).zip(parents).flat_map(block).collect()
}

/// One directory block that holds sub-directories; the last record reaches to the block's end.
fn directory(entries: &[(u32, &str)]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    for (index, (inode, name)) in entries.iter().enumerate() {
        let length =
            if index + 1 == entries.len() { BLOCK - at } else { (8 + name.len()).next_multiple_of(4) };
        put32(&mut block, at, *inode);
        put16(&mut block, at + 4, length as u16);
        block[at + 6] = name.len() as u8;
        block[at + 7] = DIRECTORY_TYPE;
        block[at + 8..at + 8 + name.len()].copy_from_slice(name.as_bytes());
        at += length;
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc16_is_the_kernel_s() {
        // CRC-16/ARC's check value starts from 0.
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }
}
