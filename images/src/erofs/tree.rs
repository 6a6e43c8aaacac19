//! A file tree in memory: what a layer or a whole image holds, but for the files' data, which stay in blocks
//! on a device.
//!
//! Nodes are numbered; a directory maps names to numbers, and a file with two names is one node. Nothing here
//! recurses, since the depth of a tree is up to whoever made it.

use std::collections::{BTreeMap, HashMap};

use super::format::*;

/// The number of a node in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
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

/// Where a regular file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// In consecutive blocks from this one on; of an empty file nowhere.
    Plain {
        /// Number of the device in the device table, from 1; 0 for the image itself.
        device: u16,
        /// First block on that device.
        block: u32,
    },
    /// In chunks, some of which may be holes.
    Chunks(Box<Chunks>),
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

/// What a node is, beyond its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory: its entries, by name.
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Where they are.
        data: Data,
    },
    /// A symbolic link: its target, 1 to 4095 bytes.
    Symlink(Box<[u8]>),
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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// The tree. Nodes are never removed: what no name leads to is not written.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    xattrs: Vec<Box<[Xattr]>>,
    xattr_ids: HashMap<Box<[Xattr]>, XattrsId>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// An empty root directory.
    pub fn new() -> Tree {
        let root =
            Node { attributes: Attributes::PLAIN_DIRECTORY, content: Content::Directory(BTreeMap::new()) };
        Tree { nodes: vec![root], xattrs: vec![Box::default()], xattr_ids: HashMap::new() }
    }

    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// How many nodes there are, those without a name included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is not even a root: never.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The node, to change.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// A new node that has no name yet.
    pub fn add(&mut self, node: Node) -> NodeId {
        let id =
            NodeId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes: limits are far lower"));
        self.nodes.push(node);
        id
    }

    /// The node that `name` in `directory` leads to.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.entries(directory).and_then(|entries| entries.get(name)).copied()
    }

    /// The entries of `directory`; `None` if it is none.
    pub fn entries(&self, directory: NodeId) -> Option<&BTreeMap<Box<[u8]>, NodeId>> {
        match &self.node(directory).content {
            Content::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// The entries of `directory`, to change; `None` if it is none.
    pub fn entries_mut(&mut self, directory: NodeId) -> Option<&mut BTreeMap<Box<[u8]>, NodeId>> {
        match &mut self.node_mut(directory).content {
            Content::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// Lets `name` in `directory` lead to `node`, instead of whatever it led to.
    ///
    /// # Panics
    /// If `directory` is none: callers have looked.
    pub fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId) {
        let entries = self.entries_mut(directory).expect("a directory to link in");
        match entries.get_mut(name) {
            Some(entry) => *entry = node,
            None => drop(entries.insert(name.into(), node)),
        }
    }

    /// Takes `name` out of `directory`.
    pub fn unlink(&mut self, directory: NodeId, name: &[u8]) {
        if let Some(entries) = self.entries_mut(directory) {
            entries.remove(name);
        }
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
