//! A file tree: what a layer or a whole image holds, but for the files' data, which stay in blocks on a device.
//!
//! Nodes are numbered; a directory maps names to numbers, and a file with two names is one node. Nothing here
//! recurses, since the depth of a tree is up to whoever made it. Nodes and names are in a [`Space`], since how many there
//! are is up to him too; what few nodes have (extended attributes, maps of holes) is in memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::rc::Rc;

use super::format::*;
use super::space::{Space, Table, Text, Texts};
use crate::record;

/// The number of a node in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// The node of that number.
    pub(crate) fn new(number: u32) -> NodeId {
        NodeId(number)
    }

    /// Its number, to be kept elsewhere.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// Position in arrays that are parallel to the tree's nodes.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The number of a set of extended attributes in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct XattrsId(u32);

impl XattrsId {
    /// No attributes.
    pub const NONE: XattrsId = XattrsId(0);

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xattr {
    /// The number that stands for the beginning of the name (see [`Xattr::new`]).
    pub(super) prefix: u8,
    /// The rest of the name.
    pub(super) suffix: Box<[u8]>,
    pub(super) value: Box<[u8]>,
}

impl Xattr {
    /// The attribute, unless its name or its value cannot be stored: names outside `user.`, `trusted.`,
    /// `security.` and the two POSIX ACLs, names of more than 255 bytes, values of more than 65535.
    pub fn new(name: &[u8], value: &[u8]) -> Option<Xattr> {
        if name.len() > LONGEST_NAME || value.len() > usize::from(u16::MAX) || name.contains(&0) {
            return None;
        }
        let (prefix, suffix) = XATTR_PREFIXES.iter().find_map(|(number, prefix)| {
            let suffix = name.strip_prefix(*prefix)?;
            // A namespace wants a name after it, an ACL has none.
            (suffix.is_empty() != prefix.ends_with(b".")).then_some((*number, suffix))
        })?;
        Some(Xattr { prefix, suffix: suffix.into(), value: value.into() })
    }

    /// The whole name.
    pub fn name(&self) -> Vec<u8> {
        let prefix = XATTR_PREFIXES.iter().find(|(number, _)| *number == self.prefix);
        [prefix.map_or(&b""[..], |(_, prefix)| prefix), &self.suffix].concat()
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

/// The number of a map of chunks in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunksId(u32);

/// Where a regular file's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// In consecutive blocks from this one on; of an empty file nowhere.
    Plain {
        /// Number of the device in the device table, from 1; 0 for the image itself.
        device: u16,
        /// First block on that device.
        block: u32,
    },
    /// In chunks, some of which may be holes.
    Chunks(ChunksId),
}

/// The map of a file made of chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    /// As in [`Data::Plain`].
    pub device: u16,
    /// A chunk is `1 << bits` blocks.
    pub bits: u8,
    /// First block of each chunk, or [`HOLE`].
    pub blocks: Vec<u32>,
}

/// What a directory is, but for its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listing {
    /// Its last made entry, counted from 1; 0 if there is none.
    last: u32,
    /// Its number among the directories.
    number: u32,
    /// Nobody described it: see [`crate::layer`].
    pub implicit: bool,
    /// It hides what lower layers have in it.
    pub opaque: bool,
}

impl Listing {
    /// Position in arrays that are parallel to the tree's directories.
    pub fn index(self) -> usize {
        self.number as usize
    }
}

/// What a node is, beyond its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory(Listing),
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Where they are.
        data: Data,
    },
    /// A symbolic link: its target, 1 to 4095 bytes.
    Symlink(Text),
    /// A character device: its number, as the kernel encodes it in 32 bits.
    Character(u32),
    /// A block device.
    Block(u32),
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// Attributes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions, set-id and sticky bits (`07777`).
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since 1970 and nanoseconds after them.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: XattrsId,
}

impl Attributes {
    /// Those of a directory that nobody described: root's, 0755, from 1970.
    pub const PLAIN_DIRECTORY: Attributes =
        Attributes { permissions: 0o755, uid: 0, gid: 0, mtime: (0, 0), xattrs: XattrsId::NONE };
}

/// A file, a directory, or anything else that has an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Mode, owner, times, extended attributes.
    pub attributes: Attributes,
    /// Type and what belongs to it.
    pub content: Content,
}

