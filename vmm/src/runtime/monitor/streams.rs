//! The standard streams of a detached container: pipes whose other ends are its log and those who are attached.

use super::hub::Hub;
use super::protocol::Kind;
use crate::agent::session::{Keyboard, Stdio};
use crate::runtime::logs::{Lines, Stream, Writer};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Most bytes carried at once. A pipe holds as much.
const CHUNK: usize = 64 << 10;

/// The monitor's ends, while one process of the container lives.
#[derive(Debug)]
pub struct Captured {
    /// Writes to the process's stdin, where it has one.
    pub stdin: Option<File>,
    readers: Vec<JoinHandle<()>>,
}

impl Captured {
    /// Waits until all output has been passed on. The session's ends must be closed by then.
    pub fn finish(self) {
        drop(self.stdin);
        for reader in self.readers {
            // A panic has said its words already.
            let _ = reader.join();
        }
    }
}

/// Makes the streams of one process: the session's ends and ours.
pub fn capture(log: Writer, hub: &Arc<Hub>, interactive: bool) -> io::Result<(Stdio, Captured)> {
    let log = Arc::new(Mutex::new(log));
    let mut readers = Vec::new();
    let mut output = |stream, kind| -> io::Result<OwnedFd> {
        let (ours, theirs) = pipe()?;
        let (log, hub) = (Arc::clone(&log), Arc::clone(hub));
        let reader = std::thread::Builder::new()
            .name("output".into())
            .spawn(move || carry(ours.into(), stream, kind, &log, &hub))?;
        readers.push(reader);
        Ok(theirs)
    };
    let stdout = Some(output(Stream::Stdout, Kind::Stdout)?);
    let stderr = Some(output(Stream::Stderr, Kind::Stderr)?);
    let (stdin, feed) = match interactive {
        true => pipe().map(|(read, write)| (Some(read), Some(write.into())))?,
        false => (None, None),
    };
    Ok((Stdio { stdin, stdout, stderr, keyboard: Keyboard::Untouched }, Captured { stdin: feed, readers }))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn carry(mut from: File, stream: Stream, kind: Kind, log: &Mutex<Writer>, hub: &Hub) {
    let mut chunk = vec![0; CHUNK];
    let mut lines = Lines::default();
    let mut failed = false;
    let mut add = |line: &[u8]| {
        let added = log.lock().unwrap_or_else(PoisonError::into_inner).add(stream, line);
        // A full disk must not end the container; that lines are missing is said once.
        if let Err(error) = added
            && !std::mem::replace(&mut failed, true)
        {
            tracing::warn!(%error, ?stream, "output is missing in the container's log");
        }
    };
    loop {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => {
                hub.output(kind, &chunk[..length]);
                lines.take(&chunk[..length], &mut add);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(%error, ?stream, "the container's output cannot be read");
                break;
            }
        }
    }
    lines.finish(add);
}
