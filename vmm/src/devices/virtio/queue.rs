//! Virtqueues as devices use them: requests come out with their buffers found and checked.
//!
//! The rings are `virtio-queue`'s. What this adds is that nothing a guest writes there is taken on trust or passed over in
//! silence: a chain that loops, is cut off, lies outside memory or mixes its parts is a [`Fault`].

use super::{Fault, Memory};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

/// Storage for buffers between two requests: always empty, so it borrows from nothing.
#[derive(Default)]
pub(super) struct Spare(Vec<VolatileSlice<'static>>);

impl Spare {
    /// The storage, to be filled.
    pub(super) fn take<'a>(&mut self) -> Vec<VolatileSlice<'a>> {
        recycle(std::mem::take(&mut self.0))
    }

    /// Keeps storage for the next time.
    pub(super) fn keep(&mut self, buffers: Vec<VolatileSlice<'_>>) {
        self.0 = recycle(buffers);
    }
}

// SAFETY: the vector is empty; there is no pointer in it to send.
unsafe impl Send for Spare {}

/// A virtqueue.
pub struct Virtqueue {
    queue: Queue,
    spare: Spare,
    served: u64,
    /// Several requests were given back at once, of which the rings' bookkeeping knows only one.
    together: bool,
}

impl Virtqueue {
    /// A queue that is not set up, of at most `max_size` requests: a power of two.
    pub fn new(max_size: u16) -> Option<Self> {
        Queue::new(max_size).ok().map(|queue| Self {
            queue,
            spare: Spare::default(),
            served: 0,
            together: false,
        })
    }

    /// The registers' view of the queue.
    pub fn registers(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Whether the driver has set the queue up.
    pub fn is_ready(&self) -> bool {
        self.queue.ready()
    }

    /// How many requests it holds.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// How many requests have been given back.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// Whether all of the rings lie in guest memory.
    pub fn is_valid(&self, memory: &Memory) -> bool {
        self.queue.is_valid(memory)
    }

    /// Takes the next request out; none of a queue that is not set up.
    pub fn pop<'a>(&mut self, memory: &'a Memory) -> Result<Option<Chain<'a>>, Fault> {
        self.take(memory, |_, _| {})
    }

    /// The same, for a request that is answered later: `places` gets what can be written, in guest addresses, which have
    /// to be looked up again then.
    pub fn pop_with_places<'a>(
        &mut self,
        memory: &'a Memory,
        places: &mut Vec<(GuestAddress, u32)>,
    ) -> Result<Option<Chain<'a>>, Fault> {
        self.take(memory, |address, length| places.push((address, length)))
    }

    fn take<'a>(
        &mut self,
        memory: &'a Memory,
        mut writable: impl FnMut(GuestAddress, u32),
    ) -> Result<Option<Chain<'a>>, Fault> {
        if !self.queue.ready() {
            return Ok(None);
        }
        let size = self.queue.size();
        let mut ring = self.queue.iter(memory).map_err(|_| Fault("the available ring's index is wrong"))?;
        let Some(mut descriptors) = ring.next() else { return Ok(None) };
        let head = descriptors.head_index();
        let mut buffers = self.spare.take();
        let (mut writable_from, mut cut_off) = (None, true);
        for descriptor in &mut descriptors {
            cut_off = descriptor.has_next();
            if buffers.len() == usize::from(size) {
                return Err(Fault("a descriptor chain is longer than its queue"));
            }
            match (descriptor.is_write_only(), writable_from) {
                (true, None) => writable_from = Some(buffers.len()),
                (false, Some(_)) => return Err(Fault("a readable descriptor follows a writable one")),
                _ => {}
            }
            let length = descriptor.len() as usize;
            if length == 0 {
                continue;
            }
            if descriptor.is_write_only() {
                writable(descriptor.addr(), descriptor.len());
            }
            for slice in memory.get_slices(descriptor.addr(), length) {
                buffers.push(slice.map_err(|_| Fault("a descriptor lies outside the guest's memory"))?);
            }
        }
        if cut_off {
            return Err(Fault("a descriptor chain loops, leaves its table or is longer than 4 GiB"));
        }
        let writable_from = writable_from.unwrap_or(buffers.len()).min(buffers.len());
        Ok(Some(Chain { head, buffers, readable: 0..writable_from, writable_from }))
    }

    /// Gives a request back.
    pub fn push(&mut self, memory: &Memory, chain: Chain<'_>, written: u32) -> Result<(), Fault> {
        let head = self.release(chain);
        self.push_head(memory, head, written)
    }

    /// Gives a request back whose buffers have been [released](Self::release).
    pub fn push_head(&mut self, memory: &Memory, head: u16, written: u32) -> Result<(), Fault> {
        self.served += 1;
        self.queue
            .add_used(memory, head, written)
            .map_err(|_| Fault("the used ring lies outside the guest's memory"))
    }

    /// Lets go of a request's buffers before it is given back by [`Virtqueue::push_head`], [`Virtqueue::push_together`] or
    /// [`Virtqueue::rewind`];
    /// the number that stands for it.
    pub fn release(&mut self, chain: Chain<'_>) -> u16 {
        self.spare.keep(chain.buffers);
        chain.head
    }

    /// Gives several requests back, each with the number of bytes written to it, so that the driver sees all or none.
    pub fn push_together(&mut self, memory: &Memory, used: &[(u16, u32)]) -> Result<(), Fault> {
        /// Bytes before the used ring's elements, and of an element (specification, section 2.7.8).
        const HEADER: u64 = 4;
        const ELEMENT: u64 = 8;
        let outside = Fault("the used ring lies outside the guest's memory");
        let Some(((last, written), before)) = used.split_last() else { return Ok(()) };
        for (head, written) in before {
            let slot = u64::from(self.queue.next_used() % self.queue.size());
            let element = [u32::from(*head).to_le(), written.to_le()];
            let address = self.queue.used_ring().checked_add(HEADER + slot * ELEMENT).ok_or(outside)?;
            memory.write_obj(element, GuestAddress(address)).map_err(|_| outside)?;
            self.queue.set_next_used(self.queue.next_used().wrapping_add(1));
            self.together = true;
        }
        self.served += used.len() as u64;
        self.queue.add_used(memory, *last, *written).map_err(|_| outside)
    }

    /// Puts the `count` requests taken last back.
    pub fn rewind(&mut self, count: usize) {
        for _ in 0..count {
            self.queue.go_to_previous_position();
        }
    }

    /// Puts the request taken last back.
    pub fn undo_pop(&mut self, chain: Chain<'_>) {
        self.release(chain);
        self.rewind(1);
    }

    /// Whether the driver wants an interrupt for what was given back since the last question.
    pub fn needs_interrupt(&mut self, memory: &Memory) -> Result<bool, Fault> {
        if !self.queue.ready() {
            return Ok(false);
        }
        let several = std::mem::take(&mut self.together);
        self.queue
            .needs_notification(memory)
            .map(|needed| needed || several)
            .map_err(|_| Fault("the available ring lies outside the guest's memory"))
    }

    /// Asks the driver not to kick while the queue is being worked through.
    pub fn suppress_kicks(&mut self, memory: &Memory) -> Result<(), Fault> {
        if !self.queue.ready() {
            return Ok(());
        }
        self.queue
            .disable_notification(memory)
            .map_err(|_| Fault("the used ring lies outside the guest's memory"))
    }

    /// Asks the driver to kick again. True if there is something in the queue already.
    pub fn ask_for_kicks(&mut self, memory: &Memory) -> Result<bool, Fault> {
        if !self.queue.ready() {
            return Ok(false);
        }
        self.queue
            .enable_notification(memory)
            .map_err(|_| Fault("the used ring lies outside the guest's memory"))
    }
}

