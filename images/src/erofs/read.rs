//! Reads an image that [`write`](super::write) made back into a tree.
//!
//! The file is not trusted: a store's disk may rot and its owner may meddle. Every number is checked against
//! the file's size, every byte of metadata is accounted to one inode only (so that inodes which share their
//! metadata cannot make a small file large), and no directory is visited twice (so that nothing loops).
//! Other makers' images may lay out what this reader refuses.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::format::*;
use super::space::{Space, Table};
use super::tree::*;
use super::window::Window;
use super::write::{Device, header_blocks};
use super::xattrs::{LARGEST_BODY, body_size};

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not what the writer writes.
    #[error("not an intact EROFS layer: {0}")]
    Corrupt(&'static str),
}

type Result<T> = std::result::Result<T, Error>;

/// Metadata beyond this (about twenty million files) is refused, in bytes.
const LARGEST_METADATA: u64 = 2 << 30;
/// What all different sets of extended attributes may take in memory, in bytes.
pub(crate) const LARGEST_XATTRS: usize = 256 << 20;

/// Longest target of a symbolic link, in bytes (`PATH_MAX` less the final NUL).
pub(crate) const LONGEST_TARGET: u64 = 4095;

/// The blocks of the image in `file`, without those of further devices.
pub fn blocks(file: &File) -> Result<u32> {
    Ok(Superblock::read(file)?.blocks)
}

/// The tree of the image in `file`, in memory.
pub fn load(file: &File) -> Result<Tree> {
    load_into(file, &Space::memory())
}

/// The tree of the image in `file`, in a space. Of the file little is in memory at a time, and little besides the space: what
/// directories there are, and which files have several names.
pub fn load_into(file: &File, space: &Rc<Space>) -> Result<Tree> {
    let sb = Superblock::read(file)?;
    let bytes = u64::from(sb.blocks - sb.metadata_block) * BLOCK as u64;
    if bytes > LARGEST_METADATA {
        return Err(Error::Corrupt("more than 2 GiB of metadata"));
    }
    let metadata = Window::new(file, u64::from(sb.metadata_block) * BLOCK as u64, bytes as usize);
    let mut reader = Reader {
        left: metadata.length(),
        xattr_room: LARGEST_XATTRS,
        tree: Tree::new(space)?,
        nodes: HashMap::new(),
        bodies: HashMap::new(),
        links: Table::new(space),
        directories: Vec::new(),
        metadata,
        sb,
    };
    reader.walk()?;
    Ok(reader.tree)
}

struct Superblock {
    root: u32,
    time: (i64, u32),
    blocks: u32,
    metadata_block: u32,
    shared_block: u32,
    devices: Vec<Device>,
}

impl Superblock {
    fn read(file: &File) -> Result<Superblock> {
        let length = file.metadata()?.len();
        let mut sb = [0; SUPER_SIZE];
        if length < (SUPER_OFFSET + SUPER_SIZE) as u64 {
            return Err(Error::Corrupt("too short"));
        }
        file.read_exact_at(&mut sb, SUPER_OFFSET as u64)?;
        if get32(&sb, 0) != MAGIC {
            return Err(Error::Corrupt("no superblock"));
        }
        let features = get32(&sb, 80);
        if sb[12] != BLOCK_BITS
            || sb[13] != 0
            || features & !(INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE) != 0
        {
            return Err(Error::Corrupt("unknown features"));
        }
        let count = if features & INCOMPAT_DEVICE_TABLE != 0 { get16(&sb, 86) } else { 0 };
        if count != 0 && get16(&sb, 88) != FIRST_DEVICE_SLOT {
            return Err(Error::Corrupt("a device table elsewhere"));
        }
        let read = Superblock {
            root: u32::from(get16(&sb, 14)),
            time: (get64(&sb, 24) as i64, get32(&sb, 32)),
            blocks: get32(&sb, 36),
            metadata_block: get32(&sb, 40),
            shared_block: get32(&sb, 44),
            devices: Self::devices(file, count)?,
        };
        if u64::from(read.blocks) * BLOCK as u64 > length {
            return Err(Error::Corrupt("shorter than its superblock says"));
        }
        if read.metadata_block < header_blocks(count)
            || read.metadata_block >= read.blocks
            || read.shared_block < read.metadata_block
        {
            return Err(Error::Corrupt("metadata in an impossible place"));
        }
        Ok(read)
    }

