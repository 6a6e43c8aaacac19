//! How `ferry run` tells of a VM that ends by itself or is ended: each kind of end apart, in one line, by exit status, in the
//! report and in what `inspect` shows; and what it tells of one whose helpers end before it. Where KVM cannot be used, the
//! tests say so and pass.
#![cfg(feature = "cli")]

mod guest;
mod home;

use ferry_vmm::machine::probe;
use guest::Script;
use guest::driver::{BUFFERS, SLOT, offer, start, wait};
use home::{Home, kill, shown, until};
use std::net::TcpListener;
use std::process::Command;

fn kvm() -> bool {
    match probe() {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    }
}

/// Sends text through the serial port.
fn says(script: Script, text: &str) -> Script {
    text.bytes().fold(script, |script, byte| script.out(0x3f8, byte))
}

#[test]
fn each_kind_of_end_has_its_words_its_status_its_report_and_its_reason() {
    if !kvm() {
        return;
    }
    let panics = |text: &str| says(Script::default(), text).write(0xd010_0000, 1).reset();
    // popcnt is an instruction that a KVM which emulates ring 0 does not know; one that has ring 0 is left out.
    let emulated = probe().unwrap().emulates_ring0;
    let unknown = Script::default().run(&[0xf3, 0x0f, 0xb8, 0xc0]).reset();
    let fault = Script::default().run(&[0x31, 0xc0, 0x0f, 0x22, 0xd8]).spin();
    let panic = panics("Kernel panic - not syncing: no reason\n");
    let mut ends = vec![
        (panic, "guest-panic", "kernel panicked: Kernel panic"),
        (fault, "triple-fault", "triple fault"),
        (Script::default().reset(), "guest-reset", "reset itself"),
    ];
    if emulated {
        ends.push((unknown, "kvm-internal-error", "KVM could not go on"));
    }
    let home = Home::new();
    for (script, reason, words) in ends {
        let report = home.path(&format!("{reason}.json"));
        let output = home.run(script, &["--name", reason, "--report", &report]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{reason}: {said}");
        assert!(said.contains(words), "{reason}: {said}");
        let told = std::fs::read(&report).unwrap_or_else(|error| panic!("no report ({error}): {said}"));
        let report: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(report["reason"], reason, "{report}");
        assert!(report["metrics"]["cpu_ns_to_first_run"].as_u64().unwrap() > 0, "{report}");
        let detail = report["detail"].as_str().unwrap();
        assert_eq!(detail.is_empty(), reason == "guest-reset", "{report}");
        assert!(reason != "kvm-internal-error" || detail.contains("rip"), "{report}");
        // Its process never ran; what kept it from that is remembered all the same.
        let state = home.state(reason);
        assert_eq!((&state["Reason"], &state["ExitCode"]), (&reason.into(), &125.into()), "{state}");
        assert!(state["Error"].as_str().unwrap().contains(words), "{state}");
        assert!(home.says(&["ps", "-a"]).contains("Dead"));
        home.says(&["rm", reason]);
    }
    assert!(home.is_clean(), "something is left");
}

#[test]
fn one_that_is_removed_with_its_end_leaves_nothing_however_it_ends() {
    if !kvm() {
        return;
    }
    let home = Home::new();
    let tree = home.path("tree.dtb");
    let words = ["--rm", "--cpus", "2", "--trace", "exits", "--dump-fdt", &tree];
    let output = home.run(Script::default().reset(), &words).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    assert!(home.is_clean(), "something is left");
    // What was asked to be told of the VM stays, of course: its exits by cause, and its device tree.
    let said = String::from_utf8_lossy(&output.stderr);
    let exits =
        |vcpu: &str| said.lines().find(|line| line.starts_with(&format!("ferry: exits of vCPU {vcpu}: ")));
    assert!(exits("0").is_some_and(|causes| causes.contains("1 port writes")), "{said}");
    assert!(exits("1").is_some_and(|causes| causes.contains("0 port writes")), "{said}");
    let tree = std::fs::read(tree).unwrap();
    assert_eq!(tree[..4], 0xd00d_feed_u32.to_be_bytes());
    assert_eq!(tree[4..8], (tree.len() as u32).to_be_bytes());
    let names = |name: &[u8]| tree.windows(name.len()).any(|part| part == name);
    assert!(names(b"cpu@1\0") && !names(b"cpu@2\0") && names(b"virtio,mmio\0"));
    let nowhere = home.path("nowhere/tree.dtb");
    let output = home.run(Script::default().reset(), &["--rm", "--dump-fdt", &nowhere]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains(&format!("--dump-fdt {nowhere}: ")) && said.lines().count() == 1, "{said}");
}

#[test]
fn a_vms_process_that_is_killed_is_told_from_one_that_failed() {
    if !kvm() {
        return;
    }
    let home = Home::new();
    let running = home.run(Script::default().spin(), &["--name", "web"]).spawn().unwrap();
    let vm = until("the VM's process", || home::children(running.id(), "ferry-vm").pop());
    until("the container's VM", || home.metrics("web"));
    kill(vm);
    let output = running.wait_with_output().unwrap();
    let said = shown(&output);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("its process was killed"), "{said}");
    let state = home.state("web");
    assert_eq!((&state["Status"], &state["Reason"]), (&"dead".into(), &"vmm-killed".into()), "{state}");
}

