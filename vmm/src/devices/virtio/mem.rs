//! virtio-mem: memory that the guest is given and gives back while it runs. Specification, section 5.15.
//!
//! The host says how much there is to be; the driver plugs and unplugs blocks until it has that much. What a block's coming and
//! going means is its [`Pool`]'s affair: memory given back is the host's at once, and no device reads or writes it any more.
//! What a hostile driver asks for beyond its due it does not get, and a reset takes nothing away: the memory is in use.

use super::{Device, Fault, Io};
use crate::devices::reactor::{EventSet, Poller};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::ByteValued;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The device type.
const ID: u32 = 24;
const QUEUES: &[u16] = &[64];
/// The size of a block in bytes: what can be plugged by itself. It is Linux's large page, so that it need not be split.
pub const BLOCK: u64 = 2 << 20;
/// The driver must not touch what is unplugged.
const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
/// The host wants another size, as the poller names it.
const WANTED: u32 = 0;

/// Request types.
mod request {
    pub const PLUG: u16 = 0;
    pub const UNPLUG: u16 = 1;
    pub const UNPLUG_ALL: u16 = 2;
    pub const STATE: u16 = 3;
}

/// Answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Answer {
    Acknowledged = 0,
    Refused = 1,
    Busy = 2,
    Wrong = 3,
}

/// What a STATE request is told.
mod state {
    pub const PLUGGED: u16 = 0;
    pub const UNPLUGGED: u16 = 1;
    pub const MIXED: u16 = 2;
}

/// A request (specification, section 5.15.6).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Request {
    kind: u16,
    padding: [u16; 3],
    address: u64,
    blocks: u16,
    padding2: [u16; 3],
}

// SAFETY: plain integers without padding.
unsafe impl ByteValued for Request {}

/// An answer: its kind, three empty words, and what STATE found.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Response {
    kind: u16,
    padding: [u16; 3],
    state: u16,
}

// SAFETY: plain integers of one size.
unsafe impl ByteValued for Response {}

/// The configuration space (specification, section 5.15.4).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Config {
    block_size: u64,
    node: u16,
    padding: [u16; 3],
    address: u64,
    region_size: u64,
    usable_region_size: u64,
    plugged_size: u64,
    requested_size: u64,
}

// SAFETY: integers; the node's padding is written out: 56 bytes.
unsafe impl ByteValued for Config {}

/// The memory behind the device. Offsets and lengths are bytes from the start of its region, and whole blocks.
pub trait Pool: Send {
    /// The guest has it from now on.
    fn plug(&mut self, offset: u64, bytes: u64) -> io::Result<()>;

    /// The guest has it no more, and its contents are gone.
    fn unplug(&mut self, offset: u64, bytes: u64) -> io::Result<()>;
}

/// How much memory the host wants the guest to have of the device, from any thread.
#[derive(Clone)]
pub struct Wish {
    bytes: Arc<AtomicU64>,
    changed: Arc<EventFd>,
    plugged: Arc<AtomicU64>,
    most: u64,
}

impl Wish {
    /// Wishes for a number of bytes, which is rounded up to whole blocks and is at most the whole region.
    pub fn set(&self, bytes: u64) -> io::Result<()> {
        self.bytes.store(bytes.min(self.most).next_multiple_of(BLOCK), Ordering::Release);
        self.changed.write(1)
    }

    /// How many bytes the guest has now.
    pub fn plugged(&self) -> u64 {
        self.plugged.load(Ordering::Acquire)
    }
}

/// Memory that comes and goes.
pub struct Mem {
    config: Config,
    /// A bit for each block: set where it is plugged.
    plugged: Vec<u64>,
    pool: Box<dyn Pool>,
    wish: Wish,
}

impl Mem {
    /// A region of `bytes`, whole blocks, at the guest's address `start`, of which nothing is plugged and nothing wanted.
    pub fn new(start: u64, bytes: u64, pool: Box<dyn Pool>) -> io::Result<Self> {
        let wish = Wish {
            bytes: Arc::default(),
            changed: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            plugged: Arc::default(),
            most: bytes,
        };
        let config = Config {
            block_size: BLOCK,
            address: start,
            region_size: bytes,
            usable_region_size: bytes,
            ..Config::default()
        };
        Ok(Self { config, plugged: vec![0; (bytes / BLOCK).div_ceil(64) as usize], pool, wish })
    }

    /// Where the host says how much it is to be.
    pub fn wish(&self) -> Wish {
        self.wish.clone()
    }

    fn is_plugged(&self, block: u64) -> bool {
        self.plugged[(block / 64) as usize] & 1 << (block % 64) != 0
    }

    /// The blocks that a request names, if they are of the region.
    fn blocks(&self, request: &Request) -> Option<std::ops::Range<u64>> {
        let (address, count) = (u64::from_le(request.address), u64::from(u16::from_le(request.blocks)));
        let offset = address.checked_sub(self.config.address)?;
        let end = (offset / BLOCK).checked_add(count)?;
        let fits = offset.is_multiple_of(BLOCK) && count > 0 && end <= self.config.region_size / BLOCK;
        fits.then_some(offset / BLOCK..end)
    }

