//! `ferry run`: options as in Docker, everything after IMAGE is the command.

use super::cid_file::CidFile;
use super::cores::CoreArgs;
use super::details::DetailArgs;
use super::keys::DetachKeys;
use super::lifecycle::{parse_seconds, parse_signal};
use super::monitored::{Milestones, in_front, in_monitor};
use super::progress::Show;
use super::pull::{self, When};
use super::settings::Settings;
use super::values::{
    LogOption, Overlay, parse_cpus, parse_limit, parse_log_option, parse_memory, parse_overlay,
    parse_platform,
};
use super::{Fault, Global};
use crate::agent::Signal;
use crate::machine::{Backing, Model};
use crate::runtime::command::Entrypoint;
use crate::runtime::cores::Cores;
use crate::runtime::environment;
use crate::runtime::guest::{Launch, Serial, Tell};
use crate::runtime::interrupt::{Forwarding, Interrupts};
use crate::runtime::network::{Link, Publish, Wanted, parse_network, parse_published, publish_exposed};
use crate::runtime::oci::{Options, Writable};
use crate::runtime::own_vmm::OwnVmm;
use crate::runtime::record::Record;
use crate::runtime::restart::Restart;
use crate::runtime::run::{self, Host, Milestone, Mode, Ready, Request, Stop};
use crate::runtime::shape::{Layers, Shape};
use crate::runtime::size::MIB;
use crate::runtime::stand_by;
use crate::runtime::state::Containers;
use crate::runtime::supervise::{Afterwards, Failure};
use crate::runtime::volume::{Volume, parse_volume};
use crate::sandbox::UserRange;
use clap::Args;
use ferry_images::source::{self, Access, Keep};
use ferry_images::{Grammar, Progress, Reference, Store};
use std::path::{Path, PathBuf};

/// Options and operands of `ferry run`.
#[derive(Debug, Args)]
#[command(
    override_usage = "ferry run [OPTIONS] IMAGE [COMMAND] [ARG]...\n       ferry run [OPTIONS] --pod FILE",
    after_help = EXAMPLES
)]
pub struct RunArgs {
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    details: DetailArgs,
    #[command(flatten)]
    cores: CoreArgs,
    #[command(flatten)]
    machine: MachineArgs,
    /// Leave it running, and print its id when it runs
    ///
    /// A process of its own keeps the VM, the log (ferry logs) and the way in (ferry attach, exec, stop, …).
    #[arg(short, long, help_heading = "Container")]
    detach: bool,
    /// The keys that leave it running and give the terminal back, where -i and -t give it ours [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = DetachKeys::parse, help_heading = "Container")]
    detach_keys: Option<DetachKeys>,
    /// Start it again after its end: no, on-failure[:N], always or unless-stopped
    ///
    /// It takes -d, and lasts as long as the process that -d leaves behind: nothing starts containers with the host.
    #[arg(long, value_name = "POLICY", value_parser = Restart::parse, requires = "detach", conflicts_with = "rm",
          help_heading = "Container")]
    restart: Option<Restart>,
    /// The signal that asks it to end [default: the image's, or TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = parse_signal, help_heading = "Container")]
    stop_signal: Option<Signal>,
    /// Seconds it has then, before it is killed; -1 for ever
    #[arg(long, value_name = "SECONDS", default_value = "10", allow_negative_numbers = true,
          value_parser = parse_seconds, help_heading = "Container")]
    stop_timeout: u32,
    /// What is kept of what it writes with -d: max-size=SIZE of a file, max-file=NUMBER of files [default: 10m, 3]
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_log_option, help_heading = "Container")]
    log_opt: Vec<LogOption>,
    /// Name the container
    #[arg(long, help_heading = "Container")]
    name: Option<String>,
    /// Let a free port of the host lead to each port that the image exposes: ferry port shows them
    #[arg(short = 'P', long, help_heading = "Network")]
    publish_all: bool,
    /// Write the container's id to a file, which must not be there yet
    #[arg(long, value_name = "FILE", help_heading = "Container")]
    cidfile: Option<PathBuf>,
    /// Remove the container and what it wrote when it ends
    #[arg(long, help_heading = "Container")]
    rm: bool,
    /// Pass signals on to the command
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL", help_heading = "Container")]
    sig_proxy: bool,
    /// Run the containers of a Kubernetes Pod, described in a YAML file, in one VM: - reads it from standard input
    ///
    /// The fields are those that podman kube play knows; one that is not supported is an error that names it. Each container
    /// is called POD-CONTAINER, and is one for every other command. The VM has as much memory and as many vCPUs as the
    /// containers' limits add up to, and at least the usual, unless -m and --cpus say otherwise.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ContainerArgs", "DetailArgs", "words", "cidfile", "platform", "publish_all", "restart", "stop_signal",
          "stop_timeout", "name", "sig_proxy", "detach_keys"], help_heading = "Image and command")]
    pod: Option<PathBuf>,
    /// When to ask the image's registry
    #[arg(
        long,
        value_enum,
        default_value = "missing",
        value_name = "WHEN",
        help_heading = "Image and command"
    )]
    pull: When,
    /// The platform of the image: linux/amd64 is the only one that runs
    #[arg(long, value_name = "PLATFORM", value_parser = parse_platform, help_heading = "Image and command")]
    platform: Option<()>,
    /// The image, and the command to run in it instead of the image's own
    ///
    /// IMAGE is an archive or directory (what docker save, skopeo or podman write), or oci:DIR, oci-archive:FILE,
    /// docker-archive:FILE, or - for an archive on standard input; each may have :NAME at its end. dir:DIR is what skopeo
    /// wrote to a dir:, or an unpacked root directory (which has no command of its own). Any other word is an image's
    /// name, written as in Docker: one that was pulled or loaded before, or is pulled now. Everything after IMAGE is the
    /// command.
    #[arg(required_unless_present = "pod", num_args = 1.., trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"],
          help_heading = "Image and command")]
    words: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  ferry run --rm -it alpine sh
  ferry run -d --name web --restart on-failure:3 ./site.tar
  ferry run --rm -e LANG=C.UTF-8 -w /srv -u www-data ./site.tar ls -l
  ferry run --rm -v .:/src -w /src gcc make
  ferry run --rm --entrypoint '' ./image.tar id
  ferry run --rm -m 2g --cpus 4 --overlay disk=40g oci:./build make test
  tar c . | ferry run --rm -i ./image.tar tar t";

