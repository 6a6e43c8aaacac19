//! A whole run of a pod: its containers are made, a machine is started for them, they live their lives in it, and it ends
//! with the last of them.

use super::document::{Container, EmptyDir, Medium, Pod, Source};
use super::host_path::{self, HostPaths};
use super::life::{Live, One};
use super::spec::{self, Sandbox};
use crate::agent::session::{Control, Event, RunError};
use crate::agent::{self, Client, Patience, Signal};
use crate::runtime::cores::Cores;
use crate::runtime::directory;
use crate::runtime::guest::{Contents, Guest, Plan, PlannedDisk, Reason};
use crate::runtime::logs::Capacity;
use crate::runtime::monitor::{Monitor, Server};
use crate::runtime::name;
use crate::runtime::network::{self, Ports, Publish};
use crate::runtime::oci::{self, SCRATCH_SERIAL, Writable};
use crate::runtime::oom;
use crate::runtime::record::{Made, Record};
use crate::runtime::restart::Restart;
use crate::runtime::run::{self, Host, Milestone, Ready, made_of};
use crate::runtime::shape::Shape;
use crate::runtime::supervise::{Afterwards, BOOT_LIMIT, Failure, Watch, not_reached, not_run};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Request {
    /// The pod.
    pub pod: Pod,
    /// Its images.
    pub images: Vec<Ready>,
    /// For each of its containers, those that run first first, which of the images is its.
    pub image_of: Vec<usize>,
    /// The machine.
    pub shape: Shape,
    /// What stays of its containers.
    pub afterwards: Afterwards,
    /// Where what they write goes besides their logs.
    pub output: Output,
    /// How much of it is kept of each.
    pub log: Capacity,
    /// What is wanted of the cores of processes that crash, in containers that have a root to write to.
    pub cores: Option<Cores>,
}

/// Where what a pod's containers write goes besides their logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// To our own standard streams.
    Shown,
    /// Nowhere.
    Quiet,
}

/// Memory that the machine of a pod has beside what its containers' limits add up to, in MiB.
const OVERHEAD_MIB: u64 = 128;

/// The machine for a pod, where `fixed` says what was asked for by hand: at least the usual one, and as much as the limits
/// of its containers add up to. Its published ports are the pod's.
pub fn machine(pod: &Pod, mut shape: Shape, cpus_fixed: bool, memory_fixed: bool) -> Shape {
    let limits = || pod.containers.iter().map(|container| &container.resources);
    let memory: u64 = limits().filter_map(|limits| limits.memory_limit).fold(0, u64::saturating_add);
    if !memory_fixed && memory > 0 {
        shape.memory_mib = shape.memory_mib.max(memory.div_ceil(1 << 20).saturating_add(OVERHEAD_MIB));
    }
    let millis: u64 = limits().filter_map(|limits| limits.cpu_limit).fold(0, u64::saturating_add);
    if !cpus_fixed {
        let most = u64::from(crate::machine::layout::MAX_VCPUS);
        shape.vcpus = shape.vcpus.max(millis.div_ceil(1000).min(most) as u8);
    }
    shape.network.published.extend(pod.init.iter().chain(&pod.containers).flat_map(|container| {
        container.ports.iter().filter_map(|port| {
            Some(Publish {
                address: port.address.map(IpAddr::V4),
                host: Some(Ports::one(port.host?)),
                guest: Ports::one(port.container),
                protocol: port.protocol,
            })
        })
    }));
    shape
}

/// Runs a pod until the last of its containers has ended for good. The status is that of the first container, in the order
/// of the document, that has failed, or 0.
pub fn run(request: &Request, host: &Host<'_>) -> Result<u8, Failure> {
    let pod = &request.pod;
    run::check(&oci::Options::default(), &request.shape, false)?;
    if request.shape.vsock.is_some() {
        return Err(Failure::early("--vsock is for a container of its own: a pod has none"));
    }
    let fault = |error: &dyn std::fmt::Display| Failure::early(error.to_string());
    let pod_id = name::id();
    if pod.volumes.iter().any(|volume| !matches!(volume.source, Source::EmptyDir(_))) {
        host.launch.shares().map_err(|error| fault(&error))?;
    }
    let image = |number: usize| request.images.get(*request.image_of.get(number)?);
    let (host_paths, _in_use) =
        host_path::prepare(pod, &pod_id, host.containers.volumes(), image).map_err(|error| fault(&error))?;
    let network = network::plan(&request.shape.network, &pod_id, host.launch.has_network())
        .map_err(|error| fault(&error))?;
    let sockets = directory::make(&host.containers.root().join("run"))
        .map_err(|error| Failure::early(format!("no place for the run's sockets: {error}")))?;
    directory::make_for_vm(sockets.path(), None)
        .map_err(|error| Failure::early(format!("no place for the VM's sockets: {error}")))?;
    let at_exit = sockets.path().to_owned();
    host.interrupts.at_exit(Box::new(move || drop(std::fs::remove_dir_all(at_exit))));

    let ones = Maker {
        request,
        host,
        pod_id: &pod_id,
        host_paths: &host_paths,
        network: network.as_ref(),
        sockets: sockets.path(),
    }
    .all()?;
    let records: Vec<Record> = ones.iter().filter_map(|one| one.monitor.record()).collect();
    (host.milestone)(Milestone::Made, &records);
    let dns = network.as_ref().map(|plan| plan.guest().dns).unwrap_or_default();
    let sandbox = spec::sandbox(pod, &pod_id, &host_paths, pod.resolver.lines(&dns));
    let guest = launch(request, host, &host_paths, network.clone(), sockets.path(), &ones);
    let result = guest.and_then(|guest| {
        ones.iter().for_each(|one| one.monitor.shares(Arc::clone(&guest)));
        let live = reach(host, guest, &sandbox, network.as_ref());
        live.and_then(|(client, guest)| in_guest(request, host, client, guest, &ones))
    });
    host.progress.end();
    host.interrupts.keep();
    // Those that have not come to their own end yet never will.
    let gone = request.afterwards == Afterwards::ThrowAway;
    for one in &ones {
        let message = result.as_ref().err().map_or("the pod has ended", |failure| failure.message.as_str());
        let reason = result.as_ref().err().map_or(Reason::StartFailed, |failure| failure.reason);
        one.conclude(&Err(Failure { reason, ..Failure::early(message) }), gone);
    }
    result
}

