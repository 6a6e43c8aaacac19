//! The process of a VM before it has a machine: a copy of this one that was made in advance, or this program started anew.
//!
//! What is started anew has the C library find out once more what the processor is, which in a virtual machine takes longer
//! than anything else that is done before the guest runs, and touches every page once more. A copy has all of that. It can be
//! made only while this process has one thread, so whoever is about to run a VM says so at its beginning ([`stand_by`]); a VM
//! that nobody has announced, or one more, is started.
//!
//! A copy knows what this process knew then: its arguments and its settings, and where its memory lies. No image has been read, and
//! no registry asked.

use super::vm_process;
use std::ffi::OsStr;
use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

/// The copy, until it is taken.
static WAITING: Mutex<Option<Fresh>> = Mutex::new(None);

/// Such a process, and its other ends.
pub(super) struct Fresh {
    pub process: Process,
    /// The socket that is its standard input.
    pub control: UnixStream,
    /// What it writes to its standard output.
    pub serial: PipeReader,
    /// And to its standard error.
    pub complaints: PipeReader,
}

/// Has a process at hand for the next VM of this one. There must be no other threads yet. Where it cannot be made, the VM's is
/// started when it is wanted, and says then what is wrong.
pub fn stand_by() {
    if let Ok(fresh) = copy() {
        *WAITING.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
    }
}

/// The process for a VM.
pub(super) fn take() -> io::Result<Fresh> {
    let waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner).take();
    waiting.map_or_else(start, Ok)
}

/// The three ends that such a process is given: standard input, output and error.
type Ends = [OwnedFd; 3];

fn ends() -> io::Result<(UnixStream, PipeReader, PipeReader, Ends)> {
    let (control, theirs) = UnixStream::pair()?;
    let (serial, serial_end) = io::pipe()?;
    let (complaints, complaints_end) = io::pipe()?;
    Ok((control, serial, complaints, [theirs.into(), serial_end.into(), complaints_end.into()]))
}

fn copy() -> io::Result<Fresh> {
    let (control, serial, complaints, theirs) = ends()?;
    // SAFETY: this process has one thread, so the new one is as whole as this one.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = match take_ends(&theirs) {
                Ok(()) => vm_process::run(),
                Err(_) => vm_process::FAILED,
            };
            // SAFETY: takes a number. What this process was a copy of has its own words still to write.
            unsafe { libc::_exit(status.into()) }
        }
        pid => Ok(Fresh { process: Process(pid), control, serial, complaints }),
    }
}

/// Makes these this process's standard streams, and keys that interrupt ferry none of its business.
fn take_ends(theirs: &Ends) -> io::Result<()> {
    let done = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    for (standard, end) in (0..).zip(theirs) {
        // SAFETY: takes numbers. The ends are none of these three, which are open from the program's beginning.
        done(unsafe { libc::dup2(end.as_raw_fd(), standard) })?;
    }
    // SAFETY: takes numbers.
    done(unsafe { libc::setpgid(0, 0) })
}

fn start() -> io::Result<Fresh> {
    let (control, serial, complaints, [input, output, error]) = ends()?;
    let child = Command::new(this_program())
        .arg0(OsStr::from_bytes(vm_process::NAME.to_bytes()))
        .stdin(input)
        .stdout(output)
        .stderr(Stdio::from(error))
        // Keys that interrupt ferry are for the container, not for its machine.
        .process_group(0)
        .spawn()?;
    // A process's number is one of the system's own type.
    Ok(Fresh { process: Process(child.id() as libc::pid_t), control, serial, complaints })
}

/// This very program, also when its file has been replaced meanwhile.
pub(super) fn this_program() -> PathBuf {
    let own = PathBuf::from("/proc/self/exe");
    match own.exists() {
        true => own,
        // An empty root has no /proc.
        false => std::env::args_os().next().unwrap_or_default().into(),
    }
}

/// A child of this process that has not been waited for.
pub(super) struct Process(libc::pid_t);

impl Process {
    pub fn id(&self) -> u32 {
        self.0 as u32
    }

    /// Kills it, if it has not ended, and waits for it.
    pub fn end(self) -> io::Result<ExitStatus> {
        let mut status = 0;
        // SAFETY: takes numbers; until it is waited for, this one is nobody else's.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        loop {
            // SAFETY: the status is a number to be written.
            if unsafe { libc::waitpid(self.0, &mut status, 0) } == self.0 {
                return Ok(ExitStatus::from_raw(status));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}
