//! What commands and a container's monitor say to each other over its socket: frames of a kind, a length and that many
//! bytes. A connection begins with one request; what follows depends on it.
//!
//! Both ends are the same user's, and the socket is in a directory that nobody else may enter. Still neither believes
//! the other's lengths.

use crate::runtime::limits::Limits;
use crate::runtime::restart::Restart;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// The name of the socket in the container's runtime directory.
pub const SOCKET: &str = "monitor";

/// The most bytes of one frame.
pub const LONGEST: usize = 1 << 20;

/// What a command wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The streams of the container's process from now on: frames of output come, frames of input and window sizes go.
    /// Ends with [`Kind::Exit`].
    Attach,
    /// The same for the command that started it, whose terminal holds the output up as it would that of a process there.
    Own,
    /// Nothing but [`Kind::Exit`] when the container's process ends.
    Wait,
    /// Sends the process a signal.
    Signal {
        /// Its number.
        number: u8,
    },
    /// Ends the container: its stop signal first, and a kill after so many seconds (none: what it was made with).
    Stop {
        /// The time it has.
        seconds: Option<u32>,
    },
    /// What its machine has done so far.
    Metrics,
    /// Writes a dump of its machine to a new file.
    Dump {
        /// Its absolute path.
        file: PathBuf,
    },
    /// Freezes its processes.
    Pause,
    /// Lets them go on.
    Unpause,
    /// Changes its limits or its restart policy.
    Update {
        /// The limits to change.
        limits: Limits,
        /// The new policy.
        restart: Option<Restart>,
    },
    /// Reads and drops what a further process writes, until it ends.
    Drain {
        /// The process's id.
        exec: String,
        /// Whether it has a terminal.
        terminal: bool,
    },
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done; for the two requests that go on, it has begun.
    Done,
    /// It is done, and this is what was asked for.
    Told(String),
    /// It is not, for this reason: a sentence without the container's name.
    Refused(String),
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A [`Request`], as JSON.
    Request = 1,
    /// An [`Answer`], as JSON.
    Answer = 2,
    /// Bytes for the process's stdin.
    Stdin = 3,
    /// Rows and columns of the terminal, two bytes each, big-endian.
    Resize = 4,
    /// Bytes of the process's stdout.
    Stdout = 5,
    /// Bytes of its stderr.
    Stderr = 6,
    /// Its exit status, one byte.
    Exit = 7,
    /// A signal for the process, one byte.
    Signal = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Request,
            Self::Answer,
            Self::Stdin,
            Self::Resize,
            Self::Stdout,
            Self::Stderr,
            Self::Exit,
            Self::Signal,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// Sends a frame. At most [`LONGEST`] bytes.
pub fn send(mut to: impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(5 + bytes.len());
    frame.push(kind as u8);
    frame.extend(length.to_be_bytes());
    frame.extend_from_slice(bytes);
    to.write_all(&frame)
}

/// Sends something as JSON.
pub fn send_json(to: impl Write, kind: Kind, what: &impl Serialize) -> io::Result<()> {
    send(to, kind, &serde_json::to_vec(what)?)
}

/// Receives a frame; `None` where the peer has ended the connection between two.
pub fn receive(mut from: impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let fault = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut header = [0; 5];
    if from.read(&mut header[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[1..])?;
    let [kind, a, b, c, d] = header;
    let kind = Kind::from_byte(kind).ok_or_else(|| fault("a frame of an unknown kind"))?;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > LONGEST {
        return Err(fault("a frame that is too long"));
    }
    let mut bytes = Vec::new();
    // Grows with what really arrives.
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((kind, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_sent_is_received() {
        let mut wire = Vec::new();
        let request = Request::Stop { seconds: Some(3) };
        send_json(&mut wire, Kind::Request, &request).unwrap();
        send(&mut wire, Kind::Stdin, b"").unwrap();
        send(&mut wire, Kind::Exit, &[7]).unwrap();
        let mut wire = wire.as_slice();
        let (kind, bytes) = receive(&mut wire).unwrap().unwrap();
        assert_eq!(kind, Kind::Request);
        assert_eq!(serde_json::from_slice::<Request>(&bytes).unwrap(), request);
        assert_eq!(receive(&mut wire).unwrap(), Some((Kind::Stdin, vec![])));
        assert_eq!(receive(&mut wire).unwrap(), Some((Kind::Exit, vec![7])));
        assert_eq!(receive(&mut wire).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut wire = bytes.as_slice();
            while let Ok(Some((_, frame))) = receive(&mut wire) {
                prop_assert!(frame.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_length_alone_commits_nothing() {
        let header = [&[5u8][..], &(LONGEST as u32 + 1).to_be_bytes()].concat();
        assert_eq!(receive(header.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let short = [&[5u8][..], &(LONGEST as u32).to_be_bytes(), b"abc"].concat();
        assert_eq!(receive(short.as_slice()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
