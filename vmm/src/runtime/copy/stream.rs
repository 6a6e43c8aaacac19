//! Tar streams, for `-`: what `tar c` writes is taken, and what is written `tar x` takes.

use super::{CopyError, Item, Kind, Sink, checked_path, join, shown};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::{Archive, Builder, EntryType, Header};

fn fault(path: &[u8]) -> impl Fn(io::Error) -> CopyError + use<> {
    let path = format!("the tar stream, at '{}'", shown(path));
    move |error| CopyError::Host { path: path.clone(), error }
}

/// Gives everything in the archive to the sink.
pub fn copy_out(from: impl Read, sink: &mut dyn Sink) -> Result<(), CopyError> {
    let mut archive = Archive::new(from);
    for entry in archive.entries().map_err(fault(b""))? {
        let mut entry = entry.map_err(fault(b""))?;
        let path = checked_path(&entry.path_bytes())?;
        let at = fault(&path);
        let header = entry.header();
        let kind = match header.entry_type() {
            EntryType::Directory => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File(entry.size()),
            EntryType::Symlink => Kind::Link(entry.link_name_bytes().unwrap_or_default().into_owned()),
            _ => Kind::Other,
        };
        let id = |id: u64| u32::try_from(id).unwrap_or(0);
        let item = Item {
            kind,
            mode: header.mode().map_err(&at)? & 0o7777,
            uid: id(header.uid().map_err(&at)?),
            gid: id(header.gid().map_err(&at)?),
            mtime: header.mtime().map_or(0, |seconds| i64::try_from(seconds).unwrap_or(0)),
            path,
        };
        sink.put(&item, &mut entry)?;
    }
    sink.finish()
}

/// Writes an archive.
pub struct Into<W: Write> {
    archive: Builder<W>,
    /// What the items' root is called in it.
    name: Vec<u8>,
}

impl<W: Write> Into<W> {
    /// The root of the items is called `name` in the archive.
    pub fn new(to: W, name: &[u8]) -> Self {
        // A root has no name of its own; tar calls that one so.
        let name = if name.is_empty() { b"." } else { name };
        Self { archive: Builder::new(to), name: name.to_vec() }
    }
}

impl<W: Write> Sink for Into<W> {
    fn put(&mut self, item: &Item, content: &mut dyn Read) -> Result<(), CopyError> {
        let path = join(&self.name, &item.path);
        let at = fault(&path);
        let mut header = Header::new_gnu();
        header.set_mode(item.mode);
        header.set_uid(item.uid.into());
        header.set_gid(item.gid.into());
        header.set_mtime(u64::try_from(item.mtime).unwrap_or(0));
        header.set_size(0);
        let name = Path::new(OsStr::from_bytes(&path));
        match &item.kind {
            Kind::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.archive.append_data(&mut header, name, io::empty()).map_err(at)
            }
            Kind::File(length) => {
                header.set_size(*length);
                self.archive.append_data(&mut header, name, content).map_err(at)
            }
            Kind::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                self.archive.append_link(&mut header, name, Path::new(OsStr::from_bytes(target))).map_err(at)
            }
            Kind::Other => {
                tracing::warn!(path = shown(&path), "left out: it is no file, directory or symbolic link");
                Ok(())
            }
        }
    }

    fn finish(&mut self) -> Result<(), CopyError> {
        self.archive.finish().and_then(|()| self.archive.get_mut().flush()).map_err(fault(b""))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Keep, host};
    use super::*;
    use std::fs;

    #[test]
    fn a_tree_goes_through_a_stream_and_comes_out_the_same() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let deep = from.path().join("d").join("x".repeat(120)).join("y".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), vec![7; 10_000]).unwrap();
        std::os::unix::fs::symlink("nowhere", from.path().join("d/link")).unwrap();
        let mut bytes = Vec::new();
        let mut sink = Into::new(&mut bytes, b"top");
        host::copy_out(&from.path().join("d"), false, &mut sink).unwrap();
        drop(sink);
        let mut sink = host::Into::new(to.path(), Keep::Permissions).unwrap();
        copy_out(bytes.as_slice(), &mut sink).unwrap();
        let out = to.path().join("top").join("x".repeat(120)).join("y".repeat(120)).join("file");
        assert_eq!(fs::read(out).unwrap(), vec![7; 10_000]);
        assert_eq!(fs::read_link(to.path().join("top/link")).unwrap(), Path::new("nowhere"));
    }

    #[test]
    fn an_archive_that_leads_out_is_refused() {
        let mut archive = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(1);
        header.as_gnu_mut().unwrap().name[..7].copy_from_slice(b"../evil");
        header.set_cksum();
        archive.append(&header, &b"x"[..]).unwrap();
        let bytes = archive.into_inner().unwrap();
        let place = tempfile::tempdir().unwrap();
        let mut sink = host::Into::new(place.path(), Keep::Permissions).unwrap();
        assert!(matches!(copy_out(bytes.as_slice(), &mut sink), Err(CopyError::Name(_))));
        assert!(
            copy_out(&b"no tar at all"[..], &mut sink).is_err()
                || fs::read_dir(place.path()).unwrap().count() == 0
        );
    }
}
