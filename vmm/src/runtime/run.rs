//! A whole run: a container is made of an image and options, a guest is started for it, and what is to stay of it stays.
//! Nothing here knows what kind of guest it is.

use super::clock;
use super::directory;
use super::guest::{Contents, Launch, Plan, PlannedDisk, Reason, Serial};
use super::interrupt::Interrupts;
use super::name;
use super::oci::{self, LAYERS_SERIAL, SCRATCH_SERIAL, Writable};
use super::size::{MIB, human_size};
use super::state::{self, Containers, Entry, Record, Status};
use super::supervise::{Afterwards, Failure, supervise};
use crate::agent::session::{Control, Keyboard, Progress as Step, Stdio};
use crate::agent::terminal::Window;
use ferry_images::{Image, Progress, Segment, ext4};
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The least memory a guest boots in, with a little left for its process.
pub const LEAST_MEMORY_MIB: u64 = 64;
/// The most a machine is offered: 1 TiB.
const MOST_MEMORY_MIB: u64 = 1 << 20;
/// The least scratch disk worth having.
const LEAST_SCRATCH: u64 = 16 * MIB;

/// The shape of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the scratch disk in bytes, where there is one.
    pub scratch_bytes: u64,
    /// Words appended to the kernel's command line.
    pub cmdline_extra: String,
    /// A kernel other than the usual one.
    pub kernel: Option<PathBuf>,
    /// An initrd other than the usual one.
    pub initrd: Option<PathBuf>,
    /// Where the guest's serial output goes.
    pub serial: Serial,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            vcpus: 1,
            memory_mib: 512,
            scratch_bytes: 10 << 30,
            cmdline_extra: String::new(),
            kernel: None,
            initrd: None,
            serial: Serial::Quiet,
        }
    }
}

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
    /// Whether the process reads our stdin.
    pub interactive: bool,
    /// What stays afterwards.
    pub afterwards: Afterwards,
}

/// What can be said to be wrong before an image is fetched.
pub fn check(options: &oci::Options, shape: &Shape, interactive: bool) -> Result<(), Failure> {
    if options.terminal && interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::early(
            "the input device is not a TTY: leave -t out, or run this from a terminal",
        ));
    }
    let memory = shape.memory_mib;
    if memory < LEAST_MEMORY_MIB {
        let asked = human_size(memory.saturating_mul(MIB));
        return Err(Failure::early(format!(
            "{asked} of memory is too little: the guest's kernel and one process need at least {LEAST_MEMORY_MIB} MiB \
             (--memory {LEAST_MEMORY_MIB}m)"
        )));
    }
    if memory > MOST_MEMORY_MIB {
        return Err(Failure::early(format!(
            "{memory} MiB of memory is more than the 1 TiB a machine can have"
        )));
    }
    if options.writable == Writable::Disk && shape.scratch_bytes < LEAST_SCRATCH {
        let asked = human_size(shape.scratch_bytes);
        return Err(Failure::early(format!(
            "a scratch disk of {asked} is too small: it needs at least 16 MiB"
        )));
    }
    Ok(())
}

