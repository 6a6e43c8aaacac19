//! virtio-fs: a directory of the host, served by a helper process. Specification, section 5.11.
//!
//! Requests are copied from guest memory into a message to the helper ([`crate::backends::fs`]) and its answers back; what they
//! mean is no affair of the device's. The window of shared memory (DAX) and notifications are not offered. When the helper
//! is gone, every request under way and every one to come is answered with "not connected", so that nobody in the guest waits
//! for ever.

use super::{Chain, Device, Fault, Io};
use crate::backends::fs::frame::{HEAD, Head};
use crate::backends::fs::{MAX_MESSAGE, REPLY_HEADER, REQUEST_HEADER};
use crate::devices::reactor::{EventSet, Poller};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use vm_memory::{ByteValued, Bytes, GuestAddress};

/// The device type.
const ID: u32 = 26;
/// The queue for requests that must not wait behind others, and the one for all others.
const QUEUES: &[u16] = &[16, 128];
/// The most requests under way: all that fit the queues, and some of a driver before.
const MOST_WAITING: usize = 512;
/// The helper's socket, as the poller names it.
const HELPER: u32 = 0;
/// The longest tag.
pub const TAG_LENGTH: usize = 36;

/// Errors of the system as FUSE numbers them.
const NOT_CONNECTED: i32 = -libc::ENOTCONN;
const IO_ERROR: i32 = -libc::EIO;

/// The configuration space (specification, section 5.11.4).
#[derive(Clone, Copy)]
#[repr(C)]
struct Config {
    tag: [u8; TAG_LENGTH],
    request_queues: u32,
}

// SAFETY: bytes and an integer behind a multiple of its size: 40 bytes without padding.
unsafe impl ByteValued for Config {}

/// What every request begins with, as far as the device cares.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct RequestHead {
    length: u32,
    opcode: u32,
    unique: u64,
}

// SAFETY: plain integers without padding.
unsafe impl ByteValued for RequestHead {}

/// What every answer begins with.
#[derive(Clone, Copy)]
#[repr(C)]
struct ReplyHead {
    length: u32,
    error: i32,
    unique: u64,
}

// SAFETY: plain integers without padding.
unsafe impl ByteValued for ReplyHead {}

/// A request that the helper has.
struct Waiting {
    /// Where its answer goes; nowhere if its driver has reset the device since.
    request: Option<Request>,
    room: u32,
}

/// A request of the guest's that is not answered yet.
struct Request {
    queue: usize,
    head: u16,
    unique: u64,
    /// Where the guest wants its answer. It is looked up again when the answer is there.
    places: Vec<(GuestAddress, u32)>,
}

/// Told of the helper's end, once.
pub type OnLost = Box<dyn FnOnce(io::Error) + Send>;

/// A directory of the host.
pub struct Fs {
    config: Config,
    /// The helper, while there is one.
    helper: Option<UnixStream>,
    on_lost: Option<OnLost>,
    waiting: Vec<Option<Waiting>>,
    outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
    interest: Option<EventSet>,
}

impl Fs {
    /// A directory that the guest mounts by `tag` (of which the first [`TAG_LENGTH`] bytes count), served at the other end of
    /// `helper`. `on_lost` is called when that closes while the guest runs.
    pub fn new(tag: &str, helper: UnixStream, on_lost: OnLost) -> io::Result<Self> {
        helper.set_nonblocking(true)?;
        let mut config = Config { tag: [0; TAG_LENGTH], request_queues: 1 };
        for (byte, value) in config.tag.iter_mut().zip(tag.bytes()) {
            *byte = value;
        }
        Ok(Self {
            config,
            helper: Some(helper),
            on_lost: Some(on_lost),
            waiting: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            incoming: Vec::new(),
            interest: None,
        })
    }

