//! Applies one layer to the tree of those below it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;

use super::Error;
use crate::erofs::space::Table;
use crate::erofs::tree::*;
use crate::layer::marks::{self, Mark};
use crate::layer::way::{Step, Way};

/// A directory of the layer.
#[derive(Clone)]
struct Directory<'l> {
    id: NodeId,
    /// The directory it is in, as a position in the list of directories; the root's is its own.
    parent: usize,
    name: Cow<'l, [u8]>,
    implicit: bool,
    opaque: bool,
}

/// A layer being applied.
struct Merge<'t, 'l> {
    tree: &'t mut Tree,
    layer: &'l Tree,
    /// The layer's number, from 1: that of its device.
    number: u16,
    /// The layer's directories, each after the one it is in.
    directories: Vec<Directory<'l>>,
    /// Marks and remaining attributes, by the layer's set of attributes.
    sets: HashMap<XattrsId, (Vec<Mark>, XattrsId)>,
    /// By the layer's node: the tree's, where it is there already; none where it is the root, which is no file.
    nodes: Table<u32>,
}

/// Applies `layer`, the `number`th from below, to `tree`.
pub(super) fn merge(tree: &mut Tree, layer: &Tree, number: u16) -> Result<(), Error> {
    let nodes = Table::filled(layer.space(), 0, layer.len()).map_err(Error::Write)?;
    let mut merge = Merge { tree, layer, number, directories: Vec::new(), sets: HashMap::new(), nodes };
    merge.list_directories();
    // Links lead to what was there before the layer; what it hides is hidden before it adds anything.
    merge.resolve_links()?;
    merge.hide();
    merge.add()
}

