//! Ways through a tree: along directories and symbolic links, as an unpacker confined to the root goes.

use crate::erofs::tree::{Content, NodeId, Tree};

/// How many symbolic links may be on one way: as many as the kernel follows.
const MOST_SYMLINKS: usize = 40;
/// How many names these links may put on the way together. Real links have a few; thousands, in each of
/// millions of entries, would only cost time.
const MOST_NAMES: usize = 1024;

/// A walk along directories and the symbolic links between them, which never leaves the root.
pub(crate) struct Way {
    /// Where the walk is: all directories from the root.
    directories: Vec<NodeId>,
    /// Names still to go, the next one last.
    names: Vec<Box<[u8]>>,
    symlinks: usize,
    expanded: usize,
}

/// Where a walk got to.
pub(crate) enum Step {
    /// The directory it was to lead to.
    Arrived(NodeId),
    /// A directory in which the next name leads to no directory, the name, and what is there instead.
    Blocked(NodeId, Box<[u8]>, Option<NodeId>),
}

impl Way {
    /// From the root along `names`.
    pub fn new(names: &[&[u8]]) -> Way {
        let names = names.iter().rev().map(|name| (*name).into()).collect();
        Way { directories: vec![Tree::ROOT], names, symlinks: 0, expanded: 0 }
    }

    /// Tries `name` again, which has been made a directory.
    pub fn retry(&mut self, name: &[u8]) {
        self.names.push(name.into());
    }

    /// Goes as far as there are directories.
    pub fn step(&mut self, tree: &Tree) -> Result<Step, &'static str> {
        while let Some(name) = self.names.pop() {
            let here = self.directories.last().copied().unwrap_or(Tree::ROOT);
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    if self.directories.len() > 1 {
                        self.directories.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let Some(child) = tree.child(here, &name) else { return Ok(Step::Blocked(here, name, None)) };
            match tree.node(child).content {
                Content::Directory(_) => self.directories.push(child),
                Content::Symlink(target) => {
                    let target = tree.text(target);
                    self.symlinks += 1;
                    if self.symlinks > MOST_SYMLINKS {
                        return Err("too many symbolic links on the way there");
                    }
                    if target.starts_with(b"/") {
                        self.directories.truncate(1);
                    }
                    let names = target.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
                    self.expanded += names.clone().count();
                    if self.expanded > MOST_NAMES {
                        return Err("symbolic links that lead too far on the way there");
                    }
                    self.names.extend(names.rev().map(Box::from));
                }
                _ => return Ok(Step::Blocked(here, name, Some(child))),
            }
        }
        Ok(Step::Arrived(self.directories.last().copied().unwrap_or(Tree::ROOT)))
    }
}
