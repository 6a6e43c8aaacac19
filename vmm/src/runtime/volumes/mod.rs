//! Volumes that ferry keeps: directories with names, which containers see and which outlive them.
//!
//! ```text
//! .lock               held while a volume appears or goes
//! NAME/volume.json    what is known of it
//! NAME/lock           shared by everybody who uses it, held alone by whoever fills or removes it
//! NAME/begin          held while somebody finds out whether to fill it, does so, and begins to use it
//! NAME/data/          what containers see
//! NAME/data.new/      what an image has at the place of an empty volume, until all of it is here
//! .new-ID/, .gone-ID/ one on its way in or out
//! ```
//!
//! A volume appears under its name whole and on disk, and goes by a change of its name; so does its first content. Whatever
//! a process that was killed has left of either, the next one removes.

mod fill;
#[cfg(test)]
mod tests;

use super::clock;
use super::name;
use super::run::Ready;
use super::state::{Listed, open_lock, private_directory, read_versioned};
use super::volume::Volume;
use ferry_images::store::{is_at, sync_directory_of};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The format of `volume.json`.
const VERSION: u32 = 1;

const RECORD: &str = "volume.json";
/// In a volume.
const LOCK: &str = "lock";
/// In a volume, too. With the other alone, who waits for one that fills it and is killed would use it as it is.
const BEGIN: &str = "begin";
/// Of all of them: like whatever else begins with a dot, no volume's name.
const ALL: &str = ".lock";
const DATA: &str = "data";
/// What the names of volumes on their way in and out begin with: no volume's own does.
const NEW: &str = ".new-";
const GONE: &str = ".gone-";

/// How long a process that ends may still hold a volume whose container is gone, and how often that is looked at.
const ENDING: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why volumes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused something.
    #[error("volumes: {}: {error}", path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// A name that cannot be one.
    #[error(
        "'{}' cannot be a volume's name: use letters, digits, '_', '.' and '-', a letter or digit first, from two to 128 of them",
        crate::agent::printable(.0)
    )]
    InvalidName(String),
    /// No such volume.
    #[error("no such volume: {0} (ferry volume ls lists those there are)")]
    NotFound(String),
    /// A container has it.
    #[error("volume {name} is in use by container {container}: remove that first (ferry rm {container})")]
    InUse {
        /// The volume.
        name: String,
        /// By its name.
        container: String,
    },
    /// A container that starts has it, or a process that ends.
    #[error("volume {0} is being used by a container that starts or ends: try again")]
    Busy(String),
    /// The image's content cannot be copied into it.
    #[error("volume {name}: what the image has at {path} cannot be copied into it: {error}")]
    Fill {
        /// The volume.
        name: String,
        /// Where in the image.
        path: String,
        /// Why.
        error: io::Error,
    },
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |error| Error::Io { path: path.clone(), error }
}

/// What is known of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Its name.
    pub name: String,
    /// When it was made, in nanoseconds since 1970.
    pub created: u64,
    /// Whether it was made for one container that gave it no name.
    pub anonymous: bool,
    /// What was said of it.
    pub labels: BTreeMap<String, String>,
}

/// A volume that is here.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What is known of it.
    pub record: Record,
    directory: PathBuf,
}

impl Stored {
    /// What containers see of it.
    pub fn data(&self) -> PathBuf {
        self.directory.join(DATA)
    }

    /// Whose it is, if it is somebody's.
    pub fn user<'a>(&self, containers: &'a [Listed]) -> Option<&'a Listed> {
        let is_it = |volume: &Volume| volume.name() == Some(&self.record.name);
        containers.iter().find(|one| one.record.made.volumes.iter().any(is_it))
    }

    /// How many bytes of the disk it takes. What cannot be read counts as nothing.
    pub fn bytes(&self) -> u64 {
        let (mut bytes, mut left, mut seen) = (0, vec![self.directory.clone()], HashSet::new());
        while let Some(path) = left.pop() {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                let Ok(found) = entry.metadata() else { continue };
                // What has several names is there once.
                if found.is_dir() || found.nlink() == 1 || seen.insert((found.dev(), found.ino())) {
                    bytes += found.blocks() * 512;
                }
                if found.is_dir() {
                    left.push(entry.path());
                }
            }
        }
        bytes
    }
}

/// Volumes that a container uses: they stay while this lives.
#[derive(Debug, Default)]
pub struct InUse(Vec<File>);

impl InUse {
    /// And the one whose lock this is.
    pub(super) fn also(&mut self, lock: File) {
        self.0.push(lock);
    }
}

/// All volumes of this user.
#[derive(Debug, Clone)]
pub struct Volumes {
    root: PathBuf,
}