/// What the container is to be like: the options that every command which runs images shares.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Container")]
pub struct ContainerArgs {
    /// Set a variable; NAME alone takes this shell's value
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this user: NAME or UID, with :GROUP or :GID if wanted
    #[arg(short, long)]
    pub user: Option<String>,
    /// Give the command our standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Run this instead of the image's entrypoint; '' for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// The container's host name [default: the first 12 digits of its id]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Make the container's root read-only
    #[arg(long)]
    pub read_only: bool,
    /// Where what the container writes goes: disk, disk=SIZE or tmpfs (the guest's memory) [default: disk=10g]
    #[arg(long, value_name = "WHERE", value_parser = parse_overlay)]
    pub overlay: Option<Overlay>,
    /// Let it see a directory or a file of the host, HOST:CONTAINER, or a volume of ferry's, NAME:CONTAINER, with :ro for
    /// reading only; may be given several times
    ///
    /// A volume (ferry volume ls) is made where it is missing and stays; CONTAINER alone is one without a name, which goes
    /// with the container (--rm, ferry rm -v). While it is empty, it gets what the image has there, unless :nocopy is said.
    #[arg(short, long, value_name = "PATHS", value_parser = parse_volume)]
    pub volume: Vec<Volume>,
    /// Give the command every capability, and hide nothing of /proc and /sys
    #[arg(long)]
    pub privileged: bool,
    /// Add a capability (NET_ADMIN, …, ALL)
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Take a capability away
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
}

