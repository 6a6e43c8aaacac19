//! The debugger's socket with a real gdb and guests of a few instructions. Where KVM cannot be used, or gdb is not there, the
//! tests say so and pass.
#![cfg(feature = "gdb")]

mod guest;

use ferry_vmm::machine::gdb::Socket;
use ferry_vmm::machine::{Config, Exit, Image, Machine, probe};
use guest::{CODE, SCRIPT, Script};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Where a gdb is, and that KVM can be used.
fn gdb() -> Option<PathBuf> {
    if let Err(error) = probe() {
        println!("skipped: {error}");
        return None;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join("gdb")).find(|gdb| gdb.exists());
    if found.is_none() {
        println!("skipped: there is no gdb");
    }
    found
}

/// Runs a guest with gdb beside it, which gets these commands after it has connected; how the guest ended, and what gdb said.
fn debug(kernel: Image, vcpus: u8, commands: &[&str]) -> Option<(Exit, String)> {
    let gdb = gdb()?;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gdb");
    let socket = Socket::bind(&path).unwrap();
    let config = Config { vcpus, memory_mib: 16, gdb: Some(socket), ..Config::new(kernel) };
    let machine = Machine::new(config).unwrap();
    let handle = machine.handle();
    let ended = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        let talk = scope.spawn(|| {
            let said = session(&gdb, &path, commands);
            // A guest that a failed session leaves behind would run for ever.
            let until = Instant::now() + Duration::from_secs(30);
            while !ended.load(Ordering::Relaxed) {
                if Instant::now() > until {
                    handle.stop();
                    panic!("the guest does not end: {said}");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            said
        });
        let exit = machine.run().unwrap();
        ended.store(true, Ordering::Relaxed);
        (exit, talk.join().unwrap())
    });
    println!("{}", said.1);
    Some(said)
}

fn session(gdb: &Path, socket: &Path, commands: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.arg("120").arg(gdb).args(["-nx", "-batch", "-ex", "set architecture i386:x86-64"]);
    command.arg("-ex").arg(format!("target remote {}", socket.display()));
    for words in commands {
        command.args(["-ex", words]);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The address of the instruction that a script's `number`th operation of [`Script::run`] executes.
fn instruction(number: u64) -> u64 {
    SCRIPT + number * 24 + 8
}

#[test]
fn stops_at_breakpoints_of_both_kinds_and_shows_registers_and_memory() {
    let script = Script::default()
        .write64(0x18_0000, 0x1122_3344_5566_7788)
        .run(&[0xb8, 0x2a, 0, 0, 0])
        .run(&[0x90, 0x90])
        .out(0x3f8, b'x')
        .reset();
    let (hardware, software) = (instruction(1), instruction(2));
    let commands = [
        "info registers rip".to_owned(),
        format!("hbreak *{hardware:#x}"),
        "continue".into(),
        "x/gx 0x180000".into(),
        "stepi".into(),
        "print $rax".into(),
        format!("break *{software:#x}"),
        "continue".into(),
        "print/x $rip".into(),
        "stepi".into(),
        "stepi".into(),
        "print/x $rip".into(),
        "set var *(char *)0x180001 = 0x55".into(),
        "x/4bx 0x180000".into(),
        "set var $rbx = 0x77".into(),
        "print/x $rbx".into(),
        "info threads".into(),
        "x/2bx 0xdddd000000000000".into(),
        "detach".into(),
    ];
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let Some((exit, said)) = debug(script.kernel(), 1, &commands) else { return };
    assert!(said.contains(&format!("{CODE:#x}")), "it waits at its first instruction");
    assert!(said.contains("0x180000:\t0x1122334455667788"));
    assert!(said.contains("$1 = 42"));
    assert!(said.contains(&format!("$2 = {software:#x}")));
    assert!(said.contains(&format!("$3 = {:#x}", software + 2)));
    assert!(said.contains("0x88\t0x55\t0x66\t0x55"));
    assert!(said.contains("$4 = 0x77"));
    assert!(said.contains("vCPU 0"));
    assert!(said.contains("Cannot access memory at address 0xdddd000000000000"));
    assert_eq!(exit, Exit::Reset, "it has gone on without gdb");
}

#[test]
fn stops_where_watched_memory_is_written() {
    let script = Script::default().write64(0x18_0000, 7).write64(0x18_0008, 1).write64(0x18_0000, 9).reset();
    let commands = ["watch *(long *)0x180000", "continue", "continue", "continue"];
    let Some((exit, said)) = debug(script.kernel(), 1, &commands) else { return };
    assert!(said.contains("New value = 7") && said.contains("New value = 9"), "{said}");
    assert_eq!(exit, Exit::Reset);
}

#[test]
fn sees_each_vcpu_as_a_thread_and_interrupts_a_guest_that_runs() {
    let commands = ["info threads", "thread 2", "print/x $cs", "thread 1", "stepi 3", "kill"];
    let Some((exit, said)) = debug(Script::default().spin().kernel(), 3, &commands) else { return };
    for vcpu in 0..3 {
        assert!(said.contains(&format!("vCPU {vcpu}")), "{said}");
    }
    assert_eq!(exit, Exit::Killed);
}

#[test]
fn shows_a_guest_that_is_about_to_end_of_a_triple_fault() {
    // mov cr3, rax with nothing mapped there.
    let script = Script::default().run(&[0x31, 0xc0, 0x0f, 0x22, 0xd8]).spin();
    let commands = ["continue", "print/x $cr3", "print/x $rax", "continue"];
    let Some((exit, said)) = debug(script.kernel(), 1, &commands) else { return };
    assert!(said.contains("SIGSEGV"), "{said}");
    assert!(said.contains("= 0x0"), "{said}");
    assert!(matches!(exit, Exit::TripleFault { .. }), "{exit:?}");
}
