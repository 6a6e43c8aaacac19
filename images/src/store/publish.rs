//! How a file comes into the store: made under another name in `tmp`, synced, renamed. The unfinished file is also the
//! lock, so nothing else is left to clean: whoever holds its lock makes it, others wait and find it made; a crash frees
//! the lock, and the next process starts over with the same file or removes it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Error, Store};

impl Store {
    /// Makes `place` with `write` unless it is there.
    pub(super) fn once<E: From<Error>>(
        &self,
        place: &Path,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        if place.exists() {
            return Ok(());
        }
        let unfinished = self.unfinished(place)?;
        if place.exists() {
            // Made by whoever had the lock before.
            return Ok(());
        }
        write(&unfinished.file)?;
        Ok(unfinished.publish(place)?)
    }

    /// Makes `place` hold `bytes`, whatever it held.
    pub(super) fn replace(&self, place: &Path, bytes: &[u8]) -> Result<(), Error> {
        let unfinished = self.unfinished(place)?;
        (&unfinished.file).write_all(bytes).map_err(Error::io(&unfinished.path))?;
        unfinished.publish(place)
    }

    /// An empty file that this process alone writes.
    fn unfinished(&self, place: &Path) -> Result<Unfinished, Error> {
        let name = place.file_name().unwrap_or_default();
        let path = self.root.join("tmp").join(name);
        loop {
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = opened.and_then(|file| file.lock().map(|()| file)).map_err(Error::io(&path))?;
            // While this process waited, the file may have become what it was made for, or been removed.
            if is_at(&file, &path) {
                let unfinished = Unfinished { file, path };
                unfinished.file.set_len(0).map_err(Error::io(&unfinished.path))?;
                return Ok(unfinished);
            }
        }
    }

    /// Removes unfinished files that no process is working on.
    pub(super) fn clean(&self) -> Result<(), Error> {
        let directory = self.root.join("tmp");
        for entry in fs::read_dir(&directory).map_err(Error::io(&directory))? {
            let path = entry.map_err(Error::io(&directory))?.path();
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() && is_at(&file, &path) {
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }

    /// A file without a name, for what is too large for memory: gone with the process.
    pub(crate) fn temporary(&self) -> Result<File, Error> {
        let directory = self.root.join("tmp");
        tempfile::tempfile_in(&directory).map_err(Error::io(directory))
    }
}

/// True if the file at `path` is this one.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let here = file.metadata().map(identity);
    here.is_ok_and(|here| fs::symlink_metadata(path).is_ok_and(|there| identity(there) == here))
}

/// A file being made. Dropped before it is published, it is removed.
struct Unfinished {
    file: File,
    path: PathBuf,
}

impl Unfinished {
    fn publish(self, place: &Path) -> Result<(), Error> {
        let finish = || -> io::Result<()> {
            self.file.set_permissions(Permissions::from_mode(0o444))?;
            self.file.sync_all()?;
            fs::rename(&self.path, place)?;
            // The name, too, must survive a power cut.
            let directory = place.parent().unwrap_or(Path::new("/"));
            File::open(directory)?.sync_all()
        };
        finish().map_err(Error::io(place))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // The lock is still held: nobody else's file is removed. After publishing there is nothing at this path, or
        // another process's new file.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
