//! An agent in this process, for tests: it serves one connection as PID 1 does, and the container's process is a closure.

use super::client::Client;
use ferry_init::api::agent::*;
use ferry_init::api::frame::{self, HEADER_LEN, Header, Kind};
use ferry_init::api::guest::OomEvent;
use ferry_init::api::health::{HealthCheckResponse, ServingStatus};
use ferry_init::api::protobuf::Message;
use ferry_init::api::ttrpc::{Code, EOF, Request, Response, Status};
use ferry_init::api::{method, ttrpc};
use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

/// A pipe with a reader's and a writer's end to close, holding as much as Linux's does.
#[derive(Default)]
pub struct Pipe {
    state: Mutex<PipeState>,
    changed: Condvar,
}

#[derive(Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    written_off: bool,
    closed: bool,
}

impl Pipe {
    const CAPACITY: usize = 64 << 10;

    /// Takes at least one byte, waiting for room; 0 when nobody reads.
    pub fn write_some(&self, data: &[u8]) -> usize {
        let mut state = self.state.lock().unwrap();
        while state.bytes.len() == Self::CAPACITY && !state.written_off {
            state = self.changed.wait(state).unwrap();
        }
        if state.written_off {
            return 0;
        }
        let taken = data.len().min(Self::CAPACITY - state.bytes.len());
        state.bytes.extend(&data[..taken]);
        self.changed.notify_all();
        taken
    }

    /// Whether somebody has read on to the end.
    pub fn write_all(&self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            match self.write_some(data) {
                0 => return false,
                taken => data = &data[taken..],
            }
        }
        true
    }

    /// At most `len` bytes, waiting for the first; none at the end.
    pub fn read(&self, len: usize) -> Vec<u8> {
        let mut state = self.state.lock().unwrap();
        while state.bytes.is_empty() && !state.closed {
            state = self.changed.wait(state).unwrap();
        }
        let taken = len.min(state.bytes.len());
        let data = state.bytes.drain(..taken).collect();
        self.changed.notify_all();
        data
    }

    /// The writer's end.
    pub fn close(&self) {
        self.state.lock().unwrap().closed = true;
        self.changed.notify_all();
    }

    /// The reader's end.
    pub fn write_off(&self) {
        self.state.lock().unwrap().written_off = true;
        self.changed.notify_all();
    }
}

/// What the process has: its streams and its signals, each as one byte.
#[derive(Default)]
pub struct World {
    pub stdin: Pipe,
    pub stdout: Pipe,
    pub stderr: Pipe,
    pub signals: Pipe,
    pub sizes: Pipe,
    status: Mutex<Option<i32>>,
    exited: Condvar,
}

type Program = Box<dyn FnOnce(&World) -> i32 + Send>;

/// How the agent is to behave.
#[derive(Default)]
pub struct Script {
    pub program: Option<Program>,
    /// A method's name with the error to answer it with.
    pub refuse: Option<(&'static str, Code, &'static str)>,
    /// A method during which the guest dies.
    pub die_at: Option<&'static str>,
    /// Whether the container runs out of memory, once.
    pub starves: bool,
}

/// What the agent was asked for, for the test to look at.
#[derive(Default)]
pub struct Record {
    pub methods: Vec<String>,
    pub created: Option<CreateContainerRequest>,
}

struct Agent {
    world: World,
    script: Mutex<Script>,
    record: Arc<Mutex<Record>>,
    stream: Mutex<UnixStream>,
}

/// Starts an agent and connects to it.
pub fn start(script: Script) -> (Client, Arc<Mutex<Record>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let record = Arc::new(Mutex::new(Record::default()));
    let agent = Arc::new(Agent {
        world: World::default(),
        script: Mutex::new(script),
        record: Arc::clone(&record),
        stream: Mutex::new(theirs.try_clone().unwrap()),
    });
    std::thread::spawn(move || agent.serve(theirs));
    (Client::new(ours).unwrap(), record)
}

/// Starts an agent behind a Unix socket, for one connection.
pub fn listen(socket: &std::path::Path, script: Script) -> Arc<Mutex<Record>> {
    let _ = std::fs::remove_file(socket);
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let record = Arc::new(Mutex::new(Record::default()));
    let for_agent = Arc::clone(&record);
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        Arc::new(Agent {
            world: World::default(),
            script: Mutex::new(script),
            record: for_agent,
            stream: Mutex::new(stream.try_clone().unwrap()),
        })
        .serve(stream);
    });
    record
}

/// A process that runs this.
pub fn running(program: impl FnOnce(&World) -> i32 + Send + 'static) -> Script {
    Script { program: Some(Box::new(program)), ..Script::default() }
}

