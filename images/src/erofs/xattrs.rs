//! Extended attributes as they are stored: after each inode, or once for all in the shared area.

use std::collections::HashMap;

use super::format::*;
use super::tree::{Tree, Xattr, XattrsId};

/// The stored form of every set of attributes that is in use.
pub(super) struct Stored {
    /// By set: what follows the inode. Empty for a set without use.
    bodies: Vec<Vec<u8>>,
    /// The shared area.
    pub shared: Vec<u8>,
}

impl Stored {
    /// `uses` says how many inodes have each set.
    pub fn new(tree: &Tree, uses: &[u32]) -> Stored {
        let mut counts: HashMap<&Xattr, u32> = HashMap::new();
        for (set, uses) in tree.xattr_sets().iter().zip(uses) {
            for xattr in set {
                let count = counts.entry(xattr).or_default();
                *count = count.saturating_add(*uses);
            }
        }
        let mut places: HashMap<&Xattr, u32> = HashMap::new();
        let mut shared = Vec::new();
        let bodies = tree.xattr_sets().iter().zip(uses).map(|(set, uses)| {
            if set.is_empty() || *uses == 0 {
                return Vec::new();
            }
            let mut body = vec![0; XATTR_HEADER];
            let mut inline = Vec::new();
            let mut number_shared = 0;
            for xattr in set {
                // A place in the shared area is four bytes an inode; the count of them is one byte.
                if counts[xattr] < 2 || entry_size(xattr) <= 4 || number_shared == u8::MAX {
                    append(&mut inline, xattr);
                    continue;
                }
                let place = *places.entry(xattr).or_insert_with(|| {
                    let place = shared.len() / XATTR_ENTRY;
                    append(&mut shared, xattr);
                    // The area holds attributes that were all in memory: far fewer than 2^32 words.
                    place as u32
                });
                body.extend_from_slice(&place.to_le_bytes());
                number_shared += 1;
            }
            body[4] = number_shared;
            body.append(&mut inline);
            body
        });
        let bodies = bodies.collect();
        Stored { bodies, shared }
    }

    /// What follows an inode that has this set.
    pub fn body(&self, set: XattrsId) -> &[u8] {
        &self.bodies[set.index()]
    }
}

/// Bytes that `set` takes behind an inode when nothing of it is shared. More than
/// [`LARGEST_BODY`] cannot be stored.
pub(crate) fn body_size(set: &[Xattr]) -> usize {
    if set.is_empty() { 0 } else { XATTR_HEADER + set.iter().map(entry_size).sum::<usize>() }
}

/// The inode counts its attributes' words in 16 bits, the header being one.
pub(crate) const LARGEST_BODY: usize = XATTR_HEADER + (u16::MAX as usize - 1) * XATTR_ENTRY;

fn entry_size(xattr: &Xattr) -> usize {
    (XATTR_ENTRY + xattr.suffix.len() + xattr.value.len()).next_multiple_of(XATTR_ENTRY)
}

fn append(to: &mut Vec<u8>, xattr: &Xattr) {
    // Both lengths were checked when the attribute was made.
    to.push(xattr.suffix.len() as u8);
    to.push(xattr.prefix);
    to.extend_from_slice(&(xattr.value.len() as u16).to_le_bytes());
    to.extend_from_slice(&xattr.suffix);
    to.extend_from_slice(&xattr.value);
    to.resize(to.len().next_multiple_of(XATTR_ENTRY), 0);
}