impl Node {
    /// Type and permissions as in `st_mode`.
    pub fn mode(&self) -> u16 {
        let kind = match self.content {
            Content::Directory(_) => S_IFDIR,
            Content::File { .. } => S_IFREG,
            Content::Symlink(_) => S_IFLNK,
            Content::Character(_) => S_IFCHR,
            Content::Block(_) => S_IFBLK,
            Content::Fifo => S_IFIFO,
            Content::Socket => S_IFSOCK,
        };
        kind | self.attributes.permissions
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.content, Content::Directory(_))
    }
}

record! {
    /// A node as it is kept.
    struct Kept {
        seconds: i64,
        size: u64,
        nanoseconds: u32,
        uid: u32,
        gid: u32,
        xattrs: u32,
        word: u32,
        mode: u16,
        half: u16,
    }
}

/// In a [`Kept`]'s mode, a type that Linux does not have: a file with a map.
const CHUNKED: u16 = 0o160000;

impl From<Node> for Kept {
    fn from(node: Node) -> Kept {
        let Attributes { permissions, uid, gid, mtime: (seconds, nanoseconds), xattrs } = node.attributes;
        let (kind, size, word, half) = match node.content {
            Content::Directory(Listing { last, number, implicit, opaque }) => {
                (S_IFDIR, u64::from(number), last, u16::from(implicit) | u16::from(opaque) << 1)
            }
            Content::File { size, data: Data::Plain { device, block } } => (S_IFREG, size, block, device),
            Content::File { size, data: Data::Chunks(id) } => (CHUNKED, size, id.0, 0),
            Content::Symlink(target) => {
                let (at, length) = target.parts();
                (S_IFLNK, 0, at, length)
            }
            Content::Character(device) => (S_IFCHR, 0, device, 0),
            Content::Block(device) => (S_IFBLK, 0, device, 0),
            Content::Fifo => (S_IFIFO, 0, 0, 0),
            Content::Socket => (S_IFSOCK, 0, 0, 0),
        };
        let mode = kind | permissions & !S_IFMT;
        Kept { seconds, size, nanoseconds, uid, gid, xattrs: xattrs.0, word, mode, half }
    }
}

impl From<Kept> for Node {
    fn from(kept: Kept) -> Node {
        let Kept { seconds, size, nanoseconds, uid, gid, xattrs, word, mode, half } = kept;
        let content = match mode & S_IFMT {
            S_IFDIR => Content::Directory(Listing {
                last: word,
                number: size as u32,
                implicit: half & 1 != 0,
                opaque: half & 2 != 0,
            }),
            S_IFREG => Content::File { size, data: Data::Plain { device: half, block: word } },
            CHUNKED => Content::File { size, data: Data::Chunks(ChunksId(word)) },
            S_IFLNK => Content::Symlink(Text::of_parts(word, half)),
            S_IFCHR => Content::Character(word),
            S_IFBLK => Content::Block(word),
            S_IFSOCK => Content::Socket,
            _ => Content::Fifo,
        };
        let mtime = (seconds, nanoseconds);
        let attributes =
            Attributes { permissions: mode & !S_IFMT, uid, gid, mtime, xattrs: XattrsId(xattrs) };
        Node { attributes, content }
    }
}

record! {
    /// A name in a directory.
    struct Entry {
        directory: u32,
        /// What it leads to; the root, which is in no directory, if it has been taken out.
        node: u32,
        hash: u32,
        /// The entry before it in its bucket; counted from 1.
        in_bucket: u32,
        /// The entry before it in its directory; counted from 1.
        in_directory: u32,
        name: Text,
    }
}

/// The tree. Nodes are never removed: what no name leads to is not written.
#[derive(Debug)]
pub struct Tree {
    space: Rc<Space>,
    nodes: Table<Kept>,
    entries: Table<Entry>,
    texts: Texts,
    /// By hash: the last made entry, counted from 1. As many as a power of two.
    buckets: Table<u32>,
    hasher: RandomState,
    directories: u32,
    chunks: Vec<Chunks>,
    xattrs: Vec<Box<[Xattr]>>,
    xattr_ids: HashMap<Box<[Xattr]>, XattrsId>,
}

/// Entries whose names are sorted in memory; more of them are looked at where they are.
const SORTED_IN_MEMORY: usize = 1 << 16;

