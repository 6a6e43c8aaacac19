//! Writing the log: lines out of a stream of bytes, files that are not larger than they may be.

use super::{Capacity, Line, Stream, file_in};
use crate::runtime::clock;
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A longer line is written in pieces of this many bytes, as Docker does it.
const LONGEST_PIECE: usize = 16 << 10;

/// Puts a stream's bytes together to lines.
#[derive(Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes more of the stream; `line` gets every line that is complete, its newline included.
    pub fn take(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = LONGEST_PIECE - self.begun.len();
            let newline = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let length = newline.map_or(room.min(bytes.len()), |at| at + 1);
            let (now, later) = bytes.split_at(length);
            bytes = later;
            self.begun.extend_from_slice(now);
            if newline.is_some() {
                line(&self.begun);
                self.begun.clear();
            } else if self.begun.len() == LONGEST_PIECE {
                // A character is not cut in two.
                let whole = self.begun.len() - cut_character(&self.begun);
                line(&self.begun[..whole]);
                self.begun.drain(..whole);
            }
        }
    }

    /// The stream has ended; `line` gets what has no newline.
    pub fn finish(&mut self, line: impl FnOnce(&[u8])) {
        if !self.begun.is_empty() {
            line(&self.begun);
            self.begun.clear();
        }
    }
}

/// How many bytes at the end are the beginning of a UTF-8 character that goes on.
fn cut_character(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    match tail.iter().rposition(|byte| byte & 0xc0 == 0xc0) {
        Some(at) => {
            let wanted = match tail[at] {
                0xf0.. => 4,
                0xe0.. => 3,
                _ => 2,
            };
            let present = tail.len() - at;
            if present < wanted { present } else { 0 }
        }
        None => 0,
    }
}

/// The log of one container, being written.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    capacity: Capacity,
    file: File,
    written: u64,
}

impl Writer {
    /// Goes on with the log in `directory`, or begins one.
    pub fn open(directory: &Path, capacity: Capacity) -> io::Result<Self> {
        let file = open(directory)?;
        let written = file.metadata()?.len();
        Ok(Self { directory: directory.to_owned(), capacity, file, written })
    }

    /// Adds a line.
    pub fn add(&mut self, stream: Stream, text: &[u8]) -> io::Result<()> {
        let time = Cow::Owned(clock::rfc3339(clock::now()));
        let line = Line { log: String::from_utf8_lossy(text), stream, time };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        let length = bytes.len() as u64;
        if self.written > 0 && self.written + length > self.capacity.bytes {
            self.rotate()?;
        }
        self.file.write_all(&bytes)?;
        self.written += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let oldest = self.capacity.files.saturating_sub(1);
        if oldest == 0 {
            fs::remove_file(file_in(&self.directory, 0))?;
        }
        for age in (0..oldest).rev() {
            match fs::rename(file_in(&self.directory, age), file_in(&self.directory, age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = open(&self.directory)?;
        self.written = 0;
        Ok(())
    }
}

fn open(directory: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(file_in(directory, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        chunks.iter().for_each(|chunk| lines.take(chunk, |line| found.push(line.to_vec())));
        lines.finish(|line| found.push(line.to_vec()));
        found
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        assert_eq!(lines(&[b"a", b"b\nc\n\nd"]), [&b"ab\n"[..], b"c\n", b"\n", b"d"]);
        assert!(lines(&[b"", b""]).is_empty());
    }

    #[test]
    fn a_long_line_comes_in_pieces_that_cut_no_character() {
        let mut text = vec![b'x'; LONGEST_PIECE - 1];
        text.extend("€uro\n".as_bytes());
        let found = lines(&[&text]);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [LONGEST_PIECE - 1, 7]);
        assert!(found.iter().all(|line| std::str::from_utf8(line).is_ok()));
    }

    /// A stretch of one character, whole or not, which may be longer than a piece; or bytes of any kind.
    fn stretch() -> impl Strategy<Value = Vec<u8>> {
        let character = prop_oneof![Just(&b"x"[..]), Just("€".as_bytes()), Just(&b"\xe2"[..])];
        prop_oneof![
            (character, 0..20_000usize).prop_map(|(character, times)| character.repeat(times)),
            proptest::collection::vec(prop_oneof![Just(b'\n'), Just(0xe2u8), any::<u8>()], 0..60),
        ]
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_whatever_the_pieces(chunks in proptest::collection::vec(
            proptest::collection::vec(stretch(), 0..5).prop_map(|stretches| stretches.concat()), 0..6)) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let found = lines(&chunks);
            prop_assert!(found.iter().all(|line| !line.is_empty() && line.len() <= LONGEST_PIECE));
            prop_assert_eq!(found.concat(), chunks.concat());
        }
    }

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let directory = tempfile::tempdir().unwrap();
        let capacity = Capacity { bytes: 1000, files: 3 };
        let mut log = Writer::open(directory.path(), capacity).unwrap();
        for number in 0..100 {
            log.add(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
            // A restarted container goes on where the log ended.
            if number % 7 == 0 {
                log = Writer::open(directory.path(), capacity).unwrap();
            }
        }
        let files: Vec<_> = fs::read_dir(directory.path()).unwrap().flatten().collect();
        assert_eq!(files.len(), 3);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= 1000));
        let newest = fs::read_to_string(file_in(directory.path(), 0)).unwrap();
        assert!(newest.contains("line 99\\n"), "{newest}");
    }

    #[test]
    fn a_single_file_begins_anew_when_it_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Writer::open(directory.path(), Capacity { bytes: 200, files: 1 }).unwrap();
        for _ in 0..10 {
            log.add(Stream::Stderr, b"\xff and more\n").unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let text = fs::read_to_string(file_in(directory.path(), 0)).unwrap();
        let line: Line<'_> = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((line.log.as_ref(), line.stream), ("\u{fffd} and more\n", Stream::Stderr));
    }
}
