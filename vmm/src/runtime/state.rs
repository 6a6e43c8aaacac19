//! What a run leaves behind: one directory a container, with its record (`state.json`, which says its format's version),
//! its scratch disk, and a lock that the ferry running it holds. Nobody has to clean up for whom the lock is free.

use super::name;
pub use super::record::{Record, Status, VERSION};
use super::supervise::SHUTDOWN_LIMIT;
use super::volume::Volume;
use super::volumes::{self, Volumes};
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a lock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a killed process may take to be gone.
const DEATH: Duration = Duration::from_secs(5);
/// More than any record is long; what is longer was not written by ferry.
const LONGEST_RECORD: u64 = 4 << 20;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused something.
    #[error("{}: {error}", path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// A name that cannot be one.
    #[error(
        "invalid container name '{0}': use letters, digits, '_', '.' and '-', a letter or digit first, at least two"
    )]
    InvalidName(String),
    /// A name that somebody has.
    #[error("the name '{name}' is in use by container {}: remove it (ferry rm {name}) or choose another name", short(.id))]
    NameInUse {
        /// The name.
        name: String,
        /// Whose it is.
        id: String,
    },
    /// No such container.
    #[error("no such container: {0} (ferry ps -a lists those there are)")]
    NotFound(String),
    /// The beginning of several ids.
    #[error("'{0}' is the beginning of several containers' ids: write more of it")]
    Ambiguous(String),
    /// It runs.
    #[error("container {0} is running: stop it first (ferry stop {0}), or remove it with ferry rm -f")]
    Running(String),
    /// Its ferry does not end.
    #[error("the ferry that runs {name} (process {pid}) does not end")]
    Stubborn {
        /// The container.
        name: String,
        /// The process.
        pid: u32,
    },
    /// Nowhere to keep state.
    #[error("there is no place for containers' state: set HOME or XDG_STATE_HOME")]
    NoPlace,
    /// A volume.
    #[error(transparent)]
    Volumes(#[from] volumes::Error),
}

impl Error {
    /// Whether it is that there is no such volume.
    pub fn is_no_volume(&self) -> bool {
        matches!(self, Self::Volumes(volumes::Error::NotFound(_)))
    }

    /// Whether it is what others do with a volume.
    pub fn is_of_volumes_use(&self) -> bool {
        use volumes::Error::{Busy, InUse, NotFound};
        matches!(self, Self::Volumes(Busy(_) | InUse { .. } | NotFound(_)))
    }
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |error| Error::Io { path: path.clone(), error }
}

/// The first twelve digits of an id, as it is shown.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// All containers of this user.
#[derive(Debug, Clone)]
pub struct Containers {
    root: PathBuf,
    volumes: Volumes,
}

/// A container that another command looks at.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its record; one that claims to run although its ferry is gone says `Dead`.
    pub record: Record,
    /// Whether the ferry that runs it is alive.
    pub alive: bool,
    directory: PathBuf,
}

impl Listed {
    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the ferry that runs it is alive now.
    pub fn is_alive(&self) -> bool {
        is_held(&self.directory.join("lock"))
    }

    /// Its record as it is now; `None` when it has been removed.
    pub fn reread(&self) -> Option<Record> {
        read_record(&self.directory.join("state.json")).ok()
    }

    /// Waits until the ferry that runs it has ended; whether it has.
    pub fn wait_for_end(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        while self.is_alive() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        true
    }
}

/// A container that this process runs; its lock is held until this is dropped.
#[derive(Debug)]
pub struct Entry {
    directory: PathBuf,
    record: Record,
    _lock: File,
}

