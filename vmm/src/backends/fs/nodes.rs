//! The guest's nodes: each a file of the shared directory that the guest knows by a number.
//!
//! A guest remembers as many files as its memory holds, and a process of the host has only so many descriptors. So a node
//! is first of all a name in its parent; its descriptor is opened when needed, closed when others need it more, and checked to be
//! of the same file when it is opened again. What the host has moved away meanwhile is stale (`ESTALE`, upon which the guest
//! looks it up anew); what the guest has itself unlinked keeps its descriptor.

use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// The number of the shared directory itself.
pub(super) const ROOT: u64 = 1;
/// The number of the shared file, where it is only one: it lies in a root that holds nothing else.
pub(super) const FILE: u64 = 2;
/// The most nodes of a guest: of what it looks up beyond, it learns that the system's table is full.
const MOST: usize = 1 << 20;
/// The most descriptors looked at in search of one that can be closed.
const SEARCH: usize = 4096;
/// The deepest path that is opened again.
const DEEPEST: usize = 1024;
/// How a node is opened: as a place, not as contents.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What tells files apart.
type Identity = (u64, u64);

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

struct Node {
    fd: Option<Rc<OwnedFd>>,
    identity: Identity,
    kind: u32,
    parent: u64,
    name: CString,
    /// How often the guest was told of it.
    lookups: u64,
    /// How many nodes have it as their parent.
    children: u64,
    /// Whether its name no longer leads to it.
    nameless: bool,
    /// Whether it was used since somebody last searched for a descriptor to close.
    used: bool,
}

/// All nodes of a guest.
pub(super) struct Nodes {
    nodes: BTreeMap<u64, Node>,
    numbers: HashMap<Identity, u64>,
    /// The nodes up to this one were there from the start and stay.
    permanent: u64,
    next: u64,
    open: usize,
    most_open: usize,
    /// Where the search for a descriptor to close goes on.
    hand: u64,
}

/// What a lookup has found.
pub(super) struct Found {
    /// The node's number.
    pub node: u64,
    /// What it is.
    pub stat: Stat,
    /// Whether it is of another file system than its parent.
    pub is_mount: bool,
}

impl Nodes {
    /// The root, and perhaps the one [`FILE`] in it. About `most_open` descriptors are kept open.
    pub fn new(root: OwnedFd, file: Option<OwnedFd>, most_open: usize) -> Result<Self, Errno> {
        let (mut nodes, mut numbers) = (BTreeMap::new(), HashMap::new());
        for (number, fd) in [(ROOT, Some(root)), (FILE, file)] {
            let Some(fd) = fd else { continue };
            let stat = fstat(&fd)?;
            let node = Node {
                fd: Some(Rc::new(fd)),
                identity: identity(&stat),
                kind: stat.st_mode & KIND,
                parent: ROOT,
                name: CString::default(),
                lookups: 0,
                children: 0,
                nameless: true,
                used: true,
            };
            numbers.insert(node.identity, number);
            nodes.insert(number, node);
        }
        let permanent = nodes.len() as u64;
        Ok(Self { open: nodes.len(), nodes, numbers, permanent, next: permanent + 1, most_open, hand: 0 })
    }

    /// Forgets everything but what was there from the start.
    pub fn clear(&mut self) {
        self.nodes.retain(|number, _| *number <= self.permanent);
        self.numbers.retain(|_, number| *number <= self.permanent);
        (self.open, self.hand) = (self.nodes.len(), 0);
        self.nodes.values_mut().for_each(|node| node.children = 0);
    }

    /// A descriptor of a node.
    pub fn fd(&mut self, number: u64) -> Result<Rc<OwnedFd>, Errno> {
        // From the node up to the first that is open, and down again.
        let mut path = Vec::new();
        let mut at = number;
        let mut fd = loop {
            let node = self.nodes.get_mut(&at).ok_or(Errno::STALE)?;
            node.used = true;
            if let Some(fd) = &node.fd {
                break fd.clone();
            }
            if node.nameless || path.len() == DEEPEST {
                return Err(Errno::STALE);
            }
            path.push(at);
            at = node.parent;
        };
        while let Some(at) = path.pop() {
            self.make_room();
            let node = self.nodes.get_mut(&at).ok_or(Errno::STALE)?;
            let again = openat(&*fd, &node.name, PLACE, Mode::empty()).map_err(|_| Errno::STALE)?;
            let stat = fstat(&again)?;
            if identity(&stat) != node.identity || stat.st_mode & KIND != node.kind {
                return Err(Errno::STALE);
            }
            fd = Rc::new(again);
            node.fd = Some(fd.clone());
            self.open += 1;
        }
        Ok(fd)
    }

