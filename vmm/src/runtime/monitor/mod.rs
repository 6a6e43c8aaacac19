//! The process that owns a container's VM, as other commands meet it: it keeps the record up to date, passes the streams on,
//! and does what it is asked over a socket. In a detached run this is all that the process does; in a foreground run it is
//! beside the user's terminal.
//!
//! One [`Monitor`] is one container. The run tells it how far the container has come; the [`Server`]'s threads ask it for
//! things. Every change of the record goes through it, so what `ps` shows was true.

pub mod client;
mod hub;
pub mod protocol;
mod server;
mod streams;

#[cfg(test)]
mod tests;

pub use hub::{Hub, Interest};
pub use server::{Server, window_bytes};
pub use streams::{Captured, capture};

use super::clock;
use super::guest::Guest;
use super::record::{OUT_OF_MEMORY, Record, Status};
use super::size::{MIB, human_size};
use super::state::Entry;
use crate::agent::session::{Remote, Stdio, Target, attend};
use crate::agent::{CallError, Client, Signal, Wait};
use crate::machine::dump::MOST_OVERHEAD;
use protocol::{Answer, Request};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the guest may take over one call.
const CALL: Duration = Duration::from_secs(20);
/// How long a killed process may take to end before its guest is ended.
const DEATH: Duration = Duration::from_secs(10);
/// How long the guest may take to say that a process which was killed was killed for want of memory.
const LAST_REASON: Duration = Duration::from_secs(2);
/// The status of a process that was killed.
const KILLED: u8 = 128 + 9;
/// How long the last requests may take to be answered when all is over.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How far the container has come.
enum Phase {
    /// Its guest starts.
    Starting,
    /// Its process runs.
    Running(Reach),
    /// Its process has ended, its guest is being taken down.
    Ending,
    /// It is started again soon.
    Waiting,
    /// It has ended for good, with this status.
    Over(u8),
}

/// The way to a process that runs.
#[derive(Clone)]
struct Reach {
    client: Client,
    remote: Remote,
    stdin: Option<Arc<File>>,
}

struct Situation {
    phase: Phase,
    guest: Option<Arc<dyn Guest>>,
    /// A guest that it shares with others, and does not end.
    shared: Option<Arc<dyn Guest>>,
    /// Somebody has asked for its end: it is not started again.
    stopping: bool,
    /// Requests that are being answered.
    busy: usize,
    /// Whether the guest is asked about its memory.
    memory_is_watched: bool,
    /// It has run out of memory since its process began.
    out_of_memory: bool,
}

