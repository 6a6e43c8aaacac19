//! A process of a container, as its callers see it: its streams, and who waits for what.

use super::system::StreamId;
use crate::api::oci;
use crate::prelude::*;

/// Who asked: an answer goes to this client under this ttrpc stream id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The client.
    pub connection: StreamId,
    /// The call.
    pub stream_id: u32,
}

/// Most bytes that wait to be written to one process's stdin.
pub const INPUT_LIMIT: usize = 8 << 20;

/// A process.
#[derive(Default)]
pub struct Process {
    /// What was asked for.
    pub spec: oci::Process,
    /// How far it is.
    pub phase: Phase,
    /// Its stdin.
    pub input: Input,
    /// Its stdout, and its stderr.
    pub outputs: [Output; 2],
    /// Who waits for its end.
    pub waiters: Vec<Caller>,
    /// Whether somebody was told its end.
    pub waited: bool,
}

/// How far a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not started.
    #[default]
    Waiting,
    /// On its way to its program: a stream says how it went, and the one who asked is told.
    Starting { pid: i32, report: StreamId, caller: Caller },
    /// Its program runs.
    Running { pid: i32 },
    /// It ended with this status (128+N for signal N).
    Ended { status: i32 },
}

impl Process {
    /// Its process id while it exists.
    pub fn pid(&self) -> Option<i32> {
        match self.phase {
            Phase::Starting { pid, .. } | Phase::Running { pid } => Some(pid),
            Phase::Waiting | Phase::Ended { .. } => None,
        }
    }

    /// Its exit status once it has ended.
    pub fn status(&self) -> Option<i32> {
        if let Phase::Ended { status } = self.phase { Some(status) } else { None }
    }

    /// The streams that it holds.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> {
        let report = if let Phase::Starting { report, .. } = self.phase { Some(report) } else { None };
        let outputs = self.outputs.each_ref().map(|output| output.stream);
        outputs.into_iter().flatten().chain(self.input.stream).chain(report)
    }
}

/// Which of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// stdout.
    Out = 0,
    /// stderr.
    Err = 1,
}

/// A stream that a process writes and clients read. The pipe is the only buffer: a process whose output
/// nobody reads is held up by the kernel, and nothing grows here.
#[derive(Default)]
pub struct Output {
    /// Where it is read; `None` before the start and after the end.
    pub stream: Option<StreamId>,
    /// Whether it has ended.
    pub ended: bool,
    /// Reads that wait for data, and how many bytes they want at most.
    pub readers: Vec<(Caller, usize)>,
}

/// A stream that clients write and a process reads.
#[derive(Default)]
pub struct Input {
    /// Where it is written; `None` before the start and after the end.
    pub stream: Option<StreamId>,
    /// Whether it is closed, or to be closed when all is written.
    pub closing: bool,
    /// Writes that wait, and how much of each is done.
    pub writes: Vec<Write>,
    /// Bytes that wait in them.
    pub waiting: usize,
}

/// A write that waits.
pub struct Write {
    /// Who is told when it is done.
    pub caller: Caller,
    /// The data.
    pub data: Vec<u8>,
    /// How much of it is written.
    pub done: usize,
}