/// What the machine is to be like.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Number of vCPUs [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    pub cpus: Option<u8>,
    /// Memory, such as 512m or 2g [default: 512m]
    #[arg(short, long, value_name = "SIZE", value_parser = parse_memory)]
    pub memory: Option<u64>,
    /// To how much memory it can grow: ferry update --memory asks it to [default: not at all]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub memory_max: Option<u64>,
    /// Hold the whole VM, ferry's own part of it and what the host's kernel keeps for it included, to so much of the host's
    /// memory [default: no limit]
    ///
    /// It takes a cgroup with the memory controller: start ferry as root, or where that is delegated to it, as by
    /// systemd-run --user --scope -p Delegate=yes. A VM that wants more is ended. Huge pages do not count.
    #[arg(long, value_name = "SIZE", value_parser = parse_limit)]
    pub memory_limit: Option<u64>,
    /// The network: user (passt, without privileges), tap=NAME[,ip=ADDRESS/PREFIX,gateway=ADDRESS,dns=ADDRESS,mtu=BYTES,queues=N]
    /// or none [default: user where passt is installed]
    ///
    /// user and tap take limits: rx-rate and tx-rate (bytes a second to and from the guest, as in tx-rate=10m), rx-burst and
    /// tx-burst (bytes that may pass at once), rx-packets and tx-packets (frames a second).
    #[arg(long, visible_alias = "net", value_name = "NETWORK", value_parser = parse_network, help_heading = "Network")]
    pub network: Option<Link>,
    /// Let a port of the host lead to one of the guest's: [[ADDRESS:][HOST]:]GUEST[/udp]; one that is free where HOST is
    /// left out
    ///
    /// HOST and GUEST can be ranges of as many ports, as in 8000-8010:8000-8010. A range for a single port of the guest gives
    /// it the first that is free.
    #[arg(short, long, value_name = "PORTS", value_parser = parse_published, help_heading = "Network")]
    pub publish: Vec<Publish>,
    /// What the processors are like: host, or x86-64-v2 or x86-64-v3 with no later instructions [default: host]
    #[arg(long, value_name = "MODEL", value_parser = str::parse::<Model>)]
    pub cpu: Option<Model>,
    /// Take the memory from the host's reserve of huge pages (sysctl vm.nr_hugepages)
    #[arg(long)]
    pub hugepages: bool,
    /// Have all of the memory before the VM starts, and not when it is touched
    #[arg(long)]
    pub prefault: bool,
    /// Wait for gdb at this socket before the VM starts: gdb -ex 'target remote SOCKET'
    #[arg(long, value_name = "SOCKET")]
    pub gdb: Option<PathBuf>,
    /// How the guest gets at the image [default: blk]
    #[arg(long, value_enum, value_name = "HOW")]
    pub layers: Option<Layers>,
    /// Boot this kernel (an ELF vmlinux)
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Boot with this initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Write how the VM ended and what it did to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Before the VM starts, write its device tree to a file: dtc -I dtb -O dts FILE shows it
    #[arg(long, value_name = "FILE")]
    pub dump_fdt: Option<PathBuf>,
    /// When the VM has ended, print what it was traced for: exits, the times it left the guest, by cause
    #[arg(long, value_name = "WHAT", value_parser = ["exits"])]
    pub trace: Option<String>,
    /// Let its processes talk to programs of the host through vsock, by sockets in this directory
    ///
    /// A program of the host connects to DIR/vsock, writes "CONNECT PORT" and a newline, reads "OK …" and a newline, and talks
    /// to that port of the guest. A process of the guest that connects to port PORT of the host (context id 2) reaches the
    /// program that listens at DIR/vsock_PORT; where root runs the VM, that socket must be writable for others, whom the
    /// directory keeps out. DIR is made where it is missing, and is for this VM alone.
    #[arg(long, value_name = "DIR", help_heading = "Network")]
    pub vsock: Option<PathBuf>,
    /// Where root runs it: the users of whom each VM becomes one of its own [default: 1900000000-1900065535]
    #[arg(long, value_name = "FIRST-LAST", value_parser = UserRange::parse)]
    pub uid_range: Option<UserRange>,
    /// Leave the VM's process unlocked, to debug ferry itself: a guest that breaks out of its VM is then in this account
    #[arg(long)]
    pub no_sandbox: bool,
    /// Add words to the kernel's command line
    #[arg(long, value_name = "WORDS")]
    pub cmdline: Option<String>,
}

/// What pods need of the options.
impl RunArgs {
    /// Whether it is left running.
    pub(super) fn detaches(&self) -> bool {
        self.detach
    }
    /// What is wanted of cores.
    pub(super) fn cores(&self) -> Result<Option<Cores>, Failure> {
        self.cores.cores()
    }
    /// The machine.
    pub(super) fn machine(&self) -> &MachineArgs {
        &self.machine
    }
    /// Whether nothing stays of its containers.
    pub(super) fn removes(&self) -> bool {
        self.rm
    }
    /// When registries are asked.
    pub(super) fn when_to_pull(&self) -> When {
        self.pull
    }
    /// What is kept of logs.
    pub(super) fn log_options(&self) -> &[LogOption] {
        &self.log_opt
    }
}

