//! The driver's side of a device, for tests: finds, negotiates, sets up queues, adds requests, looks at the answers.

use super::transport::{Transport, register, status};
use super::{Device, Memory, VERSION_1};
use crate::devices::bus::Registers;
use crate::devices::reactor::Reactor;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// How much memory the guest has.
pub const MEMORY: u64 = 4 << 20;
/// From here on memory is free for a test's buffers.
pub const BUFFERS: u64 = 0x10_0000;
/// `VIRTQ_DESC_F_NEXT`.
pub const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`.
pub const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`.
pub const INDIRECT: u16 = 4;

/// A queue's rings, as the driver lays them out: a page each.
#[derive(Clone, Copy, Default)]
pub struct Ring {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    next_descriptor: u16,
    added: u16,
    seen: u16,
}

/// A driver with its device.
pub struct Driver {
    pub transport: Arc<Transport>,
    pub memory: Memory,
    pub reactor: Reactor,
    pub rings: Vec<Ring>,
}

impl Driver {
    /// A driver that has only found its device.
    pub fn find(device: Box<dyn Device>) -> Self {
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let transport = Arc::new(Transport::new(device, memory.clone(), reactor.poller()).unwrap());
        reactor.push(transport.clone());
        Self { transport, memory, reactor, rings: Vec::new() }
    }

    /// A driver that has its device in operation, with those of its features that are in `mask`.
    pub fn start(device: Box<dyn Device>, mask: u64) -> Self {
        let mut driver = Self::find(device);
        driver.negotiate(mask);
        driver.set_up_queues();
        driver.write(register::STATUS, driver.read(register::STATUS) | status::DRIVER_OK);
        driver
    }

    pub fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Waits until the device has nothing under way.
    pub fn rest(&self) {
        while !self.transport.is_idle() {
            self.reactor.turn(100).unwrap();
        }
    }

    pub fn write(&self, register: u64, value: u32) {
        // A reset waits for what is under way, and nobody else serves the device.
        if (register, value) == (register::STATUS, 0) {
            self.rest();
        }
        self.transport.write(register, &value.to_le_bytes());
    }

    pub fn offered(&self) -> u64 {
        (0..2).fold(0, |features, half| {
            self.write(register::DEVICE_FEATURES_SEL, half);
            features | u64::from(self.read(register::DEVICE_FEATURES)) << (32 * half)
        })
    }

    pub fn accept(&self, features: u64) {
        for half in 0..2 {
            self.write(register::DRIVER_FEATURES_SEL, half);
            self.write(register::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
    }

    pub fn negotiate(&mut self, mask: u64) {
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        self.accept(self.offered() & (mask | VERSION_1));
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        assert_ne!(self.read(register::STATUS) & status::FEATURES_OK, 0);
    }

    pub fn set_up_queues(&mut self) {
        self.rings.clear();
        loop {
            let number = self.rings.len() as u32;
            self.write(register::QUEUE_SEL, number);
            let size = self.read(register::QUEUE_NUM_MAX) as u16;
            if size == 0 {
                return;
            }
            let base = 0x1_0000 * (u64::from(number) + 1);
            let ring = Ring {
                size,
                descriptors: base,
                available: base + 0x8000,
                used: base + 0xc000,
                ..Ring::default()
            };
            self.memory.write_slice(&[0; 0x1_0000], GuestAddress(base)).unwrap();
            self.write(register::QUEUE_NUM, size.into());
            self.write(register::QUEUE_DESC_LOW, ring.descriptors as u32);
            self.write(register::QUEUE_DRIVER_LOW, ring.available as u32);
            self.write(register::QUEUE_DEVICE_LOW, ring.used as u32);
            self.write(register::QUEUE_READY, 1);
            self.rings.push(ring);
        }
    }

    /// Writes one descriptor.
    pub fn descriptor(&self, queue: usize, at: u16, address: u64, length: u32, flags: u16, next: u16) {
        let table = self.rings[queue].descriptors;
        write_descriptor(&self.memory, table, at, address, length, flags, next);
    }

    /// Makes the chain at `head` available.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let slot = ring.available + 4 + u64::from(ring.added % ring.size) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        ring.added = ring.added.wrapping_add(1);
        self.memory.write_obj(ring.added, GuestAddress(ring.available + 2)).unwrap();
    }

    /// Adds a chain of buffers: address, length, and whether the device writes to it. Returns its head.
    pub fn add(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let size = self.rings[queue].size;
        let head = self.rings[queue].next_descriptor;
        for (number, (address, length, writable)) in buffers.iter().enumerate() {
            let at = (head + number as u16) % size;
            let next = (at + 1) % size;
            let more = if number + 1 < buffers.len() { NEXT } else { 0 };
            self.descriptor(queue, at, *address, *length, more | if *writable { WRITE } else { 0 }, next);
        }
        self.rings[queue].next_descriptor = (head + buffers.len() as u16) % size;
        self.offer(queue, head);
        head
    }

    /// Kicks a queue and lets the device work.
    pub fn kick(&self, queue: u32) {
        self.write(register::QUEUE_NOTIFY, queue);
        self.work();
    }

    /// Lets the device work on whatever is ready now.
    pub fn work(&self) {
        self.reactor.turn(0).unwrap();
    }

    /// The requests that the device has given back since the last look: head and bytes written.
    pub fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let index: u16 = self.memory.read_obj(GuestAddress(ring.used + 2)).unwrap();
        let mut used = Vec::new();
        while ring.seen != index {
            let at = ring.used + 4 + u64::from(ring.seen % ring.size) * 8;
            let [head, written]: [u32; 2] = self.memory.read_obj(GuestAddress(at)).unwrap();
            used.push((head as u16, written));
            ring.seen = ring.seen.wrapping_add(1);
        }
        used
    }

    /// The descriptor that the next chain begins with.
    pub fn next_descriptor(&self, queue: usize) -> u16 {
        self.rings[queue].next_descriptor
    }

    /// How many requests have been added that the last look did not find given back.
    pub fn pending(&self, queue: usize) -> usize {
        self.rings[queue].added.wrapping_sub(self.rings[queue].seen).into()
    }

    /// Whether something is ready for the device, again and again.
    pub fn stirs(&self) -> bool {
        self.reactor.turn(0).unwrap();
        self.reactor.is_ready().unwrap()
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Whether the device has given up on this driver.
    pub fn needs_reset(&self) -> bool {
        self.read(register::STATUS) & status::NEEDS_RESET != 0
    }
}

/// Writes a descriptor into a table.
pub fn write_descriptor(
    memory: &Memory,
    table: u64,
    at: u16,
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
) {
    let entry = table + u64::from(at) * 16;
    memory.write_obj(address, GuestAddress(entry)).unwrap();
    memory.write_obj(length, GuestAddress(entry + 8)).unwrap();
    memory.write_obj(flags, GuestAddress(entry + 12)).unwrap();
    memory.write_obj(next, GuestAddress(entry + 14)).unwrap();
}
