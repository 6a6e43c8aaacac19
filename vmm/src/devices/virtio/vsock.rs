//! virtio-vsock: stream sockets between guest and host, on the host as Unix sockets. Specification, section 5.10.
//!
//! A host program connects to the device's socket, writes `CONNECT <port>\n` and reads `OK <port>\n` once the guest has
//! accepted; from then on it talks to that port of the guest. A guest that connects to port N of the host (CID 2) reaches
//! whoever listens on `<socket>_<N>`. Both directions have flow control, and either end can close its half.

mod connection;
mod packet;
mod run;

use super::{Chain, Device, Fault, Io};
use crate::backends::unix;
use crate::devices::reactor::{EventSet, Poller};
use connection::{Connection, Greeting, Stage, Verdict};
use packet::{HEADER, HOST_CID, Header, Operation, Ports, STREAM};
use run::{Run, Storage};
use std::collections::{HashMap, VecDeque};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{fs, io};
use vm_memory::ByteValued;

/// The device type.
const ID: u32 = 19;
/// Receive (to the guest), transmit (from it) and event queue.
const QUEUES: &[u16] = &[128, 128, 8];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// The listener's token; connections have the others.
const LISTENER: u32 = 0;
/// Tokens stay below the bit that marks a queue's kick.
const TOKENS: u32 = 1 << 31;
/// More connections than any guest should need, and fewer than descriptors of most hosts.
const MAX_CONNECTIONS: usize = 4096;
/// How many refusals wait for a buffer before the guest is no longer listened to.
const MAX_RESETS: usize = 256;
/// The first of the ports that host programs get, out of the way of those that are used by convention.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// A vsock device.
pub struct Vsock {
    cid: [u8; 8],
    /// The only user, besides root, who may connect to the socket.
    owner: u32,
    socket: PathBuf,
    listener: UnixListener,
    connections: HashMap<u32, Connection>,
    by_ports: HashMap<Ports, u32>,
    next_token: u32,
    next_port: u32,
    /// Those that have something for the guest, in turn.
    ready: VecDeque<u32>,
    /// Refusals for the guest.
    resets: VecDeque<Ports>,
    /// The transmit queue waits until refusals have gone out.
    stalled: bool,
    /// The listener waits for descriptors.
    starved: bool,
    /// What data on its way from the guest is described in.
    storage: Storage,
}