#[cfg(test)]
impl RunArgs {
    pub(super) fn words(&self) -> &[String] {
        &self.words
    }
    pub(super) fn container(&self) -> &ContainerArgs {
        &self.container
    }
    pub(super) fn sig_proxy(&self) -> bool {
        self.sig_proxy
    }
}

impl ContainerArgs {
    /// What they say of the container that runs `command`, and may leave these cores.
    pub fn options(&self, command: Vec<String>, cores: Option<&Cores>) -> Result<Options, Failure> {
        if self.read_only && cores.is_some() {
            return Err(Failure::early(
                "--core-dir: cores are first written in the container, so it cannot be with --read-only",
            ));
        }
        let environment = environment(&self.env_file, &self.env)?;
        let writable = match (self.read_only, self.overlay) {
            (true, _) => Writable::Nothing,
            (false, Some(Overlay::Tmpfs)) => Writable::Tmpfs,
            (false, Some(Overlay::Disk(_)) | None) => Writable::Disk,
        };
        Ok(Options {
            command,
            entrypoint: Entrypoint::from_option(self.entrypoint.as_deref()),
            environment,
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            hostname: self.hostname.clone(),
            terminal: self.tty,
            window: None,
            writable,
            privileged: self.privileged,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            vsock: false,
            volumes: self.volume.clone(),
            core_limit: cores.map(|cores| cores.limit),
            ..Options::default()
        })
    }
}

impl MachineArgs {
    /// The machine they ask for; `overlay` says how large its scratch disk is.
    pub fn shape(&self, overlay: Option<Overlay>, defaults: Shape) -> Shape {
        Shape {
            vcpus: self.cpus.unwrap_or(defaults.vcpus),
            memory_mib: self.memory.unwrap_or(defaults.memory_mib),
            most_memory_mib: self.memory_max.or(defaults.most_memory_mib),
            scratch_bytes: match overlay {
                Some(Overlay::Disk(Some(bytes))) => bytes,
                _ => defaults.scratch_bytes,
            },
            layers: self.layers.unwrap_or(defaults.layers),
            network: Wanted {
                link: self.network.clone().unwrap_or(defaults.network.link),
                published: self.publish.clone(),
            },
            cmdline_extra: self.cmdline.clone().unwrap_or_default(),
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            serial: defaults.serial,
            sandboxed: !self.no_sandbox,
            users: self.uid_range.or(defaults.users),
            vsock: self.vsock.clone(),
            cpu: self.cpu.unwrap_or(defaults.cpu),
            backing: Backing { huge_pages: self.hugepages, prefault: self.prefault },
            memory_limit: self.memory_limit,
            gdb: self.gdb.clone(),
            tell: Tell {
                report: self.report.clone(),
                exits: self.trace.is_some(),
                device_tree: self.dump_fdt.clone(),
            },
        }
    }
}

/// The variables that files and options set, in that order.
pub(super) fn environment(files: &[PathBuf], options: &[String]) -> Result<Vec<String>, Failure> {
    let host = |name: &std::ffi::OsStr| std::env::var_os(name);
    let mut variables = Vec::new();
    for path in files {
        let at =
            |error: &dyn std::fmt::Display| Failure::early(format!("--env-file {}: {error}", path.display()));
        let text = read_text(path).map_err(|error| at(&error))?;
        variables.extend(environment::from_file(&text, &host).map_err(|error| at(&error))?);
    }
    for option in options {
        let variable = environment::from_option(option, &host);
        variables.push(variable.map_err(|error| Failure::early(error.to_string()))?);
    }
    Ok(variables)
}

/// A small text file; more than a MiB of variables is a mistake.
pub(super) fn read_text(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(MIB + 1).read_to_string(&mut text)?;
    if read as u64 > MIB {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "more than 1 MiB"));
    }
    Ok(text)
}

/// Brings the image that `reference` names into the store; what [`Request`] wants to have of it.
pub fn prepare(
    store: &Store,
    name: &str,
    reference: &Reference,
    access: &Access<'_>,
    progress: &dyn Progress,
) -> Result<Ready, Failure> {
    let fault = |error: source::Error| Failure::early(error.to_string());
    let image = source::resolve(store, reference, access, progress).map_err(fault)?;
    let disk = image.disk(store).map_err(fault)?;
    Ok(Ready { name: name.to_owned(), image, segments: disk.segments })
}

