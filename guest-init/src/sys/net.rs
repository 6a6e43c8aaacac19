//! Sockets: the vsock listener, and rtnetlink's.

use linux_raw_sys::general as c;
use linux_raw_sys::net as n;
use linux_raw_sys::netlink::NETLINK_GET_STRICT_CHK;
use syscalls::{Sysno, syscall};

use super::{Errno, Fd, Result};

/// The host's context id.
pub const HOST_CID: u32 = 2;

/// struct sockaddr_vm: the family (16 bits, and as many that are zero), the port, the context id, and zeros.
type VsockAddress = [u32; 4];

/// Any context id of ours.
const ANY_CID: u32 = u32::MAX;

calls! { Result<Fd>;
    socket(family: u32, kind: u32) = socket(family, kind | c::O_CLOEXEC, 0);
}

calls! { Result<()>;
    listen(socket: &Fd, backlog: u32) = listen(socket.raw(), backlog);

    bind(socket: &Fd, address: &VsockAddress) = bind(socket.raw(), address.as_ptr(), size_of_val(address));

    connect(socket: &Fd, address: &[u8]) = connect(socket.raw(), address.as_ptr(), address.len());

    set_time(socket: &Fd, option: u32, time: &[i64; 2]) =
        setsockopt(socket.raw(), n::SOL_SOCKET, option, time.as_ptr(), size_of_val(time));

    set_option(socket: &Fd, level: u32, option: u32, value: &u32) =
        setsockopt(socket.raw(), level, option, core::ptr::from_ref(value), size_of_val(value));

    /// Sends a whole message to the kernel, which no address means.
    pub send(socket: &Fd, message: &[u8]) = sendto(socket.raw(), message.as_ptr(), message.len(), 0, 0, 0);
}

/// Listens on a vsock port; `EAFNOSUPPORT` when the kernel has no vsock.
pub fn listen_vsock(port: u32) -> Result<Fd> {
    let listener = socket(n::AF_VSOCK, n::SOCK_STREAM | c::O_NONBLOCK)?;
    bind(&listener, &[n::AF_VSOCK, port, ANY_CID, 0])?;
    listen(&listener, 16)?;
    Ok(listener)
}

/// The next connection and who made it (its context id); `EAGAIN` when there is none.
pub fn accept_vsock(listener: &Fd) -> Result<(Fd, u32)> {
    let mut address: VsockAddress = [0; _];
    let mut length: u32 = 16;
    let (place, flags) = (address.as_mut_ptr(), c::O_CLOEXEC | c::O_NONBLOCK);
    // SAFETY: the kernel writes at most `length` bytes into `address`.
    let fd =
        unsafe { syscall!(Sysno::accept4, listener.raw(), place, &raw mut length, flags) }.map(Fd::new)?;
    if length < 12 || address[0] as u16 != n::AF_VSOCK as u16 {
        return Err(Errno::EAFNOSUPPORT);
    }
    Ok((fd, address[2]))
}

/// Connects to a TCP port of this network namespace's 127.0.0.1. That, and each read and write afterwards, may take this
/// many milliseconds.
pub fn connect_tcp(port: u16, timeout: u32) -> Result<Fd> {
    let socket = socket(n::AF_INET, n::SOCK_STREAM)?;
    // struct timeval.
    let time = [i64::from(timeout / 1000), i64::from(timeout % 1000) * 1000];
    for option in [n::SO_SNDTIMEO_NEW, n::SO_RCVTIMEO_NEW] {
        set_time(&socket, option, &time)?;
    }
    // struct sockaddr_in: family, port and address in network order, padding.
    let [high, low] = port.to_be_bytes();
    let address: [u8; 16] = [n::AF_INET as u8, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    connect(&socket, &address)?;
    Ok(socket)
}

/// A socket on which the kernel answers rtnetlink requests.
pub fn rtnetlink() -> Result<Fd> {
    let socket = socket(n::AF_NETLINK, n::SOCK_RAW | c::O_NONBLOCK)?;
    // Only then does a request to list things say which.
    set_option(&socket, n::SOL_NETLINK, NETLINK_GET_STRICT_CHK, &1)?;
    Ok(socket)
}

/// Bytes of an interface's name with the NUL behind it.
pub const NAME_LENGTH: usize = 16;

/// Asks about an interface (`SIOCGIF*`), by its name or its number. Gives its name, and what was asked for behind that
/// (struct ifreq).
pub fn about_interface(socket: &Fd, question: u32, name: &str, number: u32) -> Result<[u8; 40]> {
    let mut about = [0; 40];
    about[..NAME_LENGTH - 1].get_mut(..name.len()).ok_or(Errno::ENODEV)?.copy_from_slice(name.as_bytes());
    about[NAME_LENGTH..][..4].copy_from_slice(&number.to_le_bytes());
    // SAFETY: the kernel reads and writes a struct ifreq, which is as long as this.
    unsafe { syscall!(Sysno::ioctl, socket.raw(), question, about.as_mut_ptr()) }?;
    Ok(about)
}

/// Receives a message; `EMSGSIZE` when the buffer is too small for it, `EAGAIN` when there is none.
pub fn receive<'a>(socket: &Fd, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes, whatever length it says the message has.
    let length = unsafe {
        syscall!(Sysno::recvfrom, socket.raw(), buffer.as_mut_ptr(), buffer.len(), n::MSG_TRUNC, 0, 0)
    }?;
    buffer.get(..length).ok_or(Errno::EMSGSIZE)
}
