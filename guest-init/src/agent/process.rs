//! A process of a container, as its callers see it: its streams, and who waits for what.

use alloc::collections::VecDeque;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not started.
    Waiting,
    /// On its way to its program: the one who asked is told how that went.
    Starting {
        /// Its process id.
        pid: i32,
        /// The stream that says how it went.
        report: StreamId,
        /// Who asked for it.
        caller: Caller,
    },
    /// Its program runs.
    Running {
        /// Its process id.
        pid: i32,
    },
    /// It ended with this status (128+N for signal N).
    Ended {
        /// The status.
        status: i32,
    },
}

impl Process {
    /// A process not yet started.
    pub fn new(spec: oci::Process) -> Process {
        Process {
            spec,
            phase: Phase::Waiting,
            input: Input::default(),
            outputs: [Output::default(), Output::default()],
            waiters: Vec::new(),
            waited: false,
        }
    }

    /// Its process id while it exists.
    pub fn pid(&self) -> Option<i32> {
        match self.phase {
            Phase::Starting { pid, .. } | Phase::Running { pid } => Some(pid),
            Phase::Waiting | Phase::Ended { .. } => None,
        }
    }

    /// Its exit status once it has ended.
    pub fn status(&self) -> Option<i32> {
        match self.phase {
            Phase::Ended { status } => Some(status),
            _ => None,
        }
    }

    /// The streams that it holds.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> {
        let report = match self.phase {
            Phase::Starting { report, .. } => Some(report),
            _ => None,
        };
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
    pub readers: VecDeque<(Caller, usize)>,
}

/// A stream that clients write and a process reads.
#[derive(Default)]
pub struct Input {
    /// Where it is written; `None` before the start and after the end.
    pub stream: Option<StreamId>,
    /// Whether it is closed, or to be closed when all is written.
    pub closing: bool,
    /// Writes that wait, and how much of each is done.
    pub writes: VecDeque<Write>,
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