    /// Takes requests out of the queues as long as the helper takes them.
    fn take_all(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        for queue in 0..QUEUES.len() {
            loop {
                while self.is_free() {
                    let mut places = Vec::new();
                    let Some(chain) = io.queues[queue].pop_with_places(io.memory, &mut places)? else {
                        break;
                    };
                    self.take(queue, chain, places, io)?;
                }
                if !self.is_free() || !io.queues[queue].ask_for_kicks(io.memory)? {
                    break;
                }
            }
            io.notify(queue)?;
        }
        self.wait(io.poller)
    }

    /// Whether another request can be taken: the one before has gone out as a whole.
    fn is_free(&self) -> bool {
        self.outgoing.is_empty()
            && (self.waiting.len() < MOST_WAITING || self.waiting.iter().any(Option::is_none))
    }

    /// Sends a request to the helper, or answers it where that cannot be.
    fn take(
        &mut self,
        queue: usize,
        chain: Chain<'_>,
        places: Vec<(GuestAddress, u32)>,
        io: &mut Io<'_>,
    ) -> Result<(), Fault> {
        let length = chain.readable_bytes();
        let fits = (REQUEST_HEADER as u64..=MAX_MESSAGE as u64).contains(&length);
        let room = chain.writable_bytes().min(MAX_MESSAGE as u64) as u32;
        let mut head = RequestHead::default();
        if fits {
            self.outgoing.resize(HEAD + length as usize, 0);
            if chain.copy_readable(&mut self.outgoing[HEAD..]).is_none() {
                self.outgoing.clear();
                return Err(Fault("a buffer ends early"));
            }
            head.as_mut_slice().copy_from_slice(&self.outgoing[HEAD..HEAD + size_of::<RequestHead>()]);
        }
        let request = Request { queue, head: io.queues[queue].release(chain), unique: head.unique, places };
        if !fits || self.helper.is_none() {
            self.outgoing.clear();
            let error = if fits { NOT_CONNECTED } else { IO_ERROR };
            return refuse(request, error, io);
        }
        let tag = match self.waiting.iter().position(Option::is_none) {
            Some(tag) => tag,
            None => {
                self.waiting.push(None);
                self.waiting.len() - 1
            }
        };
        self.waiting[tag] = Some(Waiting { request: Some(request), room });
        let head = Head { length: length as u32, tag: tag as u32, room };
        self.outgoing[..HEAD].copy_from_slice(&head.to_bytes());
        self.send(io)
    }

