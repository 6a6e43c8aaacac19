//! The process that a VM is: [made](super::standby) by ferry for one machine, locked in as a whole before the guest's first
//! instruction.
//!
//! Its standard input is a socket to the ferry that made it, which sends the sockets of the helpers that serve shared
//! directories, that of the process behind the network card, a [`Plan`] in a line, and then an [`Order`] a line: when that end
//! closes, the machine stops. What it has to say goes the same way, a [`Word`] a line. Its standard output is the guest's serial
//! port. It starts no processes, and is in its cgroups before it hears of its plan.

use super::descriptors;
use super::guest::{Contents, End, LaunchError, Plan, PlannedShare, Reason};
use super::network;
use crate::backends::disk::{Access, Composite, Disk, OpenError, Raw, Segment};
use crate::machine::{
    self, Config, DiskConfig, Exit, Handle, Image, Machine, Output, Sandbox, ShareConfig, VsockConfig, dump,
    gdb,
};
use crate::payload;
use crate::sandbox::{self, Claim, Lock, Role, UserRange, enclose};
use serde::{Deserialize, Serialize};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

/// What such a process is called: its first argument, where it was started, and its name.
pub(super) const NAME: &CStr = c"ferry-vm";
/// Its exit status where it has failed without a word.
pub(super) const FAILED: u8 = 1;
/// The name of the vsock's socket in the directory of its run.
pub(super) const SOCKET: &str = "vsock";
/// The guest's context id on its vsock.
const GUEST_CID: u64 = 3;
/// The longest line that either end reads.
pub(super) const LONGEST_LINE: u64 = 1 << 20;
/// What a guest without a kernel is told.
const NO_PAYLOAD: &str = "this ferry was built without a guest kernel: name one with --kernel and --initrd, or with \
                          FERRY_KERNEL and FERRY_INITRD in the environment";

/// What the process says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// The machine is made and locked in, and starts.
    Made,
    /// It could not be made.
    Failed(String),
    /// Something that people should know.
    Warning(String),
    /// A piece of a dump: so many bytes follow this line, for this place in the file.
    Piece {
        /// The place.
        offset: u64,
        /// How many, at most [`dump::LONGEST_PIECE`].
        length: usize,
    },
    /// An order has been carried out; what it asked for, if it asked.
    Done(Option<String>),
    /// The machine has ended.
    Ended {
        /// How.
        end: End,
        /// What it had done, as [`machine::metrics::Metrics::to_json`] writes it.
        metrics: String,
    },
}

/// What the process is told to do while the machine runs. Each is answered by [`Word::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Tell what the machine has done so far, as JSON.
    Metrics,
    /// Ask the guest to grow or shrink to so many MiB; the answer is why it cannot.
    Memory(u64),
    /// Give a dump of the machine, in pieces; what it asks for is the length of the file.
    Dump,
}

/// The way out: a word, or a piece and its bytes, at a time.
#[derive(Clone)]
struct Words(Arc<Mutex<File>>);

impl Words {
    fn say(&self, word: &Word) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line(word)?)
    }

    fn piece(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let line = line(&Word::Piece { offset, length: bytes.len() })?;
        let mut to = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        to.write_all(&line)?;
        to.write_all(bytes)
    }
}

/// One line of it.
pub(super) fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Runs a machine, if this process was started for that.
pub(super) fn take_over() -> Option<u8> {
    (std::env::args_os().next()?.as_encoded_bytes() == NAME.to_bytes()).then(run)
}

/// Runs a machine; this process's exit status.
pub(super) fn run() -> u8 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("ferry: the VM's process: {error}");
            FAILED
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    // Whoever started ferry may have left descriptors open that are none of the guest's business, and so may have ferry.
    // SAFETY: nothing in this process uses one yet.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    rustix::thread::set_name(NAME)?;
    // As a file, so that reading and writing are the system calls that every lock allows.
    let control = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let sockets = match descriptors::receive(&control) {
        // No VM has come of what this process was at hand for.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        received => received?,
    };
    let mut reader = BufReader::new(control.try_clone()?);
    let mut plan = String::new();
    reader.by_ref().take(LONGEST_LINE).read_line(&mut plan)?;
    let plan: Plan = serde_json::from_str(&plan)?;
    let words = Words(Arc::new(Mutex::new(control)));
    let user = match own_user(&plan) {
        Ok(user) => user,
        Err(error) if plan.users.is_some() => return Ok(words.say(&Word::Failed(error.0))?),
        Err(LaunchError(text)) => {
            let text = format!("{text}: the VM's process stays root's, without capabilities");
            words.say(&Word::Warning(text))?;
            None
        }
    };
    let machine = match make(&plan, sockets, words.clone()) {
        Ok(machine) => machine,
        Err(error) => return Ok(words.say(&Word::Failed(error.to_string()))?),
    };
    if plan.sandboxed {
        let id = user.as_ref().map(|claim| claim.id);
        if id.is_some() {
            hand_over(&plan.directory, id)?;
        }
        let enclosed = enclose(&plan.directory, id)?;
        if !enclosed.root && !enclosed.landlock {
            let text = "this host has neither landlock nor namespaces for ferry: the VM's process is held by its system \
                        calls alone";
            words.say(&Word::Warning(text.to_owned()))?;
        }
    }
    let handle = machine.handle();
    watch(reader, words.clone(), handle.clone(), plan.sandboxed)?;
    words.say(&Word::Made)?;
    let end = ending(machine.run());
    words.say(&Word::Ended { end, metrics: handle.metrics().to_json() })?;
    Ok(())
}

