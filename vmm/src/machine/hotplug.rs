//! Memory that comes and goes behind the RAM: what [virtio-mem](crate::devices::virtio::mem) plugs and unplugs.
//!
//! Address space for all of it is reserved when the machine is made; memory it takes only where it is plugged. What is not plugged
//! no device reads or writes. A vCPU does not get at it either, in pieces of [`CHUNK`]: KVM is told of a piece when the first
//! block of it is plugged, and to forget it after the last.

use super::layout::PLUGGED_ALIGNMENT;
use super::memory::MemoryError;
use crate::devices::virtio::SharedMemory;
use crate::devices::virtio::mem::{BLOCK, Pool};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// A piece that KVM knows or does not: what Linux plugs at once at most.
const CHUNK: u64 = PLUGGED_ALIGNMENT;
/// The most separate runs of plugged blocks: a driver that wants more is told to come back.
const MOST_RUNS: usize = 1024;

/// Reserved memory.
pub struct Reserve {
    vm: Arc<VmFd>,
    whole: MmapRegion,
    start: u64,
    /// The number of the first chunk in KVM's list.
    first_slot: u32,
    /// How many blocks of each chunk are plugged.
    chunks: Vec<u64>,
    /// What is plugged: start and end of each run, in bytes from the start.
    runs: BTreeMap<u64, u64>,
    /// What is there besides.
    base: GuestMemoryMmap,
    /// Everything, as devices see it.
    shared: SharedMemory,
}

impl Reserve {
    /// Reserves `bytes`, whole chunks, at the guest's address `start`. What the devices see is `base` and whatever is plugged.
    pub fn new(
        vm: Arc<VmFd>,
        (start, bytes): (u64, u64),
        first_slot: u32,
        base: GuestMemoryMmap,
        shared: SharedMemory,
    ) -> Result<Self, MemoryError> {
        let refused = |source| MemoryError::NoSpace { mib: bytes >> 20, source };
        let size = usize::try_from(bytes).map_err(|_| refused(io::ErrorKind::InvalidInput.into()))?;
        let whole = MmapRegion::new(size).map_err(|error| refused(io::Error::other(error.to_string())))?;
        let chunks = vec![0; (bytes / CHUNK) as usize];
        Ok(Self { vm, whole, start, first_slot, chunks, runs: BTreeMap::new(), base, shared })
    }

    /// The host's address of a place in it.
    fn at(&self, offset: u64) -> *mut u8 {
        self.whole.as_ptr().wrapping_add(offset as usize)
    }

    /// Tells KVM of a chunk, or to forget it.
    fn show(&self, chunk: usize, shown: bool) -> io::Result<()> {
        let offset = chunk as u64 * CHUNK;
        let region = kvm_userspace_memory_region {
            slot: self.first_slot + chunk as u32,
            flags: 0,
            guest_phys_addr: self.start + offset,
            memory_size: if shown { CHUNK } else { 0 },
            userspace_addr: self.at(offset) as u64,
        };
        // SAFETY: the range is part of the reserved mapping, which the devices keep as long as there is a VM to use it.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(io::Error::from)
    }

    /// Counts blocks of chunks that come or go, and lets KVM know of chunks that become used or unused.
    fn count(&mut self, range: &Range<u64>, plugged: bool) -> io::Result<()> {
        for chunk in (range.start / CHUNK) as usize..range.end.div_ceil(CHUNK) as usize {
            let (first, last) = (chunk as u64 * CHUNK, (chunk as u64 + 1) * CHUNK);
            let blocks = (range.end.min(last) - range.start.max(first)) / BLOCK;
            let before = self.chunks[chunk];
            let after = if plugged { before + blocks } else { before - blocks };
            if (before == 0) != (after == 0) {
                self.show(chunk, plugged)?;
            }
            self.chunks[chunk] = after;
        }
        Ok(())
    }

    /// Lets the devices see what is plugged now.
    fn publish(&self) -> io::Result<()> {
        let mut memory = self.base.clone();
        for (start, end) in &self.runs {
            let (access, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let length = (end - start) as usize;
            // SAFETY: a part of the reserved mapping, which is released after all devices that see it: see `show`.
            let part = unsafe { MmapRegion::build_raw(self.at(*start), length, access, flags) };
            let part = part.map_err(|error| io::Error::other(error.to_string()))?;
            let region = GuestRegionMmap::new(part, GuestAddress(self.start + start));
            let region = Arc::new(region.ok_or(io::ErrorKind::InvalidInput)?);
            memory = memory.insert_region(region).map_err(|error| io::Error::other(error.to_string()))?;
        }
        self.shared.set(memory);
        Ok(())
    }
}

/// Adds a range to runs that do not touch or overlap.
fn add(runs: &mut BTreeMap<u64, u64>, range: &Range<u64>) {
    let (mut start, mut end) = (range.start, range.end);
    if let Some((before, its_end)) = runs.range(..start).next_back().map(|(start, end)| (*start, *end))
        && its_end == start
    {
        runs.remove(&before);
        start = before;
    }
    if let Some(its_end) = runs.remove(&end) {
        end = its_end;
    }
    runs.insert(start, end);
}

/// Takes a range that is in them as a whole out of runs.
fn take(runs: &mut BTreeMap<u64, u64>, range: &Range<u64>) {
    if let Some((start, end)) = runs.range(..=range.start).next_back().map(|(start, end)| (*start, *end)) {
        runs.remove(&start);
        if start < range.start {
            runs.insert(start, range.start);
        }
        if range.end < end {
            runs.insert(range.end, end);
        }
    }
}

impl Pool for Reserve {
    fn plug(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        let range = offset..offset + bytes;
        let mut runs = self.runs.clone();
        add(&mut runs, &range);
        if runs.len() > MOST_RUNS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.count(&range, true)?;
        self.runs = runs;
        self.publish()
    }

    fn unplug(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        let range = offset..offset + bytes;
        let mut runs = self.runs.clone();
        take(&mut runs, &range);
        if runs.len() > MOST_RUNS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.runs = runs;
        self.publish()?;
        self.count(&range, false)?;
        // SAFETY: the range is part of the reserved mapping; only its contents go, and no reference to guest memory is held.
        unsafe { libc::madvise(self.at(offset).cast(), bytes as usize, libc::MADV_DONTNEED) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn runs_are_what_is_in_them(steps in prop::collection::vec((0u64..40, 1u64..8), 1..60)) {
            let (mut runs, mut set) = (BTreeMap::new(), BTreeSet::new());
            for (start, length) in steps {
                let range = start..start + length;
                let inside = range.clone().filter(|at| set.contains(at)).count() as u64;
                if inside == 0 {
                    add(&mut runs, &range);
                    set.extend(range);
                } else if inside == length {
                    take(&mut runs, &range);
                    set.retain(|at| !range.contains(at));
                }
                let listed: BTreeSet<u64> = runs.iter().flat_map(|(start, end)| *start..*end).collect();
                prop_assert_eq!(&listed, &set);
                let apart = runs.values().zip(runs.keys().skip(1)).all(|(end, next)| end < next);
                prop_assert!(apart, "{:?}", runs);
            }
        }
    }
}