/// Makes the containers of a pod.
struct Maker<'a> {
    request: &'a Request,
    host: &'a Host<'a>,
    pod_id: &'a str,
    host_paths: &'a HostPaths,
    network: Option<&'a network::Plan>,
    sockets: &'a Path,
}

impl<'a> Maker<'a> {
    fn all(&self) -> Result<Vec<One<'a>>, Failure> {
        let pod = &self.request.pod;
        let mut ones: Vec<One<'_>> = Vec::new();
        for (number, container) in pod.init.iter().chain(&pod.containers).enumerate() {
            match self.one(number, container) {
                Ok(one) => ones.push(one),
                Err(failure) => {
                    ones.iter().for_each(|one| one.conclude(&Err(Failure::early("")), true));
                    return Err(failure);
                }
            }
        }
        Ok(ones)
    }

    fn one(&self, number: usize, container: &'a Container) -> Result<One<'a>, Failure> {
        let Request { pod, images, image_of, shape, cores, .. } = self.request;
        let fault = |error: &dyn std::fmt::Display| Failure::early(error.to_string());
        let id = name::id();
        let image_number = image_of.get(number).copied().unwrap_or_default();
        let image = images.get(image_number).ok_or_else(|| Failure::early("a container has no image"))?;
        let serial = layers_serial(image_number);
        let core_limit = cores.as_ref().map(|cores| cores.limit);
        let common = spec::Common { pod, pod_id: self.pod_id, host_paths: self.host_paths, core_limit };
        let member = spec::member(&common, container, &id, &image.image.config, &serial)
            .map_err(|error| fault(&error))?;
        let is_first = number < pod.init.len();
        let restart = match pod.restart {
            // One that has done its work is not started again, whatever the pod's policy.
            Restart::Always if is_first => Restart::OnFailure(0),
            policy => policy,
        };
        let rest = Made {
            interactive: container.stdin,
            detached: true,
            network: self.network.cloned(),
            auto_remove: self.request.afterwards == Afterwards::ThrowAway,
            restart,
            stop_timeout: pod.grace_seconds,
            ..Made::default()
        };
        let made = made_of(image, &member.options, shape, &member.spec, None, rest)?;
        let socket = format!("monitor-{number}");
        let record = Record {
            runtime_directory: self.sockets.to_owned(),
            socket: socket.clone(),
            pod: pod.name.clone(),
            limits: member.limits,
            ..Record::new(&id, &format!("{}-{}", pod.name, container.name), made)
        };
        let entry = self.host.containers.create(record).map_err(|error| fault(&error))?;
        let directory = entry.directory().to_owned();
        let has_run = Arc::new(AtomicBool::new(false));
        let (at_exit, kept) = (directory.clone(), has_run.clone());
        let gone = self.request.afterwards == Afterwards::ThrowAway;
        self.host.interrupts.at_exit(Box::new(move || {
            if gone || !kept.load(Ordering::Relaxed) {
                let _ = std::fs::remove_dir_all(at_exit);
            }
        }));
        let monitor = Monitor::new(entry);
        let server = match Server::start(&monitor, &self.sockets.join(socket)) {
            Ok(server) => server,
            Err(error) => {
                monitor.over(run_failed(), true);
                return Err(Failure::early(format!("the container's socket cannot be made: {error}")));
            }
        };
        Ok(One {
            container,
            spec: member.spec,
            is_first,
            directory,
            monitor,
            has_run,
            over: AtomicBool::new(false),
            _server: server,
        })
    }
}

/// ferry's own status.
fn run_failed() -> u8 {
    Failure::early("").status
}

