//! One connection: a Unix socket on the host's side, packets and credit on the guest's.
//!
//! What the guest sends goes to the socket, or into a backlog as large as the credit the guest was given. What the socket
//! has is left there until the guest has a buffer and credit for it.

use super::packet::{HEADER, Header, NO_RECEIVE, NO_SEND, NOTHING_MORE, Operation, Ports, STREAM};
use crate::backends::scatter::Cursor;
use crate::devices::virtio::Chain;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::num::Wrapping;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use vm_memory::{Bytes, VolatileSlice};

/// How much a guest may send ahead of the host's reader.
pub(super) const BUFFER: u32 = 256 << 10;
/// The longest greeting: `CONNECT`, a 32-bit number and a newline.
const GREETING: usize = 32;

/// How far a connection has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A host program has connected and is saying which port it wants.
    Greeting(Vec<u8>),
    /// The guest has been asked.
    Requested,
    /// Both ends are connected.
    Established,
    /// The guest is gone; what it sent last is still on its way to the host.
    Draining,
}

/// What is to become of a connection after it has done something.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Keep,
    /// It ends, and the guest is told.
    Reset,
    /// It ends, and there is no guest to tell.
    Drop,
}

/// What a greeting comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It is not complete yet.
    Incomplete,
    /// The port of the guest that is wanted.
    Port(u32),
    /// It is none.
    Wrong,
}

