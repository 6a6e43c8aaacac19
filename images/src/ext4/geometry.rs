//! Where everything is on a scratch disk of a given size.

/// Bytes in a block.
pub(super) const BLOCK: usize = 4096;
/// Blocks in a full group: as many as a one-block bitmap has bits.
pub(super) const BLOCKS_PER_GROUP: u32 = 8 * BLOCK as u32;
/// Bytes in an inode: room for nanoseconds and for small extended attributes (overlayfs writes them).
pub(super) const INODE: usize = 256;
/// Bytes in a group descriptor without the `64bit` feature.
pub(super) const DESCRIPTOR: usize = 32;

/// The smallest disk that can be formatted, in bytes: 16 MiB.
pub const SMALLEST: u64 = 16 << 20;
/// The largest disk that can be formatted, in bytes: 16 TiB.
pub const LARGEST: u64 = 16 << 40;

/// A directory other than the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subdirectory {
    /// The directory that it is in: 0 is the root, N the Nth of the list.
    pub parent: u32,
    pub name: &'static str,
    pub mode: u16,
}

const fn subdirectory(parent: u32, name: &'static str, mode: u16) -> Subdirectory {
    Subdirectory { parent, name, mode }
}

/// The directories on a scratch disk. The guest would make those of the overlay as the first thing it does with the disk, and
/// finding the first free inode and block is dear. The last one is the kernel's own, as it would make it.
const OF_SCRATCH: &[Subdirectory] = &[
    subdirectory(0, "lost+found", 0o700),
    subdirectory(0, "upper", 0o755),
    subdirectory(0, "work", 0o755),
    subdirectory(3, "work", 0),
];
/// The same on a disk that is kept.
const OF_KEPT: &[Subdirectory] = &[subdirectory(0, "lost+found", 0o700)];

/// Blocks of the journal of a kept disk that is smaller than [`LARGE`]: the fewest that the kernel takes.
const SMALL_JOURNAL: u32 = 1024;
/// The same of a larger disk: 16 MiB.
const LARGE_JOURNAL: u32 = 4096;
/// What is a large disk for that, in bytes.
const LARGE: u64 = 256 << 20;

/// What a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// One run, and thrown away with it.
    Scratch,
    /// Data that outlive the machine's power.
    Kept,
}

/// Where copies of the superblock and of the group descriptors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backups {
    /// Nowhere. The kernel does not grow such a filesystem (feature `sparse_super2` without backups).
    None,
    /// In group 1 and in those whose number is a power of 3, 5 or 7 (feature `sparse_super`).
    Sparse,
}

/// A last group with fewer data blocks than this is not worth its metadata, and is left out.
const FEWEST_DATA_BLOCKS: u32 = 50;

/// The numbers that decide where everything is. Every group has the same layout: (in the first one, and where there is a
/// backup of them, the superblock and the descriptors, in the first one the directories,) block bitmap, inode bitmap, inode
/// table, data. So whatever a mount and the first looks at it need is in the first blocks, which one read gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub blocks: u32,
    pub groups: u32,
    pub inodes_per_group: u32,
    /// Blocks of the journal, which follows the first inode table; 0: there is none.
    pub journal_blocks: u32,
    /// Which groups have a superblock.
    pub backups: Backups,
    /// The directories besides the root.
    pub subdirectories: &'static [Subdirectory],
}

