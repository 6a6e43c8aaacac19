//! virtio-mmio: the registers through which a driver finds, negotiates with, sets up, kicks and resets a device.
//!
//! Specification, sections 4.2.2 (registers), 3.1 (initialisation) and 2.1.2 (device status). The legacy interface does not
//! exist here.

use super::{
    Device, EVENT_IDX, Fault, INDIRECT_DESC, Interrupt, Io, Memory, SharedMemory, VERSION_1, Virtqueue,
};
use crate::devices::bus::Registers;
use crate::devices::reactor::{EventSet, Poller, Subscriber};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// The register layout since version 1.0 of the specification.
const VERSION: u32 = 2;
/// "frry", which no one else uses.
const VENDOR: u32 = 0x7972_7266;

/// Register offsets.
pub mod register {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_LEN_HIGH: u64 = 0x0b4;
    pub const SHM_BASE_LOW: u64 = 0x0b8;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// Device status bits.
pub mod status {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

/// Tokens with this bit are kicks of the queue they number; all others are a device's own.
const KICK: u32 = 1 << 31;

struct State {
    device: Box<dyn Device>,
    queues: Vec<Virtqueue>,
    memory: Memory,
    /// Where that memory comes from, and which version of it this is.
    shared: (SharedMemory, u64),
    status: u32,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    fault: Option<Fault>,
    kicked: u64,
    /// How many vCPUs wait for a reset: meanwhile nothing new is begun.
    resetting: u32,
}

/// What a device has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The device type (specification, section 5).
    pub kind: u32,
    /// Kicks served. One may stand for many requests.
    pub kicks: u64,
    /// Requests given back.
    pub requests: u64,
    /// Interrupts raised.
    pub interrupts: u64,
}

/// A device behind virtio-mmio registers.
pub struct Transport {
    interrupt: Interrupt,
    kicks: Vec<EventFd>,
    poller: Poller,
    state: Mutex<State>,
    /// The device has become idle while somebody waits for its reset.
    idle: Condvar,
}

impl Transport {
    /// Puts `device` behind registers, with queues in `memory`. Its kicks are waited for with `poller`.
    pub fn new(device: Box<dyn Device>, memory: impl Into<SharedMemory>, poller: Poller) -> io::Result<Self> {
        let shared = memory.into();
        let (version, memory) = shared.get();
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "a queue's size is no power of two");
        let sizes = device.queues();
        let mut queues = Vec::with_capacity(sizes.len());
        let mut kicks = Vec::with_capacity(sizes.len());
        for (token, size) in sizes.iter().enumerate() {
            queues.push(Virtqueue::new(*size).ok_or_else(wrong)?);
            let kick = EventFd::new(EFD_NONBLOCK)?;
            poller.add(&kick, KICK | token as u32, EventSet::IN)?;
            kicks.push(kick);
        }
        let state = State {
            device,
            queues,
            memory,
            shared: (shared, version),
            status: 0,
            driver_features: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            fault: None,
            kicked: 0,
            resetting: 0,
        };
        Ok(Self {
            interrupt: Interrupt::new()?,
            kicks,
            poller,
            state: Mutex::new(state),
            idle: Condvar::new(),
        })
    }

    /// The device's interrupt.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// A descriptor for each queue, written to when the driver kicks it.
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// What the guest did wrong, if the device waits for a reset because of it.
    pub fn fault(&self) -> Option<Fault> {
        self.state().fault
    }

    /// Whether the device has nothing under way.
    #[cfg(any(test, feature = "fuzz"))]
    pub fn is_idle(&self) -> bool {
        self.state().device.is_idle()
    }

