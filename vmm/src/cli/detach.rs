//! Leaving a container behind: the command becomes two processes. The one goes on as the container's monitor, the other
//! waits until the container runs, says its id and goes back to the shell; or shows the container's terminal until it ends or
//! the detach keys are typed.
//!
//! Until then the two belong together: they share the terminal, and the monitor ends with the command.

use super::{FAILED, Fault, print};
use crate::runtime::record::Record;
use crate::runtime::stand_by;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, kill_process, set_parent_process_death_signal, setsid, waitpid,
};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What the monitor tells the command, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// The container can be attached to, and waits for that where its terminal is the command's.
    Listening { id: String },
    /// It runs, or all of a pod do.
    Started { ids: Vec<String> },
    /// It runs on without the command, which has asked for that.
    Released,
    /// It has ended, and everything of it that was to go is gone.
    Ended { status: u8 },
    /// It has failed, as [`Fault`] says.
    Failed { status: u8, message: String, detail: String },
}

/// More than any word is long.
const LONGEST: u64 = 1 << 20;
/// How long a monitor that is asked to end may take before it is left to the kernel.
const ENDING: Duration = Duration::from_secs(10);

/// How long the two processes belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bond {
    /// Until the container runs.
    UntilStarted,
    /// Until the container has ended, or the command says that it leaves.
    UntilReleased,
}

/// Which of the two processes this is.
pub enum Side {
    /// The command.
    Command(Waiting),
    /// The monitor.
    Monitor(Report),
}

/// The command, waiting for its monitor's words.
pub struct Waiting {
    from: BufReader<UnixStream>,
    monitor: Pid,
    /// It has said its last word.
    has_ended: bool,
}

/// The monitor's way to say how it goes.
pub struct Report(Arc<Telling>);

struct Telling {
    bond: Bond,
    held: Mutex<Option<Held>>,
    /// The container's, when it is made.
    directory: OnceLock<PathBuf>,
}

/// What there is while the two belong together.
struct Held {
    to: UnixStream,
    leash: Leash,
}