impl Geometry {
    /// The layout for a disk of `bytes`, if it is one that can be formatted.
    pub fn of(bytes: u64, purpose: Purpose) -> Option<Geometry> {
        if !(SMALLEST..=LARGEST).contains(&bytes) {
            return None;
        }
        // Block numbers have 32 bits: at 16 TiB the very last block stays unused.
        let blocks = u32::try_from(bytes / BLOCK as u64).unwrap_or(u32::MAX);
        // One inode for so many bytes, as mke2fs does it for a small and for an ordinary disk.
        let bytes_per_inode = if bytes < 512 << 20 { 4096 } else { 16384 };
        let inodes_per_group = if blocks < BLOCKS_PER_GROUP {
            // Sized to the only group; a whole number of inode-table blocks.
            (bytes / bytes_per_inode).next_multiple_of((BLOCK / INODE) as u64) as u32
        } else {
            (u64::from(BLOCKS_PER_GROUP) * BLOCK as u64 / bytes_per_inode) as u32
        };
        let (journal_blocks, backups, subdirectories) = match purpose {
            Purpose::Scratch => (0, Backups::None, OF_SCRATCH),
            Purpose::Kept => {
                (if bytes < LARGE { SMALL_JOURNAL } else { LARGE_JOURNAL }, Backups::Sparse, OF_KEPT)
            }
        };
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let mut geometry =
            Geometry { blocks, groups, inodes_per_group, journal_blocks, backups, subdirectories };
        let last = groups - 1;
        if last > 0 && geometry.blocks_in(last) < geometry.used_blocks_in(last) + FEWEST_DATA_BLOCKS {
            geometry.blocks -= geometry.blocks_in(last);
            geometry.groups = last;
        }
        Some(geometry)
    }

    /// Whether `group` begins with a superblock and the group descriptors.
    pub fn has_superblock(&self, group: u32) -> bool {
        let is_power_of = |base: u32| {
            let powers = std::iter::successors(Some(base), |power| power.checked_mul(base));
            powers.take_while(|power| *power <= group).any(|power| power == group)
        };
        match self.backups {
            _ if group == 0 => true,
            Backups::None => false,
            Backups::Sparse => group == 1 || [3, 5, 7].into_iter().any(is_power_of),
        }
    }

    /// The groups with a copy of the first one's superblock and descriptors.
    pub fn backup_groups(&self) -> impl Iterator<Item = u32> {
        (1..self.groups).filter(|group| self.has_superblock(*group))
    }

    /// A group's first block.
    pub fn first_block(&self, group: u32) -> u32 {
        group * BLOCKS_PER_GROUP
    }

    /// Blocks of `group`: all full but perhaps the last.
    pub fn blocks_in(&self, group: u32) -> u32 {
        (self.blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP)
    }

    /// Blocks that the group descriptors take, after the superblock's.
    pub fn descriptor_blocks(&self) -> u32 {
        (self.groups as usize * DESCRIPTOR).div_ceil(BLOCK) as u32
    }

    /// Blocks of each group's inode table.
    pub fn inode_table_blocks(&self) -> u32 {
        self.inodes_per_group / (BLOCK / INODE) as u32
    }

    /// Blocks of a group's superblock and descriptors.
    fn superblock_blocks(&self, group: u32) -> u32 {
        if self.has_superblock(group) { 1 + self.descriptor_blocks() } else { 0 }
    }

    pub fn block_bitmap(&self, group: u32) -> u32 {
        let directories = if group == 0 { self.directories() } else { 0 };
        self.first_block(group) + self.superblock_blocks(group) + directories
    }

    pub fn inode_bitmap(&self, group: u32) -> u32 {
        self.block_bitmap(group) + 1
    }

    pub fn inode_table(&self, group: u32) -> u32 {
        self.block_bitmap(group) + 2
    }

    /// The root directory's one block.
    pub fn root_directory(&self) -> u32 {
        self.superblock_blocks(0)
    }

    /// The one block of a directory: 0 is the root.
    pub fn directory(&self, number: u32) -> u32 {
        self.root_directory() + number
    }

    /// All directories, of one block each.
    pub fn directories(&self) -> u32 {
        1 + self.subdirectories.len() as u32
    }

    /// The journal's first block.
    pub fn journal(&self) -> u32 {
        self.inode_table(0) + self.inode_table_blocks()
    }

    /// Blocks of `group` in use: its metadata and, in the first group, the directories and the journal.
    pub fn used_blocks_in(&self, group: u32) -> u32 {
        match group {
            0 => self.journal() + self.journal_blocks,
            _ => self.superblock_blocks(group) + 2 + self.inode_table_blocks(),
        }
    }

    /// Free blocks in all groups.
    pub fn free_blocks(&self) -> u32 {
        self.blocks - (0..self.groups).map(|group| self.used_blocks_in(group)).sum::<u32>()
    }

    /// Blocks that can never hold file data: everything in use but the directories.
    pub fn overhead_blocks(&self) -> u32 {
        self.blocks - self.free_blocks() - self.directories()
    }
}
