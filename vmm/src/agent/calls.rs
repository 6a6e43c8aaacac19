//! The agent's calls that a run needs, typed. Names and messages are those of the Kata Containers agent.

use super::client::{CallError, Client, Pending, Wait};
use super::signals::Signal;
use super::terminal::Window;
use ferry_init::api::agent::{self, Empty};
use ferry_init::api::guest::{CopyFileRequest, GetOomEventRequest, OomEvent};
use ferry_init::api::oci::LinuxResources;
use ferry_init::api::protobuf::Message;
use ferry_init::api::stats::StatsContainerResponse;
use ferry_init::api::ttrpc::Code;
use ferry_init::api::{ferry, health, method, ttrpc};
use std::time::Duration;

/// How long the guest may take over one call about files or processes.
const FILES: Duration = Duration::from_secs(60);

/// One of a process's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output, or everything where the process has a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Whether reading came to a stream's end.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Bytes of it, at least one.
    Data(Vec<u8>),
    /// There will be none any more.
    End,
}

/// A write under way.
pub struct Writing {
    pending: Pending<agent::WriteStreamResponse>,
    length: usize,
}

impl Writing {
    /// Waits until it is done.
    pub fn wait(self, wait: Wait<'_>) -> Result<(), CallError> {
        let answer = self.pending.wait(wait)?;
        // Writes follow each other without waiting, so one that was cut short cannot be mended.
        match usize::try_from(answer.len) {
            Ok(taken) if taken == self.length => Ok(()),
            _ => Err(CallError::Malformed(method::WRITE_STDIN)),
        }
    }
}

/// A read under way.
pub struct Reading(Pending<agent::ReadStreamResponse>);

impl Reading {
    /// Waits for data or the end.
    pub fn wait(self, wait: Wait<'_>) -> Result<Read, CallError> {
        match self.0.wait(wait) {
            Ok(answer) if answer.data.is_empty() => Ok(Read::End),
            Ok(answer) => Ok(Read::Data(answer.data)),
            Err(error) if is_end_of_stream(&error) => Ok(Read::End),
            Err(error) => Err(error),
        }
    }
}

impl Client {
    fn agent<A: Message + Default>(
        &self,
        method: &'static str,
        message: &impl Message,
        wait: Wait<'_>,
    ) -> Result<A, CallError> {
        self.call(method::AGENT_SERVICE, method, message, wait)
    }

    /// Asks whether the agent serves.
    pub fn check(&self, wait: Wait<'_>) -> Result<(), CallError> {
        let answer: health::HealthCheckResponse =
            self.call(method::HEALTH_SERVICE, method::CHECK, &health::CheckRequest::default(), wait)?;
        if answer.status == health::ServingStatus::Serving as i32 {
            Ok(())
        } else {
            let message = "the agent says that it does not serve".to_owned();
            Err(CallError::Status { code: Code::Unavailable as i32, message })
        }
    }

    /// Prepares what containers share.
    pub fn create_sandbox(&self, request: &agent::CreateSandboxRequest) -> Result<(), CallError> {
        self.begin_sandbox(request)?.wait(Wait::Forever).map(|Empty {}| ())
    }

    /// The same, without waiting for the answer.
    pub fn begin_sandbox(&self, request: &agent::CreateSandboxRequest) -> Result<Pending<Empty>, CallError> {
        self.begin(method::AGENT_SERVICE, method::CREATE_SANDBOX, request)
    }

    /// Stops everything, unmounts and syncs; the guest resets a moment after its answer.
    pub fn destroy_sandbox(&self, at_most: Duration) -> Result<(), CallError> {
        let request = agent::DestroySandboxRequest {};
        self.agent(method::DESTROY_SANDBOX, &request, Wait::AtMost(at_most)).map(|Empty {}| ())
    }

    /// Mounts a container's storages and prepares its process.
    pub fn create_container(&self, request: &agent::CreateContainerRequest) -> Result<(), CallError> {
        self.begin_container(request)?.wait(Wait::Forever).map(|Empty {}| ())
    }

    /// The same, without waiting for the answer.
    pub fn begin_container(
        &self,
        request: &agent::CreateContainerRequest,
    ) -> Result<Pending<Empty>, CallError> {
        self.begin(method::AGENT_SERVICE, method::CREATE_CONTAINER, request)
    }