impl Containers {
    /// `$XDG_STATE_HOME/ferry`, or `~/.local/state/ferry`, or for root without a home `/var/lib/ferry/state`.
    pub fn default_path() -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || Some(absolute("HOME")?.join(".local/state"));
        let system = || rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/lib/ferry/state"));
        absolute("XDG_STATE_HOME").or_else(home).map(|place| place.join("ferry")).or_else(system)
    }

    /// Uses the state below `root`, which is made when something is written.
    pub fn open(root: &Path) -> Self {
        Self { root: root.to_owned(), volumes: Volumes::open(&root.join("volumes")) }
    }

    /// The same with this user's volumes, where there is a place for them.
    pub fn with_usual_volumes(self) -> Self {
        let usual = Volumes::default_path().map(|path| Volumes::open(&path));
        Self { volumes: usual.unwrap_or(self.volumes), root: self.root }
    }

    /// The volumes that they have.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn directory(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// The directory of the container with this id.
    pub fn directory_of(&self, id: &str) -> PathBuf {
        self.directory().join(id)
    }

    /// Held while names are given and directories come and go.
    fn lock(&self) -> Result<File, Error> {
        private_directory(&self.directory()).map_err(io_at(&self.directory()))?;
        let path = self.root.join("lock");
        let lock = open_lock(&path).map_err(io_at(&path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| io_at(&path)(error.into()))?;
        Ok(lock)
    }

    /// Makes a container's directory. An empty name in the record is replaced by one that is free.
    pub fn create(&self, mut record: Record) -> Result<Entry, Error> {
        if !record.name.is_empty() && !name::is_valid(&record.name) {
            return Err(Error::InvalidName(record.name));
        }
        let _all = self.lock()?;
        let others = self.list_locked()?;
        let holder = |name: &str| others.iter().find(|other| other.record.name == name);
        if let Some(other) = holder(&record.name) {
            return Err(Error::NameInUse { name: record.name, id: other.record.id.clone() });
        }
        let mut attempt = 0;
        while record.name.is_empty() || holder(&record.name).is_some() {
            record.name = name::suggestion(attempt);
            attempt += 1;
        }
        let directory = self.directory_of(&record.id);
        let at = io_at(&directory);
        DirBuilder::new().mode(0o700).create(&directory).map_err(&at)?;
        let lock = open_lock(&directory.join("lock")).map_err(&at)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| at(error.into()))?;
        let entry = Entry { directory, record, _lock: lock };
        entry.write()?;
        Ok(entry)
    }

    /// All containers, the newest first. Those that were to go away with their end, and whose ferry was killed before
    /// it could see to that, are removed on the way.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        if !self.directory().exists() {
            return Ok(Vec::new());
        }
        let _all = self.lock()?;
        self.list_locked()
    }

    fn list_locked(&self) -> Result<Vec<Listed>, Error> {
        let directory = self.directory();
        let (mut found, mut gone) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&directory).map_err(io_at(&directory))? {
            let path = entry.map_err(io_at(&directory))?.path();
            let alive = is_held(&path.join("lock"));
            match read_record(&path.join("state.json")) {
                Ok(record) if record.made.auto_remove && !alive => {
                    discard(&path, Some(&record));
                    gone.extend(record.made.volumes);
                }
                Ok(mut record) => {
                    if !alive && !record.status.is_over() {
                        record.status = Status::Dead;
                        record.reason = super::guest::Reason::VmmKilled.word().to_owned();
                        record.exit_code = Some(125);
                    }
                    found.push(Listed { record, alive, directory: path });
                }
                // Made by a ferry that was killed at once.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !alive => discard(&path, None),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a container's record cannot be read")
                }
            }
        }
        found.sort_by_key(|listed| std::cmp::Reverse(listed.record.created));
        self.drop_unused(&gone, &found);
        Ok(found)
    }

    /// Removes those volumes of a container that is gone which nobody named, unless another has one of them.
    pub fn drop_volumes(&self, volumes: &[Volume]) {
        if !volumes.iter().any(|volume| volume.anonymous().is_some()) {
            return;
        }
        match self.list() {
            Ok(others) => self.drop_unused(volumes, &others),
            Err(error) => tracing::warn!(%error, "a container's volumes cannot be removed"),
        }
    }

    fn drop_unused(&self, volumes: &[Volume], others: &[Listed]) {
        for name in volumes.iter().filter_map(Volume::anonymous).filter(|name| !name.is_empty()) {
            match self.volumes.remove::<Error>(name, || Ok(others.to_vec())) {
                Err(error) if !error.is_of_volumes_use() => {
                    tracing::warn!(name, %error, "a volume cannot be removed: ferry volume prune tries again");
                }
                _ => {}
            }
        }
    }

    /// Removes a volume that no container has.
    pub fn remove_volume(&self, name: &str) -> Result<(), Error> {
        self.volumes.remove(name, || self.list())
    }

    /// The container of this name, id, or beginning of an id.
    pub fn find(&self, wanted: &str) -> Result<Listed, Error> {
        let mut all = self.list()?;
        if let Some(at) = all.iter().position(|one| one.record.name == wanted || one.record.id == wanted) {
            return Ok(all.swap_remove(at));
        }
        let begins = |one: &Listed| !wanted.is_empty() && one.record.id.starts_with(wanted);
        let mut matching = all.into_iter().filter(begins);
        match (matching.next(), matching.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(Error::Ambiguous(wanted.to_owned())),
            (None, _) => Err(Error::NotFound(wanted.to_owned())),
        }
    }

    /// Removes a container. One that runs is only removed by force, which ends its ferry; one that has ended already, and
    /// whose guest is still closing its disk, is waited for.
    pub fn remove(&self, container: &Listed, force: Force) -> Result<(), Error> {
        if container.alive {
            let ends = container.record.status.is_over() && container.wait_for_end(SHUTDOWN_LIMIT);
            if !ends && force == Force::No {
                return Err(Error::Running(container.record.name.clone()));
            }
            end_process(container)?;
        }
        {
            let _all = self.lock()?;
            if container.directory.exists() {
                discard(&container.directory, Some(&container.record));
            }
        }
        if container.record.made.auto_remove {
            self.drop_volumes(&container.record.made.volumes);
        }
        Ok(())
    }
}

