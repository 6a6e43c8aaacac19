//! A guest from the outside: what it is started with, how its agent is reached, and how it ended. Whoever can start one
//! (ferry's own VMM, QEMU) implements [`Launch`] and [`Guest`]; everything else of a run is the same.

use super::network;
use crate::agent::Transport;
use crate::machine::{Backing, Model};
use crate::sandbox::UserRange;
use ferry_images::Segment;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a guest is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// To how much it can grow, in MiB.
    pub most_memory_mib: u64,
    /// Disks, in the guest's order.
    pub disks: Vec<PlannedDisk>,
    /// Directories and files of the host that it can mount.
    pub shares: Vec<PlannedShare>,
    /// Its network, if it has one.
    pub network: Option<network::Plan>,
    /// Words appended to the kernel's command line.
    pub cmdline_extra: String,
    /// The kernel, where it is not the usual one.
    pub kernel: Option<PathBuf>,
    /// The initrd, where it is not the usual one.
    pub initrd: Option<PathBuf>,
    /// A directory of this run's own (mode 0700) for sockets; gone after the run.
    pub directory: PathBuf,
    /// Where the guest's serial output goes besides the error messages that quote it.
    pub serial: Serial,
    /// Whether the VM's process is locked in.
    pub sandboxed: bool,
    /// The users of whom it becomes one where root starts it; none: the usual ones.
    pub users: Option<UserRange>,
    /// What its processors are like.
    pub cpu: Model,
    /// Where its memory comes from.
    pub backing: Backing,
    /// The most memory of the host, in bytes, that its process may take.
    pub memory_limit: Option<u64>,
    /// The socket at which it waits for a debugger, if it does.
    pub gdb: Option<PathBuf>,
    /// What is told of it besides.
    pub tell: Tell,
}

/// What is told of a VM besides how its container did, when it has ended and before it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tell {
    /// A file for all of it, as JSON.
    pub report: Option<PathBuf>,
    /// Whether its exits to the VMM are counted by cause on standard error.
    pub exits: bool,
    /// A file for the flattened device tree by which its guest finds processors and devices; written before it starts.
    pub device_tree: Option<PathBuf>,
}

/// A disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDisk {
    /// What the guest finds it by.
    pub serial: String,
    /// What it is made of.
    pub contents: Contents,
}

/// A directory or a file of the host that a guest can mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShare {
    /// What the guest finds it by.
    pub tag: String,
    /// What it is.
    pub source: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// What a disk is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// Read-only files, joined end to end.
    Layers(Vec<Segment>),
    /// The same, mapped into the guest's address space instead of being read from a disk.
    Mapped(Vec<Segment>),
    /// One file that the guest writes to.
    Scratch(PathBuf),
    /// The same, of which nothing is kept after the guest.
    Throwaway(PathBuf),
}

/// Where the guest's serial output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Serial {
    /// Nowhere.
    Quiet,
    /// To our standard error.
    Stderr,
}

/// Starts guests.
pub trait Launch: Sync {
    /// Whether guests can be started here at all; asked before an image is fetched.
    fn check(&self) -> Result<(), LaunchError> {
        Ok(())
    }

    /// What people see while a guest starts.
    fn step(&self) -> &'static str {
        "starting the guest"
    }

    /// Whether the guests can have a network of ferry's.
    fn has_network(&self) -> bool {
        false
    }

    /// Whether the guests' vsock is one of ferry's, with sockets on the host.
    fn has_vsock(&self) -> bool {
        false
    }

    /// Whether files can be mapped into the guests' address space.
    fn maps_files(&self) -> bool {
        false
    }

    /// Whether directories of the host can be shared with the guests; if not, why.
    fn shares(&self) -> Result<(), LaunchError> {
        Ok(())
    }

    /// Starts one. It runs when this returns, or an error says why not in words for people.
    fn launch(&self, plan: &Plan) -> Result<Arc<dyn Guest>, LaunchError>;
}

/// Why a guest could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LaunchError(pub String);

