//! Guests on ferry's own VMM, in this process: one thread runs the machine, which has a thread for each vCPU.

use super::guest::{Contents, End, Guest, Launch, LaunchError, Plan, PlannedDisk, Reason, Serial};
use super::network;
use crate::agent::Transport;
use crate::backends::disk::{Access, Composite, Disk, OpenError, Raw, Segment};
use crate::machine::{self, Config, DiskConfig, Exit, Handle, Image, Machine, Output, VsockConfig};
use crate::payload;
use ferry_init::api::VSOCK_PORT;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The guest's context id on its vsock.
const GUEST_CID: u64 = 3;

/// Starts guests on KVM in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnVmm;

impl Launch for OwnVmm {
    fn check(&self) -> Result<(), LaunchError> {
        let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        // The machine measures what it opens when it is made; here only a refusal is of interest, in its words.
        match opened.map_err(|_| machine::probe()) {
            Err(Err(error)) => Err(LaunchError(error.to_string())),
            Ok(_) | Err(Ok(_)) => Ok(()),
        }
    }

    fn step(&self) -> &'static str {
        match machine::probe() {
            Ok(kvm) if kvm.emulates_ring0 => "starting the guest (this KVM interprets its kernel: minutes)",
            _ => "starting the guest",
        }
    }

    fn has_network(&self) -> bool {
        true
    }

    fn launch(&self, plan: &Plan) -> Result<Arc<dyn Guest>, LaunchError> {
        let socket = socket_in(&plan.directory);
        // A container that is started again finds the socket of its guest before.
        let _ = std::fs::remove_file(&socket);
        let config = config(plan, socket.clone())?;
        let machine = Machine::new(config).map_err(|error| LaunchError(error.to_string()))?;
        let handle = machine.handle();
        let end = Arc::new((Mutex::new(None), Condvar::new()));
        let for_thread = Arc::clone(&end);
        std::thread::Builder::new()
            .name("machine".into())
            .spawn(move || {
                let end = ending(machine.run());
                let (slot, changed) = &*for_thread;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
                changed.notify_all();
            })
            .map_err(|error| LaunchError(format!("cannot start the machine's thread: {error}")))?;
        Ok(Arc::new(Running { handle, socket, end }))
    }
}

/// The socket of the guest's vsock, in the directory of its run.
fn socket_in(directory: &Path) -> PathBuf {
    directory.join("vsock")
}

/// The way to the agent of a guest that some process runs with this directory.
pub fn transport_in(directory: &Path) -> Transport {
    Transport::Vsock { socket: socket_in(directory), port: VSOCK_PORT }
}

/// What a guest without a kernel is told.
const NO_PAYLOAD: &str = "this ferry was built without a guest kernel: name one with --kernel and --initrd, or with \
                          FERRY_KERNEL and FERRY_INITRD in the environment";

fn config(plan: &Plan, socket: PathBuf) -> Result<Config, LaunchError> {
    let kernel = plan.kernel.clone().map(Image::File).or_else(payload::kernel);
    let initrd = plan.initrd.clone().map(Image::File).or_else(payload::initrd);
    let (Some(kernel), Some(initrd)) = (kernel, initrd) else {
        return Err(LaunchError(NO_PAYLOAD.to_owned()));
    };
    let mut config = Config::new(kernel);
    config.initrd = Some(initrd);
    config.vcpus = plan.vcpus;
    config.memory_mib = plan.memory_mib;
    config.cmdline_extra = plan.cmdline_extra.clone();
    config.disks = plan
        .disks
        .iter()
        .map(|disk| Ok(DiskConfig { serial: disk.serial.clone(), backend: backend(disk)? }))
        .collect::<Result<_, OpenError>>()
        .map_err(|error| LaunchError(error.to_string()))?;
    if let Some(plan) = &plan.network {
        config.networks.push(network::open(plan).map_err(|error| LaunchError(error.to_string()))?);
    }
    config.vsock = Some(VsockConfig { cid: GUEST_CID, socket });
    config.serial = match plan.serial {
        Serial::Quiet => Output::Discard,
        Serial::Stderr => Output::Stderr,
    };
    Ok(config)
}

fn backend(disk: &PlannedDisk) -> Result<Box<dyn Disk>, OpenError> {
    match &disk.contents {
        Contents::Layers(files) => {
            let segments: Vec<Segment> =
                files.iter().map(|file| Segment { path: file.path.clone(), bytes: file.bytes }).collect();
            Ok(Box::new(Composite::open(&segments)?))
        }
        Contents::Scratch(path) => Ok(Box::new(Raw::open(path, Access::ReadWrite)?)),
    }
}

struct Running {
    handle: Handle,
    socket: PathBuf,
    end: Arc<(Mutex<Option<End>>, Condvar)>,
}

impl Guest for Running {
    fn transport(&self) -> Transport {
        Transport::Vsock { socket: self.socket.clone(), port: VSOCK_PORT }
    }

    fn wait(&self, at_most: Duration) -> Option<End> {
        let until = Instant::now() + at_most;
        let (slot, changed) = &*self.end;
        let mut end = slot.lock().unwrap_or_else(PoisonError::into_inner);
        while end.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            end = changed.wait_timeout(end, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        end.clone()
    }

    fn stop(&self) {
        self.handle.stop();
    }

    fn serial_tail(&self) -> String {
        self.handle.serial_tail()
    }
}

fn ending(result: Result<Exit, machine::Error>) -> End {
    let (reason, detail) = match result {
        Ok(Exit::Reset) => (Reason::Reset, String::new()),
        Ok(Exit::GuestPanic(text)) => (Reason::GuestPanic, text),
        Ok(Exit::TripleFault { detail }) => (Reason::TripleFault, detail),
        Ok(Exit::InternalError { detail, .. }) => (Reason::KvmInternalError, detail),
        Ok(Exit::Killed) => (Reason::VmmKilled, String::new()),
        Err(error) => (Reason::VmmError, error.to_string()),
    };
    End { reason, detail }
}
