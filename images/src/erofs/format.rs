//! Numbers and layouts of the on-disk format. Everything is little-endian.

/// Bytes in a block, and its binary logarithm.
pub const BLOCK: usize = 4096;
pub(super) const BLOCK_BITS: u8 = 12;

/// Where the superblock is, in bytes; how long it is; how it begins.
pub(super) const SUPER_OFFSET: usize = 1024;
pub(super) const SUPER_SIZE: usize = 128;
pub(super) const MAGIC: u32 = 0xe0f5_e1e2;

/// Bytes in a device table slot. The table follows the superblock at once.
pub(super) const DEVICE_SLOT: usize = 128;
pub(super) const FIRST_DEVICE_SLOT: u16 = ((SUPER_OFFSET + SUPER_SIZE) / DEVICE_SLOT) as u16;

/// Compatible feature: the time in an extended inode is the mtime.
pub(super) const COMPAT_MTIME: u32 = 0x2;
/// Incompatible features: files made of chunks; data on further devices.
pub(super) const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
pub(super) const INCOMPAT_DEVICE_TABLE: u32 = 0x8;

/// A node number counts these units from the start of the metadata area.
pub(super) const SLOT: usize = 32;
pub(super) const COMPACT_INODE: usize = 32;
pub(super) const EXTENDED_INODE: usize = 64;

/// Data layouts (bits 1 to 3 of `i_format`): whole blocks; whole blocks and an inline tail; a chunk map.
pub(super) const FLAT_PLAIN: u16 = 0;
pub(super) const FLAT_INLINE: u16 = 2;
pub(super) const CHUNK_BASED: u16 = 4;

/// Flag of a chunk map: its entries name a device (two bytes unused, two of device, four of block).
pub(super) const CHUNK_INDEXES: u32 = 0x20;
/// The address of a chunk that is a hole.
pub const HOLE: u32 = u32::MAX;
/// A chunk is at most this many times doubled a block.
pub(crate) const LARGEST_CHUNK_BITS: u8 = 31;

/// The longest name of a directory entry, in bytes.
pub const LONGEST_NAME: usize = 255;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT: usize = 12;

/// Bytes of the header that precedes an inode's extended attributes.
pub(super) const XATTR_HEADER: usize = 12;
/// Bytes of an attribute before its name and value; the unit that all attributes are padded to.
pub(super) const XATTR_ENTRY: usize = 4;

/// What attribute names begin with, and the number that stands for it on disk. The two ACL names are whole.
pub(super) const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// File types of `st_mode`.
pub const S_IFMT: u16 = 0o170000;
/// A socket.
pub const S_IFSOCK: u16 = 0o140000;
/// A symbolic link.
pub const S_IFLNK: u16 = 0o120000;
/// A regular file.
pub const S_IFREG: u16 = 0o100000;
/// A block device.
pub const S_IFBLK: u16 = 0o060000;
/// A directory.
pub const S_IFDIR: u16 = 0o040000;
/// A character device.
pub const S_IFCHR: u16 = 0o020000;
/// A FIFO.
pub const S_IFIFO: u16 = 0o010000;

/// The type byte of a directory entry that names a file of this mode.
pub(super) fn dirent_type(mode: u16) -> u8 {
    match mode & S_IFMT {
        S_IFREG => 1,
        S_IFDIR => 2,
        S_IFCHR => 3,
        S_IFBLK => 4,
        S_IFIFO => 5,
        S_IFSOCK => 6,
        S_IFLNK => 7,
        _ => 0,
    }
}

pub(super) fn put16(to: &mut [u8], at: usize, value: u16) {
    to[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put32(to: &mut [u8], at: usize, value: u32) {
    to[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put64(to: &mut [u8], at: usize, value: u64) {
    to[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
