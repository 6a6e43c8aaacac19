//! Tries to reach PID 1 and the host by the ways on which they speak to each other, as root of a container, and says how
//! each attempt ended: an error number, or what was reached. Built by the tests as a static program.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Error, Write};

const AF_VSOCK: i64 = 40;
const SOCKET: i64 = 41;
const SOCK_STREAM: i64 = 1;
const IO_URING_SETUP: i64 = 425;
/// A number of the x32 ABI, under which filters sometimes forget calls.
const X32: i64 = 0x4000_0000;
const S_IFCHR: u32 = 0o020_000;

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
    fn mknod(path: *const std::ffi::c_char, mode: u32, device: u64) -> i32;
}

fn call(number: i64, first: i64, second: i64) -> String {
    // SAFETY: neither call is given memory that it could write: io_uring_setup's is the null pointer.
    match unsafe { syscall(number, first, second, 0i64) } {
        -1 => format!("{}", Error::last_os_error().raw_os_error().unwrap_or(0)),
        _ => "reached".into(),
    }
}

/// Writes to every virtio-serial port that there may be.
fn ports() -> String {
    let devices = fs::read_to_string("/proc/devices").unwrap_or_default();
    let major = devices.lines().find_map(|line| line.strip_suffix(" virtio-portsdev")?.trim().parse::<u64>().ok());
    let Some(major) = major else { return "none".into() };
    for minor in 0..32 {
        let path = CString::new(format!("/dev/port{minor}")).expect("no NUL");
        // SAFETY: a C string; glibc's encoding of device numbers is this for small ones.
        unsafe { mknod(path.as_ptr(), S_IFCHR | 0o600, major << 8 | minor) };
        let port = File::options().read(true).write(true).open(format!("/dev/port{minor}"));
        if port.is_ok_and(|mut port| port.write(b"hostile").is_ok()) {
            return format!("reached {minor}");
        }
    }
    "refused".into()
}

fn main() {
    println!("socket {}", call(SOCKET, AF_VSOCK, SOCK_STREAM));
    println!("socket with noise in its upper half {}", call(SOCKET, AF_VSOCK | 1 << 32, SOCK_STREAM));
    println!("x32 socket {}", call(SOCKET | X32, AF_VSOCK, SOCK_STREAM));
    println!("io_uring {}", call(IO_URING_SETUP, 1, 0));
    println!("ports {}", ports());
}
