//! Devices that answer requests one at a time: a request goes into a queue, and its answer comes back.

use super::Slot;
use crate::memory::pages;
use crate::virtio_mmio::{Descriptor, RawQueue, Registers, flag, register};
use core::arch::asm;
use core::ptr::NonNull;

/// How often an answer is waited for. The helper behind a device may have to wait for a processor of the host.
const PATIENCE: usize = 1_000_000;
/// Where in its page an answer lies.
const ANSWER: usize = 2048;

/// A kind of such devices.
pub struct Kind {
    /// The device type.
    id: u32,
    /// What the report calls it.
    pub name: &'static str,
    /// What it does for a driver that keeps the rules.
    pub promise: &'static str,
    /// Whether it does.
    pub works: fn(Slot) -> Result<(), &'static str>,
}

const KINDS: [Kind; 3] = [
    Kind { id: 24, name: "mem", promise: "mem plugs and unplugs", works: mem },
    Kind { id: 26, name: "fs", promise: "fs finds a file", works: fs },
    Kind { id: 27, name: "pmem", promise: "pmem shows a file", works: pmem },
];

/// The kind of a device type, if it is one of these.
pub fn kind(id: u32) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.id == id)
}

/// A driver of one queue of a device.
struct Driver {
    device: Registers,
    queue: RawQueue,
    page: NonNull<u8>,
}

impl Driver {
    fn start(slot: Slot, number: u32) -> Result<Self, &'static str> {
        let out = "the guest's memory is used up";
        let device = slot.registers();
        let queue = RawQueue::new(number).ok_or(out)?;
        if !(device.reset() && device.negotiate()) {
            return Err("does not start");
        }
        queue.install(device);
        device.go();
        Ok(Self { device, queue, page: pages(1).ok_or(out)? })
    }

    /// Sends a request and returns its answer, of at most `room` bytes.
    fn ask(&mut self, request: &[u8], room: usize) -> Result<&[u8], &'static str> {
        let (page, room) = (self.page.as_ptr(), room.min(ANSWER));
        let length = request.len().min(ANSWER);
        // SAFETY: both halves of the page are ours, and the device does not have them now.
        unsafe {
            page.copy_from_nonoverlapping(request.as_ptr(), length);
            page.add(ANSWER).write_bytes(0xee, room);
        }
        let (sent, wanted) = (length as u32, room as u32);
        self.queue.describe(0, Descriptor { address: page as u64, length: sent, flags: flag::NEXT, next: 1 });
        let address = page as u64 + ANSWER as u64;
        self.queue.describe(1, Descriptor { address, length: wanted, flags: flag::WRITE, next: 0 });
        let before = self.queue.given_back();
        self.queue.offer(0);
        self.device.write(register::QUEUE_NOTIFY, self.queue.number());
        if !(0..PATIENCE).any(|_| self.queue.given_back() != before) {
            return Err("never answers");
        }
        // SAFETY: the device has given the page back.
        Ok(unsafe { core::slice::from_raw_parts(page.add(ANSWER), room) })
    }

    fn config(&self, offset: usize) -> u64 {
        let word = |at| u64::from(self.device.read(register::CONFIG + at));
        word(offset) | word(offset + 4) << 32
    }
}

/// A word of an answer.
fn word(answer: &[u8], at: usize) -> u64 {
    answer.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(u64::MAX, u64::from_le_bytes)
}

/// Maps the 2 MiB at `address`, which lie above what is mapped at entry, one to one.
fn map(address: u64) -> Result<NonNull<u64>, &'static str> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const TABLE: u64 = 0x000f_ffff_ffff_f000;
    let root: u64;
    // SAFETY: reads the address of the page tables.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nomem, nostack)) };
    let index = |level: u32| (address >> (12 + 9 * level)) as usize & 511;
    // SAFETY: the page tables are in mapped memory and this processor's own; entries that were not there come, none goes.
    unsafe {
        let third = (*((root & TABLE) as *const u64)) & TABLE;
        let entry = (third as *mut u64).add(index(2));
        if entry.read_volatile() & 1 == 0 {
            let table = pages(1).ok_or("the guest's memory is used up")?.as_ptr() as u64;
            entry.write_volatile(table | PRESENT_WRITABLE);
        }
        let second = (entry.read_volatile() & TABLE) as *mut u64;
        second.add(index(1)).write_volatile((address & !0x1f_ffff) | PRESENT_WRITABLE | LARGE);
    }
    NonNull::new(address as *mut u64).ok_or("is at address 0")
}