    fn execute(&mut self, request: &Request) -> (Answer, u16) {
        let kind = u16::from_le(request.kind);
        if kind == request::UNPLUG_ALL {
            return (self.unplug_all(), 0);
        }
        let Some(blocks) = self.blocks(request) else { return (Answer::Wrong, 0) };
        let bytes = (blocks.end - blocks.start) * BLOCK;
        let plugged = blocks.clone().filter(|block| self.is_plugged(*block)).count() as u64 * BLOCK;
        match kind {
            request::PLUG if plugged > 0 => (Answer::Wrong, 0),
            request::PLUG if self.config.plugged_size + bytes > self.config.requested_size => {
                (Answer::Refused, 0)
            }
            request::PLUG => match self.pool.plug(blocks.start * BLOCK, bytes) {
                Ok(()) => (self.mark(blocks, true), 0),
                Err(_) => (Answer::Busy, 0),
            },
            request::UNPLUG if plugged < bytes => (Answer::Wrong, 0),
            request::UNPLUG => match self.pool.unplug(blocks.start * BLOCK, bytes) {
                Ok(()) => (self.mark(blocks, false), 0),
                Err(_) => (Answer::Busy, 0),
            },
            request::STATE if plugged == bytes => (Answer::Acknowledged, state::PLUGGED),
            request::STATE if plugged == 0 => (Answer::Acknowledged, state::UNPLUGGED),
            request::STATE => (Answer::Acknowledged, state::MIXED),
            _ => (Answer::Wrong, 0),
        }
    }

    fn mark(&mut self, blocks: std::ops::Range<u64>, plugged: bool) -> Answer {
        let bytes = (blocks.end - blocks.start) * BLOCK;
        for block in blocks {
            let bit = 1 << (block % 64);
            match plugged {
                true => self.plugged[(block / 64) as usize] |= bit,
                false => self.plugged[(block / 64) as usize] &= !bit,
            }
        }
        match plugged {
            true => self.config.plugged_size += bytes,
            false => self.config.plugged_size -= bytes,
        }
        self.wish.plugged.store(self.config.plugged_size, Ordering::Release);
        Answer::Acknowledged
    }

    fn unplug_all(&mut self) -> Answer {
        let count = self.config.region_size / BLOCK;
        let mut block = 0;
        while block < count {
            let end = (block..count).find(|at| !self.is_plugged(*at)).unwrap_or(count);
            if end > block {
                if self.pool.unplug(block * BLOCK, (end - block) * BLOCK).is_err() {
                    return Answer::Busy;
                }
                self.mark(block..end, false);
            }
            block = end + 1;
        }
        Answer::Acknowledged
    }

    /// Makes the host's wish known to the driver.
    fn take_wish(&mut self, io: &Io<'_>) {
        let wanted = self.wish.bytes.load(Ordering::Acquire);
        if std::mem::replace(&mut self.config.requested_size, wanted) != wanted {
            io.interrupt.config_changed();
        }
    }
}

