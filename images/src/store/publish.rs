//! How a file comes into the store: made under another name in `tmp`, synced, renamed. The unfinished file is also the
//! lock, so nothing else is left to clean: whoever holds its lock makes it, others wait and find it made; a crash frees
//! the lock, and the next process starts over with the same file or removes it. Downloads alone are made in `partial`,
//! where the next process goes on with what is there.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Error, Store};

/// How long half a download may lie around that nobody goes on with.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a file is made, and with it what becomes of half of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Yard {
    /// Half a file is worth nothing.
    Tmp,
    /// Half a file saves half the work.
    Partial,
}

impl Yard {
    fn name(self) -> &'static str {
        match self {
            Self::Tmp => "tmp",
            Self::Partial => "partial",
        }
    }
}

impl Store {
    /// Makes `place` with `write` unless it is there; says whether it was made.
    pub(super) fn once<E: From<Error>>(
        &self,
        place: &Path,
        yard: Yard,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<bool, E> {
        if place.exists() {
            return Ok(false);
        }
        let unfinished = self.unfinished(place, yard)?;
        if place.exists() {
            // Made by whoever had the lock before.
            return Ok(false);
        }
        write(&unfinished.file)?;
        unfinished.publish(place)?;
        Ok(true)
    }

    /// Makes `place` hold `bytes`, whatever it held.
    pub(super) fn replace(&self, place: &Path, bytes: &[u8]) -> Result<(), Error> {
        let unfinished = self.unfinished(place, Yard::Tmp)?;
        unfinished.write(bytes)?;
        unfinished.publish(place)
    }

    /// A file that this process alone writes: empty, or what another has left of it.
    pub(super) fn unfinished(&self, place: &Path, yard: Yard) -> Result<Unfinished, Error> {
        let name = place.file_name().unwrap_or_default();
        let path = self.root.join(yard.name()).join(name);
        loop {
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = opened.and_then(|file| file.lock().map(|()| file)).map_err(Error::io(&path))?;
            // While this process waited, the file may have become what it was made for, or been removed.
            if is_at(&file, &path) {
                let unfinished = Unfinished { file, path, yard };
                if yard == Yard::Tmp {
                    unfinished.file.set_len(0).map_err(Error::io(&unfinished.path))?;
                }
                return Ok(unfinished);
            }
        }
    }

    /// Removes unfinished files that no process is working on, and downloads that none has gone on with for a day.
    pub(super) fn clean(&self) -> Result<(), Error> {
        self.clear(Yard::Tmp, Duration::ZERO)?;
        self.clear(Yard::Partial, PATIENCE).map(drop)
    }

    /// Removes what is older than `age` and not being worked on; says how many bytes that were.
    pub(super) fn clear(&self, yard: Yard, age: Duration) -> Result<u64, Error> {
        let directory = self.root.join(yard.name());
        let mut freed = 0;
        for entry in fs::read_dir(&directory).map_err(Error::io(&directory))? {
            let path = entry.map_err(Error::io(&directory))?.path();
            let Ok(file) = File::open(&path) else { continue };
            let Ok(metadata) = file.metadata() else { continue };
            // A clock that was set back makes no file old.
            let old = metadata.modified().is_ok_and(|then| {
                age.is_zero() || SystemTime::now().duration_since(then).is_ok_and(|since| since > age)
            });
            if old && file.try_lock().is_ok() && is_at(&file, &path) {
                fs::remove_file(&path).map_err(Error::io(&path))?;
                freed += metadata.len();
            }
        }
        Ok(freed)
    }

    /// A file without a name, for what is too large for memory: gone with the process.
    pub(crate) fn temporary(&self) -> Result<File, Error> {
        let directory = self.root.join("tmp");
        tempfile::tempfile_in(&directory).map_err(Error::io(directory))
    }
}

/// True if the file at `path` is this one.
pub fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let here = file.metadata().map(identity);
    here.is_ok_and(|here| fs::symlink_metadata(path).is_ok_and(|there| identity(there) == here))
}

/// A file being made. Dropped before it is published, it is removed, unless its half is of use.
#[derive(Debug)]
pub(super) struct Unfinished {
    file: File,
    path: PathBuf,
    yard: Yard,
}

impl Unfinished {
    /// Writes a small file.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        (&self.file).write_all(bytes).map_err(Error::io(&self.path))
    }

    pub(super) fn publish(self, place: &Path) -> Result<(), Error> {
        let finish = || -> io::Result<()> {
            self.file.set_permissions(Permissions::from_mode(0o444))?;
            self.file.sync_all()?;
            fs::rename(&self.path, place)?;
            sync_directory_of(place)
        };
        finish().map_err(Error::io(place))
    }
}

/// A name, too, must survive a power cut.
pub fn sync_directory_of(place: &Path) -> io::Result<()> {
    File::open(place.parent().unwrap_or(Path::new("/")))?.sync_all()
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let useful =
            self.yard == Yard::Partial && self.file.metadata().is_ok_and(|metadata| metadata.len() > 0);
        // The lock is still held: nobody else's file is removed. After publishing there is nothing at this path, or
        // another process's new file.
        if !useful && is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
