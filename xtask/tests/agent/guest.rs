//! The guest that all tests of this program share, one after the other: a boot costs seconds. It lives as long as the test
//! program, for its xtask waits for the end of an input that only this process holds.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ferry_images::ImageConfig;
use ferry_init::api::agent::{
    CreateContainerRequest, CreateSandboxRequest, Empty, ExecProcessRequest, SignalProcessRequest,
    StartContainerRequest, WaitProcessRequest, WaitProcessResponse,
};
use ferry_init::api::method;
use ferry_init::api::oci::{LinuxNamespace, Spec};
use ferry_init::api::protobuf::Message;
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::session::{ContainerSpec, ExecSpec, start_exec};
use ferry_vmm::agent::{self, CallError, Client, OutputStream, Patience, Read, Transport, Wait};
use ferry_vmm::runtime::command::Entrypoint;
use ferry_vmm::runtime::oci::{self, Options, Writable};

/// Longer than any answer of a busy guest takes.
pub const LONG: Duration = Duration::from_secs(120);

static GUEST: LazyLock<Mutex<Guest>> = LazyLock::new(|| Mutex::new(Guest::start()));
static NAMES: AtomicU32 = AtomicU32::new(0);

/// The guest and the one connection to it: behind a virtio-serial port there is room for one client at a time.
pub struct Guest {
    pub socket: PathBuf,
    client: Option<Client>,
    _xtask: Child,
    /// Its end is the guest's.
    _input: ChildStdin,
    /// What its xtask writes, which ends with it.
    output: BufReader<ChildStdout>,
    /// Its disks beside the image's.
    _disks: tempfile::TempDir,
}

/// The address of its network card, at whose other end there is nobody.
pub const MAC: &str = "02:00:00:00:00:07";
/// Bytes of its disk `swap`, and of its disk `volume`, whose file system has half of it.
const SWAP: u64 = 1 << 20;
pub const VOLUME: u64 = 64 << 20;

/// The guest, for one test.
pub fn guest() -> MutexGuard<'static, Guest> {
    // Another test's failure is no failure of this one.
    GUEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that no container has had yet.
