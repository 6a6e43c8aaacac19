//! A machine in memory, and clients of the agent that runs on it.

use std::collections::{BTreeMap, VecDeque};

use crate::agent::connection::tests::frame_of;
use crate::agent::*;
use crate::api::agent::{self as api, Device, Storage};
use crate::api::appliance::Log;
use crate::api::frame::{HEADER_LEN, Header};
use crate::api::method;
use crate::api::oci::{LinuxResources, Process as OciProcess, Spec};
use crate::api::protobuf::Message;
use crate::api::ttrpc::{Code, Request, Response};
use crate::fault::fault;
use crate::sys::Result as SysResult;
use crate::sys::process::Exit;

/// A stream in memory: what the agent may read, what it wrote, how much it may still write.
#[derive(Default)]
pub struct Pipe {
    pub incoming: VecDeque<u8>,
    pub ended: bool,
    pub outgoing: Vec<u8>,
    pub room: usize,
}

#[derive(Default)]
pub struct Machine {
    next: u64,
    next_pid: i32,
    pub time: u64,
    pub streams: BTreeMap<StreamId, Pipe>,
    /// Pid to report, stdin, stdout, stderr.
    pub processes: BTreeMap<i32, [Option<StreamId>; 4]>,
    pub signals: Vec<(i32, u32)>,
    pub mounted: Vec<String>,
    pub missing_device: bool,
    pub memory_kills: u64,
    pub logs: BTreeMap<String, StreamId>,
    pub size: Option<(u16, u16)>,
}

impl Machine {
    fn stream(&mut self) -> StreamId {
        self.next += 1;
        self.streams.insert(StreamId(self.next), Pipe { room: usize::MAX, ..Default::default() });
        StreamId(self.next)
    }

    fn spawn(&mut self) -> i32 {
        self.next_pid += 1;
        self.next_pid + 100
    }
}

impl System for Machine {
    type Container = ();

    fn now(&self) -> u64 {
        self.time
    }

    fn read(&mut self, stream: StreamId, buffer: &mut [u8]) -> SysResult<usize> {
        let pipe = self.streams.get_mut(&stream).expect("reads only streams that are open");
        if pipe.incoming.is_empty() {
            return if pipe.ended { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let length = buffer.len().min(pipe.incoming.len());
        buffer[..length].iter_mut().for_each(|byte| *byte = pipe.incoming.pop_front().unwrap());
        Ok(length)
    }

    fn write(&mut self, stream: StreamId, data: &[u8]) -> SysResult<usize> {
        let pipe = self.streams.get_mut(&stream).expect("writes only streams that are open");
        let length = data.len().min(pipe.room);
        match length {
            0 if pipe.ended => Err(Errno::EPIPE),
            0 => Err(Errno::EAGAIN),
            length => {
                pipe.outgoing.extend_from_slice(&data[..length]);
                pipe.room -= length;
                Ok(length)
            }
        }
    }

    fn at_end(&mut self, stream: StreamId) -> bool {
        self.streams.get(&stream).is_none_or(|pipe| pipe.ended && pipe.incoming.is_empty())
    }

    fn close(&mut self, stream: StreamId) {
        assert!(self.streams.remove(&stream).is_some(), "closes only streams that are open");
    }

    fn resize(&mut self, _: StreamId, rows: u16, columns: u16) -> SysResult<()> {
        self.size = Some((rows, columns));
        Ok(())
    }

    fn open_log(&mut self, name: &str, _: &Log) -> Result<StreamId> {
        let stream = self.stream();
        self.logs.insert(name.into(), stream);
        Ok(stream)
    }

    fn begin_sandbox(&mut self, _: &Sandbox) -> Result {
        Ok(())
    }

    fn mount(&mut self, storage: &Storage) -> Result<Mounted> {
        if self.missing_device {
            return Ok(Mounted::NotYet);
        }
        self.mounted.push(storage.mount_point.clone());
        Ok(Mounted::Yes)
    }

    fn pass(&mut self, devices: &[Device], _: &mut Spec) -> Result<Option<String>> {
        Ok(devices.first().filter(|_| self.missing_device).map(|device| device.vm_path.clone()))
    }

    fn unmount(&mut self, mount_point: &str) {
        let container = &mount_point[..mount_point.rfind('/').unwrap_or(0)];
        let last =
            self.mounted.iter().rposition(|mounted| mounted.starts_with(container)).expect("is mounted");
        assert_eq!(self.mounted.remove(last), mount_point, "unmounts in reverse order");
    }

    fn create(&mut self, _: &str, _: &Spec, _: &OciProcess, _: &Sandbox) -> Result<Created<()>> {
        let (pid, report) = (self.spawn(), self.stream());
        self.processes.insert(pid, [Some(report), None, None, None]);
        let memory = Some(self.stream());
        Ok(Created { container: (), holder: Some((pid, report)), memory })
    }

    fn start(&mut self, _: &mut (), _: &Spec, process: &OciProcess, _: Which) -> Result<Started> {
        let pid = self.spawn();
        let (report, stdin, stdout) = (self.stream(), self.stream(), self.stream());
        let stderr = (!process.terminal).then(|| self.stream());
        self.processes.insert(pid, [Some(report), Some(stdin), Some(stdout), stderr]);
        Ok(Started { pid, report, stdin, stdout, stderr })
    }

    fn signal(&mut self, pid: i32, signal: u32) -> SysResult<()> {
        self.signals.push((pid, signal));
        Ok(())
    }

    fn signal_all(&mut self, _: &(), signal: u32) -> Result {
        self.signals.push((-1, signal));
        Ok(())
    }

    fn end(&mut self, _: &()) {}

    fn update(&mut self, _: &(), _: &LinuxResources) -> Result {
        Ok(())
    }

    fn freeze(&mut self, _: &(), _: Frozen) -> Result {
        Ok(())
    }

    fn stats(&mut self, _: &()) -> crate::api::stats::StatsContainerResponse {
        Default::default()
    }

    fn memory_kills(&mut self, _: &()) -> u64 {
        self.memory_kills
    }

    fn remove(&mut self, _: ()) {}

    fn container_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix("/run/")?.split('/').next()
    }

    fn send_child(&mut self, _: Option<&()>, _: &Request) -> Result<(i32, StreamId)> {
        let (pid, report) = (self.spawn(), self.stream());
        self.processes.insert(pid, [Some(report), None, None, None]);
        Ok((pid, report))
    }

    fn guest_call(&mut self, request: &Request) -> Result<Vec<u8>> {
        match request.method.as_str() {
            method::GET_METRICS => Ok(b"metrics".into()),
            other => Err(fault!(Unimplemented, "{other}")),
        }
    }
}

/// The agent and its clients.
pub struct World {
    pub agent: Agent<Machine>,
    next_call: u32,
}

impl World {
    pub fn new() -> World {
        World { agent: Agent::new(Machine::default()), next_call: 1 }
    }

