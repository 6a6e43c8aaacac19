//! One container's life over an agent's connection: created, started, its streams and signals carried, its exit status
//! returned. The caller brings the guest up before and takes it down afterwards.

use super::calls::OutputStream;
use super::client::{CallError, Client, Pending, Wait};
use super::network::{Configuring, GuestNetwork};
use super::pump::{DrainError, Ended, Process};
use super::signals::Signal;
use super::terminal::{RawMode, Window};
use ferry_init::api::agent::{
    CreateContainerRequest, CreateSandboxRequest, Empty, ExecProcessRequest, Storage,
};
use ferry_init::api::guest::CopyFileRequest;
use ferry_init::api::oci::{self, Spec};
use ferry_init::api::ttrpc::Code;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// A container as the agent is told of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerSpec {
    /// Its id, also that of the sandbox it is alone in.
    pub id: String,
    /// What the guest mounts for it, in order.
    pub storages: Vec<Storage>,
    /// The container itself.
    pub oci: Spec,
    /// The sandbox's network, if it has one.
    pub network: Option<GuestNetwork>,
    /// What its resolv.conf is made of: lines, and addresses of name servers.
    pub dns: Vec<String>,
    /// Files that are to be in the guest before it is made.
    pub files: Vec<CopyFileRequest>,
}

impl ContainerSpec {
    /// What names its first process.
    pub fn target(&self) -> Target<'_> {
        let terminal = self.oci.process.as_ref().is_some_and(|process| process.terminal);
        Target { container: &self.id, exec: &self.id, terminal }
    }
}

/// The host's ends of a container's standard streams.
#[derive(Debug)]
pub struct Stdio {
    /// What the process reads; `None`: nothing, its stdin ends at once.
    pub stdin: Option<OwnedFd>,
    /// Where its output goes (everything, where it has a terminal); `None`: it is read and dropped.
    pub stdout: Option<OwnedFd>,
    /// Where its error output goes; `None` as for `stdout`.
    pub stderr: Option<OwnedFd>,
    /// What stdin is on the host.
    pub keyboard: Keyboard,
}

/// What stdin is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyboard {
    /// Bytes, whatever their source: nothing is done to it.
    Untouched,
    /// This process's terminal, which the container takes over: raw mode while it runs.
    Raw,
}

impl Stdio {
    /// This process's own streams; stdin only where it is wanted.
    pub fn inherited(interactive: bool, keyboard: Keyboard) -> io::Result<Self> {
        let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        Ok(Self {
            stdin: interactive.then(|| copy(io::stdin().as_fd())).transpose()?,
            stdout: Some(copy(io::stdout().as_fd())?),
            stderr: Some(copy(io::stderr().as_fd())?),
            keyboard,
        })
    }

    /// No streams at all: nothing to read, and what is written is dropped.
    pub fn none() -> Self {
        Self { stdin: None, stdout: None, stderr: None, keyboard: Keyboard::Untouched }
    }
}

/// What reaches the container from outside while it runs.
pub enum Event {
    /// A signal for its process.
    Signal(Signal),
    /// Its terminal's size.
    Resize(Window),
    /// Nothing more: it has ended.
    Over,
}

/// The session's end of the way in; see [`Remote`].
#[derive(Debug)]
pub struct Control {
    events: Receiver<Event>,
    remote: Remote,
}

/// Reaches into a running session from any thread. What comes before the container's start waits for it.
#[derive(Debug, Clone)]
pub struct Remote {
    events: Sender<Event>,
    unanswered: Arc<AtomicU32>,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "{signal}"),
            Self::Resize(window) => write!(f, "{window:?}"),
            Self::Over => write!(f, "over"),
        }
    }
}

impl Control {
    /// A way into one session.
    pub fn new() -> Self {
        let (sender, events) = channel();
        Self { events, remote: Remote { events: sender, unanswered: Arc::default() } }
    }

    /// The other end.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Waits for the next thing that reaches in.
    pub fn next(&self) -> Event {
        self.events.recv().unwrap_or(Event::Over)
    }

    /// The guest answers: what was sent has arrived.
    pub fn answered(&self) {
        self.remote.unanswered.store(0, Ordering::Relaxed);
    }
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

impl Remote {
    /// Sends a signal to the container's process.
    pub fn signal(&self, signal: Signal) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        let _ = self.events.send(Event::Signal(signal));
    }

    /// Gives the container's terminal a size.
    pub fn resize(&self, window: Window) {
        let _ = self.events.send(Event::Resize(window));
    }

    /// Says that nothing more is taken.
    pub fn end(&self) {
        let _ = self.events.send(Event::Over);
    }

    /// How many signals the guest has not yet said to have delivered.
    pub fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::Relaxed)
    }
}

/// A further process of a container, as the agent is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecSpec {
    /// The container's id.
    pub container: String,
    /// The process's id among the container's.
    pub id: String,
    /// The process itself.
    pub process: oci::Process,
}

impl ExecSpec {
    /// What names it.
    pub fn target(&self) -> Target<'_> {
        Target { container: &self.container, exec: &self.id, terminal: self.process.terminal }
    }
}

