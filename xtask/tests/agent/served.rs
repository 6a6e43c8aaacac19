//! The calls about the guest as a whole, each seen to do what it says: network, files, memory, swap, volumes, counters.

use std::thread;
use std::time::{Duration, Instant};

use ferry_init::api::agent::*;
use ferry_init::api::guest::*;
use ferry_init::api::method;
use ferry_init::api::oci::{LinuxMemory, LinuxResources};
use ferry_init::api::ttrpc::Code;
use ferry_init::api::types::{ArpNeighbor, Interface, IpAddress, IpFamily, Route};
use ferry_vmm::agent::{Client, Signal, Wait};

use crate::guest::*;

/// A privileged container with the image's tools, to look at the guest with.
fn looker(client: &Client, name: &str) -> String {
    running_as(client, &privileged(&fresh(name), &["sleep", "1000"]))
}

fn sh(client: &Client, id: &str, script: &str) -> String {
    let (status, text) = output(client, id, &["sh", "-c", script]);
    assert_eq!(status, 0, "{script}: {text}");
    text.trim().to_owned()
}

/// A neighbour on the card that stays: its address, and 02:00:00:00:00:09.
pub fn neighbor(address: IpAddress) -> AddArpNeighborsRequest {
    let neighbor = ArpNeighbor {
        to_ip_address: Some(address),
        device: "eth0".into(),
        lladdr: "02:00:00:00:00:09".into(),
        state: 0x80,
        ..Default::default()
    };
    AddArpNeighborsRequest { neighbors: Some(ArpNeighbors { arp_neighbors: vec![neighbor] }) }
}

#[test]
fn a_card_gets_its_addresses_routes_and_neighbours() {
    let mut guest = guest();
    let client = guest.client();
    let looker = looker(&client, "network");
    let address = |text: &str, mask: &str| IpAddress {
        family: IpFamily::V4.into(),
        address: text.into(),
        mask: mask.into(),
    };
    let update = |addresses: Vec<IpAddress>, mtu| {
        let interface = Interface {
            device: "eth0".into(),
            ip_addresses: addresses,
            mtu,
            hw_addr: MAC.into(),
            ..Default::default()
        };
        call::<Interface>(
            &client,
            method::UPDATE_INTERFACE,
            &UpdateInterfaceRequest { interface: Some(interface) },
        )
    };
    let made = update(vec![address("192.0.2.7", "24"), address("198.51.100.7", "32")], 1400).unwrap();
    assert_eq!((made.device.as_str(), made.mtu), ("eth0", 1400));
    let shown = sh(&client, &looker, "ip addr show eth0");
    assert!(shown.contains("192.0.2.7/24") && shown.contains("198.51.100.7/32"), "{shown}");
    assert!(shown.contains("mtu 1400") && shown.contains("UP"), "{shown}");

    let route = |dest: &str, gateway: &str| Route {
        dest: dest.into(),
        gateway: gateway.into(),
        device: "eth0".into(),
        ..Default::default()
    };
    let routes = |routes: Vec<Route>| {
        let request = UpdateRoutesRequest { routes: Some(Routes { routes }) };
        call::<Routes>(&client, method::UPDATE_ROUTES, &request)
    };
    routes(vec![route("", "192.0.2.1"), route("203.0.113.0/24", "192.0.2.2")]).unwrap();
    let listed: Routes = call(&client, method::LIST_ROUTES, &Empty {}).unwrap();
    assert!(
        listed.routes.iter().any(|route| {
            (route.dest.as_str(), route.gateway.as_str(), route.device.as_str())
                == ("203.0.113.0/24", "192.0.2.2", "eth0")
        }),
        "{listed:?}"
    );
    assert!(sh(&client, &looker, "ip route").contains("default via 192.0.2.1 dev eth0"));
    // The next list replaces this one.
    routes(vec![route("", "192.0.2.1")]).unwrap();
    assert!(!sh(&client, &looker, "ip route").contains("203.0.113"));
    // One that the kernel refuses, since no way leads to its gateway, leaves the old ones.
    let refused = routes(vec![route("203.0.113.0/24", "192.0.2.2"), route("198.18.0.0/15", "10.255.0.1")]);
    assert!(refused.is_err(), "{refused:?}");
    let left = sh(&client, &looker, "ip route");
    assert!(left.contains("default via 192.0.2.1 dev eth0") && !left.contains("203.0.113"), "{left}");

    tell(&client, method::ADD_ARP_NEIGHBORS, &neighbor(address("192.0.2.9", ""))).unwrap();
    assert!(sh(&client, &looker, "cat /proc/net/arp").contains("02:00:00:00:00:09"));

    let listed: Interfaces = call(&client, method::LIST_INTERFACES, &Empty {}).unwrap();
    let card = listed.interfaces.iter().find(|one| one.device == "eth0").expect("the card");
    assert_eq!((card.hw_addr.as_str(), card.ip_addresses.len() >= 2), (MAC, true), "{card:?}");
    // What makes no sense changes nothing.
    assert_eq!(code(&update(vec![address("300.0.0.1", "24")], 0).map(drop)), Code::InvalidArgument);
    assert!(sh(&client, &looker, "ip addr show eth0").contains("192.0.2.7/24"));
    // By its address it is found whatever its name, which becomes the one that is said; else by its name.
    let named = |device: &str, hw_addr: &str| {
        let interface = Interface { device: device.into(), hw_addr: hw_addr.into(), ..Default::default() };
        let request = UpdateInterfaceRequest { interface: Some(interface) };
        code(&call::<Interface>(&client, method::UPDATE_INTERFACE, &request).map(drop))
    };
    assert_eq!(named("net0", "02:00:00:00:00:77"), Code::InvalidArgument);
    assert_eq!(named("net0", ""), Code::InvalidArgument);
    assert_eq!(named("a name that no interface can have", ""), Code::InvalidArgument);
    assert_eq!((named("net0", MAC), named("net0", "")), (Code::Ok, Code::Ok));
    assert!(sh(&client, &looker, "ip link show net0").contains(MAC));
    client.remove_container(&looker, LONG).unwrap();
}

