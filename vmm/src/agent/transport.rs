//! The way to the agent in the guest: a Unix socket that either speaks the hybrid-vsock handshake (`CONNECT port`, answered
//! `OK port`) or is the stream itself (the socket behind a virtio-serial port).
//!
//! The guest is not listening while it boots. A refused or reset connection is tried again until the agent is there, the
//! VM has ended, or the time allowed for the boot is over.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A vsock device's Unix socket; a connection names the guest's port first.
    Vsock {
        /// The device's socket on the host.
        socket: PathBuf,
        /// The port in the guest.
        port: u32,
    },
    /// A socket whose bytes are the agent's from the first on.
    Stream {
        /// The socket on the host.
        socket: PathBuf,
    },
}

impl Transport {
    /// The socket on the host.
    pub fn socket(&self) -> &Path {
        match self {
            Self::Vsock { socket, .. } | Self::Stream { socket } => socket,
        }
    }
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The VM ended first.
    #[error("the VM ended before its agent answered")]
    Ended,
    /// The time allowed is over.
    #[error("the guest's agent did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The socket cannot be used at all.
    #[error("cannot reach the guest through {}: {error}", .socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// How long to wait for the agent, and whether waiting has a point.
pub struct Patience<'a> {
    /// Since when.
    pub since: Instant,
    /// For how long.
    pub limit: Duration,
    /// Whether the VM still runs.
    pub alive: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    pub(super) fn is_over(&self) -> bool {
        self.check().is_err()
    }

    pub(super) fn check(&self) -> Result<(), ConnectError> {
        if !(self.alive)() {
            return Err(ConnectError::Ended);
        }
        if self.since.elapsed() >= self.limit {
            return Err(ConnectError::TimedOut(self.limit));
        }
        Ok(())
    }

    /// The pause before the next attempt: a twentieth of the time already waited, so that neither a guest that boots in
    /// milliseconds waits for ferry, nor one that needs a minute is kept busy with refusing it.
    pub(super) fn pause(&self) -> Duration {
        (self.since.elapsed() / 20).clamp(Duration::from_millis(2), Duration::from_millis(500))
    }
}

/// How often a wait is interrupted to see whether the VM is alive.
const HEARTBEAT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// The longest answer to `CONNECT`: `OK ` and a 32-bit number.
const MAX_ANSWER: usize = 32;

/// Connects, trying again while the guest boots.
pub fn connect(transport: &Transport, patience: &Patience<'_>) -> Result<UnixStream, ConnectError> {
    let socket = transport.socket();
    loop {
        patience.check()?;
        let attempt = match UnixStream::connect(socket) {
            Ok(stream) => match transport {
                Transport::Vsock { port, .. } => handshake(stream, *port, patience)?,
                Transport::Stream { .. } => Some(stream),
            },
            // The device has not made its socket yet.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                None
            }
            Err(error) => return Err(ConnectError::Io { socket: socket.to_owned(), error }),
        };
        match attempt {
            Some(stream) => return Ok(stream),
            None => std::thread::sleep(patience.pause()),
        }
    }
}

/// One `CONNECT`; `None` when the guest has refused it.
fn handshake(
    mut stream: UnixStream,
    port: u32,
    patience: &Patience<'_>,
) -> Result<Option<UnixStream>, ConnectError> {
    if stream.write_all(format!("CONNECT {port}\n").as_bytes()).is_err() {
        return Ok(None);
    }
    let mut answer = Vec::with_capacity(MAX_ANSWER);
    // Byte by byte: what follows the line belongs to the agent.
    while answer.last() != Some(&b'\n') && answer.len() < MAX_ANSWER {
        loop {
            let ready = poll(&mut [PollFd::new(&stream, PollFlags::IN)], Some(&HEARTBEAT));
            if matches!(ready, Ok(1..)) {
                break;
            }
            patience.check()?;
        }
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => answer.push(byte[0]),
            _ => return Ok(None),
        }
    }
    Ok(answer.starts_with(b"OK ").then_some(stream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn patience(limit_ms: u64, alive: &dyn Fn() -> bool) -> Patience<'_> {
        Patience { since: Instant::now(), limit: Duration::from_millis(limit_ms), alive }
    }

    #[test]
    fn tries_again_until_the_guest_listens_and_takes_no_byte_of_the_agents() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsock");
        let path = socket.clone();
        let device = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            let listener = UnixListener::bind(path).unwrap();
            for refused in [true, true, false] {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                assert_eq!(line, "CONNECT 1024\n");
                if !refused {
                    reader.get_mut().write_all(b"OK 1073741824\nhello").unwrap();
                }
            }
        });
        let mut stream = connect(&Transport::Vsock { socket, port: 1024 }, &patience(5000, &|| true))
            .expect("a connection");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "hello");
        device.join().unwrap();
    }

    #[test]
    fn a_dead_vm_ends_the_wait_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsock");
        // A device that takes the connection and never answers.
        let _listener = UnixListener::bind(&socket).unwrap();
        let alive = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                alive.store(false, Ordering::Relaxed);
            });
            let transport = Transport::Vsock { socket: socket.clone(), port: 1024 };
            let got = connect(&transport, &patience(60_000, &|| alive.load(Ordering::Relaxed)));
            assert!(matches!(got, Err(ConnectError::Ended)));
        });
    }

    #[test]
    fn waiting_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let transport = Transport::Stream { socket: dir.path().join("never") };
        assert!(matches!(connect(&transport, &patience(30, &|| true)), Err(ConnectError::TimedOut(_))));
    }

    #[test]
    fn an_endless_answer_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(&[b'x'; 4096]);
            }
        });
        let transport = Transport::Vsock { socket, port: 1024 };
        assert!(matches!(connect(&transport, &patience(100, &|| true)), Err(ConnectError::TimedOut(_))));
    }
}
