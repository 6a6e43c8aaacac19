//! An unpacked directory as an image of one layer: what `debootstrap`, `tar x` or `docker export | tar x` left.
//!
//! The tree is read as a tar stream, which becomes a layer like any other. So it is read twice, once for the digest that
//! the layer is known by and once, if that is not here yet, to be converted; a tree that changes in between is refused.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::layer::{self, Blob};
use super::{Error, Image, finish, understand};
use crate::digest::{DiffId, Digest, Hashing};
use crate::progress::Progress;
use crate::store::Store;

/// Bytes of one extended attribute, as Linux bounds them.
const MAX_ATTRIBUTE: usize = 64 << 10;

pub(super) fn bring(store: &Store, root: &Path, progress: &dyn Progress) -> Result<Image, Error> {
    let what = root.display().to_string();
    progress.begin(&format!("reading {what}"), None);
    let hashed = hash(root);
    progress.end();
    let (digest, size) = hashed.map_err(|cause| Error::Read { what: what.clone(), cause })?;
    let diff_id = DiffId(digest);
    let configuration = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [digest] },
    });
    let configuration = configuration.to_string().into_bytes();
    let (config, layers) = understand(&configuration)?;
    let incoming = store.bring(&configuration, None)?;
    let brought = std::thread::scope(|scope| {
        let open = || {
            let failed = |cause| Error::Read { what: what.clone(), cause };
            let (reader, writer) = io::pipe().map_err(failed)?;
            let reading = std::thread::Builder::new().name("rootfs".into());
            reading.spawn_scoped(scope, move || write(root, writer)).map_err(Error::Thread)?;
            Ok(Blob {
                reader,
                name: format!("{what}, which has changed while it was read,"),
                digest: None,
                size,
            })
        };
        layer::bring(&incoming, &diff_id, open, &what, progress)
    });
    finish(store, incoming, None, config, layers, brought)
}

fn hash(root: &Path) -> io::Result<(Digest, u64)> {
    std::thread::scope(|scope| {
        let (reader, writer) = io::pipe()?;
        let writing = scope.spawn(move || write(root, writer));
        let mut reader = Hashing::new(reader);
        io::copy(&mut reader, &mut io::sink())?;
        writing.join().unwrap_or_else(|_| Err(io::Error::other("the tree cannot be read")))?;
        Ok(reader.finish())
    })
}

/// The tree as a tar, the same bytes for the same tree.
fn write(root: &Path, out: impl Write) -> io::Result<()> {
    let mut tree =
        Tree { tar: Builder::new(io::BufWriter::with_capacity(1 << 18, out)), links: HashMap::new() };
    let metadata = fs::metadata(root)?;
    let device = metadata.dev();
    tree.entry(root, Path::new("./"), &metadata)?;
    // Directories still to be read: no recursion, however deep the tree.
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        let here = root.join(&directory);
        let at = |error: io::Error, path: &Path| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        let entries = fs::read_dir(&here).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut names: Vec<_> =
            entries.map_err(|error| at(error, &here))?.iter().map(|entry| entry.file_name()).collect();
        names.sort();
        let mut below = Vec::new();
        for name in names {
            let (path, inside) = (here.join(&name), directory.join(&name));
            if name.as_bytes().starts_with(b".wh.") {
                return Err(at(io::Error::other("in a layer this name would hide another"), &path));
            }
            let metadata = fs::symlink_metadata(&path).map_err(|error| at(error, &path))?;
            tree.entry(&path, &inside, &metadata).map_err(|error| at(error, &path))?;
            // What is mounted into the tree is not of it.
            if metadata.is_dir() && metadata.dev() == device {
                below.push(inside);
            }
        }
        left.extend(below.into_iter().rev());
    }
    tree.tar.into_inner()?.flush()
}

struct Tree<W: Write> {
    tar: Builder<W>,
    /// Names of files that have several.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Tree<W> {
    fn entry(&mut self, path: &Path, inside: &Path, metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        if kind.is_socket() {
            // Nobody listens behind it any more.
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(owner(metadata.uid(), rustix::process::geteuid().as_raw()));
        header.set_gid(owner(metadata.gid(), rustix::process::getegid().as_raw()));
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_size(0);
        if !kind.is_dir() && metadata.nlink() > 1 {
            let identity = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&identity) {
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, inside, first.clone());
            }
            self.links.insert(identity, inside.to_owned());
        }
        self.extensions(path, metadata)?;
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self.tar.append_link(&mut header, inside, fs::read_link(path)?);
        }
        if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(metadata.len());
            let file = File::options().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)?;
            return self.tar.append_data(&mut header, inside, Exactly { inner: file, left: metadata.len() });
        }
        if kind.is_char_device() || kind.is_block_device() {
            header.set_device_major(rustix::fs::major(metadata.rdev()))?;
            header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
        }
        header.set_entry_type(match () {
            () if kind.is_dir() => EntryType::Directory,
            () if kind.is_char_device() => EntryType::Char,
            () if kind.is_block_device() => EntryType::Block,
            () => EntryType::Fifo,
        });
        self.tar.append_data(&mut header, inside, io::empty())
    }

    /// What does not fit into a header: extended attributes, and times to the nanosecond.
    fn extensions(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        if metadata.mtime_nsec() != 0 && metadata.mtime() >= 0 {
            let time = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
            records.push(("mtime".into(), time.into_bytes()));
        }
        let mut names = vec![0; MAX_ATTRIBUTE];
        let length = match rustix::fs::llistxattr(path, &mut names[..]) {
            Ok(length) => length,
            Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut names: Vec<&[u8]> =
            names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort();
        let mut value = vec![0; MAX_ATTRIBUTE];
        for name in names {
            // The namespaces that a layer keeps; SELinux's labels are this host's.
            let Ok(text) = std::str::from_utf8(name) else { continue };
            if text == "security.selinux" || !(text.starts_with("user.") || text.starts_with("security.")) {
                continue;
            }
            let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
            records.push((format!("SCHILY.xattr.{text}"), value[..length].to_vec()));
        }
        if records.is_empty() {
            return Ok(());
        }
        self.tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
    }
}

/// What an ordinary user has unpacked belongs to root in there, as it did before.
fn owner(id: u32, own: u32) -> u64 {
    if own != 0 && id == own { 0 } else { id.into() }
}

/// A file as long as it was said to be.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..wanted])?;
        if read == 0 && wanted > 0 {
            return Err(io::Error::other("it shrinks while it is read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}