impl Tree {
    /// An empty root directory, and room for what comes to it.
    pub fn new(space: &Rc<Space>) -> io::Result<Tree> {
        let mut tree = Tree {
            space: Rc::clone(space),
            nodes: Table::new(space),
            entries: Table::new(space),
            texts: Texts::new(space),
            buckets: Table::filled(space, 0, 1)?,
            hasher: RandomState::new(),
            directories: 0,
            chunks: Vec::new(),
            xattrs: vec![Box::default()],
            xattr_ids: HashMap::new(),
        };
        tree.add_directory(Attributes::PLAIN_DIRECTORY)?;
        Ok(tree)
    }

    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// Where it is.
    pub fn space(&self) -> &Rc<Space> {
        &self.space
    }

    /// How many nodes there are, those without a name included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is not even a root: never.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many directories there are.
    pub fn directories(&self) -> usize {
        self.directories as usize
    }

    /// All nodes.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> Node {
        self.nodes.get(id.index()).into()
    }

    /// The same node with other attributes.
    pub fn set_attributes(&mut self, id: NodeId, attributes: Attributes) {
        let content = self.node(id).content;
        self.nodes.set(id.index(), Node { attributes, content }.into());
    }

    /// The same directory, otherwise marked; any other node stays what it is.
    pub fn mark(&mut self, id: NodeId, change: impl FnOnce(&mut Listing)) {
        let Node { attributes, content } = self.node(id);
        if let Content::Directory(mut listing) = content {
            change(&mut listing);
            self.nodes.set(id.index(), Node { attributes, content: Content::Directory(listing) }.into());
        }
    }

    /// A new node that has no name yet, and is no directory.
    pub fn add(&mut self, node: Node) -> io::Result<NodeId> {
        debug_assert!(!node.is_directory());
        self.nodes.push(node.into()).map(NodeId)
    }

    /// A new empty directory that has no name yet.
    pub fn add_directory(&mut self, attributes: Attributes) -> io::Result<NodeId> {
        let content = Content::Directory(Listing { number: self.directories, ..Listing::default() });
        self.directories += 1;
        self.nodes.push(Node { attributes, content }.into()).map(NodeId)
    }

    /// A symbolic link's target.
    pub fn add_text(&mut self, text: &[u8]) -> io::Result<Text> {
        self.texts.push(text)
    }

    /// The bytes of a target.
    pub fn text(&self, text: Text) -> Cow<'_, [u8]> {
        self.texts.get(text)
    }

    /// A map, for a node's [`Data::Chunks`].
    pub fn add_chunks(&mut self, chunks: Chunks) -> Data {
        let id = u32::try_from(self.chunks.len()).expect("fewer maps than fit into memory");
        self.chunks.push(chunks);
        Data::Chunks(ChunksId(id))
    }

    /// The map of that number.
    pub fn chunks(&self, id: ChunksId) -> &Chunks {
        &self.chunks[id.0 as usize]
    }

    /// The node that `name` in `directory` leads to.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let (_, entry) = self.find(directory, name, self.hash(directory, name))?;
        (entry.node != Self::ROOT.0).then_some(NodeId(entry.node))
    }

    fn hash(&self, directory: NodeId, name: &[u8]) -> u32 {
        self.hasher.hash_one((directory.0, name)) as u32
    }

    fn bucket(&self, hash: u32) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    fn find(&self, directory: NodeId, name: &[u8], hash: u32) -> Option<(usize, Entry)> {
        let mut next = self.buckets.get(self.bucket(hash));
        while let Some(number) = next.checked_sub(1) {
            let entry = self.entries.get(number as usize);
            if (entry.hash, entry.directory) == (hash, directory.0) && *self.texts.get(entry.name) == *name {
                return Some((number as usize, entry));
            }
            next = entry.in_bucket;
        }
        None
    }

    /// The entries of `directory`, the last made first, or in the order of their names after [`Tree::sort`]; none if it is
    /// no directory.
    pub fn entries(&self, directory: NodeId) -> impl Iterator<Item = (Cow<'_, [u8]>, NodeId)> {
        let all = self.all_entries(directory).map(|number| self.entries.get(number as usize));
        let there = all.filter(|entry| entry.node != Self::ROOT.0);
        there.map(|entry| (self.texts.get(entry.name), NodeId(entry.node)))
    }

    /// The numbers of its entries, those that lead to nothing included.
    fn all_entries(&self, directory: NodeId) -> impl Iterator<Item = u32> {
        let mut next = match self.node(directory).content {
            Content::Directory(listing) => listing.last,
            _ => 0,
        };
        std::iter::from_fn(move || {
            let number = next.checked_sub(1)?;
            next = self.entries.get(number as usize).in_directory;
            Some(number)
        })
    }

    /// Lets `name` in `directory` lead to `node`, instead of whatever it led to.
    pub fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId) -> io::Result<()> {
        let hash = self.hash(directory, name);
        if let Some((number, entry)) = self.find(directory, name, hash) {
            self.entries.set(number, Entry { node: node.0, ..entry });
            return Ok(());
        }
        if self.entries.len() >= self.buckets.len() {
            self.double_buckets()?;
        }
        let Node { attributes, content: Content::Directory(mut listing) } = self.node(directory) else {
            debug_assert!(false, "callers have looked");
            return Ok(());
        };
        let name = self.texts.push(name)?;
        let bucket = self.bucket(hash);
        let entry = Entry {
            directory: directory.0,
            node: node.0,
            hash,
            in_bucket: self.buckets.get(bucket),
            in_directory: listing.last,
            name,
        };
        let number = self.entries.push(entry)? + 1;
        self.buckets.set(bucket, number);
        listing.last = number;
        self.nodes.set(directory.index(), Node { attributes, content: Content::Directory(listing) }.into());
        Ok(())
    }

    fn double_buckets(&mut self) -> io::Result<()> {
        let count = (self.buckets.len() * 2).max(64);
        // The old ones go first: there need not be room for both.
        self.buckets = Table::new(&self.space);
        self.buckets = Table::filled(&self.space, 0, count)?;
        for number in 0..self.entries.len() {
            let entry = self.entries.get(number);
            let bucket = self.bucket(entry.hash);
            self.entries.set(number, Entry { in_bucket: self.buckets.get(bucket), ..entry });
            self.buckets.set(bucket, number as u32 + 1);
        }
        Ok(())
    }

    /// Takes `name` out of `directory`.
    pub fn unlink(&mut self, directory: NodeId, name: &[u8]) {
        if let Some((number, entry)) = self.find(directory, name, self.hash(directory, name)) {
            self.entries.set(number, Entry { node: Self::ROOT.0, ..entry });
        }
    }

    /// Takes everything out of `directory`.
    pub fn clear(&mut self, directory: NodeId) {
        let numbers: Vec<u32> = self.all_entries(directory).collect();
        for number in numbers {
            let entry = self.entries.get(number as usize);
            self.entries.set(number as usize, Entry { node: Self::ROOT.0, ..entry });
        }
    }

    /// Puts the entries of `directory` into the order of their names.
    pub fn sort(&mut self, directory: NodeId) {
        let mut numbers: Vec<u32> = self.all_entries(directory).collect();
        let name = |number: &u32| self.texts.get(self.entries.get(*number as usize).name);
        if numbers.len() <= SORTED_IN_MEMORY {
            let mut named: Vec<_> = numbers.iter().map(|number| (name(number), *number)).collect();
            named.sort_unstable();
            numbers = named.into_iter().map(|(_, number)| number).collect();
        } else {
            numbers.sort_unstable_by(|one, other| name(one).cmp(&name(other)));
        }
        let mut next = 0;
        for number in numbers.into_iter().rev() {
            let entry = self.entries.get(number as usize);
            self.entries.set(number as usize, Entry { in_directory: next, ..entry });
            next = number + 1;
        }
        self.mark(directory, |listing| listing.last = next);
    }

    /// The number of a set of attributes, in any order; a name given twice keeps its last value.
    pub fn xattrs_id(&mut self, mut set: Vec<Xattr>) -> XattrsId {
        set.reverse();
        set.sort_by(|a, b| (a.prefix, &a.suffix).cmp(&(b.prefix, &b.suffix)));
        set.dedup_by(|a, b| (a.prefix, &a.suffix) == (b.prefix, &b.suffix));
        if set.is_empty() {
            return XattrsId::NONE;
        }
        let set = set.into_boxed_slice();
        if let Some(id) = self.xattr_ids.get(&set) {
            return *id;
        }
        let id = XattrsId(u32::try_from(self.xattrs.len()).expect("no more sets than nodes"));
        self.xattrs.push(set.clone());
        self.xattr_ids.insert(set, id);
        id
    }

    /// The attributes of a set, in the order they are stored in.
    pub fn xattrs(&self, id: XattrsId) -> &[Xattr] {
        &self.xattrs[id.index()]
    }

    /// How many different sets there are, the empty one included.
    pub fn xattr_set_count(&self) -> usize {
        self.xattrs.len()
    }

    pub(super) fn xattr_sets(&self) -> &[Box<[Xattr]>] {
        &self.xattrs
    }
}
