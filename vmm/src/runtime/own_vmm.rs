//! Guests on ferry's own VMM, each in a process of its own ([`super::vm_process`]), which is killed when this one has no use
//! for it any more and ends when this one does.
//!
//! What comes from there is as trustworthy as the guest: lines are limited in length and number, and shown only when
//! printable.

use super::descriptors;
use super::ended;
use super::guest::{End, Guest, Launch, LaunchError, Plan, Reason, Serial, Tell};
use super::network::{self, Wire};
use super::share_process::{self, Helper};
use super::standby::{self, Fresh, Process};
use super::vm_process::{self, LONGEST_LINE, Order, SOCKET, Word};
use crate::agent::{Transport, printable};
use crate::devices::serial::Tail;
use crate::machine;
use crate::machine::dump::LONGEST_PIECE;
use crate::sandbox::{STOPPED, cgroup};
use ferry_init::api::VSOCK_PORT;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a process that is asked to stop has for its last words.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long it may take over an order.
const ANSWER: Duration = Duration::from_secs(20);

/// The most processes and threads that root's VM may have besides its vCPUs: the devices', and those of the kernel that
/// serve them.
const TASKS: u32 = 256;
/// What is said where a VM cannot be held to an amount of memory.
const NO_MEMORY_CONTROLLER: &str = "--memory-limit: no cgroup with the memory controller can be made for the VM: start ferry \
                                    as root, or where that controller is delegated to it (systemd-run --user --scope -p \
                                    Delegate=yes ferry run …), or leave the limit out";

/// How many warnings of one machine are passed on.
const WARNINGS: usize = 64;
/// How much of what its process says on standard error is passed on, in bytes.
const COMPLAINTS: u64 = 64 << 10;
/// How long its last complaint is waited for when it has ended.
const LAST_COMPLAINT: Duration = Duration::from_secs(1);

/// Starts guests on KVM.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnVmm;

impl Launch for OwnVmm {
    fn check(&self) -> Result<(), LaunchError> {
        let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        // The machine measures what it opens when it is made; here only a refusal is of interest, in its words.
        match opened.map_err(|_| machine::probe()) {
            Err(Err(error)) => Err(LaunchError(error.to_string())),
            Ok(_) | Err(Ok(_)) => Ok(()),
        }
    }

    fn step(&self) -> &'static str {
        match machine::probe() {
            Ok(kvm) if kvm.emulates_ring0 => "starting the guest (this KVM interprets its kernel: minutes)",
            _ => "starting the guest",
        }
    }

    fn has_network(&self) -> bool {
        true
    }

    fn has_vsock(&self) -> bool {
        true
    }

    fn maps_files(&self) -> bool {
        true
    }

    fn launch(&self, plan: &Plan) -> Result<Arc<dyn Guest>, LaunchError> {
        let fault = |what: &str, error: io::Error| LaunchError(format!("the VM's process: {what}: {error}"));
        let socket = socket_in(&plan.directory);
        // A container that is started again finds the socket of its guest before.
        let _ = std::fs::remove_file(&socket);
        let (helpers, sockets): (Vec<_>, Vec<_>) = share(plan)?.into_iter().unzip();
        let wire = plan.network.as_ref().map(network::wire).transpose();
        let wire = wire.map_err(|error| LaunchError(error.to_string()))?.flatten();
        let fresh = standby::take().map_err(|error| fault("it cannot be started", error))?;
        let Fresh { process, mut control, serial, complaints } = fresh;
        let pid = process.id();
        let complaints = pass_on(complaints).map_err(|error| fault("no thread for its words", error))?;
        let running = Arc::new(Running {
            socket,
            complaints: Mutex::new(Some(complaints)),
            warned: AtomicUsize::new(0),
            tail: Tail::default(),
            tell: plan.tell.clone(),
            asked: control.try_clone().map_err(|error| fault("its socket", error))?,
            answers: Mutex::new(None),
            asking: Mutex::new(()),
            dump: Mutex::new(None),
            gdb: Mutex::new(None),
            is_debugged: plan.gdb.is_some(),
            starved: AtomicBool::new(false),
            places: cgroup::Places::own(),
            process: Mutex::new(Some(process)),
            _helpers: helpers,
            end: Mutex::new(None),
            ended: Condvar::new(),
        });
        let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).chain(wire.as_ref().map(Wire::near)).collect();
        let told = running.hold(pid, plan).and_then(|()| {
            descriptors::send(&control, &sockets)
                .and_then(|()| vm_process::line(plan))
                .and_then(|line| control.write_all(&line))
                .map_err(|error| fault("it does not listen", error))
        });
        let made = told.and_then(|()| running.follow(control, serial, plan.serial, wire));
        match made {
            Ok(()) => {
                if let Some(path) = &plan.gdb {
                    // From now on it is this guest's, and goes with it.
                    *lock(&running.gdb) = Some(path.clone());
                    let path = path.display();
                    tracing::warn!("the guest waits for a debugger: gdb -ex 'target remote {path}'");
                }
                Ok(running)
            }
            Err(error) => {
                running.reap();
                Err(error)
            }
        }
    }
}

