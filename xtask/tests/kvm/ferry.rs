//! The `ferry` command of this checkout, as its users type it.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use crate::PATIENCE;
use crate::road::xtask;

/// `ferry` with a home of its own.
pub struct Ferry {
    pub program: PathBuf,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub home: tempfile::TempDir,
}

/// What `xtask build PART` says of where it is.
fn built(part: &str, name: &str) -> PathBuf {
    let outcome = xtask(&["build", part]).within(PATIENCE).run();
    outcome.exits(0);
    let beginning = format!("xtask: {name}: ");
    // The last such line: those before it tell how far a long build is.
    let line = outcome.stderr.lines().rev().find_map(|line| line.strip_prefix(beginning.as_str()));
    let (path, _size) = line.and_then(|line| line.rsplit_once(" (")).expect("it says where it is");
    PathBuf::from(path)
}

/// The layout of an image of the tests.
pub fn image(name: &str) -> PathBuf {
    let image = xtask(&["build", "image", name]).run();
    image.exits(0);
    PathBuf::from(image.text().trim())
}

impl Ferry {
    pub fn new() -> Ferry {
        let given = std::env::var_os("FERRY_KERNEL").map(PathBuf::from);
        Ferry {
            program: built("ferry", "ferry"),
            kernel: given.unwrap_or_else(|| built("kernel", "kernel")),
            initrd: built("init", "initrd"),
            home: tempfile::tempdir().expect("a directory"),
        }
    }

    /// With this kernel and initrd, and in this home.
    fn at_home<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("FERRY_KERNEL", &self.kernel)
            .env("FERRY_INITRD", &self.initrd)
            .env("HOME", self.home.path())
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_RUNTIME_DIR")
            .env("TMPDIR", self.home.path())
    }

    pub fn run(&self, words: &[&str]) -> Output {
        let began = Instant::now();
        let mut command = Command::new(&self.program);
        let output = self.at_home(command.args(words)).stdin(Stdio::null()).output().expect("ferry starts");
        println!("ferry {}: {}, {:?}", words.join(" "), output.status, began.elapsed());
        output
    }

    /// Runs a command on a terminal, and leaves it by the detach keys when it has written this.
    pub fn is_left(&self, words: &[&str], when: &str) {
        let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
        let program = self.program.display().to_string();
        let line: Vec<String> = [program.as_str()].iter().chain(words).map(|word| quoted(word)).collect();
        let began = Instant::now();
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]);
        let mut terminal =
            self.at_home(&mut command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script");
        let (mut keys, mut screen) =
            (terminal.stdin.take().expect("a pipe"), terminal.stdout.take().expect("a pipe"));
        let (mut shown, mut piece, mut is_typed) = (Vec::new(), [0; 4096], false);
        while let Ok(length @ 1..) = screen.read(&mut piece) {
            shown.extend_from_slice(&piece[..length]);
            if !is_typed && String::from_utf8_lossy(&shown).contains(when) {
                keys.write_all(b"\x10\x11").expect("it is typed");
                is_typed = true;
            }
        }
        let (status, shown) =
            (terminal.wait().expect("it ends"), String::from_utf8_lossy(&shown).into_owned());
        println!("ferry {} on a terminal: {status}, {:?}", words.join(" "), began.elapsed());
        assert!(status.success() && is_typed && shown.contains("which runs on"), "{status}: {shown}");
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn says(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ferry {}: {}: {errors}", words.join(" "), output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The one line that a command fails with.
    #[track_caller]
    pub fn refuses(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(125), "ferry {}", words.join(" "));
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }

    /// What `inspect` shows of a container.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> serde_json::Value {
        let shown: serde_json::Value = serde_json::from_str(&self.says(&["inspect", name])).expect("JSON");
        shown[0].clone()
    }

    /// Where containers are kept.
    pub fn containers(&self) -> PathBuf {
        self.home.path().join(".local/state/ferry/containers")
    }

    /// Whether there is no container's directory and no directory of sockets.
    pub fn is_clean(&self) -> bool {
        let count = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
        let sockets = fs::read_dir(self.home.path()).expect("a home").flatten();
        let sockets = sockets.filter(|entry| entry.file_name().to_string_lossy().starts_with("ferry-"));
        count(&self.containers()) == 0 && sockets.count() == 0
    }
}

/// Whatever a test came to, nothing of it runs on.
impl Drop for Ferry {
    fn drop(&mut self) {
        let names: Vec<String> = fs::read_dir(self.containers())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        for name in names {
            self.run(&["rm", "-f", &name]);
        }
    }
}

/// The processes that `parent` has started by the name `name`.
pub fn children(parent: u32, name: &str) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<u32> = lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    let is_called =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|own| own.trim_end() == name);
    pids.into_iter().filter(is_called).collect()
}
