//! A device's interrupt: the status register that the driver reads and acknowledges, and the line.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Interrupt status bit: a queue has used buffers.
const USED_BUFFERS: u32 = 1 << 0;
/// Interrupt status bit: configuration or device status has changed.
const CONFIG_CHANGED: u32 = 1 << 1;

/// An interrupt with its status. It is shared without a lock, so that a vCPU that acknowledges never waits for a device
/// that is at work.
pub struct Interrupt {
    status: AtomicU32,
    generation: AtomicU32,
    raised: AtomicU64,
    line: EventFd,
}

impl Interrupt {
    /// An interrupt that is not raised.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            raised: AtomicU64::new(0),
            line: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// The descriptor that is written to when the interrupt is raised.
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    /// Tells the driver that requests have been given back.
    pub fn used_buffers(&self) {
        self.raise(USED_BUFFERS);
    }

    /// Tells the driver that the configuration space or the device status has changed.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(CONFIG_CHANGED);
    }

    /// Counts the changes of the configuration.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// The driver has dealt with these bits.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// How often it has been raised.
    pub fn raised(&self) -> u64 {
        self.raised.load(Ordering::Relaxed)
    }

    fn raise(&self, bit: u32) {
        self.raised.fetch_add(1, Ordering::Relaxed);
        self.status.fetch_or(bit, Ordering::AcqRel);
        // The counter cannot overflow: the kernel takes it back to zero at each injection.
        let _ = self.line.write(1);
    }
}
