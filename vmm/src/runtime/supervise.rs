//! One container in one guest that has just been started: find the agent, run the container, take the guest down. The same
//! for every kind of guest.

use super::cores::{self, Collector, Cores};
use super::guest::{Guest, Reason};
use crate::agent::session::{self, ContainerSpec, Control, Progress, RunError, Stdio};
use crate::agent::{self, Client, ConnectError, Patience};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is left of the guest's disks when its container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// Nothing: the guest is stopped at once.
    ThrowAway,
    /// What the container wrote: the guest unmounts and syncs first.
    Keep,
}

/// How long a guest may take to boot. A KVM that interprets the kernel needs more than a minute of it; a guest that dies
/// ends the wait at once whatever this says.
pub const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// How long unmounting, syncing and the reset may take.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(120);
/// How long to wait, after a connection was lost, for the guest's own word on why.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// A run that came to no exit status of the container's own.
#[derive(Debug, Clone)]
pub struct Failure {
    /// ferry's exit status.
    pub status: u8,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, in one line for people.
    pub message: String,
    /// The guest's last words where they help; may be empty, and many lines.
    pub detail: String,
}

impl Failure {
    /// A failure before there was a guest.
    pub fn early(message: impl Into<String>) -> Self {
        Self { status: 125, reason: Reason::StartFailed, message: message.into(), detail: String::new() }
    }
}

/// How far a run has come.
pub enum Step<'a> {
    /// The guest's agent answers.
    Reached(&'a Client),
    /// The container's process runs, or has ended.
    Process(Progress),
}

/// One container, and the guest that has been started for it.
pub struct Job<'a> {
    /// The guest.
    pub guest: &'a Arc<dyn Guest>,
    /// The container.
    pub container: &'a ContainerSpec,
    /// The host's ends of its streams.
    pub stdio: &'a Stdio,
    /// The way in for signals and window sizes.
    pub control: Control,
    /// What stays of its disks.
    pub afterwards: Afterwards,
    /// What is wanted of cores.
    pub cores: Option<&'a Cores>,
    /// The container's name.
    pub name: &'a str,
    /// Is told how far the run has come.
    pub step: &'a (dyn Fn(Step<'_>) + Sync),
}

/// Runs the container in the guest and ends the guest. Whatever happens, the guest has ended when this returns.
pub fn supervise(job: Job<'_>) -> Result<u8, Failure> {
    let guest = Arc::clone(job.guest);
    let result = attempt(job);
    guest.stop();
    result
}

fn attempt(job: Job<'_>) -> Result<u8, Failure> {
    let Job { guest, container, stdio, control, afterwards, cores, name, step } = job;
    let patience = Patience {
        since: Instant::now(),
        limit: if guest.is_debugged() { Duration::MAX } else { BOOT_LIMIT },
        alive: &|| guest.wait(Duration::ZERO).is_none(),
    };
    let client =
        agent::connect(&guest.transport(), &patience).map_err(|error| not_reached(guest.as_ref(), &error))?;
    tracing::info!(after = ?patience.since.elapsed(), "the guest's agent answers");
    let _watch = Watch::start(guest, &client);
    step(Step::Reached(&client));
    let progress = |progress| {
        if progress == Progress::Made && cores.is_some() {
            cores::prepare_or_warn(&client, &container.id);
        }
        step(Step::Process(progress));
    };
    let mut collector = cores.map(|cores| Collector::new(&client, &container.id, name, cores));
    let status = cores::collecting(collector.as_mut(), || {
        session::run_container(&client, container, stdio, control, &progress)
    })
    .map_err(|error| not_run(guest.as_ref(), error))?;
    if afterwards == Afterwards::Keep {
        // The container has its status by now: a guest that does not close its books properly is worth a warning only.
        let asked = session::take_down(&client, &container.id, SHUTDOWN_LIMIT);
        let patience = if asked.is_ok() { SHUTDOWN_LIMIT } else { Duration::from_secs(1) };
        let end = guest.wait(patience);
        // A reset is the guest's way of ending whether its answer made it out or not.
        if !end.is_some_and(|end| end.reason == Reason::Reset) {
            tracing::warn!(?asked, "the guest did not shut down in order; its last writes may be missing");
        }
    }
    Ok(status)
}

