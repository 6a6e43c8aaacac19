//! Sockets: the vsock listener, and what brings the loopback interface up.

use linux_raw_sys::general as c;
use linux_raw_sys::ioctl::SIOCSIFFLAGS;
use linux_raw_sys::net as n;
use linux_raw_sys::vm_sockets::sockaddr_vm;
use syscalls::{Sysno, syscall};

use super::{Errno, Fd, Result};

/// The host's context id.
pub const HOST_CID: u32 = 2;

/// Any context id of ours.
const ANY_CID: u32 = u32::MAX;

fn socket(family: u32, kind: u32) -> Result<Fd> {
    // SAFETY: no memory is involved.
    unsafe { syscall!(Sysno::socket, family, kind | c::O_CLOEXEC | c::O_NONBLOCK, 0) }.map(Fd::new)
}

/// Listens on a vsock port; `EAFNOSUPPORT` when the kernel has no vsock.
pub fn listen_vsock(port: u32) -> Result<Fd> {
    let listener = socket(n::AF_VSOCK, n::SOCK_STREAM)?;
    let address = sockaddr_vm {
        svm_family: n::AF_VSOCK as u16,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: ANY_CID,
        svm_flags: 0,
        svm_zero: [0; _],
    };
    // SAFETY: the kernel reads a struct sockaddr_vm, which is 16 bytes long at the front of this one.
    unsafe { syscall!(Sysno::bind, listener.raw(), &raw const address, 16) }?;
    // SAFETY: no memory is involved.
    unsafe { syscall!(Sysno::listen, listener.raw(), 16) }?;
    Ok(listener)
}

/// The next connection and who made it (its context id); `EAGAIN` when there is none.
pub fn accept_vsock(listener: &Fd) -> Result<(Fd, u32)> {
    let mut address = [0u32; 4];
    let mut length: u32 = 16;
    // SAFETY: the kernel writes at most `length` bytes into `address`.
    let fd = unsafe {
        syscall!(
            Sysno::accept4,
            listener.raw(),
            address.as_mut_ptr(),
            &raw mut length,
            c::O_CLOEXEC | c::O_NONBLOCK
        )
    }
    .map(Fd::new)?;
    // struct sockaddr_vm: family u16, reserved u16, port u32, cid u32.
    if length < 12 || address[0] as u16 != n::AF_VSOCK as u16 {
        return Err(Errno::EAFNOSUPPORT);
    }
    Ok((fd, address[2]))
}

/// Brings the loopback interface up, which gives it its addresses.
pub fn loopback_up() -> Result<()> {
    let socket = socket(n::AF_INET, n::SOCK_DGRAM)?;
    // struct ifreq: the name in 16 bytes, then a union of which the first two are the flags.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&((n::net_device_flags::IFF_UP as u16).to_le_bytes()));
    // SAFETY: the kernel reads the structure, which is as large as it expects.
    unsafe { syscall!(Sysno::ioctl, socket.raw(), SIOCSIFFLAGS, request.as_ptr()) }.map(|_| ())
}
