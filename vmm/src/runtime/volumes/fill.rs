//! The first content of a volume: what the image has at its place, copied as a container would find it there.
//!
//! The copy is made beside the volume's empty directory and takes its place when all of it is on disk, so that a volume is
//! filled or empty, whatever happens. It is made of names and files of an image that nobody vouches for: every name is one of
//! a directory that was made here a moment ago, symbolic links are made and never followed, and devices are left out, which a
//! guest could not use behind a shared directory.

use super::super::run::Ready;
use super::{DATA, remove_tree};
use crate::backends::fs::give_to;
use ferry_images::erofs::tree::{Attributes, Content, NodeId, Tree};
use ferry_images::source::contents::Contents;
use ferry_images::store::sync_directory_of;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr, mkfifoat, utimensat};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Where the copy is made.
const UNFINISHED: &str = "data.new";

/// Fills the volume in `directory`, which is held alone, if there is nothing in it and the image has a directory at `place`.
pub(super) fn fill(directory: &Path, image: &Ready, place: &str) -> io::Result<()> {
    let (data, unfinished) = (directory.join(DATA), directory.join(UNFINISHED));
    remove_tree(&unfinished)?;
    if fs::read_dir(&data)?.next().is_some() {
        return Ok(());
    }
    let contents = Contents::open(&image.segments)?;
    let found = contents.find(place.as_bytes());
    let Some(from) = found.filter(|id| contents.tree().node(*id).is_directory()) else { return Ok(()) };
    let copied = copy(&contents, from, &unfinished).and_then(|()| {
        rustix::fs::syncfs(&File::open(&unfinished)?)?;
        // A directory takes an empty one's place in one step.
        fs::rename(&unfinished, &data)?;
        sync_directory_of(&data)
    });
    if copied.is_err() {
        // What cannot be removed now is removed before the next attempt.
        let _ = remove_tree(&unfinished);
    }
    copied
}

/// Copies a directory of an image to `to`, which is not there yet.
fn copy(contents: &Contents, from: NodeId, to: &Path) -> io::Result<()> {
    let tree = contents.tree();
    let mut names = HashMap::<NodeId, PathBuf>::new();
    let mut directories = vec![(from, to.to_owned())];
    let mut next = 0;
    fs::create_dir(to)?;
    while let Some((directory, path)) = directories.get(next).cloned() {
        next += 1;
        for (name, id) in tree.entries(directory) {
            let path = path.join(OsStr::from_bytes(&name));
            let node = tree.node(id);
            if let Some(first) = names.get(&id) {
                fs::hard_link(first, &path)?;
                continue;
            }
            match node.content {
                Content::Directory(_) => {
                    fs::create_dir(&path)?;
                    directories.push((id, path));
                    continue;
                }
                Content::File { .. } => contents.copy(&node, &File::create_new(&path)?)?,
                Content::Symlink(target) => symlink(OsStr::from_bytes(&tree.text(target)), &path)?,
                Content::Fifo => mkfifoat(CWD, &path, 0o600.into())?,
                Content::Character(_) | Content::Block(_) | Content::Socket => {
                    tracing::warn!(
                        path = crate::agent::printable(&path.to_string_lossy()),
                        "a device or socket of the image is left out of the volume"
                    );
                    continue;
                }
            }
            describe(tree, &node.attributes, matches!(node.content, Content::Symlink(_)), &path)?;
            names.insert(id, path);
        }
    }
    // Times are those of the image when nothing more comes in, and a directory may not be open even to its owner.
    for (id, path) in directories.into_iter().rev() {
        describe(tree, &tree.node(id).attributes, false, &path)?;
    }
    Ok(())
}

/// Gives what was made the attributes that it has in the image.
fn describe(tree: &Tree, attributes: &Attributes, is_link: bool, path: &Path) -> io::Result<()> {
    let Attributes { permissions, uid, gid, mtime: (seconds, nanoseconds), xattrs } = *attributes;
    let is_root = rustix::process::geteuid().is_root();
    give_to(path, uid, gid)?;
    for xattr in tree.xattrs(xattrs) {
        let name = xattr.name();
        let is_users = name.starts_with(b"user.") && !name.starts_with(b"user.ferry.") && !is_link;
        let is_a_right = name == b"security.capability" && is_root;
        if is_users || is_a_right {
            match lsetxattr(path, &name[..], xattr.value(), XattrFlags::empty()) {
                // A place that has none, as a guest's own overlay may not have them.
                Err(rustix::io::Errno::OPNOTSUPP) => {}
                other => other?,
            }
        }
    }
    if !is_link {
        fs::set_permissions(path, Permissions::from_mode(u32::from(permissions)))?;
    }
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