impl Vsock {
    /// A device for a guest with context id `cid`, whose socket is made at `socket`. The socket file must not exist.
    pub fn new(cid: u64, socket: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&socket)?;
        // The guest is as open as this socket: nobody else's business.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            cid: cid.to_le_bytes(),
            // SAFETY: takes nothing.
            owner: unsafe { libc::geteuid() },
            socket,
            listener,
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            next_token: LISTENER,
            next_port: FIRST_HOST_PORT,
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            stalled: false,
            starved: false,
            storage: Storage::default(),
        })
    }

    fn guest_cid(&self) -> u64 {
        u64::from_le_bytes(self.cid)
    }

    /// Accepts whoever waits at the socket.
    fn accept(&mut self, poller: &Poller) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: there may be one for those who wait when a connection has ended.
                    self.starved = error.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            };
            // Root may do everything anyway.
            let known = unix::peer_uid(&stream).is_ok_and(|uid| uid == self.owner || uid == 0);
            if known && self.connections.len() < MAX_CONNECTIONS {
                let ports = Ports { guest: 0, host: 0 };
                let connection = Connection::new(stream, Stage::Greeting(Vec::new()), ports);
                if let Some(token) = self.insert(connection, poller) {
                    self.greet(token, poller);
                }
            }
        }
    }

    /// Takes a connection up and waits for its socket from now on; changes are told once each.
    fn insert(&mut self, connection: Connection, poller: &Poller) -> Option<u32> {
        connection.stream.set_nonblocking(true).ok()?;
        loop {
            self.next_token = (self.next_token + 1) % TOKENS;
            if self.next_token != LISTENER && !self.connections.contains_key(&self.next_token) {
                break;
            }
        }
        let token = self.next_token;
        let interest = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        poller.add(&connection.stream, token, interest).ok()?;
        self.connections.insert(token, connection);
        Some(token)
    }

    /// Reads a host program's greeting on, and asks the guest when it is complete.
    fn greet(&mut self, token: u32, poller: &Poller) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.read_greeting() {
            Greeting::Incomplete => {}
            Greeting::Wrong => self.remove(token, poller),
            Greeting::Port(guest) => {
                let ports = loop {
                    let ports = Ports { guest, host: self.next_port };
                    self.next_port = self.next_port.wrapping_add(1).max(FIRST_HOST_PORT);
                    if !self.by_ports.contains_key(&ports) {
                        break ports;
                    }
                };
                connection.ports = ports;
                connection.request();
                self.by_ports.insert(ports, token);
                self.list(token);
            }
        }
    }

    /// Puts a connection in the list of those that have something for the guest, if it has.
    fn list(&mut self, token: u32) {
        if let Some(connection) = self.connections.get_mut(&token)
            && !connection.listed
            && connection.has_packet()
        {
            connection.listed = true;
            self.ready.push_back(token);
        }
    }

    fn remove(&mut self, token: u32, poller: &Poller) {
        if let Some(connection) = self.connections.remove(&token) {
            let _ = poller.remove(&connection.stream);
            if self.by_ports.get(&connection.ports) == Some(&token) {
                self.by_ports.remove(&connection.ports);
            }
        }
    }

    fn judge(&mut self, token: u32, verdict: Verdict, poller: &Poller) {
        match verdict {
            Verdict::Keep => {
                // The name of one that only drains is free for a new one.
                if let Some(connection) = self.connections.get(&token)
                    && connection.stage == Stage::Draining
                    && self.by_ports.get(&connection.ports) == Some(&token)
                {
                    self.by_ports.remove(&connection.ports);
                }
                self.list(token);
            }
            Verdict::Reset => {
                if let Some(connection) = self.connections.get(&token) {
                    self.resets.push_back(connection.ports);
                }
                self.remove(token, poller);
            }
            Verdict::Drop => self.remove(token, poller),
        }
    }

    /// Deals with one packet from the guest, or keeps it in the run that it goes on.
    fn receive<'a>(&mut self, mut chain: Chain<'a>, run: &mut Run<'a>, io: &mut Io<'a>) -> Result<(), Fault> {
        let header: Header = chain.read()?;
        if u64::from(header.length) > chain.readable_bytes() {
            return Err(Fault("a vsock packet is shorter than its header says"));
        }
        chain.truncate_readable(header.length.into());
        let ports = Ports { guest: header.source_port, host: header.destination_port };
        let operation = Operation::parse(header.operation);
        let understood =
            { header.kind } == STREAM && { header.destination_cid } == HOST_CID && { header.source_cid }
                == self.guest_cid();
        let token = self.by_ports.get(&ports).copied().filter(|_| understood);
        if let (Some(Operation::Data), Some(token)) = (operation, token)
            && let Some(connection) = self.connections.get_mut(&token)
            && run.takes(token, &chain)
            && connection.may_send(run.bytes() + chain.readable_bytes())
        {
            connection.take_credit(&header);
            run.add(token, chain, &mut io.queues[TRANSMIT]);
            return Ok(());
        }
        self.pass_on(run, io)?;
        match (operation, token) {
            (Some(operation), Some(token)) => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    let verdict = connection.receive(operation, &header, &chain);
                    self.judge(token, verdict, io.poller);
                }
            }
            (Some(Operation::Reset), None) => {}
            (Some(Operation::Request), None) if understood => self.connect(ports, &header, io.poller),
            (_, None) => self.resets.push_back(ports),
            (None, Some(token)) => self.judge(token, Verdict::Reset, io.poller),
        }
        io.push(TRANSMIT, chain, 0)
    }

    /// Sends a run of data to its connection's socket, and gives the guest its buffers back.
    fn pass_on<'a>(&mut self, run: &mut Run<'a>, io: &mut Io<'a>) -> Result<(), Fault> {
        if let Some(token) = run.token()
            && let Some(connection) = self.connections.get_mut(&token)
        {
            let verdict = connection.forward(run.data());
            self.judge(token, verdict, io.poller);
        }
        run.give_back(&mut io.queues[TRANSMIT], io.memory)
    }

    /// The guest wants to reach a port of the host.
    fn connect(&mut self, ports: Ports, header: &Header, poller: &Poller) {
        let mut path = self.socket.clone().into_os_string();
        path.push(format!("_{}", ports.host));
        let token = match unix::connect(Path::new(&path)) {
            Ok(stream) if self.connections.len() < MAX_CONNECTIONS => {
                let mut connection = Connection::new(stream, Stage::Established, ports);
                connection.respond(header);
                self.insert(connection, poller)
            }
            _ => None,
        };
        match token {
            Some(token) => {
                self.by_ports.insert(ports, token);
                self.list(token);
            }
            None => self.resets.push_back(ports),
        }
    }

    /// Takes packets from the guest, as long as there is room for the refusals they may cause.
    fn transmit(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        let mut run = Run::new(&mut self.storage);
        loop {
            io.queues[TRANSMIT].suppress_kicks(io.memory)?;
            loop {
                self.stalled = self.resets.len() >= MAX_RESETS;
                if self.stalled {
                    break;
                }
                let Some(chain) = io.pop(TRANSMIT)? else { break };
                self.receive(chain, &mut run, io)?;
            }
            self.pass_on(&mut run, io)?;
            if self.stalled || !io.queues[TRANSMIT].ask_for_kicks(io.memory)? {
                break;
            }
        }
        self.storage.keep(run);
        io.notify(TRANSMIT)
    }

    /// Gives packets to the guest, as long as it has buffers for them.
    fn deliver(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        while !self.resets.is_empty() || !self.ready.is_empty() {
            let Some(chain) = io.pop(RECEIVE)? else {
                if io.queues[RECEIVE].ask_for_kicks(io.memory)? {
                    continue;
                }
                break;
            };
            if chain.writable_bytes() < HEADER as u64 {
                return Err(Fault("a vsock buffer has no room for a header"));
            }
            match self.next_packet(&chain) {
                Some(length) => io.push(RECEIVE, chain, length)?,
                None => io.undo_pop(RECEIVE, chain),
            }
        }
        io.notify(RECEIVE)
    }

    /// Makes the next packet for the guest; none if the one whose turn it was had nothing after all.
    fn next_packet(&mut self, chain: &Chain<'_>) -> Option<u32> {
        if let Some(ports) = self.resets.pop_front() {
            let header = Header {
                source_cid: HOST_CID,
                destination_cid: self.guest_cid(),
                source_port: ports.host,
                destination_port: ports.guest,
                kind: STREAM,
                operation: Operation::Reset as u16,
                ..Header::default()
            };
            chain.write_at(0, header.as_slice());
            return Some(HEADER as u32);
        }
        let cid = self.guest_cid();
        let token = self.ready.pop_front()?;
        let connection = self.connections.get_mut(&token)?;
        connection.listed = false;
        let length = connection.next_packet(cid, chain);
        self.list(token);
        length
    }

    /// Moves packets both ways until neither can go on.
    fn exchange(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        if self.starved {
            self.accept(io.poller);
        }
        loop {
            self.deliver(io)?;
            if !self.stalled || self.resets.len() >= MAX_RESETS {
                return Ok(());
            }
            self.transmit(io)?;
        }
    }
}