/// Starts a process for everything that is shared with the guest: each with its socket.
fn share(plan: &Plan) -> Result<Vec<(Helper, UnixStream)>, LaunchError> {
    if plan.shares.is_empty() {
        return Ok(Vec::new());
    }
    let empty = plan.directory.join("empty");
    match std::fs::DirBuilder::new().mode(0o700).create(&empty) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(LaunchError(format!("{}: {error}", empty.display())));
        }
        _ => {}
    }
    let program = standby::this_program();
    plan.shares.iter().map(|share| share_process::start(&program, share, &empty, plan.sandboxed)).collect()
}

/// The socket of the guest's vsock, in the directory of its run.
fn socket_in(directory: &Path) -> PathBuf {
    directory.join(SOCKET)
}

/// The way to the agent of a guest that some process runs with this directory.
pub fn transport_in(directory: &Path) -> Transport {
    Transport::Vsock { socket: socket_in(directory), port: VSOCK_PORT }
}

struct Running {
    socket: PathBuf,
    /// Closes when its process's standard error has.
    complaints: Mutex<Option<Receiver<()>>>,
    /// How many warnings have come.
    warned: AtomicUsize,
    tail: Tail,
    tell: Tell,
    /// Orders go here; its end tells the process to stop.
    asked: UnixStream,
    /// Where the answer to the order goes that is being carried out.
    answers: Mutex<Option<mpsc::Sender<Option<String>>>>,
    /// Held by whoever gives an order: one at a time.
    asking: Mutex<()>,
    /// Where pieces of a dump go.
    dump: Mutex<Option<Dump>>,
    /// The debugger's socket, once it is this guest's.
    gdb: Mutex<Option<PathBuf>>,
    is_debugged: bool,
    /// Below which its cgroups are.
    places: cgroup::Places,
    /// Set when it has ended because its cgroup had no more memory.
    starved: AtomicBool,
    /// Taken by whoever waits for its end: then there is nobody to kill any more.
    process: Mutex<Option<Process>>,
    /// The processes that serve what is shared. They end with the VM's, whose sockets they are at the other end of.
    _helpers: Vec<Helper>,
    end: Mutex<Option<End>>,
    ended: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Puts the VM's process in cgroups of its own, where it is to have some, before it takes any of the guest's memory.
    fn hold(&self, pid: u32, plan: &Plan) -> Result<(), LaunchError> {
        if !vm_process::is_root() && plan.memory_limit.is_none() {
            return Ok(());
        }
        let limits = cgroup::Limits { tasks: u32::from(plan.vcpus) + TASKS, memory: plan.memory_limit };
        let held = self.places.enter(pid, limits);
        match plan.memory_limit {
            Some(_) if !held.holds_memory => Err(LaunchError(NO_MEMORY_CONTROLLER.to_owned())),
            _ => Ok(()),
        }
    }

    /// Waits until the machine is made and what serves its card has started, and leaves threads behind that listen to it.
    fn follow(
        self: &Arc<Self>,
        control: UnixStream,
        serial: io::PipeReader,
        output: Serial,
        wire: Option<Wire<'_>>,
    ) -> Result<(), LaunchError> {
        let threads = |error| LaunchError(format!("cannot start a thread for the VM: {error}"));
        let running = Arc::clone(self);
        std::thread::Builder::new()
            .name("serial".into())
            .spawn(move || running.keep_serial(serial, output))
            .map_err(threads)?;
        let mut words = BufReader::new(control);
        loop {
            match next(&mut words) {
                Some(Word::Made) => break,
                Some(Word::Failed(text)) => return Err(LaunchError(printable(&text))),
                Some(Word::Warning(text)) => self.warn(&text),
                Some(Word::Done(_)) => {}
                Some(Word::Ended { .. } | Word::Piece { .. }) | None => {
                    let end = self.end_without_a_word();
                    return Err(LaunchError(end.sentence()));
                }
            }
        }
        // It takes its time, in which the guest boots. Where it fails, it alone is told of.
        if let Some(wire) = wire {
            wire.serve().map_err(|error| LaunchError(error.to_string()))?;
        }
        let running = Arc::clone(self);
        std::thread::Builder::new()
            .name("vm".into())
            .spawn(move || running.listen(words))
            .map_err(threads)?;
        Ok(())
    }

