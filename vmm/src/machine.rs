//! What the guest sees: memory, vCPUs, interrupt controllers, the device tree, and how it is entered and left.
//!
//! A [`Machine`] is made from a [`Config`] and runs once. It knows nothing of containers or images: it boots a kernel
//! with an initrd, disks and a vsock, and tells how that ended.

pub mod boot_params;
mod build;
pub mod cmdline;
mod cpuid;
mod devices;
pub mod dump;
mod ending;
mod entry;
mod explain;
pub mod fdt;
#[cfg(feature = "gdb")]
pub mod gdb;
#[cfg_attr(not(feature = "gdb"), allow(dead_code, reason = "half of it is for debuggers"))]
mod hold;
mod hotplug;
pub mod kernel;
pub mod layout;
mod mapped;
pub mod memory;
pub mod metrics;
mod probe;
mod supported;
mod vcpu;

pub use crate::devices::serial::Output;
pub use crate::devices::virtio::console::PortConfig;
pub use cpuid::Model;
pub use probe::{Kvm, ProbeError, probe};
pub use supported::usual_place;

use crate::backends::disk::{Disk, Segment, Worker};
use crate::backends::net::Port;
use crate::backends::net::rate::Rates;
use crate::devices::reactor::Reactor;
use crate::devices::serial::Tail;
use crate::devices::virtio::console::Size;
use crate::devices::virtio::fs;
use crate::devices::virtio::mem::Wish;
use crate::devices::virtio::net::OnLost;
use crate::devices::virtio::transport::Counts;
use crate::devices::virtio::{Memory, Transport};
use crate::payload::Embedded;
use crate::sandbox::{Lock, Role, SandboxError};
use ending::Ending;
use hold::Hold;
use kvm_bindings::{kvm_cpuid_entry2, kvm_regs, kvm_sregs};
use kvm_ioctls::VmFd;
use metrics::{Exits, Metrics};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use thiserror::Error;
use vcpu::{Buses, Vcpu, VcpuThread};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes the guest is started with: its kernel or its initrd.
#[derive(Clone, Debug)]
pub enum Image {
    /// A file, mapped or read when the machine is made.
    File(PathBuf),
    /// Part of this binary, mapped copy-on-write.
    Embedded(Embedded),
    /// Bytes in memory, copied.
    Bytes(Arc<[u8]>),
}

/// A machine to be made.
pub struct Config {
    /// Number of vCPUs, 1 to 64.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// The most guest memory in MiB: what is not there from the start can be plugged, and unplugged again, while the guest
    /// runs ([`Handle::set_memory`]). As much as `memory_mib` or less is for none of that.
    pub most_memory_mib: u64,
    /// The kernel: an x86-64 ELF `vmlinux`.
    pub kernel: Image,
    /// The initrd, if any.
    pub initrd: Option<Image>,
    /// Words appended to the kernel's command line.
    pub cmdline_extra: String,
    /// Disks, in the order in which the guest finds them.
    pub disks: Vec<DiskConfig>,
    /// Files that the guest finds in its address space, each list as a virtio-pmem device.
    pub mapped: Vec<Vec<Segment>>,
    /// Network cards, in the order in which the guest finds them.
    pub networks: Vec<NetworkConfig>,
    /// Shared directories, in the order in which the guest finds them.
    pub shares: Vec<ShareConfig>,
    /// The vsock device, if any.
    pub vsock: Option<VsockConfig>,
    /// Where the serial port's output goes: kernel panics, and everything if `console=ttyS0` is not quiet.
    pub serial: Output,
    /// Whether there is a balloon, through which the guest gives memory back that it does not use.
    pub balloon: bool,
    /// A virtio console, if any: its ports.
    pub console: Vec<PortConfig>,
    /// Whether the machine's threads lock themselves in before the guest's first instruction.
    pub sandbox: Sandbox,
    /// What the guest's processors are like.
    pub cpu: Model,
    /// Where guest memory comes from.
    pub backing: Backing,
    /// A directory of this user's own, made where missing, in which the next machine finds what this one has asked KVM
    /// ([`usual_place`]).
    pub kept: Option<PathBuf>,
    /// Where a debugger is awaited before the guest's first instruction, if one is.
    #[cfg(feature = "gdb")]
    pub gdb: Option<gdb::Socket>,
}