impl Device for Vsock {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        QUEUES
    }

    fn config(&self) -> &[u8] {
        &self.cid
    }

    fn activate(&mut self, _: u64, io: &mut Io<'_>) -> Result<(), Fault> {
        // Whoever connected before has waited at the listener until now.
        let interest = EventSet::IN | EventSet::EDGE_TRIGGERED;
        io.poller.add(&self.listener, LISTENER, interest).map_err(|_| Fault("the host is out of descriptors"))
    }

    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        if queue == TRANSMIT {
            self.transmit(io)?;
        }
        self.exchange(io)
    }

    fn ready(&mut self, token: u32, events: EventSet, io: &mut Io<'_>) -> Result<(), Fault> {
        if token == LISTENER {
            self.accept(io.poller);
        } else if let Some(connection) = self.connections.get_mut(&token) {
            let ends = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
            let readable = events.intersects(EventSet::IN | ends);
            let hung_up = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
            match connection.stage {
                Stage::Greeting(_) => self.greet(token, io.poller),
                _ => {
                    let verdict = connection.stirred(readable, hung_up);
                    self.judge(token, verdict, io.poller);
                }
            }
        }
        self.exchange(io)
    }

    fn reset(&mut self, poller: &Poller) {
        let _ = poller.remove(&self.listener);
        for connection in self.connections.values() {
            let _ = poller.remove(&connection.stream);
        }
        self.connections.clear();
        self.by_ports.clear();
        self.ready.clear();
        self.resets.clear();
        self.stalled = false;
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

#[cfg(test)]
mod tests;