    /// Sends what is to be sent, as far as the helper takes it.
    fn send(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        while self.sent < self.outgoing.len() {
            let Some(helper) = &mut self.helper else { break };
            match helper.write(&self.outgoing[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lose(error, io),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads answers until there are no more.
    fn receive(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        loop {
            let wanted = match self.incoming.first_chunk() {
                None => HEAD,
                Some(head) => match Head::from_bytes(*head) {
                    Some(head) => HEAD + head.length as usize,
                    None => return self.lose(nonsense(), io),
                },
            };
            let have = self.incoming.len();
            if have == wanted && have >= HEAD {
                self.deliver(io)?;
                continue;
            }
            let Some(helper) = &mut self.helper else { return Ok(()) };
            self.incoming.resize(wanted, 0);
            let result = helper.read(&mut self.incoming[have..]);
            self.incoming.truncate(have + result.as_ref().map_or(0, |count| *count));
            match result {
                Ok(0) => return self.lose(io::ErrorKind::UnexpectedEof.into(), io),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lose(error, io),
            }
        }
    }

    /// Gives the answer that has come in to the guest.
    fn deliver(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        let incoming = std::mem::take(&mut self.incoming);
        let head = incoming.first_chunk().and_then(|head| Head::from_bytes(*head)).unwrap_or_default();
        let reply = &incoming[HEAD..];
        let is_sound = |waiting: &mut Waiting| {
            reply.len() <= waiting.room as usize && (reply.is_empty() || reply.len() >= REPLY_HEADER)
        };
        let waiting = self.waiting.get_mut(head.tag as usize);
        // One that nobody waits for, or that does not fit, leaves all of them waiting: they are told so together.
        let Some(waiting) = waiting.and_then(|waiting| waiting.take_if(is_sound)) else {
            return self.lose(nonsense(), io);
        };
        if let Some(request) = waiting.request {
            answer(request, reply, io)?;
        }
        // The storage is used again, unless it is a lot.
        self.incoming = incoming;
        self.incoming.clear();
        self.incoming.shrink_to(64 << 10);
        Ok(())
    }

    /// The helper is gone, for good: whoever waits for it is told so.
    fn lose(&mut self, why: io::Error, io: &mut Io<'_>) -> Result<(), Fault> {
        if let Some(helper) = self.helper.take()
            && self.interest.take().is_some()
        {
            let _ = io.poller.remove(&helper);
        }
        (self.outgoing, self.incoming, self.sent) = (Vec::new(), Vec::new(), 0);
        if let Some(on_lost) = self.on_lost.take() {
            on_lost(why);
        }
        for waiting in std::mem::take(&mut self.waiting).into_iter().flatten() {
            if let Some(request) = waiting.request {
                refuse(request, NOT_CONNECTED, io)?;
            }
        }
        Ok(())
    }

    /// Waits for what the helper has to say, and for room if it had none.
    fn wait(&mut self, poller: &Poller) -> Result<(), Fault> {
        let Some(helper) = &self.helper else { return Ok(()) };
        let interest = match self.outgoing.is_empty() {
            true => EventSet::IN,
            false => EventSet::IN | EventSet::OUT,
        };
        let changed = match self.interest {
            Some(old) if old == interest => Ok(()),
            Some(_) => poller.change(helper, HELPER, interest),
            None => poller.add(helper, HELPER, interest),
        };
        self.interest = Some(interest);
        changed.map_err(|_| Fault("the host is out of descriptors"))
    }
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what it answers makes no sense")
}

/// Writes an answer where the guest wants it, and gives the request back.
fn answer(request: Request, mut reply: &[u8], io: &mut Io<'_>) -> Result<(), Fault> {
    let written = reply.len() as u32;
    for (address, length) in request.places {
        let (piece, rest) = reply.split_at(reply.len().min(length as usize));
        io.memory
            .write_slice(piece, address)
            .map_err(|_| Fault("a descriptor lies outside the guest's memory"))?;
        reply = rest;
    }
    io.queues[request.queue].push_head(io.memory, request.head, written)
}

/// Answers a request with an error. One without room for an answer takes none.
fn refuse(request: Request, error: i32, io: &mut Io<'_>) -> Result<(), Fault> {
    let room: u64 = request.places.iter().map(|(_, length)| u64::from(*length)).sum();
    let reply = ReplyHead { length: REPLY_HEADER as u32, error, unique: request.unique };
    let reply = if room < REPLY_HEADER as u64 { &[] } else { reply.as_slice() };
    answer(request, reply, io)
}

impl Device for Fs {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        QUEUES
    }

    fn config(&self) -> &[u8] {
        self.config.as_slice()
    }

    fn activate(&mut self, _features: u64, io: &mut Io<'_>) -> Result<(), Fault> {
        self.wait(io.poller)
    }

    fn kicked(&mut self, _queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        self.take_all(io)
    }

    fn ready(&mut self, _token: u32, _events: EventSet, io: &mut Io<'_>) -> Result<(), Fault> {
        self.receive(io)?;
        self.send(io)?;
        self.take_all(io)
    }

    fn reset(&mut self, poller: &Poller) {
        // What the helper has it still answers, to nobody; what is half-way to it must go on, or it would take what comes
        // next for the rest of it.
        self.waiting.iter_mut().flatten().for_each(|waiting| waiting.request = None);
        if self.interest.take().is_some()
            && let Some(helper) = &self.helper
        {
            let _ = poller.remove(helper);
        }
    }
}

#[cfg(test)]
mod tests;
