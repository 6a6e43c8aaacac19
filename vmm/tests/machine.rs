//! The machine on the host's real KVM, with guests of a few instructions. Where KVM cannot be used, the tests say so and
//! pass.

mod guest;

use ferry_vmm::backends::disk::{Access, Raw};
use ferry_vmm::machine::{
    Backing, Config, DiskConfig, Exit, Image, Machine, Model, Output, ProbeError, layout, probe,
};
use guest::Script;
use std::io::{Read, Seek};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

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
    assert!(handle.metrics().first_run > 0);
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
fn runs_with_memory_on_both_sides_of_the_hole_and_as_many_vcpus_as_there_can_be() {
    if !kvm() {
        return;
    }
    /// The tables at entry: of level 3, where each entry is a GiB, and a free page for one of level 2.
    const LEVEL_3: u64 = layout::PAGE_TABLES + layout::PAGE;
    const LEVEL_2: u64 = 0x20_0000;
    // 64 GiB end at 65, with the hole of one GiB: the last eight bytes before the hole, and the very last.
    let (below, last) = (layout::HOLE_START - 8, (65 << 30) - 8);
    let script = Script::default()
        .write64(LEVEL_3 + 64 * 8, LEVEL_2 | 3)
        .write64(LEVEL_2 + 511 * 8, ((65 << 30) - (2 << 20)) | 0x83)
        .write64(below, 0x6c6f_7765_6c6f_7765)
        .write64(last, 0x6869_6768_6869_6768)
        .read(below)
        .read(last);
    let mut file = tempfile::tempfile().unwrap();
    let serial = Output::File(file.try_clone().unwrap());
    let kernel = script.reset().kernel();
    let config = Config { vcpus: 64, memory_mib: 64 << 10, serial, ..Config::new(kernel) };
    assert_eq!(Machine::new(config).unwrap().run().unwrap(), Exit::Reset);
    let mut output = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut output).unwrap();
    assert_eq!(output, "ewolhgih");
}

/// What has to do with time in the guest needs these (Intel SDM volume 2, CPUID; Linux's Documentation/virt/kvm/x86/cpuid.rst).
#[test]
fn every_vcpu_has_kvms_clock_and_a_timer_with_deadlines() {
    if !kvm() {
        return;
    }
    let machine = Machine::new(Config { vcpus: 3, ..config(Script::default().reset().kernel()) }).unwrap();
    for vcpu in 0..3 {
        let leaves = machine.cpuid(vcpu).unwrap();
        let of = |function| leaves.iter().find(|leaf| leaf.function == function).unwrap();
        assert_ne!(of(1).ecx & 1 << 24, 0, "TSC-deadline");
        assert_ne!(of(0x4000_0001).eax & 1 << 3, 0, "KVM's clock");
        assert_eq!(of(1).ebx >> 24, vcpu as u32);
    }
    assert!(machine.cpuid(3).is_err());
}

#[test]
fn a_model_takes_later_instructions_away() {
    if !kvm() {
        return;
    }
    let avx = |cpu| {
        let kernel = Script::default().reset().kernel();
        let machine = Machine::new(Config { cpu, ..config(kernel) })?;
        let leaves = machine.cpuid(0)?;
        Ok::<_, ferry_vmm::machine::Error>(
            leaves.iter().find(|leaf| leaf.function == 1).unwrap().ecx >> 28 & 1,
        )
    };
    let host = avx(Model::Host).unwrap();
    match avx(Model::V2) {
        Ok(avx) => assert_eq!(avx, 0),
        Err(error) => assert!(error.to_string().contains("x86-64-v2"), "{error}"),
    }
    match avx(Model::V3) {
        Ok(avx) => assert_eq!((avx, host), (1, 1)),
        Err(error) => assert!(error.to_string().contains("it lacks"), "{error}"),
    }
}

