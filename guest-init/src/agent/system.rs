//! What the agent needs of the machine. The real one is `guest`; tests have one in memory.

use crate::api::agent::{Device, Storage};
use crate::api::appliance::Log;
use crate::api::oci::{self, LinuxResources, Spec};
use crate::api::stats::StatsContainerResponse;
use crate::api::ttrpc::Request;
use crate::prelude::*;
use crate::sys;

/// A byte stream that never blocks: a connection, a process's stdio, or a report. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// How a mount went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// It is there.
    Yes,
    /// Its device is not there yet; worth another try.
    NotYet,
}

/// A container being set up.
pub struct Created<C> {
    /// What the system keeps of it.
    pub container: C,
    /// The process that sets it up and then holds its namespaces, and the stream on which it reports. `None`
    /// when the container's own process does all that on start.
    pub holder: Option<(i32, StreamId)>,
    /// A stream of which something changes when its memory runs out; it has nothing to read.
    pub memory: Option<StreamId>,
}

/// A process being started.
pub struct Started {
    /// Its process id.
    pub pid: i32,
    /// Ends without a byte once the program runs; otherwise says why it does not.
    pub report: StreamId,
    /// Where its stdin is written.
    pub stdin: StreamId,
    /// Where its stdout (with a terminal: all it writes) is read.
    pub stdout: StreamId,
    /// Where its stderr is read; `None` with a terminal.
    pub stderr: Option<StreamId>,
}

/// Which process of a container is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The container's own.
    First,
    /// One beside it.
    Another,
}

/// What all containers share.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// Its name.
    pub id: String,
    /// Host name.
    pub hostname: String,
    /// Lines of resolv.conf, or bare addresses.
    pub dns: Vec<String>,
}

/// The machine, as the agent sees it. Nothing here waits for anything outside the kernel.
pub trait System {
    /// What the system keeps of a container: its namespaces, its root, its cgroup.
    type Container;

    /// Milliseconds since some moment.
    fn now(&self) -> u64;

    /// Reads: 0 at the end, `EAGAIN` when there is nothing now.
    fn read(&mut self, stream: StreamId, buffer: &mut [u8]) -> sys::Result<usize>;
    /// Writes: how much of it, `EAGAIN` when nothing can be written now.
    fn write(&mut self, stream: StreamId, data: &[u8]) -> sys::Result<usize>;
    /// Whether a stream that is read has ended, with nothing left to read.
    fn at_end(&mut self, stream: StreamId) -> bool;
    /// Gives a stream up.
    fn close(&mut self, stream: StreamId);
    /// Sets the size of the terminal behind a stream.
    fn resize(&mut self, stream: StreamId, rows: u16, columns: u16) -> sys::Result<()>;

    /// A stream whose bytes are written down as a service's output.
    fn open_log(&mut self, name: &str, log: &Log) -> Result<StreamId>;

    /// Sets up what all containers share.
    fn begin_sandbox(&mut self, sandbox: &Sandbox) -> Result;
    /// Mounts a storage.
    fn mount(&mut self, storage: &Storage) -> Result<Mounted>;
    /// Gives device nodes of a specification, and the rules for them, the numbers that devices of the guest have. What is
    /// not there yet, if something is not; then nothing has changed.
    fn pass(&mut self, devices: &[Device], spec: &mut Spec) -> Result<Option<String>>;
    /// Unmounts what [`mount`](Self::mount) mounted there.
    fn unmount(&mut self, mount_point: &str);

    /// Begins to set a container up, for a first process that is started later.
    fn create(
        &mut self,
        id: &str,
        spec: &Spec,
        process: &oci::Process,
        sandbox: &Sandbox,
    ) -> Result<Created<Self::Container>>;
    /// Begins to start a process in a container.
    fn start(
        &mut self,
        container: &mut Self::Container,
        spec: &Spec,
        process: &oci::Process,
        which: Which,
    ) -> Result<Started>;
    /// Signals one process.
    fn signal(&mut self, pid: i32, signal: u32) -> sys::Result<()>;
    /// Signals every process of a container.
    fn signal_all(&mut self, container: &Self::Container, signal: u32) -> Result;
    /// Kills whatever is left of a container, its holder too.
    fn end(&mut self, container: &Self::Container);
    /// Changes limits.
    fn update(&mut self, container: &Self::Container, resources: &LinuxResources) -> Result;
    /// Stops or resumes every process of a container.
    fn freeze(&mut self, container: &Self::Container, frozen: Frozen) -> Result;
    /// Its counters.
    fn stats(&mut self, container: &Self::Container) -> StatsContainerResponse;
    /// How many of its processes were killed because memory ran out.
    fn memory_kills(&mut self, container: &Self::Container) -> u64;
    /// Forgets a container of which nothing runs any more.
    fn remove(&mut self, container: Self::Container);

    /// Which container a path of the guest's is in.
    fn container_of<'a>(&self, path: &'a str) -> Option<&'a str>;
    /// Begins to answer a call about a container, or about the guest, in a child: its process id, and the stream on
    /// which it says a zero byte and the payload, or a fault.
    fn send_child(
        &mut self,
        container: Option<&Self::Container>,
        request: &Request,
    ) -> Result<(i32, StreamId)>;
    /// Answers a call about the guest as a whole, which concerns no container.
    fn guest_call(&mut self, request: &Request) -> Result<Vec<u8>>;
}

/// Whether a container is stopped or runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frozen {
    /// Stopped.
    Yes,
    /// Runs.
    No,
}
