//! Sockets: the vsock listener, and rtnetlink's.

use linux_raw_sys::general as c;
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

/// Connects to a TCP port of this network namespace's 127.0.0.1. That, and each read and write afterwards, may take this
/// many milliseconds.
pub fn connect_tcp(port: u16, timeout: u32) -> Result<Fd> {
    // SAFETY: no memory is involved.
    let socket =
        unsafe { syscall!(Sysno::socket, n::AF_INET, n::SOCK_STREAM | c::O_CLOEXEC, 0) }.map(Fd::new)?;
    // struct timeval.
    let time = [i64::from(timeout / 1000), i64::from(timeout % 1000) * 1000];
    for option in [n::SO_SNDTIMEO_NEW, n::SO_RCVTIMEO_NEW] {
        // SAFETY: the kernel reads as many bytes as the array has.
        unsafe {
            syscall!(
                Sysno::setsockopt,
                socket.raw(),
                n::SOL_SOCKET,
                option,
                time.as_ptr(),
                size_of_val(&time)
            )
        }?;
    }
    // struct sockaddr_in: family, port and address in network order, padding.
    let [high, low] = port.to_be_bytes();
    let address: [u8; 16] = [n::AF_INET as u8, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads 16 bytes.
    unsafe { syscall!(Sysno::connect, socket.raw(), address.as_ptr(), address.len()) }?;
    Ok(socket)
}

/// A socket on which the kernel answers rtnetlink requests.
pub fn rtnetlink() -> Result<Fd> {
    socket(n::AF_NETLINK, n::SOCK_RAW)
}

/// Sends a whole message to the kernel.
pub fn send(socket: &Fd, message: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads `message.len()` bytes; no address means the kernel itself.
    unsafe { syscall!(Sysno::sendto, socket.raw(), message.as_ptr(), message.len(), 0, 0, 0) }.map(|_| ())
}

/// Receives a message; `EMSGSIZE` when the buffer is too small for it, `EAGAIN` when there is none.
pub fn receive<'a>(socket: &Fd, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes, whatever length it says the message has.
    let length = unsafe {
        syscall!(Sysno::recvfrom, socket.raw(), buffer.as_mut_ptr(), buffer.len(), n::MSG_TRUNC, 0, 0)
    }?;
    buffer.get(..length).ok_or(Errno::EMSGSIZE)
}
