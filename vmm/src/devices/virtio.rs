//! virtio 1.2, once: what every device has in common is here, and a device's own file says only what is special about it.
//!
//! A [`Device`] names its queues, features and configuration, and answers requests. Negotiation, queue set-up, interrupts,
//! reset and what happens when a guest breaks the rules are the [`transport`]'s. "The specification" below means the
//! OASIS Virtual I/O Device (VIRTIO) specification, version 1.2.

pub mod balloon;
pub mod blk;
pub mod console;
pub mod fs;
pub mod interrupt;
pub mod mem;
pub mod net;
pub mod pmem;
pub mod queue;
pub mod rng;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod testing;
pub mod transport;
pub mod vsock;

pub use interrupt::Interrupt;
pub use queue::{Chain, Virtqueue};
pub use transport::Transport;

use super::reactor::{EventSet, Poller};
use crate::backends::disk::Worker;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Guest memory as devices see it.
pub type Memory = vm_memory::GuestMemoryMmap<()>;

/// Guest memory that devices share and that may change while they work. Each looks whether it has, which costs it nothing else,
/// before it does something.
#[derive(Clone)]
pub struct SharedMemory(Arc<Shared>);

struct Shared {
    version: AtomicU64,
    current: Mutex<Memory>,
}

impl SharedMemory {
    /// Replaces it. A device that is at work goes on with what it has until it is done.
    pub fn set(&self, memory: Memory) {
        *self.0.current.lock().unwrap_or_else(PoisonError::into_inner) = memory;
        self.0.version.fetch_add(1, Ordering::Release);
    }

    /// As it is now.
    fn get(&self) -> (u64, Memory) {
        let version = self.version();
        (version, self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// How often it has been replaced.
    fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }
}

impl From<Memory> for SharedMemory {
    fn from(memory: Memory) -> Self {
        Self(Arc::new(Shared { version: AtomicU64::new(0), current: Mutex::new(memory) }))
    }
}

/// `VIRTIO_F_VERSION_1`: the only kind of device here.
pub const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_INDIRECT_DESC`.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub const EVENT_IDX: u64 = 1 << 29;

/// The guest broke the rules in a way from which only a device reset recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub &'static str);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Fault {}

/// What is special about a device.
pub trait Device: Send {
    /// The device type (specification, section 5).
    fn id(&self) -> u32;

    /// The largest size of each queue: powers of two.
    fn queues(&self) -> &'static [u16];

    /// Whether a request may wait for the host's disks: such a device has a thread of its own, so that it holds up no other.
    fn waits_for_disks(&self) -> bool {
        false
    }

    /// Threads that it needs besides, to be started once. They end with [`Device::finish`].
    fn workers(&mut self) -> Vec<Worker> {
        Vec::new()
    }

    /// The feature bits of this device type that are offered.
    fn features(&self) -> u64 {
        0
    }

    /// The device's configuration space.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// The driver writes to the configuration space.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready: `features` were agreed on and the queues are set up.
    fn activate(&mut self, _features: u64, _io: &mut Io<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// The driver has put something into a queue.
    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault>;

    /// A descriptor of the host is ready that this device registered with `token`.
    fn ready(&mut self, _token: u32, _events: EventSet, _io: &mut Io<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Whether nothing is under way that will still touch the guest's memory.
    fn is_idle(&self) -> bool {
        true
    }

    /// A descriptor is ready, and the driver is not to be told of anything any more: it has broken the rules, or waits for
    /// its reset. Takes note of what has ended.
    fn settle(&mut self) {}

    /// The driver has reset the device, which is idle: everything is as it was before activation.
    fn reset(&mut self, _poller: &Poller) {}

    /// The machine has ended. Waits until the device is idle.
    fn finish(&mut self) {}
}

/// What a device has to work with while it does something.
pub struct Io<'a> {
    /// The guest's memory.
    pub memory: &'a Memory,
    /// The device's queues.
    pub queues: &'a mut [Virtqueue],
    /// The device's interrupt.
    pub interrupt: &'a Interrupt,
    /// Registers descriptors of the host.
    pub poller: &'a Poller,
}

impl<'a> Io<'a> {
    /// Takes the next request out of a queue that is set up; none of one that is not.
    pub fn pop(&mut self, queue: usize) -> Result<Option<Chain<'a>>, Fault> {
        self.queues[queue].pop(self.memory)
    }

    /// Gives a request back to the driver, with the number of bytes written to it.
    pub fn push(&mut self, queue: usize, chain: Chain<'a>, written: u32) -> Result<(), Fault> {
        self.queues[queue].push(self.memory, chain, written)
    }

    /// Puts the request taken last back, as if it had not been taken.
    pub fn undo_pop(&mut self, queue: usize, chain: Chain<'a>) {
        self.queues[queue].undo_pop(chain);
    }

    /// Interrupts the guest if requests have been given back and the driver wants to know.
    pub fn notify(&mut self, queue: usize) -> Result<(), Fault> {
        if self.queues[queue].needs_interrupt(self.memory)? {
            self.interrupt.used_buffers();
        }
        Ok(())
    }

    /// Answers every request of a queue with what `answer` makes of it: the number of bytes written.
    pub fn serve(
        &mut self,
        queue: usize,
        mut answer: impl FnMut(&mut Chain<'a>) -> Result<u32, Fault>,
    ) -> Result<(), Fault> {
        loop {
            self.queues[queue].suppress_kicks(self.memory)?;
            while let Some(mut chain) = self.pop(queue)? {
                let written = answer(&mut chain)?;
                self.push(queue, chain, written)?;
            }
            if !self.queues[queue].ask_for_kicks(self.memory)? {
                return self.notify(queue);
            }
        }
    }
}
