//! Images that must not be removed: while a process brings or uses one, it holds a lock that [`super::sweep`] respects and
//! that ends with the process, however it ends.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::publish::{Unfinished, Yard, is_at};
use super::{Error, Store, read_bounded};
use crate::digest::{DiffId, Digest};

/// An image's layers stay where they are while this, or a clone of it, lives. The default holds nothing, for images that
/// are in no store.
#[derive(Debug, Clone, Default)]
pub struct Held(#[allow(dead_code, reason = "what counts is that it is open")] Option<Arc<File>>);

impl PartialEq for Held {
    /// Who holds an image makes it no other image.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Held {}

/// An image on its way into the store: what is brought of it is kept, and all of it is forgotten unless it is finished.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    store: &'a Store,
    digest: Digest,
    configuration: Option<Unfinished>,
    /// Of the configuration, if it was here.
    held: Option<Held>,
    manifest: Option<(Digest, Unfinished)>,
    /// Files of the store that were not there before.
    made: Mutex<HashSet<PathBuf>>,
}

impl Store {
    pub(super) fn image_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", digest.hex()))
    }

    pub(super) fn manifest_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("manifests").join(format!("{}.manifest", digest.hex()))
    }

    /// An image's configuration as it came; `None` if it is not here. What belongs to it stays while it is held.
    pub fn image(&self, digest: &Digest) -> Result<Option<(Held, Vec<u8>)>, Error> {
        let path = self.image_path(digest);
        let Some(held) = hold(&path)? else { return Ok(None) };
        match read_bounded(&path)? {
            Some(bytes) if Digest::of(&bytes) != *digest => Err(Error::Damaged { path }),
            Some(bytes) => Ok(Some((held, bytes))),
            None => Ok(None),
        }
    }

    /// The manifest of that digest as it came, if it is here.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let path = self.manifest_path(digest);
        match read_bounded(&path)? {
            Some(bytes) if Digest::of(&bytes) != *digest => Err(Error::Damaged { path }),
            other => Ok(other),
        }
    }

    /// Announces an image. Waits while another process brings the same one.
    pub(crate) fn bring(&self, configuration: &[u8], manifest: Option<&[u8]>) -> Result<Incoming<'_>, Error> {
        let digest = Digest::of(configuration);
        let (mut unfinished, mut held) = (None, hold(&self.image_path(&digest))?);
        if held.is_none() {
            unfinished = Some(self.unfinished(&self.image_path(&digest), Yard::Tmp)?);
            // Made by whoever had the lock before.
            held = hold(&self.image_path(&digest))?;
            unfinished = unfinished.filter(|_| held.is_none());
        }
        let manifest = match manifest.map(|bytes| (Digest::of(bytes), bytes)) {
            Some((digest, bytes)) if !self.manifest_path(&digest).exists() => {
                Some((digest, bytes, self.unfinished(&self.manifest_path(&digest), Yard::Tmp)?))
            }
            _ => None,
        };
        // What is written now is seen by a sweep, or the sweep was before it.
        let _adding = self.adding()?;
        if let Some(unfinished) = &unfinished {
            unfinished.write(configuration)?;
        }
        let manifest = match manifest {
            Some((digest, bytes, unfinished)) => {
                unfinished.write(bytes)?;
                Some((digest, unfinished))
            }
            None => None,
        };
        Ok(Incoming {
            store: self,
            digest,
            configuration: unfinished,
            held,
            manifest,
            made: Mutex::default(),
        })
    }

    /// While this lives, nothing is swept.
    pub(super) fn adding(&self) -> Result<File, Error> {
        let (path, lock) = self.sweep_lock()?;
        lock.lock_shared().map_err(Error::io(path))?;
        Ok(lock)
    }

    pub(super) fn sweep_lock(&self) -> Result<(PathBuf, File), Error> {
        let path = self.root.join("lock");
        let opened =
            std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        opened.map(|file| (path.clone(), file)).map_err(Error::io(path))
    }
}

impl Incoming<'_> {
    /// See [`Store::temporary`].
    pub(crate) fn temporary(&self) -> Result<File, Error> {
        self.store.temporary()
    }

    /// Makes a layer of the image with `write` unless it is here; waits if another process is making it. After an error
    /// of `write` nothing is kept.
    pub(crate) fn add_layer<E: From<Error>>(
        &self,
        layer: &DiffId,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        self.add(self.store.layer_path(layer), Yard::Tmp, write)
    }

    /// The same with a layer as it came. The file may hold what an earlier attempt has left, and after an error what it
    /// holds is left to the next.
    pub(crate) fn add_blob<E: From<Error>>(
        &self,
        digest: &Digest,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        self.add(self.store.blob_path(digest), Yard::Partial, write)
    }

    fn add<E: From<Error>>(
        &self,
        path: PathBuf,
        yard: Yard,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.store.once(&path, yard, write)? {
            self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
        }
        Ok(())
    }

    /// The image is none: what was made for it goes, unless somebody else has come to need it.
    pub(crate) fn forget(self) {
        let made = self.made.into_inner().unwrap_or_else(PoisonError::into_inner);
        let store = self.store;
        drop((self.configuration, self.held, self.manifest));
        // What cannot be removed now is left to the next sweep.
        let _ = store.forget(&made);
    }

    /// All of the image is here: from now on it is an image of the store.
    pub(crate) fn finish(self) -> Result<(Digest, Held), Error> {
        if let Some((digest, unfinished)) = self.manifest {
            unfinished.publish(&self.store.manifest_path(&digest))?;
        }
        let place = self.store.image_path(&self.digest);
        let held = match (self.held, self.configuration) {
            (Some(held), _) => held,
            (None, Some(unfinished)) => {
                // No sweep may come between its appearance and our lock on it.
                let _adding = self.store.adding()?;
                unfinished.publish(&place)?;
                let gone = || Error::Io { path: place.clone(), cause: io::ErrorKind::NotFound.into() };
                hold(&place)?.ok_or_else(gone)?
            }
            (None, None) => unreachable!("an image is here or on its way"),
        };
        Ok((self.digest, held))
    }
}

/// Keeps the file at `path` from being swept, if there is one.
fn hold(path: &Path) -> Result<Option<Held>, Error> {
    loop {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(Error::Io { path: path.to_owned(), cause }),
        };
        file.lock_shared().map_err(Error::io(path))?;
        if is_at(&file, path) {
            return Ok(Some(Held(Some(Arc::new(file)))));
        }
    }
}
