//! A driver that breaks the rules. Whatever it does, the device must stay within its own affairs: no crash of the VMM, no
//! endless work, and after a reset it serves a well-behaved driver again.

use super::Slot;
use crate::memory::pages;
use crate::report::Report;
use crate::virtio_mmio::{Descriptor, QUEUE_SIZE, RawQueue, Registers, flag, register};
use alloc::format;

/// How often a device is asked what it makes of an insult before the test goes on.
const PATIENCE: usize = 200;
/// An address that no machine here has memory at.
const NOWHERE: u64 = 0xffff_ffff_ffff_f000;

type Insult = fn(Registers, &mut RawQueue) -> Result<(), &'static str>;

/// Every misdeed by name.
const INSULTS: &[(&str, Insult)] = &[
    ("outlives a chain that loops", chain_that_loops),
    ("outlives a chain out of the table", chain_out_of_the_table),
    ("outlives a head out of the table", head_out_of_the_table),
    ("outlives a buffer outside memory", buffer_outside_memory),
    ("outlives a buffer that wraps around", buffer_that_wraps),
    ("outlives an empty chain", empty_chain),
    ("outlives a status it may not write", unwritable_status),
    ("outlives nested indirect tables", nested_indirect),
    ("outlives a chain longer than its queue", longer_than_its_queue),
    ("outlives an index far ahead", index_far_ahead),
    ("outlives rings outside memory", rings_outside_memory),
    ("outlives a queue moved while live", queue_moved_while_live),
    ("outlives a reset in mid-request", reset_in_mid_request),
    ("outlives accesses all over its registers", accesses_all_over),
    ("outlives kicks of queues it does not have", kicks_of_nothing),
];

/// A queue to misbehave on.
pub struct Victim {
    /// What the report calls it.
    pub name: &'static str,
    /// Where its device is.
    pub slot: Slot,
    /// Its number.
    pub queue: u32,
    /// Whether the device serves a driver that keeps the rules.
    pub works: fn(Slot) -> Result<(), &'static str>,
}

/// Commits every misdeed against a queue, and checks after each that its device still works.
pub fn all(victim: &Victim, report: &mut Report) {
    for (name, insult) in INSULTS {
        report.result(&format!("{} {name}", victim.name), commit(victim, *insult));
    }
}

fn commit(victim: &Victim, insult: Insult) -> Result<(), &'static str> {
    let device = victim.slot.registers();
    let mut queue = RawQueue::new(victim.queue).ok_or("the guest's memory is used up")?;
    if !(device.reset() && device.negotiate()) {
        return Err("does not start");
    }
    queue.install(device);
    device.go();
    insult(device, &mut queue)?;
    if !device.reset() {
        return Err("does not reset");
    }
    (victim.works)(victim.slot)
}

/// Kicks the queue and waits a little for whatever the device does: an answer, a cry for reset, or nothing.
fn kick(device: Registers, queue: &RawQueue) {
    let before = queue.given_back();
    device.write(register::QUEUE_NOTIFY, queue.number());
    for _ in 0..PATIENCE {
        if device.needs_reset() || queue.given_back() != before {
            break;
        }
    }
}

/// A block of memory for requests: 16 bytes of header (a read of sector 0), then a place for data.
fn request() -> Result<u64, &'static str> {
    Ok(pages(1).ok_or("the guest's memory is used up")?.as_ptr() as u64)
}

fn readable(address: u64, length: u32, next: u16) -> Descriptor {
    Descriptor { address, length, flags: flag::NEXT, next }
}

fn chain_that_loops(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    let page = request()?;
    queue.describe(0, readable(page, 16, 1));
    queue.describe(1, readable(page, 16, 0));
    queue.offer(0);
    kick(device, queue);
    Ok(())
}

fn chain_out_of_the_table(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    queue.describe(0, readable(request()?, 16, QUEUE_SIZE + 5));
    queue.offer(0);
    kick(device, queue);
    Ok(())
}

fn head_out_of_the_table(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    queue.offer(u16::MAX);
    kick(device, queue);
    Ok(())
}

fn buffer_outside_memory(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    let page = request()?;
    queue.describe(0, readable(page, 16, 1));
    queue.describe(1, Descriptor { address: NOWHERE, length: 512, flags: flag::NEXT | flag::WRITE, next: 2 });
    queue.describe(2, Descriptor { address: page + 64, length: 1, flags: flag::WRITE, next: 0 });
    queue.offer(0);
    kick(device, queue);
    Ok(())
}