pub fn fresh(name: &str) -> String {
    format!("{name}-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

impl Guest {
    /// Boots one, with a sandbox.
    pub fn start() -> Guest {
        let mut guest = Guest::boot();
        guest.client().create_sandbox(&sandbox()).expect("a sandbox");
        guest
    }

    /// Boots one whose sandbox is yet to be made.
    pub fn boot() -> Guest {
        let disks = tempfile::tempdir().expect("a directory");
        let mut devices = vec![
            "-netdev".to_owned(),
            "user,id=card,restrict=on".to_owned(),
            "-device".to_owned(),
            format!("virtio-net-device,netdev=card,mac={MAC}"),
        ];
        let at = |serial: &str| disks.path().join(serial);
        swap_space(&at("swap"));
        volume(&at("volume"));
        for serial in ["swap", "volume"] {
            let path = at(serial);
            let drive = format!("if=none,id={serial},format=raw,cache=unsafe,file={}", path.display());
            let device = format!("virtio-blk-device,drive={serial},serial={serial}");
            devices.extend(["-drive".to_owned(), drive, "-device".to_owned(), device]);
        }
        let devices = devices.iter().flat_map(|word| ["--qemu-arg", word]);
        let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["guest", "--memory", "256m", "--cpus", "2", "hello"])
            .args(devices)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("xtask starts");
        let mut line = String::new();
        let mut output = BufReader::new(xtask.stdout.take().expect("a pipe"));
        output.read_line(&mut line).expect("xtask says where the socket is");
        let socket = PathBuf::from(line.trim_end());
        assert!(socket.is_absolute(), "xtask guest has said {line:?}");
        let _input = xtask.stdin.take().expect("a pipe");
        Guest { socket, client: None, _xtask: xtask, _input, output, _disks: disks }
    }

    /// The connection, made when it is needed.
    pub fn client(&mut self) -> Client {
        let transport = Transport::Stream { socket: self.socket.clone() };
        let patience = Patience { since: Instant::now(), limit: LONG, alive: &|| true };
        let connect = || agent::connect(&transport, &patience).expect("the agent answers");
        self.client.get_or_insert_with(connect).clone()
    }

    /// Whether it ends by itself within this time.
    pub fn has_ended(mut self, within: Duration) -> bool {
        let (sender, ended) = channel();
        // The thread stays where the guest does.
        thread::spawn(move || sender.send(self.output.read_to_end(&mut Vec::new()).is_ok()));
        ended.recv_timeout(within).unwrap_or(false)
    }

    /// Hangs up, so that another client may come.
    pub fn hang_up(&mut self) {
        if let Some(client) = self.client.take() {
            client.close("another client comes");
        }
    }
}

/// The sandbox of the tests.
pub fn sandbox() -> CreateSandboxRequest {
    let (hostname, sandbox_id) = ("sandbox".to_owned(), "tests".to_owned());
    CreateSandboxRequest { hostname, sandbox_id, ..Default::default() }
}

/// Swap space as mkswap(8) makes it: a page with the version, the last page's number, and a word at its end.
fn swap_space(path: &Path) {
    let file = File::create_new(path).expect("a file");
    let mut page = [0; 4096];
    page[1024..1028].copy_from_slice(&1u32.to_le_bytes());
    page[1028..1032].copy_from_slice(&((SWAP / 4096 - 1) as u32).to_le_bytes());
    page[4086..].copy_from_slice(b"SWAPSPACE2");
    file.write_all_at(&page, 0).and_then(|()| file.set_len(SWAP)).expect("swap space");
}

/// A file system that has half of its disk.
fn volume(path: &Path) {
    let file = File::create_new(path).expect("a file");
    ferry_images::ext4::format_kept(&file, VOLUME / 2).expect("a file system");
    file.set_len(VOLUME).expect("a larger disk");
}

/// The same, with options.
pub fn container_with(id: &str, command: &[&str], change: impl FnOnce(&mut Options)) -> ContainerSpec {
    let mut options = Options {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        entrypoint: Entrypoint::Cleared,
        writable: Writable::Tmpfs,
        ..Options::default()
    };
    change(&mut options);
    let mut container = oci::container_for(id, &ImageConfig::default(), &options).expect("a container");
    // It has neighbours, unlike those that ferry runs alone.
    add_namespace(&mut container.oci, "ipc", "");
    container
}

/// One that may do everything.
pub fn privileged(id: &str, command: &[&str]) -> ContainerSpec {
    container_with(id, command, |options| options.privileged = true)
}

/// A container of the tests' image that runs this, for whom it is given to be changed before it is made.
pub fn container(id: &str, command: &[&str], change: impl FnOnce(&mut Spec)) -> ContainerSpec {
    let mut container = container_with(id, command, |_| {});
    change(&mut container.oci);
    container
}

/// Gives it a namespace: a new one where the path is empty.
pub fn add_namespace(spec: &mut Spec, kind: &str, path: &str) {
    let namespace = LinuxNamespace { r#type: kind.to_owned(), path: path.to_owned() };
    spec.linux.as_mut().expect("a part about Linux").namespaces.push(namespace);
}

/// Lets it join namespaces of another one.
pub fn joins(spec: &mut Spec, kinds: &[&str], other: &str) {
    for namespace in &mut spec.linux.as_mut().expect("a part about Linux").namespaces {
        if kinds.contains(&namespace.r#type.as_str()) {
            namespace.path = format!("container:{other}");
        }
    }
}

/// What it is made with.
pub fn create_request(container: &ContainerSpec) -> CreateContainerRequest {
    CreateContainerRequest {
        container_id: container.id.clone(),
        exec_id: container.id.clone(),
        storages: container.storages.clone(),
        oci: Some(container.oci.clone()),
        ..Default::default()
    }
}

/// Makes it.
pub fn create(client: &Client, container: &ContainerSpec) -> Result<(), CallError> {
    client.create_container(&create_request(container))
}

/// A container that runs this command, by its id.
pub fn running(client: &Client, name: &str, command: &[&str]) -> String {
    running_as(client, &container(&fresh(name), command, |_| {}))
}

/// The same, of a specification.
pub fn running_as(client: &Client, container: &ContainerSpec) -> String {
    create(client, container).expect("it is created");
    client.start_container(&container.id).expect("it starts");
    container.id.clone()
}

/// Another process for a container.
pub fn further(container: &str, id: &str, command: &[&str]) -> ExecProcessRequest {
    let process = self::container("x", command, |_| {}).oci.process;
    ExecProcessRequest { container_id: container.into(), exec_id: id.into(), process, ..Default::default() }
}

/// Starts a process in a container; its id.
pub fn exec(client: &Client, container: &str, command: &[&str]) -> String {
    let request = further(container, &fresh("exec"), command);
    let spec = ExecSpec {
        container: request.container_id,
        id: request.exec_id,
        process: request.process.expect("a process"),
    };
    start_exec(client, &spec).expect("it starts");
    spec.id
}

/// Fails unless exactly this comes next from a container's first process.
#[track_caller]
pub fn reads(client: &Client, id: &str, text: &str) {
    let mut read = Vec::new();
    while read.len() < text.len() {
        let left = (text.len() - read.len()) as u32;
        let piece = client.begin_read(OutputStream::Stdout, id, id, left).unwrap().wait(Wait::AtMost(LONG));
        match piece.unwrap() {
            Read::Data(data) => read.extend(data),
            Read::End => break,
        }
    }
    assert_eq!(String::from_utf8_lossy(&read), text);
}

/// Everything that a process writes to a stream.
pub fn read_all(client: &Client, stream: OutputStream, container: &str, exec: &str) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let read = client.begin_read(stream, container, exec, 4096).expect("the call is made");
        match read.wait(Wait::AtMost(LONG)).expect("data or the end") {
            Read::Data(data) => all.extend(data),
            Read::End => return all,
        }
    }
}

