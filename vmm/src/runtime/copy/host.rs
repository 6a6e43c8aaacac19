//! The host's file system. What is written there comes from a guest: below the root no symbolic link is followed, and a
//! name never leads out of it.

use super::{CopyError, Exactly, Item, Keep, Kind, Sink, join, shown};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chmodat, chownat, fchmod,
    fchown, futimens, mkdirat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Gives everything at and below `root` to the sink.
pub fn copy_out(root: &Path, follow: bool, sink: &mut dyn Sink) -> Result<(), CopyError> {
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let path = if below.as_os_str().is_empty() { root.to_owned() } else { root.join(&below) };
        let fault = |error| CopyError::Host { path: path.display().to_string(), error };
        let follow = follow && below.as_os_str().is_empty();
        let metadata = if follow { path.metadata() } else { path.symlink_metadata() }.map_err(fault)?;
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_file() => Kind::File(metadata.len()),
            kind if kind.is_symlink() => {
                Kind::Link(std::fs::read_link(&path).map_err(fault)?.into_os_string().into_vec())
            }
            _ => Kind::Other,
        };
        let item = Item {
            path: below.as_os_str().as_bytes().to_vec(),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: metadata.mtime(),
            kind,
        };
        match item.kind {
            Kind::File(length) => {
                let from = File::open(&path).map_err(fault)?;
                sink.put(&item, &mut Exactly { from, left: length })?;
            }
            _ => sink.put(&item, &mut io::empty())?,
        }
        if item.kind == Kind::Directory {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&path).map_err(fault)? {
                names.push(below.join(entry.map_err(fault)?.file_name()));
            }
            names.sort_unstable_by(|one, other| other.cmp(one));
            left.extend(names);
        }
    }
    sink.finish()
}

/// Makes items at and below a path of the host.
pub struct Into {
    /// The directory that everything is beneath.
    base: OwnedFd,
    /// What the items' root is called in it; empty where it is the directory itself.
    name: Vec<u8>,
    keep: Keep,
    /// Directories that were made: their modes and times are set when they are full.
    made: Vec<Item>,
}