    /// What the device has done so far.
    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            kind: state.device.id(),
            kicks: state.kicked,
            requests: state.queues.iter().map(Virtqueue::served).sum(),
            interrupts: self.interrupt.raised(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a device that is in operation do something, and takes it out of operation if the guest broke the rules.
    fn operate(
        &self,
        state: &mut State,
        action: impl FnOnce(&mut dyn Device, &mut Io<'_>) -> Result<(), Fault>,
    ) {
        if state.status & (status::DRIVER_OK | status::NEEDS_RESET) != status::DRIVER_OK {
            return;
        }
        state.refresh();
        let State { device, queues, memory, .. } = state;
        let mut io = Io { memory, queues, interrupt: &self.interrupt, poller: &self.poller };
        if let Err(fault) = action(&mut **device, &mut io) {
            self.needs_reset(state, fault);
        }
    }

    fn needs_reset(&self, state: &mut State, fault: Fault) {
        state.fault = Some(fault);
        state.status |= status::NEEDS_RESET;
        self.interrupt.config_changed();
    }

    fn read_register(&self, offset: u64) -> u32 {
        // What interrupt handlers need comes first and takes no lock.
        match offset {
            register::INTERRUPT_STATUS => return self.interrupt.status(),
            register::CONFIG_GENERATION => return self.interrupt.generation(),
            register::MAGIC_VALUE => return MAGIC,
            register::VERSION => return VERSION,
            register::VENDOR_ID => return VENDOR,
            // No shared memory regions: length and base are all ones.
            register::SHM_LEN_LOW
            | register::SHM_LEN_HIGH
            | register::SHM_BASE_LOW
            | register::SHM_BASE_HIGH => {
                return u32::MAX;
            }
            _ => {}
        }
        let mut state = self.state();
        let queue = state.queue_select as usize;
        match offset {
            register::DEVICE_ID => state.device.id(),
            register::DEVICE_FEATURES => match state.device_features_select {
                0 => state.offered() as u32,
                1 => (state.offered() >> 32) as u32,
                _ => 0,
            },
            register::QUEUE_NUM_MAX => {
                state.queues.get_mut(queue).map_or(0, |queue| queue.registers().max_size().into())
            }
            register::QUEUE_READY => state.queues.get(queue).map_or(0, |queue| queue.is_ready().into()),
            register::STATUS => state.status,
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            register::INTERRUPT_ACK => return self.interrupt.acknowledge(value),
            register::QUEUE_NOTIFY => {
                if let Some(kick) = self.kicks.get(value as usize) {
                    let _ = kick.write(1);
                }
                return;
            }
            _ => {}
        }
        let mut guard = self.state();
        if (offset, value) == (register::STATUS, 0) {
            guard = self.wait_until_idle(guard);
        }
        let state = &mut *guard;
        match offset {
            register::DEVICE_FEATURES_SEL => state.device_features_select = value,
            register::DRIVER_FEATURES_SEL => state.driver_features_select = value,
            register::DRIVER_FEATURES if state.status & status::FEATURES_OK == 0 => {
                let shift = match state.driver_features_select {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                state.driver_features &= !(u64::from(u32::MAX) << shift);
                state.driver_features |= u64::from(value) << shift;
            }
            register::QUEUE_SEL => state.queue_select = value,
            register::STATUS => self.write_status(state, value),
            _ => state.write_queue(offset, value),
        }
    }

    fn write_status(&self, state: &mut State, value: u32) {
        if value == 0 {
            return self.reset(state);
        }
        // The driver only ever adds bits; what a device has decided it cannot take back.
        let mut added = value & !state.status & !status::NEEDS_RESET;
        if added & status::FEATURES_OK != 0 {
            let features = state.driver_features;
            if features & !state.offered() != 0 || features & VERSION_1 == 0 {
                added &= !status::FEATURES_OK;
            }
        }
        if added & status::DRIVER_OK != 0 && (state.status | added) & status::FEATURES_OK == 0 {
            added &= !status::DRIVER_OK;
        }
        state.status |= added;
        if added & status::DRIVER_OK != 0 {
            self.activate(state);
        }
    }

    /// Waits until what is under way has ended: after a reset a device touches nothing of the guest's. The thread that serves
    /// the device goes on meanwhile.
    fn wait_until_idle<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.resetting += 1;
        let busy = |state: &mut State| !state.device.is_idle();
        let mut state = self.idle.wait_while(state, busy).unwrap_or_else(PoisonError::into_inner);
        state.resetting -= 1;
        state
    }

    fn activate(&self, state: &mut State) {
        state.refresh();
        let features = state.driver_features;
        for queue in &mut state.queues {
            queue.registers().set_event_idx(features & EVENT_IDX != 0);
        }
        if state.queues.iter().any(|queue| queue.is_ready() && !queue.is_valid(&state.memory)) {
            return self.needs_reset(state, Fault("a queue lies outside the guest's memory"));
        }
        self.operate(state, |device, io| device.activate(features, io));
    }

    fn reset(&self, state: &mut State) {
        state.device.reset(&self.poller);
        for queue in &mut state.queues {
            queue.registers().reset();
        }
        for kick in &self.kicks {
            let _ = kick.read();
        }
        self.interrupt.acknowledge(u32::MAX);
        state.status = 0;
        state.driver_features = 0;
        state.device_features_select = 0;
        state.driver_features_select = 0;
        state.queue_select = 0;
        state.fault = None;
    }
}

impl State {
    /// Looks whether guest memory has changed.
    fn refresh(&mut self) {
        let (shared, version) = &mut self.shared;
        if shared.version() != *version {
            (*version, self.memory) = shared.get();
        }
    }

    fn offered(&self) -> u64 {
        self.device.features() | VERSION_1 | INDIRECT_DESC | EVENT_IDX
    }

    /// Writes to the selected queue's registers. A queue in use cannot be moved: only taking it out of use counts.
    fn write_queue(&mut self, offset: u64, value: u32) {
        if self.status & status::FEATURES_OK == 0 {
            return;
        }
        let Some(queue) = self.queues.get_mut(self.queue_select as usize) else { return };
        let queue = queue.registers();
        if offset == register::QUEUE_READY {
            if value == 1 {
                queue.set_ready(true);
            } else {
                // One that the driver takes back is not looked at any more, and starts over when it is set up again.
                let event_idx = queue.event_idx_enabled();
                queue.reset();
                queue.set_event_idx(event_idx);
            }
            return;
        }
        if queue.ready() {
            return;
        }
        match offset {
            // Sizes that are no size leave the queue as it is, as `set_size` does with those beyond the maximum.
            register::QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            register::QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            register::QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            register::QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
            register::QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
            register::QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
            register::QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }
}

impl Registers for Transport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= register::CONFIG {
            data.fill(0);
            let state = self.state();
            let rest = state.device.config().get((offset - register::CONFIG) as usize..).unwrap_or(&[]);
            let length = rest.len().min(data.len());
            data[..length].copy_from_slice(&rest[..length]);
        } else if let (Ok(data), true) = (<&mut [u8; 4]>::try_from(&mut *data), offset.is_multiple_of(4)) {
            *data = self.read_register(offset).to_le_bytes();
        } else {
            // Registers are 32 bits wide and read as such.
            data.fill(0);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset >= register::CONFIG {
            let mut state = self.state();
            if state.status & status::DRIVER != 0 {
                state.device.write_config(offset - register::CONFIG, data);
            }
        } else if let (Ok(data), true) = (<[u8; 4]>::try_from(data), offset.is_multiple_of(4)) {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }
}

impl Subscriber for Transport {
    fn ready(&self, token: u32, events: EventSet) {
        let mut state = self.state();
        let queue = (token & !KICK) as usize;
        let over = state.resetting > 0 || state.status & status::NEEDS_RESET != 0;
        match self.kicks.get(queue).filter(|_| token & KICK != 0) {
            Some(kick) => {
                let _ = kick.read();
                state.kicked += 1;
                if !over {
                    self.operate(&mut state, |device, io| device.kicked(queue, io));
                }
            }
            None if over => {
                state.device.settle();
                if state.resetting > 0 && state.device.is_idle() {
                    self.idle.notify_all();
                }
            }
            None => self.operate(&mut state, |device, io| device.ready(token, events, io)),
        }
    }

    fn over(&self) {
        self.state().device.finish();
        self.idle.notify_all();
    }
}

#[cfg(test)]
mod tests;