impl Volumes {
    /// Where they are kept where nobody says otherwise: `$XDG_DATA_HOME/ferry/volumes`, or `~/.local/share/ferry/volumes`, or for root without a home `/var/lib/ferry/volumes`.
    pub fn default_path() -> Option<PathBuf> {
        let system = || rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/lib/ferry"));
        ferry_images::Store::default_path().or_else(system).map(|data| data.join("volumes"))
    }

    /// Uses the volumes below `root`, which is made when something is written.
    pub fn open(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The volume of that name, made unless it is here; whether it was made.
    pub fn create(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        anonymous: bool,
    ) -> Result<(Stored, bool), Error> {
        if !name::is_valid(name) {
            return Err(Error::InvalidName(name.to_owned()));
        }
        private_directory(&self.root).map_err(io_at(&self.root))?;
        let _all = self.lock()?;
        self.clean(NEW)?;
        match self.find(name) {
            Err(Error::NotFound(_)) => {}
            found => return Ok((found?, false)),
        }
        let record =
            Record { version: VERSION, name: name.to_owned(), created: clock::now(), anonymous, labels };
        let made = self.root.join(format!("{NEW}{}", name::id()));
        let directory = self.root.join(name);
        make(&made, &record).and_then(|()| fs::rename(&made, &directory)).map_err(io_at(&directory))?;
        sync_directory_of(&directory).map_err(io_at(&self.root))?;
        Ok((Stored { record, directory }, true))
    }

    /// All of them, by name.
    pub fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut found = Vec::new();
        for name in self.entries()?.into_iter().filter(|name| name::is_valid(name)) {
            match self.find(&name) {
                Ok(stored) => found.push(stored),
                Err(Error::NotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "a volume's record cannot be read"),
            }
        }
        found.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(found)
    }

    /// The volume of that name.
    pub fn find(&self, name: &str) -> Result<Stored, Error> {
        if !name::is_valid(name) {
            return Err(Error::InvalidName(name.to_owned()));
        }
        let directory = self.root.join(name);
        let path = directory.join(RECORD);
        match read_versioned(&path, VERSION) {
            Ok(record) => Ok(Stored { record, directory }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NotFound(name.to_owned())),
            Err(error) => Err(Error::Io { path, error }),
        }
    }

