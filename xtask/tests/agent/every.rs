//! Every call that PID 1 has, made once on the wire with something to do, and answered: a call that is new in its own list of
//! names, and is not made here, fails this test. What the calls bring about in detail is for the other tests.

use std::collections::BTreeSet;

use ferry_init::api::agent::*;
use ferry_init::api::ferry::*;
use ferry_init::api::guest::*;
use ferry_init::api::health::{CheckRequest, HealthCheckResponse, VersionCheckResponse};
use ferry_init::api::method::{self, AGENT_SERVICE, FERRY_SERVICE, HEALTH_SERVICE};
use ferry_init::api::oci::{LinuxMemory, LinuxPids, LinuxResources};
use ferry_init::api::protobuf::Message;
use ferry_init::api::stats::StatsContainerResponse;
use ferry_init::api::ttrpc::Code;
use ferry_init::api::types::{Interface, IpAddress, IpFamily, Route};
use ferry_vmm::agent::{Client, Wait};

use crate::calls::UNSERVED;
use crate::guest::*;
use crate::served::neighbor;

/// The names of a service's calls, as PID 1 has them.
pub fn methods(service: &str) -> BTreeSet<&'static str> {
    let list = include_str!("../../../guest-init/src/api/method.rs");
    let begins = format!("methods! {{ \"{service}\":");
    let (_, of_service) = list.split_once(begins.as_str()).expect("the service");
    let (names, _) = of_service.split_once('}').expect("its end");
    // `CONSTANT = "Name",`
    names.split('"').skip(1).step_by(2).collect()
}

/// A client that notes which calls it has made.
struct Caller {
    client: Client,
    made: BTreeSet<(&'static str, &'static str)>,
}

