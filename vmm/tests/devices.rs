//! The devices on the host's real KVM, driven by the bare-metal guest of `boot/`: first by the rules, then against them.
//!
//! The guest is a program of its own: `cargo xtask test devices` builds it and names it in `FERRY_DEVICE_TEST`. Without
//! that, or without a usable KVM, the test says so and passes.

use ferry_vmm::backends::disk::{Access, Raw, Segment};
use ferry_vmm::backends::fs::{Server, Share, serve};
use ferry_vmm::backends::net::Passt;
use ferry_vmm::backends::net::rate::Rates;
use ferry_vmm::machine::{
    Config, DiskConfig, Exit, Image, Machine, NetworkConfig, Output, PortConfig, ShareConfig, VsockConfig,
    probe,
};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// A shared directory with a file of eight bytes, served by a thread of this process.
fn share(directory: &Path) -> ShareConfig {
    std::fs::write(directory.join("greeting"), "welcome!").unwrap();
    let root = File::open(directory).unwrap().into();
    let (helper, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let share = Share { root, file: None, writable: true, in_descriptors: false, descriptors: 100 };
        serve(theirs, &mut Server::new(share).unwrap())
    });
    ShareConfig { tag: "share".into(), helper, on_lost: Box::new(|error| panic!("{error}")) }
}

/// The port of the host that the guest is told to talk to.
const PORT: u32 = 5000;

/// A network card whose other end sends every frame back with its addresses exchanged, and one of its own a millisecond: so
/// that there is always something to receive.
fn mirror() -> NetworkConfig {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut ticks = theirs.try_clone().unwrap();
    thread::spawn(move || {
        let frame = [&60u32.to_be_bytes()[..], &[0; 60]].concat();
        while ticks.write_all(&frame).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    thread::spawn(move || {
        let mut theirs = theirs;
        let mut length = [0; 4];
        while theirs.read_exact(&mut length).is_ok() {
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            theirs.read_exact(&mut frame).unwrap();
            let (to, from) = frame.split_at_mut(6);
            to.swap_with_slice(&mut from[..6]);
            // One write a frame: the ticks must not come in between.
            if theirs.write_all(&[&length[..], &frame].concat()).is_err() {
                break;
            }
        }
    });
    NetworkConfig {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        ports: vec![Box::new(Passt::new(ours).unwrap())],
        rates: Rates::default(),
        on_lost: Box::new(|error| panic!("{error}")),
    }
}

#[test]
fn serve_a_guest_that_keeps_the_rules_and_outlive_one_that_does_not() {
    let Some(guest) = std::env::var_os("FERRY_DEVICE_TEST").map(PathBuf::from) else {
        println!("skipped: FERRY_DEVICE_TEST does not name the device-test guest");
        return;
    };
    if let Err(error) = probe() {
        println!("skipped: {error}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("vsock");
    let echo = UnixListener::bind(directory.path().join(format!("vsock_{PORT}"))).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = echo.accept() {
            let mut bytes = [0; 64];
            while let Ok(length @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..length]).is_err() {
                    break;
                }
            }
        }
    });

    let shared = tempfile::tempdir().unwrap();
    let layer = directory.path().join("layer");
    std::fs::write(&layer, [&b"layers!\n"[..], &[0; 4088]].concat()).unwrap();
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(1 << 20).unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let log = tempfile::tempfile().unwrap();
    let port = |name: &str, output| PortConfig { name: name.into(), is_console: false, input: None, output };
    let machine = Machine::new(Config {
        // The second never starts: it is there for the queues.
        vcpus: 2,
        memory_mib: 64,
        cmdline_extra: format!("vsock={PORT}"),
        disks: vec![DiskConfig {
            serial: "scratch".into(),
            backend: Box::new(Raw::from_file(disk, Access::ReadWrite).unwrap()),
        }],
        networks: vec![mirror()],
        mapped: vec![vec![Segment { path: layer.clone(), bytes: 4096 }]],
        shares: vec![share(shared.path())],
        most_memory_mib: 128,
        vsock: Some(VsockConfig { cid: 3, socket }),
        balloon: true,
        console: vec![port("", tempfile::tempfile().unwrap()), port("log", log.try_clone().unwrap())],
        serial: Output::File(output.try_clone().unwrap()),
        ..Config::new(Image::File(guest))
    })
    .unwrap();
    let handle = machine.handle();
    assert!(handle.set_memory(129).is_err() && handle.set_memory(63).is_err());
    handle.set_memory(96).unwrap();
    let exit = machine.run().unwrap();
    assert!(std::fs::read(layer).unwrap().starts_with(b"layers!"), "a file was written to");

    let mut report = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut report).unwrap();
    println!("{report}");
    assert_eq!(exit, Exit::Reset, "{report}");
    assert!(report.contains("\ndone ") && report.contains(", 0 failed"), "{report}");
    let mut logged = [0; 7];
    log.read_exact_at(&mut logged, 0).unwrap();
    assert_eq!(&logged, b"aboard\n", "what came through the console's second port");
    for device in [
        "blk reads",
        "blk raises",
        "rng fills",
        "rng outlives",
        "rng outlives a chain longer than its queue",
        "balloon takes pages",
        "balloon outlives",
        "balloon, reporting, outlives",
        "vsock carries",
        "net carries",
        "blk flushes",
        "blk outlives",
        "blk, second queue, outlives",
        "console takes",
        "console introduces",
        "console, its messages, outlives",
        "vsock, sending, outlives",
        "vsock carries another",
        "net, sending, outlives",
        "fs finds",
        "fs outlives",
        "mem plugs",
        "mem outlives",
        "pmem shows",
        "pmem outlives",
    ] {
        assert!(report.contains(&format!("ok {device}")), "no test of {device}:\n{report}");
    }
}
