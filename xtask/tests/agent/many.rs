//! Many processes, one after the other and at once, and nothing of them that stays.

use std::thread;
use std::time::Duration;

use ferry_vmm::agent::Client;

use crate::guest::*;
use crate::road::size;

/// What there is of each thing in the guest.
#[derive(Debug, PartialEq, Eq)]
pub struct Inventory {
    descriptors: u64,
    processes: u64,
    zombies: u64,
    mounts: u64,
    cgroups: u64,
}

/// A container that sees all of the guest's processes, PID 1 among them.
pub fn watcher(client: &Client) -> String {
    let mut spec = container(&fresh("watcher"), &["sleep", "1000"], |spec| {
        let linux = spec.linux.as_mut().expect("a part about Linux");
        linux.namespaces.retain(|namespace| namespace.r#type != "pid" && namespace.r#type != "cgroup");
        linux.masked_paths.clear();
        linux.readonly_paths.clear();
    });
    let process = spec.oci.process.as_mut().expect("a process");
    let every = ferry_vmm::runtime::capabilities::capabilities(true, &[], &[]).expect("capabilities");
    let sets = process.capabilities.as_mut().expect("sets");
    (sets.bounding, sets.effective, sets.permitted) = (every.clone(), every.clone(), every);
    running_as(client, &spec)
}

fn numbers(client: &Client, watcher: &str, script: &str) -> Vec<u64> {
    let (status, text) = output(client, watcher, &["sh", "-c", script]);
    assert_eq!(status, 0, "{text}");
    text.split_whitespace().map(|word| word.parse().expect("a number")).collect()
}

fn inventory(client: &Client, watcher: &str) -> Inventory {
    // The shell looks by itself, so that what it starts does not count; kernel threads, which come and go, have no exe.
    let script = "set -- /proc/1/fd/*; echo $#; \
                  n=0; for p in /proc/[0-9]*; do if [ -e $p/exe ]; then n=$((n+1)); fi; done; echo $n; \
                  n=0; for p in /proc/[0-9]*; do read -r line 2>/dev/null < $p/stat || continue; \
                  case $line in *') Z '*) n=$((n+1));; esac; done; echo $n; \
                  n=0; while read -r line; do n=$((n+1)); done < /proc/1/mountinfo; echo $n; \
                  find /sys/fs/cgroup -type d | wc -l";
    let [descriptors, processes, zombies, mounts, cgroups] = numbers(client, watcher, script)[..] else {
        panic!("five numbers")
    };
    Inventory { descriptors, processes, zombies, mounts, cgroups }
}

/// The inventory when nothing changes any more: what has ended is put away a moment later.
pub fn settled(client: &Client, watcher: &str) -> Inventory {
    let mut before = inventory(client, watcher);
    for _ in 0..20 {
        let now = inventory(client, watcher);
        if now == before {
            return now;
        }
        before = now;
    }
    before
}

/// Fails unless the guest comes to hold what it held before.
#[track_caller]
pub fn comes_back_to(before: &Inventory, client: &Client, watcher: &str) {
    let mut now = inventory(client, watcher);
    for _ in 0..20 {
        if now == *before {
            return;
        }
        thread::sleep(Duration::from_millis(100));
        now = inventory(client, watcher);
    }
    panic!("the guest held {before:?} and holds {now:?}");
}

/// Resident memory of PID 1, in KiB.
fn resident(client: &Client, watcher: &str) -> u64 {
    numbers(client, watcher, "grep VmRSS /proc/1/status | tr -dc 0-9")[0]
}

#[test]
fn execs_in_a_row_leave_nothing() {
    let mut guest = guest();
    let client = guest.client();
    let (watcher, id) = (watcher(&client), running(&client, "row", &["sleep", "1000"]));
    // What is made once, at first use, is no leak.
    for _ in 0..3 {
        output(&client, &id, &["true"]);
    }
    let (before, memory) = (settled(&client, &watcher), resident(&client, &watcher));
    for number in 0..size(50, 1000) {
        let text = number.to_string();
        assert_eq!(output(&client, &id, &["echo", &text]), (0, format!("{text}\n")));
    }
    comes_back_to(&before, &client, &watcher);
    let now = resident(&client, &watcher);
    assert!(now <= memory + 64, "PID 1 has grown from {memory} KiB to {now} KiB");
    client.remove_container(&id, LONG).unwrap();
    client.remove_container(&watcher, LONG).unwrap();
}

#[test]
fn execs_at_once_leave_nothing() {
    let mut guest = guest();
    let client = guest.client();
    let (watcher, id) = (watcher(&client), running(&client, "crowd", &["sleep", "1000"]));
    output(&client, &id, &["true"]);
    let before = settled(&client, &watcher);
    thread::scope(|scope| {
        for number in 0..size(20, 100) {
            let (client, id) = (&client, &id);
            scope.spawn(move || {
                let script = format!("echo {number}; exit {}", number % 100);
                assert_eq!(output(client, id, &["sh", "-c", &script]), (number % 100, format!("{number}\n")));
            });
        }
    });
    comes_back_to(&before, &client, &watcher);
    client.remove_container(&id, LONG).unwrap();
    client.remove_container(&watcher, LONG).unwrap();
}

#[test]
fn containers_in_a_row_leave_nothing() {
    let mut guest = guest();
    let client = guest.client();
    let watcher = watcher(&client);
    let round = || {
        let id = running(&client, "round", &["sleep", "1000"]);
        let orphans = ["sh", "-c", "sleep 1000 & sleep 1000 & exit 0"];
        assert_eq!(exec_status(&client, &id, &orphans), 0);
        client.remove_container(&id, LONG).unwrap();
    };
    round();
    let before = settled(&client, &watcher);
    (0..size(10, 100)).for_each(|_| round());
    comes_back_to(&before, &client, &watcher);
    client.remove_container(&watcher, LONG).unwrap();
}

/// The status of a process whose streams others still hold open.
fn exec_status(client: &Client, id: &str, command: &[&str]) -> i32 {
    let exec = exec(client, id, command);
    client.wait_process(id, &exec).expect("it ends")
}
