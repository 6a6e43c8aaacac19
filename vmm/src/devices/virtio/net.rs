//! virtio-net: a network card over [`Port`]s, one for each pair of queues. Specification, section 5.1.
//!
//! Frames go through a buffer of the host's in both directions. What the guest sends is judged there, where the guest cannot
//! change it any more, and what it is sent waits there until it has given buffers for it.

mod gate;
mod receive;

use super::{Device, Fault, Io};
use crate::backends::net::rate::Rates;
use crate::backends::net::{HEADER, MAX_FRAME, Offloads, Port, filter};
use crate::devices::reactor::{EventSet, Poller};
use gate::Gate;
use receive::Incoming;
use std::io;
use vm_memory::{ByteValued, Bytes};

/// The device type.
const ID: u32 = 1;
/// The most pairs of queues.
pub const MAX_PAIRS: usize = 8;
const QUEUE_SIZE: u16 = 256;
/// Pairs of a receive and a transmit queue, and the control queue behind them where there are several.
const QUEUES: &[u16] = &[QUEUE_SIZE; 2 * MAX_PAIRS + 1];
/// The greatest MTU: an IP packet's greatest length, rounded down to a multiple of 16.
pub const MAX_MTU: u16 = 65520;
/// The least MTU that IPv4 knows of.
pub const MIN_MTU: u16 = 68;

/// The tokens of the two timers of a card with rate limits; a port's token is its pair's number.
const RECEIVE_TIMER: u32 = MAX_PAIRS as u32;
const TRANSMIT_TIMER: u32 = RECEIVE_TIMER + 1;

/// Feature bits.
mod feature {
    pub const CHECKSUM: u64 = 1 << 0;
    pub const GUEST_CHECKSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const MERGEABLE_BUFFERS: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CONTROL_QUEUE: u64 = 1 << 17;
    pub const SEVERAL_PAIRS: u64 = 1 << 22;
}

/// The control queue's only command: how many pairs the driver uses (specification, section 5.1.6.5.5).
const SET_PAIRS: [u8; 2] = [4, 0];
/// What its answers say.
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;

/// Status bit: there is a link.
const LINK_UP: u16 = 1;

/// The configuration space up to the MTU (specification, section 5.1.4).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Config {
    mac: [u8; 6],
    status: u16,
    max_pairs: u16,
    mtu: u16,
}

// SAFETY: plain integers; the fields add up to 12 bytes without padding.
unsafe impl ByteValued for Config {}

/// Told of the link's end, once, with the reason.
pub type OnLost = Box<dyn FnOnce(io::Error) + Send>;

/// One pair of queues with the port behind it.
struct Pair {
    port: Box<dyn Port>,
    incoming: Incoming,
    /// The port has no room for what the guest wants to send.
    stalled: bool,
    /// What the port is waited for, once the guest has given receive buffers for the first time.
    interest: Option<EventSet>,
}

/// A network card.
pub struct Net {
    config: Config,
    pairs: Vec<Pair>,
    /// How many of the pairs the driver uses.
    active: usize,
    outgoing: Vec<u8>,
    receive_gate: Gate,
    transmit_gate: Gate,
    mergeable: bool,
    /// What the ports have not yet been told of the driver's choice.
    offloads: Option<Offloads>,
    on_lost: Option<OnLost>,
}

/// The queue numbers of a pair.
fn receive_queue(pair: usize) -> usize {
    2 * pair
}

fn transmit_queue(pair: usize) -> usize {
    2 * pair + 1
}