#[test]
fn files_are_copied_in_piece_by_piece() {
    let mut guest = guest();
    let client = guest.client();
    let id = running(&client, "files", &["sleep", "1000"]);
    let base = format!("/run/kata-containers/{id}/rootfs/made/here");
    let copy = |path: &str, mode: u32, offset: i64, size: i64, data: &[u8]| {
        tell(
            &client,
            method::COPY_FILE,
            &CopyFileRequest {
                path: format!("{base}/{path}"),
                file_size: size,
                file_mode: mode,
                dir_mode: 0o751,
                uid: 7,
                gid: 8,
                offset,
                data: data.to_vec(),
            },
        )
    };
    copy("file", 0o100_640, 0, 11, b"hello ").unwrap();
    copy("file", 0o100_640, 6, 11, b"world").unwrap();
    copy("directory", 0o040_700, 0, 0, b"").unwrap();
    copy("link", 0o120_777, 0, 4, b"file").unwrap();
    assert_eq!(sh(&client, &id, "cat /made/here/link"), "hello world");
    assert_eq!(
        sh(&client, &id, "stat -c '%a %u %g %F' /made/here/file /made/here/directory /made/here"),
        "640 7 8 regular file\n700 7 8 directory\n751 0 0 directory"
    );
    let outside = CopyFileRequest { path: "/etc/x".into(), file_mode: 0o100_600, ..Default::default() };
    assert_eq!(code(&tell(&client, method::COPY_FILE, &outside)), Code::InvalidArgument);
    assert_eq!(code(&copy("file", 0o100_600, 4, 3, b"x")), Code::InvalidArgument);
    client.remove_container(&id, LONG).unwrap();
}

#[test]
fn running_out_of_memory_is_told() {
    let mut guest = guest();
    let client = guest.client();
    // The call waits for the first such event, whatever else goes on.
    let waiting = client
        .begin::<OomEvent>(method::AGENT_SERVICE, method::GET_OOM_EVENT, &GetOomEventRequest {})
        .unwrap();
    let spec = container(&fresh("hungry"), &["sh", "-c", "sleep 1000 & wait"], |spec| {
        let memory = LinuxMemory { limit: 16 << 20, swap: 16 << 20, ..Default::default() };
        let linux = spec.linux.as_mut().expect("a part about Linux");
        linux.resources = Some(LinuxResources { memory: Some(memory), ..Default::default() });
    });
    let id = running_as(&client, &spec);
    let eater = exec(&client, &id, &["sh", "-c", "head -c 64m /dev/zero | tail -c 64m > /dev/null"]);
    assert_ne!(client.wait_process(&id, &eater).unwrap(), 0, "it had 16 MiB");
    assert_eq!(waiting.wait(Wait::AtMost(LONG)).unwrap().container_id, id);
    client.remove_container(&id, LONG).unwrap();
}

