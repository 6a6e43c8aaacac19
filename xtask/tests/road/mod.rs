//! The way from a command line to what came out of it: `cargo xtask run …` as a user types it, with a time limit.

#![allow(dead_code, reason = "each test program uses its own part of this")]

pub mod image;
pub mod program;
pub mod registry;
pub mod stranger;
pub mod tarball;
pub mod web;

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Whether full sizes are wanted: `cargo xtask test --full`.
pub fn full() -> bool {
    std::env::var_os("FERRY_TEST_FULL").is_some()
}

/// The full or the small size of a demand.
pub fn size<T>(small: T, at_full: T) -> T {
    if full() { at_full } else { small }
}

/// The checkout under test: asked when the test runs, since one target directory may serve several checkouts.
pub fn checkout() -> PathBuf {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR").expect("CARGO_MANIFEST_DIR, which cargo sets");
    Path::new(&xtask).parent().expect("xtask is in the checkout").to_owned()
}

/// Longer than anything a test does on a busy machine without KVM.
const LIMIT: Duration = Duration::from_secs(300);

/// `xtask` with arguments, to be run to its end.
pub struct Xtask {
    command: Command,
    input: Vec<u8>,
    limit: Duration,
}

/// What came out.
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
}

/// `xtask run --on qemu …`.
pub fn on_qemu(arguments: &[&str]) -> Xtask {
    xtask(&["run", "--on", "qemu"]).args(arguments)
}

/// `xtask run --on kvm …`.
pub fn on_kvm(arguments: &[&str]) -> Xtask {
    xtask(&["run", "--on", "kvm"]).args(arguments)
}

/// `xtask …`.
pub fn xtask(arguments: &[&str]) -> Xtask {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments);
    Xtask { command, input: Vec::new(), limit: LIMIT }
}

impl Xtask {
    /// Further arguments.
    pub fn args(mut self, arguments: &[&str]) -> Xtask {
        self.command.args(arguments);
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Xtask {
        self.command.env(name, value);
        self
    }

    /// What it finds on its standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Xtask {
        self.input = bytes.into();
        self
    }

    /// Another time limit.
    pub fn within(mut self, limit: Duration) -> Xtask {
        self.limit = limit;
        self
    }

    /// Starts it and leaves it running, for a test that has something to do to it.
    pub fn start(mut self) -> Running {
        // A group of its own, so that what the test sends reaches it alone and nothing survives the test.
        self.command.process_group(0);
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("xtask starts");
        let (sender, chunks) = mpsc::channel();
        let stdout = child.stdout.take().expect("a pipe");
        thread::spawn(move || relay(stdout, &sender));
        let mut errors = child.stderr.take().expect("a pipe");
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let text = Arc::clone(&said);
        let stderr = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = errors.read(&mut buffer) {
                text.lock().expect("nobody panics with it").extend(&buffer[..read]);
            }
            String::from_utf8_lossy(&text.lock().expect("nobody panics with it")).into_owned()
        });
        let stdin = child.stdin.take().expect("a pipe");
        Running {
            child,
            stdin: Some(stdin),
            chunks,
            stdout: Vec::new(),
            stderr,
            said,
            began: Instant::now(),
            limit: self.limit,
        }
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Outcome {
        let input = std::mem::take(&mut self.input);
        let mut running = self.start();
        let mut stdin = running.stdin.take().expect("a pipe");
        // The program need not read it all.
        let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
        let outcome = running.finish();
        let _ = feeder.join();
        outcome
    }
}

fn relay(mut from: impl Read, to: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.send(buffer[..read].to_vec()).is_err() {
            return;
        }
    }
}

/// An xtask that runs.
pub struct Running {
    child: Child,
    stdin: Option<std::process::ChildStdin>,
    chunks: mpsc::Receiver<Vec<u8>>,
    stdout: Vec<u8>,
    stderr: thread::JoinHandle<String>,
    /// What there has been on it so far.
    said: Arc<Mutex<Vec<u8>>>,
    began: Instant,
    limit: Duration,
}

impl Running {
    /// Waits until its standard output has this text.
    pub fn wait_for(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            let left = self.limit.saturating_sub(self.began.elapsed());
            match self.chunks.recv_timeout(left) {
                Ok(chunk) => self.stdout.extend(chunk),
                Err(error) => {
                    self.kill();
                    panic!("no {text:?} in the output ({error}): {}", String::from_utf8_lossy(&self.stdout));
                }
            }
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("its input is open").write_all(bytes).expect("it reads");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -s {signal}");
    }

    /// Ends it, as if its machine's power had failed, when its standard error has this text. What is there by then.
    pub fn killed_when_it_says(mut self, text: &str) -> String {
        loop {
            let said =
                String::from_utf8_lossy(&self.said.lock().expect("nobody panics with it")).into_owned();
            let too_late =
                self.began.elapsed() > self.limit || self.child.try_wait().is_ok_and(|end| end.is_some());
            if said.contains(text) || too_late {
                self.kill();
                let _ = self.child.wait();
                assert!(said.contains(text), "no {text:?}: {said}");
                return said;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill(&self) {
        // The whole group: the minus sign.
        let _ = Command::new("kill").args(["-s", "KILL", "--", &format!("-{}", self.child.id())]).status();
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Outcome {
        drop(self.stdin.take());
        loop {
            let left = self.limit.saturating_sub(self.began.elapsed());
            match self.chunks.recv_timeout(left) {
                Ok(chunk) => self.stdout.extend(chunk),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.kill();
                    panic!(
                        "not done after {:?}; stdout: {}; stderr: {}",
                        self.limit,
                        String::from_utf8_lossy(&self.stdout),
                        self.stderr.join().unwrap_or_default()
                    );
                }
            }
        }
        let status = self.child.wait().expect("it is our child");
        let stderr = self.stderr.join().expect("the reader does not panic");
        Outcome { status, stdout: self.stdout, stderr, took: self.began.elapsed() }
    }
}

impl Outcome {
    /// Fails the test unless it exited with this status.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Outcome {
        let text: String = self.text().chars().take(4000).collect();
        assert_eq!(
            self.status.code(),
            Some(code),
            "signal {:?}\nstdout: {text}\nstderr: {}",
            self.status.signal(),
            self.stderr
        );
        self
    }

    /// Fails the test unless exactly this came out on standard output.
    #[track_caller]
    pub fn prints(&self, text: &str) -> &Outcome {
        assert_eq!(self.text(), text, "stderr: {}", self.stderr);
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The one line on standard error that says what went wrong, without what xtask says of its own work.
    #[track_caller]
    pub fn one_line_of_error(&self) -> &str {
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !is_news(line)).collect();
        assert_eq!(lines.len(), 1, "one line is wanted: {}", self.stderr);
        lines[0]
    }
}

/// What xtask says where nothing is wrong.
fn is_news(line: &str) -> bool {
    let Some(words) = line.strip_prefix("xtask: ") else { return false };
    let beginnings = [
        "on QEMU without KVM: ",
        "on ferry with KVM: ",
        "PID 1",
        "once, before ",
        "  ",
        "all of it is kept ",
        "passt is not installed",
    ];
    beginnings.iter().any(|beginning| words.starts_with(beginning)) || words.contains(" is the recipe ")
}