/// One container.
pub struct Monitor {
    id: String,
    entry: Mutex<Option<Entry>>,
    situation: Mutex<Situation>,
    changed: Condvar,
    /// Held while something is changed in the guest and in the record.
    acting: Mutex<()>,
    hub: Arc<Hub>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The run's side.
impl Monitor {
    /// The monitor of a container that is being made.
    pub fn new(entry: Entry) -> Arc<Self> {
        Arc::new(Self {
            id: entry.record().id.clone(),
            entry: Mutex::new(Some(entry)),
            situation: Mutex::new(Situation {
                phase: Phase::Starting,
                guest: None,
                shared: None,
                stopping: false,
                busy: 0,
                memory_is_watched: false,
                out_of_memory: false,
            }),
            changed: Condvar::new(),
            acting: Mutex::new(()),
            hub: Arc::default(),
        })
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Those who follow it.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The record as it is now; `None` when all is over.
    pub fn record(&self) -> Option<Record> {
        lock(&self.entry).as_ref().map(|entry| entry.record().clone())
    }

    /// The container's directory; `None` when all is over.
    pub fn directory(&self) -> Option<PathBuf> {
        lock(&self.entry).as_ref().map(|entry| entry.directory().to_owned())
    }

    /// Changes the record. One that cannot be written must not end a container that runs.
    pub fn note(&self, change: impl FnOnce(&mut Record)) {
        if let Some(entry) = &mut *lock(&self.entry)
            && let Err(error) = entry.update(change)
        {
            tracing::warn!(%error, "the container's state could not be written");
        }
    }

    fn enter(&self, phase: Phase) {
        lock(&self.situation).phase = phase;
        self.changed.notify_all();
    }

    /// A guest has been started for it. One that nobody wants any more is stopped.
    pub fn guest_started(&self, guest: Arc<dyn Guest>) {
        let mut situation = lock(&self.situation);
        if situation.stopping {
            guest.stop();
        }
        situation.guest = Some(guest);
    }

    /// It is one of several in this guest.
    pub fn shares(&self, guest: Arc<dyn Guest>) {
        lock(&self.situation).shared = Some(guest);
    }

    /// Its process runs.
    pub fn started(&self, client: &Client, remote: Remote, stdin: Option<File>) {
        self.note(|record| {
            record.status = Status::Running;
            record.started = clock::now();
            record.exit_code = None;
            record.oom_killed = false;
            record.reason.clear();
        });
        lock(&self.situation).out_of_memory = false;
        self.enter(Phase::Running(Reach { client: client.clone(), remote, stdin: stdin.map(Arc::new) }));
    }

    /// Whether the guest tells from now on when the container runs out of memory.
    pub(super) fn memory_is_watched(&self, is_watched: bool) {
        lock(&self.situation).memory_is_watched = is_watched;
        self.changed.notify_all();
    }

    /// The guest's kernel has killed a process of it for want of memory.
    pub(super) fn out_of_memory(&self) {
        let before = std::mem::replace(&mut lock(&self.situation).out_of_memory, true);
        self.note(|record| record.oom_killed = true);
        self.changed.notify_all();
        if !before && let Some(record) = self.record() {
            let memory = record.limits.memory.unwrap_or(record.made.memory_mib << 20);
            tracing::warn!(
                container = record.name,
                "it has run out of memory ({}; run -m gives it more): the guest's kernel has killed a process of it",
                human_size(memory)
            );
        }
    }

    /// Whether its process, which was killed, was killed for want of memory. The guest tells of both at about the same time.
    fn died_of_memory(&self) -> bool {
        let open = |situation: &mut Situation| {
            situation.memory_is_watched && !situation.stopping && !situation.out_of_memory
        };
        let waited = self.changed.wait_timeout_while(lock(&self.situation), LAST_REASON, open);
        waited.unwrap_or_else(PoisonError::into_inner).0.out_of_memory
    }

    /// Whether somebody has asked for its end.
    pub fn is_stopping(&self) -> bool {
        lock(&self.situation).stopping
    }

    /// Its process has ended; its output may not have been passed on to the end.
    pub fn ended(&self, status: u8) {
        // Whoever freezes it just now is let finish, so that it does not say afterwards that it runs.
        self.enter(Phase::Ending);
        let _turn = lock(&self.acting);
        let finished = clock::now();
        let died_of_memory = status == KILLED && self.died_of_memory();
        self.note(|record| {
            record.status = Status::Exited;
            record.exit_code = Some(status);
            record.finished = finished;
            if died_of_memory {
                record.reason = OUT_OF_MEMORY.to_owned();
            }
        });
    }

    /// Waits; `false`: its process does not run, or has ended meanwhile.
    pub(super) fn runs_for(&self, pause: Duration) -> bool {
        let runs = |situation: &mut Situation| matches!(situation.phase, Phase::Running(_));
        let waited = self.changed.wait_timeout_while(lock(&self.situation), pause, runs);
        runs(&mut waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Waits before it is started again; `false`: it is not, somebody has asked for its end.
    pub fn wait_to_restart(&self, pause: Duration, count: u32, status: u8) -> bool {
        if lock(&self.situation).stopping {
            return false;
        }
        self.note(|record| {
            record.status = Status::Restarting;
            record.exit_code = Some(status);
            record.restarts = count;
        });
        self.enter(Phase::Waiting);
        // The guest before uses the same disk.
        let guest = lock(&self.situation).guest.take();
        if guest.is_some_and(|guest| guest.wait(LAST_ANSWERS + DEATH).is_none()) {
            tracing::warn!("the VM does not end; the container is not started again");
            return false;
        }
        let (mut situation, _) = self
            .changed
            .wait_timeout_while(lock(&self.situation), pause, |situation| !situation.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        if situation.stopping {
            return false;
        }
        situation.phase = Phase::Starting;
        drop(situation);
        self.changed.notify_all();
        true
    }

    /// It has ended for good: whoever still waits is told, and the record is given up, removed or not.
    pub fn over(&self, status: u8, gone: bool) {
        self.enter(Phase::Over(status));
        self.hub.end(status);
        let busy = |situation: &mut Situation| situation.busy > 0;
        drop(self.changed.wait_timeout_while(lock(&self.situation), LAST_ANSWERS, busy));
        if let Some(entry) = lock(&self.entry).take()
            && gone
        {
            entry.remove();
        }
    }
}

/// What others ask for.
impl Monitor {
    /// The status it has ended with for good.
    fn final_status(&self) -> Option<u8> {
        match lock(&self.situation).phase {
            Phase::Over(status) => Some(status),
            _ => None,
        }
    }

    fn reach(&self) -> Result<Reach, String> {
        match &lock(&self.situation).phase {
            Phase::Running(reach) => Ok(reach.clone()),
            Phase::Starting => Err("it has not started yet".to_owned()),
            Phase::Waiting => Err("it is about to be started again".to_owned()),
            Phase::Ending | Phase::Over(_) => Err("it is not running".to_owned()),
        }
    }

    /// Does what is asked, and says how that went.
    fn perform(self: &Arc<Self>, request: &Request) -> Answer {
        lock(&self.situation).busy += 1;
        let mut told = None;
        let done = match request {
            Request::Metrics => self.metrics().map(|text| told = Some(text)),
            Request::Dump { file } => self.dump(file),
            Request::Signal { number } => self.signal(*number),
            Request::Stop { seconds } => self.stop(*seconds),
            Request::Pause => self.freeze(Status::Paused),
            Request::Unpause => self.freeze(Status::Running),
            Request::Update { limits, restart } => self.update(*limits, *restart),
            Request::Drain { exec, terminal } => self.drain(exec, *terminal),
            Request::Attach | Request::Own | Request::Wait => Err("this is no question".to_owned()),
        };
        lock(&self.situation).busy -= 1;
        self.changed.notify_all();
        match done {
            Ok(()) => told.map_or(Answer::Done, Answer::Told),
            Err(reason) => Answer::Refused(reason),
        }
    }

    fn dump(&self, path: &Path) -> Result<(), String> {
        let guest = self.machine()?;
        let record = self.record().ok_or("it is not running")?;
        let at = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let most = (record.made.memory_mib << 20).saturating_add(MOST_OVERHEAD);
        let dumped = guest.dump(file.map_err(|error| at(&error))?, most);
        dumped.map_err(|error| {
            // Half a dump is none.
            let _ = std::fs::remove_file(path);
            at(&error)
        })
    }

    fn machine(&self) -> Result<Arc<dyn Guest>, String> {
        let situation = lock(&self.situation);
        let guest = situation.guest.clone().or_else(|| situation.shared.clone());
        guest.ok_or_else(|| "its VM is not there yet".to_owned())
    }

    fn metrics(&self) -> Result<String, String> {
        let guest = self.machine()?;
        guest.metrics().ok_or_else(|| "its VM does not tell what it has done".to_owned())
    }

    fn signal(&self, number: u8) -> Result<(), String> {
        let signal = Signal::from_number(i32::from(number)).ok_or("there is no such signal")?;
        let reach = self.reach()?;
        // Whoever ends it this way does not want it back.
        if signal == Signal::KILL || Some(signal) == self.stop_signal() {
            self.want_no_more();
        }
        reach.client.signal_process(&self.id, &self.id, signal, Wait::AtMost(CALL)).map_err(words)
    }

    fn stop_signal(&self) -> Option<Signal> {
        Signal::from_number(i32::from(self.record()?.made.stop_signal))
    }

    fn want_no_more(&self) {
        lock(&self.situation).stopping = true;
        self.changed.notify_all();
    }

    /// Ends it for good, within so many seconds (none: those that it was made with).
    pub fn stop(&self, seconds: Option<u32>) -> Result<(), String> {
        self.want_no_more();
        self.end(seconds)
    }

    /// Ends its process, after which it may be started again.
    pub fn end(&self, seconds: Option<u32>) -> Result<(), String> {
        let Ok(Reach { client, .. }) = self.reach() else {
            let situation = lock(&self.situation);
            if matches!(situation.phase, Phase::Starting)
                && let Some(guest) = &situation.guest
            {
                guest.stop();
            }
            return Ok(());
        };
        let record = self.record().ok_or("it is not running")?;
        let grace = Duration::from_secs(seconds.unwrap_or(record.made.stop_timeout).into());
        if record.status == Status::Paused {
            self.freeze(Status::Running)?;
        }
        let until = Instant::now() + grace;
        let signal = self.stop_signal().unwrap_or(Signal::TERM);
        let told = client.signal_process(&self.id, &self.id, signal, Wait::AtMost(grace.min(CALL)));
        tracing::debug!(?told, %signal, "asked to end");
        if self.has_ended_by(until) {
            return Ok(());
        }
        let told = client.signal_process(&self.id, &self.id, Signal::KILL, Wait::AtMost(DEATH));
        tracing::debug!(?told, "killed");
        if !self.has_ended_by(Instant::now() + DEATH)
            && let Some(guest) = &lock(&self.situation).guest
        {
            tracing::warn!("the process does not end; its VM is stopped");
            guest.stop();
        }
        Ok(())
    }

    fn has_ended_by(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let running = |situation: &mut Situation| matches!(situation.phase, Phase::Running(_));
        let waited = self.changed.wait_timeout_while(lock(&self.situation), left, running);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Freezes its processes, or lets them go on.
    fn freeze(&self, wanted: Status) -> Result<(), String> {
        let _turn = lock(&self.acting);
        let client = self.reach()?.client;
        let status = self.record().ok_or("it is not running")?.status;
        match (wanted, status) {
            (Status::Paused, Status::Paused) => return Err("it is already paused".to_owned()),
            (Status::Paused, _) => client.pause_container(&self.id, CALL),
            (_, Status::Paused) => client.resume_container(&self.id, CALL),
            _ => return Err("it is not paused".to_owned()),
        }
        .map_err(words)?;
        self.note(|record| record.status = wanted);
        Ok(())
    }

    /// Lets a machine that can grow have as much memory as a limit asks for, and not much more.
    fn resize(&self, record: &Record, bytes: u64) -> Result<(), String> {
        let mib = bytes.div_ceil(MIB);
        let most = record.made.most_memory_mib.unwrap_or(record.made.memory_mib);
        if mib > most {
            return Err(format!("{mib} MiB of memory: this machine can have {most} MiB (run --memory-max)"));
        }
        if record.made.most_memory_mib.is_none() {
            return Ok(());
        }
        let guest = lock(&self.situation).guest.clone().ok_or("it is not running")?;
        guest.set_memory(mib.max(record.made.memory_mib)).map_err(|error| format!("its machine: {error}"))
    }

    fn update(
        &self,
        limits: super::limits::Limits,
        restart: Option<super::restart::Restart>,
    ) -> Result<(), String> {
        let _turn = lock(&self.acting);
        let record = self.record().ok_or("it is not running")?;
        if restart.is_some() && record.made.auto_remove {
            return Err("it is to be removed at its end (--rm), so it cannot be restarted".to_owned());
        }
        if restart.is_some() && !record.made.detached {
            return Err("it runs in the foreground, where nothing could restart it".to_owned());
        }
        if let Some(bytes) = limits.memory {
            self.resize(&record, bytes)?;
        }
        if limits != Default::default() {
            self.reach()?.client.update_container(&self.id, limits.resources(), CALL).map_err(words)?;
        }
        self.note(|record| {
            record.limits = limits.or(record.limits);
            record.made.restart = restart.unwrap_or(record.made.restart);
        });
        Ok(())
    }

    /// Takes care of a process whose output nobody wants.
    fn drain(self: &Arc<Self>, exec: &str, terminal: bool) -> Result<(), String> {
        let client = self.reach()?.client;
        let (monitor, exec) = (Arc::clone(self), exec.to_owned());
        let begun = std::thread::Builder::new().name("drain".into()).spawn(move || {
            let target = Target { container: &monitor.id, exec: &exec, terminal };
            let ended = attend(&client, &target, &Stdio::none(), Default::default(), &|_| {});
            tracing::debug!(?ended, exec, "a detached process");
        });
        begun.map(drop).map_err(|error| format!("no thread for its output: {error}"))
    }
}

fn words(error: CallError) -> String {
    error.to_string()
}