#[test]
fn swap_volumes_and_memory_file_systems_are_counted_and_grown() {
    let mut guest = guest();
    let client = guest.client();
    let looker = looker(&client, "volumes");
    let metrics: Metrics = call(&client, method::GET_METRICS, &GetMetricsRequest {}).unwrap();
    assert!(
        metrics.metrics.lines().any(|line| !line.starts_with('#') && line.split(' ').count() == 2),
        "{metrics:?}"
    );

    // The disks of the guest by their serial numbers; see `guest.rs`.
    let disk = |serial: &str| {
        sh(
            &client,
            &looker,
            &format!(
                "for d in /sys/block/*; do [ \"$(cat $d/serial 2>/dev/null)\" = {serial} ] && basename $d; done; true"
            ),
        )
    };
    let swap = AddSwapPathRequest { path: format!("/dev/{}", disk("swap")) };
    tell(&client, method::ADD_SWAP_PATH, &swap).unwrap();
    let shown = sh(&client, &looker, "cat /proc/swaps");
    assert!(shown.contains(&disk("swap")), "{shown}");
    assert_ne!(
        code(&tell(&client, method::ADD_SWAP_PATH, &AddSwapPathRequest { path: "/dev/null".into() })),
        Code::Ok
    );
    // This machine's disks are on no PCI bus.
    let by_place = tell(&client, method::ADD_SWAP, &AddSwapRequest { pci_path: vec![1] });
    assert_eq!(code(&by_place), Code::FailedPrecondition);
    assert!(by_place.unwrap_err().to_string().contains("AddSwapPath"));

    // A container with an ext4 volume half as large as its disk, and a tmpfs.
    let id = fresh("volume");
    let place = |name: &str| format!("/run/kata-containers/{id}/{name}");
    let mut spec = container(&id, &["sleep", "1000"], |_| {});
    let storage = |driver: &str, source: &str, fstype: &str, at: &str, options: &[&str]| Storage {
        driver: driver.into(),
        source: source.into(),
        fstype: fstype.into(),
        mount_point: place(at),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Default::default()
    };
    spec.storages.push(storage("mmioblk", "serial=volume", "ext4", "volume", &[]));
    spec.storages.push(storage("ephemeral", "tmpfs", "tmpfs", "memory", &["size=1m"]));
    running_as(&client, &spec);
    let stats = |at: &str| -> VolumeStatsResponse {
        call(&client, method::GET_VOLUME_STATS, &VolumeStatsRequest { volume_guest_path: place(at) }).unwrap()
    };
    let bytes = |stats: VolumeStatsResponse| {
        let usage = stats.usage.into_iter().find(|usage| usage.unit == VolumeUnit::Bytes as i32);
        usage.expect("bytes").total
    };
    assert_eq!(bytes(stats("memory")), 1 << 20);
    let larger = storage("ephemeral", "tmpfs", "tmpfs", "memory", &["size=3m"]);
    tell(&client, method::UPDATE_EPHEMERAL_MOUNTS, &UpdateEphemeralMountsRequest { storages: vec![larger] })
        .unwrap();
    assert_eq!(bytes(stats("memory")), 3 << 20);
    let before = bytes(stats("volume"));
    // To a size, and then to all that its disk has.
    for (size, least) in [(VOLUME / 4 * 3, before * 4 / 3), (0, before * 9 / 5)] {
        let resize = ResizeVolumeRequest { volume_guest_path: place("volume"), size };
        tell(&client, method::RESIZE_VOLUME, &resize).unwrap();
        let after = bytes(stats("volume"));
        assert!(after > least, "{size}: {before}, {after}");
    }
    let beyond = ResizeVolumeRequest { volume_guest_path: place("volume"), size: 2 * VOLUME };
    assert_eq!(code(&tell(&client, method::RESIZE_VOLUME, &beyond)), Code::Internal);
    let wrong = ResizeVolumeRequest { volume_guest_path: place("memory"), size: 0 };
    assert_eq!(code(&tell(&client, method::RESIZE_VOLUME, &wrong)), Code::Unimplemented);
    client.remove_container(&id, LONG).unwrap();
    client.remove_container(&looker, LONG).unwrap();
}