impl Net {
    /// A card with the address `mac` over `ports`, of which there are 1 to [`MAX_PAIRS`]; `rates` hold for all of them
    /// together. The driver is told of `mtu`, which is between [`MIN_MTU`] and [`MAX_MTU`].
    pub fn new(
        mac: [u8; 6],
        mtu: u16,
        ports: Vec<Box<dyn Port>>,
        rates: Rates,
        on_lost: OnLost,
    ) -> io::Result<Self> {
        if ports.is_empty() || ports.len() > MAX_PAIRS || !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a network card has 1 to 8 pairs of queues and an MTU from 68 to 65520",
            ));
        }
        let pairs: Vec<_> = ports
            .into_iter()
            .map(|port| Pair { port, incoming: Incoming::new(), stalled: false, interest: None })
            .collect();
        let config = Config { mac, status: LINK_UP, max_pairs: pairs.len() as u16, mtu };
        Ok(Self {
            config,
            pairs,
            active: 1,
            outgoing: Vec::new(),
            receive_gate: Gate::new(rates.receive, RECEIVE_TIMER)?,
            transmit_gate: Gate::new(rates.transmit, TRANSMIT_TIMER)?,
            mergeable: false,
            offloads: None,
            on_lost: Some(on_lost),
        })
    }

    fn is_up(&self) -> bool {
        self.config.status & LINK_UP != 0
    }

    /// The link has ended, for good: the driver learns of it, and so does whoever asked for it.
    fn lose(&mut self, why: io::Error, io: &Io<'_>) {
        self.config.status &= !LINK_UP;
        self.stop_waiting(io.poller);
        io.interrupt.config_changed();
        if let Some(on_lost) = self.on_lost.take() {
            on_lost(why);
        }
    }

    fn stop_waiting(&mut self, poller: &Poller) {
        for pair in &mut self.pairs {
            if pair.interest.take().is_some() {
                let _ = poller.remove(&pair.port.fd());
            }
        }
        self.receive_gate.forget(poller);
        self.transmit_gate.forget(poller);
    }

    /// Tells the ports what the driver takes. Not done at activation, which is a vCPU's: its thread may not.
    fn apply_offloads(&mut self) {
        if let Some(offloads) = self.offloads.take() {
            self.apply_active();
            for pair in &mut self.pairs {
                // A port that cannot will send frames that every driver takes.
                let _ = pair.port.set_offloads(offloads);
            }
        }
    }

    /// Waits for what a pair needs now: frames unless one waits for buffers or all for the timer, and room if there was
    /// none.
    fn wait(&mut self, number: usize, poller: &Poller) -> Result<(), Fault> {
        let pair = &mut self.pairs[number];
        let wanted = |wanted, set| if wanted { set } else { EventSet::empty() };
        let takes = !pair.incoming.is_waiting() && !self.receive_gate.is_closed();
        let interest = wanted(takes, EventSet::IN) | wanted(pair.stalled, EventSet::OUT);
        let fd = pair.port.fd();
        let changed = match pair.interest {
            Some(old) if old == interest => Ok(()),
            Some(_) => poller.change(&fd, number as u32, interest),
            None => poller.add(&fd, number as u32, interest),
        };
        changed.map_err(|_| Fault("the host is out of descriptors"))?;
        pair.interest = Some(interest);
        Ok(())
    }

    /// Moves frames to the guest until there are none or it has no buffers for them.
    fn receive(&mut self, number: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        self.apply_offloads();
        let pair = &mut self.pairs[number];
        let queue = receive_queue(number);
        let gate = &mut self.receive_gate;
        match pair.incoming.deliver(&mut *pair.port, queue, self.mergeable, gate, io)? {
            Ok(()) => self.wait(number, io.poller)?,
            Err(error) => self.lose(error, io),
        }
        io.notify(queue)
    }

    /// Moves frames from the guest until it has none or the port has no room.
    fn transmit(&mut self, number: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        let queue = transmit_queue(number);
        self.outgoing.resize(MAX_FRAME, 0);
        loop {
            io.queues[queue].suppress_kicks(io.memory)?;
            loop {
                if !self.transmit_gate.lets_pass(io.poller)? {
                    return self.end_batch(number, io);
                }
                let Some(chain) = io.pop(queue)? else { break };
                // A frame longer than any is no frame.
                let length = chain.copy_readable(&mut self.outgoing).unwrap_or(0);
                match self.send(number, length) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        io.undo_pop(queue, chain);
                        self.pairs[number].stalled = true;
                        self.wait(number, io.poller)?;
                        return io.notify(queue);
                    }
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.lose(error, io),
                    // The port does not take this frame; it may take the next.
                    Err(_) => {}
                }
                self.transmit_gate.passed(length.saturating_sub(HEADER));
                io.push(queue, chain, 0)?;
            }
            if !io.queues[queue].ask_for_kicks(io.memory)? {
                return self.end_batch(number, io);
            }
        }
    }

    /// Has the port pass on what it was given, and the driver know of it.
    fn end_batch(&mut self, number: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        if self.is_up() {
            match self.pairs[number].port.flush() {
                Ok(true) => {}
                Ok(false) => {
                    self.pairs[number].stalled = true;
                    self.wait(number, io.poller)?;
                }
                Err(error) => self.lose(error, io),
            }
        }
        io.notify(transmit_queue(number))
    }

    /// Goes on with what the rate held up on its way to the guest.
    fn receive_again(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        self.receive_gate.open();
        for number in 0..self.active {
            if self.is_up() {
                self.receive(number, io)?;
            }
        }
        Ok(())
    }

    /// Goes on with what the rate held up on its way from the guest.
    fn transmit_again(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        self.transmit_gate.open();
        for number in 0..self.pairs.len() {
            if !self.pairs[number].stalled {
                self.transmit(number, io)?;
            }
        }
        Ok(())
    }

    /// Sends the first `length` bytes of the outgoing buffer, if they are a frame that the guest may send.
    fn send(&mut self, number: usize, length: usize) -> io::Result<()> {
        let frame = &self.outgoing[..length];
        match frame.split_first_chunk::<HEADER>() {
            Some((_, ethernet)) if self.is_up() && filter::allows(ethernet) => {
                self.pairs[number].port.send(frame)
            }
            _ => Ok(()),
        }
    }

    /// Answers the control queue.
    fn control(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        let (most, active) = (self.pairs.len(), &mut self.active);
        let before = *active;
        io.serve(queue, |chain| {
            let command: [u8; 2] = chain.read()?;
            let pairs = match command {
                SET_PAIRS => usize::from(u16::from_le_bytes(chain.read()?)),
                _ => 0,
            };
            let answer = if (1..=most).contains(&pairs) { ACCEPTED } else { REFUSED };
            if answer == ACCEPTED {
                *active = pairs;
            }
            chain
                .take_last_writable()?
                .write_obj(answer, 0)
                .map_err(|_| Fault("a command has no room for its answer"))?;
            Ok(1)
        })?;
        if self.active != before {
            self.apply_active();
            for number in 0..self.active {
                self.receive(number, io)?;
            }
        }
        Ok(())
    }

    /// Tells the ports which of them the driver uses: frames for the guest come through those alone.
    fn apply_active(&mut self) {
        for (number, pair) in self.pairs.iter_mut().enumerate() {
            // What arrives at a port that cannot be turned off is lost, as it would be without one.
            let _ = pair.port.set_active(number < self.active);
        }
    }
}

