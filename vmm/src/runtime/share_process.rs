//! The process that serves a shared directory to one guest: started by ferry for it, locked in before it hears of the guest.
//!
//! Its standard input is a socket. First it says there in one line whether it is ready; then messages of
//! [`crate::backends::fs`] come and go, until the other end, which the VM's process has, closes.

use super::guest::{LaunchError, PlannedShare};
use super::vm_process::{LONGEST_LINE, line};
use crate::backends::fs::{Server, Share, serve};
use crate::sandbox::{Access, Lock, Role, enclose_with_files, install_report};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString, OsStr};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What such a process is called: its first argument and its name.
const NAME: &CStr = c"ferry-share";
/// Descriptors that are not for files: the socket, and some in passing.
const SPARE_DESCRIPTORS: u64 = 32;

/// What it says when it is ready, or why it cannot be.
type Word = Result<Ready, String>;

/// It is ready.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    /// Whether the host lets it be locked in by more than its system calls.
    enclosed: bool,
}

/// What it is started for.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    share: PlannedShare,
    /// An empty directory.
    empty: PathBuf,
    sandboxed: bool,
}

/// Serves a share, if this process was started for that.
pub(super) fn take_over() -> Option<u8> {
    if std::env::args_os().next()?.as_encoded_bytes() != NAME.to_bytes() {
        return None;
    }
    // As the guest has it: its kernel has applied the masks of its processes.
    rustix::process::umask(Mode::empty());
    Some(match run() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("ferry: the process of a shared directory: {error}");
            1
        }
    })
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: nothing in this process has opened one yet.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    rustix::thread::set_name(NAME)?;
    let task: Task = serde_json::from_str(&std::env::args().nth(1).unwrap_or_default())?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut server, enclosed) = match make(&task) {
        Ok(made) => made,
        Err(error) => return Ok(socket.write_all(&line(&Word::Err(error.to_string()))?)?),
    };
    let ready = line(&Word::Ok(Ready { enclosed }))?;
    if task.sandboxed {
        install_report()?;
        let lock = Lock::new(Role::Files)?;
        socket.write_all(&ready)?;
        lock.enter_with_capabilities()?;
    } else {
        socket.write_all(&ready)?;
    }
    Ok(serve(socket, &mut server)?)
}

/// Opens what is shared, and locks the process in around it. Whether that could be done is the second part.
fn make(task: &Task) -> Result<(Server, bool), Box<dyn std::error::Error>> {
    let Task { share, empty, sandboxed } = task;
    let place = OFlags::PATH | OFlags::CLOEXEC;
    let descriptors = raise_descriptor_limit().saturating_sub(SPARE_DESCRIPTORS) as usize;
    let own = open("/proc/self/fd", place | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| format!("/proc is not mounted, which sharing takes: {error}"))?;
    let file = match share.source.is_dir() {
        true => None,
        false => Some((open(&share.source, place, Mode::empty())?, name_of(&share.source)?)),
    };
    let root = if file.is_some() { empty } else { &share.source };
    let mut enclosed = true;
    let root = if *sandboxed {
        let access = if share.read_only { Access::Read } else { Access::Write };
        let file = file.as_ref().map(|(fd, _)| fd.as_fd());
        let done = enclose_with_files(root, file, access)?;
        enclosed = done.root || done.landlock;
        // Where there is no other root, it is still the working directory.
        open(".", place | OFlags::DIRECTORY, Mode::empty())?
    } else {
        open(root, place | OFlags::DIRECTORY, Mode::empty())?
    };
    rustix::process::fchdir(&own)?;
    let writable = !share.read_only;
    let server = Server::new(Share { root, file, writable, in_descriptors: true, descriptors })?;
    Ok((server, enclosed))
}

/// The name under which the guest sees a shared file.
fn name_of(path: &Path) -> Result<CString, Box<dyn std::error::Error>> {
    Ok(CString::new(path.file_name().ok_or("it has no name")?.as_bytes())?)
}

/// Allows this process as many descriptors as it may have, and returns how many that are.
fn raise_descriptor_limit() -> u64 {
    const MOST: u64 = 1 << 20;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST).min(MOST);
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }) {
        Ok(()) => most,
        Err(_) => limit.current.unwrap_or(MOST).min(MOST),
    }
}

/// A process that serves a share; it is killed when it is dropped.
pub(super) struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a process for a share, and waits until it is ready: the process, and the socket over which it serves. `program` is
/// this very program, and `empty` an empty directory.
pub(super) fn start(
    program: &Path,
    share: &PlannedShare,
    empty: &Path,
    sandboxed: bool,
) -> Result<(Helper, UnixStream), LaunchError> {
    let fault = |error: &dyn std::fmt::Display| {
        LaunchError(format!("{} cannot be shared: {error}", share.source.display()))
    };
    let (ours, theirs) = UnixStream::pair().map_err(|error| fault(&error))?;
    let task = Task { share: share.clone(), empty: empty.to_owned(), sandboxed };
    let task = serde_json::to_string(&task).map_err(|error| fault(&error))?;
    let child = Command::new(program)
        .arg0(OsStr::from_bytes(NAME.to_bytes()))
        .arg(task)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        // Keys that interrupt ferry are for the container.
        .process_group(0)
        .spawn()
        .map_err(|error| fault(&format_args!("its process cannot be started: {error}")))?;
    let helper = Helper(child);
    let mut said = String::new();
    // One byte at a time: nothing of what comes behind the line is to be taken.
    let mut first = BufReader::with_capacity(1, (&ours).take(LONGEST_LINE));
    first.read_line(&mut said).map_err(|error| fault(&error))?;
    match serde_json::from_str::<Word>(&said) {
        Ok(Ok(Ready { enclosed })) => {
            if !enclosed {
                tracing::warn!(
                    "this host has neither landlock nor namespaces for ferry: the process that shares {} is held by its \
                     system calls alone",
                    share.source.display()
                );
            }
            Ok((helper, ours))
        }
        Ok(Err(error)) => Err(fault(&error)),
        Err(_) => Err(fault(&"its process has ended without a word")),
    }
}