/// Runs a command in a container: its exit status and what it wrote to standard output.
pub fn output(client: &Client, container: &str, command: &[&str]) -> (i32, String) {
    let exec = exec(client, container, command);
    let text = read_all(client, OutputStream::Stdout, container, &exec);
    let errors = read_all(client, OutputStream::Stderr, container, &exec);
    let status = client.wait_process(container, &exec).expect("it ends");
    assert!(errors.is_empty(), "{command:?}: {}", String::from_utf8_lossy(&errors));
    (status, String::from_utf8(text).expect("text"))
}

/// A call of the agent's service by its name.
pub fn call<A: Message + Default>(
    client: &Client,
    method: &'static str,
    message: &impl Message,
) -> Result<A, CallError> {
    client.call(method::AGENT_SERVICE, method, message, Wait::AtMost(LONG))
}

/// The same where the answer says nothing.
pub fn tell(client: &Client, method: &'static str, message: &impl Message) -> Result<(), CallError> {
    call(client, method, message).map(|Empty {}| ())
}

/// The agent's code for it, if it is a refusal.
pub fn code(result: &Result<(), CallError>) -> Code {
    match result {
        Ok(()) => Code::Ok,
        Err(CallError::Status { code, message }) => {
            assert!(!message.is_empty(), "a refusal has a sentence");
            Code::try_from(*code).unwrap_or_else(|_| panic!("an unknown code: {code} {message}"))
        }
        Err(error) => panic!("{error}"),
    }
}

pub fn start_request(id: &str) -> StartContainerRequest {
    StartContainerRequest { container_id: id.into() }
}

pub fn kill_request(container: &str, exec: &str) -> SignalProcessRequest {
    SignalProcessRequest { container_id: container.into(), exec_id: exec.into(), signal: 9 }
}

pub fn wait_request(container: &str, exec: &str) -> WaitProcessRequest {
    WaitProcessRequest { container_id: container.into(), exec_id: exec.into() }
}

/// Waits for a process's end.
pub fn wait(client: &Client, container: &str, exec: &str) -> Result<i32, CallError> {
    call(client, method::WAIT_PROCESS, &wait_request(container, exec))
        .map(|answer: WaitProcessResponse| answer.status)
}
