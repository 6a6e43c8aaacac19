//! Reading the log, also while it is written and its files change their names.

use super::{Line, MOST_FILES, file_in};
use crate::runtime::clock;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No line that the writer makes is longer: 16 KiB of text in which every byte may take six.
const LONGEST_LINE: u64 = 256 << 10;
/// How often a follower looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query {
    /// Only so many at the end.
    pub tail: Option<usize>,
    /// Only those from this time on; nanoseconds since 1970.
    pub since: Option<u64>,
    /// Only those up to this time.
    pub until: Option<u64>,
}

/// Whether more is waited for at the end.
pub enum Follow<'a> {
    /// No.
    No,
    /// While this says that more may come.
    While(&'a mut dyn FnMut() -> bool),
}

/// A place in a log.
pub struct Reader {
    directory: PathBuf,
    /// `None` where nothing was ever written.
    file: Option<BufReader<File>>,
    inode: u64,
    begun: Vec<u8>,
}

impl Reader {
    /// The beginning of the log in `directory`.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let mut reader = Self { directory: directory.to_owned(), file: None, inode: 0, begun: Vec::new() };
        reader.go_to_oldest()?;
        Ok(reader)
    }

    /// Shows the lines that are asked for, in order, to `show`, which may fail.
    pub fn show(
        &mut self,
        query: &Query,
        mut follow: Follow<'_>,
        show: &mut dyn FnMut(&Line<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let wanted = |line: &Line<'_>| match (query.since, query.until) {
            (None, None) => true,
            (since, until) => {
                let time = clock::parse(&line.time).unwrap_or(0);
                since.is_none_or(|since| time >= since) && until.is_none_or(|until| time <= until)
            }
        };
        // The last lines are known when the end is reached for the first time.
        let mut held = query.tail.map(|_| VecDeque::new());
        loop {
            // Asked before reading on, so that what was written before a "no" is read.
            let more = match &mut follow {
                Follow::No => false,
                Follow::While(more) => more(),
            };
            while let Some(bytes) = self.next()? {
                // A line that is none was written by somebody else, or by a ferry whose disk was full.
                let Ok(line) = serde_json::from_slice::<Line<'_>>(&bytes) else { continue };
                if !wanted(&line) {
                    continue;
                }
                match &mut held {
                    None => show(&line)?,
                    Some(_) if query.tail == Some(0) => {}
                    Some(lines) => {
                        if Some(lines.len()) == query.tail {
                            lines.pop_front();
                        }
                        lines.push_back(bytes);
                    }
                }
            }
            for bytes in held.take().into_iter().flatten() {
                if let Ok(line) = serde_json::from_slice::<Line<'_>>(&bytes) {
                    show(&line)?;
                }
            }
            if !more {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The next whole line; `None` where there is none yet.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(line) = self.next_here()? {
                return Ok(Some(line));
            }
            if !self.was_replaced() {
                return Ok(None);
            }
            // The last lines may have come between the look at the end and the change of names.
            if let Some(line) = self.next_here()? {
                return Ok(Some(line));
            }
            self.go_to_newer()?;
        }
    }

    fn next_here(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        loop {
            let room = LONGEST_LINE.saturating_sub(self.begun.len() as u64);
            let read = file.take(room).read_until(b'\n', &mut self.begun)?;
            if self.begun.last() == Some(&b'\n') {
                return Ok(Some(std::mem::take(&mut self.begun)));
            }
            if self.begun.len() as u64 >= LONGEST_LINE {
                // No line of a log; what follows it up to a newline is none either, and is passed over as such.
                self.begun.clear();
            } else if read == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether there is a file that is newer than the one being read.
    fn was_replaced(&self) -> bool {
        match std::fs::metadata(file_in(&self.directory, 0)) {
            Ok(newest) => self.file.is_none() || newest.ino() != self.inode,
            Err(_) => false,
        }
    }

    fn go_to_newer(&mut self) -> io::Result<()> {
        self.begun.clear();
        let here = self.inode;
        // Names change while this looks; what was opened is believed, not what was seen.
        for _ in 0..10 {
            let age = (0..MOST_FILES)
                .map_while(|age| Some((age, std::fs::metadata(file_in(&self.directory, age)).ok()?.ino())))
                .find(|(_, inode)| *inode == here)
                .map(|(age, _)| age);
            match age {
                Some(0) => return Ok(()),
                Some(age) => self.enter(age - 1)?,
                None => self.go_to_oldest()?,
            }
            if self.inode != here {
                return Ok(());
            }
        }
        Ok(())
    }

    fn go_to_oldest(&mut self) -> io::Result<()> {
        let exists = |age: &u32| file_in(&self.directory, *age).exists();
        let count = (0..MOST_FILES).take_while(exists).count() as u32;
        match count.checked_sub(1) {
            Some(oldest) => self.enter(oldest),
            None => Ok(()),
        }
    }

    fn enter(&mut self, age: u32) -> io::Result<()> {
        match File::open(file_in(&self.directory, age)) {
            Ok(file) => {
                self.inode = file.metadata()?.ino();
                self.file = Some(BufReader::new(file));
                Ok(())
            }
            // It was moved on; whoever asked looks again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Capacity, Stream, Writer};
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn texts(directory: &Path, query: &Query, follow: Follow<'_>) -> Vec<String> {
        let mut found = Vec::new();
        Reader::open(directory)
            .unwrap()
            .show(query, follow, &mut |line| {
                found.push(line.log.trim_end().to_owned());
                Ok(())
            })
            .unwrap();
        found
    }

    #[test]
    fn lines_come_in_order_across_files_and_a_tail_is_their_end() {
        let directory = tempfile::tempdir().unwrap();
        assert!(texts(directory.path(), &Query::default(), Follow::No).is_empty());
        let mut log = Writer::open(directory.path(), Capacity { bytes: 1000, files: 3 }).unwrap();
        for number in 0..20 {
            log.add(Stream::Stdout, format!("{number}\n").as_bytes()).unwrap();
        }
        let all = texts(directory.path(), &Query::default(), Follow::No);
        assert_eq!(all, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
        let tail =
            |count| texts(directory.path(), &Query { tail: Some(count), ..Query::default() }, Follow::No);
        assert_eq!(tail(2), ["18", "19"]);
        assert!(tail(0).is_empty());
        assert_eq!(tail(1000), all);
    }

    #[test]
    fn times_bound_what_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let text = "{\"log\":\"old\\n\",\"stream\":\"stdout\",\"time\":\"2020-01-01T00:00:00Z\"}\n\
                    not a line\n\
                    {\"log\":\"new\\n\",\"stream\":\"stderr\",\"time\":\"2024-01-01T00:00:00.5Z\"}\n";
        std::fs::write(file_in(directory.path(), 0), text).unwrap();
        let between = clock::parse("2022-01-01T00:00:00Z");
        let since = Query { since: between, ..Query::default() };
        let until = Query { until: between, ..Query::default() };
        assert_eq!(texts(directory.path(), &since, Follow::No), ["new"]);
        assert_eq!(texts(directory.path(), &until, Follow::No), ["old"]);
    }

    #[test]
    fn garbage_without_an_end_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = vec![b'x'; 3 * LONGEST_LINE as usize + 5];
        bytes.extend(b"\n{\"log\":\"after\",\"stream\":\"stdout\",\"time\":\"\"}\n");
        std::fs::write(file_in(directory.path(), 0), bytes).unwrap();
        assert_eq!(texts(directory.path(), &Query::default(), Follow::No), ["after"]);
    }

    #[test]
    fn a_follower_misses_nothing_while_files_change_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut log = Writer::open(&path, Capacity { bytes: 2000, files: 50 }).unwrap();
                for number in 0..600 {
                    log.add(Stream::Stdout, format!("{number}\n").as_bytes()).unwrap();
                    if number % 100 == 0 {
                        std::thread::sleep(Duration::from_millis(30));
                    }
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut more = || !done.load(Ordering::Relaxed);
            let seen = texts(&path, &Query::default(), Follow::While(&mut more));
            assert_eq!(seen, (0..600).map(|number| number.to_string()).collect::<Vec<_>>());
        });
    }
}