    /// Looks an entry of a directory up. The guest is to be told of it: the node is its until it forgets it.
    pub fn look_up(&mut self, parent: u64, name: &CStr) -> Result<Found, Errno> {
        let directory = self.fd(parent)?;
        self.make_room();
        let fd = openat(&*directory, name, PLACE, Mode::empty())?;
        let stat = fstat(&fd)?;
        let is_mount = stat.st_mode & KIND == DIRECTORY
            && self.nodes.get(&parent).is_some_and(|p| p.identity.0 != stat.st_dev);
        let identity = identity(&stat);
        let number = match self.numbers.get(&identity) {
            Some(number) => *number,
            None if self.nodes.len() >= MOST => return Err(Errno::NFILE),
            None => self.insert(parent, name, &stat),
        };
        let Some(node) = self.nodes.get_mut(&number) else { return Err(Errno::STALE) };
        node.lookups = node.lookups.saturating_add(1);
        node.used = true;
        node.kind = stat.st_mode & KIND;
        if node.fd.is_none() {
            node.fd = Some(Rc::new(fd));
            self.open += 1;
        }
        self.moved(Some(number), parent, name);
        Ok(Found { node: number, stat, is_mount })
    }

    fn insert(&mut self, parent: u64, name: &CStr, stat: &Stat) -> u64 {
        let number = self.next;
        self.next += 1;
        let node = Node {
            fd: None,
            identity: identity(stat),
            kind: stat.st_mode & KIND,
            parent,
            name: name.to_owned(),
            lookups: 0,
            children: 0,
            nameless: false,
            used: true,
        };
        self.nodes.insert(number, node);
        self.numbers.insert(identity(stat), number);
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children += 1;
        }
        number
    }

    /// A node has this name now.
    fn rename(&mut self, number: u64, parent: u64, name: &CStr) {
        let Some(node) = self.nodes.get_mut(&number) else { return };
        node.nameless = false;
        if node.name.as_c_str() != name {
            node.name = name.to_owned();
        }
        let before = std::mem::replace(&mut node.parent, parent);
        if before != parent {
            if let Some(parent) = self.nodes.get_mut(&parent) {
                parent.children += 1;
            }
            self.child_gone(before);
        }
    }

    /// The node of an entry, if the guest knows it. It is asked before the entry is changed.
    pub fn known(&mut self, parent: u64, name: &CStr) -> Option<u64> {
        let directory = self.fd(parent).ok()?;
        let stat = statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let number = *self.numbers.get(&identity(&stat))?;
        // What may lose its name is taken hold of while it still has it.
        self.fd(number).ok()?;
        Some(number)
    }

    /// An entry has been removed: the node that was [known](Self::known) for it may have lost its name.
    pub fn removed(&mut self, node: Option<u64>, parent: u64, name: &CStr) {
        if let Some(node) = node.and_then(|number| self.nodes.get_mut(&number))
            && (node.parent, node.name.as_c_str()) == (parent, name)
        {
            node.nameless = true;
        }
    }

    /// An entry has been moved: the node that was [known](Self::known) for it is there now.
    pub fn moved(&mut self, node: Option<u64>, parent: u64, name: &CStr) {
        if let Some(number) = node.filter(|number| *number > self.permanent) {
            self.rename(number, parent, name);
        }
    }

    /// The guest forgets that it was told `count` times of a node.
    pub fn forget(&mut self, number: u64, count: u64) {
        if let Some(node) = self.nodes.get_mut(&number).filter(|_| number > self.permanent) {
            node.lookups = node.lookups.saturating_sub(count);
            self.drop_if_unused(number);
        }
    }

    fn child_gone(&mut self, parent: u64) {
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children = node.children.saturating_sub(1);
            self.drop_if_unused(parent);
        }
    }

    fn drop_if_unused(&mut self, mut number: u64) {
        while number > self.permanent {
            match self.nodes.get(&number) {
                Some(node) if node.lookups == 0 && node.children == 0 => {}
                _ => return,
            }
            let Some(node) = self.nodes.remove(&number) else { return };
            self.open -= usize::from(node.fd.is_some());
            if self.numbers.get(&node.identity) == Some(&number) {
                self.numbers.remove(&node.identity);
            }
            let Some(parent) = self.nodes.get_mut(&node.parent) else { return };
            parent.children = parent.children.saturating_sub(1);
            number = node.parent;
        }
    }

    /// Closes a descriptor that was not used for a while, if there are too many.
    fn make_room(&mut self) {
        if self.open < self.most_open {
            return;
        }
        for _ in 0..SEARCH {
            let next = self.nodes.range_mut((Bound::Excluded(self.hand), Bound::Unbounded)).next();
            let Some((number, node)) = next else {
                self.hand = 0;
                continue;
            };
            self.hand = *number;
            let can_go = !node.nameless && node.fd.as_ref().is_some_and(|fd| Rc::strong_count(fd) == 1);
            if can_go && !std::mem::take(&mut node.used) {
                node.fd = None;
                self.open -= 1;
                return;
            }
        }
    }

    /// How many there are, and how many of them have a descriptor.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        (self.nodes.len(), self.open)
    }
}