/// It is made before anything is known of the image.
#[test]
fn a_vms_process_that_no_vm_comes_of_ends_with_its_ferry_and_says_nothing() {
    if !kvm() {
        return;
    }
    let home = Home::new();
    let missing = format!("dir:{}", home.path("missing"));
    assert!(home.refuses(&["run", &missing, "/bin/true"]).contains("missing"));
    assert!(home.refuses(&["run", "-d", &missing, "/bin/true"]).contains("missing"));
    until("the end of both", || home::processes(|words| words.contains(&missing)).is_empty().then_some(()));
}

#[test]
fn a_ferry_that_is_killed_takes_its_vm_with_it_and_leaves_a_dead_container_that_can_be_removed() {
    if !kvm() {
        return;
    }
    let home = Home::new();
    let mut running = home.run(Script::default().spin(), &["--name", "web"]).spawn().unwrap();
    let vm = until("the VM's process", || home::children(running.id(), "ferry-vm").pop());
    until("the container's VM", || home.metrics("web"));
    assert!(home.says(&["ps", "-a"]).contains("web"));
    kill(running.id());
    running.wait().unwrap();
    let dead = until("the death", || Some(home.state("web")).filter(|state| state["Status"] == "dead"));
    assert_eq!((&dead["Reason"], &dead["ExitCode"]), (&"vmm-killed".into(), &125.into()), "{dead}");
    until("the VM's end", || (!home::is_alive(vm)).then_some(()));
    assert!(!home.says(&["ps"]).contains("web") && home.says(&["ps", "-a"]).contains("Dead"));
    assert_eq!(home.says(&["wait", "web"]), "125\n");
    assert!(home.refuses(&["exec", "web", "true"]).contains("not running"));
    assert_eq!(home.says(&["stop", "web"]), "web\n");
    assert_eq!(home.says(&["rm", "web"]), "web\n");
    assert!(home.is_clean(), "something is left");
}

/// By gdb, as an attacker who has taken a thread over would do it: the thread that waits in a call makes another one instead.
#[test]
fn a_vms_process_that_does_what_its_lock_forbids_is_ended_and_told_of() {
    // SAFETY: takes nothing.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !kvm() || !is_root || Command::new("gdb").arg("--version").output().is_err() {
        return println!("skipped: this takes KVM, root's rights and gdb");
    }
    let home = Home::new();
    let running = home.run(Script::default().spin(), &["--name", "web"]).spawn().unwrap();
    let vm = until("the VM's process", || home::children(running.id(), "ferry-vm").pop());
    until("the container's VM", || home.metrics("web"));
    // socket(AF_INET, …) in the place of what the thread waits in: a call is two bytes long, and is not restarted.
    let deed = ["set $orig_rax = -1", "set $rip = $rip - 2", "set $rax = 41", "set $rdi = 2", "detach"];
    let mut gdb = Command::new("timeout");
    gdb.args(["60", "gdb", "-nx", "-batch", "-iex", "set auto-solib-add off", "-p", &vm.to_string()]);
    gdb.args(deed.iter().flat_map(|words| ["-ex", words]));
    let gdb = gdb.stdin(std::process::Stdio::null()).output().unwrap();
    let output = running.wait_with_output().unwrap();
    let said = shown(&output);
    assert_eq!(output.status.code(), Some(125), "{said}{}", shown(&gdb));
    assert!(said.contains("the sandbox stopped a thread of the machine at system call    41\n"), "{said}");
    assert!(said.contains("what its sandbox forbids"), "{said}");
    assert_eq!(home.state("web")["Reason"], "vmm-killed");
}

