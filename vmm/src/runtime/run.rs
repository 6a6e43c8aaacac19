//! A whole run: a container is made of an image and options, a guest is started for it, and what is to stay of it stays.
//! Nothing here knows what kind of guest it is.

use super::clock;
use super::cores::Cores;
use super::details::Details;
use super::directory;
use super::groups;
use super::guest::{Contents, Launch, Plan, PlannedDisk, PlannedShare, Reason};
use super::health::{self, Check};
use super::init_system;
use super::interrupt::Interrupts;
use super::logs::{Capacity, Writer};
use super::monitor::protocol::SOCKET;
use super::monitor::{Captured, Monitor, Server, capture};
use super::name;
use super::network;
use super::oci::{self, LAYERS_SERIAL, SCRATCH_SERIAL, Writable};
use super::oom;
use super::record::{Made, Record, Status};
use super::restart::{Restart, Restarts};
use super::shape::Shape;
use super::state::Containers;
use super::supervise::{Afterwards, Failure, Job, Step, supervise};
use super::volume::{self, Volume};
use crate::agent::Signal;
use crate::agent::session::{ContainerSpec, Control, Keyboard, Progress as Steps, Stdio};
use crate::agent::terminal::Window;
use ferry_images::{Image, Progress, Segment, ext4};
use ferry_init::api::oci::Mount;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The file of the scratch disk in a container's directory.
pub(super) const SCRATCH: &str = "scratch.ext4";

/// How long the command that shows a container's streams may take to attach.
const ATTACHING: Duration = Duration::from_secs(60);

/// An image, ready to run.
#[derive(Debug, Clone)]
pub struct Ready {
    /// As the user named it.
    pub name: String,
    /// What it is.
    pub image: Image,
    /// The files of its disk.
    pub segments: Vec<Segment>,
}

/// What is to be run, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// The image.
    pub image: Ready,
    /// The container.
    pub options: oci::Options,
    /// The machine.
    pub shape: Shape,
    /// The container's name; none: one by chance.
    pub name: Option<String>,
    /// Whether the process reads our stdin, or that of whoever attaches.
    pub interactive: bool,
    /// What stays afterwards.
    pub afterwards: Afterwards,
    /// Where its streams go.
    pub mode: Mode,
    /// Whether it is started again.
    pub restart: Restart,
    /// How it is asked to end.
    pub stop: Stop,
    /// What is wanted of the cores of processes that crash; see [`Options::core_limit`](oci::Options::core_limit).
    pub cores: Option<Cores>,
}

/// Where a container's streams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are this process's own.
    Foreground,
    /// To a log of this capacity, and to whoever attaches.
    Detached(Capacity),
    /// The same, and it does not begin before somebody has attached: the command that the user sees.
    Attached(Capacity),
}

/// How a container is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// By which signal; none: the image's, or SIGTERM.
    pub signal: Option<Signal>,
    /// How many seconds it has then.
    pub seconds: u32,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: None, seconds: 10 }
    }
}

/// What a run needs of the host.
pub struct Host<'a> {
    /// Where containers are kept.
    pub containers: &'a Containers,
    /// Starts guests.
    pub launch: &'a dyn Launch,
    /// The signals of this process.
    pub interrupts: &'a Interrupts,
    /// Shows people what goes on until the container's process runs.
    pub progress: &'a dyn Progress,
    /// Is told how far it has come: each once.
    pub milestone: &'a (dyn Fn(Milestone, &[Record]) + Sync),
}

impl<'a> Host<'a> {
    /// One where nobody is shown how far it is.
    pub fn quiet(containers: &'a Containers, launch: &'a dyn Launch, interrupts: &'a Interrupts) -> Self {
        Self { containers, launch, interrupts, progress: &(), milestone: &|_, _| {} }
    }
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Milestone {
    /// The container, or every one of a pod, is there; no guest has been started.
    Made,
    /// It can be attached to; no guest has been started. Of a pod this is not told.
    Listening,
    /// Its process runs for the first time. Of a pod: those of all its containers but the ones that run before others.
    Started,
}

/// What can be said to be wrong before an image is fetched.
pub fn check(options: &oci::Options, shape: &Shape, interactive: bool) -> Result<(), Failure> {
    if options.terminal && interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::early(
            "the input device is not a TTY: leave -t out, or run this from a terminal",
        ));
    }
    volume::check(&options.volumes).map_err(Failure::early)?;
    options.details.check(&options.volumes).map_err(Failure::early)?;
    shape.check(options.writable == Writable::Disk)
}

