//! What devices do that the drivers of `virtio-drivers` do not ask for, asked with bare registers: requests of disks on every
//! queue, the messages about a console's ports, and pages for a balloon.

use super::Slot;
use crate::memory::pages;
use crate::virtio_mmio::{Descriptor, RawQueue, Registers, flag, register};
use alloc::vec::Vec;

/// How often an answer is looked for. On a busy host the thread that gives it may have to wait for a processor.
const PATIENCE: usize = 1_000_000;

/// A request's buffer: address, length in bytes, and whether the device writes to it.
type Buffer = (u64, u32, bool);

fn memory() -> Result<u64, &'static str> {
    Ok(pages(1).ok_or("the guest's memory is used up")?.as_ptr() as u64)
}

/// Makes a chain of these buffers available.
fn offer(queue: &mut RawQueue, buffers: &[Buffer]) {
    for (slot, (address, length, writable)) in buffers.iter().enumerate() {
        let more = if slot + 1 < buffers.len() { flag::NEXT } else { 0 };
        let flags = more | if *writable { flag::WRITE } else { 0 };
        let next = slot as u16 + 1;
        queue.describe(slot as u16, Descriptor { address: *address, length: *length, flags, next });
    }
    queue.offer(0);
}

/// Waits until the device has given `count` chains back.
fn wait(queue: &RawQueue, count: u16) -> Result<(), &'static str> {
    match (0..PATIENCE).any(|_| queue.given_back() == count) {
        true => Ok(()),
        false => Err("does not answer"),
    }
}

fn byte(address: u64) -> u8 {
    // SAFETY: a byte of a page of this module's own.
    unsafe { (address as *const u8).read_volatile() }
}

fn put<T>(address: u64, value: T) {
    // SAFETY: in a page of this module's own, aligned as its callers lay it out.
    unsafe { (address as *mut T).write_volatile(value) }
}

fn start(device: Registers, features: u32) -> Result<(), &'static str> {
    match device.reset() && device.negotiate_with(features) {
        true => Ok(()),
        false => Err("does not start"),
    }
}

/// Gives the device queues of these numbers, and lets it go.
fn go<const N: usize>(device: Registers, numbers: [u32; N]) -> Result<[RawQueue; N], &'static str> {
    let queues: Option<Vec<RawQueue>> = numbers.into_iter().map(RawQueue::new).collect();
    let queues: Option<[RawQueue; N]> = queues.and_then(|queues| queues.try_into().ok());
    let queues = queues.ok_or("the guest's memory is used up")?;
    queues.iter().for_each(|queue| queue.install(device));
    device.go();
    Ok(queues)
}

/// Flushes, zeroes and discards, on each of the disk's queues in turn; a range that leaves the disk is refused.
pub fn blk(slot: Slot) -> Result<(), &'static str> {
    /// `VIRTIO_BLK_F_FLUSH`, `_F_MQ`, `_F_DISCARD`, `_F_WRITE_ZEROES` (virtio 1.2, section 5.2.3).
    const FEATURES: u32 = 1 << 9 | 1 << 12 | 1 << 13 | 1 << 14;
    const OUT: u32 = 1;
    const FLUSH: u32 = 4;
    const DISCARD: u32 = 11;
    const WRITE_ZEROES: u32 = 13;
    /// The number of queues in the configuration space.
    const QUEUES: usize = register::CONFIG + 32;
    let device = slot.registers();
    start(device, FEATURES)?;
    let count = device.read(QUEUES) >> 16;
    if count < 2 {
        return Err("has one queue where there are two vCPUs");
    }
    for mut queue in go(device, [0, 1])? {
        let page = memory()?;
        let (status, range, data) = (page + 32, page + 64, page + 1024);
        let mut asked = 0;
        let mut ask = |kind: u32, sector: u64, buffer: Option<Buffer>| {
            put(page, kind);
            put(page + 8, sector);
            put(status, 0xffu8);
            match buffer {
                Some(buffer) => offer(&mut queue, &[(page, 16, false), buffer, (status, 1, true)]),
                None => offer(&mut queue, &[(page, 16, false), (status, 1, true)]),
            }
            device.write(register::QUEUE_NOTIFY, queue.number());
            asked += 1;
            wait(&queue, asked).map(|()| byte(status))
        };
        put(data, 0x5au8);
        if ask(OUT, 2, Some((data, 512, false)))? != 0 || ask(FLUSH, 0, None)? != 0 {
            return Err("does not write and flush");
        }
        put(range, 2u64);
        put(range + 8, 1u64);
        if ask(WRITE_ZEROES, 0, Some((range, 16, false)))? != 0
            || ask(DISCARD, 0, Some((range, 16, false)))? != 0
        {
            return Err("does not zero and discard");
        }
        if ask(0, 2, Some((data, 512, true)))? != 0 || byte(data) != 0 {
            return Err("does not read zeroes where it was to put some");
        }
        put(range, u64::MAX / 512);
        if ask(DISCARD, 0, Some((range, 16, false)))? != 1 {
            return Err("discards what is not on it");
        }
    }
    Ok(())
}

