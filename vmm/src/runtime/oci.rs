//! From an image's configuration and a run's options to the container that the agent is told of: an OCI runtime
//! specification as Docker would write it, and the storages its root is made of.
//!
//! What Docker sets by default is set here too: mounts, masked and read-only paths, capabilities, environment. What the VM
//! already separates is left out: the container has the machine's network, and where it is alone its shared memory and message
//! queues too, and no user namespace of its own is needed to keep it from anybody.

use super::capabilities::{UnknownCapability, capabilities};
use super::command::{self, Entrypoint, NoCommand};
use super::cores;
use super::details::Details;
use super::environment;
use super::health;
use super::init_system::{self, is_init_system};
use super::record::Made;
use super::resolver::Resolver;
use super::volume::Volume;
use crate::agent::session::ContainerSpec;
use crate::agent::terminal::Window;
use ferry_images::ImageConfig;
use ferry_init::api::agent::Storage;
use ferry_init::api::oci::{
    Box as ConsoleSize, Linux, LinuxCapabilities, LinuxNamespace, LinuxResources, Mount, PosixRlimit,
    Process, Root, Spec, User,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The serial number of the disk that holds an image's layers.
pub const LAYERS_SERIAL: &str = "layers";
/// The serial number of the writable disk.
pub const SCRATCH_SERIAL: &str = "scratch";

/// The version of the OCI runtime specification that is written here.
const OCI_VERSION: &str = "1.2.0";
/// Where the guest mounts what belongs to a container, by its id (Kata's place for it).
const GUEST_BASE: &str = "/run/kata-containers";
/// The longest host name Linux takes.
const MAX_HOSTNAME: usize = 64;

/// PID 1's annotation that says whether a container's process is process 1 of its own namespace.
pub(super) const PID1_ANNOTATION: &str = "io.ferry.pid1";

/// Where what the container writes goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Writable {
    /// To a scratch disk on the host.
    #[default]
    Disk,
    /// To the guest's memory.
    Tmpfs,
    /// Nowhere: the root is read-only. Below it a little memory holds the mount points that the image lacks.
    Nothing,
}

/// What a run's options say of the container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// The words after the image; none: the image's own command.
    pub command: Vec<String>,
    /// What replaces the image's entrypoint.
    pub entrypoint: Entrypoint,
    /// Variables, `NAME=value` or a bare name that takes the variable away; see [`environment::from_option`].
    pub environment: Vec<String>,
    /// What replaces the image's working directory.
    pub working_dir: Option<String>,
    /// What replaces the image's user.
    pub user: Option<String>,
    /// The container's host name; none: its id.
    pub hostname: Option<String>,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// The terminal's first size.
    pub window: Option<Window>,
    /// Where what it writes goes.
    pub writable: Writable,
    /// Every capability, and nothing masked or read-only.
    pub privileged: bool,
    /// Capabilities besides the default ones.
    pub cap_add: Vec<String>,
    /// Default capabilities that it is not to have.
    pub cap_drop: Vec<String>,
    /// Whether it may use vsock, and so reach what listens there on the host.
    pub vsock: bool,
    /// What of the host it sees.
    pub volumes: Vec<Volume>,
    /// The most bytes of a core that a process of it leaves when it crashes; none: it leaves none.
    pub core_limit: Option<u64>,
    /// What else is said of it.
    pub details: Details,
    /// How it finds others by their names.
    pub resolver: Resolver,
    /// How it is looked at whether it is well.
    pub health: health::Wanted,
}

/// The annotation by which the guest's PID 1 lets a container use vsock.
const VSOCK_ANNOTATION: &str = "io.ferry.vsock";

/// Options and an image that make no container.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// Nothing to run.
    #[error(transparent)]
    NoCommand(#[from] NoCommand),
    /// An unknown capability.
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
    /// A working directory that is relative.
    #[error("the working directory '{0}' is invalid: it needs to be an absolute path")]
    RelativeWorkingDir(String),
    /// A host name that Linux does not take.
    #[error(
        "invalid host name '{0}': at most {MAX_HOSTNAME} characters, none of them a blank or control character"
    )]
    Hostname(String),
    /// A NUL byte in a word, which no process can be given.
    #[error("{0} contains a NUL byte")]
    Nul(&'static str),
}