/// Runs it to its end, with every restart that belongs to it; the exit status of its process.
pub fn run(request: &Request, host: &Host<'_>) -> Result<u8, Failure> {
    let at_our_keyboard = request.interactive && request.mode == Mode::Foreground;
    check(&request.options, &request.shape, at_our_keyboard)?;
    if request.shape.vsock.is_some() && !host.launch.has_vsock() {
        return Err(Failure::early("this kind of machine has no vsock of ferry's: leave --vsock out"));
    }
    let mut options = request.options.clone();
    if options.volumes.is_empty() {
        return begin(request, options, host);
    }
    let fault = |error: &dyn std::fmt::Display| Failure::early(error.to_string());
    host.launch.shares().map_err(|error| fault(&error))?;
    let containers = host.containers.clone();
    let attached = containers.volumes().attach(&mut options.volumes, &request.image);
    let in_use = attached.map_err(|error| {
        containers.drop_volumes(&options.volumes);
        fault(&error)
    })?;
    let (in_use, theirs) = (Arc::new(Mutex::new(Some(in_use))), options.volumes.clone());
    // Volumes without a name go with their container, however it ends, and stay with one that stays.
    let let_go = move || {
        drop(lock(&in_use).take());
        containers.drop_volumes(&theirs);
    };
    host.interrupts.at_exit(Box::new(let_go.clone()));
    let result = begin(request, options, host);
    let_go();
    result
}

/// The same, with what the container is to see of volumes in its place.
fn begin(request: &Request, mut options: oci::Options, host: &Host<'_>) -> Result<u8, Failure> {
    let fault = |error: &dyn std::fmt::Display| Failure::early(error.to_string());
    let id = name::id();
    options.vsock = request.shape.vsock.is_some();
    if options.terminal && options.window.is_none() {
        options.window = Window::current();
    }
    let groups = std::mem::take(&mut options.details.named_groups);
    options.details.groups = groups::numbers(&groups, &request.image).map_err(Failure::early)?;
    let mut container =
        oci::container_for(&id, &request.image.image.config, &options).map_err(|error| fault(&error))?;
    let shape = &request.shape;
    let image_bytes = request.image.segments.iter().map(|segment| segment.bytes).sum();
    let are_mapped = shape.layers.are_mapped(host.launch, image_bytes, shape.memory_mib)?;
    oci::name_disks(&mut container.storages, are_mapped);
    let mut shares = Vec::new();
    let volumes = volume::plan(&id, &options.volumes).map_err(|error| fault(&format_args!("-v: {error}")))?;
    for (share, storage, mount) in volumes {
        shares.push(share);
        // The last storage is the root's.
        container.storages.insert(0, storage);
        container.oci.mounts.push(mount);
    }
    // What was asked for comes after the usual, and what lies in something else after that.
    let asked_for = |mount: &Mount| {
        let is_there = |target: &String| *target == mount.destination;
        options.volumes.iter().any(|volume| is_there(&volume.target))
            || options.details.tmpfs.iter().any(|tmpfs| is_there(&tmpfs.target))
    };
    container.oci.mounts.sort_by_key(|mount| match asked_for(mount) {
        true => mount.destination.matches('/').count(),
        false => 0,
    });
    let network = network::plan(&request.shape.network, &id, host.launch.has_network())
        .map_err(|error| fault(&error))?;
    container.network = network.as_ref().map(network::Plan::guest);
    let of_network = container.network.as_ref().map(|network| &network.dns[..]).unwrap_or_default();
    container.dns = options.resolver.lines(of_network);
    let gateway = network.as_ref().and_then(network::Plan::host);
    let hosts = oci::guest_path(&id, "hosts");
    let hosts = options.resolver.hosts_file(&mut container.oci, hosts, gateway).map_err(Failure::early)?;
    container.files.extend(hosts);
    let made = made(request, &options, &container, network.clone())?;
    let sockets = directory::make(&host.containers.root().join("run"))
        .map_err(|error| Failure::early(format!("no place for the run's sockets: {error}")))?;
    directory::make_for_vm(sockets.path(), request.shape.vsock.as_deref())
        .map_err(|error| Failure::early(format!("no place for the VM's sockets: {error}")))?;
    let at_exit = sockets.path().to_owned();
    host.interrupts.at_exit(Box::new(move || drop(std::fs::remove_dir_all(at_exit))));

    let name = request.name.as_deref().unwrap_or_default();
    let record = Record { runtime_directory: sockets.path().to_owned(), ..Record::new(&id, name, made) };
    let entry = host.containers.create(record).map_err(|error| fault(&error))?;
    (host.milestone)(Milestone::Made, std::slice::from_ref(entry.record()));
    let directory = entry.directory().to_owned();
    let at_exit = directory.clone();
    let gone = request.afterwards == Afterwards::ThrowAway;
    let kept = Arc::new(AtomicBool::new(false));
    let started = kept.clone();
    host.interrupts.at_exit(Box::new(move || {
        // A container that has run and was to stay does so; before that there is nothing worth keeping.
        if gone || !started.load(Ordering::Relaxed) {
            let _ = std::fs::remove_dir_all(at_exit);
        }
    }));

    let monitor = Monitor::new(entry);
    let life = Life {
        request,
        host,
        container: &container,
        are_mapped,
        shares,
        network,
        sockets: sockets.path(),
        directory,
        kept,
        monitor: &monitor,
    };
    let result = match Server::start(&monitor, &sockets.path().join(SOCKET)) {
        Ok(_server) => life.begin(),
        Err(error) => Err(Failure::early(format!("the container's socket cannot be made: {error}"))),
    };
    host.progress.end();
    host.interrupts.keep();
    conclude(&monitor, &result, gone);
    result
}

