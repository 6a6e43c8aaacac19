//! A debugger for the guest: gdb, over a Unix socket, sees each vCPU as a thread, at its kernel's level.
//!
//! The protocol is gdb's remote serial protocol, by the `gdbstub` crate; what it is told of the machine is in `target`. The
//! machine waits for the first debugger before its first instruction. One debugger is served at a time, and after it has
//! detached the next may come; meanwhile the guest runs.

mod paging;
mod target;
mod wire;

use super::Error;
use super::hold::Hold;
use crate::backends::unix::peer_uid;
use crate::devices::virtio::Memory;
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::stub::{DisconnectReason, GdbStub};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use target::{Reason, Target};
use wire::Wire;

/// The socket at which debuggers are awaited.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    /// Whose it is.
    user: u32,
}

impl Socket {
    /// Makes the socket, for this user alone. Nothing may be there yet.
    ///
    /// The process's file mode mask is changed for a moment: no other thread should make files meanwhile.
    pub fn bind(path: &Path) -> io::Result<Self> {
        // SAFETY: `umask` takes a number and cannot fail.
        let before = unsafe { libc::umask(0o177) };
        let listener = UnixListener::bind(path);
        // SAFETY: as above.
        unsafe { libc::umask(before) };
        // SAFETY: takes nothing.
        let user = unsafe { libc::geteuid() };
        Ok(Self { listener: listener?, user })
    }
}

/// Serves one debugger after the other until the machine's run is over.
pub(super) fn serve(socket: &Socket, hold: &Arc<Hold>, memory: &Memory, vcpus: usize) -> Result<(), Error> {
    let Some(debugger) = hold.debugger() else { return Ok(()) };
    let fault = |what: &'static str| Error::system(format!("the debugger's socket: {what}"));
    // Whoever was connected may have heard the bell that tells of the end: the end itself counts.
    while !hold.is_over() {
        let who = wait([socket.listener.as_raw_fd(), debugger.bell.as_raw_fd()]).map_err(fault("waiting"))?;
        if !who[0] {
            let _ = debugger.bell.read();
            continue;
        }
        let (stream, _) = socket.listener.accept().map_err(fault("accepting"))?;
        if peer_uid(&stream).is_ok_and(|uid| uid == socket.user || uid == 0) {
            let mut target = Target::new(hold.clone(), memory.clone(), vcpus);
            // When it has gone, by its wish or by a broken connection, the guest goes on without it.
            match GdbStub::new(Wire::new(stream.into())).run_blocking::<Loop>(&mut target) {
                Ok(DisconnectReason::Kill) => hold.end(),
                _ => target.detach(),
            }
        }
    }
    Ok(())
}

/// Waits until one of two descriptors can be read; which of them can.
fn wait(fds: [RawFd; 2]) -> io::Result<[bool; 2]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: the array is as long as said.
        if unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) } >= 0 {
            return Ok(polled.map(|polled| polled.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What happens while the guest runs under a debugger's eyes.
enum Loop {}

impl BlockingEventLoop for Loop {
    type Target = Target;
    type Connection = Wire;
    type StopReason = Reason;

    fn wait_for_stop_reason(
        target: &mut Target,
        wire: &mut Wire,
    ) -> Result<Event<Reason>, WaitForStopReasonError<target::Lost, io::Error>> {
        loop {
            if let Some(byte) = wire.next_buffered() {
                return Ok(Event::IncomingData(byte));
            }
            let [debugger, guest] =
                wait([wire.fd(), target.bell()]).map_err(WaitForStopReasonError::Connection)?;
            if guest && let Some(reason) = target.stopped() {
                return Ok(Event::TargetStopped(reason));
            }
            if debugger {
                wire.fill().map_err(WaitForStopReasonError::Connection)?;
            }
        }
    }

    fn on_interrupt(target: &mut Target) -> Result<Option<Reason>, target::Lost> {
        Ok(Some(target.interrupt()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_socket_is_for_its_user_alone_and_takes_no_others_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gdb");
        let _socket = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Socket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