    fn devices(file: &File, count: u16) -> Result<Vec<Device>> {
        let mut table = vec![0; usize::from(count) * DEVICE_SLOT];
        file.read_exact_at(&mut table, (SUPER_OFFSET + SUPER_SIZE) as u64)?;
        let slots = table.chunks_exact(DEVICE_SLOT);
        Ok(slots.map(|slot| Device { blocks: get32(slot, 64), mapped: get32(slot, 68) }).collect())
    }

    /// Whether `count` blocks from `block` are on `device`.
    fn check(&self, device: u16, block: u32, count: u64) -> Result<()> {
        let blocks = match device.checked_sub(1) {
            None => Some(self.blocks),
            Some(number) => self.devices.get(usize::from(number)).map(|device| device.blocks),
        };
        let end = u64::from(block).checked_add(count);
        match (blocks, end) {
            (Some(blocks), Some(end)) if end <= u64::from(blocks) => Ok(()),
            _ => Err(Error::Corrupt("file data outside the image")),
        }
    }
}

struct Reader<'f> {
    sb: Superblock,
    metadata: Window<'f>,
    /// Bytes of metadata that no inode has claimed yet.
    left: usize,
    /// Bytes that further sets of attributes may take.
    xattr_room: usize,
    tree: Tree,
    /// Node by number on disk: directories, and what has several names.
    nodes: HashMap<u32, NodeId>,
    /// Attributes by their form on disk.
    bodies: HashMap<Vec<u8>, XattrsId>,
    /// By node: how many names it should have, less those found.
    links: Table<i64>,
    /// Those whose entries are still to be read.
    directories: Vec<(NodeId, Inode)>,
}

/// An inode as it is on disk.
struct Inode {
    layout: u16,
    mode: u16,
    size: u64,
    union: u32,
    links: u32,
    attributes: Attributes,
    /// Where in the metadata what follows the inode and its attributes begins.
    after: usize,
}