/// Empties a vector and gives its storage to slices of another lifetime.
fn recycle<'a>(mut buffers: Vec<VolatileSlice<'_>>) -> Vec<VolatileSlice<'a>> {
    buffers.clear();
    // Collecting in place keeps the allocation: source and target have the same layout.
    buffers.into_iter().map_while(|_| None).collect()
}

/// A request: buffers to read from, then buffers to write to.
pub struct Chain<'a> {
    head: u16,
    buffers: Vec<VolatileSlice<'a>>,
    /// What is still to be read.
    readable: std::ops::Range<usize>,
    writable_from: usize,
}

impl<'a> Chain<'a> {
    /// The number that stands for it.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The buffers still to be read.
    pub fn readable(&self) -> &[VolatileSlice<'a>] {
        &self.buffers[self.readable.clone()]
    }

    /// The buffers to be written.
    pub fn writable(&self) -> &[VolatileSlice<'a>] {
        &self.buffers[self.writable_from..]
    }

    /// How much is still to be read.
    pub fn readable_bytes(&self) -> u64 {
        length(self.readable())
    }

    /// How much can be written.
    pub fn writable_bytes(&self) -> u64 {
        length(self.writable())
    }

    /// Reads a value from the front of what is to be read.
    pub fn read<T: ByteValued>(&mut self) -> Result<T, Fault> {
        let mut value = T::zeroed();
        let mut left = value.as_mut_slice();
        while !left.is_empty() {
            let Some(first) = self.buffers[self.readable.clone()].first_mut() else {
                return Err(Fault("a request is shorter than its header"));
            };
            let step = left.len().min(first.len());
            first.copy_to(&mut left[..step]);
            *first = first.offset(step).map_err(|_| Fault("a buffer ends early"))?;
            if first.is_empty() {
                self.readable.start += 1;
            }
            left = &mut left[step..];
        }
        Ok(value)
    }

