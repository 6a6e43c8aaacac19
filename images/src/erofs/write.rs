//! Writes a tree as an EROFS image: superblock (and device table), then whatever data blocks the caller has
//! put there, then the metadata: inodes, shared attributes, directory blocks.
//!
//! Where everything goes is decided first ([`Plan`]), in one walk from the root, breadth first: the inodes of
//! a directory's entries lie together, as they are looked up together. Then it is written in one go.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::directory::{DirectorySize, merged};
use super::format::*;
use super::output::Output;
use super::space::Table;
use super::tree::{Content, Data, Node, NodeId, Tree};
use super::xattrs::Stored;
use crate::record;

/// Why an image cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Block or inode numbers would not fit their 32 bits.
    #[error("the image would be larger than EROFS allows (16 TiB)")]
    TooLarge,
    /// Writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Blocks that the superblock and a table of `devices` devices take.
pub fn header_blocks(devices: u16) -> u32 {
    (SUPER_OFFSET + SUPER_SIZE + usize::from(devices) * DEVICE_SLOT).div_ceil(BLOCK) as u32
}

record! {
    /// Where a node is.
    struct Place {
        /// Its number on disk; 0 before it has one.
        slot: u32,
        /// Names that lead to it; of a directory also `.` and its children's `..`.
        links: u32,
    }
}

record! {
    /// Where a directory's entries are, and what they take.
    struct Extent {
        /// First of its blocks among the directory blocks, if it has any there.
        block: u32,
        /// The node number of its parent.
        parent: u32,
        /// Whole blocks.
        whole: u32,
        /// Bytes after them.
        tail: u32,
    }
}

/// An image, laid out but not written.
pub struct Plan<'t> {
    tree: &'t Tree,
    /// Parallel to the tree's nodes.
    places: Table<Place>,
    /// Parallel to the tree's directories.
    extents: Table<Extent>,
    /// Blocks of the symbolic links that are too long to follow their inodes.
    targets: HashMap<NodeId, u32>,
    /// The nodes that have names, breadth first.
    order: Table<u32>,
    xattrs: Stored,
    /// The time of every compact inode.
    time: (i64, u32),
    metadata_block: u32,
    inode_blocks: u32,
    shared_blocks: u32,
    directory_blocks: u32,
    chunked: bool,
}

/// A device of the device table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Its size.
    pub blocks: u32,
    /// Its first block in the one address space that starts with the image itself.
    pub mapped: u32,
}