/// Where guest memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize, serde::Deserialize))]
pub struct Backing {
    /// From the host's reserve of huge pages of 2 MiB.
    pub huge_pages: bool,
    /// All of it at once, before the guest starts, and not when it is touched.
    pub prefault: bool,
}

impl Config {
    /// A machine of default size (1 vCPU, 512 MiB) with a kernel and nothing else.
    pub fn new(kernel: Image) -> Self {
        Self {
            vcpus: 1,
            memory_mib: 512,
            most_memory_mib: 0,
            kernel,
            initrd: None,
            cmdline_extra: String::new(),
            disks: Vec::new(),
            mapped: Vec::new(),
            networks: Vec::new(),
            shares: Vec::new(),
            vsock: None,
            serial: Output::Discard,
            balloon: false,
            console: Vec::new(),
            sandbox: Sandbox::Locked,
            cpu: Model::Host,
            backing: Backing::default(),
            kept: None,
            #[cfg(feature = "gdb")]
            gdb: None,
        }
    }
}

/// Whether threads that deal with the guest are locked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// The machine's threads are, as [`crate::sandbox`] says; not the one that calls [`Machine::run`].
    Locked,
    /// That one too, for good: for a process that does nothing else any more.
    WholeProcess,
    /// They are not. For debugging only.
    Open,
}

/// A virtio-blk disk.
pub struct DiskConfig {
    /// What the guest reads as the disk's serial number: at most 20 bytes of ASCII.
    pub serial: String,
    /// The storage behind it.
    pub backend: Box<dyn Disk>,
}

/// A virtio-net card.
pub struct NetworkConfig {
    /// Its address.
    pub mac: [u8; 6],
    /// The MTU that the guest is told: 68 to 65520.
    pub mtu: u16,
    /// What its pairs of queues, 1 to 8, stand on.
    pub ports: Vec<Box<dyn Port>>,
    /// How fast frames may pass.
    pub rates: Rates,
    /// Called on the devices' thread when the link ends while the guest runs.
    pub on_lost: OnLost,
}

/// A virtio-fs device.
pub struct ShareConfig {
    /// What the guest mounts it by: at most 36 bytes.
    pub tag: String,
    /// The process that serves it, at the other end.
    pub helper: UnixStream,
    /// Called on the device's thread when that process ends while the guest runs.
    pub on_lost: fs::OnLost,
}

/// The virtio-vsock device.
#[derive(Clone, Debug)]
pub struct VsockConfig {
    /// The guest's context id, at least 3.
    pub cid: u64,
    /// The Unix socket the device listens on. A client connects, writes `CONNECT <port>\n`, reads `OK <port>\n`, and
    /// is then connected to that port of the guest. A guest that connects to port N of CID 2 reaches the listener on
    /// `<socket>_<N>`.
    pub socket: PathBuf,
}

/// How a machine's run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest asked for a reset: the regular end.
    Reset,
    /// The guest kernel panicked; with the last lines of its serial output.
    GuestPanic(String),
    /// A vCPU shut down: an exception that could not be delivered.
    TripleFault {
        /// Where, and with which registers.
        detail: String,
    },
    /// KVM gave up.
    InternalError {
        /// KVM's reason: `KVM_INTERNAL_ERROR_*`, or the exit reason itself where there is none.
        suberror: u32,
        /// The instruction KVM could not emulate, if that was it.
        instruction: Vec<u8>,
        /// What happened, in words, with the registers.
        detail: String,
    },
    /// [`Handle::stop`] was called.
    Killed,
}

