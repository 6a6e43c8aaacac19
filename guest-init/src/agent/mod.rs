//! The agent: serves the API's calls over many connections at once, none waiting for another.
//!
//! One thread, no blocking: a call that cannot be answered yet is parked where its answer will come from (a
//! read at the stream, a wait at the process) and answered from there. The machine is behind [`System`], so
//! all of this runs on the host with a machine in memory.

mod calls;
pub mod connection;
mod container;
mod errands;
mod keeper;
mod lifecycle;
mod memory;
mod process;
mod streams;
mod system;
#[cfg(test)]
mod tests;

use connection::{Connection, Incoming};
use container::Container;
use errands::Errand;
use keeper::{KEEPER, Keeper};
use process::{Caller, Channel, Process};
use streams::no_process;

pub use calls::{VERSION, decode};
pub use container::check_id;
pub use system::{Created, Frozen, Mounted, Sandbox, Started, StreamId, System, Which};

use crate::prelude::*;

/// Bytes read from a stream at once, and so the most that one `ReadStdout` answers.
const CHUNK: usize = 64 << 10;

/// Reads from one client in one turn, so that a talkative one leaves room for the others.
const TURNS: usize = 8;

/// What a stream is to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    Client,
    /// Of a child on an errand.
    Errand,
    /// Of what happens to a container's memory.
    Memory(String),
    /// Of the holder of a container.
    SetUp(String),
    /// Of a process.
    Start(ProcessKey),
    Input(ProcessKey),
    Output(ProcessKey, Channel),
}

/// A process, by the id of its container and its key in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProcessKey {
    container: String,
    process: String,
}

/// The agent.
pub struct Agent<S: System> {
    /// The machine.
    pub system: S,
    sandbox: Option<Sandbox>,
    containers: Table<String, Container<S::Container>>,
    clients: Table<StreamId, Connection>,
    roles: Table<StreamId, Role>,
    errands: Table<StreamId, Errand>,
    /// What keeps services running: some where this is an appliance, else none.
    keeper: Keeper,
    /// Where storages of the sandbox are mounted, in order.
    shared_mounts: Vec<String>,
    memory_events: memory::Events,
    /// Clients that have more to say than one turn allows.
    unheard: Vec<StreamId>,
    /// Whether a client has made room, so that reads parked for its sake can go on.
    room: bool,
    ending: bool,
    chunk: Vec<u8>,
}

/// An answer, or `None` when the call is parked and answered later.
type Outcome = Result<Option<Vec<u8>>>;

fn process_of<'a, C>(
    containers: &'a mut Table<String, Container<C>>,
    key: &ProcessKey,
) -> Option<&'a mut Process> {
    containers.get_mut(&key.container)?.processes.get_mut(&key.process)
}

impl<S: System> Agent<S> {
    /// An agent without a sandbox.
    pub fn new(system: S) -> Agent<S> {
        Agent {
            system,
            sandbox: None,
            containers: Table::default(),
            clients: Table::default(),
            roles: Table::default(),
            errands: Table::default(),
            keeper: Keeper::default(),
            shared_mounts: Vec::new(),
            memory_events: memory::Events::default(),
            unheard: Vec::new(),
            room: false,
            ending: false,
            chunk: alloc::vec![0; CHUNK],
        }
    }

    /// Whether the sandbox was destroyed: its answer is sent as far as the client took it, and nothing is left
    /// to do but to end the machine.
    pub fn is_ending(&self) -> bool {
        self.ending
    }

    /// A client has come.
    pub fn connected(&mut self, stream: StreamId) {
        self.clients.insert(stream, Connection::default());
        self.roles.insert(stream, Role::Client);
        self.hear(stream);
    }

    /// A client is gone: what it waited for is forgotten, and nothing else changes.
    pub fn disconnected(&mut self, stream: StreamId) {
        if self.clients.remove(&stream).is_none() {
            return;
        }
        self.roles.remove(&stream);
        self.unheard.retain(|unheard| *unheard != stream);
        for (_, container) in self.containers.iter_mut() {
            container.removers.retain(|(caller, _)| caller.connection != stream);
            for (_, process) in container.processes.iter_mut() {
                process.waiters.retain(|caller| caller.connection != stream);
                for output in &mut process.outputs {
                    output.readers.retain(|(caller, _)| caller.connection != stream);
                }
            }
        }
        self.memory_events.callers.retain(|caller| caller.connection != stream);
        let is_its = |errand: &Errand| errand.caller.connection == stream;
        let errands: Vec<StreamId> =
            self.errands.iter().filter(|(_, errand)| is_its(errand)).map(|(id, _)| *id).collect();
        for errand in errands {
            self.give_up_errand(errand);
        }
        self.forget_keeper_s(stream);
        self.system.close(stream);
    }