impl Device for Mem {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        QUEUES
    }

    fn features(&self) -> u64 {
        UNPLUGGED_INACCESSIBLE
    }

    fn config(&self) -> &[u8] {
        self.config.as_slice()
    }

    fn activate(&mut self, _features: u64, io: &mut Io<'_>) -> Result<(), Fault> {
        io.poller
            .add(&*self.wish.changed, WANTED, EventSet::IN)
            .map_err(|_| Fault("the host is out of descriptors"))
    }

    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        io.serve(queue, |chain| {
            let request: Request = chain.read()?;
            let (kind, state) = self.execute(&request);
            let response =
                Response { kind: (kind as u16).to_le(), state: state.to_le(), ..Response::default() };
            Ok(chain.write_at(0, response.as_slice()) as u32)
        })
    }

    fn ready(&mut self, _token: u32, _events: EventSet, io: &mut Io<'_>) -> Result<(), Fault> {
        let _ = self.wish.changed.read();
        self.take_wish(io);
        Ok(())
    }

    fn reset(&mut self, poller: &Poller) {
        let _ = poller.remove(&*self.wish.changed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BUFFERS, Driver};
    use super::super::transport::register;
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    const START: u64 = 8 << 30;
    const BLOCKS: u64 = 70;

    /// Remembers what was done, and keeps its own books.
    #[derive(Clone, Default)]
    struct Books(Arc<Mutex<std::collections::BTreeSet<u64>>>);

    impl Pool for Books {
        fn plug(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
            let mut books = self.0.lock().unwrap();
            for block in offset / BLOCK..(offset + bytes) / BLOCK {
                assert!(books.insert(block), "{block} is plugged twice");
            }
            Ok(())
        }

        fn unplug(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
            let mut books = self.0.lock().unwrap();
            for block in offset / BLOCK..(offset + bytes) / BLOCK {
                assert!(books.remove(&block), "{block} is not plugged");
            }
            Ok(())
        }
    }

    fn driver() -> (Driver, Wish, Books) {
        let books = Books::default();
        let device = Mem::new(START, BLOCKS * BLOCK, Box::new(books.clone())).unwrap();
        let wish = device.wish();
        (Driver::start(Box::new(device), u64::MAX), wish, books)
    }

    /// Sends a request and returns its answer and what STATE found.
    fn ask(driver: &mut Driver, kind: u16, address: u64, blocks: u16) -> (u16, u16) {
        driver.put(BUFFERS, Request { kind, address, blocks, ..Request::default() }.as_slice());
        let length = size_of::<Response>() as u32;
        driver.add(0, &[(BUFFERS, size_of::<Request>() as u32, false), (BUFFERS + 64, length, true)]);
        driver.kick(0);
        assert_eq!(driver.used(0).last().map(|used| used.1), Some(length));
        let bytes = driver.get(BUFFERS + 64, length as usize);
        (u16::from_le_bytes([bytes[0], bytes[1]]), u16::from_le_bytes([bytes[8], bytes[9]]))
    }

    fn config(driver: &Driver, field: u64) -> u64 {
        let word = |at| u64::from(driver.read(register::CONFIG + at));
        word(field) | word(field + 4) << 32
    }

    #[test]
    fn blocks_come_and_go_as_the_host_wishes() {
        let (mut driver, wish, books) = driver();
        assert_eq!((config(&driver, 0), config(&driver, 16)), (BLOCK, START));
        assert_eq!(
            ask(&mut driver, request::PLUG, START, 1).0,
            Answer::Refused as u16,
            "nothing is wanted yet"
        );
        wish.set(4 * BLOCK - 5).unwrap();
        driver.work();
        assert_eq!(config(&driver, 48), 4 * BLOCK);
        assert_ne!(driver.read(register::INTERRUPT_STATUS) & 2, 0);
        assert_eq!(ask(&mut driver, request::PLUG, START + BLOCK, 3).0, 0);
        assert_eq!(ask(&mut driver, request::PLUG, START + 10 * BLOCK, 2).0, Answer::Refused as u16);
        assert_eq!(ask(&mut driver, request::STATE, START, 1), (0, state::UNPLUGGED));
        assert_eq!(ask(&mut driver, request::STATE, START, 2), (0, state::MIXED));
        assert_eq!(ask(&mut driver, request::STATE, START + BLOCK, 3), (0, state::PLUGGED));
        assert_eq!((config(&driver, 40), wish.plugged()), (3 * BLOCK, 3 * BLOCK));
        assert_eq!(ask(&mut driver, request::UNPLUG, START + BLOCK, 2).0, 0);
        assert_eq!(books.0.lock().unwrap().iter().copied().collect::<Vec<_>>(), [3]);
        assert_eq!(ask(&mut driver, request::UNPLUG_ALL, 0, 0).0, 0);
        assert!(books.0.lock().unwrap().is_empty() && wish.plugged() == 0);
    }

    #[test]
    fn requests_that_make_no_sense_are_wrong_and_change_nothing() {
        let (mut driver, wish, books) = driver();
        wish.set(u64::MAX >> 1).unwrap();
        driver.work();
        assert_eq!(config(&driver, 48), BLOCKS * BLOCK);
        assert_eq!(ask(&mut driver, request::PLUG, START + 5 * BLOCK, 5).0, 0);
        for (kind, address, blocks) in [
            (request::PLUG, START + 4 * BLOCK, 2),
            (request::PLUG, START + 1, 1),
            (request::PLUG, START - BLOCK, 1),
            (request::PLUG, START, 0),
            (request::PLUG, START + (BLOCKS - 1) * BLOCK, 2),
            (request::PLUG, u64::MAX - BLOCK + 1, u16::MAX),
            (request::UNPLUG, START, 1),
            (request::UNPLUG, START + 9 * BLOCK, 2),
            (request::STATE, 0, 1),
            (99, START, 1),
        ] {
            assert_eq!(
                ask(&mut driver, kind, address, blocks).0,
                Answer::Wrong as u16,
                "{kind} {address:#x} {blocks}"
            );
        }
        assert_eq!(books.0.lock().unwrap().len(), 5);
        assert_eq!(ask(&mut driver, request::UNPLUG_ALL, 0, 0).0, 0);
    }

    proptest! {
        #[test]
        fn the_books_always_agree(requests in prop::collection::vec((0u16..5, 0u64..72, 0u16..40, 0u64..80), 1..40)) {
            let (mut driver, wish, books) = driver();
            for (kind, block, blocks, wanted) in requests {
                wish.set(wanted * BLOCK).unwrap();
                driver.work();
                ask(&mut driver, kind, START + block * BLOCK, blocks);
                prop_assert_eq!(books.0.lock().unwrap().len() as u64 * BLOCK, wish.plugged());
            }
        }
    }
}
