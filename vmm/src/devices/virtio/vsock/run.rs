//! Data packets of one connection that come one after the other: they go to its socket with one system call.

use crate::backends::scatter::BATCH;
use crate::devices::virtio::queue::Spare;
use crate::devices::virtio::{Chain, Fault, Memory, Virtqueue};
use vm_memory::VolatileSlice;

/// What runs are described in, kept from one to the next so that none allocates.
#[derive(Default)]
pub(super) struct Storage {
    data: Spare,
    heads: Vec<u16>,
}

impl Storage {
    /// Keeps the storage of a run that has been given back.
    pub(super) fn keep(&mut self, run: Run<'_>) {
        self.data.keep(run.data);
        self.heads = run.heads;
    }
}

/// A run of data packets. The guest gets their buffers back when the data has left its memory.
pub(super) struct Run<'a> {
    token: u32,
    data: Vec<VolatileSlice<'a>>,
    bytes: u64,
    /// The requests that the packets were.
    heads: Vec<u16>,
}

impl<'a> Run<'a> {
    pub(super) fn new(storage: &mut Storage) -> Self {
        let heads = std::mem::take(&mut storage.heads);
        Self { token: 0, data: storage.data.take(), bytes: 0, heads }
    }

    /// Whose data it is; nobody's while it is empty.
    pub(super) fn token(&self) -> Option<u32> {
        (!self.heads.is_empty()).then_some(self.token)
    }

    pub(super) fn data(&self) -> &[VolatileSlice<'a>] {
        &self.data
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a connection's packet can go out together with what is here already.
    pub(super) fn takes(&self, token: u32, packet: &Chain<'_>) -> bool {
        let same = self.token().is_none_or(|own| own == token);
        // A driver that publishes empty packets for ever must not make this grow.
        same && self.heads.len() < BATCH && self.data.len() + packet.readable().len() <= BATCH
    }

    /// Adds a packet, whose data is what is left to read of it.
    pub(super) fn add(&mut self, token: u32, packet: Chain<'a>, queue: &mut Virtqueue) {
        self.token = token;
        self.bytes += packet.readable_bytes();
        self.data.extend_from_slice(packet.readable());
        self.heads.push(queue.release(packet));
    }

    /// Gives the requests back, and is empty again.
    pub(super) fn give_back(&mut self, queue: &mut Virtqueue, memory: &Memory) -> Result<(), Fault> {
        self.data.clear();
        self.bytes = 0;
        self.heads.drain(..).try_for_each(|head| queue.push_head(memory, head, 0))
    }
}
