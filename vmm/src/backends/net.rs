//! What a network device stands on: something that takes and gives Ethernet frames.
//!
//! [`Tap`] is an interface of the host's kernel, [`Passt`] a program that speaks to the host's sockets for the guest.
//! What a guest may send at all is [`filter`]'s to say, for both.

pub mod filter;
mod passt;
pub mod rate;
mod tap;

pub use passt::Passt;
pub use tap::{Tap, TapError};

use std::io;
use std::os::fd::BorrowedFd;

/// Bytes of the header before each frame: `struct virtio_net_hdr_v1` (virtio specification, section 5.1.6).
pub const HEADER: usize = 12;
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// The longest frame with its header: an IP packet of 64 KiB, in Ethernet with a tag.
pub const MAX_FRAME: usize = HEADER + ETHERNET + 4 + 65535;

/// What the guest's driver can do for the host: it takes frames whose checksum is missing or that are longer than the
/// MTU, to be cut up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums may be missing.
    pub checksum: bool,
    /// TCP over IPv4 may be uncut.
    pub tcp4: bool,
    /// TCP over IPv6 may be uncut.
    pub tcp6: bool,
}

/// A way in and out of the guest for frames: each is preceded by [`HEADER`] bytes. Nothing here ever waits: what cannot
/// be done now is [`io::ErrorKind::WouldBlock`].
pub trait Port: Send {
    /// What to wait for: readable when there may be a frame, writable when there may be room for one.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Whether frames may leave the guest without checksum and uncut, and whether [`Port::set_offloads`] does anything.
    fn has_offloads(&self) -> bool {
        false
    }

    /// Says which frames the guest takes.
    fn set_offloads(&mut self, _: Offloads) -> io::Result<()> {
        Ok(())
    }

    /// Says whether the guest uses this port: where it has several, some may lie idle.
    fn set_active(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }

    /// Writes the next frame for the guest into `frame`, which has room for the longest, and returns its length with the
    /// header. An error other than "would block" means that there will be no frames any more.
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize>;

    /// The descriptor was found readable: that there was nothing is true no more. Until it is told so a port need not look
    /// again, since whoever waits for the descriptor learns of everything that comes.
    fn readable(&mut self) {}

    /// Whether there is a frame that has left the descriptor already, so that this does not tell of it any more.
    fn holds_frame(&self) -> bool {
        false
    }

    /// Takes a frame from the guest, and passes it on by the next [`Port::flush`] at the latest: a batch may go with one system
    /// call. [`io::ErrorKind::BrokenPipe`] means that nobody takes frames any more; with any
    /// error but that and "would block" only this frame is lost.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;

    /// Passes on what [`Port::send`] has taken and has not yet passed on. True if nothing is left.
    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}
