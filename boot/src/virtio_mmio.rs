//! A virtio-mmio device as bare registers, for a driver that means to break the rules.
//!
//! Follows the virtio 1.2 specification, section 4.2.2. Well-behaved tests use the `virtio-drivers` crate instead.

use crate::memory::pages;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

/// Register offsets, section 4.2.2.
pub mod register {
    #![allow(missing_docs)]
    pub const DEVICE_ID: usize = 0x008;
    pub const DRIVER_FEATURES: usize = 0x020;
    pub const DRIVER_FEATURES_SEL: usize = 0x024;
    pub const QUEUE_SEL: usize = 0x030;
    pub const QUEUE_NUM: usize = 0x038;
    pub const QUEUE_READY: usize = 0x044;
    pub const QUEUE_NOTIFY: usize = 0x050;
    pub const STATUS: usize = 0x070;
    pub const QUEUE_DESC_LOW: usize = 0x080;
    pub const QUEUE_DRIVER_LOW: usize = 0x090;
    pub const QUEUE_DEVICE_LOW: usize = 0x0a0;
    pub const CONFIG: usize = 0x100;
}

/// Device status bits, section 2.1.
pub mod status {
    #![allow(missing_docs)]
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
}

/// A device's registers.
#[derive(Clone, Copy)]
pub struct Registers(NonNull<u8>);

impl Registers {
    /// The registers at `base`.
    ///
    /// # Safety
    ///
    /// `base` is a virtio-mmio region of the machine, mapped one to one, that nothing else drives meanwhile.
    pub unsafe fn new(base: NonNull<u8>) -> Self {
        Self(base)
    }

    /// Reads the 32-bit register at `offset`.
    pub fn read(self, offset: usize) -> u32 {
        // SAFETY: the region is mapped (see `new`) and offsets are within its page.
        unsafe { self.0.as_ptr().add(offset).cast::<u32>().read_volatile() }
    }

    /// Writes the 32-bit register at `offset`.
    pub fn write(self, offset: usize, value: u32) {
        // SAFETY: as in `read`.
        unsafe { self.0.as_ptr().add(offset).cast::<u32>().write_volatile(value) }
    }

    /// Writes the pair of 32-bit registers that starts at `offset`.
    pub fn write_address(self, offset: usize, address: u64) {
        self.write(offset, address as u32);
        self.write(offset + 4, (address >> 32) as u32);
    }

    /// Resets the device and waits until it says so; false when it never does.
    pub fn reset(self) -> bool {
        self.write(register::STATUS, 0);
        (0..10_000).any(|_| self.read(register::STATUS) == 0)
    }

    /// Negotiates version 1 and nothing else, up to and including FEATURES_OK; false when the device refuses.
    pub fn negotiate(self) -> bool {
        self.negotiate_with(0)
    }

    /// The same with some of the device's own features, those below bit 32.
    pub fn negotiate_with(self, features: u32) -> bool {
        let acknowledged = status::ACKNOWLEDGE | status::DRIVER;
        self.write(register::STATUS, acknowledged);
        self.write(register::DRIVER_FEATURES_SEL, 0);
        self.write(register::DRIVER_FEATURES, features);
        self.write(register::DRIVER_FEATURES_SEL, 1);
        self.write(register::DRIVER_FEATURES, 1);
        self.write(register::STATUS, acknowledged | status::FEATURES_OK);
        self.read(register::STATUS) & status::FEATURES_OK != 0
    }

    /// Says that the driver is ready.
    pub fn go(self) {
        let value = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.write(register::STATUS, value);
    }

    /// Whether the device asks for a reset.
    pub fn needs_reset(self) -> bool {
        self.read(register::STATUS) & status::NEEDS_RESET != 0
    }
}

/// Entries of every queue made here.
pub const QUEUE_SIZE: u16 = 8;

/// Descriptor flags, section 2.7.5.
pub mod flag {
    #![allow(missing_docs)]
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
}

/// A descriptor as the device sees it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Descriptor {
    /// Guest-physical address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub length: u32,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Index of the next descriptor, where the flags say that there is one.
    pub next: u16,
}

/// A split virtqueue in three pages, written to without any check.
pub struct RawQueue {
    descriptors: NonNull<u8>,
    available: NonNull<u8>,
    used: NonNull<u8>,
    number: u32,
    /// The available index that the driver has published.
    index: u16,
}

impl RawQueue {
    /// Queue `number` of a device in fresh pages, or `None` when memory is used up.
    pub fn new(number: u32) -> Option<Self> {
        Some(Self { descriptors: pages(1)?, available: pages(1)?, used: pages(1)?, number, index: 0 })
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Tells the device of this queue.
    pub fn install(&self, device: Registers) {
        device.write(register::QUEUE_SEL, self.number);
        device.write(register::QUEUE_NUM, u32::from(QUEUE_SIZE));
        device.write_address(register::QUEUE_DESC_LOW, self.descriptors.as_ptr() as u64);
        device.write_address(register::QUEUE_DRIVER_LOW, self.available.as_ptr() as u64);
        device.write_address(register::QUEUE_DEVICE_LOW, self.used.as_ptr() as u64);
        device.write(register::QUEUE_READY, 1);
    }

    /// Writes descriptor `slot` (below 256: the page holds that many).
    pub fn describe(&self, slot: u16, descriptor: Descriptor) {
        let table = self.descriptors.cast::<Descriptor>().as_ptr();
        // SAFETY: a page holds 256 descriptors, and `slot` is masked to that.
        unsafe { table.add(usize::from(slot & 0xff)).write_volatile(descriptor) }
    }

    /// Makes the chain that starts at `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = 2 + usize::from(self.index % QUEUE_SIZE);
        // SAFETY: slots 2..2 + QUEUE_SIZE lie in the page.
        unsafe { self.available.cast::<u16>().as_ptr().add(slot).write_volatile(head) };
        self.publish(self.index.wrapping_add(1));
    }

    /// Publishes an available index, right or wrong.
    pub fn publish(&mut self, index: u16) {
        self.index = index;
        fence(Ordering::SeqCst);
        // SAFETY: the index is the page's second 16-bit word.
        unsafe { self.available.cast::<u16>().as_ptr().add(1).write_volatile(index) };
        fence(Ordering::SeqCst);
    }

    /// How many chains the device has given back.
    pub fn given_back(&self) -> u16 {
        fence(Ordering::SeqCst);
        // SAFETY: the used index is the page's second 16-bit word.
        unsafe { self.used.cast::<u16>().as_ptr().add(1).read_volatile() }
    }
}
