//! Applies entries, one after another, to the tree of a layer: the rules in the head of [`super`].

use std::collections::HashMap;
use std::rc::Rc;

use super::blocks::Stored;
use super::marks::{self, Mark};
use super::tar::{Entry, Kind};
use super::way::{Step, Way};
use super::{Error, Limits};
use crate::erofs::format::LONGEST_NAME;
use crate::erofs::space::Space;
use crate::erofs::tree::*;
use crate::erofs::{LARGEST_XATTRS, xattrs_fit};

/// The longest path, and the longest target of a link, in bytes (`PATH_MAX` less the final NUL).
const LONGEST_PATH: usize = 4095;
/// Entries that a layer may have however small it is: what is beyond must come with a KiB for each, or it is a layer of
/// nothing but names.
const FREE_ENTRIES: u64 = 512 << 10;

/// Where an entry goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// It describes the root directory.
    Root,
    /// It is `name` (so many bytes from the path's end) in this directory.
    In(NodeId, usize),
    /// It hides what lower layers have under that name there.
    Whiteout(NodeId, usize),
    /// It hides whatever lower layers have in this directory.
    Opaque(NodeId),
}

/// A layer's tree while entries are applied.
pub(super) struct Layer {
    tree: Tree,
    /// The one node that every whiteout's name leads to.
    whiteout: NodeId,
    links: HashMap<NodeId, Box<[u8]>>,
    entries: u64,
    /// Bytes of names and targets.
    names: u64,
    /// Bytes of what is in memory whatever the size of the layer.
    memory: u64,
    xattr_bytes: usize,
    limits: Limits,
}

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// AUFS's own files in old images.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

impl Layer {
    pub fn new(space: &Rc<Space>, limits: &Limits) -> Result<Layer, Error> {
        let mut tree = Tree::new(space).map_err(Error::Write)?;
        let mut attributes = Attributes::PLAIN_DIRECTORY;
        attributes.permissions = 0;
        tree.mark(Tree::ROOT, |root| root.implicit = true);
        let whiteout = tree.add(Node { attributes, content: marks::WHITEOUT }).map_err(Error::Write)?;
        Ok(Layer {
            tree,
            whiteout,
            links: HashMap::new(),
            entries: 0,
            names: 0,
            memory: 0,
            xattr_bytes: 0,
            limits: *limits,
        })
    }

    /// The tree, its marks stored.
    pub fn finish(mut self) -> Tree {
        for id in self.tree.ids() {
            let node = self.tree.node(id);
            let mut marked = Vec::new();
            match node.content {
                Content::Directory(listing) => {
                    marked.extend(listing.implicit.then_some(Mark::Implicit));
                    marked.extend(listing.opaque.then_some(Mark::Opaque));
                }
                marks::NO_DATA => marked.extend(self.links.remove(&id).map(Mark::Link)),
                _ => {}
            }
            if marked.is_empty() {
                continue;
            }
            let mut set = self.tree.xattrs(node.attributes.xattrs).to_vec();
            set.extend(marked.iter().filter_map(Mark::xattr));
            let xattrs = self.tree.xattrs_id(set);
            self.tree.set_attributes(id, Attributes { xattrs, ..node.attributes });
        }
        self.tree
    }