/// Finds the file `greeting` of eight bytes in the shared directory.
fn fs(slot: Slot) -> Result<(), &'static str> {
    const INIT: u32 = 26;
    const LOOKUP: u32 = 1;
    const SIZE: usize = 16 + 40 + 8;
    let mut driver = Driver::start(slot, 1)?;
    let mut message = [0u8; 40 + 16];
    let mut head = |opcode: u32, length: u32| {
        message[..4].copy_from_slice(&length.to_le_bytes());
        message[4..8].copy_from_slice(&opcode.to_le_bytes());
        message[8..16].copy_from_slice(&7u64.to_le_bytes());
        message[16..24].copy_from_slice(&1u64.to_le_bytes());
        message
    };
    let mut init = head(INIT, 56);
    init[40..44].copy_from_slice(&7u32.to_le_bytes());
    init[44..48].copy_from_slice(&31u32.to_le_bytes());
    let answer = driver.ask(&init, 80)?;
    if word(answer, 0) != 80 || word(answer, 8) != 7 {
        return Err("does not agree on a version");
    }
    let mut lookup = head(LOOKUP, 49);
    lookup[40..49].copy_from_slice(b"greeting\0");
    let answer = driver.ask(&lookup[..49], 144)?;
    if word(answer, 0) != 144 || word(answer, SIZE) != 8 {
        return Err("does not find a file");
    }
    lookup[40..48].copy_from_slice(b"nobody\0\0");
    lookup[0] = 47;
    let answer = driver.ask(&lookup[..47], 144)?;
    // ENOENT, in the upper half of the first word.
    if word(answer, 0) as i64 >> 32 == -2 { Ok(()) } else { Err("finds what is not there") }
}

/// Plugs a block, uses it, unplugs it, and checks that no device reaches it any more.
fn mem(slot: Slot) -> Result<(), &'static str> {
    const PLUG: u64 = 0;
    const UNPLUG: u64 = 1;
    const STATE: u64 = 3;
    const ACKNOWLEDGED: u64 = 0;
    let mut driver = Driver::start(slot, 0)?;
    let (block, address) = (driver.config(0), driver.config(16));
    if !(0..PATIENCE).any(|_| driver.config(48) >= block) {
        return Err("does not want any memory plugged");
    }
    let ask = |driver: &mut Driver, kind: u64, state: u64| -> Result<(), &'static str> {
        let mut request = [0u8; 24];
        request[..8].copy_from_slice(&kind.to_le_bytes());
        request[8..16].copy_from_slice(&address.to_le_bytes());
        request[16] = 1;
        let answer = driver.ask(&request, 10)?;
        let found = answer.get(8).copied().map_or(u64::MAX, u64::from);
        let is_as_wanted = word(answer, 0) == ACKNOWLEDGED && found == state;
        if is_as_wanted { Ok(()) } else { Err("refuses or tells something else") }
    };
    ask(&mut driver, STATE, 1)?;
    ask(&mut driver, PLUG, 0)?;
    ask(&mut driver, STATE, 0)?;
    let memory = map(address)?.as_ptr();
    // SAFETY: the block is plugged and mapped, and nobody else's.
    let read = unsafe {
        memory.write_volatile(0x5eed);
        memory.read_volatile()
    };
    if read != 0x5eed {
        return Err("gives memory that does not remember");
    }
    ask(&mut driver, UNPLUG, 0)?;
    ask(&mut driver, STATE, 1)?;
    driver.queue.describe(0, Descriptor { address, length: 24, ..Descriptor::default() });
    driver.queue.offer(0);
    driver.device.write(register::QUEUE_NOTIFY, 0);
    let refused = (0..PATIENCE).any(|_| driver.device.needs_reset());
    if refused { Ok(()) } else { Err("reads memory that is unplugged") }
}

/// Reads what is mapped there, fails to change it, and flushes.
fn pmem(slot: Slot) -> Result<(), &'static str> {
    const CONTENTS: u64 = u64::from_le_bytes(*b"layers!\n");
    let mut driver = Driver::start(slot, 0)?;
    let memory = map(driver.config(0))?.as_ptr();
    // SAFETY: the device says that there is memory, and nobody here has any other use for it.
    let read = unsafe {
        let before = memory.read_volatile();
        memory.write_volatile(0);
        (before, memory.read_volatile())
    };
    if read != (CONTENTS, CONTENTS) {
        return Err("does not show the file, or lets it be changed");
    }
    let answer = driver.ask(&0u32.to_le_bytes(), 4)?;
    if answer == [0; 4] { Ok(()) } else { Err("does not flush") }
}
