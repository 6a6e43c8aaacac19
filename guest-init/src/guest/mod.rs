//! The guest: the agent's [`System`] made of the real machine.

mod appliance;
pub mod boot;
mod calls;
mod cgroup;
mod devices;
mod errand;
mod files;
mod hotplug;
mod inside;
mod metrics;
mod mounts;
mod network;
mod probe;
mod processes;
mod program;
pub mod run;
mod space;
mod stats;
mod stdio;
mod storage;
mod transport;
mod users;
mod verity;
mod volumes;
mod written;

pub use space::PID1_ANNOTATION;
use space::Space;
use stdio::ChildStdio;
use storage::Disks;
use transport::SerialPort;

use crate::agent::{Created, Frozen, Mounted, Sandbox, Started, StreamId, System, Which};
use crate::api::agent::{Device, Storage};
use crate::api::appliance::Log;
use crate::api::oci::{LinuxResources, Process, Spec};
use crate::api::stats::StatsContainerResponse;
use crate::api::ttrpc::Request;
use crate::fault::reason;
use crate::prelude::*;
use crate::sys::event::{self, Poll};
use crate::sys::file::*;
use crate::sys::process::{CLONE_NEWPID, Forked, SIGKILL, enter, exists, exit, fork, kill, process as pidfd};

/// Says something on the kernel's log.
pub fn log(text: &str) {
    say(format!("<4>ferry-init: {text}\n").as_bytes());
}

/// Says why something could not be done.
fn log_error(what: &str, errno: Errno) {
    log(&format!("{what}: {}", reason(errno)));
}

/// Puts a record into the kernel's log: `<3>` and below come out on a quiet console.
fn say(record: &[u8]) {
    if let Ok(log) = open(CWD, "/dev/kmsg", O_WRONLY, 0) {
        let _ = write(log.raw(), record);
    }
}

/// The machine.
pub struct Guest {
    poll: Poll,
    streams: Table<StreamId, Fd>,
    next: u64,
    serial: Option<SerialPort>,
    /// A process of each container, for others to join its namespaces.
    inhabitants: Table<String, (i32, Fd)>,
    disks: Disks,
}

impl Guest {
    /// The machine, whose streams are watched by `poll`. Stream ids begin at `first`.
    pub fn new(poll: Poll, first: u64) -> Guest {
        Guest {
            poll,
            streams: Table::default(),
            next: first,
            serial: None,
            inhabitants: Table::default(),
            disks: Disks::default(),
        }
    }

    /// Watches a descriptor as a new stream.
    fn add(&mut self, fd: Fd) -> Result<StreamId> {
        let stream = self.next_id();
        self.poll.watch(fd.raw(), stream.0).context("watch a stream")?;
        self.streams.insert(stream, fd);
        Ok(stream)
    }

    fn next_id(&mut self) -> StreamId {
        self.next += 1;
        StreamId(self.next)
    }

    /// A pipe on which a child reports.
    fn report(&mut self) -> Result<(StreamId, Fd)> {
        let (reader, writer) = pipe(0).context("make a pipe")?;
        set_nonblocking(&reader).context("make a pipe")?;
        Ok((self.add(reader)?, writer))
    }

    fn remember(&mut self, space: &Space) {
        if let Some((pid, process)) = &space.inhabitant
            && let Ok(process) = duplicate(process.raw())
        {
            self.inhabitants.insert(space.id.clone(), (*pid, process));
        }
    }

    /// A stream of which something changes when a container's memory runs out, where the kernel counts memory.
    fn watch_memory(&mut self, space: &Space) -> Option<StreamId> {
        let events = open(space.cgroup.as_ref()?.directory().raw(), "memory.events", O_RDONLY, 0).ok()?;
        self.add(events).ok()
    }

    /// Forks into the namespaces and the cgroup of a container; `None` in the child.
    fn fork_into(&self, space: &Space) -> Result<Option<i32>> {
        let cgroup = space.cgroup.as_ref().map(cgroup::Cgroup::directory);
        let Some((_, inhabitant)) = &space.inhabitant else {
            return Err(fault!(FailedPrecondition, "the container is gone"));
        };
        // A pid namespace is entered by children only.
        let way_back = space.has_pids().then(|| pidfd(1)).transpose().context("open our pid namespace")?;
        if space.has_pids() {
            enter(inhabitant, CLONE_NEWPID).context("enter the container's pid namespace")?;
        }
        // SAFETY: PID 1 has one thread.
        let forked = unsafe { fork(0, cgroup) };
        if matches!(forked, Ok(Forked::Child)) {
            return Ok(None);
        }
        way_back.map_or(Ok(()), |way| enter(&way, CLONE_NEWPID)).context("come back to our pid namespace")?;
        match forked.context("fork")? {
            Forked::Child => Ok(None),
            Forked::Parent(pid) => Ok(Some(pid)),
        }
    }

