//! virtio-console: ports to and from files of the host. Specification, section 5.3.
//!
//! The first port is a console in any case, to drivers that know of one alone as well. With several, what they are and
//! when they are open is told by messages in two queues of their own.

mod line;

use super::{Device, Fault, Io};
use crate::devices::reactor::{EventSet, Poller};
use line::Line;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::ByteValued;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The device type.
const ID: u32 = 3;
/// The most ports.
pub const MAX_PORTS: usize = 8;
/// A receive and a transmit queue for each port, and for the messages about them.
const QUEUES: &[u16] = &[64; 2 * MAX_PORTS + 2];
/// The messages' queues: to the driver and from it.
const TO_DRIVER: usize = 2;
const FROM_DRIVER: usize = 3;
/// The token of a new size; an input's is its port's number.
const RESIZE: u32 = MAX_PORTS as u32;
/// Where in the configuration space a byte for the first port's output may be written.
const EMERGENCY: u64 = 8;
/// How many messages wait for the driver's buffers before it is no longer listened to.
const MAX_PENDING: usize = 64;

/// Feature bits.
mod feature {
    pub const SIZE: u64 = 1 << 0;
    pub const MULTIPORT: u64 = 1 << 1;
    pub const EMERGENCY_WRITE: u64 = 1 << 2;
}

/// What messages say (specification, section 5.3.6.2).
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const DEVICE_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const RESIZE: u16 = 5;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// A message about a port.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Message {
    port: u32,
    event: u16,
    value: u16,
}

// SAFETY: plain integers without padding.
unsafe impl ByteValued for Message {}

/// The configuration space (specification, section 5.3.4).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Config {
    columns: u16,
    rows: u16,
    max_ports: u32,
    emergency: u32,
}

// SAFETY: plain integers without padding.
unsafe impl ByteValued for Config {}

/// A port to be made.
#[derive(Debug)]
pub struct PortConfig {
    /// What the guest finds it by, where it has several: `/sys/class/virtio-ports/*/name` in Linux.
    pub name: String,
    /// Whether it is a console, with a size, and not only a way for bytes. The first one always is.
    pub is_console: bool,
    /// Where the guest's input comes from, if anywhere. Its end is not passed on.
    pub input: Option<File>,
    /// Where the guest's output goes.
    pub output: File,
}

/// The size of the consoles' window, which may be changed from any thread.
#[derive(Clone, Debug)]
pub struct Size(Arc<(AtomicU32, EventFd)>);

impl Size {
    /// A size that nobody has said anything of: 0 by 0.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new((AtomicU32::new(0), EventFd::new(EFD_NONBLOCK)?))))
    }

    /// Changes it, in characters.
    pub fn set(&self, columns: u16, rows: u16) {
        let (size, changed) = &*self.0;
        size.store(u32::from(columns) << 16 | u32::from(rows), Ordering::Release);
        // The counter is far from its end, so this does not fail.
        let _ = changed.write(1);
    }

    /// Columns and rows.
    fn get(&self) -> (u16, u16) {
        let size = self.0.0.load(Ordering::Acquire);
        ((size >> 16) as u16, size as u16)
    }
}

/// A console, or several.
pub struct Console {
    lines: Vec<Line>,
    size: Size,
    config: Config,
    /// Whether the driver knows of several ports.
    multiport: bool,
    /// Messages for the driver, in order, each with what follows it.
    pending: VecDeque<(Message, Vec<u8>)>,
}

/// The queues of a port: receive and transmit.
fn queues_of(port: usize) -> (usize, usize) {
    match port {
        0 => (0, 1),
        port => (2 * port + 2, 2 * port + 3),
    }
}

