//! The lives of containers and processes: creation, start, end, removal.

use super::container::{Container, FIRST, Stage, check_id};
use super::process::{Caller, Channel, Phase, Process};
use super::streams::{no_container, no_process};
use super::system::{Created, Mounted, Sandbox, Which};
use super::{Agent, Outcome, ProcessKey, Role, StreamId, System};
use crate::api::agent as api;
use crate::fault::REPORT_LIMIT;
use crate::prelude::*;
use crate::sys::process::{Exit, SIGKILL};

/// How long a storage's device is waited for, in milliseconds.
const DEVICE_WAIT: u64 = 10_000;

/// Between two looks for a device, in milliseconds.
const DEVICE_RETRY: u32 = 10;

impl<S: System> Agent<S> {
    /// `CreateSandbox`.
    pub(super) fn create_sandbox(&mut self, request: api::CreateSandboxRequest) -> Outcome {
        refuse_if!(self.sandbox.is_some(), FailedPrecondition, "there is a sandbox already, and one at most");
        if !request.kernel_modules.is_empty() || !request.guest_hook_path.is_empty() || request.guest_userns {
            return Err(fault!(Unimplemented, "this guest has no kernel modules, hooks or shared users"));
        }
        let sandbox = Sandbox { id: request.sandbox_id, hostname: request.hostname, dns: request.dns };
        self.system.begin_sandbox(&sandbox)?;
        for storage in &request.storages {
            let mounted = self.system.mount(storage)?;
            refuse_if!(mounted == Mounted::NotYet, Internal, "storage {}: no such device", storage.source);
            self.shared_mounts.push(storage.mount_point.clone());
        }
        self.sandbox = Some(sandbox);
        Ok(Some(Vec::new()))
    }

