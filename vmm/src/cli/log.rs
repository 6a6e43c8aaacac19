//! Log lines on standard error: warnings always, what is done with `-v`, everything with `-vv`; or what `FERRY_LOG` says.
//!
//! A process that nobody looks at any more has a file instead, which is begun anew when it is full: what was in it is kept
//! once, in a second one.

use clap::ValueEnum;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts writing them.
pub fn start(verbose: u8, format: LogFormat) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let asked = std::env::var("FERRY_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(level));
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let lines = layer().with_writer(|| Words);
    let lines = match format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Text => lines.with_ansi(colours).without_time().with_target(false).boxed(),
    };
    // A second start, in a test, changes nothing.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

/// The most bytes of a file of words, more or less: the line that goes beyond is whole.
const FULL: u64 = 1 << 20;

/// The file that standard output and standard error have become, if they have.
static FILE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// From here on, what this process says on standard output and standard error goes to a file.
pub fn redirect(path: &Path) -> io::Result<()> {
    let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    become_file(&open(path)?)?;
    *file = Some(path.to_owned());
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn become_file(file: &File) -> io::Result<()> {
    for standard in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: both are open, and nobody holds the standard descriptors as his own.
        if unsafe { libc::dup2(file.as_raw_fd(), standard) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Moves the file at `path` out of the way if it is full, and opens a new one.
fn renewed(path: &Path) -> io::Result<Option<File>> {
    if fs::metadata(path)?.len() < FULL {
        return Ok(None);
    }
    let mut before = path.as_os_str().to_owned();
    before.push(".1");
    fs::rename(path, before)?;
    open(path).map(Some)
}

/// Standard error, as long as it need not be watched over.
struct Words;

impl Write for Words {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(path) = &*FILE.lock().unwrap_or_else(PoisonError::into_inner)
            // A file that cannot be renewed is written on: words are worth more than room.
            && let Ok(Some(file)) = renewed(path)
        {
            become_file(&file)?;
        }
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_words_is_renewed_when_it_is_full_and_kept_once() {
        let place = tempfile::tempdir().unwrap();
        let (path, before) = (place.path().join("monitor.log"), place.path().join("monitor.log.1"));
        for round in 0..3u8 {
            let mut file = open(&path).unwrap();
            assert!(renewed(&path).unwrap().is_none());
            file.write_all(&vec![round; FULL as usize]).unwrap();
            let mut new = renewed(&path).unwrap().expect("it is full");
            new.write_all(b"new").unwrap();
            assert_eq!(fs::read(&before).unwrap()[0], round);
            assert_eq!(fs::read(&path).unwrap(), b"new");
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