    /// Removes a volume that no container has. `list` is asked for all of them when nobody can begin to use the volume any more.
    pub(super) fn remove<E: From<Error>>(
        &self,
        name: &str,
        list: impl Fn() -> Result<Vec<Listed>, E>,
    ) -> Result<(), E> {
        let stored = self.find(name)?;
        let path = stored.directory.join(LOCK);
        let begin = open_lock(&stored.directory.join(BEGIN));
        let (begin, lock) =
            begin.and_then(|begin| Ok((begin, open_lock(&path)?))).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NotFound(name.to_owned()),
                _ => io_at(&path)(error),
            })?;
        let until = Instant::now() + ENDING;
        loop {
            // Nobody is to take this look for a use of it.
            let is_free = [&begin, &lock]
                .into_iter()
                .all(|lock| flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok());
            let containers = list()?;
            if let Some(user) = stored.user(&containers) {
                let container = user.record.name.clone();
                return Err(Error::InUse { name: name.to_owned(), container }.into());
            }
            if is_free {
                break;
            }
            if Instant::now() >= until {
                return Err(Error::Busy(name.to_owned()).into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        // Somebody may have removed it, and somebody else made another, since it was found.
        if is_at(&lock, &path) {
            self.take_away(&stored)?;
        }
        Ok(())
    }

    /// Removes a volume whose lock is held alone.
    fn take_away(&self, stored: &Stored) -> Result<(), Error> {
        let gone = self.root.join(format!("{GONE}{}", name::id()));
        {
            let _all = self.lock()?;
            fs::rename(&stored.directory, &gone).map_err(io_at(&stored.directory))?;
            sync_directory_of(&gone).map_err(io_at(&self.root))?;
        }
        // What another process has left goes with it.
        self.clean(GONE)
    }

    /// Makes sure that what a container is to see of volumes is there, made, and filled from its image where it is new, and
    /// says in `volumes` where it is.
    pub fn attach(&self, volumes: &mut [Volume], image: &Ready) -> Result<InUse, Error> {
        let mut in_use = InUse::default();
        for volume in volumes {
            let Some(kept) = &mut volume.kept else { continue };
            if kept.name.is_empty() {
                kept.name = name::id();
            }
            let from = kept.copies.then_some((image, volume.target.as_str()));
            let (stored, lock) = self.hold(&kept.name, kept.anonymous, from)?;
            volume.source = stored.data();
            in_use.also(lock);
        }
        Ok(in_use)
    }

    /// Begins to use a volume, filled from that place of the image where it is empty and nobody uses it yet.
    pub(super) fn hold(
        &self,
        name: &str,
        anonymous: bool,
        from: Option<(&Ready, &str)>,
    ) -> Result<(Stored, File), Error> {
        loop {
            let (stored, _) = self.create(name, BTreeMap::new(), anonymous)?;
            let path = stored.directory.join(LOCK);
            let opened = open_lock(&stored.directory.join(BEGIN)).and_then(|begin| {
                flock(&begin, FlockOperation::LockExclusive)?;
                Ok((begin, open_lock(&path)?))
            });
            let (_begin, lock) = match opened {
                // It was removed meanwhile, and perhaps made again.
                Ok((begin, _)) if !is_at(&begin, &stored.directory.join(BEGIN)) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Ok(locks) => locks,
                Err(error) => return Err(io_at(&path)(error)),
            };
            let alone = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&lock, &path);
            if let Some((image, place)) = from.filter(|_| alone) {
                fill::fill(&stored.directory, image, place).map_err(|error| Error::Fill {
                    name: name.to_owned(),
                    path: place.to_owned(),
                    error,
                })?;
            }
            // Whoever removes it is waited for.
            flock(&lock, FlockOperation::LockShared).map_err(|error| io_at(&path)(error.into()))?;
            if is_at(&lock, &path) {
                return Ok((stored, lock));
            }
        }
    }

    fn lock(&self) -> Result<File, Error> {
        let path = self.root.join(ALL);
        let lock = open_lock(&path).map_err(io_at(&path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| io_at(&path)(error.into()))?;
        Ok(lock)
    }

    /// Removes what begins with `prefix`: of what is made, only by whoever holds the lock.
    fn clean(&self, prefix: &str) -> Result<(), Error> {
        for name in self.entries()?.into_iter().filter(|name| name.starts_with(prefix)) {
            let path = self.root.join(name);
            remove_tree(&path).map_err(io_at(&path))?;
        }
        Ok(())
    }

    /// The names of what is there that are text.
    fn entries(&self) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_at(&self.root)(error)),
        };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
        let names = names.collect::<io::Result<Vec<_>>>().map_err(io_at(&self.root))?;
        Ok(names.into_iter().flatten().collect())
    }
}

/// Removes a directory with all that is in it, if it is there; others may be doing the same. A guest may have made directories
/// that nobody may enter, and more of them in one another than a path or a stack has room for: so each is opened up, and what
/// is in it that is a directory is moved to the top.
fn remove_tree(top: &Path) -> io::Result<()> {
    // What another moves while this one looks, it may not see: then there is another round.
    let is_gone = |result: io::Result<()>| match result.as_ref().map_err(io::Error::kind) {
        Err(io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        _ => result,
    };
    let open_up = |path: &Path| is_gone(fs::set_permissions(path, Permissions::from_mode(0o700)));
    let entries = |path: &Path| match fs::read_dir(path) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let is_directory = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let (prefix, mut moved) = (name::id(), 0_u64);
    while is_directory(top) {
        open_up(top)?;
        let there = entries(top)?;
        if there.is_empty() {
            is_gone(fs::remove_dir(top))?;
        }
        for path in there.iter().map(fs::DirEntry::path) {
            if !is_directory(&path) {
                is_gone(fs::remove_file(&path))?;
                continue;
            }
            open_up(&path)?;
            for inner in entries(&path)?.iter().map(fs::DirEntry::path) {
                if is_directory(&inner) {
                    // To be moved, it has to be written to.
                    open_up(&inner)?;
                    moved += 1;
                    is_gone(fs::rename(&inner, top.join(format!("{prefix}-{moved}"))))?;
                } else {
                    is_gone(fs::remove_file(&inner))?;
                }
            }
            is_gone(fs::remove_dir(&path))?;
        }
    }
    Ok(())
}

/// Makes a volume's directory, and what is known of it, on disk.
fn make(directory: &Path, record: &Record) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(directory)?;
    let data = directory.join(DATA);
    fs::create_dir(&data)?;
    // Whatever the umask: it is the container's root that is seen here, and the directories above are nobody else's.
    fs::set_permissions(&data, Permissions::from_mode(0o755))?;
    open_lock(&directory.join(LOCK))?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(RECORD))?;
    serde_json::to_writer(&mut file, record)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    // Names, too, must survive a power cut.
    sync_directory_of(&data)
}