    /// Something changed about a stream.
    pub fn ready(&mut self, stream: StreamId) {
        match self.roles.get(&stream).cloned() {
            Some(Role::Client) => {
                self.send(stream);
                self.hear(stream);
            }
            Some(Role::Errand) => self.child_reported(stream),
            Some(Role::Memory(id)) => self.memory_changed(&id),
            Some(Role::SetUp(id)) => self.set_up_reported(&id),
            Some(Role::Start(key)) => self.start_reported(&key),
            Some(Role::Input(key)) => self.pump_input(&key),
            Some(Role::Output(key, channel)) => self.pump_output(&key, channel),
            // Closed since the event was made.
            None => {}
        }
    }

    /// Goes on with what is not tied to an event. Returns in how many milliseconds it wants to be called again;
    /// `None` for whenever something happens.
    pub fn tick(&mut self) -> Option<u32> {
        if core::mem::take(&mut self.room) {
            self.pump_waiting_outputs();
        }
        for stream in core::mem::take(&mut self.unheard) {
            self.hear(stream);
        }
        let mounts = self.retry_mounts();
        let removals = self.give_up_removals();
        let services = self.keep_services();
        if !self.unheard.is_empty() || self.room {
            return Some(0);
        }
        let until = |deadline: u64| deadline.saturating_sub(self.system.now()).try_into().unwrap_or(u32::MAX);
        let deadline = [removals, services].into_iter().flatten().min().map(until);
        [mounts, deadline].into_iter().flatten().min()
    }

    /// Reads what a client says, and does it.
    fn hear(&mut self, stream: StreamId) {
        for _ in 0..TURNS {
            let Some(client) = self.clients.get_mut(&stream) else { return };
            if !client.has_room() {
                // Sending goes on when the client takes something, and hearing after it.
                return;
            }
            match self.system.read(stream, &mut self.chunk) {
                Err(Errno::EAGAIN) => return,
                Ok(length) if length > 0 && client.feed(&self.chunk[..length]) => {}
                // The end, a broken connection, or no memory for what it says.
                Ok(_) | Err(_) => return self.disconnected(stream),
            }
            while let Some(incoming) = self.clients.get_mut(&stream).and_then(Connection::take_message) {
                match incoming {
                    Incoming::Nonsense => return self.disconnected(stream),
                    Incoming::Refused(stream_id, fault) => {
                        if let Some(client) = self.clients.get_mut(&stream) {
                            client.refuse(stream_id, Err(fault));
                        }
                    }
                    Incoming::Call(stream_id, request) => {
                        let caller = Caller { connection: stream, stream_id };
                        if let Some(answer) = self.call(caller, &request).transpose() {
                            self.queue(caller, answer);
                        }
                    }
                }
            }
            self.send(stream);
        }
        self.hear_later(stream);
    }

    fn hear_later(&mut self, stream: StreamId) {
        if !self.unheard.contains(&stream) {
            self.unheard.push(stream);
        }
    }

    /// Puts an answer where its client will get it.
    fn queue(&mut self, caller: Caller, answer: Result<Vec<u8>>) {
        if caller.connection == KEEPER {
            return self.keep_answer(caller.stream_id, answer);
        }
        if let Some(client) = self.clients.get_mut(&caller.connection) {
            client.answer(caller.stream_id, answer);
        }
    }

    /// Answers a parked call.
    fn answer(&mut self, caller: Caller, answer: Result<Vec<u8>>) {
        self.queue(caller, answer);
        self.send(caller.connection);
    }

    fn answer_all(&mut self, callers: Vec<Caller>, answer: Result<Vec<u8>>) {
        for caller in callers {
            self.answer(caller, answer.clone());
        }
    }

    /// Sends what a client takes.
    fn send(&mut self, stream: StreamId) {
        let Some(client) = self.clients.get_mut(&stream) else { return };
        let had_room = client.has_room();
        while !client.to_send().is_empty() {
            match self.system.write(stream, client.to_send()) {
                Err(Errno::EAGAIN) => break,
                Ok(length) if length > 0 => client.mark_sent(length),
                Ok(_) | Err(_) => return self.disconnected(stream),
            }
        }
        if !had_room && client.has_room() {
            self.room = true;
            self.hear_later(stream);
        }
    }

    fn process(&mut self, key: &ProcessKey) -> Option<&mut Process> {
        process_of(&mut self.containers, key)
    }

    fn known_process(&mut self, key: &ProcessKey) -> Result<&mut Process> {
        self.process(key).ok_or_else(|| no_process(key))
    }

    /// Gives streams up.
    fn close(&mut self, streams: impl IntoIterator<Item = StreamId>) {
        for stream in streams {
            if self.roles.remove(&stream).is_some() {
                self.system.close(stream);
            }
        }
    }
}