    /// Waits until a container has run out of memory; which.
    pub fn next_out_of_memory(&self) -> Result<String, CallError> {
        let event: OomEvent = self.agent(method::GET_OOM_EVENT, &GetOomEventRequest {}, Wait::Forever)?;
        Ok(event.container_id)
    }

    /// Lets a container's process begin.
    pub fn start_container(&self, container: &str) -> Result<(), CallError> {
        let request = agent::StartContainerRequest { container_id: container.to_owned() };
        self.agent(method::START_CONTAINER, &request, Wait::Forever).map(|Empty {}| ())
    }

    /// Kills what is left of a container and unmounts it.
    pub fn remove_container(&self, container: &str, at_most: Duration) -> Result<(), CallError> {
        let request = agent::RemoveContainerRequest { container_id: container.to_owned(), timeout: 0 };
        self.agent(method::REMOVE_CONTAINER, &request, Wait::AtMost(at_most)).map(|Empty {}| ())
    }

    /// Starts another process in a running container.
    pub fn exec_process(&self, request: &agent::ExecProcessRequest) -> Result<(), CallError> {
        self.agent(method::EXEC_PROCESS, request, Wait::Forever).map(|Empty {}| ())
    }

    /// Freezes a container's processes.
    pub fn pause_container(&self, container: &str, at_most: Duration) -> Result<(), CallError> {
        let request = agent::PauseContainerRequest { container_id: container.to_owned() };
        self.agent(method::PAUSE_CONTAINER, &request, Wait::AtMost(at_most)).map(|Empty {}| ())
    }

    /// Lets a container's frozen processes go on.
    pub fn resume_container(&self, container: &str, at_most: Duration) -> Result<(), CallError> {
        let request = agent::ResumeContainerRequest { container_id: container.to_owned() };
        self.agent(method::RESUME_CONTAINER, &request, Wait::AtMost(at_most)).map(|Empty {}| ())
    }

    /// Changes a container's limits.
    pub fn update_container(
        &self,
        container: &str,
        resources: LinuxResources,
        at_most: Duration,
    ) -> Result<(), CallError> {
        let request =
            agent::UpdateContainerRequest { container_id: container.to_owned(), resources: Some(resources) };
        self.agent(method::UPDATE_CONTAINER, &request, Wait::AtMost(at_most)).map(|Empty {}| ())
    }

    /// A container's counters.
    pub fn stats_container(
        &self,
        container: &str,
        at_most: Duration,
    ) -> Result<StatsContainerResponse, CallError> {
        let request = agent::StatsContainerRequest { container_id: container.to_owned() };
        self.agent(method::STATS_CONTAINER, &request, Wait::AtMost(at_most))
    }

    fn ferry<A: Message + Default>(
        &self,
        method: &'static str,
        message: &impl Message,
    ) -> Result<A, CallError> {
        self.call(method::FERRY_SERVICE, method, message, Wait::AtMost(FILES))
    }

    /// The processes of a container.
    pub fn list_processes(&self, container: &str) -> Result<ferry::ListProcessesResponse, CallError> {
        let request = ferry::ListProcessesRequest { container_id: container.to_owned() };
        self.ferry(method::LIST_PROCESSES, &request)
    }

    /// What is in the log of the guest's kernel.
    pub fn kernel_log(&self) -> Result<Vec<u8>, CallError> {
        let answer: ferry::KernelLogResponse = self.ferry(method::KERNEL_LOG, &ferry::KernelLogRequest {})?;
        Ok(answer.text)
    }

    /// What a path in a container is.
    pub fn stat_file(
        &self,
        container: &str,
        path: &[u8],
        follow: bool,
    ) -> Result<ferry::FileInfo, CallError> {
        let request =
            ferry::StatFileRequest { container_id: container.to_owned(), path: path.to_owned(), follow };
        self.ferry(method::STAT_FILE, &request)
    }