/// Runs it to its end; the exit status of its process.
pub fn run(
    request: &Request,
    containers: &Containers,
    launch: &dyn Launch,
    interrupts: &Interrupts,
    progress: &dyn Progress,
) -> Result<u8, Failure> {
    check(&request.options, &request.shape, request.interactive)?;
    let id = name::id();
    let mut options = request.options.clone();
    if options.terminal && options.window.is_none() {
        options.window = Window::current();
    }
    let container = oci::container_for(&id, &request.image.image.config, &options)
        .map_err(|error| Failure::early(error.to_string()))?;
    let sockets = directory::make(&containers.root().join("run"))
        .map_err(|error| Failure::early(format!("no place for the run's sockets: {error}")))?;
    let at_exit = sockets.path().to_owned();
    interrupts.at_exit(Box::new(move || drop(std::fs::remove_dir_all(at_exit))));

    let record = record(&id, request, &container, sockets.path());
    let entry = containers.create(record).map_err(|error| Failure::early(error.to_string()))?;
    let at_exit = entry.directory().to_owned();
    let gone = request.afterwards == Afterwards::ThrowAway;
    let kept = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let started = kept.clone();
    interrupts.at_exit(Box::new(move || {
        // A container that has run and was to stay does so; before that there is nothing worth keeping.
        if gone || !started.load(std::sync::atomic::Ordering::Relaxed) {
            let _ = std::fs::remove_dir_all(at_exit);
        }
    }));

    let entry = Mutex::new(entry);
    let result = in_guest(request, &container, sockets.path(), &entry, launch, interrupts, progress, &|| {
        kept.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    progress.end();
    interrupts.keep();
    let entry = entry.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    conclude(entry, &result, gone);
    result
}

#[allow(clippy::too_many_arguments, reason = "the pieces of one run, each used once")]
fn in_guest(
    request: &Request,
    container: &crate::agent::session::ContainerSpec,
    sockets: &Path,
    entry: &Mutex<Entry>,
    launch: &dyn Launch,
    interrupts: &Interrupts,
    progress: &dyn Progress,
    on_start: &(dyn Fn() + Sync),
) -> Result<u8, Failure> {
    let mut disks = vec![PlannedDisk {
        serial: LAYERS_SERIAL.to_owned(),
        contents: Contents::Layers(request.image.segments.clone()),
    }];
    if request.options.writable == Writable::Disk {
        let path = lock(entry).directory().join("scratch.ext4");
        scratch(&path, request.shape.scratch_bytes)?;
        disks.push(PlannedDisk { serial: SCRATCH_SERIAL.to_owned(), contents: Contents::Scratch(path) });
    }
    let shape = &request.shape;
    let plan = Plan {
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        disks,
        cmdline_extra: cmdline(shape),
        kernel: shape.kernel.clone(),
        initrd: shape.initrd.clone(),
        directory: sockets.to_owned(),
        serial: shape.serial,
    };
    let terminal = request.options.terminal;
    let keyboard = if terminal && request.interactive { Keyboard::Raw } else { Keyboard::Untouched };
    let stdio = Stdio::inherited(request.interactive, keyboard)
        .map_err(|error| Failure::early(format!("stdin, stdout or stderr cannot be used: {error}")))?;

    progress.begin(launch.step(), None);
    let guest = launch
        .launch(&plan)
        .map_err(|error| Failure { reason: Reason::VmmError, ..Failure::early(error.to_string()) })?;
    let control = Control::new();
    let remote = control.remote();
    let step = |step| match step {
        Step::Started => {
            progress.end();
            on_start();
            interrupts.forward_to(remote.clone());
            // The window may have changed while the guest booted.
            if terminal && let Some(window) = Window::current() {
                remote.resize(window);
            }
            note(entry, |record| {
                record.status = Status::Running;
                record.started = clock::now();
            });
        }
        // What is left is output that somebody has to read: a signal ends the wait for them.
        Step::Ended(status) => {
            interrupts.keep();
            note(entry, |record| {
                record.status = Status::Exited;
                record.exit_code = Some(status);
                record.finished = clock::now();
            });
        }
    };
    supervise(&guest, container, &stdio, control, request.afterwards, &step)
}

/// A kernel whose serial port somebody watches is not to be quiet. What the user adds comes last and wins.
fn cmdline(shape: &Shape) -> String {
    match shape.serial {
        Serial::Quiet => shape.cmdline_extra.clone(),
        Serial::Stderr => format!("loglevel=7 {}", shape.cmdline_extra),
    }
}

/// The writable disk, formatted; its file is as sparse as the file system allows.
fn scratch(path: &Path, bytes: u64) -> Result<(), Failure> {
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

fn lock(entry: &Mutex<Entry>) -> std::sync::MutexGuard<'_, Entry> {
    entry.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A record that cannot be written must not end a container that runs.
fn note(entry: &Mutex<Entry>, change: impl FnOnce(&mut Record)) {
    if let Err(error) = lock(entry).update(change) {
        tracing::warn!(%error, "the container's state could not be written");
    }
}

/// What stays: a container that has run, unless it was to go away.
fn conclude(mut entry: Entry, result: &Result<u8, Failure>, gone: bool) {
    let has_run = entry.record().started != 0;
    if gone || !has_run {
        entry.remove();
        return;
    }
    let written = entry.update(|record| {
        record.runtime_directory = PathBuf::new();
        match result {
            Ok(_) => {}
            Err(failure) => {
                record.finished = clock::now();
                record.status = Status::Dead;
                record.exit_code = Some(failure.status);
                record.reason = failure.reason.word().to_owned();
                record.error = failure.message.clone();
            }
        }
    });
    if let Err(error) = written {
        tracing::warn!(%error, "the container's state could not be written");
    }
}

fn record(
    id: &str,
    request: &Request,
    container: &crate::agent::session::ContainerSpec,
    sockets: &Path,
) -> Record {
    let process = container.oci.process.clone().unwrap_or_default();
    Record {
        version: state::VERSION,
        id: id.to_owned(),
        name: request.name.clone().unwrap_or_default(),
        image: request.image.name.clone(),
        image_digest: request.image.image.digest.to_string(),
        args: process.args,
        env: process.env,
        working_dir: process.cwd,
        user: request.options.user.clone().unwrap_or_else(|| request.image.image.config.user.clone()),
        hostname: container.oci.hostname.clone(),
        terminal: request.options.terminal,
        vcpus: request.shape.vcpus,
        memory_mib: request.shape.memory_mib,
        auto_remove: request.afterwards == Afterwards::ThrowAway,
        status: Status::Created,
        pid: std::process::id(),
        exit_code: None,
        reason: String::new(),
        error: String::new(),
        created: clock::now(),
        started: 0,
        finished: 0,
        runtime_directory: sockets.to_owned(),
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
