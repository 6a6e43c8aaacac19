//! What writes a service's output down: a child that may wait for a slow disk or console, which PID 1 never does.

use super::{say, storage::make_directories};
use crate::api::appliance::Log;
use crate::prelude::*;
use crate::sys::file::*;

/// Longest line that goes to the kernel's log at once, in bytes: a record there has about 1000.
const LINE: usize = 800;

/// A file that becomes older files when it is full.
struct LogFile<'a> {
    path: &'a str,
    limit: u64,
    count: u32,
    /// The open file and its size.
    open: Option<(Fd, u64)>,
}

impl LogFile<'_> {
    fn path(&self, age: u32) -> String {
        if age == 0 { self.path.into() } else { format!("{}.{age}", self.path) }
    }

    fn write(&mut self, text: &[u8]) -> SysResult<()> {
        let more = text.len() as u64;
        let (file, size) = match self.open.take() {
            Some((_, size)) if size != 0 && size + more > self.limit => {
                for age in (1..self.count).rev() {
                    // What is not there need not grow older.
                    let _ = rename(&self.path(age - 1), &self.path(age));
                }
                self.open(if self.count == 1 { O_TRUNC } else { 0 })?
            }
            Some(open) => open,
            None => self.open(0)?,
        };
        let result = write_all(file.raw(), text);
        self.open = Some((file, size + more));
        result
    }

    /// Opens the file, and says its size.
    fn open(&self, how: u32) -> SysResult<(Fd, u64)> {
        let above = self.path.rsplit_once('/').map_or("", |(above, _)| above);
        make_directories(above)?;
        let file = open(CWD, self.path, O_WRONLY | O_APPEND | O_CREAT | how, 0o640)?;
        let size = u64::try_from(stat_at(file.raw(), "")?.st_size).unwrap_or(0);
        Ok((file, size))
    }
}

/// Writes down what comes until it ends.
pub fn write_down(input: i32, name: &str, log: &Log) {
    let (limit, count) = (if log.file_bytes == 0 { 10 << 20 } else { log.file_bytes }, log.files);
    let mut file = LogFile {
        path: &log.file,
        limit: limit.into(),
        count: if count == 0 { 3 } else { count.min(100) },
        open: None,
    };
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = read(input, &mut chunk) {
        let text = &chunk[..length];
        if !log.file.is_empty() {
            // A full disk loses what does not fit.
            let _ = file.write(text);
        }
        if log.console {
            for &byte in text {
                if byte != b'\n' {
                    // A console is a terminal: nothing may move its cursor.
                    line.push(if byte < b' ' && byte != b'\t' || byte == 0x7f { b'?' } else { byte });
                }
                if byte == b'\n' || line.len() == LINE {
                    say_line(name, &line);
                    line.clear();
                }
            }
        }
    }
    if !line.is_empty() {
        say_line(name, &line);
    }
}

fn say_line(name: &str, line: &[u8]) {
    say(&[b"<3>", name.as_bytes(), b": ", line, b"\n"].concat());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_grows_older_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/web.log");
        let text = |age: &str| std::fs::read_to_string(format!("{}{age}", path.display())).ok();
        for count in [1, 3] {
            let mut file = LogFile { path: path.to_str().unwrap(), limit: 10, count, open: None };
            for word in ["first\n", "second\n", "third\n", "fourth\n"] {
                file.write(word.as_bytes()).unwrap();
            }
            assert_eq!(text("").as_deref(), Some("fourth\n"));
            assert_eq!(text(".1"), (count == 3).then(|| "third\n".into()));
            assert_eq!(text(".2"), (count == 3).then(|| "second\n".into()));
            assert_eq!(text(".3"), None);
        }
        // A later start goes on where the file is.
        let mut file = LogFile { path: path.to_str().unwrap(), limit: 20, count: 3, open: None };
        file.write(b"fifth\n").unwrap();
        assert_eq!(text("").as_deref(), Some("fourth\nfifth\n"));
    }
}