impl Into {
    /// The root of the items becomes `root`, which may be a directory that is there.
    pub fn new(root: &Path, keep: Keep) -> io::Result<Self> {
        let directory = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(
                if path.as_os_str().is_empty() { Path::new(".") } else { path },
                flags,
                Mode::empty(),
            )
        };
        let (base, name) = match root.file_name() {
            Some(name) if !root.is_dir() => {
                (directory(root.parent().unwrap_or(Path::new(".")))?, name.as_bytes().to_vec())
            }
            _ => (directory(root)?, Vec::new()),
        };
        Ok(Self { base, name, keep, made: Vec::new() })
    }

    /// The directory that holds `path`, and the last part of it. No link leads to it.
    fn parent<'a>(&self, path: &'a [u8]) -> rustix::io::Result<(OwnedFd, &'a OsStr)> {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = at.map_or((&b"."[..], path), |at| (&path[..at], &path[at + 1..]));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let parent = openat2(&self.base, OsStr::from_bytes(parent), flags, Mode::empty(), resolve)?;
        Ok((parent, OsStr::from_bytes(name)))
    }

    fn make(&mut self, item: &Item, path: &[u8], content: &mut dyn Read) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        if item.kind != Kind::Directory {
            // What is there is replaced, not written through.
            match unlinkat(&parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match &item.kind {
            Kind::Directory => match mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) => self.made.push(item.clone()),
                Err(Errno::EXIST) => {
                    let there = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                        return Err(Errno::NOTDIR.into());
                    }
                }
                Err(error) => return Err(error.into()),
            },
            Kind::File(_) => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)?);
                io::copy(content, &mut file)?;
                if self.keep == Keep::Everything {
                    fchown(&file, Some(Uid::from_raw(item.uid)), Some(Gid::from_raw(item.gid)))?;
                }
                // After the owner: that change takes set-user-ID away.
                fchmod(&file, Mode::from_raw_mode(self.keep.mode(item.mode)))?;
                futimens(&file, &times(item.mtime))?;
            }
            Kind::Link(target) => {
                symlinkat(OsStr::from_bytes(target), &parent, name)?;
                if self.keep == Keep::Everything {
                    let (uid, gid) = (Uid::from_raw(item.uid), Gid::from_raw(item.gid));
                    chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
            }
            Kind::Other => {}
        }
        Ok(())
    }

    fn complete(&self, item: &Item) -> io::Result<()> {
        let path = join(&self.name, &item.path);
        let (parent, name) = self.parent(&path)?;
        if self.keep == Keep::Everything {
            let (uid, gid) = (Uid::from_raw(item.uid), Gid::from_raw(item.gid));
            chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // It was made here as a directory, and nothing here makes a link of a directory.
        chmodat(&parent, name, Mode::from_raw_mode(self.keep.mode(item.mode)), AtFlags::empty())?;
        utimensat(&parent, name, &times(item.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

impl Sink for Into {
    fn put(&mut self, item: &Item, content: &mut dyn Read) -> Result<(), CopyError> {
        let path = join(&self.name, &item.path);
        match (&item.kind, path.is_empty()) {
            (Kind::Other, _) => {
                tracing::warn!(path = shown(&path), "left out: it is no file, directory or symbolic link");
                Ok(())
            }
            // The directory that the user named is there.
            (Kind::Directory, true) => Ok(()),
            _ => {
                self.make(item, &path, content).map_err(|error| CopyError::Host { path: shown(&path), error })
            }
        }
    }

    fn finish(&mut self) -> Result<(), CopyError> {
        for item in std::mem::take(&mut self.made).iter().rev() {
            self.complete(item).map_err(|error| CopyError::Host { path: shown(&item.path), error })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn item(path: &str, kind: Kind) -> Item {
        Item { path: path.into(), kind, mode: 0o4755, uid: 1, gid: 1, mtime: 1_000_000_000 }
    }

    #[test]
    fn a_tree_is_copied_as_it_is() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("d/e")).unwrap();
        fs::write(from.path().join("d/file"), b"content").unwrap();
        std::os::unix::fs::symlink("../file", from.path().join("d/e/link")).unwrap();
        let root = to.path().join("copy");
        let mut sink = Into::new(&root, Keep::Permissions).unwrap();
        copy_out(&from.path().join("d"), false, &mut sink).unwrap();
        assert_eq!(fs::read(root.join("file")).unwrap(), b"content");
        assert_eq!(fs::read_link(root.join("e/link")).unwrap(), Path::new("../file"));
        // Once more, over what is there: beside it, as a copy into a directory that is there would be.
        let mut sink = Into::new(&root, Keep::Permissions).unwrap();
        copy_out(&from.path().join("d"), false, &mut sink).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    }

    #[test]
    fn no_link_of_the_guests_leads_out() {
        let (place, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = outside.path().as_os_str().as_bytes().to_vec();
        let mut sink = Into::new(place.path(), Keep::Permissions).unwrap();
        sink.put(&item("link", Kind::Link(target.clone())), &mut io::empty()).unwrap();
        assert!(sink.put(&item("link/file", Kind::File(1)), &mut &b"x"[..]).is_err());
        assert!(sink.put(&item("link", Kind::Directory), &mut io::empty()).is_err());
        assert!(sink.put(&item("../file", Kind::File(1)), &mut &b"x"[..]).is_err());
        // A file takes the link's place, and not that of what it points to.
        fs::write(outside.path().join("f"), "theirs").unwrap();
        sink.put(&item("f", Kind::Link(join(&target, b"f"))), &mut io::empty()).unwrap();
        sink.put(&item("f", Kind::File(4)), &mut &b"ours"[..]).unwrap();
        assert_eq!(fs::read(outside.path().join("f")).unwrap(), b"theirs");
        assert_eq!(fs::read(place.path().join("f")).unwrap(), b"ours");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_makes_programs_privileged_is_not_kept_unasked() {
        let place = tempfile::tempdir().unwrap();
        let mut sink = Into::new(&place.path().join("new"), Keep::Permissions).unwrap();
        sink.put(&item("", Kind::File(1)), &mut &b"x"[..]).unwrap();
        let metadata = fs::metadata(place.path().join("new")).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o755, 1_000_000_000));
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    }

    #[test]
    fn directories_that_close_themselves_are_filled_first() {
        let place = tempfile::tempdir().unwrap();
        let mut sink = Into::new(&place.path().join("new"), Keep::Permissions).unwrap();
        let closed = Item { mode: 0o500, ..item("", Kind::Directory) };
        sink.put(&closed, &mut io::empty()).unwrap();
        sink.put(&item("in", Kind::File(1)), &mut &b"x"[..]).unwrap();
        sink.finish().unwrap();
        let metadata = fs::metadata(place.path().join("new")).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o500, 1_000_000_000));
    }
}
