//! Files into and out of a container that runs: a source gives items one after the other, a sink makes them.
//!
//! There are three of each: the guest ([`guest`]), the host's file system ([`host`]) and a tar stream ([`stream`]). What comes
//! out of a guest or an archive is hostile: no name of it leads out of the place that the user named.

pub mod guest;
pub mod host;
pub mod stream;

use std::io::{self, Read};

/// The longest path that Linux takes.
const LONGEST_PATH: usize = 4096;

/// Something to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where, below the root of what is copied; empty for the root itself. No part of it is `.` or `..`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was modified, in seconds since 1970.
    pub mtime: i64,
}

/// What can be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file of so many bytes.
    File(u64),
    /// A symbolic link to this.
    Link(Vec<u8>),
    /// A device, a socket, a pipe, a second name of a file: not copied.
    Other,
}

/// Takes items.
pub trait Sink {
    /// Makes one. `content` has as many bytes as a file is said to have, and fails where it has not.
    fn put(&mut self, item: &Item, content: &mut dyn Read) -> Result<(), CopyError>;

    /// All is there.
    fn finish(&mut self) -> Result<(), CopyError> {
        Ok(())
    }
}

/// What of a file's owner and mode is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The permissions, without set-user-ID and set-group-ID; who copies owns.
    Permissions,
    /// The owner, the group and the whole mode.
    Everything,
}

impl Keep {
    fn mode(self, mode: u32) -> u32 {
        match self {
            Self::Permissions => mode & 0o777,
            Self::Everything => mode & 0o7777,
        }
    }
}

/// Why a copy has ended early.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The host refused.
    #[error("{path}: {error}")]
    Host {
        /// With which file.
        path: String,
        /// What it said.
        error: io::Error,
    },
    /// The guest refused.
    #[error("{path} in the container: {error}")]
    Guest {
        /// With which file.
        path: String,
        /// What it said.
        error: crate::agent::CallError,
    },
    /// A name that leads elsewhere.
    #[error("'{0}' is no name that can be copied: it leads out of the place it is copied to")]
    Name(String),
    /// A tree that has no end.
    #[error("{0}: the path is longer than any can be")]
    Endless(String),
}

/// Bytes of a name for people.
pub fn shown(path: &[u8]) -> String {
    crate::agent::printable(&String::from_utf8_lossy(path))
}

/// `directory/name`, or one of them where the other is empty.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match (directory, name) {
        (path, []) | ([], path) => path.to_vec(),
        (directory, name) if directory.ends_with(b"/") => [directory, name].concat(),
        (directory, name) => [directory, b"/", name].concat(),
    }
}

/// A name of an entry in a directory, as a guest tells it.
fn checked_name(name: &[u8]) -> Result<&[u8], CopyError> {
    let bad = matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0);
    if bad { Err(CopyError::Name(shown(name))) } else { Ok(name) }
}

/// A path below a root, as an archive tells it: without what is before its first real part and after its last.
fn checked_path(path: &[u8]) -> Result<Vec<u8>, CopyError> {
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    for part in &parts {
        checked_name(part)?;
    }
    let path = parts.join(&b'/');
    if path.len() >= LONGEST_PATH { Err(CopyError::Endless(shown(&path[..40]))) } else { Ok(path) }
}

/// The last part of a path; none for a root.
pub fn base_name(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').rfind(|part| !matches!(*part, b"" | b".")).unwrap_or_default()
}

/// Reads exactly so many bytes, or fails: what is copied has changed.
struct Exactly<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        match self.from.read(&mut buffer[..room])? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was copied")),
            read => {
                self.left -= read as u64;
                Ok(read)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_archives_stay_below_their_root() {
        for (path, checked) in
            [("a/b", "a/b"), ("./a//b/", "a/b"), ("/etc/passwd", "etc/passwd"), (".", ""), ("", "")]
        {
            assert_eq!(checked_path(path.as_bytes()).unwrap(), checked.as_bytes(), "{path}");
        }
        for path in ["..", "../a", "a/../b", "a/..", "a\0b"] {
            assert!(checked_path(path.as_bytes()).is_err(), "{path}");
        }
        assert!(checked_path(&b"a/".repeat(4000)).is_err());
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert!(checked_name(name).is_err());
        }
    }

    #[test]
    fn names_are_put_together_and_taken_apart() {
        assert_eq!(join(b"/a", b"b"), b"/a/b");
        assert_eq!(join(b"/", b"b"), b"/b");
        assert_eq!(join(b"", b"b"), b"b");
        assert_eq!(join(b"a", b""), b"a");
        assert_eq!(base_name(b"/a/b/"), b"b");
        assert_eq!(base_name(b"/"), b"");
        assert_eq!(base_name(b"a/."), b"a");
    }

    #[test]
    fn a_file_that_shrinks_is_noticed_and_one_that_grows_is_cut() {
        let mut bytes = Vec::new();
        Exactly { from: &b"abcdef"[..], left: 3 }.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"abc");
        assert!(Exactly { from: &b"ab"[..], left: 3 }.read_to_end(&mut bytes).is_err());
    }
}