    /// `CreateContainer`: answered when its storages are mounted and its namespaces stand.
    pub(super) fn create_container(&mut self, caller: Caller, call: api::CreateContainerRequest) -> Outcome {
        let id = call.container_id;
        check_id(&id)?;
        refuse_if!(self.containers.contains_key(&id), AlreadyExists, "there is a container {id} already");
        refuse_if!(self.ending, FailedPrecondition, "the sandbox is being destroyed");
        let mut spec =
            call.oci.ok_or_else(|| fault!(InvalidArgument, "a container needs a specification"))?;
        let mut process =
            spec.process.take().ok_or_else(|| fault!(InvalidArgument, "the specification has no process"))?;
        refuse_if!(!call.shared_mounts.is_empty(), Unimplemented, "shared mounts are not supported");
        if let Some(user) = call.string_user {
            name_user(&mut process, &user)?;
        }
        if call.sandbox_pidns
            && let Some(linux) = &mut spec.linux
        {
            linux.namespaces.retain(|namespace| namespace.r#type != "pid");
        }
        let deadline = self.system.now() + DEVICE_WAIT;
        let mut processes = Table::default();
        processes.insert(FIRST.into(), Process { spec: process, ..Default::default() });
        let container = Container {
            spec,
            stage: Stage::Mounting { caller, deadline },
            storages: call.storages,
            mounted: 0,
            devices: call.devices,
            system: None,
            holder: None,
            processes,
            first_alias: call.exec_id,
            memory: None,
            memory_kills: 0,
            removers: Vec::new(),
        };
        self.containers.insert(id.clone(), container);
        self.go_on_creating(&id);
        Ok(None)
    }

    /// Mounts the storages that are left, finds the devices, then begins the set-up.
    fn go_on_creating(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Stage::Mounting { caller, deadline } = container.stage else { return };
        match make_ready(&mut self.system, container) {
            Ok(None) => {}
            Ok(Some(_)) if self.system.now() < deadline => return,
            Ok(Some(missing)) => {
                let fault = fault!(Internal, "{missing}: no such device appeared");
                return self.fail_creation(id, caller, fault);
            }
            Err(fault) => return self.fail_creation(id, caller, fault),
        }
        let nothing = Sandbox::default();
        let sandbox = self.sandbox.as_ref().unwrap_or(&nothing);
        let Some(first) = container.processes.get(FIRST) else { return };
        match self.system.create(id, &container.spec, &first.spec, sandbox) {
            Ok(Created { container: system, holder, memory }) => {
                container.memory = memory;
                if let Some(memory) = memory {
                    self.roles.insert(memory, Role::Memory(id.into()));
                }
                container.system = Some(system);
                container.holder = holder.map(|(pid, _)| pid);
                match holder {
                    Some((_, report)) => {
                        container.stage = Stage::SettingUp { caller, report };
                        self.roles.insert(report, Role::SetUp(id.into()));
                    }
                    None => {
                        container.stage = Stage::Created;
                        self.answer(caller, Ok(Vec::new()));
                    }
                }
            }
            Err(fault) => self.fail_creation(id, caller, fault),
        }
    }

    /// Looks again for devices that were missing.
    pub(super) fn retry_mounts(&mut self) -> Option<u32> {
        let is_mounting = |container: &Container<_>| matches!(container.stage, Stage::Mounting { .. });
        let waiting: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, container)| is_mounting(container))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &waiting {
            self.go_on_creating(id);
        }
        self.containers.iter().any(|(_, container)| is_mounting(container)).then_some(DEVICE_RETRY)
    }

    fn fail_creation(&mut self, id: &str, caller: Caller, fault: Fault) {
        self.answer(caller, Err(fault));
        if let Some(container) = self.containers.get_mut(id) {
            // Nobody waits for the creation any more.
            container.stage = Stage::Ended;
        }
        self.begin_removal(id);
    }

    /// The holder of a container has said something.
    pub(super) fn set_up_reported(&mut self, id: &str) {
        let Some(Stage::SettingUp { caller, report }) =
            self.containers.get(id).map(|container| container.stage)
        else {
            return;
        };
        let Some(text) = self.read_report(report) else { return };
        self.close([report]);
        match text.as_slice() {
            // One zero byte: ready.
            [0] => {
                if let Some(container) = self.containers.get_mut(id) {
                    container.stage = Stage::Created;
                }
                self.answer(caller, Ok(Vec::new()));
            }
            [] => self.fail_creation(id, caller, fault!(Internal, "the container's set-up ended early")),
            text => self.fail_creation(id, caller, Fault::decode(text)),
        }
    }

    /// What a report says, once it has ended or once it is a "ready"; `None` while more is to come.
    fn read_report(&mut self, stream: StreamId) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            let mut chunk = [0; 256];
            match self.system.read(stream, &mut chunk) {
                // A report is written at once, so what is there is all of it.
                Err(Errno::EAGAIN) if text.is_empty() => return None,
                Ok(length @ 1..) if text.len() < REPORT_LIMIT => text.extend_from_slice(&chunk[..length]),
                Ok(_) | Err(_) => return Some(text),
            }
        }
    }

    /// `StartContainer`: answered when its program runs, or with why it does not.
    pub(super) fn start_container(&mut self, caller: Caller, id: &str) -> Outcome {
        let key = first_of(id);
        let container = self.containers.get_mut(id).ok_or_else(|| no_container(id))?;
        refuse_if!(container.stage != Stage::Created, FailedPrecondition, "container {id} cannot be started");
        container.stage = Stage::Running;
        if let Err(fault) = self.begin(caller, &key, Which::First) {
            self.first_ended(id);
            return Err(fault);
        }
        Ok(None)
    }

    /// `ExecProcess`: the same for another process.
    pub(super) fn exec_process(&mut self, caller: Caller, request: api::ExecProcessRequest) -> Outcome {
        let id = request.container_id;
        let key = ProcessKey { container: id.clone(), process: request.exec_id };
        let container = self.containers.get_mut(&id).ok_or_else(|| no_container(&id))?;
        refuse_if!(container.stage != Stage::Running, FailedPrecondition, "container {id} does not run");
        if container.key(&id, &key.process) == FIRST || container.processes.contains_key(&key.process) {
            return Err(fault!(AlreadyExists, "there is a process `{}` already", key.process));
        }
        let mut process = request.process.ok_or_else(|| fault!(InvalidArgument, "nothing to execute"))?;
        if let Some(user) = request.string_user {
            name_user(&mut process, &user)?;
        }
        container.processes.insert(key.process.clone(), Process { spec: process, ..Default::default() });
        if let Err(fault) = self.begin(caller, &key, Which::Another) {
            self.forget(&key);
            return Err(fault);
        }
        Ok(None)
    }

    fn begin(&mut self, caller: Caller, key: &ProcessKey, which: Which) -> Result {
        let Agent { system, containers, roles, .. } = self;
        let container = containers.get_mut(&key.container).ok_or_else(|| no_process(key))?;
        let (Some(space), Some(process)) = (&mut container.system, container.processes.get_mut(&key.process))
        else {
            return Err(no_process(key));
        };
        let started = system.start(space, &container.spec, &process.spec, which)?;
        process.phase = Phase::Starting { pid: started.pid, report: started.report, caller };
        roles.insert(started.report, Role::Start(key.clone()));
        process.input.stream = Some(started.stdin);
        roles.insert(started.stdin, Role::Input(key.clone()));
        for (channel, stream) in [(Channel::Out, Some(started.stdout)), (Channel::Err, started.stderr)] {
            process.outputs[channel as usize].stream = stream;
            if let Some(stream) = stream {
                roles.insert(stream, Role::Output(key.clone(), channel));
            }
        }
        self.pump_output(key, Channel::Out);
        match started.stderr {
            Some(_) => self.pump_output(key, Channel::Err),
            None => self.end_output(key, Channel::Err),
        }
        self.pump_input(key);
        Ok(())
    }

    /// A starting process has said something.
    pub(super) fn start_reported(&mut self, key: &ProcessKey) {
        let Some(Phase::Starting { pid, report, caller }) = self.process(key).map(|process| process.phase)
        else {
            return;
        };
        let Some(text) = self.read_report(report) else { return };
        self.close([report]);
        if let Some(process) = self.process(key) {
            process.phase = Phase::Running { pid };
        }
        if text.is_empty() {
            return self.answer(caller, Ok(Vec::new()));
        }
        self.answer(caller, Err(Fault::decode(&text)));
        // The end of the first, which follows, ends the container.
        if key.process != FIRST {
            self.forget(key);
        }
    }

    /// Forgets a process that never ran its program.
    fn forget(&mut self, key: &ProcessKey) {
        let container = self.containers.get_mut(&key.container);
        let Some(process) = container.and_then(|all| all.processes.remove(&key.process)) else { return };
        self.close(process.streams().collect::<Vec<_>>());
        let mut callers = process.waiters;
        callers.extend(process.input.writes.into_iter().map(|write| write.caller));
        let readers = process.outputs.into_iter().flat_map(|output| output.readers);
        callers.extend(readers.map(|(caller, _)| caller));
        self.answer_all(callers, Err(no_process(key)));
    }

    /// A child of PID 1 has ended: a process, a holder, or an orphan that nobody knows.
    pub fn child_ended(&mut self, exit: Exit) {
        // Its number may be another's from here on.
        for (_, errand) in self.errands.iter_mut().filter(|(_, errand)| errand.pid == Some(exit.pid)) {
            errand.pid = None;
        }
        let found = self.containers.iter_mut().find_map(|(id, container)| {
            if container.holder.take_if(|pid| *pid == exit.pid).is_some() {
                return Some((id.clone(), None));
            }
            let mut processes = container.processes.iter();
            let (name, _) = processes.find(|(_, process)| process.pid() == Some(exit.pid))?;
            Some((id.clone(), Some(name.clone())))
        });
        match found {
            None => {}
            Some((id, None)) => self.holder_ended(&id),
            Some((container, Some(process))) => {
                self.process_ended(&ProcessKey { container, process }, exit.status)
            }
        }
    }

    fn holder_ended(&mut self, id: &str) {
        // In the middle of the set-up its report, or the lack of one, is the answer.
        self.set_up_reported(id);
        self.finish_removal(id);
    }

    fn process_ended(&mut self, key: &ProcessKey, status: i32) {
        // A report not yet read says whether the program ever ran.
        self.start_reported(key);
        let Some(process) = self.process(key) else { return };
        let phase = core::mem::replace(&mut process.phase, Phase::Ended { status });
        let waiters = core::mem::take(&mut process.waiters);
        process.waited |= !waiters.is_empty();
        if let Phase::Starting { report, caller, .. } = phase {
            self.close([report]);
            self.answer(caller, Err(fault!(Internal, "the process ended before its program began")));
        }
        self.answer_all(waiters, Ok(api::WaitProcessResponse { status }.encode_to_vec()));
        self.end_input(key, Errno::EPIPE);
        for channel in [Channel::Out, Channel::Err] {
            self.pump_output(key, channel);
        }
        if key.process == FIRST {
            self.first_ended(&key.container);
        } else {
            self.tidy(&key.container);
        }
        self.finish_removal(&key.container);
    }

    /// The container's own process is no more, and so nothing of the container runs on.
    fn first_ended(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.stage == Stage::Running {
            container.stage = Stage::Ended;
        }
        if let Some(system) = &container.system {
            self.system.end(system);
        }
        let key = first_of(id);
        // One that could not even be forked has no end to come.
        if self.process(&key).is_some_and(|process| process.phase == Phase::Waiting) {
            self.never_began(&key);
        }
    }

    fn never_began(&mut self, key: &ProcessKey) {
        let Some(process) = self.process(key) else { return };
        process.phase = Phase::Ended { status: 128 };
        let waiters = core::mem::take(&mut process.waiters);
        self.answer_all(waiters, Err(fault!(FailedPrecondition, "the process was never started")));
        self.end_input(key, Errno::EPIPE);
        self.end_output(key, Channel::Out);
        self.end_output(key, Channel::Err);
    }

    pub(super) fn tidy(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            let streams = container.tidy();
            self.close(streams);
        }
    }

    /// `WaitProcess`: answered at its end.
    pub(super) fn wait_process(&mut self, caller: Caller, key: ProcessKey) -> Outcome {
        let process = self.known_process(&key)?;
        let Some(status) = process.status() else {
            process.waiters.push(caller);
            return Ok(None);
        };
        process.waited = true;
        // What it wrote and nobody read stays readable.
        for channel in [Channel::Out, Channel::Err] {
            self.pump_output(&key, channel);
        }
        self.tidy(&key.container);
        Ok(Some(api::WaitProcessResponse { status }.encode_to_vec()))
    }

    /// `SignalProcess`.
    pub(super) fn signal_process(&mut self, id: &str, exec_id: &str, signal: u32) -> Outcome {
        let key = self.key(id, exec_id)?;
        refuse_if!(!(1..=64).contains(&signal), InvalidArgument, "{signal} is no signal");
        if exec_id.is_empty() {
            if let Some(system) = self.containers.get(id).and_then(|container| container.system.as_ref()) {
                self.system.signal_all(system, signal)?;
            }
            return Ok(Some(Vec::new()));
        }
        let process = self.known_process(&key)?;
        match (process.pid(), process.status()) {
            // Perhaps it ended a moment ago.
            (Some(pid), _) => {
                self.system.signal(pid, signal).despite(Errno::ESRCH).context("signal")?;
            }
            (None, Some(_)) => {}
            (None, None) => return Err(fault!(FailedPrecondition, "the process is not started")),
        }
        Ok(Some(Vec::new()))
    }

    /// `RemoveContainer`: answered when nothing of it is left.
    pub(super) fn remove_container(&mut self, caller: Caller, call: api::RemoveContainerRequest) -> Outcome {
        let (id, timeout) = (&call.container_id, u64::from(call.timeout));
        let container = self.containers.get_mut(id).ok_or_else(|| no_container(id))?;
        let deadline = (timeout != 0).then(|| self.system.now() + timeout * 1000);
        container.removers.push((caller, deadline));
        self.begin_removal(id);
        Ok(None)
    }

    /// Tells those who wait for a removal no longer than they wanted to. Returns when to look again, by the system's clock.
    pub(super) fn give_up_removals(&mut self) -> Option<u64> {
        let now = || self.system.now();
        let mut late = Vec::new();
        let mut next: Option<u64> = None;
        for (_, container) in self.containers.iter_mut() {
            let is_late = |(_, deadline): &mut (_, Option<u64>)| deadline.is_some_and(|time| time <= now());
            late.extend(container.removers.extract_if(.., is_late).map(|(caller, _)| caller));
            let first = container.removers.iter().filter_map(|(_, deadline)| *deadline).min();
            next = [next, first].into_iter().flatten().min();
        }
        for caller in late {
            self.answer(caller, Err(fault!(DeadlineExceeded, "processes of the container are still ending")));
        }
        next
    }

    fn begin_removal(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let interrupted = match container.stage {
            Stage::Mounting { caller, .. } => Some((caller, None)),
            Stage::SettingUp { caller, report } => Some((caller, Some(report))),
            _ => None,
        };
        container.stage = Stage::Removing;
        if let Some(holder) = container.holder {
            let _ = self.system.signal(holder, SIGKILL);
        }
        for pid in container.processes.iter().filter_map(|(_, process)| process.pid()) {
            let _ = self.system.signal(pid, SIGKILL);
        }
        if let Some(system) = &container.system {
            self.system.end(system);
        }
        if let Some((caller, report)) = interrupted {
            self.close(report);
            self.answer(caller, Err(fault!(FailedPrecondition, "the container is being removed")));
        }
        self.finish_removal(id);
    }

    fn finish_removal(&mut self, id: &str) {
        let is_over = |container: &Container<_>| container.stage == Stage::Removing && container.alive() == 0;
        if !self.containers.get(id).is_some_and(is_over) {
            return;
        }
        let processes =
            |container: &Container<_>| container.processes.iter().next().map(|(name, _)| name.clone());
        while let Some(process) = self.containers.get(id).and_then(processes) {
            self.forget(&ProcessKey { container: id.into(), process });
        }
        let Some(container) = self.containers.remove(id) else { return };
        self.close(container.memory);
        if let Some(system) = container.system {
            self.system.remove(system);
        }
        for storage in container.storages[..container.mounted].iter().rev().filter(|storage| !storage.shared)
        {
            self.system.unmount(&storage.mount_point);
        }
        self.answer_all(container.removers.into_iter().map(|(caller, _)| caller).collect(), Ok(Vec::new()));
    }

    /// Unmounts every container's storages and the sandbox's, when nothing runs any more and the machine is about to end.
    pub fn unmount_all(&mut self) {
        for (_, container) in self.containers.iter().rev() {
            for storage in container.storages[..container.mounted].iter().rev() {
                self.system.unmount(&storage.mount_point);
            }
        }
        for mount_point in self.shared_mounts.iter().rev() {
            self.system.unmount(mount_point);
        }
    }

    /// The process that a call is about.
    pub(super) fn key(&self, id: &str, exec_id: &str) -> Result<ProcessKey> {
        let container = self.containers.get(id).ok_or_else(|| no_container(id))?;
        Ok(ProcessKey { container: id.into(), process: container.key(id, exec_id).into() })
    }
}

/// Mounts what is left of a container's storages, and finds its devices: what is not there yet, if something is not.
fn make_ready<S: System>(system: &mut S, container: &mut Container<S::Container>) -> Result<Option<String>> {
    while let Some(storage) = container.storages.get(container.mounted) {
        if system.mount(storage)? == Mounted::NotYet {
            return Ok(Some(storage.source.clone()));
        }
        container.mounted += 1;
    }
    system.pass(&container.devices, &mut container.spec)
}

fn first_of(id: &str) -> ProcessKey {
    ProcessKey { container: id.into(), process: FIRST.into() }
}

/// Turns a `StringUser` into the user string that the guest looks up.
fn name_user(process: &mut crate::api::oci::Process, user: &api::StringUser) -> Result {
    let target = process.user.get_or_insert_default();
    if !user.uid.is_empty() || !user.gid.is_empty() {
        target.username =
            if user.gid.is_empty() { user.uid.clone() } else { format!("{}:{}", user.uid, user.gid) };
    }
    for gid in &user.additional_gids {
        let number =
            gid.parse().map_err(|_| fault!(InvalidArgument, "additional group `{gid}` is no number"));
        target.additional_gids.push(number?);
    }
    Ok(())
}