/// The serial number of the disk with an image's layers.
fn layers_serial(image: usize) -> String {
    format!("layers-{image}")
}

/// Starts the machine.
fn launch(
    request: &Request,
    host: &Host<'_>,
    host_paths: &HostPaths,
    network: Option<network::Plan>,
    sockets: &Path,
    ones: &[One<'_>],
) -> Result<Arc<dyn Guest>, Failure> {
    let Request { pod, images, image_of, shape, .. } = request;
    let used: BTreeSet<usize> = image_of.iter().copied().collect();
    let mut disks: Vec<PlannedDisk> = used
        .into_iter()
        .filter_map(|number| {
            let contents = Contents::Layers(images.get(number)?.segments.clone());
            Some(PlannedDisk { serial: layers_serial(number), contents })
        })
        .collect();
    let writes =
        pod.init.iter().chain(&pod.containers).any(|container| writable(container) == Writable::Disk)
            || pod.volumes.iter().any(|volume| {
                matches!(volume.source, Source::EmptyDir(EmptyDir { medium: Medium::Disk, .. }))
            });
    let mut scratch: Option<PathBuf> = None;
    if let Some(first) = ones.first().filter(|_| writes) {
        let path = first.directory.join(run::SCRATCH);
        run::scratch(&path, shape.scratch_bytes)?;
        disks.push(PlannedDisk {
            serial: SCRATCH_SERIAL.to_owned(),
            contents: Contents::Throwaway(path.clone()),
        });
        scratch = Some(path);
    }
    let shares = host_paths.values().map(|shared| shared.share.clone()).collect();
    let plan = Plan { shares, ..shape.plan(disks, network, sockets) };
    host.progress.begin(host.launch.step(), None);
    let guest = host
        .launch
        .launch(&plan)
        .map_err(|error| Failure { reason: Reason::VmmError, ..Failure::early(error.to_string()) })?;
    // It is open there, and nothing of it is wanted afterwards: so it goes with the machine, however that ends.
    if let Some(path) = scratch {
        let _ = std::fs::remove_file(path);
    }
    Ok(guest)
}

fn writable(container: &Container) -> Writable {
    if container.read_only { Writable::Nothing } else { Writable::Disk }
}

/// A guest that ends when nobody needs it any more.
struct Running(Arc<dyn Guest>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Waits for the guest's agent, and prepares what the containers share.
fn reach(
    host: &Host<'_>,
    guest: Arc<dyn Guest>,
    sandbox: &Sandbox,
    network: Option<&network::Plan>,
) -> Result<(Client, Running), Failure> {
    let running = Running(Arc::clone(&guest));
    let patience = Patience {
        since: Instant::now(),
        limit: BOOT_LIMIT,
        alive: &|| guest.wait(Duration::ZERO).is_none() && !host.interrupts.asked_to_end(),
    };
    let client =
        agent::connect(&guest.transport(), &patience).map_err(|error| not_reached(guest.as_ref(), &error))?;
    let refused = |step: &'static str| {
        let guest = Arc::clone(&guest);
        move |error| not_run(guest.as_ref(), RunError::refused(step)(error))
    };
    client.create_sandbox(&sandbox.request).map_err(refused("prepare the pod"))?;
    if let Some(network) = network {
        network.guest().configure(&client).map_err(refused("set up its network"))?;
    }
    for directory in &sandbox.directories {
        client.copy_file(directory).map_err(refused("make a volume"))?;
    }
    client.create_container(&sandbox.holder).map_err(refused("prepare what the containers share"))?;
    Ok((client, running))
}

fn in_guest(
    request: &Request,
    host: &Host<'_>,
    client: Client,
    guest: Running,
    ones: &[One<'_>],
) -> Result<u8, Failure> {
    let _watch = Watch::start(&guest.0, &client);
    oom::follow(&client, ones.iter().map(|one| Arc::clone(&one.monitor)).collect());
    let live = Live { request, client: &client, guest: guest.0.as_ref(), ones };
    let control = Control::new();
    let remote = control.remote();
    host.interrupts.forward_to(remote.clone());
    std::thread::scope(|scope| {
        let live = &live;
        scope.spawn(move || obey(live, &control));
        let started = Mutex::new(Some(|| {
            host.progress.end();
            let records: Vec<Record> =
                ones.iter().filter(|one| !one.is_first).filter_map(|one| one.monitor.record()).collect();
            (host.milestone)(Milestone::Started, &records);
        }));
        let all_started = || {
            if let Some(tell) = started.lock().unwrap_or_else(PoisonError::into_inner).take() {
                tell();
            }
        };
        let result = live.live(&all_started);
        remote.end();
        result
    })
}

/// Signals to us: those that ask for an end end the pod.
fn obey(live: &Live<'_>, control: &Control) {
    loop {
        match control.next() {
            Event::Over => return,
            Event::Signal(Signal::INT | Signal::TERM | Signal::QUIT | Signal::HUP) => {
                live.stop();
                control.answered();
            }
            Event::Signal(_) | Event::Resize(_) => control.answered(),
        }
    }
}
