//! Writes a tree as an EROFS image: superblock (and device table), then whatever data blocks the caller has
//! put there, then the metadata: inodes, shared attributes, directory blocks.
//!
//! Where everything goes is decided first ([`Plan`]), in one walk from the root, breadth first: the inodes of
//! a directory's entries lie together, as they are looked up together. Then it is written in one go.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::format::*;
use super::tree::{Content, Data, Node, NodeId, Tree};
use super::xattrs::Stored;

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

/// Where a node is.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Its number on disk; 0 before it has one.
    slot: u32,
    /// Names that lead to it; of a directory also `.` and its children's `..`.
    links: u32,
    /// First of its blocks among the directory blocks, if it has any there.
    block: u32,
    /// The node number of a directory's parent.
    parent: u32,
}

/// An image, laid out but not written.
pub struct Plan<'t> {
    tree: &'t Tree,
    /// Parallel to the tree's nodes.
    places: Vec<Place>,
    /// The nodes that have names, breadth first.
    order: Vec<NodeId>,
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
    /// Lays out `tree`, its metadata to begin at block `metadata_block`.
    pub fn new(tree: &'t Tree, metadata_block: u32) -> Result<Plan<'t>, Error> {
        let mut plan = Plan {
            tree,
            places: vec![Place::default(); tree.len()],
            order: Vec::new(),
            xattrs: Stored::new(tree, &[]),
            time: (0, 0),
            metadata_block,
            inode_blocks: 0,
            shared_blocks: 0,
            directory_blocks: 0,
            chunked: false,
        };
        plan.walk();
        plan.time = plan.usual_time();
        let mut uses = vec![0; tree.xattr_sets().len()];
        for id in &plan.order {
            uses[tree.node(*id).attributes.xattrs.index()] += 1;
        }
        plan.xattrs = Stored::new(tree, &uses);
        plan.place()?;
        plan.shared_blocks = blocks(plan.xattrs.shared.len() as u64)?;
        // Everything must have a 32-bit block number.
        plan.first_directory_block().checked_add(plan.directory_blocks).ok_or(Error::TooLarge)?;
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

    /// Finds every node that has a name, and counts the names.
    fn walk(&mut self) {
        let mut seen = vec![false; self.tree.len()];
        seen[Tree::ROOT.index()] = true;
        self.order.push(Tree::ROOT);
        let mut next = 0;
        while let Some(directory) = self.order.get(next).copied() {
            next += 1;
            self.chunked |= ChunkMap::of(self.tree.node(directory)).is_some();
            let Some(entries) = self.tree.entries(directory) else { continue };
            self.places[directory.index()].links += 2;
            for child in entries.values() {
                if self.tree.node(*child).is_directory() {
                    self.places[child.index()].parent = directory.index() as u32;
                    self.places[directory.index()].links += 1;
                } else {
                    self.places[child.index()].links += 1;
                }
                if !std::mem::replace(&mut seen[child.index()], true) {
                    self.order.push(*child);
                }
            }
        }
    }

    /// The time that most inodes have, if there is one: such an inode may be compact. (A majority vote in one
    /// pass; where no time has the majority, any will do.)
    fn usual_time(&self) -> (i64, u32) {
        let (mut time, mut votes) = ((0, 0), 0u32);
        for id in &self.order {
            let mtime = self.tree.node(*id).attributes.mtime;
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

    /// Gives every node its slot, and directories and long symlinks their blocks.
    fn place(&mut self) -> Result<(), Error> {
        // Slot 0 stays free: its number would be an inode number that programs take for "none".
        let mut end = SLOT as u64;
        let mut gaps: Vec<(u64, u64)> = Vec::new();
        for id in &self.order {
            let node = self.tree.node(*id);
            let place = &mut self.places[id.index()];
            let mut head =
                inode_size(node, place.links, self.time) + self.xattrs.body(node.attributes.xattrs).len();
            if let Some(map) = ChunkMap::of(node) {
                head = head.next_multiple_of(map.entry_size()) + map.blocks.len() * map.entry_size();
            }
            let (whole, tail) = split_content(node);
            let inline = tail != 0 && head + tail <= BLOCK;
            let own_blocks = whole + u32::from(tail != 0 && !inline);
            if own_blocks != 0 {
                place.block = self.directory_blocks;
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
            place.slot = u32::try_from(at / SLOT as u64).map_err(|_| Error::TooLarge)?;
        }
        self.inode_blocks = blocks(end)?;
        Ok(())
    }

    /// Writes the metadata and, last, the superblock and the device table, into `out`.
    pub fn write(&self, out: &File, devices: &[Device]) -> Result<(), Error> {
        let mut output = Output::at(out, u64::from(self.metadata_block) * BLOCK as u64);
        let mut sorted = self.order.clone();
        sorted.sort_unstable_by_key(|id| self.places[id.index()].slot);
        for id in sorted {
            output.zeros_to(
                u64::from(self.metadata_block) * BLOCK as u64
                    + u64::from(self.places[id.index()].slot) * SLOT as u64,
            )?;
            self.write_inode(&mut output, id)?;
        }
        output.zeros_to(u64::from(self.shared_block()) * BLOCK as u64)?;
        output.put(&self.xattrs.shared)?;
        output.zeros_to(u64::from(self.first_directory_block()) * BLOCK as u64)?;
        for id in &self.order {
            let node = self.tree.node(*id);
            match &node.content {
                Content::Directory(_) => self.write_directory(&mut output, *id, Part::Blocks)?,
                Content::Symlink(target) if !self.is_inline(*id) => {
                    output.put(target)?;
                    output.zeros_to(output.offset().next_multiple_of(BLOCK as u64))?;
                }
                _ => {}
            }
        }
        debug_assert_eq!(output.offset(), u64::from(self.blocks()) * BLOCK as u64);
        output.flush()?;
        out.write_all_at(&self.header(devices), 0)?;
        Ok(())
    }

    /// Whether the last part of a directory or a symlink follows its inode.
    fn is_inline(&self, id: NodeId) -> bool {
        let node = self.tree.node(id);
        let tail = split_content(node).1;
        let links = self.places[id.index()].links;
        let head = inode_size(node, links, self.time) + self.xattrs.body(node.attributes.xattrs).len();
        tail != 0 && head + tail <= BLOCK
    }

    fn write_inode(&self, output: &mut Output, id: NodeId) -> Result<(), Error> {
        let node = self.tree.node(id);
        let place = &self.places[id.index()];
        let attributes = &node.attributes;
        let map = ChunkMap::of(node);
        let (whole, tail) = split_content(node);
        let (size, union, layout) = match &node.content {
            Content::Directory(_) | Content::Symlink(_) => {
                let size = u64::from(whole) * BLOCK as u64 + tail as u64;
                let layout = if self.is_inline(id) { FLAT_INLINE } else { FLAT_PLAIN };
                (size, self.first_directory_block() + place.block, layout)
            }
            Content::File { size, data } => match (&map, data) {
                (Some(map), _) => (*size, map.format(), CHUNK_BASED),
                (None, Data::Plain { block, .. }) => (*size, *block, FLAT_PLAIN),
                (None, Data::Chunks(_)) => (*size, 0, FLAT_PLAIN),
            },
            Content::Character(device) | Content::Block(device) => (0, *device, FLAT_PLAIN),
            Content::Fifo | Content::Socket => (0, 0, FLAT_PLAIN),
        };
        let body = self.xattrs.body(attributes.xattrs);
        let xattr_count =
            if body.is_empty() { 0 } else { ((body.len() - XATTR_HEADER) / XATTR_ENTRY + 1) as u16 };

        let mut inode = [0; EXTENDED_INODE];
        let length = inode_size(node, place.links, self.time);
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
        output.put(&inode[..length])?;
        output.put(body)?;
        if let Some(map) = map {
            output.zeros_to(output.offset().next_multiple_of(map.entry_size() as u64))?;
            for block in map.blocks {
                if map.device != 0 {
                    output.put(&[0, 0])?;
                    output.put(&map.device.to_le_bytes())?;
                }
                output.put(&block.to_le_bytes())?;
            }
        }
        match &node.content {
            Content::Symlink(target) if layout == FLAT_INLINE => output.put(target)?,
            Content::Directory(_) if layout == FLAT_INLINE => {
                self.write_directory(output, id, Part::Tail)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn write_directory(&self, output: &mut Output, id: NodeId, part: Part) -> Result<(), Error> {
        let inline = self.is_inline(id);
        if part == Part::Blocks && inline && split_content(self.tree.node(id)).0 == 0 {
            return Ok(());
        }
        let Some(entries) = self.tree.entries(id) else { return Ok(()) };
        let parent = self.places[id.index()].parent as usize;
        let mut sorted: Vec<(&[u8], u32, u8)> = entries
            .iter()
            .map(|(name, child)| {
                let mode = self.tree.node(*child).mode();
                (&**name, self.places[child.index()].slot, dirent_type(mode))
            })
            .collect();
        let directory = dirent_type(S_IFDIR);
        for (name, slot) in [(&b"."[..], self.places[id.index()].slot), (b"..", self.places[parent].slot)] {
            let at = sorted.partition_point(|entry| entry.0 < name);
            sorted.insert(at, (name, slot, directory));
        }
        let mut rest = &sorted[..];
        while !rest.is_empty() {
            let count = entries_in_block(rest.iter().map(|entry| entry.0.len()));
            let (block, after) = rest.split_at(count);
            rest = after;
            let last = rest.is_empty();
            if (part == Part::Tail) != (last && inline) {
                continue;
            }
            let mut name_at = block.len() * DIRENT;
            for (name, slot, kind) in block {
                let mut dirent = [0; DIRENT];
                put64(&mut dirent, 0, u64::from(*slot));
                put16(&mut dirent, 8, name_at as u16);
                dirent[10] = *kind;
                output.put(&dirent)?;
                name_at += name.len();
            }
            for (name, ..) in block {
                output.put(name)?;
            }
            if part == Part::Blocks {
                output.zeros_to(output.offset().next_multiple_of(BLOCK as u64))?;
            }
        }
        Ok(())
    }

    /// The superblock and the device table, as whole blocks.
    fn header(&self, devices: &[Device]) -> Vec<u8> {
        let mut header = vec![0; header_blocks(devices.len() as u16) as usize * BLOCK];
        let sb = &mut header[SUPER_OFFSET..SUPER_OFFSET + SUPER_SIZE];
        put32(sb, 0, MAGIC);
        put32(sb, 8, COMPAT_MTIME);
        sb[12] = BLOCK_BITS;
        // The root is the first inode placed: its number fits the 16 bits that there are for it.
        put16(sb, 14, self.places[Tree::ROOT.index()].slot as u16);
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

/// Bytes of the inode proper: the compact form is for what fits its fields and has the usual time.
fn inode_size(node: &Node, links: u32, time: (i64, u32)) -> usize {
    let attributes = &node.attributes;
    let small = |number: u32| number <= u32::from(u16::MAX);
    let size = match &node.content {
        Content::File { size, .. } => *size,
        // A directory that needs more than 32 bits would have more than 2^24 entries.
        Content::Directory(entries) => (entries.len() as u64 + 2) * (DIRENT + LONGEST_NAME) as u64 * 2,
        _ => 0,
    };
    let compact = attributes.mtime == time
        && small(attributes.uid)
        && small(attributes.gid)
        && small(links)
        && size <= u64::from(u32::MAX);
    if compact { COMPACT_INODE } else { EXTENDED_INODE }
}

/// The chunk map that follows an inode: of a file with holes, and of every file whose data are on a device,
/// since only a map can name one. (Addresses of the one address space would do for the kernel, but not for
/// erofs-utils.)
struct ChunkMap<'n> {
    device: u16,
    bits: u8,
    blocks: &'n [u32],
}

impl<'n> ChunkMap<'n> {
    fn of(node: &'n Node) -> Option<ChunkMap<'n>> {
        match &node.content {
            Content::File { data: Data::Chunks(chunks), .. } => {
                Some(ChunkMap { device: chunks.device, bits: chunks.bits, blocks: &chunks.blocks })
            }
            Content::File { size, data: Data::Plain { device: device @ 1.., block } } => {
                // One chunk that is large enough. The largest is 8 TiB: as long as a layer's data can be.
                let bits = size.div_ceil(BLOCK as u64).next_power_of_two().trailing_zeros() as u8;
                Some(ChunkMap { device: *device, bits, blocks: std::slice::from_ref(block) })
            }
            _ => None,
        }
    }

    /// An address alone, or the device with it; aligned to its size.
    fn entry_size(&self) -> usize {
        if self.device == 0 { 4 } else { 8 }
    }

    fn format(&self) -> u32 {
        u32::from(self.bits) | if self.device == 0 { 0 } else { CHUNK_INDEXES }
    }
}

/// How a directory's or a symlink's content divides: whole blocks, and bytes after them.
fn split_content(node: &Node) -> (u32, usize) {
    match &node.content {
        Content::Symlink(target) => (0, target.len()),
        Content::Directory(entries) => {
            // `.` and `..` take their places in the order of names.
            let mut lengths: Vec<usize> = Vec::with_capacity(entries.len() + 2);
            let mut own = [&b"."[..], b".."].into_iter().peekable();
            for name in entries.keys() {
                while let Some(first) = own.next_if(|own| *own < &**name) {
                    lengths.push(first.len());
                }
                lengths.push(name.len());
            }
            lengths.extend(own.map(<[u8]>::len));
            let (mut whole, mut rest) = (0, &lengths[..]);
            loop {
                let count = entries_in_block(rest.iter().copied());
                let (block, after) = rest.split_at(count);
                if after.is_empty() {
                    return (whole, block.iter().map(|length| DIRENT + length).sum());
                }
                whole += 1;
                rest = after;
            }
        }
        _ => (0, 0),
    }
}

/// How many of the entries with these name lengths fit into one block.
fn entries_in_block(lengths: impl Iterator<Item = usize>) -> usize {
    let mut room = BLOCK;
    lengths
        .take_while(|length| {
            let fits = room >= DIRENT + length;
            room = room.saturating_sub(DIRENT + length);
            fits
        })
        .count()
}

/// Buffered writing at a place of a file.
struct Output<'a> {
    out: &'a File,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Output<'a> {
    const CAPACITY: usize = 1 << 20;

    fn at(out: &'a File, start: u64) -> Output<'a> {
        Output { out, start, buffer: Vec::with_capacity(Self::CAPACITY) }
    }

    fn offset(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > Self::CAPACITY {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Zeros up to `offset`, which is not behind: less than a block of them.
    fn zeros_to(&mut self, offset: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let mut left = offset.saturating_sub(self.offset());
        while left != 0 {
            let piece = left.min(BLOCK as u64);
            self.put(&ZEROS[..piece as usize])?;
            left -= piece;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all_at(&self.buffer, self.start)?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
