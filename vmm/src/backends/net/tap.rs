//! A tap interface of the host's kernel, which cuts up and checksums frames for guests that leave that to it.

use super::{HEADER, Offloads, Port};
use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use thiserror::Error;

/// Why a tap cannot be used.
#[derive(Debug, Error)]
pub enum TapError {
    /// The name is none that an interface can have.
    #[error("'{0}' is no name of a network interface: it has 1 to 15 bytes, and neither '/' nor spaces")]
    Name(String),
    /// There is no tap driver, or this user may not use it.
    #[error("cannot open /dev/net/tun for the tap {name}: {source}")]
    Driver {
        /// The tap.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The tap is in use.
    #[error("the tap {0} is in use by another program")]
    Busy(String),
    /// The tap does not exist and may not be made, or belongs to somebody else.
    #[error(
        "no right to use the tap {0}: have it made for this user (ip tuntap add {0} mode tap vnet_hdr user NAME)"
    )]
    Forbidden(String),
    /// The interface is of another kind.
    #[error("{0} is no tap with one queue: make it with 'ip tuntap add NAME mode tap vnet_hdr'")]
    Kind(String),
    /// Anything else.
    #[error("the tap {name} cannot be used: {source}")]
    Refused {
        /// The tap.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// One queue of a tap interface.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// Whether frames come through this queue; one of a single queue always is.
    attached: Option<bool>,
}

impl Tap {
    /// Attaches to the tap `name` with `queues` queues. One that does not exist is made, where this process may, and goes
    /// away with it.
    pub fn open(name: &str, queues: usize) -> Result<Vec<Self>, TapError> {
        (0..queues).map(|_| Self::attach(name, queues > 1)).collect()
    }

    fn attach(name: &str, several: bool) -> Result<Self, TapError> {
        let mut request = request(name).ok_or_else(|| TapError::Name(name.to_owned()))?;
        let queues = if several { libc::IFF_MULTI_QUEUE } else { 0 };
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues) as libc::c_short;
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options
            .open("/dev/net/tun")
            .map_err(|source| TapError::Driver { name: name.to_owned(), source })?;
        let refused = |source: io::Error| {
            let name = name.to_owned();
            match source.raw_os_error() {
                Some(libc::EBUSY) => TapError::Busy(name),
                Some(libc::EPERM | libc::EACCES) => TapError::Forbidden(name),
                Some(libc::EINVAL) => TapError::Kind(name),
                _ => TapError::Refused { name, source },
            }
        };
        // SAFETY: the request is a complete `ifreq`, which TUNSETIFF reads and fills in.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
            .map_err(refused)?;
        let header = HEADER as c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) })
            .map_err(refused)?;
        Ok(Self { file, attached: several.then_some(true) })
    }
}

/// A request for the interface of this name, if it is a name.
fn request(name: &str) -> Option<libc::ifreq> {
    // SAFETY: all zeroes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let fits = !name.is_empty() && name.len() < request.ifr_name.len();
    // What the kernel takes for a name (`dev_valid_name`), and no pattern that it would fill in.
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    if !fits || name == "." || name == ".." || !name.bytes().all(plain) {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Some(request)
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An interface that has been deleted takes no frames any more.
fn deleted(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EBADFD) => io::Error::new(io::ErrorKind::BrokenPipe, "the tap has been deleted"),
        _ => error,
    }
}

impl Port for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn has_offloads(&self) -> bool {
        true
    }

    fn set_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        let bits = [
            (offloads.checksum, libc::TUN_F_CSUM),
            (offloads.tcp4, libc::TUN_F_TSO4),
            (offloads.tcp6, libc::TUN_F_TSO6),
        ];
        let bits = bits.iter().filter(|(wanted, _)| *wanted).fold(0, |bits, (_, bit)| bits | bit);
        // SAFETY: TUNSETOFFLOAD takes its bits by value.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, u64::from(bits)) })
    }

    fn set_active(&mut self, active: bool) -> io::Result<()> {
        if self.attached.is_none_or(|attached| attached == active) {
            return Ok(());
        }
        // SAFETY: all zeroes are a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let flags = if active { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the request is a complete `ifreq`, of which TUNSETQUEUE reads the flags.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) })?;
        self.attached = Some(active);
        Ok(())
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        self.file.read(frame).map_err(deleted)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.file.write(frame).map(drop).map_err(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_name() {
        for name in ["", "sixteen-bytes-xy", "a/b", "a b", "tap%d", ".", ".."] {
            let error = Tap::open(name, 1).unwrap_err();
            assert!(matches!(error, TapError::Name(_)), "{name}: {error}");
        }
    }

    #[test]
    fn a_tap_in_use_is_named() {
        let name = format!("ferry{}", std::process::id() % 100_000);
        match Tap::open(&name, 1) {
            Ok(_first) => {
                let error = Tap::open(&name, 1).unwrap_err();
                assert_eq!(error.to_string(), format!("the tap {name} is in use by another program"));
            }
            Err(error @ (TapError::Driver { .. } | TapError::Forbidden(_))) => println!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn queues_of_a_tap_are_detached_and_attached_again() {
        let name = format!("ferrym{}", std::process::id() % 100_000);
        let mut queues = match Tap::open(&name, 3) {
            Ok(queues) => queues,
            Err(error @ (TapError::Driver { .. } | TapError::Forbidden(_))) => {
                println!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        for queue in &mut queues {
            queue.set_offloads(Offloads { checksum: true, tcp4: true, tcp6: true }).unwrap();
        }
        for active in [false, false, true, true, false] {
            queues[2].set_active(active).unwrap();
            queues[1].set_active(!active).unwrap();
        }
        // One that is detached gives nothing, which is no error that ends the link.
        let error = queues[2].receive(&mut [0; 2048]).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
        // And a tap of several queues is no tap of one.
        assert!(matches!(Tap::open(&name, 1).unwrap_err(), TapError::Kind(_)));
    }

    #[test]
    fn a_loopback_interface_is_no_tap() {
        match Tap::open("lo", 1).unwrap_err() {
            TapError::Kind(name) => assert_eq!(name, "lo"),
            error @ (TapError::Driver { .. } | TapError::Forbidden(_)) => println!("skipped: {error}"),
            error => panic!("{error}"),
        }
    }
}
