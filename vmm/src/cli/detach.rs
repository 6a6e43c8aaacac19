//! Leaving a container behind: the command becomes two processes. The one goes on as the container's monitor, the other
//! waits until the container runs, says its id and goes back to the shell.
//!
//! Until then the two belong together: they share the terminal, and the monitor ends with the command.

use super::{FAILED, Fault, print};
use crate::runtime::record::Record;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, set_parent_process_death_signal, setsid, waitpid,
};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What the monitor tells the command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    Started { ids: Vec<String> },
    Failed { status: u8, message: String, detail: String },
}

/// More than any word is long.
const LONGEST: u64 = 1 << 20;

/// Which of the two processes this is.
pub enum Side {
    /// The command.
    Command(Waiting),
    /// The monitor.
    Monitor(Report),
}

/// The command, waiting for its monitor's word.
pub struct Waiting {
    from: File,
    monitor: Pid,
}

/// The monitor's way to say how it went; it says one thing.
pub struct Report(Mutex<Option<File>>);

/// Makes the two processes of one. There must be no other threads yet.
pub fn split() -> io::Result<Side> {
    let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let command = getpid();
    // SAFETY: this process has one thread, so the new one is as whole as this one.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(from);
            // A command that is interrupted or killed takes a monitor with it that has nothing to show yet.
            set_parent_process_death_signal(Some(Signal::TERM))?;
            if getppid() != Some(command) {
                return Err(io::Error::other("the command that started this has ended"));
            }
            Ok(Side::Monitor(Report(Mutex::new(Some(to.into())))))
        }
        pid => {
            let monitor = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Side::Command(Waiting { from: from.into(), monitor }))
        }
    }
}

impl Waiting {
    /// Waits until the container runs, and prints its id; of a pod, those of its containers, one a line.
    pub fn finish(self) -> Result<u8, Fault> {
        let mut text = String::new();
        // Whatever cannot be read is not there.
        let _ = self.from.take(LONGEST).read_to_string(&mut text);
        match serde_json::from_str(&text) {
            Ok(Word::Started { ids }) => print(&(ids.join("\n") + "\n")),
            Ok(Word::Failed { status, message, detail }) => Err(Fault { status, message, detail }),
            Err(_) => Err(Fault::new(match waitpid(Some(self.monitor), WaitOptions::empty()) {
                Ok(Some((_, status))) => match status.terminating_signal() {
                    Some(signal) => format!("the container's monitor was ended by signal {signal}"),
                    None => "the container's monitor has ended before the container ran".to_owned(),
                },
                _ => "the container's monitor is gone".to_owned(),
            })),
        }
    }
}

impl Report {
    /// The container is made: from here on what this process and its VM have to say goes to a file in the container's
    /// directory, for nobody may wait for the end of what they were started with.
    pub fn made(&self, directory: &Path) {
        if let Err(error) = leave_streams(directory) {
            tracing::warn!(%error, "the monitor keeps the streams that it was started with");
        }
    }

    /// The container runs: from here on this process is on its own.
    pub fn started(&self, records: &[Record]) {
        let Some(mut to) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let alone = setsid().and_then(|_| set_parent_process_death_signal(None));
        if let Err(error) = alone {
            tracing::warn!(%error, "the monitor stays with the terminal it was started from");
        }
        let _ =
            send(&mut to, &Word::Started { ids: records.iter().map(|record| record.id.clone()).collect() });
    }

    /// It has come to an end; the command is told only if it still waits.
    pub fn ended(&self, result: &Result<u8, Fault>) {
        let Some(mut to) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let word = match result {
            Err(Fault { status, message, detail }) => {
                Word::Failed { status: *status, message: message.clone(), detail: detail.clone() }
            }
            Ok(_) => Word::Failed {
                status: FAILED,
                message: "the container has ended before it was seen to run".to_owned(),
                detail: String::new(),
            },
        };
        let _ = send(&mut to, &word);
    }
}

fn send(to: &mut File, word: &Word) -> io::Result<()> {
    to.write_all(&serde_json::to_vec(word)?)
}

fn leave_streams(directory: &Path) -> io::Result<()> {
    // An input that is at its end, whether there is a /dev/null or not.
    let (nothing, _) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: both are open, and nobody holds standard input as his own.
    if unsafe { libc::dup2(nothing.as_raw_fd(), libc::STDIN_FILENO) } == -1 {
        return Err(io::Error::last_os_error());
    }
    super::log::redirect(&directory.join("monitor.log"))
}
