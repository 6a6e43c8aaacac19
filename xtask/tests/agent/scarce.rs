//! What is scarce: processes, memory, room on disks. What fails for the lack of it is the one call that wanted it.

use std::fmt::Write as _;

use ferry_init::api::guest::CopyFileRequest;
use ferry_init::api::method;
use ferry_init::api::oci::{LinuxPids, LinuxResources};
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::session::ContainerSpec;
use ferry_vmm::agent::{CallError, Client, OutputStream, Read, Wait};

use crate::guest::*;
use crate::many::{comes_back_to, settled, watcher};
use crate::road::program;

/// A refusal whose sentence has these words in it.
#[track_caller]
fn refused(result: Result<(), CallError>, words: &str) {
    assert_ne!(code(&result), Code::Ok);
    let said = result.expect_err("it is refused").to_string();
    assert!(said.contains(words), "no {words:?} in {said:?}");
}

/// A piece of a file for a place below that of all containers.
fn piece(path: &str, size: usize, offset: usize, data: Vec<u8>) -> CopyFileRequest {
    CopyFileRequest {
        path: format!("/run/kata-containers/{path}"),
        file_size: size as i64,
        file_mode: 0o100_644,
        offset: offset as i64,
        data,
        ..Default::default()
    }
}

/// A container that takes commands for its shell from its standard input, and so needs nothing of PID 1 but that it passes
/// them on. It answers each with a line.
struct Hand<'a> {
    client: &'a Client,
    id: String,
}

