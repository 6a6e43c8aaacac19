//! Namespaces of containers: their own, and those of others, as they are from inside.

use ferry_init::api::oci::{LinuxIdMapping, Spec};
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::Client;

use crate::guest::*;
use crate::oci::{annotate, linux, mount, prints, refused};

/// Which namespace of a kind (as /proc/PID/ns calls it) a container's processes are in.
fn namespace(client: &Client, id: &str, kind: &str) -> String {
    output(client, id, &["readlink", &format!("/proc/self/ns/{kind}")]).1
}

#[test]
fn namespaces_are_its_own_or_another_container_s() {
    let mut guest = guest();
    let client = guest.client();
    let first = running(&client, "shares", &["sleep", "1000"]);
    let kinds = ["ipc", "uts", "pid"];
    let link = |id: &str, kind: &str| namespace(&client, id, kind);
    let joining = running_as(
        &client,
        &container(&fresh("joins"), &["sleep", "1000"], |spec| joins(spec, &kinds, &first)),
    );
    for kind in ["ipc", "uts", "pid", "mnt", "cgroup", "net"] {
        let same = link(&first, kind) == link(&joining, kind);
        assert_eq!(same, kinds.contains(&kind) || kind == "net", "{kind}");
    }
    for id in [&joining, &first] {
        client.remove_container(id, LONG).unwrap();
    }
    let gone = |spec: &mut Spec| linux(spec).namespaces[0].path = "container:nobody".to_owned();
    assert_eq!(refused(&client, gone).0, Code::FailedPrecondition);
    let nothing = |spec: &mut Spec| linux(spec).namespaces[0].path = "/no/such/namespace".to_owned();
    assert!(refused(&client, nothing).1.contains("/no/such/namespace"));
    assert_eq!(refused(&client, |spec| add_namespace(spec, "soul", "")).0, Code::InvalidArgument);
}

/// Mounts are one thing that two containers may have in common: what either mounts, both see.
#[test]
fn mounts_are_another_container_s() {
    let mut guest = guest();
    let client = guest.client();
    let first = running(&client, "mounts", &["sleep", "1000"]);
    let table = |id: &str| output(&client, id, &["cat", "/proc/mounts"]).1;
    let before = table(&first);
    let script = "echo here > /tmp/said; echo said; exec sleep 1000";
    let change = |spec: &mut Spec| {
        joins(spec, &["mount", "pid"], &first);
        // Its own root and mounts would be in the other's way.
        spec.mounts.push(mount("/tmp/own", "tmpfs", "tmpfs", &[]));
        linux(spec).sysctl.insert("kernel.domainname".to_owned(), "joined".to_owned());
    };
    let joining = running_as(&client, &container(&fresh("joins"), &["sh", "-ec", script], change));
    let link = |id: &str, kind: &str| namespace(&client, id, kind);
    reads(&client, &joining, "said\n");
    assert_eq!(output(&client, &first, &["cat", "/tmp/said"]).1, "here\n");
    assert_eq!(link(&first, "mnt"), link(&joining, "mnt"));
    assert_ne!(link(&first, "uts"), link(&joining, "uts"));
    assert_eq!((table(&first), table(&joining)), (before.clone(), before));
    assert_eq!(output(&client, &joining, &["cat", "/proc/sys/kernel/domainname"]).1, "joined\n");
    client.remove_container(&joining, LONG).unwrap();
    assert_eq!(output(&client, &first, &["cat", "/tmp/said"]).1, "here\n");
    client.remove_container(&first, LONG).unwrap();
}

/// Gives a container a user namespace of its own; its files are mapped.
fn with_users(spec: &mut Spec) {
    // Only who has a network namespace of its own may mount sysfs there, and the root's files are not its own.
    spec.mounts
        .retain(|mount| !mount.destination.starts_with("/sys") && !mount.destination.starts_with("/etc"));
    add_namespace(spec, "user", "");
    let linux = linux(spec);
    let ids = || vec![LinuxIdMapping { host_id: 100_000, container_id: 0, size: 65_536 }];
    (linux.uid_mappings, linux.gid_mappings) = (ids(), ids());
}

/// What a container with mapped users sees of them, and that its stdio is its own.
const USERS: &str =
    "cat /proc/self/uid_map /proc/self/gid_map; id -u; echo > /dev/null && echo written > /dev/stdout";