impl Caller {
    fn call<A: Message + Default>(
        &mut self,
        service: &'static str,
        name: &'static str,
        message: &impl Message,
    ) -> A {
        self.made.insert((service, name));
        let answer = self.client.call(service, name, message, Wait::AtMost(LONG));
        answer.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn agent<A: Message + Default>(&mut self, name: &'static str, message: &impl Message) -> A {
        self.call(AGENT_SERVICE, name, message)
    }

    fn tells(&mut self, name: &'static str, message: &impl Message) {
        let Empty {} = self.agent(name, message);
    }

    fn is_refused(&mut self, name: &'static str, message: &impl Message, expected: Code) {
        self.made.insert((AGENT_SERVICE, name));
        assert_eq!(code(&tell(&self.client, name, message)), expected, "{name}");
    }
}

fn stream(container: &str, exec: &str) -> ReadStreamRequest {
    ReadStreamRequest { container_id: container.into(), exec_id: exec.into(), len: 4096 }
}

#[test]
fn every_call_does_its_work_once_and_the_last_ends_the_guest() {
    let mut guest = Guest::boot();
    let client = guest.client();
    let mut caller = Caller { client: client.clone(), made: BTreeSet::new() };

    let _: HealthCheckResponse = caller.call(HEALTH_SERVICE, method::CHECK, &CheckRequest::default());
    let version: VersionCheckResponse =
        caller.call(HEALTH_SERVICE, method::VERSION, &CheckRequest::default());
    assert_eq!(version.agent_version, env!("CARGO_PKG_VERSION"));
    caller.tells(method::CREATE_SANDBOX, &sandbox());
    about_the_guest(&mut caller);

    // Its out-of-memory event is asked for before there is one.
    let out_of_memory =
        client.begin::<OomEvent>(AGENT_SERVICE, method::GET_OOM_EVENT, &GetOomEventRequest {});
    caller.made.insert((AGENT_SERVICE, method::GET_OOM_EVENT));
    let id = fresh("every");
    let script = "read word; echo $word; echo no $word >&2; echo last > /dev/termination-log; sleep 1000";
    let mut spec = container(&id, &["sh", "-c", script], |spec| {
        let memory = LinuxMemory { limit: 16 << 20, swap: 16 << 20, ..Default::default() };
        let linux = spec.linux.as_mut().expect("a part about Linux");
        linux.resources = Some(LinuxResources { memory: Some(memory), ..Default::default() });
    });
    let place = |name: &str| format!("/run/kata-containers/{id}/{name}");
    let storage = |driver: &str, source: &str, fstype: &str, at: &str, option: Option<&str>| Storage {
        driver: driver.into(),
        source: source.into(),
        fstype: fstype.into(),
        mount_point: place(at),
        options: option.into_iter().map(str::to_owned).collect(),
        ..Default::default()
    };
    spec.storages.push(storage("mmioblk", "serial=volume", "ext4", "volume", None));
    spec.storages.push(storage("ephemeral", "tmpfs", "tmpfs", "memory", Some("size=1m")));
    caller.tells(method::CREATE_CONTAINER, &create_request(&spec));
    caller.tells(method::START_CONTAINER, &start_request(&id));
    of_a_container(&mut caller, &id);

    let volume = |name: &str| VolumeStatsRequest { volume_guest_path: place(name) };
    let larger = storage("ephemeral", "tmpfs", "tmpfs", "memory", Some("size=2m"));
    caller.tells(method::UPDATE_EPHEMERAL_MOUNTS, &UpdateEphemeralMountsRequest { storages: vec![larger] });
    let stats: VolumeStatsResponse = caller.agent(method::GET_VOLUME_STATS, &volume("memory"));
    assert!(stats.usage.iter().any(|usage| usage.total == 2 << 20), "{stats:?}");
    let before: VolumeStatsResponse = caller.agent(method::GET_VOLUME_STATS, &volume("volume"));
    caller.tells(method::RESIZE_VOLUME, &ResizeVolumeRequest { volume_guest_path: place("volume"), size: 0 });
    let after: VolumeStatsResponse = caller.agent(method::GET_VOLUME_STATS, &volume("volume"));
    assert!(after.usage[0].total > before.usage[0].total, "{before:?} {after:?}");

    let hungry = ["sh", "-c", "head -c 64m /dev/zero | tail -c 64m > /dev/null"];
    let hungry = exec(&client, &id, &hungry);
    assert_ne!(client.wait_process(&id, &hungry).unwrap(), 0, "it had 16 MiB");
    let event = out_of_memory.unwrap().wait(Wait::AtMost(LONG)).unwrap();
    assert_eq!(event.container_id, id);

    let remove = RemoveContainerRequest { container_id: id.clone(), timeout: 60 };
    caller.tells(method::REMOVE_CONTAINER, &remove);
    let resists = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"];
    let left = running(&client, "resists", &resists);
    caller.tells(method::DESTROY_SANDBOX, &DestroySandboxRequest {});
    assert!(guest.has_ended(LONG), "it resets");
    assert!(client.start_container(&left).is_err());

    let made = caller.made;
    for service in [AGENT_SERVICE, HEALTH_SERVICE, FERRY_SERVICE] {
        let made: BTreeSet<_> = made.iter().filter(|(of, _)| *of == service).map(|(_, name)| *name).collect();
        let unserved = UNSERVED.iter().filter(|_| service == AGENT_SERVICE).copied();
        assert_eq!(made, methods(service).into_iter().chain(unserved).collect::<BTreeSet<_>>(), "{service}");
    }
}

/// The calls about the guest as a whole, most of which are answered without any container.
fn about_the_guest(caller: &mut Caller) {
    let details: GuestDetailsResponse = caller.agent(
        method::GET_GUEST_DETAILS,
        &GuestDetailsRequest { mem_block_size: true, mem_hotplug_probe: true },
    );
    assert!(details.agent_details.is_some_and(|agent| agent.init_daemon));
    // This kernel finds memory by itself.
    assert!(!details.support_mem_hotplug_probe);
    let probe = MemHotplugByProbeRequest { mem_hotplug_probe_addr: vec![1 << 30] };
    caller.is_refused(method::MEM_HOTPLUG_BY_PROBE, &probe, Code::Unimplemented);
    caller.tells(method::ONLINE_CPU_MEM, &OnlineCpuMemRequest { wait: true, nb_cpus: 0, cpu_only: false });
    caller.tells(method::RESEED_RANDOM_DEV, &ReseedRandomDevRequest { data: vec![7; 32] });
    caller.tells(method::SET_GUEST_DATE_TIME, &SetGuestDateTimeRequest { sec: 2_000_000_000, usec: 1 });
    let metrics: Metrics = caller.agent(method::GET_METRICS, &GetMetricsRequest {});
    assert!(!metrics.metrics.is_empty());

    let address = |text: &str, mask: &str| IpAddress {
        family: IpFamily::V4.into(),
        address: text.into(),
        mask: mask.into(),
    };
    let interface = Interface {
        device: "eth0".into(),
        ip_addresses: vec![address("192.0.2.7", "24")],
        mtu: 1400,
        hw_addr: MAC.into(),
        ..Default::default()
    };
    let interface = UpdateInterfaceRequest { interface: Some(interface) };
    let _: Interface = caller.agent(method::UPDATE_INTERFACE, &interface);
    let route = Route { gateway: "192.0.2.1".into(), device: "eth0".into(), ..Default::default() };
    let routes = UpdateRoutesRequest { routes: Some(Routes { routes: vec![route] }) };
    let _: Routes = caller.agent(method::UPDATE_ROUTES, &routes);
    caller.tells(method::ADD_ARP_NEIGHBORS, &neighbor(address("192.0.2.9", "")));
    let listed: Interfaces = caller.agent(method::LIST_INTERFACES, &ListInterfacesRequest {});
    assert!(listed.interfaces.iter().any(|one| one.hw_addr == MAC && one.mtu == 1400), "{listed:?}");
    let listed: Routes = caller.agent(method::LIST_ROUTES, &ListRoutesRequest {});
    assert!(listed.routes.iter().any(|route| route.gateway == "192.0.2.1"), "{listed:?}");

    // Disks are on no PCI bus here; the one with swap space is found by its name.
    caller.is_refused(method::ADD_SWAP, &AddSwapRequest { pci_path: vec![1] }, Code::FailedPrecondition);
    let looker = running_as(&caller.client, &privileged(&fresh("looker"), &["sleep", "1000"]));
    let read = |caller: &mut Caller, path: &str| {
        let path = path.as_bytes().to_vec();
        let request = ReadFileRequest { container_id: looker.clone(), path, offset: 0, len: 100 };
        let ReadFileResponse { data } = caller.call(FERRY_SERVICE, method::READ_FILE, &request);
        String::from_utf8_lossy(&data).trim().to_owned()
    };
    let list = ReadDirRequest { container_id: looker.clone(), path: b"/sys/block".to_vec(), cursor: 0 };
    let disks: ReadDirResponse = caller.call(FERRY_SERVICE, method::READ_DIR, &list);
    let disks: Vec<_> = disks.names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let disks: Vec<_> = disks.into_iter().filter(|name| name.starts_with("vd")).collect();
    let disk = disks.iter().find(|disk| read(caller, &format!("/sys/block/{disk}/serial")) == "swap");
    let path = format!("/dev/{}", disk.expect("the disk with swap space"));
    let stat = StatFileRequest { container_id: looker.clone(), path: b"/dev/null".into(), follow: false };
    let found: FileInfo = caller.call(FERRY_SERVICE, method::STAT_FILE, &stat);
    assert_eq!((found.mode & 0o170_000, found.device_major, found.device_minor), (0o020_000, 1, 3));
    caller.tells(method::ADD_SWAP_PATH, &AddSwapPathRequest { path });
    assert_eq!(read(caller, "/proc/swaps").lines().count(), 2);
    caller.client.remove_container(&looker, LONG).unwrap();
    let log: KernelLogResponse = caller.call(FERRY_SERVICE, method::KERNEL_LOG, &KernelLogRequest {});
    assert!(String::from_utf8_lossy(&log.text).contains("Adding 1020k swap"));

    let nothing = Empty {};
    for name in UNSERVED {
        caller.is_refused(name, &nothing, Code::Unimplemented);
    }
}

/// The calls about a container that runs and reads a word, and about its processes.
fn of_a_container(caller: &mut Caller, id: &str) {
    let written =
        WriteStreamRequest { container_id: id.into(), exec_id: id.into(), data: b"word\n".to_vec() };
    let taken: WriteStreamResponse = caller.agent(method::WRITE_STDIN, &written);
    assert_eq!(taken.len, 5);
    caller.tells(method::CLOSE_STDIN, &CloseStdinRequest { container_id: id.into(), exec_id: id.into() });
    let said: ReadStreamResponse = caller.agent(method::READ_STDOUT, &stream(id, id));
    assert_eq!(said.data, b"word\n");
    let said: ReadStreamResponse = caller.agent(method::READ_STDERR, &stream(id, id));
    assert_eq!(said.data, b"no word\n");
    let copied = CopyFileRequest {
        path: format!("/run/kata-containers/{id}/rootfs/copied"),
        file_size: 4,
        file_mode: 0o100_644,
        data: b"data".to_vec(),
        ..Default::default()
    };
    caller.tells(method::COPY_FILE, &copied);

    let mut further = further(id, &fresh("exec"), &["sleep", "1000"]);
    further.process.as_mut().expect("a process").terminal = true;
    caller.tells(method::EXEC_PROCESS, &further);
    let exec = further.exec_id;
    let size = TtyWinResizeRequest { container_id: id.into(), exec_id: exec.clone(), row: 30, column: 90 };
    caller.tells(method::TTY_WIN_RESIZE, &size);
    let list = ListProcessesRequest { container_id: id.into() };
    let processes: ListProcessesResponse = caller.call(FERRY_SERVICE, method::LIST_PROCESSES, &list);
    assert!(processes.processes.len() >= 2, "{processes:?}");
    caller.tells(method::SIGNAL_PROCESS, &kill_request(id, &exec));
    let ended: WaitProcessResponse = caller.agent(method::WAIT_PROCESS, &wait_request(id, &exec));
    assert_eq!(ended.status, 137);

    let resources = Some(LinuxResources { pids: Some(LinuxPids { limit: 50 }), ..Default::default() });
    caller.tells(method::UPDATE_CONTAINER, &UpdateContainerRequest { container_id: id.into(), resources });
    let stats = StatsContainerRequest { container_id: id.into() };
    let stats: StatsContainerResponse = caller.agent(method::STATS_CONTAINER, &stats);
    assert_eq!(stats.cgroup_stats.and_then(|stats| stats.pids_stats).expect("tasks").limit, 50);
    caller.tells(method::PAUSE_CONTAINER, &PauseContainerRequest { container_id: id.into() });
    caller.tells(method::RESUME_CONTAINER, &ResumeContainerRequest { container_id: id.into() });
    let last = GetDiagnosticDataRequest { log_type: "termination_log".into(), container_id: id.into() };
    let last: GetDiagnosticDataResponse = caller.agent(method::GET_DIAGNOSTIC_DATA, &last);
    assert_eq!(last.data, "last\n");
}
