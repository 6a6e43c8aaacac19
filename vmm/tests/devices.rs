//! The devices on the host's real KVM, driven by the bare-metal guest of `boot/`: first by the rules, then against them.
//!
//! The guest is a program of its own: `cargo xtask test devices` builds it and names it in `FERRY_DEVICE_TEST`. Without
//! that, or without a usable KVM, the test says so and passes.

use ferry_vmm::backends::disk::{Access, Raw};
use ferry_vmm::machine::{Config, DiskConfig, Exit, Image, Machine, Output, VsockConfig, probe};
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;

/// The port of the host that the guest is told to talk to.
const PORT: u32 = 5000;

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

    let disk = tempfile::tempfile().unwrap();
    disk.set_len(1 << 20).unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let machine = Machine::new(Config {
        memory_mib: 64,
        cmdline_extra: format!("vsock={PORT}"),
        disks: vec![DiskConfig {
            serial: "scratch".into(),
            backend: Box::new(Raw::from_file(disk, Access::ReadWrite).unwrap()),
        }],
        vsock: Some(VsockConfig { cid: 3, socket }),
        serial: Output::File(output.try_clone().unwrap()),
        ..Config::new(Image::File(guest))
    })
    .unwrap();
    let exit = machine.run().unwrap();

    let mut report = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut report).unwrap();
    println!("{report}");
    assert_eq!(exit, Exit::Reset, "{report}");
    assert!(report.contains("\ndone ") && report.contains(", 0 failed"), "{report}");
    for device in ["blk reads", "blk raises", "rng fills", "vsock carries", "blk outlives"] {
        assert!(report.contains(&format!("ok {device}")), "no test of {device}:\n{report}");
    }
}