/// The container `id` of an image run with these options.
pub fn container_for(id: &str, image: &ImageConfig, options: &Options) -> Result<ContainerSpec, SpecError> {
    let storages = storages(id, options.writable);
    // Whatever is mounted last is the root.
    let root = storages.last().map(|storage| storage.mount_point.clone()).unwrap_or_default();
    let mut oci = spec_for(id, &root, image, options)?;
    if let Some(linux) = &mut oci.linux {
        // Nobody else is there whose they could be; making them anew costs the start more than any other namespace.
        linux.namespaces.retain(|namespace| namespace.r#type != "ipc");
    }
    Ok(ContainerSpec { id: id.to_owned(), storages, oci, ..Default::default() })
}

/// The specification alone, of a container whose root the guest has mounted at `root`.
pub fn spec_for(id: &str, root: &str, image: &ImageConfig, options: &Options) -> Result<Spec, SpecError> {
    let hostname = hostname(id, options.hostname.as_deref())?;
    let process = process(&hostname, image, options)?;
    let is_init_system = is_init_system(&process.args);
    let paths = |list: &[&str]| {
        let list = if options.privileged { &[][..] } else { list };
        list.iter().map(|path| (*path).to_owned()).collect()
    };
    let linux = Linux {
        resources: Some(LinuxResources::default()),
        cgroups_path: format!("/{id}"),
        namespaces: NAMESPACES
            .iter()
            .map(|kind| LinuxNamespace { r#type: (*kind).to_owned(), path: String::new() })
            .collect(),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        sysctl: options
            .core_limit
            .map(|_| ("kernel.core_pattern".to_owned(), cores::PATTERN.to_owned()))
            .into_iter()
            .collect(),
        ..Default::default()
    };
    let mut spec = Spec {
        version: OCI_VERSION.to_owned(),
        process: Some(process),
        root: Some(Root { path: root.to_owned(), readonly: options.writable == Writable::Nothing }),
        hostname,
        mounts: mounts(options.privileged),
        linux: Some(linux),
        annotations: options
            .vsock
            .then(|| (VSOCK_ANNOTATION.to_owned(), "true".to_owned()))
            .into_iter()
            .collect(),
        ..Default::default()
    };
    options.details.apply(&mut spec);
    if is_init_system {
        init_system::prepare(&mut spec);
    }
    Ok(spec)
}

/// Namespaces of the container's own. The network is the machine's: nobody else is in it.
const NAMESPACES: [&str; 5] = ["mount", "uts", "ipc", "pid", "cgroup"];

/// What Docker hides.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// What Docker makes read-only.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Docker's mounts, in its order.
fn mounts(privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    let table: [(&str, &str, &str, &[&str]); 10] = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", &[access, "nosuid", "noexec", "nodev"]),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
        // Without a source the guest writes them itself, as Docker does on the host.
        ("/etc/resolv.conf", "bind", "", &["rbind", "rprivate"]),
        ("/etc/hostname", "bind", "", &["rbind", "rprivate"]),
        ("/etc/hosts", "bind", "", &["rbind", "rprivate"]),
    ];
    table
        .iter()
        .map(|(destination, kind, source, options)| Mount {
            destination: (*destination).to_owned(),
            source: (*source).to_owned(),
            r#type: (*kind).to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        })
        .collect()
}

/// A further process of a container that was made like this. Whatever `options` leave out is the container's.
pub fn exec_for(made: &Made, options: &Options) -> Result<Process, SpecError> {
    // What the image is to a container's first process, the container is to those that come later.
    let container = ImageConfig {
        env: made.env.clone(),
        user: made.user.clone(),
        working_dir: made.working_dir.clone(),
        ..ImageConfig::default()
    };
    let options = Options {
        privileged: made.privileged || options.privileged,
        core_limit: made.core_limit,
        cap_add: made.cap_add.clone(),
        cap_drop: made.cap_drop.clone(),
        details: made.details.clone(),
        ..options.clone()
    };
    process(&made.hostname, &container, &options)
}

fn process(hostname: &str, image: &ImageConfig, options: &Options) -> Result<Process, SpecError> {
    let args = command::resolve(&image.entrypoint, &image.cmd, &options.entrypoint, &options.command)?;
    let term = options.terminal.then_some("xterm");
    let env = environment::assemble(hostname, term, &image.env, &options.environment);
    let cwd = match options.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
        Some(dir) if !dir.starts_with('/') => return Err(SpecError::RelativeWorkingDir(dir.to_owned())),
        Some(dir) => dir.to_owned(),
        None if image.working_dir.is_empty() => "/".to_owned(),
        // An image may say `app`, which Docker takes from the root.
        None if !image.working_dir.starts_with('/') => format!("/{}", image.working_dir),
        None => image.working_dir.clone(),
    };
    let user = options.user.as_ref().unwrap_or(&image.user);
    for (what, words) in [
        ("the command", &args),
        ("the environment", &env),
        ("the working directory", &vec![cwd.clone()]),
        ("the user", &vec![user.clone()]),
    ] {
        if words.iter().any(|word| word.contains('\0')) {
            return Err(SpecError::Nul(what));
        }
    }
    let mut process = Process {
        terminal: options.terminal,
        console_size: options
            .window
            .filter(|_| options.terminal)
            .map(|window| ConsoleSize { height: window.rows.into(), width: window.columns.into() }),
        user: Some(self::user(user)),
        args,
        env,
        cwd,
        capabilities: Some(process_capabilities(user, options)?),
        rlimits: limit("RLIMIT_NOFILE", 1024, 524_288)
            .chain(options.core_limit.into_iter().flat_map(|most| limit("RLIMIT_CORE", most, most)))
            .collect(),
        ..Default::default()
    };
    options.details.apply_to(&mut process);
    Ok(process)
}

fn limit(kind: &str, soft: u64, hard: u64) -> std::option::IntoIter<PosixRlimit> {
    Some(PosixRlimit { r#type: kind.to_owned(), soft, hard }).into_iter()
}

/// The user is looked up in the guest, where the container's passwd and group are.
fn user(text: &str) -> User {
    let username = if text.is_empty() || text == "0" || text == "root" { "" } else { text };
    User { username: username.to_owned(), ..Default::default() }
}

/// As execve would have it: root gets the set, anybody else only its bound. A name that turns out to be another root's gets
/// the set from the kernel at its exec.
fn process_capabilities(user: &str, options: &Options) -> Result<LinuxCapabilities, SpecError> {
    let set = capabilities(options.privileged, &options.cap_add, &options.cap_drop)?;
    let name = user.split(':').next().unwrap_or_default();
    let held = if matches!(name, "" | "0" | "root") { set.clone() } else { Vec::new() };
    Ok(LinuxCapabilities { bounding: set, effective: held.clone(), permitted: held, ..Default::default() })
}

fn hostname(id: &str, wanted: Option<&str>) -> Result<String, SpecError> {
    match wanted.filter(|name| !name.is_empty()) {
        Some(name)
            if name.len() > MAX_HOSTNAME || name.contains(|c: char| c.is_control() || c.is_whitespace()) =>
        {
            Err(SpecError::Hostname(name.to_owned()))
        }
        Some(name) => Ok(name.to_owned()),
        None => Ok(id.chars().take(12).collect()),
    }
}

/// What the guest mounts for the container's root, in order; the last one is the root. The container is alone in its
/// machine.
pub fn storages(id: &str, writable: Writable) -> Vec<Storage> {
    storages_on(id, LAYERS_SERIAL, "", writable)
}

/// The same where its layers are the disk of this serial number, and what it writes to the scratch disk goes to a
/// directory of it, which begins with a slash.
pub(super) fn storages_on(
    id: &str,
    layers_serial: &str,
    directory: &str,
    writable: Writable,
) -> Vec<Storage> {
    let place = |name: &str| guest_path(id, name);
    let (layers, scratch) = (place("layers"), place("scratch"));
    let mut storages = vec![Storage {
        driver: "mmioblk".to_owned(),
        source: format!("serial={layers_serial}"),
        fstype: "erofs".to_owned(),
        options: vec!["ro".to_owned()],
        mount_point: layers.clone(),
        ..Default::default()
    }];
    match writable {
        Writable::Disk => storages.push(scratch_disk(scratch.clone())),
        Writable::Tmpfs | Writable::Nothing => {
            storages.push(memory(scratch.clone(), vec!["mode=0755".to_owned()]));
        }
    }
    let (upper, work) = (format!("{scratch}{directory}/upper"), format!("{scratch}{directory}/work"));
    let make = |dir: &str| format!("io.katacontainers.volume.overlayfs.create_directory={dir}");
    storages.push(Storage {
        driver: "overlayfs".to_owned(),
        driver_options: vec![make(&upper), make(&work)],
        source: "overlay".to_owned(),
        fstype: "overlay".to_owned(),
        options: vec![format!("lowerdir={layers}"), format!("upperdir={upper}"), format!("workdir={work}")],
        mount_point: place("rootfs"),
        ..Default::default()
    });
    storages
}

/// Where the guest keeps something that belongs to a container or pod.
pub(super) fn guest_path(id: &str, name: &str) -> String {
    format!("{GUEST_BASE}/{id}/{name}")
}

/// The scratch disk, mounted there.
pub(super) fn scratch_disk(mount_point: String) -> Storage {
    Storage {
        driver: "mmioblk".to_owned(),
        source: format!("serial={SCRATCH_SERIAL}"),
        fstype: "ext4".to_owned(),
        // The disk is fresh, and gone after the run. What checks and prepares all of its block groups would
        // cost more than the rest of the start.
        options: ["noblock_validity", "no_prefetch_block_bitmaps", "noinit_itable"].map(Into::into).into(),
        mount_point,
        ..Default::default()
    }
}

/// Memory as a file system, mounted there.
pub(super) fn memory(mount_point: String, options: Vec<String>) -> Storage {
    Storage {
        driver: "ephemeral".to_owned(),
        source: "tmpfs".to_owned(),
        fstype: "tmpfs".to_owned(),
        options,
        mount_point,
        ..Default::default()
    }
}

/// Tells the guest the names of its disks, which it gives them in their order, as Kata does: by their serial numbers it
/// would have to look at every disk first. Layers that are mapped are in its address space instead of on a disk.
pub fn name_disks(storages: &mut [Storage], are_mapped: bool) {
    let layers = format!("serial={LAYERS_SERIAL}");
    let mut names = ('a'..='z').map(|letter| format!("/dev/vd{letter}"));
    for storage in storages.iter_mut().filter(|storage| storage.source.starts_with("serial=")) {
        if are_mapped && storage.source == layers {
            storage.driver = "nvdimm".to_owned();
            storage.source = "/dev/pmem0".to_owned();
            storage.options.push("dax=always".to_owned());
        } else if let Some(name) = names.next() {
            storage.source = name;
        }
    }
}

#[cfg(test)]
#[path = "oci_tests.rs"]
mod tests;