/// One container, from its first guest to its last.
struct Life<'a> {
    request: &'a Request,
    host: &'a Host<'a>,
    container: &'a ContainerSpec,
    are_mapped: bool,
    shares: Vec<PlannedShare>,
    network: Option<network::Plan>,
    sockets: &'a Path,
    directory: PathBuf,
    /// Set when its process has run once.
    kept: Arc<AtomicBool>,
    monitor: &'a Arc<Monitor>,
}

impl Life<'_> {
    fn begin(&self) -> Result<u8, Failure> {
        if let Some(record) = self.monitor.record() {
            (self.host.milestone)(Milestone::Listening, &[record]);
        }
        let is_awaited = matches!(self.request.mode, Mode::Attached(_));
        if is_awaited && !self.monitor.hub().is_owned_within(ATTACHING) {
            return Err(Failure::early("the command that shows the container's terminal did not come"));
        }
        self.live()
    }

    fn live(&self) -> Result<u8, Failure> {
        let plan = self.plan()?;
        let mut restarts = Restarts::default();
        loop {
            let began = Instant::now();
            let result = self.once(&plan);
            let status = result.as_ref().map_or_else(|failure| failure.status, |status| *status);
            let has_run = self.kept.load(Ordering::Relaxed);
            let wanted = has_run && !self.host.interrupts.asked_to_end();
            let policy = self.monitor.record().filter(|_| wanted).map(|record| record.made.restart);
            let pause = policy.and_then(|policy| restarts.next(policy, status, began.elapsed()));
            let Some(pause) = pause else { return result };
            self.monitor.hub().end(status);
            if let Err(failure) = &result {
                tracing::warn!(reason = failure.message, "the container's VM has ended");
            }
            if !self.monitor.wait_to_restart(pause, restarts.count(), status) {
                return result;
            }
        }
    }

    /// The machine, with its disks made.
    fn plan(&self) -> Result<Plan, Failure> {
        let Request { image, options, shape, .. } = self.request;
        let mut disks = vec![PlannedDisk {
            serial: LAYERS_SERIAL.to_owned(),
            contents: match self.are_mapped {
                true => Contents::Mapped(image.segments.clone()),
                false => Contents::Layers(image.segments.clone()),
            },
        }];
        if options.writable == Writable::Disk {
            let path = self.directory.join(SCRATCH);
            scratch(&path, shape.scratch_bytes)?;
            let contents = match self.request.afterwards {
                Afterwards::ThrowAway => Contents::Throwaway(path),
                Afterwards::Keep => Contents::Scratch(path),
            };
            disks.push(PlannedDisk { serial: SCRATCH_SERIAL.to_owned(), contents });
        }
        let plan = shape.plan(disks, self.network.clone(), self.sockets);
        Ok(Plan { shares: self.shares.clone(), ..plan })
    }

    /// From the start of a guest to its end.
    fn once(&self, plan: &Plan) -> Result<u8, Failure> {
        let (stdio, captured) = self.streams()?;
        let captured = Mutex::new(captured);
        let result = self.in_guest(plan, &stdio, &captured);
        drop(stdio);
        // Whoever follows has the last word of the output before the end is told.
        if let Some(captured) = captured.into_inner().unwrap_or_else(PoisonError::into_inner) {
            captured.finish();
        }
        result
    }

    fn streams(&self) -> Result<(Stdio, Option<Captured>), Failure> {
        let Request { options, interactive, mode, .. } = self.request;
        let unusable = |error| Failure::early(format!("stdin, stdout or stderr cannot be used: {error}"));
        match *mode {
            Mode::Foreground => {
                let keyboard =
                    if options.terminal && *interactive { Keyboard::Raw } else { Keyboard::Untouched };
                Stdio::inherited(*interactive, keyboard).map(|stdio| (stdio, None)).map_err(unusable)
            }
            Mode::Detached(capacity) | Mode::Attached(capacity) => Writer::open(&self.directory, capacity)
                .and_then(|log| capture(log, self.monitor.hub(), *interactive))
                .map(|(stdio, captured)| (stdio, Some(captured)))
                .map_err(|error| Failure::early(format!("the container's log cannot be written: {error}"))),
        }
    }

    fn in_guest(
        &self,
        plan: &Plan,
        stdio: &Stdio,
        captured: &Mutex<Option<Captured>>,
    ) -> Result<u8, Failure> {
        let Host { launch, interrupts, progress, milestone, .. } = self.host;
        progress.begin(launch.step(), None);
        let guest = launch
            .launch(plan)
            .map_err(|error| Failure { reason: Reason::VmmError, ..Failure::early(error.to_string()) })?;
        self.monitor.guest_started(Arc::clone(&guest));
        let control = Control::new();
        let remote = control.remote();
        let reached = Mutex::new(None);
        let step = |step: Step<'_>| match step {
            Step::Reached(client) => *lock(&reached) = Some(client.clone()),
            Step::Process(Steps::Made) => {}
            Step::Process(Steps::Started) => {
                progress.end();
                let first = !self.kept.swap(true, Ordering::Relaxed);
                interrupts.forward_to(remote.clone());
                // The window may have changed while the guest booted.
                if self.request.options.terminal
                    && let Some(window) = Window::current()
                {
                    remote.resize(window);
                }
                if let Some(client) = lock(&reached).take() {
                    let stdin = lock(captured).as_mut().and_then(|captured| captured.stdin.take());
                    self.monitor.started(&client, remote.clone(), stdin);
                    oom::follow(&client, vec![Arc::clone(self.monitor)]);
                    if let Some(check) = self.monitor.record().and_then(|record| record.made.check) {
                        health::follow(&client, self.monitor, &check);
                    }
                }
                if first && let Some(record) = self.monitor.record() {
                    milestone(Milestone::Started, &[record]);
                }
            }
            // What is left is output that somebody has to read: a signal ends the wait for them.
            Step::Process(Steps::Ended(status)) => {
                interrupts.keep();
                self.monitor.ended(status);
            }
        };
        supervise(Job {
            guest: &guest,
            container: self.container,
            stdio,
            control,
            afterwards: self.request.afterwards,
            cores: self.request.cores.as_ref(),
            name: &self.monitor.record().map(|record| record.name).unwrap_or_default(),
            step: &step,
        })
    }
}

