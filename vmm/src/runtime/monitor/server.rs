//! The socket on which a monitor is asked for things: one thread a connection, a bounded number of them.

use super::hub::Interest;
use super::protocol::{Answer, Kind, Request, receive, send_json};
use super::{Monitor, Phase, lock};
use crate::agent::Signal;
use crate::agent::terminal::Window;
use crate::backends::unix;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a new connection may take to say what it wants.
const FIRST_WORDS: Duration = Duration::from_secs(10);
/// Most connections at once.
const CONNECTIONS: usize = 256;

/// Serves until it is dropped.
pub struct Server(UnixListener);

impl Server {
    /// Listens there, in the container's runtime directory.
    pub fn start(monitor: &Arc<Monitor>, path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        // The directory is closed to others already; so is the socket, wherever it may be moved.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let monitor = Arc::clone(monitor);
        let accepting = listener.try_clone()?;
        std::thread::Builder::new().name("monitor".into()).spawn(move || accept(&accepting, &monitor))?;
        Ok(Self(listener))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // This wakes the thread that waits for connections.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

fn accept(listener: &UnixListener, monitor: &Arc<Monitor>) {
    let count = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // Out of descriptors, say: later there may be some again.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) =>
            {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => return,
        };
        // The directory keeps others out; this does wherever the socket is.
        if !unix::is_friend(&stream) {
            continue;
        }
        if count.load(Ordering::Relaxed) >= CONNECTIONS {
            let answer = Answer::Refused("too many commands are connected to it".to_owned());
            let _ = send_json(&stream, Kind::Answer, &answer);
            continue;
        }
        count.fetch_add(1, Ordering::Relaxed);
        let (monitor, counted) = (Arc::clone(monitor), Arc::clone(&count));
        let begun = std::thread::Builder::new().name("command".into()).spawn(move || {
            if let Err(error) = serve(&monitor, &stream) {
                tracing::debug!(%error, "a command's connection");
            }
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if begun.is_err() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve(monitor: &Arc<Monitor>, stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(FIRST_WORDS))?;
    let Some((Kind::Request, bytes)) = receive(stream)? else { return Ok(()) };
    let request = match serde_json::from_slice(&bytes) {
        Ok(request) => request,
        Err(error) => {
            let answer = Answer::Refused(format!("it is run by another version of ferry ({error})"));
            return send_json(stream, Kind::Answer, &answer);
        }
    };
    stream.set_read_timeout(None)?;
    match request {
        Request::Attach | Request::Own if !monitor.record().is_some_and(|record| record.made.detached) => {
            let reason = "it runs in the foreground: its streams are those of the command that started it";
            send_json(stream, Kind::Answer, &Answer::Refused(reason.to_owned()))
        }
        Request::Attach => follow(monitor, stream, Interest::Everything),
        Request::Own => follow(monitor, stream, Interest::Own),
        Request::Wait => follow(monitor, stream, Interest::End),
        request => send_json(stream, Kind::Answer, &monitor.perform(&request)),
    }
}

fn follow(monitor: &Arc<Monitor>, stream: &UnixStream, interest: Interest) -> io::Result<()> {
    send_json(stream, Kind::Answer, &Answer::Done)?;
    monitor.hub().add(stream.try_clone()?, interest)?;
    // It may have ended before it was followed, and then nobody else says so.
    if let Some(status) = monitor.final_status() {
        monitor.hub().end(status);
    }
    let result = listen(monitor, stream);
    // The hub notices with its next word.
    let _ = stream.shutdown(Shutdown::Both);
    result
}

/// What a follower sends.
fn listen(monitor: &Monitor, stream: &UnixStream) -> io::Result<()> {
    while let Some((kind, bytes)) = receive(stream)? {
        let reach = match &lock(&monitor.situation).phase {
            Phase::Running(reach) => reach.clone(),
            // Its stdin is not there yet, or not any more.
            _ => continue,
        };
        match (kind, bytes.as_slice()) {
            (Kind::Stdin, bytes) => {
                if let Some(stdin) = reach.stdin
                    && let Err(error) = (&*stdin).write_all(bytes)
                {
                    tracing::debug!(%error, "stdin is not taken any more");
                }
            }
            (Kind::Resize, &[a, b, c, d]) => reach
                .remote
                .resize(Window { rows: u16::from_be_bytes([a, b]), columns: u16::from_be_bytes([c, d]) }),
            (Kind::Signal, &[number]) => {
                if let Some(signal) = Signal::from_number(i32::from(number)) {
                    reach.remote.signal(signal);
                }
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that makes no sense here")),
        }
    }
    Ok(())
}

/// What a frame of a window's size holds.
pub fn window_bytes(window: Window) -> [u8; 4] {
    let ([a, b], [c, d]) = (window.rows.to_be_bytes(), window.columns.to_be_bytes());
    [a, b, c, d]
}
