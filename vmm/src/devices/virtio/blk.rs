//! virtio-blk: a disk over a [`Disk`] backend. Specification, section 5.2.
//!
//! What lies in one of the disk's files is moved, zeroed and discarded in the background, by the [`engine`] of this host; the
//! rest (a range that crosses from one file to the next, zeroes where the host can only write them) is done at once. Requests end in any order, as the
//! specification has it: a flush is for what has ended before it.

mod flight;

use super::{Chain, Device, Fault, Io};
use crate::backends::disk::engine::{self, Engine, Work};
use crate::backends::disk::{Direction, Disk, Place, Worker};
use crate::devices::reactor::{EventSet, Poller};
use flight::Flight;
use std::io;
use vm_memory::{ByteValued, Bytes, VolatileSlice};

/// The device type.
const ID: u32 = 2;
/// The most queues: more vCPUs share them.
pub const MAX_QUEUES: usize = 8;
const QUEUES: &[u16] = &[QUEUE_SIZE; MAX_QUEUES];
const QUEUE_SIZE: u16 = 128;
/// The most requests of a disk that are under way at a time. More wait in their queues.
const IN_FLIGHT: u32 = 256;
/// The token of the engine's descriptor.
const ENGINE: u32 = 0;
const SECTOR: u64 = 512;

/// Feature bits.
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLOCK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const SEVERAL_QUEUES: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Request types.
mod request {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// What a request's last byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// The length of a serial number.
pub const SERIAL_LENGTH: usize = 20;
/// The most that one discard or write-zeroes request covers: 1 GiB, so that zeroing by hand ends.
const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// A request's header.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

// SAFETY: plain integers without padding.
unsafe impl ByteValued for Header {}

/// What a discard or write-zeroes request covers.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

// SAFETY: plain integers without padding.
unsafe impl ByteValued for Range {}

/// The part of the configuration space up to the write-zeroes fields (specification, section 5.2.4).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Config {
    capacity: u64,
    size_max: u32,
    seg_max: u32,
    geometry: u32,
    block_size: u32,
    topology: u64,
    writeback: [u8; 2],
    queues: u16,
    max_discard_sectors: u32,
    max_discard_segments: u32,
    discard_alignment: u32,
    max_write_zeroes_sectors: u32,
    max_write_zeroes_segments: u32,
    write_zeroes_may_unmap: u32,
}

// SAFETY: plain integers; the fields add up to 64 bytes without padding.
unsafe impl ByteValued for Config {}

/// A disk.
pub struct Blk {
    disk: Box<dyn Disk>,
    serial: [u8; SERIAL_LENGTH],
    config: Config,
    /// What is moved in the background, where the disk has files for that.
    flight: Option<Flight>,
    /// The queues in which requests wait for others to end, a bit each.
    stalled: u32,
}

/// What becomes of a request.
enum Course {
    /// It is done, with this status and so many bytes written to it.
    Done(Status, u32),
    /// It is moved in the background.
    Moved(Work, Place, u64),
}

impl Blk {
    /// A disk over `disk`, with a queue for each of `vcpus`, up to [`MAX_QUEUES`]. Of the serial number the first
    /// [`SERIAL_LENGTH`] bytes count.
    pub fn new(disk: Box<dyn Disk>, serial: &str, vcpus: usize) -> io::Result<Self> {
        let queues = vcpus.clamp(1, MAX_QUEUES);
        let files = disk.files();
        let most = IN_FLIGHT.min(queues as u32 * u32::from(QUEUE_SIZE));
        let engine = if files.is_empty() { None } else { Some(engine::choose(&files, most)?) };
        Ok(Self::with_engine(disk, serial, queues, engine))
    }

    fn with_engine(
        disk: Box<dyn Disk>,
        serial: &str,
        queues: usize,
        engine: Option<Box<dyn Engine>>,
    ) -> Self {
        let mut bytes = [0; SERIAL_LENGTH];
        for (byte, value) in bytes.iter_mut().zip(serial.bytes()) {
            *byte = value;
        }
        let config = Config {
            capacity: disk.bytes() / SECTOR,
            // A chain has room for a header and a status besides.
            seg_max: u32::from(QUEUE_SIZE) - 2,
            block_size: SECTOR as u32,
            queues: queues as u16,
            max_discard_sectors: MAX_RANGE_SECTORS,
            max_discard_segments: 1,
            discard_alignment: 8,
            max_write_zeroes_sectors: MAX_RANGE_SECTORS,
            max_write_zeroes_segments: 1,
            write_zeroes_may_unmap: 1,
            ..Config::default()
        };
        let most = IN_FLIGHT.min(queues as u32 * u32::from(QUEUE_SIZE));
        Self {
            disk,
            serial: bytes,
            config,
            flight: engine.map(|engine| Flight::new(engine, most)),
            stalled: 0,
        }
    }

