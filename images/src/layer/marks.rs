//! What a layer says of the layers below it.
//!
//! A whiteout is a character device 0:0 and an opaque directory has `trusted.overlay.opaque=y`, as overlayfs
//! and `mkfs.erofs` write them. Two things overlayfs has no word for: a directory that is only there because
//! something in it is, and a hard link to a file of a lower layer, which is an empty file here. They are
//! attributes beside overlayfs's own, in whose namespace no archive can put anything.

use crate::erofs::tree::{Content, Data, Node, Tree, Xattr};

/// Nothing of an archive is stored under a name that begins so.
pub(crate) const RESERVED: &[u8] = b"trusted.overlay.";

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const IMPLICIT: &[u8] = b"trusted.overlay.ferry.implicit";
const LINK: &[u8] = b"trusted.overlay.ferry.link";

/// The device number of a whiteout.
pub(crate) const WHITEOUT: Content = Content::Character(0);

/// What is said with a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Of a directory: lower layers' entries in it are hidden.
    Opaque,
    /// Of a directory: if a lower layer has it, that one's attributes hold.
    Implicit,
    /// This stands for the file that has this name (from the root, without a leading slash) below.
    Link(Box<[u8]>),
}

impl Mark {
    /// The attribute that stands for it. A path was checked to be shorter than any limit on values.
    pub fn xattr(&self) -> Option<Xattr> {
        match self {
            Mark::Opaque => Xattr::new(OPAQUE, b"y"),
            Mark::Implicit => Xattr::new(IMPLICIT, b"y"),
            Mark::Link(path) => Xattr::new(LINK, path),
        }
    }

    /// What an attribute stands for, if it is one of these.
    fn of(xattr: &Xattr) -> Option<Mark> {
        match &*xattr.name() {
            OPAQUE => Some(Mark::Opaque),
            IMPLICIT => Some(Mark::Implicit),
            LINK => Some(Mark::Link(xattr.value().into())),
            _ => None,
        }
    }
}

/// The marks of a node, and its attributes without them.
pub(crate) fn split(tree: &Tree, node: &Node) -> (Vec<Mark>, Vec<Xattr>) {
    let mut marks = Vec::new();
    let mut rest = Vec::new();
    for xattr in tree.xattrs(node.attributes.xattrs) {
        match Mark::of(xattr) {
            Some(mark) => marks.push(mark),
            None if xattr.name().starts_with(RESERVED) => {}
            None => rest.push(xattr.clone()),
        }
    }
    (marks, rest)
}

/// The content of a file that is elsewhere, or empty.
pub(crate) const NO_DATA: Content = Content::File { size: 0, data: Data::Plain { device: 0, block: 0 } };