impl Agent {
    /// Calls of one method are served in their order, those of different methods at once.
    fn serve(self: Arc<Self>, mut stream: UnixStream) {
        let mut workers: HashMap<String, Sender<(u32, Request)>> = HashMap::new();
        loop {
            let mut header = [0; HEADER_LEN];
            if stream.read_exact(&mut header).is_err() {
                return;
            }
            let header = Header::decode(&header);
            let mut message = vec![0; header.length as usize];
            stream.read_exact(&mut message).unwrap();
            let request = Request::decode(message.as_slice()).unwrap();
            let worker = workers.entry(request.method.clone()).or_insert_with(|| {
                let (sender, receiver) = channel::<(u32, Request)>();
                let agent = Arc::clone(&self);
                std::thread::spawn(move || {
                    receiver.iter().for_each(|(id, request)| agent.answer(id, &request))
                });
                sender
            });
            worker.send((header.stream_id, request)).unwrap();
        }
    }

    fn answer(self: &Arc<Self>, id: u32, request: &Request) {
        self.record.lock().unwrap().methods.push(request.method.clone());
        let (refuse, die_at) = {
            let script = self.script.lock().unwrap();
            (script.refuse, script.die_at)
        };
        if die_at == Some(request.method.as_str()) {
            self.stream.lock().unwrap().shutdown(std::net::Shutdown::Both).unwrap();
            return;
        }
        let answer = match refuse {
            Some((method, code, message)) if method == request.method => Err((code, message)),
            _ => self.perform(request),
        };
        let response = match answer {
            Ok(payload) => Response { status: None, payload },
            Err((code, message)) => {
                let status = Status { code: code as i32, message: message.into() };
                Response { status: Some(status), payload: vec![] }
            }
        };
        let bytes = frame::encode(Kind::Response, id, &response.encode_to_vec()).unwrap();
        let _ = self.stream.lock().unwrap().write_all(&bytes);
    }

    fn perform(self: &Arc<Self>, request: &Request) -> Result<Vec<u8>, (Code, &'static str)> {
        let world = &self.world;
        let payload = request.payload.as_slice();
        match request.method.as_str() {
            method::CHECK => {
                return Ok(HealthCheckResponse { status: ServingStatus::Serving as i32 }.encode_to_vec());
            }
            method::CREATE_SANDBOX
            | method::REMOVE_CONTAINER
            | method::DESTROY_SANDBOX
            | method::PAUSE_CONTAINER
            | method::RESUME_CONTAINER
            | method::UPDATE_CONTAINER => {}
            method::CREATE_CONTAINER => {
                self.record.lock().unwrap().created = Some(CreateContainerRequest::decode(payload).unwrap());
            }
            method::START_CONTAINER => {
                let program = self.script.lock().unwrap().program.take().unwrap();
                let agent = Arc::clone(self);
                std::thread::spawn(move || {
                    let world = &agent.world;
                    let status = program(world);
                    world.stdin.write_off();
                    world.stdout.close();
                    world.stderr.close();
                    *world.status.lock().unwrap() = Some(status);
                    world.exited.notify_all();
                });
            }
            method::GET_OOM_EVENT if self.script.lock().unwrap().starves => {
                self.script.lock().unwrap().starves = false;
                let created = self.record.lock().unwrap().created.clone();
                let container_id = created.unwrap_or_default().container_id;
                return Ok(OomEvent { container_id }.encode_to_vec());
            }
            method::WAIT_PROCESS => {
                let mut status = world.status.lock().unwrap();
                while status.is_none() {
                    status = world.exited.wait(status).unwrap();
                }
                return Ok(WaitProcessResponse { status: status.unwrap() }.encode_to_vec());
            }
            method::WRITE_STDIN => {
                let request = WriteStreamRequest::decode(payload).unwrap();
                if !world.stdin.write_all(&request.data) {
                    return Err((Code::FailedPrecondition, "stdin is closed"));
                }
                return Ok(WriteStreamResponse { len: request.data.len() as u32 }.encode_to_vec());
            }
            method::CLOSE_STDIN => world.stdin.close(),
            method::READ_STDOUT | method::READ_STDERR => {
                let request_ = ReadStreamRequest::decode(payload).unwrap();
                let pipe = if request.method == method::READ_STDOUT { &world.stdout } else { &world.stderr };
                let data = pipe.read(request_.len as usize);
                if data.is_empty() {
                    return Err((Code::InvalidArgument, EOF));
                }
                return Ok(ReadStreamResponse { data }.encode_to_vec());
            }
            method::SIGNAL_PROCESS => {
                let request = SignalProcessRequest::decode(payload).unwrap();
                world.signals.write_all(&[request.signal as u8]);
            }
            method::TTY_WIN_RESIZE => {
                let request = TtyWinResizeRequest::decode(payload).unwrap();
                world.sizes.write_all(&[request.row as u8, request.column as u8]);
            }
            _ => return Err((ttrpc::Code::Unimplemented, "not in this fake")),
        }
        Ok(Empty {}.encode_to_vec())
    }
}