/// The writable disk, formatted; its file is as sparse as the file system allows.
pub(super) fn scratch(path: &Path, bytes: u64) -> Result<(), Failure> {
    let fault = |error: &dyn std::fmt::Display| {
        Failure::early(format!("the scratch disk {}: {error}", path.display()))
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| fault(&error))?;
    // Whole blocks of the file system on it.
    ext4::format(&file, bytes & !4095).map_err(|error| fault(&error))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stays: the container with how it ended, unless it was to go away. One that never ran has written nothing.
pub(super) fn conclude(monitor: &Monitor, result: &Result<u8, Failure>, gone: bool) {
    let has_run = monitor.record().is_some_and(|record| record.started != 0);
    monitor.note(|record| {
        record.runtime_directory = PathBuf::new();
        match result {
            Ok(status) => {
                record.status = Status::Exited;
                record.exit_code = Some(*status);
            }
            Err(failure) => {
                record.finished = clock::now();
                record.status = Status::Dead;
                record.exit_code = Some(failure.status);
                record.reason = failure.reason.word().to_owned();
                record.error = failure.message.clone();
            }
        }
    });
    let status = result.as_ref().map_or_else(|failure| failure.status, |status| *status);
    if !has_run && let Some(directory) = monitor.directory() {
        let _ = std::fs::remove_file(directory.join(SCRATCH));
    }
    monitor.over(status, gone);
}

/// What is remembered of how the container was made.
fn made(
    request: &Request,
    options: &oci::Options,
    container: &ContainerSpec,
    network: Option<network::Plan>,
) -> Result<Made, Failure> {
    let Request { image, shape, restart, stop, .. } = request;
    let rest = Made {
        interactive: request.interactive,
        detached: request.mode != Mode::Foreground,
        network,
        auto_remove: request.afterwards == Afterwards::ThrowAway,
        restart: *restart,
        stop_timeout: stop.seconds,
        check: Check::of(image.image.config.health.as_ref(), &options.health),
        ..Made::default()
    };
    made_of(image, options, shape, container, stop.signal, rest)
}

/// The same of a container, its image and its options, where `rest` says what these do not.
pub(super) fn made_of(
    image: &Ready,
    options: &oci::Options,
    shape: &Shape,
    container: &ContainerSpec,
    stop_signal: Option<Signal>,
    rest: Made,
) -> Result<Made, Failure> {
    let config = &image.image.config;
    let process = container.oci.process.clone().unwrap_or_default();
    let of_image = config.stop_signal.as_deref().map(Signal::parse).transpose();
    let of_image = of_image.map_err(|error| Failure::early(format!("the image's stop signal: {error}")))?;
    let stop_signal = stop_signal.or(of_image).unwrap_or_else(|| init_system::stop_signal(&process.args));
    Ok(Made {
        image: image.name.clone(),
        image_digest: image.image.digest.to_string(),
        args: process.args,
        env: process.env,
        working_dir: process.cwd,
        user: options.user.clone().unwrap_or_else(|| config.user.clone()),
        hostname: container.oci.hostname.clone(),
        terminal: options.terminal,
        privileged: options.privileged,
        cap_add: options.cap_add.clone(),
        cap_drop: options.cap_drop.clone(),
        volumes: options
            .volumes
            .iter()
            .map(|volume| Volume {
                source: std::path::absolute(&volume.source).unwrap_or_else(|_| volume.source.clone()),
                ..volume.clone()
            })
            .collect(),
        writable: options.writable,
        core_limit: options.core_limit,
        details: Details {
            labels: config.labels.clone().into_iter().chain(options.details.labels.clone()).collect(),
            ..options.details.clone()
        },
        resolver: options.resolver.clone(),
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        most_memory_mib: shape.most_memory_mib,
        stop_signal: stop_signal.number(),
        ..rest
    })
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
