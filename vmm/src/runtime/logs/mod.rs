//! What a detached container writes, kept on the host: a file of JSON objects, one a line, as Docker's `json-file` driver
//! writes them. When the file is full it becomes `container.log.1`, that one `.2`, and so on; the oldest goes.
//!
//! Text that is no UTF-8 is kept with U+FFFD in the place of what is not.

mod read;
mod write;

pub use read::{Follow, Query, Reader};
pub use write::{Lines, Writer};

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of one file.
    pub bytes: u64,
    /// Number of files.
    pub files: u32,
}

/// The least and the most of either that makes sense.
pub const LEAST_BYTES: u64 = 4 << 10;
/// More files than this are a mistake.
pub const MOST_FILES: u32 = 1000;

impl Default for Capacity {
    fn default() -> Self {
        Self { bytes: 10 << 20, files: 3 }
    }
}

/// Which of a process's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line<'a> {
    /// The text, with its newline if it had one.
    pub log: Cow<'a, str>,
    /// Where it came from.
    pub stream: Stream,
    /// When, as RFC 3339.
    pub time: Cow<'a, str>,
}

/// The file that is written now (0), or one of the older ones.
fn file_in(directory: &Path, age: u32) -> PathBuf {
    match age {
        0 => directory.join("container.log"),
        age => directory.join(format!("container.log.{age}")),
    }
}