    fn listen(&self, mut words: BufReader<UnixStream>) {
        let (mut end, mut done) = (None, String::new());
        while let Some(word) = next(&mut words) {
            match word {
                Word::Warning(text) => self.warn(&text),
                Word::Done(answer) => {
                    if let Some(answers) = lock(&self.answers).take() {
                        // Whoever asked may have lost patience.
                        let _ = answers.send(answer);
                    }
                }
                Word::Piece { offset, length } => {
                    let mut bytes = vec![0; length.min(LONGEST_PIECE)];
                    if length > LONGEST_PIECE || words.read_exact(&mut bytes).is_err() {
                        break;
                    }
                    if let Some(dump) = &mut *lock(&self.dump) {
                        dump.take(offset, &bytes);
                    }
                }
                Word::Ended { end: how, metrics } => (end, done) = (Some(how), metrics),
                Word::Made | Word::Failed(_) => {}
            }
        }
        let end = match end {
            Some(end) => {
                self.reap();
                end
            }
            None => self.end_without_a_word(),
        };
        // Whoever waits for an answer does so no longer.
        drop(lock(&self.answers).take());
        ended::tell(&self.tell, &end, &self.tail.text(), &done);
        *lock(&self.end) = Some(end);
        self.ended.notify_all();
    }

    fn warn(&self, text: &str) {
        if self.warned.fetch_add(1, Ordering::Relaxed) < WARNINGS {
            tracing::warn!("{}", printable(text));
        }
    }

    /// Keeps the last part of the serial port's output, and shows all of it where somebody wants to see it.
    fn keep_serial(&self, mut serial: io::PipeReader, output: Serial) {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = serial.read(&mut piece) {
            self.tail.push(&piece[..length]);
            if output == Serial::Stderr {
                let _ = io::stderr().write_all(&piece[..length]);
            }
        }
    }

    /// Writes a dump to a file.
    fn write_dump(&self, file: File, most: u64) -> Result<(), String> {
        let ended = || "its VM has ended meanwhile".to_owned();
        let _turn = lock(&self.asking);
        let (answer, answered) = mpsc::channel();
        *lock(&self.answers) = Some(answer);
        *lock(&self.dump) = Some(Dump { file, most, fault: None });
        let told = vm_process::line(&Order::Dump).and_then(|line| (&self.asked).write_all(&line));
        // However large it is, it comes to an end, or its process does.
        let length = told.ok().and_then(|()| answered.recv().ok()).flatten();
        let dump = lock(&self.dump).take().ok_or_else(ended)?;
        let length: u64 = length.and_then(|length| length.parse().ok()).ok_or_else(ended)?;
        match dump.fault {
            None if length <= most => dump.file.set_len(length).map_err(|error| error.to_string()),
            None => Err(TOO_LARGE.to_owned()),
            Some(fault) => Err(fault),
        }
    }

    /// Has the process carry out an order. Its answer, if the order was carried out and asked for one.
    fn ask(&self, order: Order) -> Option<Option<String>> {
        let _turn = lock(&self.asking);
        let (answer, answered) = mpsc::channel();
        *lock(&self.answers) = Some(answer);
        (&self.asked).write_all(&vm_process::line(&order).ok()?).ok()?;
        answered.recv_timeout(ANSWER).ok()
    }

    /// Kills the process, if it still is, and waits for it.
    fn reap(&self) -> Option<ExitStatus> {
        if let Some(path) = lock(&self.gdb).take() {
            let _ = std::fs::remove_file(path);
        }
        let process = lock(&self.process).take()?;
        let pid = process.id();
        let status = process.end().ok();
        self.starved.store(self.places.ran_out_of_memory(pid), Ordering::Relaxed);
        self.places.remove(pid);
        // What it said last is said before it is told how it ended.
        if let Some(complaints) = lock(&self.complaints).take() {
            let _ = complaints.recv_timeout(LAST_COMPLAINT);
        }
        status
    }

    /// Why a process ended that did not say why.
    fn end_without_a_word(&self) -> End {
        let was_stopped = lock(&self.process).is_none();
        match self.reap() {
            _ if was_stopped => End { reason: Reason::VmmKilled, detail: String::new() },
            Some(_) if self.starved.load(Ordering::Relaxed) => {
                End { reason: Reason::VmmKilled, detail: STARVED.to_owned() }
            }
            Some(status) => silent(status),
            None => End { reason: Reason::VmmError, detail: "the VM's process is lost".to_owned() },
        }
    }
}

/// A dump that is being written. What comes is the VM's process's word for it: it is kept to its bounds.
struct Dump {
    file: File,
    most: u64,
    fault: Option<String>,
}

/// What is said of a VM that the kernel has killed for its memory.
const STARVED: &str = "it wanted more of the host's memory than its cgroup has (--memory-limit)";

