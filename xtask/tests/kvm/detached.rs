//! The life of a detached container, one command after the other, as its user types them. One boot for all of it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::road::{stranger, xtask};

/// `ferry` with a home of its own.
pub struct Ferry {
    program: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
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

    pub fn run(&self, words: &[&str]) -> Output {
        let began = Instant::now();
        let output = Command::new(&self.program)
            .args(words)
            .env("FERRY_KERNEL", &self.kernel)
            .env("FERRY_INITRD", &self.initrd)
            .env("HOME", self.home.path())
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_RUNTIME_DIR")
            .env("TMPDIR", self.home.path())
            .stdin(Stdio::null())
            .output()
            .expect("ferry starts");
        println!("ferry {}: {}, {:?}", words.join(" "), output.status, began.elapsed());
        output
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
    fn refuses(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(125), "ferry {}", words.join(" "));
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }
}

/// Whatever the test came to, nothing of it runs on.
impl Drop for Ferry {
    fn drop(&mut self) {
        self.run(&["rm", "-f", "web", "killed", "shared"]);
    }
}

#[test]
fn a_detached_container_lives_through_all_commands() {
    let ferry = Ferry::new();
    let image = xtask(&["build", "image", "hello"]).run();
    image.exits(0);
    let image = format!("oci:{}", image.text().trim());
    let script = "trap 'echo bye; exit 3' TERM; echo one; echo two >&2; while :; do sleep 1; done";
    let id = ferry.says(&["run", "-d", "--name", "web", "--network", "none", &image, "sh", "-c", script]);
    assert_eq!(id.trim().len(), 64, "{id}");
    let other = ferry.refuses(&["run", "-d", "--name", "web", "--network", "none", &image, "true"]);
    assert!(other.contains("in use"), "{other}");

    let ps = ferry.says(&["ps"]);
    assert!(ps.contains("web") && ps.contains("Up "), "{ps}");
    let state = inspect(&ferry, "web");
    assert_eq!((&state["Status"], &state["Running"]), (&"running".into(), &true.into()));

    let exec = ferry.run(&["exec", "-w", "/tmp", "-e", "A=1", "web", "sh", "-c", "pwd; echo $A; exit 9"]);
    assert_eq!((exec.status.code(), exec.stdout.as_slice()), (Some(9), &b"/tmp\n1\n"[..]));
    assert_eq!(ferry.run(&["exec", "web", "no-such-program"]).status.code(), Some(127));

    stranger::whole_life(&over_vsock(ferry.home.path()), "foreign");

    let stats = ferry.says(&["stats", "--no-stream", "--format", "json", "web"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats["Name"], "web");
    ferry.says(&["update", "--pids-limit", "50", "web"]);

    ferry.says(&["pause", "web"]);
    assert!(ferry.says(&["ps"]).contains("(Paused)"));
    assert!(ferry.refuses(&["exec", "web", "true"]).contains("paused"));
    ferry.says(&["unpause", "web"]);

    let stopped = ferry.says(&["stop", "-t", "120", "web"]);
    assert_eq!(stopped, "web\n");
    assert_eq!(ferry.says(&["wait", "web"]), "3\n");
    let state = inspect(&ferry, "web");
    assert_eq!((&state["Status"], &state["ExitCode"]), (&"exited".into(), &3.into()));
    let logs = ferry.run(&["logs", "web"]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "one\nbye\n");
    assert_eq!(String::from_utf8_lossy(&logs.stderr), "two\n");
    assert_eq!(ferry.says(&["logs", "--tail", "1", "web"]), "bye\n");
    assert!(ferry.refuses(&["exec", "web", "true"]).contains("not running"));
    assert_eq!(ferry.says(&["rm", "web"]), "web\n");
    assert!(ferry.refuses(&["logs", "web"]).contains("no such container"));
    assert!(is_clean(ferry.home.path()), "something is left");
}

/// A client of the agent of the one guest that runs, over the socket of its vsock with the handshake that names the port.
fn over_vsock(home: &Path) -> ttrpc::Client {
    let runs = fs::read_dir(home).expect("a home").flatten();
    let run = runs.map(|entry| entry.path().join("vm/vsock")).find(|socket| socket.exists());
    let mut socket = UnixStream::connect(run.expect("its socket")).expect("it connects");
    socket.write_all(b"CONNECT 1024\n").expect("it is heard");
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("an answer");
        line.push(byte[0]);
    }
    assert!(line.starts_with(b"OK "), "{}", String::from_utf8_lossy(&line));
    ttrpc::Client::new(socket.into_raw_fd()).expect("a client")
}

#[test]
fn a_monitor_that_is_killed_leaves_a_dead_container_that_can_be_removed() {
    let ferry = Ferry::new();
    let image = xtask(&["build", "image", "hello"]).run();
    image.exits(0);
    let image = format!("oci:{}", image.text().trim());
    ferry.says(&["run", "-d", "--name", "killed", "--network", "none", &image, "sleep", "1000"]);
    let pid = inspect(&ferry, "killed")["Pid"].as_u64().expect("a process").to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().is_ok_and(|status| status.success()));
    let until = Instant::now() + Duration::from_secs(30);
    while inspect(&ferry, "killed")["Status"] != "dead" {
        assert!(Instant::now() < until, "it is not seen to be dead");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!ferry.says(&["ps"]).contains("killed"));
    assert!(ferry.says(&["ps", "-a"]).contains("Dead"));
    assert_eq!(ferry.says(&["wait", "killed"]), "125\n");
    assert!(ferry.refuses(&["exec", "killed", "true"]).contains("not running"));
    assert_eq!(ferry.says(&["stop", "killed"]), "killed\n");
    assert_eq!(ferry.says(&["rm", "killed"]), "killed\n");
    assert!(is_clean(ferry.home.path()), "something is left");
}

fn inspect(ferry: &Ferry, name: &str) -> serde_json::Value {
    let text = ferry.says(&["inspect", name]);
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    shown[0]["State"].clone()
}

/// Whether there is no container's directory and no directory of sockets.
fn is_clean(home: &Path) -> bool {
    let count = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
    let sockets = fs::read_dir(home).expect("a home").flatten();
    let sockets = sockets.filter(|entry| entry.file_name().to_string_lossy().starts_with("ferry-"));
    count(&home.join(".local/state/ferry/containers")) == 0 && sockets.count() == 0
}