    /// Where `entry`, which begins before byte `offset` of the archive, goes; nowhere if it is no part of the image. Makes
    /// the directories above it.
    pub fn place(&mut self, entry: &Entry, offset: u64) -> Result<Option<Place>, Error> {
        let wrong = |what| Error::entry(&entry.path, what);
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::Limit { what: "entries", limit: self.limits.entries });
        }
        if self.entries > FREE_ENTRIES + offset / 1024 {
            return Err(Error::Limit { what: "entries that are next to nothing", limit: FREE_ENTRIES });
        }
        let names = components(&entry.path).map_err(wrong)?;
        let Some((last, parents)) = names.split_last() else {
            return match entry.kind {
                Kind::Directory => Ok(Some(Place::Root)),
                _ => Err(wrong("the root of an image must be a directory")),
            };
        };
        if parents.iter().any(|name| name.starts_with(AUFS_PREFIX)) {
            return Ok(None);
        }
        if *last == OPAQUE_NAME {
            return Ok(Some(Place::Opaque(self.directory(&entry.path, parents)?)));
        }
        if last.starts_with(AUFS_PREFIX) {
            return Ok(None);
        }
        if let Some(hidden) = last.strip_prefix(WHITEOUT_PREFIX) {
            if [&b""[..], b".", b".."].contains(&hidden) {
                return Err(wrong("a whiteout of nothing"));
            }
            return Ok(Some(Place::Whiteout(self.directory(&entry.path, parents)?, hidden.len())));
        }
        Ok(Some(Place::In(self.directory(&entry.path, parents)?, last.len())))
    }

    /// Puts `entry` where [`Layer::place`] said; `data` are a file's.
    pub fn apply(&mut self, place: Place, entry: Entry, data: Option<Stored>) -> Result<(), Error> {
        match place {
            Place::Root => {
                let attributes = self.attributes(&entry)?;
                self.describe(Tree::ROOT, attributes);
                Ok(())
            }
            Place::Opaque(directory) => {
                self.tree.mark(directory, |directory| directory.opaque = true);
                Ok(())
            }
            Place::Whiteout(directory, length) => {
                let path = trimmed(&entry.path);
                self.hide(directory, &path[path.len() - length..])
            }
            Place::In(directory, length) => {
                let path = trimmed(&entry.path);
                let name = &path[path.len() - length..];
                self.put(directory, name, &entry, data)
            }
        }
    }

    fn hide(&mut self, directory: NodeId, name: &[u8]) -> Result<(), Error> {
        match self.tree.child(directory, name) {
            Some(child) if self.tree.node(child).is_directory() => {
                // The layer has a directory of its own there. Nothing of the lower one remains, not even
                // its attributes.
                self.tree.mark(child, |child| (child.opaque, child.implicit) = (true, false));
            }
            // Anything else there hides what is below without being told to.
            Some(_) => {}
            None => {
                self.link(directory, name, self.whiteout)?;
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        directory: NodeId,
        name: &[u8],
        entry: &Entry,
        data: Option<Stored>,
    ) -> Result<(), Error> {
        let wrong = |what| Error::entry(&entry.path, what);
        let content = match entry.kind {
            Kind::Directory => {
                let attributes = self.attributes(entry)?;
                let id = match self.tree.child(directory, name) {
                    Some(child) if self.tree.node(child).is_directory() => child,
                    _ => self.make_directory(directory, name)?,
                };
                self.describe(id, attributes);
                return Ok(());
            }
            Kind::HardLink => return self.hard_link(directory, name, entry),
            Kind::File => {
                let data = match data.unwrap_or(Stored::Plain(0)) {
                    Stored::Plain(block) => Data::Plain { device: 0, block },
                    Stored::Chunks(chunks) => {
                        self.keep(size_of::<Chunks>() + chunks.blocks.len() * 4)?;
                        self.tree.add_chunks(Chunks::clone(&chunks))
                    }
                };
                Content::File { size: entry.size, data }
            }
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(wrong("a symbolic link to nothing"));
                }
                if entry.link.len() > LONGEST_PATH {
                    return Err(wrong("a symbolic link to a name of more than 4095 bytes"));
                }
                if entry.link.contains(&0) {
                    return Err(wrong("a symbolic link to a name with a NUL"));
                }
                self.name(entry.link.len())?;
                Content::Symlink(self.tree.add_text(&entry.link).map_err(Error::Write)?)
            }
            Kind::Character if entry.device == (0, 0) => {
                return self.hide(directory, name);
            }
            Kind::Character => Content::Character(device_number(entry)?),
            Kind::Block => Content::Block(device_number(entry)?),
            Kind::Fifo => Content::Fifo,
        };
        let attributes = self.attributes(entry)?;
        let id = self.tree.add(Node { attributes, content }).map_err(Error::Write)?;
        self.link(directory, name, id)
    }

    fn hard_link(&mut self, directory: NodeId, name: &[u8], entry: &Entry) -> Result<(), Error> {
        let wrong = |what| Error::entry(&entry.path, what);
        let target = components(&entry.link).map_err(|_| wrong("a hard link to an impossible name"))?;
        let Some((last, parents)) = target.split_last() else {
            return Err(wrong("a hard link to a directory"));
        };
        let found = match Way::new(parents).step(&self.tree).map_err(wrong)? {
            Step::Arrived(directory) => self.tree.child(directory, last),
            Step::Blocked(..) => None,
        };
        let id = match found {
            Some(id) if self.tree.node(id).is_directory() => return Err(wrong("a hard link to a directory")),
            Some(id) if id != self.whiteout => id,
            _ => {
                let path = target.join(&b"/"[..]);
                // It becomes an attribute.
                self.keep_attributes(path.len())?;
                let attributes = Attributes { permissions: 0, ..Attributes::PLAIN_DIRECTORY };
                let id = self.tree.add(Node { attributes, content: marks::NO_DATA });
                let id = id.map_err(Error::Write)?;
                self.links.insert(id, path.into());
                id
            }
        };
        self.link(directory, name, id)
    }

    /// Lets a name lead to a node.
    fn link(&mut self, directory: NodeId, name: &[u8], id: NodeId) -> Result<(), Error> {
        self.name(name.len())?;
        self.tree.link(directory, name, id).map_err(Error::Write)
    }

    /// The directory that `names` lead to from the root; what is missing is made.
    fn directory(&mut self, path: &[u8], names: &[&[u8]]) -> Result<NodeId, Error> {
        let wrong = |what| Error::entry(path, what);
        let mut way = Way::new(names);
        loop {
            match way.step(&self.tree).map_err(wrong)? {
                Step::Arrived(directory) => return Ok(directory),
                Step::Blocked(directory, name, there) => {
                    if there.is_some_and(|there| there != self.whiteout) {
                        return Err(wrong("something on the way there is not a directory"));
                    }
                    let made = self.make_directory(directory, &name)?;
                    if there.is_none() {
                        self.tree.mark(made, |made| made.implicit = true);
                    }
                    way.retry(&name);
                }
            }
        }
    }

    /// A new directory. If it takes something else's place, nothing of lower layers is left there.
    fn make_directory(&mut self, directory: NodeId, name: &[u8]) -> Result<NodeId, Error> {
        let id = self.tree.add_directory(Attributes::PLAIN_DIRECTORY).map_err(Error::Write)?;
        if self.tree.child(directory, name).is_some() {
            self.tree.mark(id, |made| made.opaque = true);
        }
        self.link(directory, name, id)?;
        Ok(id)
    }

    fn describe(&mut self, directory: NodeId, attributes: Attributes) {
        self.tree.set_attributes(directory, attributes);
        self.tree.mark(directory, |directory| directory.implicit = false);
    }

    fn attributes(&mut self, entry: &Entry) -> Result<Attributes, Error> {
        let wrong = |what| Error::entry(&entry.path, what);
        let mut set = Vec::new();
        for (name, value) in &entry.xattrs {
            let takes_user = matches!(entry.kind, Kind::File | Kind::Directory);
            if name.starts_with(marks::RESERVED) || (name.starts_with(b"user.") && !takes_user) {
                continue;
            }
            if value.len() > usize::from(u16::MAX) {
                return Err(wrong("an extended attribute of more than 65535 bytes"));
            }
            if name.len() > LONGEST_NAME {
                return Err(wrong("an extended attribute whose name has more than 255 bytes"));
            }
            set.extend(Xattr::new(name, value));
        }
        if !xattrs_fit(&set) {
            return Err(wrong("extended attributes of more than 256 KiB"));
        }
        let bytes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let sets = self.tree.xattr_set_count();
        let xattrs = self.tree.xattrs_id(set);
        if self.tree.xattr_set_count() != sets {
            self.keep_attributes(bytes)?;
        }
        let Entry { permissions, uid, gid, mtime, .. } = *entry;
        Ok(Attributes { permissions, uid, gid, mtime, xattrs })
    }

    /// Accounts for so many bytes of a name or a target.
    fn name(&mut self, bytes: usize) -> Result<(), Error> {
        self.names += bytes as u64;
        if self.names > self.limits.names {
            return Err(Error::Limit { what: "bytes of names", limit: self.limits.names });
        }
        Ok(())
    }

    /// Accounts for so many bytes that stay in memory.
    fn keep(&mut self, bytes: usize) -> Result<(), Error> {
        self.memory += bytes as u64;
        if self.memory > self.limits.memory {
            return Err(Error::Limit { what: "bytes of attributes and holes", limit: self.limits.memory });
        }
        Ok(())
    }

    /// Accounts for a set of extended attributes.
    fn keep_attributes(&mut self, bytes: usize) -> Result<(), Error> {
        self.keep(2 * (bytes + size_of::<Xattr>()))?;
        self.xattr_bytes += bytes;
        // No more than what can be read back.
        if self.xattr_bytes > LARGEST_XATTRS / 2 {
            let limit = LARGEST_XATTRS as u64 / 2;
            return Err(Error::Limit { what: "bytes of extended attributes", limit });
        }
        Ok(())
    }
}

/// The path without the slashes (and `.`) at its end: what it ends with then is its last name.
fn trimmed(path: &[u8]) -> &[u8] {
    let mut path = path;
    loop {
        path = match path {
            [rest @ .., b'/'] | [rest @ .., b'/', b'.'] => rest,
            _ => return path,
        };
    }
}

/// The names in a path.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.len() > LONGEST_PATH {
        return Err("a name of more than 4095 bytes");
    }
    if path.contains(&0) {
        return Err("a name with a NUL");
    }
    let names: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    if names.contains(&&b".."[..]) {
        return Err("a name that leads upwards (..)");
    }
    if names.iter().any(|name| name.len() > LONGEST_NAME) {
        return Err("a name with a part of more than 255 bytes");
    }
    Ok(names)
}

fn device_number(entry: &Entry) -> Result<u32, Error> {
    let (major, minor) = entry.device;
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(Error::entry(&entry.path, "a device number that Linux does not have"));
    }
    Ok(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}
