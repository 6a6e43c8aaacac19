//! A process's stdin, stdout and stderr: three pipes, or a terminal.

use super::inside::{Kind, reach};
use crate::api::oci::Box as Size;
use crate::prelude::*;
use crate::sys::file::*;
use crate::sys::mount::{Recursion, attach, clone_tree};
use crate::sys::terminal::{make_controlling, open_slave, resize, unlock};

/// Our ends: where stdin is written, and where stdout and stderr are read.
pub struct OurStdio {
    pub stdin: Fd,
    pub stdout: Fd,
    /// `None` with a terminal.
    pub stderr: Option<Fd>,
}

/// The child's ends.
pub enum ChildStdio {
    /// The reading end of stdin, the writing ends of stdout and stderr.
    Pipes([Fd; 3]),
    /// The slave of a terminal.
    Terminal(Fd),
}

/// Three pipes.
pub fn pipes() -> SysResult<(OurStdio, ChildStdio)> {
    let (child_in, stdin) = pipe(0)?;
    let (stdout, child_out) = pipe(0)?;
    let (stderr, child_err) = pipe(0)?;
    for ours in [&stdin, &stdout, &stderr] {
        set_nonblocking(ours)?;
    }
    let ours = OurStdio { stdin, stdout, stderr: Some(stderr) };
    Ok((ours, ChildStdio::Pipes([child_in, child_out, child_err])))
}

/// A terminal of the container whose root is given, or of the guest when the container has no devpts.
pub fn terminal(root: Option<&Fd>) -> SysResult<(OurStdio, ChildStdio)> {
    let flags = O_RDWR | O_NOCTTY | O_NONBLOCK;
    let of_container = root.map(|root| open_inside(root.raw(), b"dev/pts/ptmx", flags, 0));
    let master = match of_container {
        Some(Ok(master)) => master,
        None | Some(Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {
            open(CWD, "/dev/pts/ptmx", flags, 0)?
        }
        Some(Err(errno)) => return Err(errno),
    };
    unlock(&master)?;
    let slave = open_slave(&master)?;
    let ours = OurStdio { stdin: duplicate(master.raw())?, stdout: master, stderr: None };
    Ok((ours, ChildStdio::Terminal(slave)))
}

impl ChildStdio {
    /// In the child, the leader of a new session: makes these its stdio. For the container's first process a
    /// terminal is also its /dev/console.
    pub fn install(&self, size: Option<&Size>, first: bool) -> SysResult<()> {
        match self {
            ChildStdio::Pipes(ends) => {
                for (number, end) in ends.iter().enumerate() {
                    duplicate_to(end.raw(), number as i32)?;
                }
            }
            ChildStdio::Terminal(slave) => {
                if let Some(Size { height, width }) = size {
                    let characters = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
                    resize(slave.raw(), characters(*height), characters(*width))?;
                }
                make_controlling(slave)?;
                if first {
                    // A container without a writable /dev goes without.
                    let _ = bind_console(slave);
                }
                for number in 0..3 {
                    duplicate_to(slave.raw(), number)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a user and a group (2^32-1 for the one that it has) the owners.
    pub fn give_to(&self, uid: u32, gid: u32) -> SysResult<()> {
        match self {
            ChildStdio::Pipes(ends) => ends.iter().try_for_each(|end| chown_fd(end.raw(), uid, gid)),
            ChildStdio::Terminal(slave) => chown_fd(slave.raw(), uid, gid),
        }
    }
}

fn bind_console(slave: &Fd) -> SysResult<()> {
    let console = reach(CWD, "/dev/console", Kind::File, 0o600)?;
    attach(&clone_tree(slave.raw(), "", Recursion::One)?, console.raw(), "")
}