/// Why a machine could not be made or could not go on.
#[derive(Debug, Error)]
pub enum Error {
    /// KVM cannot be used.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// KVM refused a step.
    #[error("KVM refused to {what}: {source}")]
    Kvm {
        /// The step.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The number of vCPUs is out of range.
    #[error("{0} vCPUs: it must be between 1 and {max}", max = layout::MAX_VCPUS)]
    Vcpus(u8),
    /// There are more virtio devices than interrupt lines for them.
    #[error(
        "no interrupt line is left for the {device}: a machine has lines for {max} devices, and this one would have {count}",
        max = layout::MAX_VIRTIO_DEVICES
    )]
    Devices {
        /// The first device without a line.
        device: String,
        /// How many devices there would be.
        count: usize,
    },
    /// The host's processor is not what the guest's is to be.
    #[error(transparent)]
    Cpu(#[from] cpuid::Lacking),
    /// Memory that the machine cannot have.
    #[error("{mib} MiB of memory: this machine can have from {least} to {most} MiB")]
    Resize {
        /// What was asked for.
        mib: u64,
        /// What it was started with.
        least: u64,
        /// What it can have.
        most: u64,
    },
    /// Guest memory could not be made or filled.
    #[error(transparent)]
    Memory(#[from] memory::MemoryError),
    /// The kernel could not be loaded.
    #[error(transparent)]
    Kernel(#[from] kernel::KernelError),
    /// The boot parameters could not be written.
    #[error(transparent)]
    BootParams(#[from] boot_params::BootParamsError),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What it said.
        source: io::Error,
    },
    /// A thread could not be locked in.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A mistake in this program.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl Error {
    /// Wraps KVM's refusal of a step.
    fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self + Copy {
        move |error| Self::Kvm { what, source: error.into() }
    }

    /// Wraps the system's refusal of a step.
    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what: what.into(), source }
    }
}

/// A machine, ready to run.
///
/// Dropping it without running releases everything.
pub struct Machine {
    // In the order in which things must go: vCPUs and VM before the memory they use.
    vcpus: Vec<Vcpu>,
    #[expect(dead_code, reason = "owned: the vCPUs run in it")]
    vm: Arc<VmFd>,
    memory: GuestMemoryMmap,
    buses: Arc<Buses>,
    /// The first is the one of the thread that waits for the end.
    reactors: Vec<Reactor>,
    workers: Vec<Worker>,
    console_size: Size,
    transports: Arc<[Arc<Transport>]>,
    left: Arc<Mutex<Left>>,
    exits: Arc<[Arc<Exits>]>,
    ending: Arc<Ending>,
    hold: Arc<Hold>,
    #[cfg(feature = "gdb")]
    gdb: Option<gdb::Socket>,
    tail: Tail,
    sandbox: Sandbox,
    memory_mib: RangeInclusive<u64>,
    wish: Option<Wish>,
    kvm: Kvm,
}

impl Machine {
    /// Makes a machine: memory, kernel, devices, vCPUs. Nothing runs yet.
    pub fn new(config: Config) -> Result<Self, Error> {
        build::build(config)
    }

    /// A handle with which another thread stops the machine.
    pub fn handle(&self) -> Handle {
        Handle {
            ending: self.ending.clone(),
            hold: self.hold.clone(),
            tail: self.tail.clone(),
            transports: Arc::downgrade(&self.transports),
            left: self.left.clone(),
            exits: self.exits.clone(),
            console_size: self.console_size.clone(),
            memory_mib: self.memory_mib.clone(),
            wish: self.wish.clone(),
        }
    }

    /// What the host's KVM is like.
    pub fn kvm(&self) -> Kvm {
        self.kvm
    }

    /// The flattened device tree that describes the machine to its guest.
    pub fn device_tree(&self) -> Result<Vec<u8>, Error> {
        let wrong = |_| Error::Internal("the device tree is not where it was put");
        let read = |at, bytes: &mut [u8]| self.memory.read_slice(bytes, GuestAddress(at)).map_err(wrong);
        let mut length = [0; 4];
        read(layout::SETUP_DTB + boot_params::SETUP_DATA_LENGTH, &mut length)?;
        let mut tree = vec![0; u32::from_le_bytes(length) as usize];
        read(layout::SETUP_DTB + boot_params::SETUP_DATA_CONTENTS, &mut tree)?;
        Ok(tree)
    }

    /// What a vCPU's CPUID leaves say, as KVM has taken them.
    pub fn cpuid(&self, vcpu: usize) -> Result<Vec<kvm_cpuid_entry2>, Error> {
        let vcpu = self.vcpus.get(vcpu).ok_or(Error::Internal("there is no such vCPU"))?;
        Ok(vcpu.cpuid()?.as_slice().to_vec())
    }

