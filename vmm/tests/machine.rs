//! The machine on the host's real KVM, with guests of a few instructions. Where KVM cannot be used, the tests say so and
//! pass.

mod guest;

use ferry_vmm::machine::{Config, Exit, Image, Machine, Output, ProbeError, probe};
use guest::Script;
use std::io::{Read, Seek};
use std::time::{Duration, Instant};

/// Whether KVM is usable here; says why not.
fn kvm() -> bool {
    match probe() {
        Ok(kvm) => {
            println!("KVM {} ring 0", if kvm.emulates_ring0 { "emulates" } else { "has" });
            true
        }
        Err(error @ (ProbeError::Absent | ProbeError::Forbidden)) => {
            println!("skipped: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

fn config(kernel: Image) -> Config {
    Config { memory_mib: 16, ..Config::new(kernel) }
}

/// Runs a script and returns how it ended and what it sent through the serial port.
fn run(script: Script) -> (Exit, Vec<u8>) {
    let mut file = tempfile::tempfile().unwrap();
    let serial = Output::File(file.try_clone().unwrap());
    let machine = Machine::new(Config { serial, ..config(script.kernel()) }).unwrap();
    let exit = machine.run().unwrap();
    let mut output = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut output).unwrap();
    (exit, output)
}

#[test]
fn ends_with_the_guests_reset() {
    if !kvm() {
        return;
    }
    let (exit, output) = run(Script::default().out(0x3f8, b'h').out(0x3f8, b'i').reset());
    assert_eq!(exit, Exit::Reset);
    assert_eq!(output, b"hi");
}

#[test]
fn counts_exits_by_cause() {
    if !kvm() {
        return;
    }
    let script = Script::default().out(0x3f8, b'x').write(0xd000_0000, 1).read(0xd000_0000);
    let machine = Machine::new(config(script.reset().kernel())).unwrap();
    let handle = machine.handle();
    assert_eq!(handle.metrics().devices.len(), 1, "the source of randomness");
    assert_eq!(machine.run().unwrap(), Exit::Reset);
    let exits = [("port_reads", 0), ("port_writes", 6), ("register_reads", 1), ("register_writes", 1)];
    assert_eq!(handle.metrics().vcpus[0][..4], exits);
}

#[test]
fn a_reset_after_a_panic_report_is_a_panic() {
    if !kvm() {
        return;
    }
    let mut script = Script::default();
    for byte in b"before\nKernel panic - not syncing: why\n" {
        script = script.out(0x3f8, *byte);
    }
    let (exit, _) = run(script.write(0xd010_0000, 1).reset());
    assert_eq!(exit, Exit::GuestPanic("Kernel panic - not syncing: why\n".into()));
}

#[test]
fn an_exception_without_handlers_is_a_triple_fault() {
    if !kvm() {
        return;
    }
    // hlt is allowed in ring 0; a jump to a non-canonical address is not.
    let (exit, _) = run(Script::default().run(&[0x31, 0xc0, 0x0f, 0x22, 0xd8]).spin());
    assert!(matches!(&exit, Exit::TripleFault { detail } if detail.contains("rip")), "{exit:?}");
}

#[test]
fn completes_fwait_where_kvm_cannot() {
    if !kvm() {
        return;
    }
    let (exit, _) = run(Script::default().run(&[0x9b]).reset());
    assert_eq!(exit, Exit::Reset);
}

#[test]
fn tells_which_instruction_kvm_could_not_emulate() {
    if !kvm() {
        return;
    }
    // popcnt eax, eax: hardware runs it.
    let (exit, _) = run(Script::default().run(&[0xf3, 0x0f, 0xb8, 0xc0]).reset());
    match exit {
        Exit::Reset => assert!(!probe().unwrap().emulates_ring0),
        Exit::InternalError { suberror, instruction, .. } => {
            assert_eq!(suberror, 1);
            assert_eq!(instruction[..4], [0xf3, 0x0f, 0xb8, 0xc0]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn is_stopped_from_another_thread() {
    if !kvm() {
        return;
    }
    let machine = Machine::new(config(Script::default().spin().kernel())).unwrap();
    let handle = machine.handle();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        handle.stop();
    });
    let started = Instant::now();
    assert_eq!(machine.run().unwrap(), Exit::Killed);
    assert!(started.elapsed() < Duration::from_secs(5));
    stopper.join().unwrap();
}

#[test]
fn a_machine_stopped_before_it_runs_does_not_run() {
    if !kvm() {
        return;
    }
    let machine = Machine::new(config(Script::default().spin().kernel())).unwrap();
    machine.handle().stop();
    assert_eq!(machine.run().unwrap(), Exit::Killed);
}

#[test]
fn runs_with_memory_above_the_hole_and_several_vcpus() {
    if !kvm() {
        return;
    }
    let kernel = Script::default().out(0x3f8, b'x').reset().kernel();
    let machine = Machine::new(Config { vcpus: 16, memory_mib: 5000, ..Config::new(kernel) }).unwrap();
    assert_eq!(machine.run().unwrap(), Exit::Reset);
}

#[test]
fn refuses_what_no_machine_can_have() {
    if !kvm() {
        return;
    }
    let kernel = || Script::default().reset().kernel();
    let error = |config| Machine::new(config).err().unwrap().to_string();
    assert!(error(Config { vcpus: 0, ..config(kernel()) }).contains("between 1 and 64"));
    assert!(error(Config { vcpus: 65, ..config(kernel()) }).contains("between 1 and 64"));
    assert!(error(Config { memory_mib: 1, ..config(kernel()) }).contains("between 16 and"));
    assert!(error(config(Image::File("/nowhere/vmlinux".into()))).contains("/nowhere/vmlinux"));
    assert!(error(Config { cmdline_extra: "x".repeat(3000), ..config(kernel()) }).contains("command line"));
}