    /// Decides what becomes of a request, and does it if that is to be done at once.
    fn begin(&mut self, header: Header, chain: &mut Chain<'_>) -> Course {
        let place = match (header.kind, &self.flight) {
            (request::IN, Some(_)) => self.place(Work::Read, header.sector, chain.writable_bytes()),
            (request::OUT, Some(_)) => self.place(Work::Write, header.sector, chain.readable_bytes()),
            (request::DISCARD | request::WRITE_ZEROES, Some(_)) if self.disk.can_give_back() => {
                let refused = |status| Some(Course::Done(status, 0));
                match range(header.kind, chain) {
                    Ok((sector, bytes)) => {
                        self.place(Work::Punch, sector, bytes).or_else(|| refused(Status::IoError))
                    }
                    Err(Refusal(status)) => refused(status),
                }
            }
            (request::FLUSH, Some(_)) => {
                self.disk.flushed().map(|file| Course::Moved(Work::Flush, Place { file, offset: 0 }, 0))
            }
            _ => None,
        };
        place.unwrap_or_else(|| match self.execute(header, chain) {
            Ok(written) => Course::Done(Status::Ok, written),
            Err(Refusal(status)) => Course::Done(status, 0),
        })
    }

    /// The way of a request that can be moved in the background.
    fn place(&self, work: Work, sector: u64, bytes: u64) -> Option<Course> {
        let direction = if work == Work::Read { Direction::Read } else { Direction::Write };
        // One that is refused is refused in the foreground.
        let offset = self.offset(sector, bytes).ok().filter(|_| bytes > 0)?;
        self.disk.place(direction, offset, bytes).map(|place| Course::Moved(work, place, bytes))
    }

    /// Takes requests out of a queue until it is empty, or as many are under way as may be.
    fn take(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        let taken = self.take_all(queue, io);
        if let (Err(_), Some(flight)) = (taken, &mut self.flight) {
            flight.let_go();
        }
        taken
    }

    fn take_all(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        loop {
            io.queues[queue].suppress_kicks(io.memory)?;
            loop {
                if self.flight.as_ref().is_some_and(Flight::is_full) {
                    self.stalled |= 1 << queue;
                    break;
                }
                let Some(mut chain) = io.pop(queue)? else { break };
                let header: Header = chain.read()?;
                let status = chain.take_last_writable()?;
                match (self.begin(header, &mut chain), &mut self.flight) {
                    (Course::Moved(work, place, bytes), Some(flight)) => {
                        let buffers = match work {
                            Work::Read => chain.writable(),
                            _ => chain.readable(),
                        };
                        flight.start(queue, chain.head(), work, place, bytes, buffers, &status)?;
                        io.queues[queue].release(chain);
                    }
                    (Course::Moved(..), None) => return Err(Fault("a request has no way")),
                    (Course::Done(code, written), _) => {
                        tell(&status, code)?;
                        io.push(queue, chain, written + 1)?;
                    }
                }
            }
            self.land(io)?;
            match self.stalled & 1 << queue {
                0 if !io.queues[queue].ask_for_kicks(io.memory)? => return io.notify(queue),
                0 => {}
                // Some may have ended already.
                _ if self.flight.as_ref().is_some_and(|flight| !flight.is_full()) => {
                    self.stalled &= !(1 << queue)
                }
                _ => return io.notify(queue),
            }
        }
    }

    /// Hands what was begun to the engine, and gives back what has ended.
    fn land(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        match &mut self.flight {
            Some(flight) => flight.land(io),
            None => Ok(()),
        }
    }