impl Reader<'_> {
    /// `length` bytes of metadata from byte `at`.
    fn bytes(&mut self, at: usize, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.metadata.read(at, length, &mut bytes)?;
        read.map(|()| bytes).ok_or(Error::Corrupt("metadata beyond its end"))
    }

    /// The same, accounted for.
    fn claim(&mut self, at: usize, length: usize) -> Result<Vec<u8>> {
        let left = self.left.checked_sub(length);
        let left = left.ok_or(Error::Corrupt("inodes that share their metadata"))?;
        let bytes = self.bytes(at, length)?;
        self.left = left;
        Ok(bytes)
    }

    /// Counts the names of a node down, or up.
    fn count(&mut self, node: NodeId, by: i64) {
        let links = self.links.get(node.index());
        self.links.set(node.index(), links.saturating_add(by));
    }

    /// Reads the root and everything below it.
    fn walk(&mut self) -> Result<()> {
        let inode = self.inode(self.sb.root)?;
        if inode.mode & S_IFMT != S_IFDIR {
            return Err(Error::Corrupt("a root that is no directory"));
        }
        self.tree.set_attributes(Tree::ROOT, inode.attributes);
        self.nodes.insert(self.sb.root, Tree::ROOT);
        // Of a directory: the name in its parent, `.`, and the `..` of every directory in it.
        self.links.push(i64::from(inode.links) - 2)?;
        self.directories.push((Tree::ROOT, inode));
        while let Some((id, inode)) = self.directories.pop() {
            self.directory(id, &inode)?;
        }
        if (0..self.links.len()).any(|node| self.links.get(node) != 0) {
            return Err(Error::Corrupt("a wrong link count"));
        }
        Ok(())
    }

    /// What `name` in directory `id` leads to becomes part of the tree.
    fn entry(&mut self, id: NodeId, name: &[u8], number: u32) -> Result<()> {
        if let Some(child) = self.nodes.get(&number).copied() {
            if self.tree.node(child).is_directory() {
                return Err(Error::Corrupt("a directory with two names"));
            }
            self.tree.link(id, name, child)?;
            self.count(child, -1);
            return Ok(());
        }
        let inode = self.inode(number)?;
        let attributes = inode.attributes;
        let child = match self.content(&inode)? {
            Content::Directory(_) => self.tree.add_directory(attributes)?,
            content => self.tree.add(Node { attributes, content })?,
        };
        // Whatever has one name is met once; a file that is met again all the same is another file, and costs
        // the metadata that it claims again.
        if inode.links > 1 || inode.mode & S_IFMT == S_IFDIR {
            self.nodes.insert(number, child);
        }
        self.tree.link(id, name, child)?;
        self.links.push(i64::from(inode.links) - 1)?;
        if inode.mode & S_IFMT == S_IFDIR {
            self.count(child, -1);
            self.count(id, -1);
            self.directories.push((child, inode));
        }
        Ok(())
    }

    fn inode(&mut self, number: u32) -> Result<Inode> {
        let at = number as usize * SLOT;
        let format = get16(&self.bytes(at, 2)?, 0);
        let length = if format & 1 == 0 { COMPACT_INODE } else { EXTENDED_INODE };
        let raw = &self.claim(at, length)?[..];
        let (uid, gid, size, mtime, links) = if format & 1 == 0 {
            let (uid, gid) = (u32::from(get16(raw, 24)), u32::from(get16(raw, 26)));
            (uid, gid, u64::from(get32(raw, 8)), self.sb.time, u32::from(get16(raw, 6)))
        } else {
            let mtime = (get64(raw, 32) as i64, get32(raw, 40));
            (get32(raw, 24), get32(raw, 28), get64(raw, 8), mtime, get32(raw, 44))
        };
        if size > i64::MAX as u64 {
            return Err(Error::Corrupt("a file of negative size"));
        }
        let words = usize::from(get16(raw, 2));
        let body_length = if words == 0 { 0 } else { XATTR_HEADER + (words - 1) * XATTR_ENTRY };
        let body = self.claim(at + length, body_length)?;
        let mode = get16(raw, 4);
        let permissions = mode & !S_IFMT;
        let xattrs = self.xattrs(body)?;
        Ok(Inode {
            layout: format >> 1,
            mode,
            size,
            union: get32(raw, 16),
            links,
            attributes: Attributes { permissions, uid, gid, mtime, xattrs },
            after: at + length + body_length,
        })
    }

    fn xattrs(&mut self, body: Vec<u8>) -> Result<XattrsId> {
        if body.is_empty() {
            return Ok(XattrsId::NONE);
        }
        if let Some(id) = self.bodies.get(&body) {
            return Ok(*id);
        }
        let mut set = Vec::new();
        let shared = usize::from(body[4]);
        let inline_at = XATTR_HEADER + shared * 4;
        if inline_at > body.len() {
            return Err(Error::Corrupt("more shared attributes than room for them"));
        }
        let area = (self.sb.shared_block - self.sb.metadata_block) as usize * BLOCK;
        for place in body[XATTR_HEADER..inline_at].chunks_exact(4) {
            let at = area + get32(place, 0) as usize * XATTR_ENTRY;
            let head = self.bytes(at, XATTR_ENTRY);
            let head = head.map_err(|error| match error {
                Error::Corrupt(_) => Error::Corrupt("a shared attribute nowhere"),
                other => other,
            })?;
            let length = XATTR_ENTRY + usize::from(head[0]) + usize::from(get16(&head, 2));
            let bytes = self.bytes(at, length)?;
            set.push(self.xattr(&bytes)?.0);
        }
        let mut rest = &body[inline_at..];
        while !rest.is_empty() {
            let (xattr, length) = self.xattr(rest)?;
            set.push(xattr);
            rest = rest.get(length..).ok_or(Error::Corrupt("an attribute beyond its inode"))?;
        }
        if body_size(&set) > LARGEST_BODY {
            return Err(Error::Corrupt("too many attributes"));
        }
        let id = self.tree.xattrs_id(set);
        self.bodies.insert(body, id);
        Ok(id)
    }

    /// The attribute that `bytes` begin with, and how many of them it takes.
    fn xattr(&mut self, bytes: &[u8]) -> Result<(Xattr, usize)> {
        let broken = Error::Corrupt("a broken attribute");
        let Some(head) = bytes.get(..XATTR_ENTRY) else { return Err(broken) };
        let (name, value) = (usize::from(head[0]), usize::from(get16(head, 2)));
        let Some(body) = bytes[XATTR_ENTRY..].get(..name + value) else { return Err(broken) };
        let length = (XATTR_ENTRY + body.len()).next_multiple_of(XATTR_ENTRY);
        let room = self.xattr_room.checked_sub(length);
        self.xattr_room = room.ok_or(Error::Corrupt("more than 256 MiB of attributes"))?;
        let prefix = XATTR_PREFIXES.iter().find(|(number, _)| *number == head[1]);
        let (_, prefix) = prefix.ok_or(Error::Corrupt("an attribute of an unknown namespace"))?;
        let xattr = Xattr::new(&[prefix, &body[..name]].concat(), &body[name..]).ok_or(broken)?;
        Ok((xattr, length))
    }

    fn content(&mut self, inode: &Inode) -> Result<Content> {
        Ok(match inode.mode & S_IFMT {
            S_IFDIR => Content::Directory(Listing::default()),
            S_IFREG => Content::File { size: inode.size, data: self.data(inode)? },
            S_IFLNK => {
                if inode.size == 0 || inode.size > LONGEST_TARGET {
                    return Err(Error::Corrupt("a symbolic link of impossible length"));
                }
                let target = match self.flat(inode)? {
                    (_, 0, tail) => tail,
                    (at, ..) => self.claim(at, BLOCK)?[..inode.size as usize].to_vec(),
                };
                if target.contains(&0) {
                    return Err(Error::Corrupt("a symbolic link with a NUL"));
                }
                Content::Symlink(self.tree.add_text(&target)?)
            }
            S_IFCHR => Content::Character(inode.union),
            S_IFBLK => Content::Block(inode.union),
            S_IFIFO => Content::Fifo,
            S_IFSOCK => Content::Socket,
            _ => return Err(Error::Corrupt("an inode of unknown type")),
        })
    }

    /// Where what a directory or a symbolic link holds is: the first byte of its blocks in the metadata, how many blocks there
    /// are, and its inline tail.
    fn flat(&mut self, inode: &Inode) -> Result<(usize, usize, Vec<u8>)> {
        let size = usize::try_from(inode.size).map_err(|_| Error::Corrupt("too large a directory"))?;
        let (whole, tail) = match inode.layout {
            FLAT_PLAIN => (size.div_ceil(BLOCK), 0),
            // The writer inlines only a tail that is not empty.
            FLAT_INLINE if size != 0 => ((size - 1) / BLOCK, (size - 1) % BLOCK + 1),
            _ => return Err(Error::Corrupt("a directory of unknown layout")),
        };
        let tail = self.claim(inode.after, tail)?;
        if whole == 0 {
            return Ok((0, 0, tail));
        }
        let block = inode.union.checked_sub(self.sb.metadata_block);
        let block = block.ok_or(Error::Corrupt("a directory outside the metadata"))?;
        Ok((block as usize * BLOCK, whole, tail))
    }

    /// Reads the entries of directory `id`.
    fn directory(&mut self, id: NodeId, inode: &Inode) -> Result<()> {
        let (at, count, tail) = self.flat(inode)?;
        let mut previous = Vec::new();
        for number in 0..count {
            let mut block = self.claim(at + number * BLOCK, BLOCK)?;
            if inode.layout == FLAT_PLAIN {
                block.truncate((inode.size as usize - number * BLOCK).min(BLOCK));
            }
            self.entries(id, &block, &mut previous)?;
        }
        if tail.is_empty() { Ok(()) } else { self.entries(id, &tail, &mut previous) }
    }

    /// The entries of a block of it, which come after `previous`.
    fn entries(&mut self, id: NodeId, block: &[u8], previous: &mut Vec<u8>) -> Result<()> {
        for entry in block_entries(block)? {
            let (name, number) = entry?;
            if name.is_empty() || name.len() > LONGEST_NAME || name.iter().any(|b| [0, b'/'].contains(b)) {
                return Err(Error::Corrupt("an impossible name"));
            }
            if name <= &previous[..] {
                return Err(Error::Corrupt("names out of order"));
            }
            previous.clear();
            previous.extend_from_slice(name);
            if name != b"." && name != b".." {
                self.entry(id, name, number)?;
            }
        }
        Ok(())
    }

    fn data(&mut self, inode: &Inode) -> Result<Data> {
        let blocks = inode.size.div_ceil(BLOCK as u64);
        if inode.layout == FLAT_PLAIN {
            if blocks == 0 {
                return Ok(Data::Plain { device: 0, block: 0 });
            }
            self.sb.check(0, inode.union, blocks)?;
            return Ok(Data::Plain { device: 0, block: inode.union });
        }
        let bits = (inode.union & 0x1f) as u8;
        let indexes = inode.union & CHUNK_INDEXES;
        if inode.layout != CHUNK_BASED || inode.union & 0xffff != u32::from(bits) | indexes {
            return Err(Error::Corrupt("a file of unknown layout"));
        }
        let entry_size = if indexes == 0 { 4 } else { 8 };
        let count =
            usize::try_from(blocks.div_ceil(1 << bits)).map_err(|_| Error::Corrupt("too many chunks"))?;
        let bytes = count.checked_mul(entry_size).ok_or(Error::Corrupt("too many chunks"))?;
        let map = self.claim(inode.after.next_multiple_of(entry_size), bytes)?;
        let mut device = None;
        let mut found = Vec::with_capacity(count);
        for (number, entry) in map.chunks_exact(entry_size).enumerate() {
            let block = get32(entry, entry_size - 4);
            found.push(block);
            if block == HOLE {
                continue;
            }
            let on = if indexes == 0 { 0 } else { get16(entry, 2) };
            let before = (number as u64) << bits;
            self.sb.check(on, block, (blocks - before).min(1 << bits))?;
            if *device.get_or_insert(on) != on {
                return Err(Error::Corrupt("a file on two devices"));
            }
        }
        let device = device.unwrap_or(0);
        Ok(match found[..] {
            // How a file without holes is stored that has its data on a device.
            [block] if block != HOLE && device != 0 => Data::Plain { device, block },
            _ => self.tree.add_chunks(Chunks { device, bits, blocks: found }),
        })
    }
}

/// The entries of one directory block, which may be cut short behind its last name.
fn block_entries(block: &[u8]) -> Result<impl Iterator<Item = Result<(&[u8], u32)>>> {
    let names_at = block.get(8..10).map_or(0, |bytes| usize::from(get16(bytes, 0)));
    if names_at == 0 || names_at % DIRENT != 0 || names_at > block.len() {
        return Err(Error::Corrupt("a broken directory"));
    }
    let count = names_at / DIRENT;
    Ok((0..count).map(move |number| {
        let dirent = &block[number * DIRENT..(number + 1) * DIRENT];
        let start = usize::from(get16(dirent, 8));
        let end = if number + 1 < count {
            usize::from(get16(block, (number + 1) * DIRENT + 8))
        } else {
            let rest = block.get(start..).unwrap_or_default();
            start + rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len())
        };
        let name = block.get(start..end).ok_or(Error::Corrupt("a broken directory"))?;
        let node =
            u32::try_from(get64(dirent, 0)).map_err(|_| Error::Corrupt("an impossible node number"))?;
        Ok((name, node))
    }))
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn get64(bytes: &[u8], at: usize) -> u64 {
    u64::from(get32(bytes, at)) | u64::from(get32(bytes, at + 4)) << 32
}
