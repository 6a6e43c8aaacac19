//! The `ferry` command with a home of its own, for containers whose guest is a script.

use super::guest::Script;
use ferry_vmm::machine::Image;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What a busy machine may take for anything here.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A place for everything that ferry keeps.
pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(home.0.path().join("image/bin")).unwrap();
        fs::write(home.0.path().join("image/bin/true"), "").unwrap();
        fs::write(home.0.path().join("initrd"), [0; 512]).unwrap();
        home
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// `ferry` with arguments.
    pub fn ferry(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("HOME", self.0.path()).env("XDG_DATA_HOME", self.0.path().join("data"));
        command.env("XDG_RUNTIME_DIR", self.0.path()).env_remove("XDG_STATE_HOME");
        command
    }

    /// `ferry run` with a guest that plays a script.
    pub fn run(&self, script: Script, options: &[&str]) -> Command {
        self.run_with(script, &[options, &["--network", "none"]].concat(), &[])
    }

    /// The same with a network and options of ferry's own.
    pub fn run_with(&self, script: Script, options: &[&str], global: &[&str]) -> Command {
        let Image::Bytes(kernel) = script.kernel() else { panic!("a script's kernel is bytes") };
        fs::write(self.0.path().join("kernel"), &*kernel).unwrap();
        let (kernel, initrd) = (self.path("kernel"), self.path("initrd"));
        let mut command = self.ferry(global);
        command.args(["run", "--memory", "64m", "--kernel", &kernel, "--initrd", &initrd]).args(options);
        command.args([&format!("dir:{}", self.path("image")), "/bin/true"]);
        command
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.ferry(arguments).output().unwrap();
        assert!(output.status.success(), "ferry {}: {}", arguments.join(" "), shown(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The one line that a command fails with.
    #[track_caller]
    pub fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.ferry(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "ferry {}", arguments.join(" "));
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }

    /// What `inspect` shows of a container.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> serde_json::Value {
        let shown: serde_json::Value = serde_json::from_str(&self.says(&["inspect", name])).unwrap();
        shown[0].clone()
    }

    /// The part of that about its life.
    #[track_caller]
    pub fn state(&self, name: &str) -> serde_json::Value {
        self.inspect(name)["State"].clone()
    }

    /// What its VM has done so far, once there is one that can be asked.
    pub fn metrics(&self, name: &str) -> Option<serde_json::Value> {
        let output = self.ferry(&["stats", "--metrics", "--format", "json", name]).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Whether there is no container's directory and no directory of sockets.
    pub fn is_clean(&self) -> bool {
        let count = |path: &str| fs::read_dir(self.path(path)).map_or(0, Iterator::count);
        let sockets = fs::read_dir(self.0.path()).unwrap().flatten();
        let sockets = sockets.filter(|entry| entry.file_name().to_string_lossy().starts_with("ferry-"));
        count(".local/state/ferry/containers") == 0 && sockets.count() == 0
    }
}

/// How a command ended and what it said, for a message.
pub fn shown(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}: {out}{err}", output.status)
}

/// Waits until there is something.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "no sign of {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn kill(process: u32) {
    let process = process.try_into().unwrap();
    // SAFETY: takes no pointer; the process is one that the test has started, by way of ferry.
    assert_eq!(unsafe { libc::kill(process, libc::SIGKILL) }, 0);
}

/// Whether a process runs; one that nobody has waited for yet does not.
pub fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The processes whose argument vectors are as asked.
pub fn processes(is_one: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|process| is_one(&words(*process))).collect()
}

/// The processes that `parent` has started by a name.
pub fn children(parent: u32, name: &str) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).map(|tasks| tasks.flatten().collect::<Vec<_>>());
    let lists = tasks.unwrap_or_default().into_iter();
    let lists = lists.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let all: Vec<u32> = lists
        .flat_map(|list| list.split_whitespace().map(|n| n.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    let name_of = |process| fs::read_to_string(format!("/proc/{process}/comm"));
    all.into_iter().filter(|process| name_of(*process).is_ok_and(|own| own.trim_end() == name)).collect()
}

fn words(process: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// What a process writes, line by line, while it runs: each byte a character.
pub struct Lines {
    lines: Receiver<String>,
    /// All that has been waited for.
    pub before: String,
}

impl Lines {
    pub fn of(from: impl Read + Send + 'static) -> Self {
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while let Ok(1..) = from.read_until(b'\n', &mut line) {
                if tell.send(line.iter().map(|byte| char::from(*byte)).collect()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self { lines, before: String::new() }
    }

    /// Waits for a line with this in it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("no {text:?} ({error}) in: {}", self.before));
            self.before.push_str(&line);
            if line.contains(text) {
                return;
            }
        }
    }
}