#[test]
fn a_live_vm_tells_what_it_does_in_both_forms() {
    if !kvm() {
        return;
    }
    let home = Home::new();
    // Its exits: one for each byte, for ever (mov dx, 0x80; out dx, al; jmp back).
    let script = Script::default().run(&[0x66, 0xba, 0x80, 0, 0xee, 0xeb, 0xfd]);
    let mut running = home.run(script, &["--name", "web"]).spawn().unwrap();
    let writes = || home.metrics("web")?["metrics"]["vcpus"][0]["port_writes"].as_u64();
    let first = until("a first exit", || writes().filter(|count| *count > 0));
    until("further exits", || writes().filter(|count| *count > first));
    let text = home.says(&["stats", "--metrics", "web"]);
    let id = home.inspect("web")["Id"].as_str().unwrap().to_owned();
    let exits =
        format!("ferry_vcpu_exits_total{{id=\"{id}\",name=\"web\",vcpu=\"0\",cause=\"port_writes\"}} ");
    let count = text.lines().find_map(|line| line.strip_prefix(&exits)).expect("the exits' counter");
    assert!(count.parse::<u64>().unwrap() > first, "{count}");
    for device in ["blk", "vsock", "rng", "balloon"] {
        let sample = format!("device=\"{device}\"}} 0");
        assert!(
            text.lines().any(|line| line.starts_with("ferry_device_kicks_total") && line.ends_with(&sample))
        );
    }
    // It has no process yet that could be asked: it is ended as it is.
    assert_eq!(home.says(&["stop", "web"]), "web\n");
    assert_eq!(running.wait().unwrap().code(), Some(125));
    assert_eq!(home.state("web")["Reason"], "vmm-killed");
}

/// A guest that asks a shared directory for something, waits until its network's link is down, and asks again. It says
/// "asked once" before it waits, and what came of both requests: an error number in four bytes, as FUSE has it.
fn user_of_helpers(card: u64, fs: u64) -> Script {
    /// Where the guest reads whether there is a link (virtio 1.2, section 5.1.4).
    const LINK: u64 = 0x106;
    const REQUESTS: u64 = 1;
    let (request, answer) = (BUFFERS + 0x1000, BUFFERS + 0x2000);
    let mut script = start(start(Script::default(), card, 2), fs, 2);
    // A buffer to receive in, without which a card's other end is not looked at.
    script = offer(script, card, 0, 1, &[(BUFFERS, 2048, true)]);
    // FUSE_INIT, version 7.31, of which the header is 40 bytes and the rest 16.
    for (offset, word) in [(0, 56), (4, 26), (8, 1), (40, 7), (44, 31)] {
        script = script.write(request + offset, word);
    }
    for number in 1..=2 {
        script = offer(script, fs, REQUESTS, number, &[(request, 56, false), (answer, 256, true)]);
        script = wait(script, fs, REQUESTS, number).read(answer + 4);
        if number == 1 {
            script = says(script, "asked once\n").wait(SLOT + card * 0x1000 + LINK, 0);
        }
    }
    says(script, "down\n").reset()
}

#[test]
fn helpers_that_die_later_are_told_of_and_their_guest_sees_errors() {
    if !kvm() {
        return;
    }
    if !ferry_vmm::runtime::network::passt_is_installed() {
        return println!("skipped: passt is not installed");
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let home = Home::new();
    let shared = format!("{}:/shared", home.path("image"));
    let published = format!("127.0.0.1:{free}:80");
    let options = ["--overlay", "tmpfs", "-v", &shared, "--network", "user", "-p", &published];
    let mut running = home.run_with(user_of_helpers(1, 2), &options, &["-vv"]).spawn().unwrap();
    let mut stderr = home::Lines::of(running.stderr.take().unwrap());
    stderr.wait_for("asked once");
    let helpers = home::children(running.id(), "ferry-share");
    assert_eq!(helpers.len(), 1);
    helpers.into_iter().for_each(kill);
    stderr.wait_for("the process that shares");
    // It has gone into the background: its own words lead to it.
    let word = format!("127.0.0.1/{free}:80");
    let passts = home::processes(|words| words.contains(&word));
    assert!(!passts.is_empty(), "no passt with {word}");
    passts.into_iter().for_each(kill);
    stderr.wait_for("passt is gone");
    stderr.wait_for("down");
    let status = until("the guest's end", || running.try_wait().unwrap());
    assert_eq!(status.code(), Some(125), "it resets itself when it has seen all of it");
    // ENOTCONN is 107.
    let lost: String = (-107i32).to_le_bytes().into_iter().map(char::from).collect();
    let told = &stderr.before;
    assert!(told.contains("\0\0\0\0asked once\n"), "{told:?}");
    assert!(told.contains(&format!("{lost}down\n")), "{told:?}");
}