    /// Runs the guest until it ends or is stopped.
    pub fn run(mut self) -> Result<Exit, Error> {
        vcpu::install_kick().map_err(Error::system("install a signal handler"))?;
        #[cfg(feature = "gdb")]
        let (gdb, memory) = (self.gdb.take(), self.memory.clone());
        let Self { vcpus, buses, reactors, workers, ending, hold, tail, sandbox, .. } = &mut self;
        #[cfg(feature = "gdb")]
        let vcpu_count = vcpus.len();
        let (mut device_lock, mut vcpu_lock, mut main_lock) = (None, None, None);
        if *sandbox != Sandbox::Open {
            crate::sandbox::install_report().map_err(Error::system("install a signal handler"))?;
            // With a thread for each disk there may be none that takes this.
            if reactors.len() > 1 || !workers.is_empty() {
                device_lock = Some(Lock::new(Role::Devices)?);
            }
            vcpu_lock = Some(Lock::new(Role::Vcpu)?);
        }
        if *sandbox == Sandbox::WholeProcess {
            main_lock = Some(Lock::new(Role::Main)?);
        }
        // The vCPUs wait at the gate until every other thread is locked in.
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let mut threads = Vec::with_capacity(vcpus.len());
        let mut problem = None;
        let (main, reactors) =
            reactors.split_first().ok_or(Error::Internal("there is nothing to wait for the end with"))?;
        let ending = &*ending;
        let exit = std::thread::scope(|scope| {
            let (serving, mut started) =
                devices::serve(scope, reactors, std::mem::take(workers), device_lock, ending);
            for (number, vcpu) in vcpus.drain(..).enumerate() {
                if started.is_err() {
                    break;
                }
                let (lock, gate, buses) = (vcpu_lock.clone(), gate.clone(), buses.clone());
                match VcpuThread::spawn(number, vcpu, lock, gate, buses, ending.clone(), hold.clone()) {
                    Ok(thread) => threads.push(thread),
                    Err(error) => started = Err(Error::system("start a vCPU's thread")(error)),
                }
            }
            #[cfg(feature = "gdb")]
            if let (Some(socket), Ok(())) = (gdb, &started) {
                let (gate, locked) = (gate.clone(), *sandbox != Sandbox::Open);
                let (hold, ending) = (&*hold, &*ending);
                let thread = std::thread::Builder::new().name("gdb".into()).spawn_scoped(scope, move || {
                    let lock = if locked { Some(Lock::new(Role::Debugger)) } else { None };
                    let entered = lock.map_or(Ok(()), |lock| lock.and_then(|lock| lock.enter()));
                    drop(gate.lock());
                    // Without the debugger that was asked for the guest would wait for ever.
                    if entered.is_err() || gdb::serve(&socket, hold, &memory, vcpu_count).is_err() {
                        ending.set(Exit::Killed);
                    }
                });
                started = thread.map(drop).map_err(Error::system("start the debugger's thread"));
            }
            if let Err(error) = started {
                ending.set(Exit::Killed);
                problem = Some(error);
            }
            if let Some(Err(error)) = main_lock.map(|lock| lock.enter()) {
                ending.set(Exit::Killed);
                problem.get_or_insert(error.into());
            }
            drop(closed);
            let explain = || {
                let output = tail.text();
                explain::panic_text(&output).unwrap_or(explain::last_lines(&output)).to_owned()
            };
            let exit = ending.wait(main, explain, || threads.iter().for_each(VcpuThread::kick));
            let exit = exit.unwrap_or_else(|error| {
                problem.get_or_insert(Error::system("wait for the devices' events")(error));
                ending.set(Exit::Killed);
                Exit::Killed
            });
            main.close();
            hold.release_for_good();
            for thread in &threads {
                thread.kick();
            }
            for thread in threads.drain(..) {
                if let Err(error) = thread.join() {
                    problem.get_or_insert(error);
                }
            }
            if let Err(error) = devices::stop(reactors, serving) {
                problem.get_or_insert(error);
            }
            exit
        });
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) =
            Left { faults: faults(&self.transports), counts: counts(&self.transports) };
        if let Some(problem) = problem {
            return Err(problem);
        }
        let mut exit = exit;
        // A panic so early that the guest had not yet found the register for it.
        if exit == Exit::Reset
            && let Some(text) = explain::panic_text(&self.tail.text())
        {
            exit = Exit::GuestPanic(text.to_owned());
        }
        Ok(exit)
    }
}

