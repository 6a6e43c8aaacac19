//! Devices behind a real vCPU: kicks by ioeventfd, answers in guest memory. Where KVM cannot be used, the tests say so
//! and pass.

mod guest;

use ferry_vmm::backends::disk::{Access, Composite, Disk, Raw, Segment};
use ferry_vmm::machine::{
    Config, DiskConfig, Exit, Machine, Output, PortConfig, ProbeError, VsockConfig, probe,
};
use guest::Script;
use guest::driver::{BUFFERS, RINGS, offer, start, wait};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use vm_memory::VolatileSlice;

fn kvm() -> bool {
    match probe() {
        Ok(_) => true,
        Err(error @ (ProbeError::Absent | ProbeError::Forbidden)) => {
            println!("skipped: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Runs a script with 16 MiB and returns what it sent through the serial port.
fn run(script: Script, change: impl FnOnce(&mut Config)) -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    let mut config = Config { memory_mib: 16, ..Config::new(script.reset().kernel()) };
    config.serial = Output::File(file.try_clone().unwrap());
    change(&mut config);
    let machine = Machine::new(config).unwrap();
    let handle = machine.handle();
    assert_eq!(machine.run().unwrap(), Exit::Reset);
    assert!(handle.device_faults().is_empty(), "{:?}", handle.device_faults());
    std::mem::forget(handle);
    let mut output = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut output).unwrap();
    output
}

/// A block request of one sector: header, data, status.
fn sector(script: Script, slot: u64, number: u16, kind: u32, at: u64, data: u64) -> Script {
    let script =
        script.write(BUFFERS, kind).write(BUFFERS + 4, 0).write64(BUFFERS + 8, at).write(BUFFERS + 16, 0xff);
    let chain = [(BUFFERS, 16, false), (data, 512, kind == 0), (BUFFERS + 16, 1, true)];
    wait(offer(script, slot, 0, number, &chain), slot, 0, number).read(BUFFERS + 16)
}

#[test]
fn reads_a_composite_disk_and_writes_a_raw_one() {
    if !kvm() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let segments = ["one", "two"].map(|name| Segment { path: directory.path().join(name), bytes: 4096 });
    for (segment, byte) in segments.iter().zip([1, 2]) {
        std::fs::write(&segment.path, [byte; 4096]).unwrap();
    }
    let scratch = tempfile::tempfile().unwrap();
    scratch.set_len(1 << 20).unwrap();

    // The last sector of the first segment and the first of the second, then a write of the latter to the other disk.
    let mut script = start(start(Script::default(), 0, 1), 1, 1);
    script = sector(script, 0, 1, 0, 7, BUFFERS + 0x1000).read(BUFFERS + 0x1000);
    script = sector(script, 0, 2, 0, 8, BUFFERS + 0x1000).read(BUFFERS + 0x11fc);
    script = sector(script, 1, 1, 1, 5, BUFFERS + 0x1000);
    script = sector(script, 1, 2, 0, 1 << 40, BUFFERS + 0x1000);
    let output = run(script, |config| {
        let layers = Composite::open(&segments).unwrap();
        let disk = Raw::from_file(scratch.try_clone().unwrap(), Access::ReadWrite).unwrap();
        config.disks.push(DiskConfig { serial: "layers".into(), backend: Box::new(layers) });
        config.disks.push(DiskConfig { serial: "scratch".into(), backend: Box::new(disk) });
    });
    let words: Vec<_> = output.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [0, 0x0101_0101, 0, 0x0202_0202, 0, 1]);
    let mut written = [0; 512];
    scratch.read_exact_at(&mut written, 5 * 512).unwrap();
    assert_eq!(written, [2; 512]);
}

/// A disk whose reads wait for another's, or are waited for.
struct Waiting {
    for_other: Option<Mutex<Receiver<()>>>,
    told: Option<Sender<()>>,
}

impl Disk for Waiting {
    fn bytes(&self) -> u64 {
        4096
    }
    fn is_read_only(&self) -> bool {
        true
    }
    fn read(&mut self, _: u64, _: &[VolatileSlice<'_>]) -> io::Result<()> {
        if let Some(told) = &self.told {
            let _ = told.send(());
        }
        match &self.for_other {
            Some(other) => {
                other.lock().unwrap().recv_timeout(Duration::from_secs(20)).map_err(io::Error::other)
            }
            None => Ok(()),
        }
    }
    fn write(&mut self, _: u64, _: &[VolatileSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_slow_disk_holds_no_other_up() {
    if !kvm() {
        return;
    }
    let (told, for_other) = channel();
    let request = |script: Script, slot: u64| {
        let at = BUFFERS + slot * 0x4000;
        let script = script.write(at, 0).write(at + 4, 0).write64(at + 8, 0).write(at + 16, 0xff);
        offer(script, slot, 0, 1, &[(at, 16, false), (at + 0x1000, 512, true), (at + 16, 1, true)])
    };
    // The first is asked first, and its answer waits for the second's request.
    let script = request(request(start(start(Script::default(), 0, 1), 1, 1), 0), 1);
    let script = wait(wait(script, 0, 0, 1), 1, 0, 1).read(BUFFERS + 16).read(BUFFERS + 0x4010);
    let output = run(script, |config| {
        let slow = Waiting { for_other: Some(Mutex::new(for_other)), told: None };
        let quick = Waiting { for_other: None, told: Some(told) };
        for (serial, backend) in [("slow", Box::new(slow)), ("quick", Box::new(quick))] {
            config.disks.push(DiskConfig { serial: serial.into(), backend });
        }
    });
    assert_eq!(output, [0; 8], "both have been read");
}

#[test]
fn random_bytes_come_from_the_host() {
    if !kvm() {
        return;
    }
    let script = start(Script::default(), 0, 1);
    let script = wait(offer(script, 0, 0, 1, &[(BUFFERS, 16, true)]), 0, 0, 1);
    let output = run(script.read(BUFFERS).read(BUFFERS + 4).read(RINGS + 0x2008), |_| {});
    assert_ne!(output[..8], [0; 8]);
    assert_eq!(output[8..], [16, 0, 0, 0], "bytes written");
}

#[test]
fn the_console_prints() {
    if !kvm() {
        return;
    }
    let mut printed = tempfile::tempfile().unwrap();
    let mut script = start(Script::default(), 0, 2).write64(BUFFERS, u64::from_le_bytes(*b"printed\n"));
    script = wait(offer(script, 0, 1, 1, &[(BUFFERS, 8, false)]), 0, 1, 1);
    let output: File = printed.try_clone().unwrap();
    let port = PortConfig { name: String::new(), is_console: true, input: None, output };
    run(script, |config| config.console.push(port));
    let mut text = String::new();
    printed.rewind().unwrap();
    printed.read_to_string(&mut text).unwrap();
    assert_eq!(text, "printed\n");
}

#[test]
fn a_host_program_talks_to_the_guest_through_vsock() {
    if !kvm() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("vsock");
    // One packet in: the request. Its ports, swapped, go into the response and into the data that follows.
    let packet = BUFFERS + 0x1000;
    let mut script = start(Script::default(), 0, 2);
    script = wait(offer(script, 0, 0, 1, &[(BUFFERS, 4096, true)]), 0, 0, 1);
    script =
        script.write64(packet, 3).write64(packet + 8, 2).write(packet + 16, 1024).write(packet + 20, 1 << 30);
    script = script.write(packet + 24, 0).write(packet + 28, 2 << 16 | 1).write(packet + 32, 0);
    script = script.write(packet + 36, 65536).write(packet + 40, 0);
    script = wait(offer(script, 0, 1, 1, &[(packet, 44, false)]), 0, 1, 1);
    script = script
        .write(packet + 24, 4)
        .write(packet + 28, 5 << 16 | 1)
        .write(packet + 44, u32::from_le_bytes(*b"ping"));
    script = wait(offer(script, 0, 1, 2, &[(packet, 48, false)]), 0, 1, 2);
    // And what the host program answers.
    script = wait(offer(script, 0, 0, 2, &[(BUFFERS, 4096, true)]), 0, 0, 2).read(BUFFERS + 44);

    let path = socket.clone();
    let host = std::thread::spawn(move || {
        let mut stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(_) => std::thread::yield_now(),
            }
        };
        stream.write_all(b"CONNECT 1024\n").unwrap();
        let mut text = [0; 14 + 4];
        stream.read_exact(&mut text).unwrap();
        stream.write_all(b"pong").unwrap();
        // The connection lasts until the guest has ended, and no longer.
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        text
    });
    let output = run(script, |config| config.vsock = Some(VsockConfig { cid: 3, socket: socket.clone() }));
    // That an immortal handle does not keep the connection open is seen by the host program's end.
    assert_eq!(&host.join().unwrap(), b"OK 1073741824\nping");
    assert_eq!(output, b"pong");
    assert!(!socket.exists(), "the socket's file is left behind");
}

/// Serves disks in a process that may have no io_uring, as in many containers; run by the other test.
#[test]
#[ignore = "run by the other test"]
fn part_without_io_uring() {
    if std::env::var_os("FERRY_WITHOUT_IO_URING").is_none() {
        return;
    }
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let rules = [(libc::SYS_io_uring_setup, Vec::new())].into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, TargetArch::x86_64).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
    reads_a_composite_disk_and_writes_a_raw_one();
    println!("served");
}

#[test]
fn a_host_without_io_uring_serves_disks_all_the_same() {
    if !kvm() {
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "part_without_io_uring", "--ignored", "--nocapture"])
        .env("FERRY_WITHOUT_IO_URING", "1")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("served"), "{output:?}");
}