fn buffer_that_wraps(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    let page = request()?;
    queue.describe(0, readable(page, 16, 1));
    let flags = flag::NEXT | flag::WRITE;
    queue.describe(1, Descriptor { address: page, length: u32::MAX, flags, next: 2 });
    queue.describe(2, Descriptor { address: u64::MAX - 3, length: 16, flags: flag::WRITE, next: 0 });
    queue.offer(0);
    kick(device, queue);
    Ok(())
}

fn empty_chain(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    queue.describe(0, Descriptor { address: request()?, ..Descriptor::default() });
    queue.offer(0);
    kick(device, queue);
    Ok(())
}

fn unwritable_status(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    let page = request()?;
    queue.describe(0, readable(page, 16, 1));
    queue.describe(1, Descriptor { address: page + 64, length: 513, ..Descriptor::default() });
    queue.offer(0);
    kick(device, queue);
    Ok(())
}

fn nested_indirect(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    let table = request()?;
    // The table's first entry is an indirect table again: itself.
    let nested = Descriptor { address: table, length: 16, flags: flag::INDIRECT, next: 0 };
    // SAFETY: the page was just taken and is ours.
    unsafe { (table as *mut Descriptor).write_volatile(nested) };
    queue.describe(0, nested);
    queue.offer(0);
    kick(device, queue);
    Ok(())
}

fn longer_than_its_queue(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    /// As many as fit into a page.
    const LENGTH: u16 = 256;
    let (table, page) = (request()?, request()?);
    for at in 0..LENGTH {
        let flags = if at + 1 < LENGTH { flag::NEXT } else { 0 };
        let descriptor = Descriptor { address: page, length: 16, flags, next: at + 1 };
        // SAFETY: the page was just taken, is ours, and has room for so many.
        unsafe { (table as *mut Descriptor).add(usize::from(at)).write_volatile(descriptor) };
    }
    let length = u32::from(LENGTH) * size_of::<Descriptor>() as u32;
    queue.describe(0, Descriptor { address: table, length, flags: flag::INDIRECT, next: 0 });
    queue.offer(0);
    kick(device, queue);
    Ok(())
}

fn index_far_ahead(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    queue.publish(0x8000);
    kick(device, queue);
    Ok(())
}

fn rings_outside_memory(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    if !(device.reset() && device.negotiate()) {
        return Err("does not restart");
    }
    device.write(register::QUEUE_SEL, queue.number());
    device.write(register::QUEUE_NUM, u32::from(QUEUE_SIZE));
    for ring in [register::QUEUE_DESC_LOW, register::QUEUE_DRIVER_LOW, register::QUEUE_DEVICE_LOW] {
        device.write_address(ring, NOWHERE);
    }
    device.write(register::QUEUE_READY, 1);
    device.go();
    kick(device, queue);
    Ok(())
}

fn queue_moved_while_live(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    device.write(register::QUEUE_SEL, queue.number());
    device.write_address(register::QUEUE_DESC_LOW, NOWHERE);
    device.write(register::QUEUE_NUM, 0xffff);
    queue.describe(0, readable(request()?, 16, 0));
    queue.offer(0);
    kick(device, queue);
    Ok(())
}

fn reset_in_mid_request(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    let page = request()?;
    queue.describe(0, readable(page, 16, 1));
    queue.describe(
        1,
        Descriptor { address: page + 512, length: 512, flags: flag::NEXT | flag::WRITE, next: 2 },
    );
    queue.describe(2, Descriptor { address: page + 64, length: 1, flags: flag::WRITE, next: 0 });
    queue.offer(0);
    device.write(register::QUEUE_NOTIFY, queue.number());
    if device.reset() { Ok(()) } else { Err("does not reset while busy") }
}

fn accesses_all_over(device: Registers, _queue: &mut RawQueue) -> Result<(), &'static str> {
    // Every eighth word keeps the count of exits low; the offsets still meet every register bank and the last word.
    for offset in (0..0x1000).step_by(32).chain([0xffc]) {
        device.read(offset);
    }
    for offset in (register::CONFIG..0x1000).step_by(64).chain([0xffc]) {
        device.write(offset, u32::MAX);
    }
    Ok(())
}

fn kicks_of_nothing(device: Registers, queue: &mut RawQueue) -> Result<(), &'static str> {
    for number in [19, 77, 0xffff, u32::MAX] {
        device.write(register::QUEUE_SEL, number);
        device.write(register::QUEUE_READY, 1);
        device.write(register::QUEUE_NOTIFY, number);
    }
    kick(device, queue);
    Ok(())
}