impl<'t> Plan<'t> {
    /// Lays out `tree`, its metadata to begin at block `metadata_block`. Its directories are sorted for that.
    pub fn new(tree: &'t mut Tree, metadata_block: u32) -> Result<Plan<'t>, Error> {
        for id in tree.ids() {
            if tree.node(id).is_directory() {
                tree.sort(id);
            }
        }
        let tree: &Tree = tree;
        let space = tree.space();
        let nowhere = Extent { block: 0, parent: 0, whole: 0, tail: 0 };
        let mut plan = Plan {
            tree,
            places: Table::filled(space, Place { slot: 0, links: 0 }, tree.len())?,
            extents: Table::filled(space, nowhere, tree.directories())?,
            targets: HashMap::new(),
            order: Table::new(space),
            xattrs: Stored::new(tree, &[]),
            time: (0, 0),
            metadata_block,
            inode_blocks: 0,
            shared_blocks: 0,
            directory_blocks: 0,
            chunked: false,
        };
        plan.walk()?;
        plan.time = plan.usual_time();
        let mut uses = vec![0; tree.xattr_sets().len()];
        for id in plan.order() {
            uses[tree.node(id).attributes.xattrs.index()] += 1;
        }
        plan.xattrs = Stored::new(tree, &uses);
        plan.place()?;
        plan.shared_blocks = blocks(plan.xattrs.shared.len() as u64)?;
        // Everything must have a 32-bit block number.
        plan.first_directory_block().checked_add(plan.directory_blocks).ok_or(Error::TooLarge)?;
        space.check()?;
        Ok(plan)
    }

    /// Blocks of the whole image.
    pub fn blocks(&self) -> u32 {
        self.first_directory_block() + self.directory_blocks
    }

    /// Inodes in the image.
    pub fn inodes(&self) -> u64 {
        self.order.len() as u64
    }

    fn shared_block(&self) -> u32 {
        self.metadata_block.saturating_add(self.inode_blocks)
    }

    fn first_directory_block(&self) -> u32 {
        self.shared_block().saturating_add(self.shared_blocks)
    }

    /// The nodes that have names, breadth first.
    fn order(&self) -> impl Iterator<Item = NodeId> {
        (0..self.order.len()).map(|at| NodeId::new(self.order.get(at)))
    }

    fn place_of(&self, id: NodeId) -> Place {
        self.places.get(id.index())
    }

    /// Finds every node that has a name, and counts the names.
    fn walk(&mut self) -> Result<(), Error> {
        let tree = self.tree;
        self.order.push(Tree::ROOT.index() as u32)?;
        let mut next = 0;
        while next < self.order.len() {
            let id = NodeId::new(self.order.get(next));
            next += 1;
            let node = tree.node(id);
            self.chunked |= ChunkMap::of(tree, &node).is_some();
            let Content::Directory(listing) = node.content else { continue };
            let mut links = self.place_of(id).links + 2;
            let mut size = DirectorySize::default();
            for (name, child) in tree.entries(id) {
                size.add(&name);
                let place = self.place_of(child);
                if let Content::Directory(below) = tree.node(child).content {
                    let extent = self.extents.get(below.index());
                    self.extents.set(below.index(), Extent { parent: id.index() as u32, ..extent });
                    links += 1;
                    self.order.push(child.index() as u32)?;
                } else {
                    if place.links == 0 {
                        self.order.push(child.index() as u32)?;
                    }
                    self.places.set(child.index(), Place { links: place.links + 1, ..place });
                }
            }
            let (whole, tail) = size.finish();
            let extent = self.extents.get(listing.index());
            self.extents.set(listing.index(), Extent { whole, tail, ..extent });
            self.places.set(id.index(), Place { slot: 0, links });
        }
        Ok(())
    }

    /// The time that most inodes have, if there is one: such an inode may be compact. (A majority vote in one
    /// pass; where no time has the majority, any will do.)
    fn usual_time(&self) -> (i64, u32) {
        let (mut time, mut votes) = ((0, 0), 0u32);
        for id in self.order() {
            let mtime = self.tree.node(id).attributes.mtime;
            if votes == 0 {
                (time, votes) = (mtime, 1);
            } else if mtime == time {
                votes += 1;
            } else {
                votes -= 1;
            }
        }
        time
    }

    /// How a directory's or a symlink's content divides: whole blocks, and bytes after them.
    fn split_content(&self, node: &Node) -> (u32, usize) {
        match node.content {
            Content::Symlink(target) => (0, target.length()),
            Content::Directory(listing) => {
                let Extent { whole, tail, .. } = self.extents.get(listing.index());
                (whole, tail as usize)
            }
            _ => (0, 0),
        }
    }

    /// Bytes of the inode proper: the compact form is for what fits its fields and has the usual time.
    fn inode_size(&self, node: &Node, links: u32) -> usize {
        let attributes = &node.attributes;
        let small = |number: u32| number <= u32::from(u16::MAX);
        let size = match node.content {
            Content::File { size, .. } => size,
            Content::Directory(_) => {
                let (whole, tail) = self.split_content(node);
                u64::from(whole) * BLOCK as u64 + tail as u64
            }
            _ => 0,
        };
        let compact = attributes.mtime == self.time
            && small(attributes.uid)
            && small(attributes.gid)
            && small(links)
            && size <= u64::from(u32::MAX);
        if compact { COMPACT_INODE } else { EXTENDED_INODE }
    }

    /// Gives every node its slot, and directories and long symlinks their blocks.
    fn place(&mut self) -> Result<(), Error> {
        // Slot 0 stays free: its number would be an inode number that programs take for "none".
        let mut end = SLOT as u64;
        let mut gaps: Vec<(u64, u64)> = Vec::new();
        for at in 0..self.order.len() {
            let id = NodeId::new(self.order.get(at));
            let node = self.tree.node(id);
            let place = self.place_of(id);
            let mut head =
                self.inode_size(&node, place.links) + self.xattrs.body(node.attributes.xattrs).len();
            if let Some(map) = ChunkMap::of(self.tree, &node) {
                head = head.next_multiple_of(map.entry_size()) + map.len() * map.entry_size();
            }
            let (whole, tail) = self.split_content(&node);
            let inline = tail != 0 && head + tail <= BLOCK;
            let own_blocks = whole + u32::from(tail != 0 && !inline);
            if own_blocks != 0 {
                match node.content {
                    Content::Directory(listing) => {
                        let extent = self.extents.get(listing.index());
                        self.extents.set(listing.index(), Extent { block: self.directory_blocks, ..extent });
                    }
                    _ => drop(self.targets.insert(id, self.directory_blocks)),
                }
                self.directory_blocks =
                    self.directory_blocks.checked_add(own_blocks).ok_or(Error::TooLarge)?;
            }
            let size = (head + if inline { tail } else { 0 }).next_multiple_of(SLOT) as u64;
            // A tail lies in one block with its inode; an inode proper is not cut by a block's end either.
            let unbroken = if inline { size } else { EXTENDED_INODE.min(size as usize) as u64 };
            let fits = |(from, to): &&mut (u64, u64)| to - from >= size;
            let at = if let Some(gap) = gaps.iter_mut().find(fits) {
                gap.0 += size;
                gap.0 - size
            } else {
                let left = BLOCK as u64 - end % BLOCK as u64;
                if left < unbroken {
                    // What is left of the block serves later inodes. Few gaps are kept, so that looking
                    // through them stays cheap.
                    gaps.retain(|(from, to)| from < to);
                    if gaps.len() == 16 {
                        gaps.remove(0);
                    }
                    gaps.push((end, end + left));
                    end += left;
                }
                end += size;
                end - size
            };
            let slot = u32::try_from(at / SLOT as u64).map_err(|_| Error::TooLarge)?;
            self.places.set(id.index(), Place { slot, ..place });
        }
        self.inode_blocks = blocks(end)?;
        Ok(())
    }

    /// Writes the metadata and, last, the superblock and the device table, into `out`.
    pub fn write(&self, out: &File, devices: &[Device]) -> Result<(), Error> {
        let start = u64::from(self.metadata_block) * BLOCK as u64;
        let mut output = Output::at(out, start);
        let mut inode = Vec::new();
        for id in self.order() {
            inode.clear();
            self.inode(id, &mut inode);
            output.put_at(start + u64::from(self.place_of(id).slot) * SLOT as u64, &inode)?;
        }
        output.zeros_to(u64::from(self.shared_block()) * BLOCK as u64)?;
        output.put(&self.xattrs.shared)?;
        output.zeros_to(u64::from(self.first_directory_block()) * BLOCK as u64)?;
        for id in self.order() {
            match self.tree.node(id).content {
                Content::Directory(_) => self.directory(id, Part::Blocks, |block| {
                    output.put(block)?;
                    output.zeros_to(output.offset().next_multiple_of(BLOCK as u64))
                })?,
                Content::Symlink(target) if !self.is_inline(id) => {
                    output.put(&self.tree.text(target))?;
                    output.zeros_to(output.offset().next_multiple_of(BLOCK as u64))?;
                }
                _ => {}
            }
        }
        debug_assert_eq!(output.offset(), u64::from(self.blocks()) * BLOCK as u64);
        output.flush()?;
        // Only an image whose tree was all there gets a superblock.
        self.tree.space().check()?;
        out.write_all_at(&self.header(devices), 0)?;
        Ok(())
    }

    /// Whether the last part of a directory or a symlink follows its inode.
    fn is_inline(&self, id: NodeId) -> bool {
        let node = self.tree.node(id);
        let tail = self.split_content(&node).1;
        let links = self.place_of(id).links;
        let head = self.inode_size(&node, links) + self.xattrs.body(node.attributes.xattrs).len();
        tail != 0 && head + tail <= BLOCK
    }

    /// An inode, and what follows it.
    fn inode(&self, id: NodeId, to: &mut Vec<u8>) {
        let node = self.tree.node(id);
        let place = self.place_of(id);
        let attributes = &node.attributes;
        let map = ChunkMap::of(self.tree, &node);
        let (whole, tail) = self.split_content(&node);
        let inline = self.is_inline(id);
        let layout = if inline { FLAT_INLINE } else { FLAT_PLAIN };
        let (size, union, layout) = match node.content {
            Content::Directory(listing) => {
                let block = self.first_directory_block() + self.extents.get(listing.index()).block;
                (u64::from(whole) * BLOCK as u64 + tail as u64, block, layout)
            }
            Content::Symlink(_) => {
                let block = self.targets.get(&id).copied().unwrap_or(0);
                (tail as u64, self.first_directory_block() + block, layout)
            }
            Content::File { size, data } => match (&map, data) {
                (Some(map), _) => (size, map.format(), CHUNK_BASED),
                (None, Data::Plain { block, .. }) => (size, block, FLAT_PLAIN),
                (None, Data::Chunks(_)) => (size, 0, FLAT_PLAIN),
            },
            Content::Character(device) | Content::Block(device) => (0, device, FLAT_PLAIN),
            Content::Fifo | Content::Socket => (0, 0, FLAT_PLAIN),
        };
        let body = self.xattrs.body(attributes.xattrs);
        let xattr_count =
            if body.is_empty() { 0 } else { ((body.len() - XATTR_HEADER) / XATTR_ENTRY + 1) as u16 };

        let mut inode = [0; EXTENDED_INODE];
        let length = self.inode_size(&node, place.links);
        let extended = length == EXTENDED_INODE;
        put16(&mut inode, 0, layout << 1 | u16::from(extended));
        put16(&mut inode, 2, xattr_count);
        put16(&mut inode, 4, node.mode());
        put32(&mut inode, 16, union);
        put32(&mut inode, 20, place.slot);
        if extended {
            put64(&mut inode, 8, size);
            put32(&mut inode, 24, attributes.uid);
            put32(&mut inode, 28, attributes.gid);
            put64(&mut inode, 32, attributes.mtime.0 as u64);
            put32(&mut inode, 40, attributes.mtime.1);
            put32(&mut inode, 44, place.links);
        } else {
            put16(&mut inode, 6, place.links as u16);
            put32(&mut inode, 8, size as u32);
            put16(&mut inode, 24, attributes.uid as u16);
            put16(&mut inode, 26, attributes.gid as u16);
        }
        to.extend_from_slice(&inode[..length]);
        to.extend_from_slice(body);
        if let Some(map) = map {
            to.resize(to.len().next_multiple_of(map.entry_size()), 0);
            for block in map.blocks() {
                if map.device != 0 {
                    to.extend_from_slice(&[0, 0]);
                    to.extend_from_slice(&map.device.to_le_bytes());
                }
                to.extend_from_slice(&block.to_le_bytes());
            }
        }
        match node.content {
            Content::Symlink(target) if inline => to.extend_from_slice(&self.tree.text(target)),
            Content::Directory(_) if inline => {
                let Ok(()) = self.directory(id, Part::Tail, |tail| {
                    to.extend_from_slice(tail);
                    Ok::<(), Infallible>(())
                });
            }
            _ => {}
        }
    }

    /// Hands out a part of a directory, block by block.
    fn directory<E>(
        &self,
        id: NodeId,
        part: Part,
        mut hand_out: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Content::Directory(listing) = self.tree.node(id).content else { return Ok(()) };
        let Extent { whole, parent, .. } = self.extents.get(listing.index());
        let inline = self.is_inline(id);
        if part == Part::Blocks && inline && whole == 0 {
            return Ok(());
        }
        let own = [(&b"."[..], id), (b"..", NodeId::new(parent))];
        let own = own.map(|(name, id)| (Cow::Borrowed(name), id));
        let entries = merged(own.into_iter(), self.tree.entries(id));
        let (mut dirents, mut names) = (Vec::new(), Vec::new());
        let mut lengths = Vec::new();
        let mut room = BLOCK;
        let mut full = |dirents: &mut Vec<u8>,
                        names: &mut Vec<u8>,
                        lengths: &mut Vec<usize>,
                        last: bool|
         -> Result<(), E> {
            if (part == Part::Tail) == (last && inline) {
                let mut name_at = dirents.len();
                for (dirent, length) in dirents.chunks_exact_mut(DIRENT).zip(&*lengths) {
                    put16(dirent, 8, name_at as u16);
                    name_at += length;
                }
                dirents.append(names);
                hand_out(dirents)?;
            }
            dirents.clear();
            names.clear();
            lengths.clear();
            Ok(())
        };
        for (name, child) in entries {
            if room < DIRENT + name.len() {
                full(&mut dirents, &mut names, &mut lengths, false)?;
                room = BLOCK;
            }
            room -= DIRENT + name.len();
            let mut dirent = [0; DIRENT];
            put64(&mut dirent, 0, u64::from(self.place_of(child).slot));
            dirent[10] = dirent_type(self.tree.node(child).mode());
            dirents.extend_from_slice(&dirent);
            names.extend_from_slice(&name);
            lengths.push(name.len());
        }
        full(&mut dirents, &mut names, &mut lengths, true)
    }

    /// The superblock and the device table, as whole blocks.
    fn header(&self, devices: &[Device]) -> Vec<u8> {
        let mut header = vec![0; header_blocks(devices.len() as u16) as usize * BLOCK];
        let sb = &mut header[SUPER_OFFSET..SUPER_OFFSET + SUPER_SIZE];
        put32(sb, 0, MAGIC);
        put32(sb, 8, COMPAT_MTIME);
        sb[12] = BLOCK_BITS;
        // The root is the first inode placed: its number fits the 16 bits that there are for it.
        put16(sb, 14, self.place_of(Tree::ROOT).slot as u16);
        put64(sb, 16, self.inodes());
        put64(sb, 24, self.time.0 as u64);
        put32(sb, 32, self.time.1);
        put32(sb, 36, self.blocks());
        put32(sb, 40, self.metadata_block);
        put32(sb, 44, self.shared_block());
        let chunked = if self.chunked { INCOMPAT_CHUNKED_FILE } else { 0 };
        let table = if devices.is_empty() { 0 } else { INCOMPAT_DEVICE_TABLE };
        put32(sb, 80, chunked | table);
        put16(sb, 86, devices.len() as u16);
        put16(sb, 88, if devices.is_empty() { 0 } else { FIRST_DEVICE_SLOT });
        for (number, device) in devices.iter().enumerate() {
            let at = (usize::from(FIRST_DEVICE_SLOT) + number) * DEVICE_SLOT;
            let slot = &mut header[at..at + DEVICE_SLOT];
            // A tag is wanted where the devices are not one disk; it may say anything.
            let tag = format!("layer-{}", number + 1);
            slot[..tag.len()].copy_from_slice(tag.as_bytes());
            put32(slot, 64, device.blocks);
            put32(slot, 68, device.mapped);
        }
        header
    }
}

/// Which part of a directory: its whole blocks, or the tail that follows its inode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Blocks,
    Tail,
}