    /// Keeps only the first `bytes` of what is still to be read.
    pub fn truncate_readable(&mut self, bytes: u64) {
        let mut left = bytes;
        for at in self.readable.clone() {
            let length = self.buffers[at].len() as u64;
            if left < length {
                if let Ok(shorter) = self.buffers[at].subslice(0, left as usize) {
                    self.buffers[at] = shorter;
                }
                self.readable.end = if left == 0 { at } else { at + 1 };
                return;
            }
            left -= length;
        }
    }

    /// Takes the last byte of what is to be written: where block devices put their status.
    pub fn take_last_writable(&mut self) -> Result<VolatileSlice<'a>, Fault> {
        let Some(last) = self.buffers[self.writable_from..].last_mut() else {
            return Err(Fault("a request has no room for its status"));
        };
        let wrong = |_| Fault("a buffer ends early");
        let (rest, byte) = last.split_at(last.len() - 1).map_err(wrong)?;
        if rest.is_empty() {
            self.buffers.pop();
        } else {
            *last = rest;
        }
        Ok(byte)
    }

    /// Copies what is still to be read to the front of `to`, and returns how much that was; none if it does not fit.
    pub fn copy_readable(&self, to: &mut [u8]) -> Option<usize> {
        let mut done = 0;
        for buffer in self.readable() {
            let part = to.get_mut(done..done + buffer.len())?;
            buffer.copy_to(part);
            done += part.len();
        }
        Some(done)
    }

    /// The byte at `offset` of what can be written.
    pub fn writable_byte(&self, mut offset: usize) -> Option<VolatileSlice<'a>> {
        for buffer in self.writable() {
            if offset < buffer.len() {
                return buffer.subslice(offset, 1).ok();
            }
            offset -= buffer.len();
        }
        None
    }

    /// Writes to the front of what can be written, from `offset` on, and returns how much fitted.
    pub fn write_at(&self, mut offset: usize, mut bytes: &[u8]) -> usize {
        let mut done = 0;
        for buffer in self.writable() {
            if offset >= buffer.len() {
                offset -= buffer.len();
                continue;
            }
            let step = bytes.len().min(buffer.len() - offset);
            if buffer.write_slice(&bytes[..step], offset).is_err() {
                break;
            }
            (bytes, offset, done) = (&bytes[step..], 0, done + step);
            if bytes.is_empty() {
                break;
            }
        }
        done
    }
}

fn length(buffers: &[VolatileSlice<'_>]) -> u64 {
    buffers.iter().map(|buffer| buffer.len() as u64).sum()
}