/// `ferry run`.
pub(super) fn run(global: &Global, mut args: RunArgs) -> Result<u8, Fault> {
    let settings = Settings::load().map_err(Fault::new)?;
    if let Some(file) = args.pod.take() {
        return super::pod::run(global, &settings, &args, &file);
    }
    args.container.overlay = args.container.overlay.or(settings.overlay);
    // A monitor has nowhere to show what the kernel prints; `ferry logs --kernel` does.
    let serial = if global.verbosity() > 1 && !args.detach { Serial::Stderr } else { Serial::Quiet };
    let defaults = Shape { serial, ..settings.shape() };
    let shape = args.machine.shape(args.container.overlay, defaults);
    let cores = args.cores.cores()?;
    let options = args.container.options(args.words.split_off(1), cores.as_ref())?;
    let options = args.details.complete(options)?;
    run::check(&options, &shape, args.container.interactive && !args.detach)?;
    OwnVmm.check().map_err(Fault::new)?;
    let wanted = Wanting { options, shape, cores };
    let capacity = settings.log_capacity(&args.log_opt);
    if args.detach {
        let mode = Mode::Detached(capacity);
        return in_monitor(|milestone| fetch_and_run(global, &settings, args, wanted, mode, milestone));
    }
    // Signals that are not passed on end the VM, which then is better this process's own.
    if args.container.interactive && args.container.tty && args.sig_proxy {
        let (mode, keys) = (Mode::Attached(capacity), settings.detach_keys(args.detach_keys.as_ref()));
        return in_front(keys, |milestone| fetch_and_run(global, &settings, args, wanted, mode, milestone));
    }
    stand_by();
    fetch_and_run(global, &settings, args, wanted, Mode::Foreground, &|_, _| {})
}

/// What a run needs of this host.
pub(super) fn host<'a>(
    containers: &'a Containers,
    interrupts: &'a Interrupts,
    progress: &'a Show,
    milestone: Milestones<'a>,
) -> Host<'a> {
    Host { containers, launch: &OwnVmm, interrupts, progress, milestone }
}

/// What the options have been found to ask for.
struct Wanting {
    options: Options,
    shape: Shape,
    cores: Option<Cores>,
}

fn fetch_and_run(
    global: &Global,
    settings: &Settings,
    args: RunArgs,
    Wanting { options, mut shape, cores }: Wanting,
    mode: Mode,
    milestone: Milestones<'_>,
) -> Result<u8, Fault> {
    let forwarding = if args.sig_proxy { Forwarding::ToContainer } else { Forwarding::Never };
    let interrupts = Interrupts::install(forwarding)
        .map_err(|error| Fault::new(format_args!("signals cannot be received: {error}")))?;
    let progress = Show::new();
    let name = args.words.into_iter().next().unwrap_or_default();
    let reference = Reference::parse(&name, Grammar::Registry).map_err(Fault::new)?;
    if reference == Reference::Stdin && args.container.interactive {
        return Err(Fault::new(
            "standard input cannot be both the image and what -i gives the command: save the image to a file",
        ));
    }
    let registries = pull::registries(settings);
    let access = Access { registries: &registries, pull: args.pull.into(), keep: Keep::Converted };
    let id_file = args.cidfile.map(CidFile::create).transpose()?;
    let milestone = |at, records: &[Record]| {
        if let (Milestone::Made, Some(file)) = (at, &id_file) {
            file.write(records);
        }
        milestone(at, records);
    };
    let image = prepare(&global.store()?, &name, &reference, &access, &progress)?;
    progress.end();
    if args.publish_all {
        for exposed in &image.image.config.exposed_ports {
            publish_exposed(&mut shape.network.published, exposed).map_err(|error| {
                let shown = crate::agent::printable(exposed);
                Fault::new(format_args!("-P: the image exposes '{shown}', {error}: publish its ports by -p"))
            })?;
        }
    }
    let request = Request {
        image,
        options,
        shape,
        name: args.name,
        interactive: args.container.interactive,
        afterwards: if args.rm { Afterwards::ThrowAway } else { Afterwards::Keep },
        mode,
        restart: args.restart.unwrap_or_default(),
        stop: Stop { signal: args.stop_signal, seconds: args.stop_timeout },
        cores,
    };
    let containers = Global::containers()?;
    Ok(run::run(&request, &host(&containers, &interrupts, &progress, &milestone))?)
}