const MAPPED: [&str; 8] = ["0", "100000", "65536", "0", "100000", "65536", "0", "written"];

#[test]
fn users_are_mapped() {
    let mut guest = guest();
    let client = guest.client();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&prints(&client, USERS, with_users)), MAPPED);
    let as_init = |spec: &mut Spec| {
        with_users(spec);
        spec.annotations.insert("io.ferry.pid1".to_owned(), "true".to_owned());
    };
    assert_eq!(words(&prints(&client, USERS, as_init)), MAPPED);
    assert_eq!(refused(&client, |spec| add_namespace(spec, "user", "")).0, Code::InvalidArgument);
}

#[test]
fn users_are_another_container_s() {
    let mut guest = guest();
    let client = guest.client();
    let first = running_as(&client, &container(&fresh("users"), &["sleep", "1000"], with_users));
    let link = |id: &str, kind: &str| namespace(&client, id, kind);
    // Alone, with all that its owner owns, and with clocks of its own.
    for (kinds, clock) in
        [(&["user"][..], 0), (&["user", "pid", "ipc", "uts"], 0), (&["user", "mount", "pid"], 7_000_000)]
    {
        for is_init in [false, true] {
            let change = |spec: &mut Spec| {
                with_users(spec);
                (linux(spec).uid_mappings, linux(spec).gid_mappings) = Default::default();
                joins(spec, kinds, &first);
                spec.annotations.insert("io.ferry.pid1".to_owned(), is_init.to_string());
                if clock > 0 {
                    add_namespace(spec, "time", "");
                    annotate(spec, "linux.timeOffsets.boottime", &format!("secs={clock}"));
                }
            };
            let script = "echo up > /dev/stdout; exec sleep 1000";
            let joining = running_as(&client, &container(&fresh("joins"), &["sh", "-ec", script], change));
            reads(&client, &joining, "up\n");
            let (_, uptime) = output(&client, &joining, &["cut", "-d.", "-f1", "/proc/uptime"]);
            assert!(uptime.trim().parse::<u64>().expect("seconds") >= clock, "{uptime}");
            let (status, text) = output(&client, &joining, &["sh", "-ec", USERS]);
            assert_eq!((status, text.split_whitespace().collect::<Vec<_>>()), (0, MAPPED.to_vec()));
            for kind in ["user", "pid", "ipc", "uts", "mnt"] {
                let shared = kinds.contains(&kind) || kind == "mnt" && kinds.contains(&"mount");
                assert_eq!(link(&first, kind) == link(&joining, kind), shared, "{kinds:?}: {kind}");
            }
            client.remove_container(&joining, LONG).unwrap();
        }
    }
    client.remove_container(&first, LONG).unwrap();
    let gone = |spec: &mut Spec| add_namespace(spec, "user", "/proc/999999/ns/user");
    assert!(refused(&client, gone).1.contains("/proc/999999/uid_map"));
    let elsewhere = |spec: &mut Spec| add_namespace(spec, "user", "/run/users");
    assert_eq!(refused(&client, elsewhere).0, Code::InvalidArgument);
}

#[test]
fn clocks_of_a_time_namespace_are_ahead() {
    let mut guest = guest();
    let client = guest.client();
    let time = |spec: &mut Spec| {
        add_namespace(spec, "time", "");
        annotate(spec, "linux.timeOffsets.boottime", "secs=1000000");
        annotate(spec, "linux.timeOffsets.monotonic", "secs=5,nanosecs=6");
    };
    let script = "cut -d. -f1 /proc/uptime; sleep 1000";
    let id = running_as(&client, &container(&fresh("time"), &["sh", "-c", script], time));
    // A process that comes later has them too, and the guest itself has not.
    let uptime = |id: &str| -> u64 {
        let (_, text) = output(&client, id, &["cut", "-d.", "-f1", "/proc/uptime"]);
        text.trim().parse().expect("seconds")
    };
    assert!((1_000_000..1_100_000).contains(&uptime(&id)));
    let other = running(&client, "time", &["sleep", "1000"]);
    assert!(uptime(&other) < 100_000);
    for id in [&id, &other] {
        client.remove_container(id, LONG).unwrap();
    }
    let no_namespace = |spec: &mut Spec| annotate(spec, "linux.timeOffsets.boottime", "secs=1");
    assert_eq!(refused(&client, no_namespace).0, Code::InvalidArgument);
}
