//! Tells people what goes on, on standard error: a progress line on a terminal, and elsewhere a line every ten
//! seconds, so that a log shows that a long step is alive.

use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a long step says that it is alive, where there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Lines of a failed program's output that are shown; the whole is in its log.
const SHOWN_OF_A_FAILURE: usize = 25;

/// Tells people what goes on.
#[derive(Clone, Debug)]
pub struct Report {
    terminal: bool,
}

impl Report {
    /// Reports to standard error.
    pub fn to_stderr() -> Report {
        Report { terminal: io::stderr().is_terminal() }
    }

    /// Says one line.
    pub fn say(&self, line: impl AsRef<str>) {
        eprintln!("xtask: {}", line.as_ref());
    }

    /// Says what was built, where it is and how big it is.
    pub fn built(&self, what: &str, path: &Path) {
        let bytes = fs::metadata(path).map(|m| m.len()).unwrap_or(0);
        self.say(format!("{what}: {} ({})", path.display(), self::size(bytes)));
    }

    /// Starts a step that may take long. `what` is a noun ("guest kernel"), `expected` what it usually takes.
    pub fn step(&self, what: impl Into<String>, expected: Duration) -> Step {
        Step::begin(self.terminal, what.into(), expected)
    }

    /// Runs a program as (part of) a long step: its output goes to `log`, its last line of output is shown as the
    /// step's progress, and where it fails the end of its output is part of the error.
    pub fn run(&self, step: &Step, command: &mut Command, log: &Path) -> Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log_file = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let (reader, writer) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        // The command keeps its copies of the pipe's write end, which would keep the pipe open for ever.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let last = follow(step, reader, log_file);
        let status = child.wait()?;
        if !status.success() {
            let tail: String = last.iter().map(|line| format!("    {line}\n")).collect();
            bail!("{name} failed ({status}); the end of {}:\n{}", log.display(), tail.trim_end());
        }
        Ok(())
    }
}

/// Copies a program's output to its log and its last line to the step; gives the last few lines.
fn follow(step: &Step, output: impl io::Read, mut log: fs::File) -> Vec<String> {
    let mut last = Vec::new();
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while matches!(output.read_until(b'\n', &mut line), Ok(n) if n > 0) {
        let _ = io::Write::write_all(&mut log, &line);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            continue;
        }
        step.note(&text);
        if last.len() == SHOWN_OF_A_FAILURE {
            last.remove(0);
        }
        last.push(text);
    }
    last
}

/// A step that may take long. Ends when it is dropped.
#[derive(Debug)]
pub struct Step {
    what: String,
    began: Instant,
    announced: bool,
    bar: Option<ProgressBar>,
    /// Dropping it ends the heartbeat's thread.
    notes: Option<mpsc::Sender<String>>,
    heartbeat: Option<thread::JoinHandle<()>>,
}

impl Step {
    fn begin(terminal: bool, what: String, expected: Duration) -> Step {
        // A short step is told of only when it turns out to be long.
        let announced = expected > Duration::from_secs(5);
        let expected = roughly(expected);
        if terminal {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_style(
                    ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}")
                        .unwrap_or_else(|_| ProgressStyle::default_spinner()),
                )
                .with_prefix(format!("{what} ({expected})"));
            bar.enable_steady_tick(Duration::from_millis(120));
            return Step {
                what,
                began: Instant::now(),
                announced,
                bar: Some(bar),
                notes: None,
                heartbeat: None,
            };
        }
        if announced {
            eprintln!("xtask: {what} ({expected}) …");
        }
        let (notes, received) = mpsc::channel();
        let name = what.clone();
        let heartbeat = thread::spawn(move || beat(&name, &received));
        Step {
            what,
            began: Instant::now(),
            announced,
            bar: None,
            notes: Some(notes),
            heartbeat: Some(heartbeat),
        }
    }

    /// Says what the step is at.
    pub fn note(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
        if let Some(notes) = &self.notes {
            let _ = notes.send(text.to_owned());
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.notes = None;
        if let Some(thread) = self.heartbeat.take() {
            let _ = thread.join();
        }
        let took = self.began.elapsed();
        if took > HEARTBEAT || (self.announced && took > Duration::from_secs(1)) {
            eprintln!("xtask: {}: {:.0} s", self.what, self.began.elapsed().as_secs_f64());
        }
    }
}

/// Shows what the images library is at: one step at a time.
#[derive(Debug)]
pub struct Shown<'a> {
    report: &'a Report,
    now: Mutex<Option<Counted>>,
}

#[derive(Debug)]
struct Counted {
    step: Step,
    done: u64,
    total: Option<u64>,
    said: Instant,
}

impl Report {
    /// Progress of the images library, shown here.
    pub fn shown(&self) -> Shown<'_> {
        Shown { report: self, now: Mutex::new(None) }
    }
}

impl Shown<'_> {
    fn now(&self) -> MutexGuard<'_, Option<Counted>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ferry_images::Progress for Shown<'_> {
    fn begin(&self, what: &str, total: Option<u64>) {
        let step = self.report.step(what, Duration::ZERO);
        *self.now() = Some(Counted { step, done: 0, total, said: Instant::now() });
    }

    fn advance(&self, bytes: u64) {
        if let Some(now) = self.now().as_mut() {
            now.done += bytes;
            // Bytes come in small pieces; people read slowly.
            if now.said.elapsed() > Duration::from_millis(100) {
                now.said = Instant::now();
                match now.total {
                    Some(total) => now.step.note(&format!("{} of {}", size(now.done), size(total))),
                    None => now.step.note(&size(now.done)),
                }
            }
        }
    }

    fn end(&self) {
        *self.now() = None;
    }

    fn warn(&self, message: &str) {
        self.report.say(format!("warning: {message}"));
    }
}

/// Says every ten seconds what the step was last at, until the sender is gone.
fn beat(what: &str, notes: &mpsc::Receiver<String>) {
    let began = Instant::now();
    let mut next = began + HEARTBEAT;
    let mut at = String::new();
    loop {
        match notes.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(note) => at = note,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let at: String = at.chars().take(100).collect();
                eprintln!("xtask: {what}: {} s  {at}", began.elapsed().as_secs());
                next += HEARTBEAT;
            }
        }
    }
}

/// A number of bytes as one would say it.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A duration as one would say it.
pub fn roughly(duration: Duration) -> String {
    match duration.as_secs() {
        0..=1 => "a moment".to_owned(),
        seconds @ 2..=90 => format!("about {seconds} s"),
        seconds => format!("about {} minutes", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Report {
        Report { terminal: false }
    }

    #[test]
    fn a_failed_program_is_an_error_with_the_end_of_its_output() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let step = quiet().step("a test", Duration::ZERO);
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo last >&2; exit 3"]);
        let error = quiet().run(&step, &mut command, &log).unwrap_err().to_string();
        assert!(error.contains("last") && error.contains("exit status: 3"), "{error}");
        assert_eq!(fs::read_to_string(log).unwrap(), "first\nlast\n");
    }

    #[test]
    fn durations_are_said_roughly() {
        assert_eq!(roughly(Duration::from_millis(10)), "a moment");
        assert_eq!(roughly(Duration::from_secs(20)), "about 20 s");
        assert_eq!(roughly(Duration::from_secs(300)), "about 5 minutes");
    }

    #[test]
    fn sizes_are_said_roughly() {
        assert_eq!(size(900), "1 kB");
        assert_eq!(size(1_450_000), "2 MB");
        assert_eq!(size(1_450_000_000), "1.4 GB");
    }
}
