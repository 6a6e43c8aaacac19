//! What every container has something mounted on. Docker makes these places in a layer of its own above an image's; here
//! they are in the joined image, so that no guest has to make them at each start, with all that a first file in the writable
//! layer costs.
//!
//! Nothing of the image changes: what is there stays, and where a link or anything else stands in for a directory, what is
//! missing is the guest's to make, as for any other mount.

use std::io;

use crate::erofs::tree::{Attributes, Content, Data, Node, NodeId, Tree};

/// Counts changes to what is added.
pub const VERSION: u8 = 1;

/// In the root.
const DIRECTORIES: [&[u8]; 4] = [b"dev", b"etc", b"proc", b"sys"];

/// In /etc: the files that the guest writes for a container.
const FILES: [&[u8]; 3] = [b"hostname", b"hosts", b"resolv.conf"];

/// Adds what is missing.
pub(super) fn add(tree: &mut Tree) -> io::Result<()> {
    for name in DIRECTORIES {
        if tree.child(Tree::ROOT, name).is_none() {
            let directory = tree.add_directory(Attributes::PLAIN_DIRECTORY)?;
            tree.link(Tree::ROOT, name, directory)?;
        }
    }
    let is_directory = |tree: &Tree, id: &NodeId| tree.node(*id).is_directory();
    let Some(etc) = tree.child(Tree::ROOT, b"etc").filter(|id| is_directory(tree, id)) else { return Ok(()) };
    for name in FILES {
        if tree.child(etc, name).is_none() {
            let attributes = Attributes { permissions: 0o644, ..Attributes::PLAIN_DIRECTORY };
            let content = Content::File { size: 0, data: Data::Plain { device: 0, block: 0 } };
            let file = tree.add(Node { attributes, content })?;
            tree.link(etc, name, file)?;
        }
    }
    Ok(())
}