    /// Does what a request asks for. The number is of the bytes written to it, its status not counted.
    fn execute(&mut self, header: Header, chain: &mut Chain<'_>) -> Result<u32, Refusal> {
        match header.kind {
            request::IN => {
                let bytes = chain.writable_bytes();
                self.disk.read(self.offset(header.sector, bytes)?, chain.writable())?;
                Ok(bytes as u32)
            }
            request::OUT => {
                let offset = self.offset(header.sector, chain.readable_bytes())?;
                self.disk.write(offset, chain.readable())?;
                Ok(0)
            }
            request::FLUSH => {
                self.disk.flush()?;
                Ok(0)
            }
            request::GET_ID => Ok(chain.write_at(0, &self.serial) as u32),
            request::DISCARD | request::WRITE_ZEROES => {
                let (sector, bytes) = range(header.kind, chain)?;
                let offset = self.offset(sector, bytes)?;
                match header.kind {
                    request::DISCARD => self.disk.discard(offset, bytes)?,
                    _ => self.disk.write_zeroes(offset, bytes)?,
                }
                Ok(0)
            }
            _ => Err(Refusal(Status::Unsupported)),
        }
    }

    /// Where a request of whole sectors begins, if it ends on the disk.
    fn offset(&self, sector: u64, bytes: u64) -> Result<u64, Refusal> {
        let end = sector.checked_add(bytes / SECTOR);
        match end {
            Some(end) if bytes.is_multiple_of(SECTOR) && end <= self.config.capacity => Ok(sector * SECTOR),
            _ => Err(Refusal(Status::IoError)),
        }
    }
}

/// What a discard or write-zeroes request covers: its first sector, and its length in bytes.
fn range(kind: u32, chain: &mut Chain<'_>) -> Result<(u64, u64), Refusal> {
    let range: Range = chain.read().map_err(|_| Refusal(Status::IoError))?;
    // Discarding has no flags; "unmap" is the only one of write-zeroes, and a hint.
    let flags = if kind == request::DISCARD { 0 } else { 1 };
    match range {
        Range { sectors, .. } if sectors > MAX_RANGE_SECTORS => Err(Refusal(Status::IoError)),
        Range { flags: found, .. } if found > flags => Err(Refusal(Status::Unsupported)),
        Range { sector, sectors, .. } => Ok((sector, u64::from(sectors) * SECTOR)),
    }
}

/// A request that the device or its backend refused. The guest learns of it and goes on.
struct Refusal(Status);

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self(Status::IoError)
    }
}

impl Device for Blk {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        &QUEUES[..usize::from(self.config.queues)]
    }

    fn waits_for_disks(&self) -> bool {
        // Everything goes on in the background, but zeroes that have to be written and what is in no file.
        self.flight.is_none() || !(self.disk.is_read_only() || self.disk.can_give_back())
    }

    fn workers(&mut self) -> Vec<Worker> {
        self.flight.as_mut().map(Flight::workers).unwrap_or_default()
    }

    fn features(&self) -> u64 {
        let mut features = feature::SEG_MAX | feature::BLOCK_SIZE | feature::FLUSH;
        features |= match self.disk.is_read_only() {
            true => feature::READ_ONLY,
            false => feature::DISCARD | feature::WRITE_ZEROES,
        };
        if self.config.queues > 1 {
            features |= feature::SEVERAL_QUEUES;
        }
        features
    }

    fn config(&self) -> &[u8] {
        self.config.as_slice()
    }

    fn activate(&mut self, _: u64, io: &mut Io<'_>) -> Result<(), Fault> {
        match &mut self.flight {
            Some(flight) => flight.prepare(io.memory, io.poller),
            None => Ok(()),
        }
    }

    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        // One that is stalled goes on by itself.
        match self.stalled & 1 << queue {
            0 => self.take(queue, io),
            _ => Ok(()),
        }
    }

    fn ready(&mut self, _: u32, _: EventSet, io: &mut Io<'_>) -> Result<(), Fault> {
        self.land(io)?;
        let stalled = std::mem::take(&mut self.stalled);
        for queue in (0..usize::from(self.config.queues)).filter(|queue| stalled & 1 << queue != 0) {
            self.take(queue, io)?;
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.flight.as_ref().is_none_or(Flight::is_idle)
    }

    fn settle(&mut self) {
        if let Some(flight) = &mut self.flight {
            flight.settle();
        }
    }

    fn finish(&mut self) {
        if let Some(flight) = &mut self.flight {
            flight.finish();
        }
    }

    fn reset(&mut self, poller: &Poller) {
        self.stalled = 0;
        if let Some(flight) = &mut self.flight {
            flight.stop(poller);
        }
    }
}

/// Writes a request's status.
fn tell(to: &VolatileSlice<'_>, status: Status) -> Result<(), Fault> {
    to.write_obj(status as u8, 0).map_err(|_| Fault("a request has no room for its status"))
}

#[cfg(test)]
mod tests;
