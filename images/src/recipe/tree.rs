//! The tree of files that a recipe describes, as dpkg would leave it on a merged-/usr system, and its layers as tars.
//!
//! Nothing of it exists as files: owners and modes go from the packages' tars straight into the layers' tars, which is
//! why neither root nor a file system with the right features is needed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use tar::{EntryType, Header};

use super::Error;
use super::base::Base;
use crate::digest::shortened;
use crate::erofs::tree as erofs;

/// Symlinks followed on the way to one path, as Linux bounds them.
const MAX_LINKS: u32 = 40;

/// Owner, permissions and time of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    Symlink(Vec<u8>),
    /// An index into [`Tree::contents`]; entries with the same one are hard links of each other.
    File(usize),
    /// Something of an image below that nobody looks into.
    Foreign,
}

#[derive(Debug, Clone)]
struct Entry {
    node: Node,
    attributes: Attributes,
    /// Which layer brings it.
    layer: usize,
    /// Which package or recipe it is from, for messages.
    origin: String,
}

#[derive(Debug, Clone, Copy)]
struct Content {
    offset: u64,
    size: u64,
}

/// A tree that grows layer by layer.
pub(super) struct Tree {
    /// By path without a slash in front: a directory sorts before what is in it.
    entries: BTreeMap<Vec<u8>, Entry>,
    contents: Vec<Content>,
    /// All contents, one after another, in a file that has no name.
    spool: File,
    layer: usize,
    /// No entry is younger.
    epoch: u64,
    /// Paths that are not taken from packages.
    drop: Vec<String>,
}

/// Where files without a meaning at run time are. The licences (`copyright`) stay: whoever hands out an image needs them.
const DROPPED: &[&str] = &[
    "usr/share/bash-completion/",
    "usr/share/bug/",
    "usr/share/doc-base/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/zsh/",
];

impl Tree {
    pub(super) fn new(epoch: u64) -> io::Result<Self> {
        Ok(Self {
            entries: BTreeMap::new(),
            contents: Vec::new(),
            spool: tempfile::tempfile()?,
            layer: 0,
            epoch,
            drop: Vec::new(),
        })
    }

    /// What comes from now on belongs to the next layer, and may replace what is there.
    pub(super) fn next_layer(&mut self, drop: Vec<String>, epoch: u64) {
        self.layer += 1;
        self.drop = drop.into_iter().map(|path| path.trim_start_matches('/').to_owned()).collect();
        self.epoch = epoch;
    }

    /// Takes an image for what is below the first layer. Of its files only those that are looked into are read: the accounts,
    /// and those of these directories.
    pub(super) fn stand_on(&mut self, base: &Base, directories: &[String]) -> Result<(), Error> {
        let mut read: Vec<Vec<u8>> = vec![b"etc/passwd".to_vec(), b"etc/group".to_vec()];
        read.extend(directories.iter().map(|path| format!("{}/", path.trim_matches('/')).into_bytes()));
        let mut failed = Ok(());
        base.walk(|path, node| {
            let wanted = || {
                read.iter().any(|wanted| path == wanted || wanted.ends_with(b"/") && path.starts_with(wanted))
            };
            let mut keep = || -> Result<Node, Error> {
                Ok(match node.content {
                    erofs::Content::Directory(_) => Node::Directory,
                    erofs::Content::Symlink(target) => Node::Symlink(base.target(target)),
                    erofs::Content::File { .. } if wanted() => {
                        let content = base.content(&lossy(path), node)?;
                        let stored = self.store(&content[..]);
                        Node::File(
                            stored.map_err(|cause| Error::Write { path: "temporary file".into(), cause })?,
                        )
                    }
                    _ => Node::Foreign,
                })
            };
            match keep() {
                Ok(kept) => {
                    let there = &node.attributes;
                    let attributes = Attributes {
                        mode: there.permissions.into(),
                        uid: there.uid.into(),
                        gid: there.gid.into(),
                        mtime: u64::try_from(there.mtime.0).unwrap_or(0),
                    };
                    let origin = "the image below".to_owned();
                    self.entries
                        .insert(path.to_vec(), Entry { node: kept, attributes, layer: self.layer, origin });
                }
                Err(error) => failed = Err(error),
            }
        });
        failed
    }

