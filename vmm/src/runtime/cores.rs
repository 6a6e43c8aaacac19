//! Core files: what a process that crashes in the guest leaves, brought to the host.
//!
//! The guest's kernel writes them into a directory of the container's own root ([`DIRECTORY`]), cut off at a limit that each
//! process has (`RLIMIT_CORE`). From there they are fetched while the container runs and when it has ended. What is found
//! there is the container's word: names, sizes and numbers are bounded, and nothing is believed to be a core.

use crate::agent::{CallError, Client};
use ferry_init::api::guest::CopyFileRequest;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Where they are in the container.
pub const DIRECTORY: &str = "/.cores";
/// The name that the kernel gives one: the program's and the process's number.
pub const PATTERN: &str = "/.cores/core.%e.%p";
/// The largest core that is kept unless something else is said, in bytes.
pub const USUAL_LIMIT: u64 = 256 << 20;
/// Most of them from one container: one that crashes again and again fills no disk.
pub const MOST: usize = 16;
/// Most names that are looked at.
const MOST_NAMES: usize = 1024;
/// How often they are looked for while their container runs.
const LOOK_FOR: Duration = Duration::from_secs(10);
/// Bytes that are fetched at once.
const PIECE: u32 = 1 << 20;
/// `S_IFMT`, a directory's type with the mode of /tmp, and a file's.
const TYPE: u32 = 0o170_000;
const OPEN_DIRECTORY: u32 = 0o041_777;
const FILE: u32 = 0o100_000;

/// What is wanted of core files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// The host's directory for them.
    pub directory: PathBuf,
    /// The most bytes of one.
    pub limit: u64,
}

/// The cores of one container.
pub struct Collector<'a> {
    client: &'a Client,
    container: &'a str,
    /// What the files are called before the guest's name for them.
    name: &'a str,
    cores: &'a Cores,
    /// Size and time of those that were seen; `None`: fetched.
    seen: BTreeMap<Vec<u8>, Option<(u64, i64)>>,
    fetched: usize,
}

/// Whether a core may still be being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// The container runs: one is complete that has not changed since it was last seen.
    Running,
    /// It has ended: all are complete.
    Ended,
}

/// Makes the directory in a container that has been created.
pub fn prepare(client: &Client, container: &str) -> Result<(), CallError> {
    client.copy_file(&CopyFileRequest {
        path: super::oci::guest_path(container, &format!("rootfs{DIRECTORY}")),
        file_mode: OPEN_DIRECTORY,
        ..Default::default()
    })
}

/// The same where a container goes on that leaves no cores.
pub fn prepare_or_warn(client: &Client, container: &str) {
    if let Err(error) = prepare(client, container) {
        tracing::warn!(%error, "there is no place for cores in the container, so it leaves none");
    }
}

/// Does what lasts as long as a container, fetches its cores meanwhile, and the last of them afterwards.
pub fn collecting<T>(collector: Option<&mut Collector<'_>>, work: impl FnOnce() -> T) -> T {
    let Some(collector) = collector else { return work() };
    let (done, is_done) = channel::<()>();
    let result = std::thread::scope(|scope| {
        let collector = &mut *collector;
        scope.spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = is_done.recv_timeout(LOOK_FOR) {
                collector.collect(Processes::Running);
            }
        });
        let result = work();
        drop(done);
        result
    });
    collector.collect(Processes::Ended);
    result
}

impl<'a> Collector<'a> {
    /// Collects the cores of a container.
    pub fn new(client: &'a Client, container: &'a str, name: &'a str, cores: &'a Cores) -> Self {
        Self { client, container, name, cores, seen: BTreeMap::new(), fetched: 0 }
    }

    /// Fetches those that are complete; how many.
    pub fn collect(&mut self, processes: Processes) -> usize {
        let before = self.fetched;
        match self.client.read_dir(self.container, DIRECTORY.as_bytes(), 0) {
            Ok(answer) => {
                for name in answer.names.into_iter().take(MOST_NAMES) {
                    self.look_at(name, processes);
                }
            }
            Err(error) => tracing::debug!(%error, "no cores can be listed"),
        }
        self.fetched - before
    }

    fn look_at(&mut self, name: Vec<u8>, processes: Processes) {
        if self.seen.get(&name).is_some_and(Option::is_none) {
            return;
        }
        let path = [DIRECTORY.as_bytes(), b"/", &name].concat();
        let Ok(info) = self.client.stat_file(self.container, &path, false) else { return };
        if info.mode & TYPE != FILE {
            return;
        }
        let now = (info.size, info.mtime_ns);
        let before = self.seen.insert(name.clone(), Some(now)).flatten();
        if processes == Processes::Running && before != Some(now) {
            return;
        }
        self.seen.insert(name.clone(), None);
        if self.fetched == MOST {
            tracing::warn!("the container has left more than {MOST} cores: no more of them are fetched");
        }
        self.fetched += 1;
        if self.fetched > MOST {
            return;
        }
        match self.fetch(&path, &name, info.size) {
            Ok(file) => tracing::warn!(core = %file.display(), "a process has crashed"),
            Err(error) => tracing::warn!(%error, "a process has crashed, and its core cannot be fetched"),
        }
    }

    fn fetch(&self, path: &[u8], name: &[u8], size: u64) -> io::Result<PathBuf> {
        let (mut file, place) = create(&self.cores.directory, self.name, name)?;
        let size = size.min(self.cores.limit);
        let mut offset = 0;
        while offset < size {
            let wanted = (size - offset).min(PIECE.into()) as u32;
            let piece = self
                .client
                .read_file(self.container, path, offset, wanted)
                .map_err(|error| io::Error::other(error.to_string()))?;
            if piece.is_empty() {
                break;
            }
            let taken = piece.len().min(wanted as usize);
            file.write_all(&piece[..taken])?;
            offset += taken as u64;
        }
        Ok(place)
    }
}

/// A new file; one that is there is left as it is.
fn create(directory: &Path, container: &str, name: &[u8]) -> io::Result<(File, PathBuf)> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let name: String =
        name.iter().take(80).map(|byte| if fits(*byte) { char::from(*byte) } else { '_' }).collect();
    for attempt in 0..100 {
        let end = if attempt == 0 { String::new() } else { format!(".{attempt}") };
        let path = directory.join(format!("{container}-{name}{end}"));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            Ok(file) => return Ok((file, path)),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{}: too many of that name", directory.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_stays_in_its_directory_and_replaces_nothing() {
        let place = tempfile::tempdir().unwrap();
        for (name, expected) in [
            (&b"core.sh.7"[..], "web-core.sh.7"),
            (b"core.sh.7", "web-core.sh.7.1"),
            (b"../../etc/x", "web-.._.._etc_x"),
            (b"a\xff\n", "web-a__"),
        ] {
            let (_, path) = create(place.path(), "web", name).unwrap();
            assert_eq!(path, place.path().join(expected));
        }
        assert!(create(Path::new("/no/such/place"), "web", b"core").is_err());
    }
}