/// Closes the connection when the guest ends: its socket may outlive it.
pub(super) struct Watch {
    over: Arc<AtomicBool>,
}

impl Watch {
    pub(super) fn start(guest: &Arc<dyn Guest>, client: &Client) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (guest, client, stop) = (Arc::clone(guest), client.clone(), Arc::clone(&over));
        // Without the thread a dead guest is still noticed where its socket closes with it.
        let _ = std::thread::Builder::new().name("guest-watch".into()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Some(end) = guest.wait(Duration::from_secs(1)) {
                    client.close(&end.sentence());
                    return;
                }
            }
        });
        Self { over }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

pub(super) fn not_reached(guest: &dyn Guest, error: &ConnectError) -> Failure {
    let end = match error {
        ConnectError::Ended => guest.wait(LAST_WORDS),
        ConnectError::TimedOut(_) | ConnectError::Io { .. } => None,
    };
    match end {
        Some(end) => Failure {
            status: 125,
            reason: end.reason,
            message: format!("the guest ended before its agent came up: {}", end.sentence()),
            detail: last_words(guest, &end.detail),
        },
        None => Failure {
            status: 125,
            reason: Reason::StartFailed,
            message: error.to_string(),
            detail: last_words(guest, ""),
        },
    }
}

pub(super) fn not_run(guest: &dyn Guest, error: RunError) -> Failure {
    let status = error.exit_status();
    // A connection that breaks is the guest's end in nearly every case, and the guest knows better why.
    let end = matches!(error, RunError::Lost(_)).then(|| guest.wait(LAST_WORDS)).flatten();
    match end {
        Some(end) => Failure {
            status,
            reason: end.reason,
            message: end.sentence(),
            detail: last_words(guest, &end.detail),
        },
        None => {
            Failure { status, reason: Reason::StartFailed, message: error.to_string(), detail: String::new() }
        }
    }
}

/// What the guest said last, and what was seen of its end where that says more.
fn last_words(guest: &dyn Guest, detail: &str) -> String {
    let serial = guest.serial_tail();
    if serial.contains(detail.trim()) { serial } else { format!("{serial}\n{detail}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Transport;
    use crate::runtime::guest::End;
    use std::path::PathBuf;
    use std::sync::Mutex;

    /// A guest whose agent never comes up, and which ends after a while.
    struct Silent {
        ends: Instant,
        end: End,
        stopped: Mutex<bool>,
    }

    impl Guest for Silent {
        fn transport(&self) -> Transport {
            Transport::Stream { socket: PathBuf::from("/nonexistent/socket") }
        }
        fn wait(&self, at_most: Duration) -> Option<End> {
            let left = self.ends.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(at_most));
            (Instant::now() >= self.ends).then(|| self.end.clone())
        }
        fn stop(&self) {
            *self.stopped.lock().unwrap() = true;
        }
        fn serial_tail(&self) -> String {
            "[0.1] words on the serial port".into()
        }
    }

    #[test]
    fn a_guest_that_dies_early_says_so_with_its_last_words() {
        let end = End { reason: Reason::TripleFault, detail: "rip 0x1000".into() };
        let guest = Arc::new(Silent {
            ends: Instant::now() + Duration::from_millis(50),
            end,
            stopped: Mutex::new(false),
        });
        let spec = ContainerSpec { id: "c".into(), ..Default::default() };
        let stdio = Stdio::inherited(false, session::Keyboard::Untouched).unwrap();
        let as_guest: Arc<dyn Guest> = guest.clone();
        let failure = supervise(Job {
            guest: &as_guest,
            container: &spec,
            stdio: &stdio,
            control: Control::new(),
            afterwards: Afterwards::ThrowAway,
            cores: None,
            name: "c",
            step: &|_| {},
        })
        .unwrap_err();
        assert_eq!((failure.status, failure.reason), (125, Reason::TripleFault));
        assert!(
            failure.message.starts_with("the guest ended before its agent came up"),
            "{}",
            failure.message
        );
        assert!(failure.detail.contains("words on the serial port") && failure.detail.contains("rip 0x1000"));
        assert!(*guest.stopped.lock().unwrap());
    }
}
