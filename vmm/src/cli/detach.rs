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
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

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
pub struct Report(Mutex<Option<(File, Leash)>>);

/// What ends this process, as SIGTERM does, when the one that made it ends.
///
/// The kernel keeps that wish for each thread, until the thread ends or takes it back itself. So one thread is there for it
/// alone, and whichever other lets go has but to end it.
struct Leash {
    holds: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Leash {
    fn to(parent: Pid) -> io::Result<Leash> {
        let (holds, let_go) = channel();
        let (tied, is_tied) = channel();
        let thread = thread::Builder::new().name("leash".into()).spawn(move || {
            let _ = tied.send(set_parent_process_death_signal(Some(Signal::TERM)));
            let _ = let_go.recv();
        })?;
        let leash = Leash { holds: Some(holds), thread: Some(thread) };
        is_tied.recv().map_err(io::Error::other)??;
        match getppid() == Some(parent) {
            true => Ok(leash),
            false => Err(io::Error::other("the command that started this has ended")),
        }
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.holds.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

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
            let leash = Leash::to(command)?;
            Ok(Side::Monitor(Report(Mutex::new(Some((to.into(), leash))))))
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
        let Some((mut to, leash)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        drop(leash);
        if let Err(error) = setsid() {
            tracing::warn!(%error, "the monitor stays with the terminal it was started from");
        }
        let _ =
            send(&mut to, &Word::Started { ids: records.iter().map(|record| record.id.clone()).collect() });
    }

    /// It has come to an end; the command is told only if it still waits.
    pub fn ended(&self, result: &Result<u8, Fault>) {
        let Some((mut to, _leash)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    /// What this test program is when it is run by itself, with the way that its grandchild is to go.
    const PART: &str = "FERRY_TEST_LEASH";

    /// Is no test of its own: the process in the middle, which makes a child on a leash and ends.
    #[test]
    fn a_process_in_the_middle() {
        let Ok(part) = std::env::var(PART) else { return };
        let this = || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "cli::detach::tests::a_process_in_the_middle", "--nocapture"]);
            command
        };
        match part.as_str() {
            "held" | "let go" => {
                let mut command = this();
                command.env(PART, format!("child {part}")).stdout(Stdio::piped()).stderr(Stdio::null());
                let mut child: Child = command.spawn().unwrap();
                let mut text = [0; 1];
                let mut out = child.stdout.take().unwrap();
                // The harness speaks first; the child's own word is the last of a line.
                while out.read(&mut text).unwrap() == 1 && text[0] != b'!' {}
                println!("pid={}", child.id());
                std::process::exit(0);
            }
            _ => {
                let leash = Leash::to(getppid().unwrap()).unwrap();
                if part == "child let go" {
                    // By another thread than the one that has tied it.
                    thread::spawn(move || drop(leash)).join().unwrap();
                } else {
                    std::mem::forget(leash);
                }
                println!("!");
                thread::sleep(Duration::from_secs(20));
            }
        }
    }

    #[test]
    fn a_monitor_ends_with_its_command_until_it_is_let_go_by_whatever_thread() {
        for (part, survives) in [("held", false), ("let go", true)] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cli::detach::tests::a_process_in_the_middle", "--nocapture"])
                .env(PART, part)
                .output()
                .unwrap();
            assert_eq!(output.status.into_raw(), 0);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let pid = text.split("pid=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
            let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
            let runs = || {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
                stat.is_ok_and(|stat| !stat.contains(") Z"))
            };
            let until = Instant::now() + Duration::from_secs(if survives { 1 } else { 10 });
            while runs() && Instant::now() < until {
                thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(runs(), survives, "{part}");
            if survives {
                rustix::process::kill_process(pid, Signal::KILL).unwrap();
            }
        }
    }
}
