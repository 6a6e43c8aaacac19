//! Requests under way: what the engine has been asked for, and what their guest is to be told when it is done.
//!
//! A request here has let go of its chain: its buffers are described by raw pointers into guest memory, of which this keeps
//! a handle until the last of them has ended.

use super::super::{Fault, Io, Memory};
use super::{ENGINE, MAX_QUEUES, Status};
use crate::backends::disk::engine::{Engine, Job, Work};
use crate::backends::disk::{Place, Worker};
use crate::devices::reactor::{EventSet, Poller};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use vm_memory::VolatileSlice;

/// How often a transfer is begun again that the host could not begin.
const ATTEMPTS: u8 = 100;

/// A request.
struct Request {
    queue: usize,
    head: u16,
    work: Work,
    place: Place,
    /// Bytes still to be moved.
    left: u64,
    /// The length of a range that is given back.
    bytes: u64,
    /// Bytes written to the guest when it is done, the status not counted.
    written: u32,
    status: *mut u8,
    /// The buffers still to be moved begin with vector `first`.
    vectors: Vec<libc::iovec>,
    first: usize,
    attempts: u8,
}

impl Request {
    const fn empty() -> Self {
        Self {
            queue: 0,
            head: 0,
            work: Work::Flush,
            place: Place { file: 0, offset: 0 },
            left: 0,
            bytes: 0,
            written: 0,
            status: std::ptr::null_mut(),
            vectors: Vec::new(),
            first: 0,
            attempts: 0,
        }
    }

    /// What is still to be moved.
    fn job(&self, tag: u32) -> Job {
        let vectors = &self.vectors[self.first..];
        Job {
            tag,
            work: self.work,
            file: self.place.file,
            offset: self.place.offset,
            vectors: vectors.as_ptr(),
            count: vectors.len() as u32,
            bytes: self.bytes,
        }
    }

    /// So many bytes more have been moved.
    fn advance(&mut self, mut bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
        self.place.offset += bytes as u64;
        while let Some(vector) = self.vectors.get_mut(self.first) {
            if bytes < vector.iov_len {
                vector.iov_base = vector.iov_base.cast::<u8>().wrapping_add(bytes).cast();
                vector.iov_len -= bytes;
                return;
            }
            bytes -= vector.iov_len;
            self.first += 1;
        }
    }
}

/// All requests of a disk that are under way.
pub(super) struct Flight {
    engine: Box<dyn Engine>,
    /// The memory that they point into; none before the first activation.
    memory: Option<Memory>,
    /// As many as have been under way at a time so far: there is room for all, which takes up no memory before it is used.
    requests: Vec<Request>,
    free: Vec<u32>,
    /// The most requests.
    most: usize,
    /// What has ended, by queue: number and bytes written. Kept for its storage.
    ended: [Vec<(u16, u32)>; MAX_QUEUES],
    registered: bool,
    /// The engine has failed: what is under way may never end.
    broken: bool,
}

// SAFETY: the pointers in the requests are into guest memory, which any thread may use and which `memory` keeps.
unsafe impl Send for Flight {}