    pub fn client(&mut self) -> StreamId {
        let stream = self.agent.system.stream();
        self.agent.connected(stream);
        stream
    }

    pub fn pipe(&mut self, stream: StreamId) -> &mut Pipe {
        self.agent.system.streams.get_mut(&stream).expect("the stream is open")
    }

    /// Calls; the answer is to be looked for.
    pub fn call(&mut self, client: StreamId, name: &str, message: &impl Message) -> u32 {
        let service = match name {
            method::CHECK => method::HEALTH_SERVICE,
            method::LIST_SERVICES
            | method::SERVICE_LOG
            | method::START_SERVICE
            | method::STOP_SERVICE
            | method::WAIT_END => method::SUPERVISOR_SERVICE,
            method::STAT_FILE | method::READ_FILE | method::LIST_PROCESSES => method::FERRY_SERVICE,
            _ => method::AGENT_SERVICE,
        };
        let request = Request {
            service: service.into(),
            method: name.into(),
            payload: message.encode_to_vec(),
            ..Default::default()
        };
        let id = self.next_call;
        self.next_call += 2;
        self.pipe(client).incoming.extend(frame_of(id, &request));
        self.agent.ready(client);
        while self.agent.tick() == Some(0) {}
        id
    }

    /// The answers that a client has got since the last look.
    pub fn answers(&mut self, client: StreamId) -> BTreeMap<u32, Result<Vec<u8>, (Code, String)>> {
        let bytes = std::mem::take(&mut self.pipe(client).outgoing);
        let mut rest = &bytes[..];
        let mut answers = BTreeMap::new();
        while let Some(header) = rest.first_chunk::<HEADER_LEN>().map(Header::decode) {
            let end = HEADER_LEN + header.length as usize;
            let response = Response::decode(&rest[HEADER_LEN..end]).unwrap();
            let answer = match response.status.filter(|status| status.code != 0) {
                Some(status) => Err((Code::try_from(status.code).unwrap(), status.message)),
                None => Ok(response.payload),
            };
            assert!(answers.insert(header.stream_id, answer).is_none(), "each call is answered once");
            rest = &rest[end..];
        }
        assert!(rest.is_empty());
        answers
    }

    /// Calls, and takes the answer that comes at once.
    pub fn ask(
        &mut self,
        client: StreamId,
        name: &str,
        message: &impl Message,
    ) -> Result<Vec<u8>, (Code, String)> {
        let id = self.call(client, name, message);
        self.answers(client).remove(&id).expect("answered at once")
    }

    pub fn last_pid(&self) -> i32 {
        *self.agent.system.processes.keys().last().unwrap()
    }

    /// A child says something and closes its report.
    pub fn report(&mut self, pid: i32, text: &[u8]) {
        let report = self.agent.system.processes[&pid][0].unwrap();
        let pipe = self.pipe(report);
        pipe.incoming.extend(text);
        pipe.ended = true;
        self.agent.ready(report);
    }

    pub fn end(&mut self, pid: i32, status: i32) {
        for stream in self.agent.system.processes[&pid].into_iter().flatten() {
            if let Some(pipe) = self.agent.system.streams.get_mut(&stream) {
                pipe.ended = true;
            }
            self.agent.ready(stream);
        }
        self.agent.child_ended(Exit { pid, status });
    }

    pub fn create_request(id: &str) -> api::CreateContainerRequest {
        let process = OciProcess { args: vec!["sh".into()], ..Default::default() };
        let storage = |name: &str| Storage { mount_point: format!("/run/{id}/{name}"), ..Default::default() };
        api::CreateContainerRequest {
            container_id: id.into(),
            storages: vec![storage("layers"), storage("rootfs")],
            oci: Some(Spec { process: Some(process), ..Default::default() }),
            ..Default::default()
        }
    }

    /// A started container: the pids of its holder and of its process.
    pub fn running(&mut self, client: StreamId, id: &str) -> (i32, i32) {
        self.call(client, method::CREATE_CONTAINER, &Self::create_request(id));
        let holder = self.last_pid();
        self.report(holder, &[0]);
        self.call(client, method::START_CONTAINER, &api::StartContainerRequest { container_id: id.into() });
        let pid = self.last_pid();
        self.report(pid, &[]);
        assert!(self.answers(client).values().all(Result::is_ok));
        (holder, pid)
    }
}