    /// Some names in a directory of a container, from `cursor` on, and where to go on.
    pub fn read_dir(
        &self,
        container: &str,
        path: &[u8],
        cursor: u64,
    ) -> Result<ferry::ReadDirResponse, CallError> {
        let request =
            ferry::ReadDirRequest { container_id: container.to_owned(), path: path.to_owned(), cursor };
        self.ferry(method::READ_DIR, &request)
    }

    /// A part of a file of a container; nothing at its end.
    pub fn read_file(
        &self,
        container: &str,
        path: &[u8],
        offset: u64,
        len: u32,
    ) -> Result<Vec<u8>, CallError> {
        let request =
            ferry::ReadFileRequest { container_id: container.to_owned(), path: path.to_owned(), offset, len };
        let answer: ferry::ReadFileResponse = self.ferry(method::READ_FILE, &request)?;
        Ok(answer.data)
    }

    /// Writes a part of a file, or makes a directory or link, in the guest.
    pub fn copy_file(&self, request: &CopyFileRequest) -> Result<(), CallError> {
        self.agent(method::COPY_FILE, request, Wait::AtMost(FILES)).map(|Empty {}| ())
    }

    /// Waits until a process has ended; its exit status, or 128 and the signal's number.
    pub fn wait_process(&self, container: &str, exec: &str) -> Result<i32, CallError> {
        let request =
            agent::WaitProcessRequest { container_id: container.to_owned(), exec_id: exec.to_owned() };
        let answer: agent::WaitProcessResponse = self.agent(method::WAIT_PROCESS, &request, Wait::Forever)?;
        Ok(answer.status)
    }

    /// Sends a signal to a process.
    pub fn signal_process(
        &self,
        container: &str,
        exec: &str,
        signal: Signal,
        wait: Wait<'_>,
    ) -> Result<(), CallError> {
        let request = agent::SignalProcessRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            signal: u32::from(signal.number()),
        };
        self.agent(method::SIGNAL_PROCESS, &request, wait).map(|Empty {}| ())
    }

    /// Begins to write to a process's stdin; answered when the process has taken all of it.
    pub fn begin_write(&self, container: &str, exec: &str, data: Vec<u8>) -> Result<Writing, CallError> {
        let length = data.len();
        let request =
            agent::WriteStreamRequest { container_id: container.to_owned(), exec_id: exec.to_owned(), data };
        self.begin(method::AGENT_SERVICE, method::WRITE_STDIN, &request)
            .map(|pending| Writing { pending, length })
    }

    /// Ends a process's stdin.
    pub fn close_stdin(&self, container: &str, exec: &str, wait: Wait<'_>) -> Result<(), CallError> {
        let request =
            agent::CloseStdinRequest { container_id: container.to_owned(), exec_id: exec.to_owned() };
        self.agent(method::CLOSE_STDIN, &request, wait).map(|Empty {}| ())
    }

    /// Begins to read what a process writes; answered when there is something.
    pub fn begin_read(
        &self,
        stream: OutputStream,
        container: &str,
        exec: &str,
        len: u32,
    ) -> Result<Reading, CallError> {
        let request =
            agent::ReadStreamRequest { container_id: container.to_owned(), exec_id: exec.to_owned(), len };
        let method = match stream {
            OutputStream::Stdout => method::READ_STDOUT,
            OutputStream::Stderr => method::READ_STDERR,
        };
        self.begin(method::AGENT_SERVICE, method, &request).map(Reading)
    }

    /// Gives a process's terminal a size.
    pub fn resize_terminal(
        &self,
        container: &str,
        exec: &str,
        window: Window,
        wait: Wait<'_>,
    ) -> Result<(), CallError> {
        let request = agent::TtyWinResizeRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            row: u32::from(window.rows),
            column: u32::from(window.columns),
        };
        self.agent(method::TTY_WIN_RESIZE, &request, wait).map(|Empty {}| ())
    }
}

/// The agent says `INVALID_ARGUMENT` with this message where a stream has ended; other agents of the family have used
/// `OUT_OF_RANGE`.
fn is_end_of_stream(error: &CallError) -> bool {
    match error {
        CallError::Status { message, .. } if error.is(Code::InvalidArgument) => {
            message.eq_ignore_ascii_case(ttrpc::EOF)
        }
        _ => error.is(Code::OutOfRange),
    }
}
