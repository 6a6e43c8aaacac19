//! Names in directories: in which order they stand and what room they take there.

use std::borrow::Cow;

use super::format::{BLOCK, DIRENT};
use super::tree::NodeId;

/// How much room a directory takes, as its names come in their order.
pub(super) struct DirectorySize {
    whole: u32,
    room: usize,
    /// `.` and `..`, which take their places in the order of names, unless they have.
    own: &'static [&'static [u8]],
}

impl Default for DirectorySize {
    fn default() -> Self {
        DirectorySize { whole: 0, room: BLOCK, own: &[b".", b".."] }
    }
}

impl DirectorySize {
    /// One more name.
    pub(super) fn add(&mut self, name: &[u8]) {
        while let Some((first, rest)) = self.own.split_first().filter(|(first, _)| **first < name) {
            self.own = rest;
            self.add_length(first.len());
        }
        self.add_length(name.len());
    }

    fn add_length(&mut self, length: usize) {
        if self.room < DIRENT + length {
            self.whole += 1;
            self.room = BLOCK;
        }
        self.room -= DIRENT + length;
    }

    /// Whole blocks, and bytes after them.
    pub(super) fn finish(mut self) -> (u32, u32) {
        for own in std::mem::take(&mut self.own) {
            self.add_length(own.len());
        }
        (self.whole, (BLOCK - self.room) as u32)
    }
}

/// A name and where it leads.
pub(super) type Named<'t> = (Cow<'t, [u8]>, NodeId);

/// Two sequences in the order of names as one.
pub(super) fn merged<'t>(
    one: impl Iterator<Item = Named<'t>>,
    other: impl Iterator<Item = Named<'t>>,
) -> impl Iterator<Item = Named<'t>> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(first), Some(second)) if first.0 < second.0 => one.next(),
        (Some(_), None) => one.next(),
        _ => other.next(),
    })
}