impl<'a> Hand<'a> {
    fn new(client: &'a Client) -> Hand<'a> {
        let mut spec =
            privileged(&fresh("hand"), &["sh", "-c", "while read -r line; do eval \"$line\"; done"]);
        let linux = spec.oci.linux.as_mut().expect("a part about Linux");
        linux.namespaces.retain(|namespace| namespace.r#type != "pid");
        Hand { client, id: running_as(client, &spec) }
    }

    fn does(&self, command: &str) -> String {
        let line = format!("{command}; echo done\n");
        let Hand { client, id } = self;
        client.begin_write(id, id, line.into_bytes()).unwrap().wait(Wait::AtMost(LONG)).unwrap();
        let mut text = String::new();
        while !text.ends_with("done\n") {
            let read = client.begin_read(OutputStream::Stdout, id, id, 4096).unwrap();
            match read.wait(Wait::AtMost(LONG)).unwrap() {
                Read::Data(data) => text.push_str(&String::from_utf8_lossy(&data)),
                Read::End => panic!("the hand has ended: {text}"),
            }
        }
        text.trim_end_matches("done\n").trim().to_owned()
    }
}

#[test]
fn a_container_that_may_have_no_more_processes_gets_none_and_leaves_nothing() {
    let mut guest = guest();
    let client = guest.client();
    let watcher = watcher(&client);
    // The one that holds its namespaces, its own, and one more.
    let limited = container(&fresh("limited"), &["sleep", "1000"], |spec| {
        let pids = Some(LinuxPids { limit: 3 });
        let linux = spec.linux.as_mut().expect("a part about Linux");
        linux.resources = Some(LinuxResources { pids, ..Default::default() });
    });
    let id = running_as(&client, &limited);
    let full = exec(&client, &id, &["sleep", "1000"]);
    let before = settled(&client, &watcher);
    for _ in 0..10 {
        refused(client.exec_process(&further(&id, &fresh("more"), &["true"])), "fork");
        // Nor does one that would share its limit.
        let sharing = container(&fresh("sharing"), &["true"], |spec| {
            spec.linux.as_mut().expect("a part about Linux").cgroups_path = format!("/{id}");
        });
        refused(create(&client, &sharing), "fork");
    }
    comes_back_to(&before, &client, &watcher);
    tell(&client, method::SIGNAL_PROCESS, &kill_request(&id, &full)).unwrap();
    client.wait_process(&id, &full).unwrap();
    assert_eq!(output(&client, &id, &["echo", "again"]), (0, "again\n".to_owned()));
    for id in [&id, &watcher] {
        client.remove_container(id, LONG).unwrap();
    }
}

#[test]
fn a_guest_that_can_have_no_more_processes_starts_none_and_lives_on() {
    let mut guest = guest();
    let client = guest.client();
    let (hand, id) = (Hand::new(&client), running(&client, "calm", &["sleep", "1000"]));
    let limit = hand.does("cat /proc/sys/kernel/threads-max");
    // The least that the kernel takes, and less than there are.
    hand.does("echo 20 > /proc/sys/kernel/threads-max");
    for _ in 0..3 {
        refused(client.exec_process(&further(&id, &fresh("more"), &["true"])), "fork");
        refused(create(&client, &container(&fresh("more"), &["true"], |_| {})), "fork");
        refused(client.read_file(&id, b"/etc/hosts", 0, 10).map(drop), "fork");
        client.check(Wait::AtMost(LONG)).unwrap();
    }
    hand.does(&format!("echo {limit} > /proc/sys/kernel/threads-max"));
    assert_eq!(output(&client, &id, &["echo", "again"]), (0, "again\n".to_owned()));
    for id in [&id, &hand.id] {
        client.remove_container(id, LONG).unwrap();
    }
}

#[test]
fn memory_that_pid_1_does_not_get_fails_the_call_that_wanted_it() {
    let mut guest = guest();
    let client = guest.client();
    let (hand, id) = (Hand::new(&client), running(&client, "calm", &["sleep", "1000"]));
    let program = std::fs::read(program::limits()).expect("the program");
    for (number, data) in program.chunks(1 << 20).enumerate() {
        let path = format!("{}/rootfs/limits", hand.id);
        let piece = piece(&path, program.len(), number << 20, data.to_vec());
        client.copy_file(&CopyFileRequest { file_mode: 0o100_755, ..piece }).expect("it is copied");
    }
    // A message of three megabytes before, and one where there is room for one.
    let large = || client.copy_file(&piece("large", 3 << 20, 0, vec![7; 3 << 20]));
    large().unwrap();
    let said = hand.does("/limits 1 address-space 1024");
    assert_eq!(said, "limited");
    for _ in 0..3 {
        refused(large(), "no memory");
        client.check(Wait::AtMost(LONG)).unwrap();
        assert!(!client.list_processes(&id).expect("an answer").processes.is_empty());
    }
    assert_eq!(hand.does("/limits 1 address-space unlimited"), "limited");
    large().unwrap();
    client.copy_file(&piece("large", 0, 0, Vec::new())).unwrap();
    for id in [&id, &hand.id] {
        client.remove_container(id, LONG).unwrap();
    }
}

/// A container that writes to a file system of its own: a small one in memory, or the disk `volume`.
fn on(kind: &str) -> ContainerSpec {
    let mut spec = container(&fresh("full"), &["sleep", "1000"], |_| {});
    let scratch = spec.storages.iter_mut().find(|storage| storage.fstype == "tmpfs").expect("its scratch");
    match kind {
        "memory" => scratch.options.push("size=2m".into()),
        _ => {
            scratch.driver = "mmioblk".into();
            scratch.source = "serial=volume".into();
            scratch.fstype = "ext4".into();
            scratch.options.clear();
        }
    }
    spec
}

#[test]
fn a_full_disk_fails_what_would_write_to_it() {
    let mut guest = guest();
    let client = guest.client();
    for kind in ["memory", "disk"] {
        let spec = on(kind);
        let id = running_as(&client, &spec);
        let fill = "cat /dev/zero > /full 2>/dev/null; i=0; while echo x > /f$i; do i=$((i+1)); done 2>/dev/null; rm -f /f0; true";
        assert_eq!(output(&client, &id, &["sh", "-c", fill]).0, 0);
        let copied = || client.copy_file(&piece(&format!("{id}/rootfs/new"), 65_536, 0, vec![1; 65_536]));
        for _ in 0..3 {
            refused(copied(), "No space left");
        }
        assert_eq!(output(&client, &id, &["echo", "runs"]), (0, "runs\n".to_owned()));
        // Another one that would write there.
        let mut second = container(&fresh("second"), &["true"], |_| {});
        second.storages.retain(|storage| storage.fstype != "tmpfs");
        let root = second.storages.last_mut().expect("its root");
        let above = format!("/run/kata-containers/{id}/scratch/deep/down");
        root.options.retain(|option| option.starts_with("lowerdir="));
        root.options.extend([format!("upperdir={above}/upper"), format!("workdir={above}/work")]);
        if kind == "disk" {
            refused(create(&client, &second), "No space left");
        }
        assert_eq!(output(&client, &id, &["rm", "/full"]).0, 0);
        copied().unwrap();
        client.remove_container(&id, LONG).unwrap();
    }
}

#[test]
fn a_guest_whose_own_root_is_full_makes_no_containers_and_lives_on() {
    const PIECE: usize = 2 << 20;
    let mut guest = guest();
    let client = guest.client();
    let id = running(&client, "calm", &["sleep", "1000"]);
    let mut filled = String::new();
    // Half of its memory, which has 256 MiB.
    let refused_at = (0..128).find(|number| {
        let copied = client.copy_file(&piece(&format!("fill/{number}"), PIECE, 0, vec![1; PIECE]));
        if let Err(error) = &copied {
            let _ = write!(filled, "{error}");
        }
        copied.is_err()
    });
    let refused_at = refused_at.expect("it is full before all of its memory is");
    assert!(filled.contains("No space left"), "{filled}");
    let small =
        |number: usize| client.copy_file(&piece(&format!("fill/small-{number}"), 4096, 0, vec![1; 4096]));
    let last =
        (0..PIECE / 4096 + 1).find(|number| small(*number).is_err()).expect("it is full to the last page");
    // Its files for names and addresses have no room.
    refused(create(&client, &container(&fresh("more"), &["true"], |_| {})), "No space left");
    assert_eq!(output(&client, &id, &["echo", "runs"]), (0, "runs\n".to_owned()));
    let names = (0..=refused_at)
        .map(|number| number.to_string())
        .chain((0..last).map(|number| format!("small-{number}")));
    for name in names {
        client.copy_file(&piece(&format!("fill/{name}"), 0, 0, Vec::new())).unwrap();
    }
    let again = running(&client, "again", &["sleep", "1000"]);
    for id in [&id, &again] {
        client.remove_container(id, LONG).unwrap();
    }
}