/// A process in the guest.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its container's id.
    pub container: &'a str,
    /// Its own id; the container's for the container's first process.
    pub exec: &'a str,
    /// Whether it has a terminal, and so one output stream.
    pub terminal: bool,
}

impl Keyboard {
    /// Sets the terminal to raw mode where the container takes it over.
    pub fn take_over(self) -> Result<Option<RawMode>, RunError> {
        let what = "the terminal cannot be set to raw mode";
        match self {
            Self::Untouched => Ok(None),
            Self::Raw => RawMode::enter().map(Some).map_err(|error| RunError::Host { what, error }),
        }
    }
}

/// How far a process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A container is made, and its process is yet to be started.
    Made,
    /// Its process runs.
    Started,
    /// Its process has ended with this status; its output may not have been read to the end.
    Ended(u8),
}

/// Why a container did not come to an exit status.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program is not in the image.
    #[error("cannot run '{program}' in the container: {message}")]
    NotFound {
        /// What was to be run.
        program: String,
        /// The guest's words.
        message: String,
    },
    /// The program cannot be executed.
    #[error("cannot run '{program}' in the container: {message}")]
    NotExecutable {
        /// What was to be run.
        program: String,
        /// The guest's words.
        message: String,
    },
    /// The guest refused a step.
    #[error("the guest could not {step}: {error}")]
    Refused {
        /// The step, as a verb.
        step: &'static str,
        /// The guest's words.
        error: CallError,
    },
    /// The connection ended, most likely with the VM.
    #[error("the guest is gone: {0}")]
    Lost(String),
    /// The container's output has nowhere to go.
    #[error("the container's output cannot be written: {0}")]
    Output(io::Error),
    /// The host refused what a session needs.
    #[error("{what}: {error}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: io::Error,
    },
}

impl RunError {
    /// ferry's exit status for it: 127 and 126 as in a shell, 125 for everything that is not the container's own doing.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            _ => 125,
        }
    }

    pub(crate) fn refused(step: &'static str) -> impl Fn(CallError) -> Self {
        move |error| match error {
            CallError::Closed(reason) => Self::Lost(reason),
            error => Self::Refused { step, error },
        }
    }

    /// The two codes have this meaning for the process's executable alone.
    fn for_program(step: &'static str, process: Option<&oci::Process>) -> impl Fn(CallError) -> Self + use<> {
        let program = process.and_then(|process| process.args.first()).cloned().unwrap_or_default();
        let shown = super::printable(&program);
        // The guest begins with the program's name too; once is enough.
        let rest = move |message: &str| {
            let named = message
                .strip_prefix("exec ")
                .and_then(|rest| rest.strip_prefix(program.as_str())?.strip_prefix(": "));
            named.unwrap_or(message).to_owned()
        };
        move |error| match &error {
            CallError::Status { message, .. } if error.is(Code::NotFound) => {
                Self::NotFound { program: shown.clone(), message: rest(message) }
            }
            CallError::Status { message, .. } if error.is(Code::PermissionDenied) => {
                Self::NotExecutable { program: shown.clone(), message: rest(message) }
            }
            _ => Self::refused(step)(error),
        }
    }
}