fn blocks(bytes: u64) -> Result<u32, Error> {
    u32::try_from(bytes.div_ceil(BLOCK as u64)).map_err(|_| Error::TooLarge)
}

/// The chunk map that follows an inode: of a file with holes, and of every file whose data are on a device,
/// since only a map can name one. (Addresses of the one address space would do for the kernel, but not for
/// erofs-utils.)
struct ChunkMap<'t> {
    device: u16,
    bits: u8,
    /// The map, or the one block of a map of one.
    blocks: Result<&'t [u32], u32>,
}

impl<'t> ChunkMap<'t> {
    fn of(tree: &'t Tree, node: &Node) -> Option<ChunkMap<'t>> {
        match node.content {
            Content::File { data: Data::Chunks(id), .. } => {
                let chunks = tree.chunks(id);
                Some(ChunkMap { device: chunks.device, bits: chunks.bits, blocks: Ok(&chunks.blocks) })
            }
            Content::File { size, data: Data::Plain { device: device @ 1.., block } } => {
                // One chunk that is large enough. The largest is 8 TiB: as long as a layer's data can be.
                let bits = size.div_ceil(BLOCK as u64).next_power_of_two().trailing_zeros() as u8;
                Some(ChunkMap { device, bits, blocks: Err(block) })
            }
            _ => None,
        }
    }

    fn blocks(&self) -> &[u32] {
        match &self.blocks {
            Ok(blocks) => blocks,
            Err(block) => std::slice::from_ref(block),
        }
    }

    fn len(&self) -> usize {
        self.blocks().len()
    }

    /// An address alone, or the device with it; aligned to its size.
    fn entry_size(&self) -> usize {
        if self.device == 0 { 4 } else { 8 }
    }

    fn format(&self) -> u32 {
        u32::from(self.bits) | if self.device == 0 { 0 } else { CHUNK_INDEXES }
    }
}
