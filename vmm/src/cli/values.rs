//! What the values of `ferry run`'s options mean: sizes, counts, and what `--overlay`, `--log-opt` and `--platform` take.

use crate::runtime::logs::{LEAST_BYTES, MOST_FILES};
use crate::runtime::size::{MIB, parse_size};

/// The value of `--overlay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    /// A scratch disk, perhaps of a size in bytes.
    Disk(Option<u64>),
    /// The guest's memory.
    Tmpfs,
}

/// The value of `--log-opt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOption {
    /// Bytes of one file.
    Size(u64),
    /// Number of files.
    Files(u32),
}

/// Reads the value of `--platform`.
pub(super) fn parse_platform(text: &str) -> Result<(), String> {
    match text.to_ascii_lowercase().as_str() {
        "linux" | "amd64" | "x86_64" | "linux/amd64" | "linux/x86_64" => Ok(()),
        _ => Err("the machine is an x86-64 one: only images for linux/amd64 run".to_owned()),
    }
}

/// Reads the value of `--log-opt`.
pub fn parse_log_option(text: &str) -> Result<LogOption, String> {
    match text.split_once('=') {
        Some(("max-size", size)) => parse_log_size(size).map(LogOption::Size),
        Some(("max-file", files)) => files
            .parse()
            .map_err(|_| format!("'{files}' is not a number"))
            .and_then(check_log_files)
            .map(LogOption::Files),
        _ => Err("it is max-size=SIZE or max-file=NUMBER".to_owned()),
    }
}

/// Reads the size of a log's file.
pub fn parse_log_size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(bytes) if bytes < LEAST_BYTES => Err(format!("at least {LEAST_BYTES} bytes")),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a log may have so many files.
pub fn check_log_files(files: u32) -> Result<u32, String> {
    if (1..=MOST_FILES).contains(&files) { Ok(files) } else { Err(format!("from 1 to {MOST_FILES} files")) }
}

/// Reads the value of `--overlay`.
pub fn parse_overlay(text: &str) -> Result<Overlay, String> {
    match text.split_once('=') {
        None if text == "disk" => Ok(Overlay::Disk(None)),
        None if text == "tmpfs" => Ok(Overlay::Tmpfs),
        Some(("disk", size)) => {
            parse_size(size).map(|bytes| Overlay::Disk(Some(bytes))).map_err(|e| e.to_string())
        }
        _ => Err("it is disk, disk=SIZE or tmpfs".to_owned()),
    }
}

/// Reads the value of `--cpus`: a whole number, also written as Docker's decimal.
pub fn parse_cpus(text: &str) -> Result<u8, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !fraction.bytes().all(|digit| digit == b'0') {
        return Err("a machine has whole vCPUs: 1, 2, …".to_owned());
    }
    let most = crate::machine::layout::MAX_VCPUS;
    match whole.parse::<u8>() {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        _ => Err(format!("it is a number from 1 to {most}")),
    }
}

/// Reads the value of `--memory` into MiB, rounded up.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    if bytes < MIB && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text} bytes of memory? For MiB write {text}m"));
    }
    // Rounded up, it is still a number of bytes.
    match bytes.checked_next_multiple_of(MIB) {
        Some(bytes) => Ok(bytes / MIB),
        None => Err(format!("{text} of memory is more than any machine has")),
    }
}

/// Reads the value of `--memory-limit` into bytes.
pub(super) fn parse_limit(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}