    fn stdio(&self, space: &Space, process: &Process) -> Result<(stdio::OurStdio, ChildStdio)> {
        if !process.terminal {
            return stdio::pipes().context("make pipes");
        }
        // Before its process has made it, a container has no devpts of its own.
        let root = space.inhabitant.as_ref().and_then(|_| space.open_root().ok());
        stdio::terminal(root.as_ref()).context("make a terminal")
    }
}

impl System for Guest {
    type Container = Space;

    fn now(&self) -> u64 {
        event::now()
    }

    fn read(&mut self, stream: StreamId, buffer: &mut [u8]) -> SysResult<usize> {
        if let Some(serial) = self.serial.as_mut().filter(|serial| serial.stream() == stream) {
            return serial.read(buffer);
        }
        read(self.streams.get(&stream).ok_or(Errno::EBADF)?.raw(), buffer)
    }

    fn write(&mut self, stream: StreamId, data: &[u8]) -> SysResult<usize> {
        let fd = match self.serial.as_ref().filter(|serial| serial.stream() == stream) {
            Some(serial) => serial.raw(),
            None => self.streams.get(&stream).ok_or(Errno::EBADF)?.raw(),
        };
        // Room is an event only for who found none: after every answer there is some.
        write(fd, data).inspect_err(|_| self.poll.rewatch(fd, stream.0).unwrap_or_default())
    }

    fn at_end(&mut self, stream: StreamId) -> bool {
        self.streams.get(&stream).is_none_or(|fd| event::is_hung_up(fd.raw()))
    }

    fn close(&mut self, stream: StreamId) {
        if self.serial.as_ref().is_some_and(|serial| serial.stream() == stream) {
            let next = self.next_id();
            if let Some(serial) = &mut self.serial {
                serial.renew(&self.poll, next);
            }
        }
        self.streams.remove(&stream);
    }

    fn resize(&mut self, stream: StreamId, rows: u16, columns: u16) -> SysResult<()> {
        crate::sys::terminal::resize(self.streams.get(&stream).ok_or(Errno::EBADF)?.raw(), rows, columns)
    }

    fn open_log(&mut self, name: &str, log: &Log) -> Result<StreamId> {
        let (reader, writer) = pipe(0).context("make a pipe")?;
        set_nonblocking(&writer).context("make a pipe")?;
        // SAFETY: PID 1 has one thread.
        match unsafe { fork(0, None) }.context("fork")? {
            Forked::Child => {
                // It ends when the pipe does, and keeps nothing of others open till then.
                let _ = duplicate_to(reader.raw(), 0);
                close_from(3);
                written::write_down(0, name, log);
                exit(0);
            }
            Forked::Parent(..) => self.add(writer),
        }
    }

    fn begin_sandbox(&mut self, sandbox: &Sandbox) -> Result {
        if sandbox.hostname.is_empty() {
            return Ok(());
        }
        crate::sys::process::set_hostname(&sandbox.hostname).context("set the host name")
    }

    fn mount(&mut self, storage: &Storage) -> Result<Mounted> {
        storage::mount(storage, &mut self.disks)
    }

    fn pass(&mut self, devices: &[Device], spec: &mut Spec) -> Result<Option<String>> {
        devices::pass(devices, spec, &mut self.disks)
    }

    fn unmount(&mut self, mount_point: &str) {
        storage::unmount(mount_point);
    }

    fn create(
        &mut self,
        id: &str,
        spec: &Spec,
        process: &Process,
        sandbox: &Sandbox,
    ) -> Result<Created<Space>> {
        let is_init = space::wants_pid1(spec, process.args.first());
        let mut space = Space::new(id, spec, sandbox, is_init, |id| {
            self.inhabitants.get(id).filter(|(_, process)| exists(process)).map(|(pid, _)| *pid)
        })?;
        if is_init {
            let memory = self.watch_memory(&space);
            return Ok(Created { container: space, holder: None, memory });
        }
        let (report, writer) = self.report()?;
        let forked = space.fork_new(spec);
        match forked.inspect_err(|_| self.close(report))? {
            None => space::hold(&space, spec, writer),
            Some(pid) => {
                self.remember(&space);
                let memory = self.watch_memory(&space);
                Ok(Created { container: space, holder: Some((pid, report)), memory })
            }
        }
    }