impl<'l> Merge<'_, 'l> {
    fn list_directories(&mut self) {
        let layer = self.layer;
        self.push_directory(Tree::ROOT, 0, Cow::Borrowed(b""));
        let mut next = 0;
        while let Some(directory) = self.directories.get(next) {
            for (name, child) in layer.entries(directory.id) {
                if layer.node(child).is_directory() {
                    self.push_directory(child, next, name);
                }
            }
            next += 1;
        }
    }

    fn push_directory(&mut self, id: NodeId, parent: usize, name: Cow<'l, [u8]>) {
        let marks = &self.set(id).0;
        let (implicit, opaque) = (marks.contains(&Mark::Implicit), marks.contains(&Mark::Opaque));
        self.directories.push(Directory { id, parent, name, implicit, opaque });
    }

    /// The marks of a node of the layer, and the tree's number for its other attributes.
    fn set(&mut self, id: NodeId) -> &(Vec<Mark>, XattrsId) {
        let node = self.layer.node(id);
        self.sets.entry(node.attributes.xattrs).or_insert_with(|| {
            let (marks, rest) = marks::split(self.layer, &node);
            (marks, self.tree.xattrs_id(rest))
        })
    }

    /// The attributes that a node of the layer gives to the tree's.
    fn attributes(&mut self, id: NodeId) -> Attributes {
        let xattrs = self.set(id).1;
        Attributes { xattrs, ..self.layer.node(id).attributes }
    }

    /// What of the layer's `directory` is no directory.
    fn files(&self, directory: usize) -> impl Iterator<Item = (Cow<'l, [u8]>, NodeId)> + use<'l> {
        let layer = self.layer;
        let entries = layer.entries(self.directories[directory].id);
        entries.filter(|(_, id)| !layer.node(*id).is_directory())
    }

    fn resolve_links(&mut self) -> Result<(), Error> {
        for directory in 0..self.directories.len() {
            for (name, id) in self.files(directory) {
                let link = self.set(id).0.iter().find_map(|mark| match mark {
                    Mark::Link(path) => Some(path.clone()),
                    _ => None,
                });
                let Some(target) = link else { continue };
                if self.known(id).is_some() {
                    continue;
                }
                let found = self.lookup(&target).filter(|found| !self.tree.node(*found).is_directory());
                let found = found.ok_or_else(|| Error::MissingLink {
                    number: usize::from(self.number),
                    path: self.path(directory, &name),
                    target: target.escape_ascii().to_string(),
                })?;
                self.nodes.set(id.index(), found.number());
            }
        }
        Ok(())
    }

    /// What `path` leads to in the tree; a symbolic link in the last place is not followed.
    fn lookup(&self, path: &[u8]) -> Option<NodeId> {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let (last, parents) = names.split_last()?;
        match Way::new(parents).step(self.tree) {
            Ok(Step::Arrived(directory)) => self.tree.child(directory, last),
            _ => None,
        }
    }

    /// A path of the layer, printable.
    fn path(&self, directory: usize, name: &[u8]) -> String {
        let mut names = vec![name.escape_ascii().to_string()];
        let mut at = directory;
        while at != 0 {
            names.push(self.directories[at].name.escape_ascii().to_string());
            at = self.directories[at].parent;
        }
        names.reverse();
        names.join("/")
    }

    /// Takes out of the tree what the layer hides.
    fn hide(&mut self) {
        let mut places: Vec<Option<NodeId>> = Vec::with_capacity(self.directories.len());
        for number in 0..self.directories.len() {
            let Directory { parent, opaque, .. } = self.directories[number];
            let place = match number {
                0 => Some(Tree::ROOT),
                _ => places[parent].and_then(|parent| self.find(parent, number)),
            };
            places.push(place);
            let Some(place) = place else { continue };
            if opaque {
                self.tree.clear(place);
                continue;
            }
            for (name, id) in self.files(number) {
                if self.layer.node(id).content == marks::WHITEOUT {
                    self.tree.unlink(place, &name);
                }
            }
        }
    }

    /// The directory in the tree that the layer's directory is, if there is one: it, or where a symbolic link
    /// leads that an entry goes through.
    fn find(&self, parent: NodeId, number: usize) -> Option<NodeId> {
        let directory = &self.directories[number];
        let child = self.tree.child(parent, &directory.name)?;
        match self.tree.node(child).content {
            Content::Directory(_) => Some(child),
            Content::Symlink(_) if directory.implicit => match self.way(number).step(self.tree) {
                Ok(Step::Arrived(place)) => Some(place),
                _ => None,
            },
            _ => None,
        }
    }

    /// The way to a directory of the layer, from the root.
    fn way(&self, number: usize) -> Way {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = number;
        while at != 0 {
            names.push(&self.directories[at].name);
            at = self.directories[at].parent;
        }
        names.reverse();
        Way::new(&names)
    }

    /// Adds what the layer has.
    fn add(&mut self) -> Result<(), Error> {
        let mut places: Vec<NodeId> = Vec::with_capacity(self.directories.len());
        for number in 0..self.directories.len() {
            let Directory { id, parent, implicit, .. } = self.directories[number];
            let place = match number {
                0 => Tree::ROOT,
                _ => self.make(places[parent], number)?,
            };
            places.push(place);
            if !implicit {
                let attributes = self.attributes(id);
                self.tree.set_attributes(place, attributes);
            }
            for (name, id) in self.files(number) {
                if self.layer.node(id).content != marks::WHITEOUT {
                    let node = self.node(id).map_err(Error::Write)?;
                    self.tree.link(place, &name, node).map_err(Error::Write)?;
                }
            }
        }
        Ok(())
    }

    /// The directory in the tree that the layer's directory becomes.
    fn make(&mut self, parent: NodeId, number: usize) -> Result<NodeId, Error> {
        let Directory { name, implicit, .. } = self.directories[number].clone();
        let there = self.tree.child(parent, &name).map(|id| (id, self.tree.node(id).content));
        match there {
            Some((id, Content::Directory(_))) => Ok(id),
            Some((_, Content::Symlink(_))) if implicit => self.make_along_symlinks(number),
            _ => self.new_directory(parent, &name),
        }
    }

    /// As [`Merge::make`], where a symbolic link is on the way: what it leads to is made if it is missing.
    fn make_along_symlinks(&mut self, number: usize) -> Result<NodeId, Error> {
        let mut way = self.way(number);
        loop {
            match way.step(self.tree) {
                Ok(Step::Arrived(place)) => return Ok(place),
                Ok(Step::Blocked(parent, name, None)) => {
                    self.new_directory(parent, &name)?;
                    way.retry(&name);
                }
                Ok(Step::Blocked(_, _, Some(_))) | Err(_) => {
                    let directory = &self.directories[number];
                    return Err(Error::NotADirectory {
                        number: usize::from(self.number),
                        path: self.path(directory.parent, &directory.name),
                    });
                }
            }
        }
    }

    fn new_directory(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Error> {
        let made = self.tree.add_directory(Attributes::PLAIN_DIRECTORY);
        let made = made.and_then(|id| self.tree.link(parent, name, id).map(|()| id));
        made.map_err(Error::Write)
    }

    /// The tree's node for one of the layer's, if there is one already.
    fn known(&self, id: NodeId) -> Option<NodeId> {
        Some(self.nodes.get(id.index())).filter(|number| *number != Tree::ROOT.number()).map(NodeId::new)
    }

    /// The tree's node for one of the layer's that is no directory.
    fn node(&mut self, id: NodeId) -> io::Result<NodeId> {
        if let Some(node) = self.known(id) {
            return Ok(node);
        }
        let attributes = self.attributes(id);
        let content = match self.layer.node(id).content {
            Content::File { size: size @ 1.., data: Data::Plain { block, .. } } => {
                Content::File { size, data: Data::Plain { device: self.number, block } }
            }
            Content::File { size, data: Data::Chunks(chunks) } => {
                let chunks = Chunks { device: self.number, ..self.layer.chunks(chunks).clone() };
                Content::File { size, data: self.tree.add_chunks(chunks) }
            }
            Content::Symlink(target) => Content::Symlink(self.tree.add_text(&self.layer.text(target))?),
            content => content,
        };
        let node = self.tree.add(Node { attributes, content })?;
        self.nodes.set(id.index(), node.number());
        Ok(node)
    }
}