impl Console {
    /// A device with these ports, 1 to [`MAX_PORTS`].
    pub fn new(ports: Vec<PortConfig>, size: Size) -> io::Result<Self> {
        if ports.is_empty() || ports.len() > MAX_PORTS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a console has 1 to 8 ports"));
        }
        let lines: Vec<Line> = ports
            .into_iter()
            .enumerate()
            .map(|(number, mut port)| {
                let (receive, transmit) = queues_of(number);
                port.is_console |= number == 0;
                Line::new(port, receive, transmit, number as u32)
            })
            .collect();
        let (columns, rows) = size.get();
        let config = Config { columns, rows, max_ports: lines.len() as u32, emergency: 0 };
        Ok(Self { lines, size, config, multiport: false, pending: VecDeque::new() })
    }

    fn say(&mut self, port: usize, event: u16, value: u16, rest: &[u8]) {
        self.pending.push_back((Message { port: port as u32, event, value }, rest.to_vec()));
    }

    fn say_size(&mut self, port: usize) {
        // Columns first, as the specification has it, and as Linux 6.15, 6.16 and 6.12 from its 66th release on read them.
        // Others of its versions, before and since, take them for rows.
        let size = [self.config.columns.to_le_bytes(), self.config.rows.to_le_bytes()].concat();
        self.say(port, event::RESIZE, 0, &size);
    }

    /// Deals with a message of the driver's.
    fn hear(&mut self, message: Message, poller: &Poller) {
        let port = message.port as usize;
        if message.event == event::DEVICE_READY && message.value == 1 {
            (0..self.lines.len()).for_each(|port| self.say(port, event::DEVICE_ADD, 1, &[]));
        }
        let Some(line) = self.lines.get_mut(port) else { return };
        match (message.event, message.value) {
            (event::PORT_READY, 1) => {
                let (name, is_console) = (line.name.clone(), line.is_console);
                if is_console {
                    self.say(port, event::CONSOLE_PORT, 1, &[]);
                    self.say_size(port);
                }
                self.say(port, event::PORT_NAME, 1, name.as_bytes());
                self.say(port, event::PORT_OPEN, 1, &[]);
            }
            (event::PORT_OPEN, 0) => line.close(poller),
            (event::PORT_OPEN, _) => line.open(poller),
            _ => {}
        }
    }

    /// Passes messages both ways until neither end can go on. The driver is listened to as long as there is room for what it
    /// may be answered.
    fn converse(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        loop {
            self.tell(io)?;
            io.queues[FROM_DRIVER].suppress_kicks(io.memory)?;
            let mut heard = false;
            while self.pending.len() < MAX_PENDING
                && let Some(mut chain) = io.pop(FROM_DRIVER)?
            {
                let message = chain.read()?;
                self.hear(message, io.poller);
                io.push(FROM_DRIVER, chain, 0)?;
                heard = true;
            }
            io.notify(FROM_DRIVER)?;
            if self.pending.len() >= MAX_PENDING && !heard {
                return Ok(());
            }
            if !heard && !io.queues[FROM_DRIVER].ask_for_kicks(io.memory)? {
                return Ok(());
            }
        }
    }

    /// Gives the driver the messages that it has buffers for.
    fn tell(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        while let Some((message, rest)) = self.pending.front() {
            io.queues[TO_DRIVER].suppress_kicks(io.memory)?;
            let Some(chain) = io.pop(TO_DRIVER)? else {
                if io.queues[TO_DRIVER].ask_for_kicks(io.memory)? {
                    continue;
                }
                break;
            };
            let bytes = [message.as_slice(), rest].concat();
            // What does not fit is cut off: a driver's buffers are a page.
            let written = chain.write_at(0, &bytes);
            io.push(TO_DRIVER, chain, written as u32)?;
            self.pending.pop_front();
        }
        io.notify(TO_DRIVER)
    }

    /// The window has another size.
    fn resized(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        let _ = self.size.0.1.read();
        (self.config.columns, self.config.rows) = self.size.get();
        io.interrupt.config_changed();
        if !self.multiport {
            return Ok(());
        }
        // Of sizes that nobody has taken yet, the last one is enough.
        self.pending.retain(|(message, _)| message.event != event::RESIZE);
        for port in (0..self.lines.len()).filter(|port| self.lines[*port].is_console).collect::<Vec<_>>() {
            self.say_size(port);
        }
        self.tell(io)
    }
}

impl Device for Console {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        match self.lines.len() {
            1 => &QUEUES[..2],
            several => &QUEUES[..2 * several + 2],
        }
    }

    fn features(&self) -> u64 {
        let several = if self.lines.len() > 1 { feature::MULTIPORT } else { 0 };
        feature::SIZE | feature::EMERGENCY_WRITE | several
    }

    fn config(&self) -> &[u8] {
        self.config.as_slice()
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (EMERGENCY, [byte, ..]) = (offset, data) {
            self.lines[0].write_byte(*byte);
        }
    }

    fn activate(&mut self, features: u64, io: &mut Io<'_>) -> Result<(), Fault> {
        self.multiport = features & feature::MULTIPORT != 0;
        if !self.multiport {
            self.lines[0].open(io.poller);
        }
        (self.config.columns, self.config.rows) = self.size.get();
        io.poller
            .add(&self.size.0.1, RESIZE, EventSet::IN)
            .map_err(|_| Fault("the host is out of descriptors"))
    }

    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        match queue {
            TO_DRIVER | FROM_DRIVER if self.multiport => return self.converse(io),
            TO_DRIVER | FROM_DRIVER => return Ok(()),
            _ => {}
        }
        let Some(port) = (0..self.lines.len()).find(|port| queues_of(*port).0 == queue & !1) else {
            return Ok(());
        };
        match queue & 1 {
            0 => self.lines[port].has_buffers(io),
            _ => self.lines[port].transmit(io),
        }
    }

    fn ready(&mut self, token: u32, _: EventSet, io: &mut Io<'_>) -> Result<(), Fault> {
        match self.lines.get_mut(token as usize) {
            Some(line) => line.receive(io),
            None => self.resized(io),
        }
    }

    fn reset(&mut self, poller: &Poller) {
        self.lines.iter_mut().for_each(|line| line.close(poller));
        let _ = poller.remove(&self.size.0.1);
        self.pending.clear();
        self.multiport = false;
    }
}

#[cfg(test)]
mod tests;