pub(super) fn is_root() -> bool {
    // SAFETY: takes nothing.
    unsafe { libc::geteuid() == 0 }
}

/// The user that a VM of root's becomes. It is its own as long as this process lives.
fn own_user(plan: &Plan) -> Result<Option<Claim>, LaunchError> {
    if !plan.sandboxed || !is_root() {
        return Ok(None);
    }
    let range = plan.users.unwrap_or(UserRange::USUAL);
    let refused = |why: &str| Err(LaunchError(format!("no user of its own out of {range}: {why}")));
    if !range.is_mapped(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default()) {
        return refused("this user namespace does not have all of them");
    }
    match sandbox::claim(range, Path::new(sandbox::LOCKS)) {
        Ok(Some(claim)) => Ok(Some(claim)),
        Ok(None) => refused("every one is some VM's: give more with --uid-range"),
        Err(error) => refused(&format!("{}: {error}", sandbox::LOCKS)),
    }
}

/// Makes the VM's directory its user's, and the host's programs' sockets in it, so that it can connect to them.
fn hand_over(directory: &Path, id: Option<u32>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() != SOCKET {
            std::os::unix::fs::lchown(entry.path(), id, id)?;
        }
    }
    std::os::unix::fs::chown(directory, id, id)
}

/// Everything that has to be opened is opened here.
fn make(plan: &Plan, sockets: Vec<OwnedFd>, words: Words) -> Result<Machine, LaunchError> {
    let mut sockets = sockets.into_iter().map(UnixStream::from);
    let shares = plan.shares.iter().zip(sockets.by_ref());
    let shares = shares.map(|(share, helper)| share_config(share, helper, &words)).collect();
    let mut config = config(plan, sockets.next(), words)?;
    config.shares = shares;
    let device_tree = plan.tell.device_tree.as_deref().map(whole).transpose()?;
    // The socket is reached by a path that stays right when the directory becomes the root.
    std::env::set_current_dir(&plan.directory)
        .map_err(|error| LaunchError(format!("{}: {error}", plan.directory.display())))?;
    let machine = Machine::new(config).map_err(|error| LaunchError(error.to_string()))?;
    if let Some(path) = device_tree {
        let tree = machine.device_tree().map_err(|error| LaunchError(error.to_string()))?;
        std::fs::write(&path, tree)
            .map_err(|error| LaunchError(format!("--dump-fdt {}: {error}", path.display())))?;
    }
    Ok(machine)
}

fn config(plan: &Plan, network: Option<UnixStream>, words: Words) -> Result<Config, LaunchError> {
    let refused = |error: &dyn std::fmt::Display| LaunchError(error.to_string());
    let kernel = plan.kernel.clone().map(Image::File).or_else(payload::kernel);
    let initrd = plan.initrd.clone().map(Image::File).or_else(payload::initrd);
    let (Some(kernel), Some(initrd)) = (kernel, initrd) else {
        return Err(LaunchError(NO_PAYLOAD.to_owned()));
    };
    let mut config = Config::new(absolute(kernel)?);
    config.initrd = Some(absolute(initrd)?);
    config.vcpus = plan.vcpus;
    config.memory_mib = plan.memory_mib;
    config.most_memory_mib = plan.most_memory_mib;
    config.cmdline_extra = plan.cmdline_extra.clone();
    for disk in &plan.disks {
        let backend = match &disk.contents {
            Contents::Mapped(files) => {
                config.mapped.push(segments(files));
                continue;
            }
            contents => backend(contents).map_err(|error| refused(&error))?,
        };
        config.disks.push(DiskConfig { serial: disk.serial.clone(), backend });
    }
    if let Some(plan) = &plan.network {
        let on_lost = move |text| drop(words.say(&Word::Warning(text)));
        config.networks.push(network::open(plan, network, on_lost).map_err(|error| refused(&error))?);
    }
    config.cpu = plan.cpu;
    config.backing = plan.backing;
    config.kept = machine::usual_place();
    if let Some(path) = &plan.gdb {
        let socket = gdb::Socket::bind(path)
            .map_err(|error| LaunchError(format!("the debugger's socket {}: {error}", path.display())))?;
        config.gdb = Some(socket);
    }
    config.vsock = Some(VsockConfig { cid: GUEST_CID, socket: SOCKET.into() });
    config.balloon = true;
    let serial = io::stdout().as_fd().try_clone_to_owned().map_err(|error| refused(&error))?;
    config.serial = Output::File(File::from(serial));
    config.sandbox = if plan.sandboxed { Sandbox::WholeProcess } else { Sandbox::Open };
    Ok(config)
}