/// The bits of a mode that say what kind of file it is.
pub(super) const KIND: u32 = 0o170_000;
/// A directory.
pub(super) const DIRECTORY: u32 = 0o040_000;
/// A regular file.
pub(super) const REGULAR: u32 = 0o100_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn nodes(root: &Path, most_open: usize) -> Nodes {
        Nodes::new(fs::File::open(root).unwrap().into(), None, most_open).unwrap()
    }

    fn name(number: usize) -> CString {
        CString::new(format!("f{number}")).unwrap()
    }

    #[test]
    fn more_nodes_than_descriptors_are_all_reached() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        for number in 0..100 {
            fs::write(root.path().join(format!("d/f{number}")), [0; 1].repeat(number)).unwrap();
        }
        let mut nodes = nodes(root.path(), 10);
        let directory = nodes.look_up(ROOT, c"d").unwrap().node;
        let files: Vec<_> = (0..100).map(|n| nodes.look_up(directory, &name(n)).unwrap().node).collect();
        assert!(nodes.counts().1 <= 12, "{:?}", nodes.counts());
        for (length, node) in files.iter().enumerate() {
            let fd = nodes.fd(*node).unwrap();
            assert_eq!(fstat(&*fd).unwrap().st_size, length as i64);
        }
        assert!(nodes.counts().1 <= 12, "{:?}", nodes.counts());
        // The directory has moved: its name is a matter of its own.
        let known = nodes.known(ROOT, c"d");
        fs::rename(root.path().join("d"), root.path().join("e")).unwrap();
        nodes.moved(known, ROOT, c"e");
        assert!(files.iter().all(|node| nodes.fd(*node).is_ok()));
        for node in files {
            nodes.forget(node, 1);
        }
        nodes.forget(directory, 1);
        assert_eq!(nodes.counts(), (1, 1));
    }

    #[test]
    fn what_the_host_moves_away_is_stale_and_what_the_guest_unlinks_stays() {
        let root = tempfile::tempdir().unwrap();
        for file in ["theirs", "ours", "a", "b", "c", "d"] {
            fs::write(root.path().join(file), file).unwrap();
        }
        let mut nodes = nodes(root.path(), 3);
        let theirs = nodes.look_up(ROOT, c"theirs").unwrap().node;
        let ours = nodes.look_up(ROOT, c"ours").unwrap().node;
        let known = nodes.known(ROOT, c"ours");
        fs::remove_file(root.path().join("ours")).unwrap();
        nodes.removed(known, ROOT, c"ours");
        for other in [c"a", c"b", c"c", c"d", c"a", c"b"] {
            nodes.look_up(ROOT, other).unwrap();
        }
        fs::rename(root.path().join("theirs"), root.path().join("elsewhere")).unwrap();
        fs::write(root.path().join("theirs"), "another").unwrap();
        assert_eq!(nodes.fd(theirs).unwrap_err(), Errno::STALE);
        assert_eq!(fstat(&*nodes.fd(ours).unwrap()).unwrap().st_nlink, 0);
        assert_eq!(nodes.fd(99).unwrap_err(), Errno::STALE);
    }

    #[test]
    fn a_parent_stays_as_long_as_a_child_needs_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::write(root.path().join("a/b/c"), "").unwrap();
        let mut nodes = nodes(root.path(), 100);
        let a = nodes.look_up(ROOT, c"a").unwrap().node;
        let b = nodes.look_up(a, c"b").unwrap().node;
        let c = nodes.look_up(b, c"c").unwrap().node;
        nodes.forget(a, u64::MAX);
        nodes.forget(b, 1);
        assert_eq!(nodes.counts().0, 4);
        assert!(nodes.fd(c).is_ok());
        nodes.forget(c, 1);
        nodes.forget(c, 1);
        nodes.forget(ROOT, 100);
        assert_eq!(nodes.counts(), (1, 1));
    }
}
