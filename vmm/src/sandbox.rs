//! How the VMM locks itself in, before the guest's first instruction.
//!
//! A [`Lock`] belongs to a thread's role. Once a thread has [entered](Lock::enter) it, the thread has no capabilities,
//! can gain none, and every system call that its role does not need ends the process: one line on standard error and
//! exit status [`STOPPED`]. In particular no file can be opened, no program started, no process signalled or traced, and no
//! memory made executable.
//!
//! Threads share memory, so a lock is worth what the process's weakest thread is. A process that does nothing but run a
//! machine is [enclosed](enclose) besides, and then every thread of it is locked: it sees no file but those of one
//! directory, no network, and no process outside of it. Where root starts it, it is a user of its own ([`claim`]) in a
//! [`cgroup`] of its own.

pub mod cgroup;
mod enclosure;
mod filter;
mod lock;
mod user;

pub use enclosure::{Access, Enclosed, enclose, enclose_with_files};
pub use lock::{Lock, Role, STOPPED, install_report};
pub use user::{Claim, LOCKS, UserRange, claim};

use std::io;
use thiserror::Error;

/// Why a thread or process could not be locked in.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// A mistake in this program: the filter has too many rules, or one for a call that there cannot be.
    #[error("internal error: the rules for system calls make no filter")]
    Rules,
    /// The rules for files and networks could not be put in force.
    #[error("cannot lock the process in with landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The system refused another step.
    #[error("cannot lock a thread in: {0}")]
    System(#[from] io::Error),
}