/// Reaches into a running machine from any thread. It outlives the machine and keeps nothing of it: memory, disks and
/// connections are released when the run ends.
#[derive(Clone)]
pub struct Handle {
    ending: Arc<Ending>,
    hold: Arc<Hold>,
    tail: Tail,
    transports: Weak<[Arc<Transport>]>,
    left: Arc<Mutex<Left>>,
    exits: Arc<[Arc<Exits>]>,
    console_size: Size,
    memory_mib: RangeInclusive<u64>,
    wish: Option<Wish>,
}

impl Handle {
    /// Tells the guest of the size of its consoles' window, in characters.
    pub fn resize_console(&self, columns: u16, rows: u16) {
        self.console_size.set(columns, rows);
    }

    /// Asks the guest to grow or shrink to `mib` MiB of memory: at least what it was started with, at most
    /// [`Config::most_memory_mib`]. It does as far as it can, and in its own time.
    pub fn set_memory(&self, mib: u64) -> Result<(), Error> {
        let (least, most) = (*self.memory_mib.start(), *self.memory_mib.end());
        match &self.wish {
            Some(wish) if self.memory_mib.contains(&mib) => {
                wish.set((mib - least) << 20).map_err(Error::system("tell the guest of its memory"))
            }
            _ => Err(Error::Resize { mib, least, most }),
        }
    }

    /// How much memory the guest has now, in MiB.
    pub fn memory(&self) -> u64 {
        self.memory_mib.start() + self.wish.as_ref().map_or(0, |wish| wish.plugged() >> 20)
    }

    /// Ends the run: [`Machine::run`] returns [`Exit::Killed`] unless the guest ended first.
    pub fn stop(&self) {
        self.ending.set(Exit::Killed);
    }

    /// Takes every vCPU out of the guest, and returns when none is in it any more: the guest stands still until
    /// [`Handle::resume`]. False when the run is over. A machine that does not run yet starts paused.
    pub fn pause(&self) -> bool {
        self.hold.pause()
    }

    /// Lets a paused guest go on. To its clock the pause is time that has passed.
    pub fn resume(&self) {
        self.hold.resume();
    }

    /// Looks at the registers of all vCPUs and at the guest's memory while the guest stands still. Nothing when the run is
    /// over, or has not begun.
    pub fn while_held<T>(&self, look: impl FnOnce(&[(kvm_regs, kvm_sregs)], &Memory) -> T) -> Option<T> {
        self.hold.while_held(look)
    }

    /// The last part of the guest's serial output.
    pub fn serial_tail(&self) -> String {
        self.tail.text()
    }

    /// What the machine has done so far, or had done when the run ended.
    pub fn metrics(&self) -> Metrics {
        let devices = match self.transports.upgrade() {
            Some(transports) => counts(&transports),
            None => self.left.lock().unwrap_or_else(PoisonError::into_inner).counts.clone(),
        };
        Metrics::new(self.exits.iter().map(|exits| &**exits), devices)
    }

    /// What the guest's drivers did wrong, one sentence for each device that waits for a reset because of it, or did
    /// when the run ended.
    pub fn device_faults(&self) -> Vec<String> {
        match self.transports.upgrade() {
            Some(transports) => faults(&transports),
            None => self.left.lock().unwrap_or_else(PoisonError::into_inner).faults.clone(),
        }
    }
}

/// What is left of the devices when the run has ended.
#[derive(Default)]
struct Left {
    faults: Vec<String>,
    counts: Vec<Counts>,
}

fn counts(transports: &[Arc<Transport>]) -> Vec<Counts> {
    transports.iter().map(|transport| transport.counts()).collect()
}

fn faults(transports: &[Arc<Transport>]) -> Vec<String> {
    let fault = |(number, transport): (usize, &Arc<Transport>)| {
        transport.fault().map(|fault| format!("virtio device {number}: {fault}"))
    };
    transports.iter().enumerate().filter_map(fault).collect()
}