/// A share, whose end is told of.
fn share_config(share: &PlannedShare, helper: UnixStream, words: &Words) -> ShareConfig {
    let (words, name) = (words.clone(), share.source.display().to_string());
    let on_lost = move |error| {
        let text =
            format!("the process that shares {name} has ended ({error}): the container gets errors there");
        drop(words.say(&Word::Warning(text)));
    };
    ShareConfig { tag: share.tag.clone(), helper, on_lost: Box::new(on_lost) }
}

/// A file's path that stays right when the working directory changes.
fn whole(path: &Path) -> Result<PathBuf, LaunchError> {
    std::path::absolute(path).map_err(|error| LaunchError(format!("{}: {error}", path.display())))
}

/// The same for an image.
fn absolute(image: Image) -> Result<Image, LaunchError> {
    Ok(match image {
        Image::File(path) => Image::File(whole(&path)?),
        image => image,
    })
}

fn segments(files: &[ferry_images::Segment]) -> Vec<Segment> {
    files.iter().map(|file| Segment { path: file.path.clone(), bytes: file.bytes }).collect()
}

fn backend(contents: &Contents) -> Result<Box<dyn Disk>, OpenError> {
    match contents {
        Contents::Layers(files) | Contents::Mapped(files) => Ok(Box::new(Composite::open(&segments(files))?)),
        Contents::Scratch(path) => Ok(Box::new(Raw::open(path, Access::ReadWrite)?)),
        Contents::Throwaway(path) => Ok(Box::new(Raw::open(path, Access::Throwaway)?)),
    }
}

/// Carries out what the other end of the socket orders, and stops the machine when it closes.
fn watch(
    mut orders: BufReader<File>,
    words: Words,
    handle: Handle,
    locked: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let lock = if locked { Some(Lock::new(Role::Quiet)?) } else { None };
    sandbox::install_report()?;
    let (ready, is_ready) = mpsc::channel();
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        let entered = lock.map_or(Ok(()), |lock| lock.enter());
        let failed = entered.is_err();
        let _ = ready.send(entered);
        if !failed {
            let _ = obey(&mut orders, &words, &handle);
        }
        handle.stop();
    })?;
    is_ready.recv()??;
    Ok(())
}

/// Carries out one order after the other; what is none, and the end of them, ends this.
fn obey(orders: &mut impl BufRead, words: &Words, handle: &Handle) -> io::Result<()> {
    loop {
        let mut order = Vec::new();
        orders.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut order)?;
        let answer = match serde_json::from_slice(&order)? {
            Order::Metrics => Some(handle.metrics().to_json()),
            Order::Memory(mib) => handle.set_memory(mib).err().map(|error| error.to_string()),
            Order::Dump => {
                let length = handle.while_held(|vcpus, memory| {
                    dump::write(vcpus, memory, &mut |offset, bytes| words.piece(offset, bytes))
                });
                length.transpose()?.map(|length| length.to_string())
            }
        };
        words.say(&Word::Done(answer))?;
    }
}

fn ending(result: Result<Exit, machine::Error>) -> End {
    let (reason, detail) = match result {
        Ok(Exit::Reset) => (Reason::Reset, String::new()),
        Ok(Exit::GuestPanic(text)) => (Reason::GuestPanic, text),
        Ok(Exit::TripleFault { detail }) => (Reason::TripleFault, detail),
        Ok(Exit::InternalError { detail, .. }) => (Reason::KvmInternalError, detail),
        Ok(Exit::Killed) => (Reason::VmmKilled, String::new()),
        Err(error) => (Reason::VmmError, error.to_string()),
    };
    End { reason, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_that_name_is_a_vm() {
        assert!(take_over().is_none(), "this is a test runner");
    }

    #[test]
    fn words_are_lines() {
        let end = End { reason: Reason::GuestPanic, detail: "two\nlines".into() };
        let text = line(&Word::Ended { end, metrics: "{}".into() }).unwrap();
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(matches!(
            serde_json::from_slice(&text).unwrap(),
            Word::Ended { end: End { reason: Reason::GuestPanic, .. }, .. }
        ));
    }
}