/// Whether a running container may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Only one that does not run.
    No,
    /// Also one that runs.
    Yes,
}

/// Ends the ferry that holds a container's lock.
fn end_process(container: &Listed) -> Result<(), Error> {
    let pid = container.record.pid;
    let process = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // The lock is held, so the process that wrote its id into the record is alive and the id is its own.
    if container.is_alive()
        && let Some(process) = process
    {
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
    if container.wait_for_end(DEATH) {
        return Ok(());
    }
    Err(Error::Stubborn { name: container.record.name.clone(), pid })
}

impl Entry {
    /// The container's record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The container's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Changes the record, on disk too.
    pub fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        change(&mut self.record);
        self.write()
    }

    /// Removes everything of the container.
    pub fn remove(self) {
        discard(&self.directory, Some(&self.record));
    }

    /// Written aside and moved into place, so that a reader sees the old record or the new one.
    fn write(&self) -> Result<(), Error> {
        let path = self.directory.join("state.json");
        let new = self.directory.join("state.json.new");
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            serde_json::to_writer(&mut file, &self.record)?;
            file.write_all(b"\n")?;
            fs::rename(&new, &path)
        };
        write().map_err(io_at(&path))
    }
}

/// Removes a container's directory, and that of its sockets. What cannot be removed is said and left.
fn discard(directory: &Path, record: Option<&Record>) {
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %directory.display(), %error, "cannot be removed");
    }
    let sockets = record.map(|record| record.runtime_directory.as_path());
    // Only what ferry makes for the purpose: a record is a file somebody may have edited.
    let ours =
        |path: &&Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ferry-"));
    if let Some(sockets) = sockets.filter(ours) {
        let _ = fs::remove_dir_all(sockets);
    }
}

pub(super) fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether a process holds the lock. Looking takes a shared lock, so that two who look do not see each other.
fn is_held(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

fn read_record(path: &Path) -> io::Result<Record> {
    read_versioned(path, VERSION)
}

/// Reads a record of that version.
pub(super) fn read_versioned<T: DeserializeOwned>(path: &Path, known: u32) -> io::Result<T> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if fs::metadata(path)?.len() > LONGEST_RECORD {
        return Err(invalid("the record is too long".to_owned()));
    }
    let bytes = fs::read(path)?;
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let fault = |error: serde_json::Error| invalid(error.to_string());
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(fault)?;
    if version != known {
        return Err(invalid(format!("format {version}; this ferry knows {known}")));
    }
    serde_json::from_slice(&bytes).map_err(fault)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