/// What is said of a dump that goes beyond the machine's memory.
const TOO_LARGE: &str = "its VM's process says more than there is";

impl Dump {
    /// What cannot be written is said in the end; the rest is passed over.
    fn take(&mut self, offset: u64, bytes: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.most) {
            self.fault = Some(TOO_LARGE.to_owned());
        } else if let Err(error) = self.file.write_all_at(bytes, offset) {
            self.fault = Some(error.to_string());
        }
    }
}

/// Shows what a VM's process says on its standard error, as far as anybody wants to read it. The receiver's other end closes
/// with that.
fn pass_on(stderr: impl Read + Send + 'static) -> io::Result<Receiver<()>> {
    let (open, closes) = mpsc::channel();
    let show = move || {
        let _open: mpsc::Sender<()> = open;
        let mut lines = BufReader::new(stderr.take(COMPLAINTS));
        let mut line = Vec::new();
        while let Ok(1..) = lines.read_until(b'\n', &mut line) {
            eprintln!("{}", printable(&String::from_utf8_lossy(&line)));
            line.clear();
        }
        // It is read on, so that it never has to wait.
        let _ = io::copy(&mut lines.into_inner().into_inner(), &mut io::sink());
    };
    std::thread::Builder::new().name("complaints".into()).spawn(show)?;
    Ok(closes)
}

/// What the status of a process says that ended by itself without a word.
fn silent(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(STOPPED), _) | (_, Some(libc::SIGSYS)) => {
            End { reason: Reason::Sandbox, detail: String::new() }
        }
        (_, Some(libc::SIGKILL)) => {
            End { reason: Reason::VmmKilled, detail: "its process was killed".to_owned() }
        }
        _ => End { reason: Reason::VmmError, detail: format!("its process ended with {status}") },
    }
}

/// The next word; none after the last, or when it is no word.
fn next(words: &mut BufReader<UnixStream>) -> Option<Word> {
    let mut line = Vec::new();
    words.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).ok()?;
    serde_json::from_slice(&line).ok()
}

impl Guest for Running {
    fn transport(&self) -> Transport {
        Transport::Vsock { socket: self.socket.clone(), port: VSOCK_PORT }
    }

    fn wait(&self, at_most: Duration) -> Option<End> {
        let until = Instant::now() + at_most;
        let mut end = lock(&self.end);
        while end.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            end = self.ended.wait_timeout(end, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        end.clone()
    }

    fn stop(&self) {
        // Asked first, it still tells what it has done; then it is killed.
        let _ = self.asked.shutdown(std::net::Shutdown::Write);
        if self.wait(LAST_WORDS).is_none() {
            self.reap();
        }
    }

    fn serial_tail(&self) -> String {
        self.tail.text()
    }

    fn metrics(&self) -> Option<String> {
        self.ask(Order::Metrics).flatten()
    }

    fn dump(&self, file: File, most: u64) -> Result<(), String> {
        self.write_dump(file, most)
    }

    fn is_debugged(&self) -> bool {
        self.is_debugged
    }

    fn set_memory(&self, mib: u64) -> io::Result<()> {
        match self.ask(Order::Memory(mib)) {
            Some(None) => Ok(()),
            Some(Some(refusal)) => Err(io::Error::other(printable(&refusal))),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.reap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_that_dies_without_a_word_is_explained_by_its_status() {
        let reason = |raw| silent(ExitStatus::from_raw(raw)).reason;
        assert_eq!(reason(STOPPED << 8), Reason::Sandbox);
        assert_eq!(reason(libc::SIGSYS), Reason::Sandbox);
        assert_eq!(Reason::Sandbox.word(), "vmm-killed");
        assert_eq!(reason(libc::SIGKILL), Reason::VmmKilled);
        assert_eq!(reason(1 << 8), Reason::VmmError);
        assert_eq!(reason(libc::SIGSEGV), Reason::VmmError);
    }

    #[test]
    fn a_process_that_floods_its_standard_error_is_not_held_up() {
        let script = "head -c 300000 /dev/zero | tr '\\0' x >&2; echo done";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let closes = pass_on(child.stderr.take().unwrap()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(closes.recv_timeout(Duration::from_secs(30)), Err(mpsc::RecvTimeoutError::Disconnected));
    }

    #[test]
    fn what_is_no_word_is_the_last() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        theirs.write_all(&vm_process::line(&Word::Made).unwrap()).unwrap();
        theirs.write_all(b"{\"Made\":\nMade\n").unwrap();
        let mut words = BufReader::new(ours);
        assert_eq!(next(&mut words), Some(Word::Made));
        assert_eq!(next(&mut words), None);
    }
}