/// Asks a console which ports it has, opens the second and writes a line to it.
pub fn console(slot: Slot) -> Result<(), &'static str> {
    const MULTIPORT: u32 = 1 << 1;
    const DEVICE_READY: u64 = 0;
    const PORT_READY: u64 = 3;
    let device = slot.registers();
    start(device, MULTIPORT)?;
    let [mut mail, mut messages, mut output] = go(device, [2, 3, 5])?;
    let (letter, message, text) = (memory()?, memory()?, memory()?);
    let mut said = 0;
    let mut say = |port: u32, event: u64| {
        // Port, event and value: 32, 16 and 16 bits.
        put(message, u64::from(port) | event << 32 | 1 << 48);
        offer(&mut messages, &[(message, 8, false)]);
        device.write(register::QUEUE_NOTIFY, 3);
        said += 1;
        wait(&messages, said)
    };
    let mut read = 0;
    let mut next = || {
        offer(&mut mail, &[(letter, 64, true)]);
        device.write(register::QUEUE_NOTIFY, 2);
        read += 1;
        wait(&mail, read).map(|()| (byte(letter), byte(letter + 4), byte(letter + 8)))
    };
    say(u32::MAX, DEVICE_READY)?;
    if (next()?, next()?) != ((0, 1, byte(letter + 8)), (1, 1, byte(letter + 8))) {
        return Err("does not tell of its two ports");
    }
    say(1, PORT_READY)?;
    match (next()?, next()?) {
        // Its name, and that it is open.
        ((1, 7, b'l'), (1, 6, _)) => {}
        _ => return Err("does not introduce its second port"),
    }
    for (offset, letter) in b"aboard\n".iter().enumerate() {
        put(text + offset as u64, *letter);
    }
    offer(&mut output, &[(text, 7, false)]);
    device.write(register::QUEUE_NOTIFY, 5);
    wait(&output, 1)
}

/// Puts a page into the balloon, takes it out again, and reports another one as free: the host takes both, and has others in
/// their place.
pub fn balloon(slot: Slot) -> Result<(), &'static str> {
    /// `VIRTIO_BALLOON_F_PAGE_REPORTING` (virtio 1.2, section 5.5.3).
    const REPORTING: u32 = 1 << 5;
    const PAGE: u32 = 4096;
    let device = slot.registers();
    start(device, REPORTING)?;
    let [mut inflate, mut deflate, mut report] = go(device, [0, 1, 2])?;
    let (list, blown, free) = (memory()?, memory()?, memory()?);
    put(list, (blown / u64::from(PAGE)) as u32);
    put(blown, 0x5au8);
    put(free, 0x5au8);
    for queue in [&mut inflate, &mut deflate] {
        offer(queue, &[(list, 4, false)]);
        device.write(register::QUEUE_NOTIFY, queue.number());
        wait(queue, 1)?;
    }
    offer(&mut report, &[(free, PAGE, true)]);
    device.write(register::QUEUE_NOTIFY, 2);
    wait(&report, 1)?;
    if (byte(blown), byte(free)) != (0, 0) {
        return Err("leaves the guest what it was given");
    }
    put(blown, 0x5au8);
    put(free, 0x5au8);
    if (byte(blown), byte(free)) == (0x5a, 0x5a) { Ok(()) } else { Err("takes memory that is in use") }
}