impl Device for Net {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        match self.pairs.len() {
            1 => &QUEUES[..2],
            several => &QUEUES[..2 * several + 1],
        }
    }

    fn features(&self) -> u64 {
        let mut features = feature::MTU | feature::MAC | feature::MERGEABLE_BUFFERS | feature::STATUS;
        if self.pairs.iter().all(|pair| pair.port.has_offloads()) {
            features |= feature::CHECKSUM | feature::HOST_TSO4 | feature::HOST_TSO6;
            features |= feature::GUEST_CHECKSUM | feature::GUEST_TSO4 | feature::GUEST_TSO6;
        }
        if self.pairs.len() > 1 {
            features |= feature::CONTROL_QUEUE | feature::SEVERAL_PAIRS;
        }
        features
    }

    fn config(&self) -> &[u8] {
        self.config.as_slice()
    }

    fn activate(&mut self, features: u64, _: &mut Io<'_>) -> Result<(), Fault> {
        let has = |bit| features & bit != 0;
        self.mergeable = has(feature::MERGEABLE_BUFFERS);
        // Uncut frames have no checksum.
        let checksum = has(feature::GUEST_CHECKSUM);
        self.offloads = Some(Offloads {
            checksum,
            tcp4: checksum && has(feature::GUEST_TSO4),
            tcp6: checksum && has(feature::GUEST_TSO6),
        });
        Ok(())
    }

    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        if queue == 2 * self.pairs.len() {
            return self.control(queue, io);
        }
        match (queue / 2, queue % 2) {
            (pair, 0) if self.is_up() && pair < self.active => self.receive(pair, io),
            // It waits for room already.
            (pair, 1) if !self.pairs[pair].stalled => self.transmit(pair, io),
            _ => Ok(()),
        }
    }

    fn ready(&mut self, token: u32, events: EventSet, io: &mut Io<'_>) -> Result<(), Fault> {
        match token {
            RECEIVE_TIMER if self.receive_gate.is_closed() => return self.receive_again(io),
            TRANSMIT_TIMER if self.transmit_gate.is_closed() => return self.transmit_again(io),
            _ => {}
        }
        let number = token as usize;
        // An event may be older than the link's end.
        let Some(pair) = self.pairs.get_mut(number).filter(|pair| pair.interest.is_some()) else {
            return Ok(());
        };
        if events != EventSet::OUT {
            pair.port.readable();
        }
        if pair.stalled && events.intersects(EventSet::OUT | EventSet::ERROR | EventSet::HANG_UP) {
            match pair.port.flush() {
                Ok(flushed) => pair.stalled = !flushed,
                Err(error) => {
                    self.lose(error, io);
                    return Ok(());
                }
            }
            if !self.pairs[number].stalled {
                self.transmit(number, io)?;
            }
        }
        match self.is_up() {
            true => self.receive(number, io),
            false => Ok(()),
        }
    }

    fn reset(&mut self, poller: &Poller) {
        self.stop_waiting(poller);
        for pair in &mut self.pairs {
            pair.stalled = false;
            pair.incoming.forget();
        }
        self.active = 1;
    }
}

#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "cli"))]
mod transfer_tests;