    fn start(&mut self, space: &mut Space, spec: &Spec, process: &Process, which: Which) -> Result<Started> {
        let (ours, childs) = self.stdio(space, process)?;
        // The guest's root, whose they are, is nobody in a user namespace.
        if let Some((uid, gid)) = space.root_user {
            childs.give_to(uid, gid).context("give stdio to the user")?;
        }
        let (report, writer) = self.report()?;
        let makes_space = space.is_init && which == Which::First;
        let forked = if makes_space { space.fork_new(spec) } else { self.fork_into(space) };
        let Some(pid) = forked.inspect_err(|_| self.close(report))? else {
            let fault = enter_and_run(space, spec, process, &childs, which);
            let _ = write_all(writer.raw(), &fault.encode());
            exit(127);
        };
        drop((writer, childs));
        if makes_space {
            self.remember(space);
        }
        Ok(Started {
            pid,
            report,
            stdin: self.add(ours.stdin)?,
            stdout: self.add(ours.stdout)?,
            stderr: ours.stderr.map(|stderr| self.add(stderr)).transpose()?,
        })
    }

    fn signal(&mut self, pid: i32, signal: u32) -> SysResult<()> {
        kill(pid, signal)
    }

    fn signal_all(&mut self, space: &Space, signal: u32) -> Result {
        let cgroup = space.cgroup()?;
        if signal == SIGKILL {
            return cgroup.kill();
        }
        for pid in cgroup.processes()?.into_iter().filter(|pid| Some(*pid) != space.holder()) {
            kill(pid, signal).despite(Errno::ESRCH).context("signal")?;
        }
        Ok(())
    }

    fn end(&mut self, space: &Space) {
        // The end of a namespace's process 1 is the end of all in it.
        if let Some((pid, _)) = space.inhabitant.as_ref().filter(|_| !space.is_init) {
            let _ = kill(*pid, SIGKILL);
        }
        if !space.owns_pids()
            && let Some(cgroup) = &space.cgroup
        {
            let _ = cgroup.kill();
        }
    }

    fn update(&mut self, space: &Space, resources: &LinuxResources) -> Result {
        space.cgroup()?.update(resources)
    }

    fn freeze(&mut self, space: &Space, frozen: Frozen) -> Result {
        space.cgroup()?.freeze(frozen)
    }

    fn stats(&mut self, space: &Space) -> StatsContainerResponse {
        stats::read(space.cgroup.as_ref())
    }

    fn memory_kills(&mut self, space: &Space) -> u64 {
        space.cgroup.as_ref().map_or(0, stats::memory_kills)
    }

    fn remove(&mut self, space: Space) {
        self.inhabitants.remove(&space.id);
        space::clear(&space.id);
    }

    fn container_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        files::container_of(path).map(|(id, _)| id)
    }

    fn send_child(&mut self, space: Option<&Space>, request: &Request) -> Result<(i32, StreamId)> {
        let (report, writer) = self.report()?;
        // SAFETY: PID 1 has one thread.
        match unsafe { fork(0, None) }.context("fork").inspect_err(|_| self.close(report))? {
            Forked::Child => {
                // One that has to wait must not keep other containers' pipes open.
                self.streams = Table::default();
                let answer = errand::answer(space, request);
                let answer = answer.map(|payload| [&[0], &payload[..]].concat());
                let _ = write_all(writer.raw(), &answer.unwrap_or_else(|fault| fault.encode()));
                exit(0);
            }
            Forked::Parent(pid) => Ok((pid, report)),
        }
    }

    fn guest_call(&mut self, request: &Request) -> Result<Vec<u8>> {
        calls::answer(request)
    }
}

/// In the child: from the guest's namespaces to the program. Returns only with why that failed.
fn enter_and_run(space: &Space, spec: &Spec, process: &Process, stdio: &ChildStdio, which: Which) -> Fault {
    let entered = program::before_entering(process).and_then(|()| {
        if space.is_init && which == Which::First {
            return space.set_up(spec);
        }
        match &space.inhabitant {
            Some((_, inhabitant)) => {
                // Its own process is in the pid namespace by birth.
                enter(inhabitant, space.kinds & !CLONE_NEWPID).context("enter the container")?;
                space.root_user.map_or(Ok(()), |_| users::become_root())
            }
            None => Err(fault!(FailedPrecondition, "the container is gone")),
        }
    });
    match entered {
        Ok(()) => program::become_program(spec, process, stdio, which == Which::First),
        Err(fault) => fault,
    }
}
