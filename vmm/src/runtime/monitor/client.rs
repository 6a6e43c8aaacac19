//! Asking a container's monitor for things.

use super::protocol::{self, Answer, Kind, Request, SOCKET, receive, send, send_json};
use crate::runtime::record::Record;
use crate::runtime::state::Listed;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Why a request was not granted.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no monitor.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// It refused.
    #[error("container {name}: {reason}")]
    Refused {
        /// The container.
        name: String,
        /// Its words.
        reason: String,
    },
    /// It does not answer.
    #[error("container {name}: the ferry that runs it (process {pid}) does not answer: {error}")]
    Silent {
        /// The container.
        name: String,
        /// The monitor's process.
        pid: u32,
        /// What the system says.
        error: io::Error,
    },
}

/// Where a container's monitor listens.
fn socket_of(record: &Record) -> PathBuf {
    let name = if record.socket.is_empty() { SOCKET } else { &record.socket };
    record.runtime_directory.join(name)
}

/// How long a monitor may take over a request, beyond what the request itself waits for.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection on which a request was granted.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    name: String,
    pid: u32,
    told: Option<String>,
}

/// Connects to a container's monitor and asks.
pub fn ask(container: &Listed, request: &Request) -> Result<Connection, AskError> {
    let record = &container.record;
    let not_running = || AskError::NotRunning(record.name.clone());
    let silent = |error| AskError::Silent { name: record.name.clone(), pid: record.pid, error };
    if !container.alive || record.runtime_directory.as_os_str().is_empty() {
        return Err(not_running());
    }
    let stream = match UnixStream::connect(socket_of(record)) {
        Ok(stream) => stream,
        // A socket that nobody listens at, or none any more: it has ended just now.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(not_running());
        }
        Err(error) => return Err(silent(error)),
    };
    let patience = match request {
        Request::Stop { seconds } => {
            ANSWER.saturating_add(Duration::from_secs(seconds.unwrap_or(record.made.stop_timeout).into()))
        }
        // As long as the disk takes.
        Request::Dump { .. } => Duration::from_secs(24 * 3600),
        _ => ANSWER,
    };
    stream.set_read_timeout(Some(patience)).map_err(silent)?;
    send_json(&stream, Kind::Request, request).map_err(silent)?;
    let answer = match receive(&stream) {
        Ok(Some((Kind::Answer, bytes))) => {
            serde_json::from_slice(&bytes).map_err(|error| silent(error.into()))?
        }
        Ok(None) => return Err(not_running()),
        Ok(Some(_)) => {
            return Err(silent(io::Error::new(io::ErrorKind::InvalidData, "its answer makes no sense")));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(not_running()),
        Err(error) => return Err(silent(error)),
    };
    stream.set_read_timeout(None).map_err(silent)?;
    match answer {
        Answer::Done => Ok(Connection { stream, name: record.name.clone(), pid: record.pid, told: None }),
        Answer::Told(text) => {
            Ok(Connection { stream, name: record.name.clone(), pid: record.pid, told: Some(text) })
        }
        Answer::Refused(reason) => Err(AskError::Refused { name: record.name.clone(), reason }),
    }
}

/// What a container's process writes, or its end.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Standard output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// Its exit status.
    Exit(u8),
}

impl Connection {
    /// What was asked for.
    pub fn told(self) -> Option<String> {
        self.told
    }

    /// The next news; after [`News::Exit`] there are none.
    pub fn next(&self) -> Result<News, AskError> {
        let fault = |error| AskError::Silent { name: self.name.clone(), pid: self.pid, error };
        match receive(&self.stream) {
            Ok(Some((Kind::Stdout, bytes))) => Ok(News::Stdout(bytes)),
            Ok(Some((Kind::Stderr, bytes))) => Ok(News::Stderr(bytes)),
            Ok(Some((Kind::Exit, bytes))) if bytes.len() == 1 => Ok(News::Exit(bytes[0])),
            Ok(Some(_)) => {
                Err(fault(io::Error::new(io::ErrorKind::InvalidData, "a frame that makes no sense")))
            }
            Ok(None) => {
                Err(fault(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended without a word")))
            }
            Err(error) => Err(fault(error)),
        }
    }

    /// Waits for the end of the container's process.
    pub fn exit(&self) -> Result<u8, AskError> {
        loop {
            if let News::Exit(status) = self.next()? {
                return Ok(status);
            }
        }
    }

    /// Sends input, a window's size or a signal.
    pub fn send(&self, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(protocol::LONGEST).try_for_each(|bytes| send(&self.stream, kind, bytes))
    }
}