/// What ends this process, by a signal, when the one that made it ends.
///
/// The kernel keeps that wish for each thread, until the thread ends or takes it back itself. So one thread is there for it
/// alone, and whichever other lets go has but to end it.
struct Leash {
    holds: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Leash {
    fn to(parent: Pid, signal: Signal) -> io::Result<Leash> {
        let (holds, let_go) = channel();
        let (tied, is_tied) = channel();
        let thread = thread::Builder::new().name("leash".into()).spawn(move || {
            let _ = tied.send(set_parent_process_death_signal(Some(signal)));
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
pub fn split(bond: Bond) -> io::Result<Side> {
    let (ours, theirs) = UnixStream::pair()?;
    let command = getpid();
    // SAFETY: this process has one thread, so the new one is as whole as this one.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(ours);
            let signal = match bond {
                // A command that is interrupted or killed takes a monitor with it that has nothing to show yet.
                Bond::UntilStarted => Signal::TERM,
                // What is typed and what happens to the terminal is for the command alone, which passes it on. If that is
                // killed, it is as if the process that has the VM were.
                Bond::UntilReleased => {
                    setsid()?;
                    Signal::KILL
                }
            };
            // The leash is a thread.
            stand_by();
            let leash = Leash::to(command, signal)?;
            let held = Mutex::new(Some(Held { to: theirs, leash }));
            Ok(Side::Monitor(Report(Arc::new(Telling { bond, held, directory: OnceLock::new() }))))
        }
        pid => {
            let monitor = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Side::Command(Waiting { from: BufReader::new(ours), monitor, has_ended: false }))
        }
    }
}

impl Waiting {
    /// The monitor's process.
    pub fn monitor(&self) -> Pid {
        self.monitor
    }

    /// The next word; a failure is the container's.
    pub fn next(&mut self) -> Result<Word, Fault> {
        let mut line = String::new();
        // Whatever cannot be read is not there.
        let _ = (&mut self.from).take(LONGEST).read_line(&mut line);
        let word = serde_json::from_str(&line);
        self.has_ended = !matches!(word, Ok(Word::Listening { .. } | Word::Started { .. } | Word::Released));
        match word {
            Ok(Word::Failed { status, message, detail }) => Err(Fault { status, message, detail }),
            Ok(word) => Ok(word),
            Err(_) => Err(Fault::new(match waitpid(Some(self.monitor), WaitOptions::empty()) {
                Ok(Some((_, status))) => match status.terminating_signal() {
                    Some(signal) => format!("the container's monitor was ended by signal {signal}"),
                    None => "the container's monitor has ended before the container".to_owned(),
                },
                _ => "the container's monitor is gone".to_owned(),
            })),
        }
    }

    /// Waits until the container runs, and prints its id; of a pod, those of its containers, one a line.
    pub fn finish(mut self) -> Result<u8, Fault> {
        loop {
            if let Word::Started { ids } = self.next()? {
                return print(&(ids.join("\n") + "\n"));
            }
        }
    }

    /// Leaves the container to itself; its exit status if it has ended meanwhile.
    pub fn leave(&mut self) -> Result<Option<u8>, Fault> {
        // A monitor that does not hear this has said how it ended.
        let _ = self.from.get_ref().write_all(&[1]);
        loop {
            match self.next()? {
                Word::Released => return Ok(None),
                Word::Ended { status } => return Ok(Some(status)),
                _ => {}
            }
        }
    }

    /// Waits until the monitor has ended too. One that has not said how the container did is asked to end it.
    pub fn conclude(self) {
        match self.has_ended {
            true => wait_for_end(self.monitor),
            false => end(self.monitor),
        }
    }

    /// Waits until the container has ended; its exit status.
    pub fn last(&mut self) -> Result<u8, Fault> {
        loop {
            if let Word::Ended { status } = self.next()? {
                return Ok(status);
            }
        }
    }
}

/// Asks a monitor that is this process's child to end, and waits until it has.
pub fn end(monitor: Pid) {
    let _ = kill_process(monitor, Signal::TERM);
    wait_for_end(monitor)
}

fn wait_for_end(monitor: Pid) {
    let until = Instant::now() + ENDING;
    while matches!(waitpid(Some(monitor), WaitOptions::NOHANG), Ok(None)) && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
}

impl Report {
    /// The container is made: from here on what this process and its VM have to say goes to a file in the container's
    /// directory, for nobody may wait for the end of what they were started with. Where its terminal is the command's, that
    /// is so when the command has left.
    pub fn made(&self, directory: &Path) {
        let _ = self.0.directory.set(directory.to_owned());
        if self.0.bond == Bond::UntilStarted {
            self.0.leave_streams();
        }
    }

    /// It can be attached to.
    pub fn listening(&self, record: &Record) {
        self.0.tell(&Word::Listening { id: record.id.clone() });
    }

    /// The container runs: from here on this process is on its own, or hears from the command when it is.
    pub fn started(&self, records: &[Record]) {
        let word = Word::Started { ids: records.iter().map(|record| record.id.clone()).collect() };
        if self.0.bond == Bond::UntilStarted {
            let Some(Held { to, leash }) = self.0.take() else { return };
            drop(leash);
            if let Err(error) = setsid() {
                tracing::warn!(%error, "the monitor stays with the terminal it was started from");
            }
            return send(&to, &word);
        }
        let ours = self.0.held().as_ref().map(|held| held.to.try_clone());
        let telling = Arc::clone(&self.0);
        let begun = ours.map(|ours| {
            let mut ours = ours?;
            thread::Builder::new().name("release".into()).spawn(move || {
                if ours.read_exact(&mut [0]).is_ok() {
                    telling.release();
                }
            })
        });
        if let Some(Err(error)) = begun {
            tracing::warn!(%error, "the container cannot be left");
        }
        self.0.tell(&word);
    }

    /// It has come to an end; the command is told only if it still waits.
    pub fn ended(&self, result: &Result<u8, Fault>) {
        let Some(Held { to, leash: _leash }) = self.0.take() else { return };
        let word = match result {
            Err(Fault { status, message, detail }) => {
                Word::Failed { status: *status, message: message.clone(), detail: detail.clone() }
            }
            Ok(status) if self.0.bond == Bond::UntilReleased => Word::Ended { status: *status },
            Ok(_) => Word::Failed {
                status: FAILED,
                message: "the container has ended before it was seen to run".to_owned(),
                detail: String::new(),
            },
        };
        send(&to, &word);
    }
}

impl Telling {
    fn held(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Held> {
        self.held().take()
    }

    fn tell(&self, word: &Word) {
        if let Some(held) = &*self.held() {
            send(&held.to, word);
        }
    }

    /// The command leaves.
    fn release(&self) {
        let Some(Held { to, leash }) = self.take() else { return };
        drop(leash);
        self.leave_streams();
        send(&to, &Word::Released);
    }

    fn leave_streams(&self) {
        let left = self.directory.get().map(|directory| leave_streams(directory));
        if let Some(Err(error)) = left {
            tracing::warn!(%error, "the monitor keeps the streams that it was started with");
        }
    }
}

/// A command that is not there any more needs no word.
fn send(mut to: &UnixStream, word: &Word) {
    let line = serde_json::to_string(word).map(|word| word + "\n");
    let _ = line.map_err(io::Error::other).and_then(|line| to.write_all(line.as_bytes()));
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
                let leash = Leash::to(getppid().unwrap(), Signal::TERM).unwrap();
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