    /// Adds a package's files.
    pub(super) fn add_package(&mut self, name: &str, mut data: tar::Archive<impl Read>) -> Result<(), Error> {
        let broken = |cause: io::Error| Error::Package { name: name.to_owned(), cause };
        // Hard links name paths of this package, so that is where they are looked up.
        let mut files: HashMap<Vec<u8>, usize> = HashMap::new();
        for entry in data.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let path = normalised(&entry.path_bytes()).map_err(broken)?;
            if path.is_empty() {
                continue;
            }
            let header = entry.header();
            let attributes = Attributes {
                mode: header.mode().map_err(broken)? & 0o7777,
                uid: header.uid().map_err(broken)?,
                gid: header.gid().map_err(broken)?,
                mtime: header.mtime().map_err(broken)?,
            };
            let link = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
            let node = match entry.header().entry_type() {
                EntryType::Directory => Node::Directory,
                EntryType::Symlink => Node::Symlink(link),
                EntryType::Regular | EntryType::Continuous => {
                    let content = self.store(&mut entry).map_err(broken)?;
                    files.insert(path.clone(), content);
                    Node::File(content)
                }
                EntryType::Link => {
                    let target = normalised(&link).map_err(broken)?;
                    Node::File(*files.get(&target).ok_or_else(|| {
                        let message = format!("hard link to {}, which it does not have", lossy(&target));
                        broken(io::Error::new(io::ErrorKind::InvalidData, message))
                    })?)
                }
                other => {
                    let message =
                        format!("{} is of type {other:?}, which packages do not have", lossy(&path));
                    return Err(broken(io::Error::new(io::ErrorKind::InvalidData, message)));
                }
            };
            if !self.is_dropped(&path) {
                self.insert(&path, node, attributes, name, false)?;
            }
        }
        Ok(())
    }

    fn is_dropped(&self, path: &[u8]) -> bool {
        let path = lossy(path);
        let below = |dropped: &str| {
            path.strip_prefix(dropped.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // Directories usr/share/doc/PACKAGE and their `copyright` stay, in depth 3 and 4.
        let documentation = path.starts_with("usr/share/doc/")
            && match path.matches('/').count() {
                3 => false,
                4 => !path.ends_with("/copyright"),
                _ => true,
            };
        documentation
            || DROPPED.iter().any(|dropped| below(dropped))
            || self.drop.iter().any(|dropped| below(dropped))
    }

    /// Adds what a recipe says itself, which wins over packages.
    pub(super) fn add(
        &mut self,
        path: &str,
        node: Node,
        attributes: Attributes,
        recipe: &str,
    ) -> Result<(), Error> {
        let path = normalised(path.as_bytes())
            .ok()
            .filter(|path| !path.is_empty())
            .ok_or_else(|| Error::Path { path: shortened(path) })?;
        self.insert(&path, node, attributes, recipe, true)
    }

    /// Keeps a content and says how to refer to it.
    pub(super) fn store(&mut self, mut content: impl Read) -> io::Result<usize> {
        let offset = self.spool.seek(SeekFrom::End(0))?;
        let size = io::copy(&mut content, &mut self.spool)?;
        self.contents.push(Content { offset, size });
        Ok(self.contents.len() - 1)
    }

    /// The content of a file, if there is one by that name.
    pub(super) fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.entries.get(path.trim_start_matches('/').as_bytes()) {
            Some(Entry { node: Node::File(content), .. }) => {
                let content = self.contents[*content];
                let mut bytes = Vec::new();
                let read = self.spool.seek(SeekFrom::Start(content.offset));
                let read = read.and_then(|_| (&self.spool).take(content.size).read_to_end(&mut bytes));
                read.map_err(|cause| Error::Write { path: "temporary file".into(), cause })?;
                Ok(Some(bytes))
            }
            _ => Ok(None),
        }
    }

    /// The contents of the files in a directory, sub-directories left out, one behind the other in the order of their names.
    pub(super) fn read_all_in(&mut self, directory: &str) -> Result<Vec<u8>, Error> {
        let prefix = format!("{}/", directory.trim_matches('/'));
        let in_it = |path: &[u8]| {
            let name = path.strip_prefix(prefix.as_bytes())?;
            (!name.contains(&b'/')).then(|| lossy(path))
        };
        let from = self.entries.range(prefix.clone().into_bytes()..);
        let names: Vec<_> = from
            .take_while(|(path, _)| path.starts_with(prefix.as_bytes()))
            .filter_map(|(path, _)| in_it(path))
            .collect();
        let mut all = Vec::new();
        for name in names {
            all.extend(self.read(&name)?.unwrap_or_default());
        }
        Ok(all)
    }

    /// True if something has this path, links on the way to it followed.
    pub(super) fn has(&self, path: &str) -> bool {
        normalised(path.as_bytes())
            .and_then(|path| self.resolved(&path))
            .is_ok_and(|path| self.entries.contains_key(&path))
    }

    fn insert(
        &mut self,
        path: &[u8],
        node: Node,
        attributes: Attributes,
        origin: &str,
        wins: bool,
    ) -> Result<(), Error> {
        let path = self.resolved(path).map_err(|cause| Error::Package { name: origin.to_owned(), cause })?;
        self.make_parents(&path, origin)?;
        let attributes = Attributes { mtime: attributes.mtime.min(self.epoch), ..attributes };
        let entry = Entry { node, attributes, layer: self.layer, origin: origin.to_owned() };
        let Some(there) = self.entries.get(&path) else {
            self.entries.insert(path, entry);
            return Ok(());
        };
        match (&there.node, &entry.node) {
            // The first package to bring a directory says how it is; so does what is below it.
            (Node::Directory, Node::Directory) if !wins => return Ok(()),
            // As dpkg does it, a directory that is elsewhere stays elsewhere.
            (Node::Symlink(_), Node::Directory) if !wins => return Ok(()),
            (Node::Symlink(one), Node::Symlink(other)) if one == other => return Ok(()),
            (Node::Directory, Node::Directory) => {}
            (Node::Directory, _) => return Err(self.conflict(&path, &entry)),
            _ if wins || there.layer < self.layer => {}
            _ => return Err(self.conflict(&path, &entry)),
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    fn conflict(&self, path: &[u8], entry: &Entry) -> Error {
        let there = self.entries.get(path).map(|there| there.origin.clone()).unwrap_or_default();
        Error::Conflict { path: lossy(path), one: there, other: entry.origin.clone() }
    }

    fn make_parents(&mut self, path: &[u8], origin: &str) -> Result<(), Error> {
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let parent = &path[..at];
            match self.entries.get(parent).map(|entry| &entry.node) {
                Some(Node::Directory) => {}
                None => {
                    let attributes = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: self.epoch };
                    let entry = Entry {
                        node: Node::Directory,
                        attributes,
                        layer: self.layer,
                        origin: origin.to_owned(),
                    };
                    self.entries.insert(parent.to_vec(), entry);
                }
                Some(_) => {
                    let there = self.entries[parent].origin.clone();
                    return Err(Error::Conflict {
                        path: lossy(parent),
                        one: there,
                        other: origin.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Follows the symlinks among a path's directories, but not the last name. This is what makes /bin be /usr/bin.
    fn resolved(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let mut links = 0;
        let mut rest: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut done: Vec<u8> = Vec::new();
        while let Some(name) = rest.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    done.truncate(done.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let length = done.len();
            if !done.is_empty() {
                done.push(b'/');
            }
            done.extend_from_slice(&name);
            if rest.is_empty() {
                break;
            }
            if let Some(Entry { node: Node::Symlink(target), .. }) = self.entries.get(&done) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{}: too many links", lossy(path)),
                    ));
                }
                done.truncate(if target.starts_with(b"/") { 0 } else { length });
                rest.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
            }
        }
        Ok(done)
    }

    /// Writes what the current layer brings as a tar: in path order, every directory on the way included.
    pub(super) fn write_layer(&mut self, out: impl Write) -> io::Result<()> {
        let mut needed: BTreeMap<&[u8], &Entry> = BTreeMap::new();
        for (path, entry) in self.entries.iter().filter(|(_, entry)| entry.layer == self.layer) {
            for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                if let Some((parent, directory)) = self.entries.get_key_value(&path[..at]) {
                    needed.insert(parent, directory);
                }
            }
            needed.insert(path, entry);
        }
        let mut tar = tar::Builder::new(out);
        let mut first: HashMap<usize, &[u8]> = HashMap::new();
        for (path, entry) in needed {
            let mut header = Header::new_gnu();
            let attributes = entry.attributes;
            header.set_mode(attributes.mode);
            header.set_uid(attributes.uid);
            header.set_gid(attributes.gid);
            header.set_mtime(attributes.mtime);
            match &entry.node {
                Node::Directory => {
                    header.set_entry_type(EntryType::Directory);
                    append(&mut tar, header, &[path, b"/"].concat(), b"", io::empty(), 0)?;
                }
                Node::Symlink(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    append(&mut tar, header, path, target, io::empty(), 0)?;
                }
                // No layer of our own has any.
                Node::Foreign => {}
                Node::File(content) => match first.get(content) {
                    Some(target) => {
                        header.set_entry_type(EntryType::Link);
                        append(&mut tar, header, path, target, io::empty(), 0)?;
                    }
                    None => {
                        first.insert(*content, path);
                        let Content { offset, size } = self.contents[*content];
                        header.set_entry_type(EntryType::Regular);
                        self.spool.seek(SeekFrom::Start(offset))?;
                        append(&mut tar, header, path, b"", (&self.spool).take(size), size)?;
                    }
                },
            }
        }
        tar.into_inner()?.flush()
    }
}

/// One entry; names that do not fit the header go before it, the GNU way.
fn append(
    tar: &mut tar::Builder<impl Write>,
    mut header: Header,
    path: &[u8],
    link: &[u8],
    content: impl Read,
    size: u64,
) -> io::Result<()> {
    for (kind, name) in [(EntryType::GNULongName, path), (EntryType::GNULongLink, link)] {
        if name.len() > 100 {
            let mut long = Header::new_gnu();
            long.as_mut_bytes()[..13].copy_from_slice(b"././@LongLink");
            long.set_entry_type(kind);
            long.set_mode(0o644);
            long.set_uid(0);
            long.set_gid(0);
            long.set_mtime(0);
            long.set_size(name.len() as u64 + 1);
            long.set_cksum();
            tar.append(&long, name.chain(&b"\0"[..]))?;
        }
    }
    let (name, target) = (&path[..path.len().min(100)], &link[..link.len().min(100)]);
    // Offsets of the ustar header's name and linkname fields.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target);
    header.set_size(size);
    header.set_cksum();
    tar.append(&header, content)
}

/// Without `.` and slashes that mean nothing; a `..` is refused.
fn normalised(path: &[u8]) -> io::Result<Vec<u8>> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} has a ..", lossy(path))));
            }
            part if part.contains(&0) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a name has a NUL"));
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

fn lossy(path: &[u8]) -> String {
    shortened(&String::from_utf8_lossy(path))
}

/// The newest modification time in a package: what is built from it is dated no later.
pub(super) fn newest(mut data: tar::Archive<impl Read>) -> io::Result<u64> {
    let mut newest = 0;
    for entry in data.entries()? {
        newest = newest.max(entry?.header().mtime()?);
    }
    Ok(newest)
}

/// The path that a recipe's `source` names: beside the recipes and nowhere else.
pub(super) fn beside(recipes: &Path, source: &str) -> Result<std::path::PathBuf, Error> {
    match normalised(source.as_bytes()) {
        Ok(path) if !source.starts_with('/') && !path.is_empty() => Ok(recipes.join(source)),
        _ => Err(Error::Path { path: shortened(source) }),
    }
}