/// A connection.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) stage: Stage,
    pub(super) ports: Ports,
    /// It is in the list of those that have something for the guest.
    pub(super) listed: bool,
    /// The socket may have something: it has not said otherwise since.
    readable: bool,
    /// The socket has nothing more and never will.
    ended: bool,
    /// The host's program has closed: it does not read either.
    hung_up: bool,
    /// From the guest, not yet taken by the socket.
    backlog: VecDeque<u8>,
    /// Bytes that the socket has taken; and what of that the guest knows.
    forwarded: Wrapping<u32>,
    forwarded_told: Wrapping<u32>,
    /// Bytes sent to the guest; what of that it has consumed, and how much it can hold.
    sent: Wrapping<u32>,
    guest_forwarded: Wrapping<u32>,
    guest_buffer: u32,
    /// What the guest has said it will not do any more, and what it has been told of the host.
    guest_shutdown: u32,
    shutdown_told: u32,
    /// A packet without data that is due first.
    due: Option<Operation>,
    update_due: bool,
    credit_asked: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, stage: Stage, ports: Ports) -> Self {
        Self {
            stream,
            stage,
            ports,
            listed: false,
            readable: true,
            ended: false,
            hung_up: false,
            backlog: VecDeque::new(),
            forwarded: Wrapping(0),
            forwarded_told: Wrapping(0),
            sent: Wrapping(0),
            guest_forwarded: Wrapping(0),
            guest_buffer: 0,
            guest_shutdown: 0,
            shutdown_told: 0,
            due: None,
            update_due: false,
            credit_asked: false,
        }
    }

    /// Asks the guest for a connection.
    pub(super) fn request(&mut self) {
        (self.stage, self.due) = (Stage::Requested, Some(Operation::Request));
    }

    /// Accepts the guest's request for a connection.
    pub(super) fn respond(&mut self, header: &Header) {
        self.take_credit(header);
        (self.stage, self.due) = (Stage::Established, Some(Operation::Response));
    }

    /// Reads what a host program says first, byte by byte: what follows the newline is the guest's.
    pub(super) fn read_greeting(&mut self) -> Greeting {
        let Stage::Greeting(line) = &mut self.stage else { return Greeting::Wrong };
        loop {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => break,
                Ok(1) if line.len() < GREETING => line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Greeting::Incomplete,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return Greeting::Wrong,
            }
        }
        let text = std::str::from_utf8(line).unwrap_or("").trim_end_matches('\r');
        match text.strip_prefix("CONNECT ").map(str::parse) {
            Some(Ok(port)) => Greeting::Port(port),
            _ => Greeting::Wrong,
        }
    }

    /// The socket is ready for something.
    pub(super) fn stirred(&mut self, readable: bool, hung_up: bool) -> Verdict {
        self.readable |= readable;
        self.hung_up |= hung_up;
        match self.stage {
            // Whoever asked has given up before the guest answered.
            Stage::Requested if hung_up => Verdict::Reset,
            Stage::Established | Stage::Draining => self.flush(),
            _ => Verdict::Keep,
        }
    }

    /// Deals with a packet of the guest. `data` is the payload.
    pub(super) fn receive(&mut self, operation: Operation, header: &Header, data: &Chain<'_>) -> Verdict {
        self.take_credit(header);
        match (operation, &self.stage) {
            (Operation::Response, Stage::Requested) => {
                self.stage = Stage::Established;
                let answer = format!("OK {}\n", self.ports.host);
                // Nothing has been written before, so there is room, or nobody there.
                match self.stream.write_all(answer.as_bytes()) {
                    Ok(()) => Verdict::Keep,
                    Err(_) => Verdict::Reset,
                }
            }
            (Operation::Reset, Stage::Established) if !self.backlog.is_empty() => {
                self.stage = Stage::Draining;
                Verdict::Keep
            }
            (Operation::Reset, _) => Verdict::Drop,
            (Operation::Data, _) if self.may_send(data.readable_bytes()) => self.forward(data.readable()),
            (Operation::Shutdown, Stage::Established) => {
                self.guest_shutdown |= header.flags & NOTHING_MORE;
                self.flush()
            }
            (Operation::CreditUpdate, Stage::Established) => Verdict::Keep,
            (Operation::CreditRequest, Stage::Established) => {
                self.update_due = true;
                Verdict::Keep
            }
            _ => Verdict::Reset,
        }
    }

    /// Whether the guest may send so many bytes now: it is connected, has not said that there is no more, and has credit.
    pub(super) fn may_send(&self, bytes: u64) -> bool {
        let room = u64::from(BUFFER) - self.backlog.len() as u64;
        self.stage == Stage::Established && self.guest_shutdown & NO_SEND == 0 && bytes <= room
    }

    pub(super) fn take_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buffer_size;
        self.guest_forwarded = Wrapping(header.forwarded);
        if self.credit() > 0 {
            self.credit_asked = false;
        }
    }

    /// How much the guest can take now.
    fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub((self.sent - self.guest_forwarded).0)
    }

    /// Passes data on to the socket, or keeps it: what the guest [may send](Self::may_send).
    pub(super) fn forward(&mut self, data: &[VolatileSlice<'_>]) -> Verdict {
        let mut cursor = Cursor::new(data);
        let bytes = cursor.remaining();
        if self.backlog.is_empty() && bytes > 0 {
            match send(&self.stream, &cursor, bytes) {
                Ok(count) => {
                    cursor.advance(count);
                    self.has_forwarded(count);
                }
                Err(error) if is_temporary(&error) => {}
                Err(_) => return self.no_reader(),
            }
        }
        cursor.for_each_rest(|slice| push(&mut self.backlog, slice));
        Verdict::Keep
    }

    /// Writes the backlog out as far as the socket takes it, and passes on what is due then.
    fn flush(&mut self) -> Verdict {
        while !self.backlog.is_empty() {
            let (first, _) = self.backlog.as_slices();
            match self.stream.write(first) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    self.has_forwarded(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_temporary(&error) => return Verdict::Keep,
                Err(_) => return self.no_reader(),
            }
        }
        // Buffers of a burst are not kept for the rest of a connection's life.
        self.backlog.shrink_to(4096);
        if self.stage == Stage::Draining {
            return Verdict::Drop;
        }
        if self.guest_shutdown & NOTHING_MORE == NOTHING_MORE {
            return Verdict::Reset;
        }
        if self.guest_shutdown & NO_SEND != 0 {
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
        }
        Verdict::Keep
    }

    /// The host's program reads no more: what the guest sent last is lost, and it is told to send nothing more.
    fn no_reader(&mut self) -> Verdict {
        self.backlog = VecDeque::new();
        self.hung_up = true;
        match self.stage {
            Stage::Draining => Verdict::Drop,
            _ if self.guest_shutdown & NOTHING_MORE == NOTHING_MORE => Verdict::Reset,
            _ => Verdict::Keep,
        }
    }

    fn has_forwarded(&mut self, bytes: usize) {
        self.forwarded += Wrapping(bytes as u32);
        // Telling the guest at each quarter keeps a fast sender going without a packet for every one of its own.
        if (self.forwarded - self.forwarded_told).0 >= BUFFER / 4 {
            self.update_due = true;
        }
    }

    /// What the guest should know of the host's willingness.
    fn shutdown(&self) -> u32 {
        let sends = if self.ended { NO_SEND } else { 0 };
        let receives = if self.hung_up && (self.ended || self.backlog.is_empty()) { NO_RECEIVE } else { 0 };
        sends | receives
    }

    /// Whether there is, or may be, a packet for the guest.
    pub(super) fn has_packet(&self) -> bool {
        if self.due.is_some() {
            return true;
        }
        let wants_data = self.readable && !self.ended && self.guest_shutdown & NO_RECEIVE == 0;
        self.stage == Stage::Established
            && (self.update_due
                || self.shutdown() & !self.shutdown_told != 0
                || wants_data && (self.credit() > 0 || !self.credit_asked))
    }

    /// Makes the next packet for the guest in `chain`, which has room for a header at least; none if there was nothing
    /// after all. Returns the packet's length.
    pub(super) fn next_packet(&mut self, guest_cid: u64, chain: &Chain<'_>) -> Option<u32> {
        let (operation, length, flags) = self.next()?;
        let length = match operation {
            Operation::Data => self.read_data(chain)?,
            _ => length,
        };
        // An end that was found instead of data is told at the next opportunity.
        if operation == Operation::Data && length == 0 {
            return None;
        }
        let header = Header {
            source_cid: super::packet::HOST_CID,
            destination_cid: guest_cid,
            source_port: self.ports.host,
            destination_port: self.ports.guest,
            length,
            kind: STREAM,
            operation: operation as u16,
            flags,
            buffer_size: BUFFER,
            forwarded: self.forwarded.0,
        };
        use vm_memory::ByteValued;
        chain.write_at(0, header.as_slice());
        self.forwarded_told = self.forwarded;
        self.update_due = false;
        Some(HEADER as u32 + length)
    }

    /// Chooses what to send next and notes it as sent.
    fn next(&mut self) -> Option<(Operation, u32, u32)> {
        if let Some(operation) = self.due.take() {
            return Some((operation, 0, 0));
        }
        if !self.has_packet() {
            return None;
        }
        let shutdown = self.shutdown();
        if shutdown & !self.shutdown_told != 0 {
            self.shutdown_told |= shutdown;
            return Some((Operation::Shutdown, 0, self.shutdown_told));
        }
        let wants_data = self.readable && !self.ended && self.guest_shutdown & NO_RECEIVE == 0;
        if wants_data && self.credit() > 0 {
            return Some((Operation::Data, 0, 0));
        }
        if self.update_due {
            return Some((Operation::CreditUpdate, 0, 0));
        }
        self.credit_asked = true;
        Some((Operation::CreditRequest, 0, 0))
    }

    /// Reads from the socket into a chain, behind the header.
    fn read_data(&mut self, chain: &Chain<'_>) -> Option<u32> {
        let mut cursor = Cursor::new(chain.writable());
        cursor.advance(HEADER);
        let limit = cursor.remaining().min(self.credit().into());
        if limit == 0 {
            return None;
        }
        match receive(&self.stream, &cursor, limit) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.sent += Wrapping(count as u32);
                return Some(count as u32);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_temporary(&error) => self.readable = false,
            Err(_) => (self.ended, self.hung_up) = (true, true),
        }
        None
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn push(backlog: &mut VecDeque<u8>, slice: VolatileSlice<'_>) {
    let mut piece = [0; 4096];
    for start in (0..slice.len()).step_by(piece.len()) {
        let length = piece.len().min(slice.len() - start);
        if slice.read_slice(&mut piece[..length], start).is_ok() {
            backlog.extend(&piece[..length]);
        }
    }
}

/// Sends up to `limit` of the cursor's bytes with one system call.
fn send(stream: &UnixStream, cursor: &Cursor<'_, '_>, limit: u64) -> io::Result<usize> {
    let vectors = cursor.describe(limit);
    let (list, count) = vectors.as_raw();
    // SAFETY: the vectors describe guest memory that the cursor's slices keep mapped; the descriptor is open.
    match unsafe { libc::writev(stream.as_raw_fd(), list, count) } {
        count @ 0.. => Ok(count as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Receives up to `limit` bytes into the cursor's buffers with one system call.
fn receive(stream: &UnixStream, cursor: &Cursor<'_, '_>, limit: u64) -> io::Result<usize> {
    let vectors = cursor.describe(limit);
    let (list, count) = vectors.as_raw();
    // SAFETY: as above.
    match unsafe { libc::readv(stream.as_raw_fd(), list, count) } {
        count @ 0.. => Ok(count as usize),
        _ => Err(io::Error::last_os_error()),
    }
}