#[test]
fn processors_and_memory_come_up() {
    let mut guest = guest();
    let client = guest.client();
    let looker = looker(&client, "processors");
    let online = || sh(&client, &looker, "grep -c ^processor /proc/cpuinfo");
    assert_eq!(online(), "2");
    sh(&client, &looker, "echo 0 > /sys/devices/system/cpu/cpu1/online");
    assert_eq!(online(), "1");
    let request = OnlineCpuMemRequest { wait: true, nb_cpus: 1, cpu_only: false };
    tell(&client, method::ONLINE_CPU_MEM, &request).unwrap();
    assert_eq!(online(), "2");
    // This kernel finds memory by itself.
    let details: GuestDetailsResponse = call(
        &client,
        method::GET_GUEST_DETAILS,
        &GuestDetailsRequest { mem_block_size: true, mem_hotplug_probe: true },
    )
    .unwrap();
    let probed = tell(&client, method::MEM_HOTPLUG_BY_PROBE, &MemHotplugByProbeRequest::default());
    assert_eq!(code(&probed) == Code::Ok, details.support_mem_hotplug_probe);
    assert!(details.mem_block_size_bytes.is_power_of_two());
    client.remove_container(&looker, LONG).unwrap();
}

#[test]
fn what_a_container_has_said_last_is_read() {
    let mut guest = guest();
    let client = guest.client();
    let last = |id: &str, kind: &str| {
        let request = GetDiagnosticDataRequest { log_type: kind.into(), container_id: id.into() };
        call::<GetDiagnosticDataResponse>(&client, method::GET_DIAGNOSTIC_DATA, &request)
            .map(|answer| answer.data)
    };
    // At the usual place, while it runs.
    let script = "printf 'bad: \\377' > /dev/termination-log; sleep 1000";
    let id = running(&client, "last", &["sh", "-c", script]);
    let until = Instant::now() + LONG;
    let mut text = last(&id, "termination_log");
    while text.as_ref().map_or(true, String::is_empty) && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
        text = last(&id, "termination_log");
    }
    assert_eq!(text.unwrap(), "bad: \u{fffd}");
    assert_eq!(code(&last(&id, "weather").map(drop)), Code::InvalidArgument);
    assert_ne!(code(&last("nobody", "termination_log").map(drop)), Code::Ok);
    client.remove_container(&id, LONG).unwrap();
    // Where the annotation says, in a file of the guest's, when it has ended.
    let id = fresh("last");
    let path = format!("/run/kata-containers/{id}-message");
    let file = CopyFileRequest { path: path.clone(), file_mode: 0o100_666, ..Default::default() };
    client.copy_file(&file).unwrap();
    let spec = container(&id, &["sh", "-c", "echo out of paper > /said; exit 1"], |spec| {
        let key = "io.kubernetes.container.terminationMessagePath".to_owned();
        spec.annotations.insert(key, "/said".to_owned());
        spec.mounts.push(ferry_init::api::oci::Mount {
            destination: "/said".into(),
            source: path,
            r#type: "bind".into(),
            options: vec!["bind".into()],
        });
    });
    running_as(&client, &spec);
    assert_eq!(client.wait_process(&id, &id).unwrap(), 1);
    assert_eq!(last(&id, "termination_log").unwrap(), "out of paper\n");
    client.remove_container(&id, LONG).unwrap();
}

#[test]
fn a_frozen_container_does_nothing_until_it_is_thawed() {
    let mut guest = guest();
    let client = guest.client();
    let id = running(&client, "frozen", &["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /count; done"]);
    let count = || {
        let found = client.read_file(&id, b"/count", 0, 20).unwrap_or_default();
        String::from_utf8_lossy(&found).trim().parse::<u64>().unwrap_or(0)
    };
    let comes_beyond = |least: u64| {
        let until = Instant::now() + LONG;
        while count() <= least {
            assert!(Instant::now() < until, "it stands still at {least}");
            thread::sleep(Duration::from_millis(20));
        }
    };
    // Also one that has hardly begun, and one that is frozen for a moment only.
    for pause in [0, 0, 300] {
        client.pause_container(&id, LONG).unwrap();
        thread::sleep(Duration::from_millis(pause));
        let frozen = count();
        thread::sleep(Duration::from_millis(pause));
        assert_eq!(count(), frozen);
        client.resume_container(&id, LONG).unwrap();
        comes_beyond(frozen);
    }
    client.signal_process(&id, &id, Signal::KILL, Wait::AtMost(LONG)).unwrap();
    client.remove_container(&id, LONG).unwrap();
}