/// The descriptor of an engine, as a poller takes it.
struct Descriptor(RawFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Flight {
    /// Room for `most` requests.
    pub(super) fn new(engine: Box<dyn Engine>, most: u32) -> Self {
        Self {
            engine,
            memory: None,
            requests: Vec::with_capacity(most as usize),
            free: Vec::with_capacity(most as usize),
            most: most as usize,
            ended: Default::default(),
            registered: false,
            broken: false,
        }
    }

    pub(super) fn workers(&mut self) -> Vec<Worker> {
        self.engine.workers()
    }

    /// The driver is ready: requests will point into this memory.
    pub(super) fn prepare(&mut self, memory: &Memory, poller: &Poller) -> Result<(), Fault> {
        self.memory = Some(memory.clone());
        let added = poller.add(&Descriptor(self.engine.fd()), ENGINE, EventSet::IN);
        self.registered = added.is_ok();
        added.map_err(|_| Fault("the host is out of descriptors"))
    }

    /// The driver has reset the device, and nothing is under way.
    pub(super) fn stop(&mut self, poller: &Poller) {
        if std::mem::take(&mut self.registered) {
            let _ = poller.remove(&Descriptor(self.engine.fd()));
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.requests.len() == self.most
    }

    /// Whether nothing points into the guest's memory any more.
    pub(super) fn is_idle(&self) -> bool {
        self.broken || self.free.len() == self.requests.len()
    }

    /// Begins a request of `bytes` bytes, whose buffers are of the memory that [`Flight::prepare`] was given. There is room
    /// for it.
    #[expect(clippy::too_many_arguments, reason = "a request is that many things")]
    pub(super) fn start(
        &mut self,
        queue: usize,
        head: u16,
        work: Work,
        place: Place,
        bytes: u64,
        buffers: &[VolatileSlice<'_>],
        status: &VolatileSlice<'_>,
    ) -> Result<(), Fault> {
        let tag = match self.free.pop() {
            Some(tag) => tag,
            None if self.is_full() => return Err(Fault("more requests than a disk has room for")),
            None => {
                self.requests.push(Request::empty());
                self.requests.len() as u32 - 1
            }
        };
        let request = &mut self.requests[tag as usize];
        let moves = matches!(work, Work::Read | Work::Write);
        let vectors = if moves { buffers } else { &[] };
        request.vectors.clear();
        request.vectors.extend(vectors.iter().map(|buffer| libc::iovec {
            iov_base: buffer.ptr_guard_mut().as_ptr().cast(),
            iov_len: buffer.len(),
        }));
        *request = Request {
            queue,
            head,
            work,
            place,
            left: if moves { bytes } else { 0 },
            bytes,
            written: if work == Work::Read { bytes as u32 } else { 0 },
            status: status.ptr_guard_mut().as_ptr(),
            vectors: std::mem::take(&mut request.vectors),
            first: 0,
            attempts: 0,
        };
        self.hand_over(tag)
    }

    fn hand_over(&mut self, tag: u32) -> Result<(), Fault> {
        let job = self.requests[tag as usize].job(tag);
        // SAFETY: the vectors stay in their request and the memory they describe in `memory` until the engine tells of the
        // end; if it never does, `drop` keeps both for ever.
        let started = unsafe { self.engine.start(job) };
        started.map_err(|_| self.fail())
    }

    fn fail(&mut self) -> Fault {
        self.broken = true;
        Fault("the host takes no transfers any more")
    }

    /// Hands what was begun to the engine and gives back what has ended, until nothing has.
    pub(super) fn land(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        loop {
            self.engine.submit().map_err(|_| self.fail())?;
            let mut again = false;
            while let Some((tag, result)) = self.engine.ended() {
                match self.end_of(tag, result) {
                    Some(status) => self.give_back(tag, status),
                    None => {
                        self.hand_over(tag)?;
                        again = true;
                    }
                }
            }
            if !again {
                break;
            }
        }
        for (queue, ended) in self.ended.iter_mut().enumerate().filter(|(_, ended)| !ended.is_empty()) {
            io.queues[queue].push_together(io.memory, ended)?;
            ended.clear();
            io.notify(queue)?;
        }
        Ok(())
    }

    /// What a transfer's result makes of its request; none if there is more to be moved.
    fn end_of(&mut self, tag: u32, result: io::Result<u32>) -> Option<Status> {
        let request = &mut self.requests[tag as usize];
        match result {
            Ok(0) if request.left > 0 => Some(Status::IoError),
            Ok(bytes) => {
                request.advance(bytes as usize);
                (request.left == 0).then_some(Status::Ok)
            }
            Err(error) if is_temporary(&error) && request.attempts < ATTEMPTS => {
                request.attempts += 1;
                None
            }
            // A full disk or a broken one is the guest's to deal with.
            Err(_) => Some(Status::IoError),
        }
    }

    fn give_back(&mut self, tag: u32, status: Status) {
        let request = &mut self.requests[tag as usize];
        let written = if status == Status::Ok { request.written + 1 } else { 1 };
        // SAFETY: a byte of guest memory, which `memory` keeps. The guest may use it at the same time, which a volatile store
        // allows for.
        unsafe { request.status.write_volatile(status as u8) };
        self.ended[request.queue].push((request.head, written));
        self.free.push(tag);
    }

    /// The driver has broken the rules: what was begun before is still carried out, so that it ends.
    pub(super) fn let_go(&mut self) {
        if self.engine.submit().is_err() {
            self.broken = true;
        }
    }

    /// Takes note of what has ended, without telling the driver, which has no use for it any more.
    pub(super) fn settle(&mut self) {
        while let Some((tag, _)) = self.engine.ended() {
            self.free.push(tag);
        }
    }

    /// Waits until nothing is under way, for the last time.
    pub(super) fn finish(&mut self) {
        self.settle();
        while !self.is_idle() {
            if self.engine.wait().is_err() {
                self.broken = true;
            }
            self.settle();
        }
        self.engine.close();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.free.len() != self.requests.len() {
            // Something may still be written into it: better never freed than freed too early.
            std::mem::forget(self.memory.take());
            std::mem::forget(std::mem::take(&mut self.requests));
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}
