//! Where clients come from: a vsock listener, and a virtio-serial port where there is one.

use super::{Guest, log, log_error};
use crate::agent::StreamId;
use crate::api::{SERIAL_PORT_NAME, VSOCK_PORT};
use crate::prelude::*;
use crate::sys::event::Poll;
use crate::sys::file::*;
use crate::sys::net::{HOST_CID, accept_vsock, listen_vsock};

/// Most virtio-serial ports looked at.
const PORT_LIMIT: usize = 64;

/// The virtio-serial port: one open file on which one client after another may come.
pub struct SerialPort {
    fd: Fd,
    stream: StreamId,
    /// Whether the present client has said anything. The port reads as ended while there is none.
    heard: bool,
    /// Whether `stream` is still to be announced as a new client.
    pub fresh: bool,
}

impl SerialPort {
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> SysResult<usize> {
        match read(self.fd.raw(), buffer) {
            Ok(0) if !self.heard => Err(Errno::EAGAIN),
            Ok(length) => {
                self.heard = length > 0;
                Ok(length)
            }
            other => other,
        }
    }

    pub fn raw(&self) -> i32 {
        self.fd.raw()
    }

    /// A client is gone; the next one is another stream.
    pub fn renew(&mut self, poll: &Poll, stream: StreamId) {
        self.stream = stream;
        self.heard = false;
        self.fresh = true;
        poll.rewatch(self.fd.raw(), stream.0).unwrap_or_else(|errno| log_error("serial port", errno));
    }
}

/// Listens for the host's connections, if the kernel has vsock.
pub fn listen(poll: &Poll, token: u64) -> Option<Fd> {
    let listener = listen_vsock(VSOCK_PORT);
    match listener.and_then(|listener| poll.watch(listener.raw(), token).map(|()| listener)) {
        Err(Errno::EAFNOSUPPORT) => None,
        listener => listener.map_err(|errno| log_error("vsock", errno)).ok(),
    }
}

impl Guest {
    /// The next connection that the host has made. Others than the host are not heard.
    pub fn accept(&mut self, listener: &Fd) -> Option<StreamId> {
        loop {
            match accept_vsock(listener) {
                Ok((connection, HOST_CID)) => match self.add(connection) {
                    Ok(stream) => return Some(stream),
                    Err(fault) => log(&fault.message),
                },
                Ok(_) => {}
                Err(Errno::EAGAIN) => return None,
                Err(errno) => {
                    log_error("vsock", errno);
                    return None;
                }
            }
        }
    }

    /// Opens the virtio-serial port of the agent channel, if there is one.
    pub fn open_serial(&mut self) {
        let Some(fd) = find_port() else { return };
        let stream = self.next_id();
        match self.poll.watch(fd.raw(), stream.0) {
            Ok(()) => self.serial = Some(SerialPort { fd, stream, heard: false, fresh: true }),
            Err(errno) => log_error("serial port", errno),
        }
    }

    /// A client on the serial port that the agent does not know yet.
    pub fn serial_arrival(&mut self) -> Option<StreamId> {
        let serial = self.serial.as_mut()?;
        core::mem::take(&mut serial.fresh).then_some(serial.stream)
    }
}

fn find_port() -> Option<Fd> {
    let directory = open(CWD, "/sys/class/virtio-ports", O_RDONLY | O_DIRECTORY, 0).ok()?;
    let ports = list(directory.raw(), PORT_LIMIT).ok()?;
    let is_ours = |port: &&String| {
        let name = read_control(directory.raw(), &format!("{port}/name"));
        name.is_ok_and(|name| name.trim_ascii() == SERIAL_PORT_NAME)
    };
    let port = ports.iter().find(is_ours)?;
    let path = format!("/dev/{port}");
    open(CWD, &path, O_RDWR | O_NONBLOCK, 0).map_err(|errno| log_error(&path, errno)).ok()
}