#[test]
fn stands_still_while_it_is_paused() {
    if !kvm() {
        return;
    }
    // Counts in memory for ever: inc qword ptr [0x180000].
    let script = Script::default().write64(0x18_0000, 0);
    let count = [0x48, 0xff, 0x04, 0x25, 0x00, 0x00, 0x18, 0x00, 0xeb, 0xf6];
    let script = script.write64(0x18_1000, u64::from_le_bytes(count[..8].try_into().unwrap()));
    let script = script.write64(0x18_1008, u64::from(u16::from_le_bytes([count[8], count[9]])));
    // mov eax, 0x181000; call rax
    let script = script.run(&[0xb8, 0x00, 0x10, 0x18, 0x00, 0xff, 0xd0]);
    let machine = Machine::new(Config { vcpus: 2, ..config(script.kernel()) }).unwrap();
    let handle = machine.handle();
    let looking = handle.clone();
    let looker = std::thread::spawn(move || {
        let look = || {
            looking.while_held(|vcpus, memory| {
                assert_eq!(vcpus.len(), 2);
                memory.read_obj::<u64>(GuestAddress(0x18_0000)).unwrap()
            })
        };
        let until = Instant::now() + Duration::from_secs(60);
        while look().is_none_or(|count| count == 0) {
            assert!(Instant::now() < until, "the guest does not begin");
        }
        assert!(looking.pause());
        let before = look().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(look(), Some(before), "paused");
        looking.resume();
        while look() == Some(before) {
            assert!(Instant::now() < until, "the guest does not go on");
        }
        looking.pause();
        // One that is paused can be stopped.
        looking.stop();
    });
    assert_eq!(machine.run().unwrap(), Exit::Killed);
    looker.join().unwrap();
    assert!(!handle.pause(), "it is over");
    assert_eq!(handle.while_held(|_, _| ()), None);
}

#[test]
fn tells_its_guest_a_generation_that_is_another_each_time() {
    if !kvm() {
        return;
    }
    let read = || {
        let script = (0..4).fold(Script::default(), |script, word| script.read(layout::VMGENID + word * 4));
        run(script.reset()).1
    };
    let (first, second) = (read(), read());
    assert_eq!((first.len(), second.len()), (16, 16));
    assert_ne!(first, second);
}

#[test]
fn takes_memory_at_once_where_asked() {
    if !kvm() {
        return;
    }
    let backing = Backing { prefault: true, ..Backing::default() };
    let kernel = Script::default().out(0x3f8, b'x').reset().kernel();
    assert_eq!(Machine::new(Config { backing, ..config(kernel) }).unwrap().run().unwrap(), Exit::Reset);
}

/// Pages of the host's reserve that are neither used nor promised to anybody.
fn free_huge_pages() -> i64 {
    let of = |name: &str| {
        let number = std::fs::read_to_string(format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}"));
        number.ok().and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or(0)
    };
    of("free_hugepages") - of("resv_hugepages")
}

#[test]
fn takes_its_memory_from_the_reserve_of_huge_pages_where_asked() {
    const PAGES: i64 = 8;
    let free = free_huge_pages();
    if !kvm() || free < PAGES {
        return println!(
            "skipped: it takes {PAGES} huge pages, and there are {free} (sysctl vm.nr_hugepages)"
        );
    }
    let backing = Backing { huge_pages: true, ..Backing::default() };
    let kernel = Script::default().write(0x18_0000, 7).read(0x18_0000).reset().kernel();
    let mut file = tempfile::tempfile().unwrap();
    let serial = Output::File(file.try_clone().unwrap());
    let machine = Machine::new(Config { backing, serial, ..config(kernel) }).unwrap();
    assert_eq!(free_huge_pages(), free - PAGES, "all of its 16 MiB");
    assert_eq!(machine.run().unwrap(), Exit::Reset);
    let mut output = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut output).unwrap();
    assert_eq!(output, [7, 0, 0, 0]);
    assert_eq!(free_huge_pages(), free);
}

#[test]
fn has_a_line_for_each_of_nineteen_devices_and_refuses_one_more_by_name() {
    if !kvm() {
        return;
    }
    let with = |disks: usize| {
        let disks = (0..disks).map(|number| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(1 << 20).unwrap();
            DiskConfig {
                serial: format!("disk{number}"),
                backend: Box::new(Raw::from_file(file, Access::ReadWrite).unwrap()),
            }
        });
        // The last one tells of itself through its registers; the source of randomness comes behind the disks.
        let script = Script::default().read(0xd001_2008).reset();
        Config { disks: disks.collect(), ..config(script.kernel()) }
    };
    let mut file = tempfile::tempfile().unwrap();
    let serial = Output::File(file.try_clone().unwrap());
    let machine = Machine::new(Config { serial, ..with(18) }).unwrap();
    assert_eq!(machine.run().unwrap(), Exit::Reset);
    let mut kind = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut kind).unwrap();
    assert_eq!(kind, [4, 0, 0, 0]);
    let error = Machine::new(with(19)).err().unwrap().to_string();
    assert!(error.contains("rng device") && error.contains("19 devices"), "{error}");
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