/// A guest that has been started.
pub trait Guest: Send + Sync {
    /// The way to its agent.
    fn transport(&self) -> Transport;
    /// Waits for its end, at most this long; `None` while it runs.
    fn wait(&self, at_most: Duration) -> Option<End>;
    /// Ends it now; what its disks have not been told is lost.
    fn stop(&self);
    /// The last part of its serial output.
    fn serial_tail(&self) -> String;
    /// What its machine has done so far, as JSON; none of a guest whose machine is not ours.
    fn metrics(&self) -> Option<String> {
        None
    }
    /// Writes its memory and registers to a file, at most so many bytes of it, while it stands still.
    fn dump(&self, _file: File, _most: u64) -> Result<(), String> {
        Err("a VM of this kind cannot be dumped".to_owned())
    }
    /// Whether a debugger may hold it for as long as it likes.
    fn is_debugged(&self) -> bool {
        false
    }
    /// Asks it to grow or shrink to so many MiB, which are from what it was started with to what its plan allows. It does
    /// in its own time.
    fn set_memory(&self, _mib: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// In one word.
    pub reason: Reason,
    /// In the words of whoever saw it; may be empty.
    pub detail: String,
}

/// Why a container is not running any more, beyond its own exit; [`Reason::word`] is what `inspect` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The guest has reset itself, as it does after its work.
    Reset,
    /// Its kernel panicked.
    GuestPanic,
    /// A vCPU shut down.
    TripleFault,
    /// KVM gave up.
    KvmInternalError,
    /// The VMM was told to stop, or was killed.
    VmmKilled,
    /// The VMM did what its sandbox forbids.
    Sandbox,
    /// The VMM failed.
    VmmError,
    /// The guest never came up, or refused what it was asked for.
    StartFailed,
}

impl Reason {
    /// The word for it, as `inspect` shows it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reset => "guest-reset",
            Self::GuestPanic => "guest-panic",
            Self::TripleFault => "triple-fault",
            Self::KvmInternalError => "kvm-internal-error",
            // It was killed for what it did, whoever did it to it.
            Self::VmmKilled | Self::Sandbox => "vmm-killed",
            Self::VmmError => "vmm-error",
            Self::StartFailed => "start-failed",
        }
    }
}

impl End {
    /// One line for people: what happened, as the clause after "the VM has ended: ".
    pub fn sentence(&self) -> String {
        let line = self.detail.lines().map(without_time).find(|line| !line.is_empty()).unwrap_or_default();
        let with = |what: &str| if line.is_empty() { what.to_owned() } else { format!("{what}: {line}") };
        match self.reason {
            Reason::Reset => with("the guest has reset itself before its time"),
            Reason::GuestPanic => with("the guest's kernel panicked"),
            Reason::TripleFault => with("the guest's processor shut down (triple fault)"),
            Reason::KvmInternalError => with("KVM could not go on (internal error)"),
            Reason::VmmKilled => with("the VM was stopped"),
            Reason::Sandbox => with("the VM did what its sandbox forbids, and was ended"),
            Reason::VmmError => with("the VM failed"),
            Reason::StartFailed => with("the guest did not start"),
        }
    }
}

/// A line of a kernel's log without the time in brackets before it.
fn without_time(line: &str) -> &str {
    let line = line.trim();
    let stamp = |inner: &str| inner.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b' ' | b'.'));
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, rest)) if stamp(time) => rest.trim(),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_one_line() {
        let end = End {
            reason: Reason::GuestPanic,
            detail: "\n  Kernel panic - not syncing: no init\nmore\n".into(),
        };
        assert_eq!(end.sentence(), "the guest's kernel panicked: Kernel panic - not syncing: no init");
        let end = End { detail: "[    1.250000] Kernel panic\n".into(), ..end };
        assert_eq!(end.sentence(), "the guest's kernel panicked: Kernel panic");
        let end = End { reason: Reason::Reset, detail: String::new() };
        assert_eq!(end.sentence(), "the guest has reset itself before its time");
    }
}