/// Runs a container to its end; its exit status, 128 + N for signal N.
///
/// When this returns `Ok`, every byte of its output has been written. The container and the sandbox still exist in the
/// guest: see [`take_down`].
pub fn run_container(
    client: &Client,
    spec: &ContainerSpec,
    stdio: &Stdio,
    control: Control,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<u8, RunError> {
    prepare(client, spec)?;
    progress(Progress::Made);
    let raw = stdio.keyboard.take_over()?;
    start(client, spec)?;
    progress(Progress::Started);
    let status = attend(client, &spec.target(), stdio, control, progress);
    drop(raw);
    status
}

/// Runs another process in a running container to its end; its exit status.
pub fn run_exec(
    client: &Client,
    exec: &ExecSpec,
    stdio: &Stdio,
    control: Control,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<u8, RunError> {
    start_exec(client, exec)?;
    let raw = stdio.keyboard.take_over()?;
    progress(Progress::Started);
    let status = attend(client, &exec.target(), stdio, control, progress);
    drop(raw);
    status
}

/// Starts another process in a running container; somebody else has to [`attend`] to it.
pub fn start_exec(client: &Client, exec: &ExecSpec) -> Result<(), RunError> {
    let request = ExecProcessRequest {
        container_id: exec.container.clone(),
        exec_id: exec.id.clone(),
        process: Some(exec.process.clone()),
        ..Default::default()
    };
    client.exec_process(&request).map_err(RunError::for_program("start the process", Some(&exec.process)))
}

/// The sandbox and the container in it. The guest does one after the other without waiting for us in between; the first
/// that it refuses is the failure, and the guest is of no use any more.
fn prepare(client: &Client, spec: &ContainerSpec) -> Result<(), RunError> {
    let (of_sandbox, of_network) =
        (RunError::refused("prepare itself"), RunError::refused("set up its network"));
    let sandbox = CreateSandboxRequest {
        hostname: spec.oci.hostname.clone(),
        sandbox_id: spec.id.clone(),
        dns: spec.dns.clone(),
        ..Default::default()
    };
    let sandbox = client.begin_sandbox(&sandbox).map_err(&of_sandbox)?;
    let network =
        spec.network.as_ref().map(|network| network.begin(client)).transpose().map_err(&of_network)?;
    let container = begin_container(client, spec)?;
    sandbox.wait(Wait::Forever).map_err(&of_sandbox)?;
    network.map_or(Ok(()), Configuring::wait).map_err(&of_network)?;
    created(container, spec)
}

/// The container alone, in a sandbox that is there.
pub fn create(client: &Client, spec: &ContainerSpec) -> Result<(), RunError> {
    created(begin_container(client, spec)?, spec)
}

fn begin_container(client: &Client, spec: &ContainerSpec) -> Result<Pending<Empty>, RunError> {
    // A file has to be there before it is asked for, and the guest does several things at once.
    spec.files
        .iter()
        .try_for_each(|file| client.copy_file(file))
        .map_err(RunError::refused("take a file"))?;
    let container = CreateContainerRequest {
        container_id: spec.id.clone(),
        exec_id: spec.id.clone(),
        storages: spec.storages.clone(),
        oci: Some(spec.oci.clone()),
        ..Default::default()
    };
    client.begin_container(&container).map_err(of_container(spec))
}

fn of_container(spec: &ContainerSpec) -> impl Fn(CallError) -> RunError + use<> {
    RunError::for_program("create the container", spec.oci.process.as_ref())
}

fn created(container: Pending<Empty>, spec: &ContainerSpec) -> Result<(), RunError> {
    container.wait(Wait::Forever).map(drop).map_err(of_container(spec))
}

/// Lets the process of a container begin that was created; somebody has to [`attend`] to it.
pub fn start(client: &Client, spec: &ContainerSpec) -> Result<(), RunError> {
    let process = spec.oci.process.as_ref();
    client.start_container(&spec.id).map_err(RunError::for_program("start the container", process))
}

/// Carries a process's streams, signals and sizes until it has ended and its output is read.
pub fn attend(
    client: &Client,
    target: &Target<'_>,
    stdio: &Stdio,
    control: Control,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<u8, RunError> {
    let &Target { container, exec, terminal } = target;
    let process = Process { client, container, exec };
    let ended = Ended::new().map_err(|error| RunError::Host { what: "no event descriptor", error })?;
    let (process, ended) = (&process, &ended);
    let events = control.remote.events.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| process.feed(stdio.stdin.as_ref().map(AsFd::as_fd), ended));
        scope.spawn(move || relay(process, &control, ended));
        let drain = |stream, to: &Option<OwnedFd>| {
            let drained = process.drain(stream, to.as_ref().map(AsFd::as_fd), ended);
            if let Err(DrainError::Host(_)) = &drained {
                // Output that goes nowhere is a failure of ours, and the process cannot be told of it.
                let wait = Wait::Until(&|| ended.is_over());
                let _ = client.signal_process(container, exec, Signal::KILL, wait);
            }
            drained
        };
        let stdout = scope.spawn(move || drain(OutputStream::Stdout, &stdio.stdout));
        let stderr = (!terminal).then(|| scope.spawn(move || drain(OutputStream::Stderr, &stdio.stderr)));
        let waited = client.wait_process(container, exec);
        ended.announce();
        let _ = events.send(Event::Over);
        let status = waited.as_ref().map(|status| status_byte(*status)).ok();
        if let Some(status) = status {
            progress(Progress::Ended(status));
        }
        for drained in [Some(stdout), stderr].into_iter().flatten() {
            match drained.join() {
                Ok(Ok(())) => {}
                Ok(Err(DrainError::Host(error))) => return Err(RunError::Output(error)),
                Ok(Err(DrainError::Guest(error))) => {
                    return Err(RunError::refused("deliver the output")(error));
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        waited.map(status_byte).map_err(RunError::refused("wait for the process"))
    })
}

/// An exit status is a byte; a guest that says otherwise gets the byte, as from a shell.
fn status_byte(status: i32) -> u8 {
    (status & 0xff) as u8
}

/// Passes signals and window sizes on, in order.
fn relay(process: &Process<'_>, control: &Control, ended: &Ended) {
    let over = || ended.is_over();
    let wait = Wait::Until(&over);
    loop {
        let (what, told) = match control.next() {
            Event::Over => return,
            Event::Signal(signal) => {
                let told = process.client.signal_process(process.container, process.exec, signal, wait);
                if told.is_ok() {
                    control.answered();
                }
                ("signal", told)
            }
            Event::Resize(window) => {
                ("resize", process.client.resize_terminal(process.container, process.exec, window, wait))
            }
        };
        if let Err(error) = told {
            tracing::debug!(%error, "{what}");
        }
    }
}

/// Removes the container and destroys the sandbox, so that what it wrote is on its disk. The guest resets afterwards.
pub fn take_down(client: &Client, container: &str, at_most: Duration) -> Result<(), CallError> {
    client.remove_container(container, at_most)?;
    client.destroy_sandbox(at_most)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
