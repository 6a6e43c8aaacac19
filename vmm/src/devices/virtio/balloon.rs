//! virtio-balloon: memory that the guest does not use goes back to the host. Specification, section 5.5.
//!
//! What the guest reports as free is given back at once, and is there again when the guest touches it. The balloon proper, by
//! which the host asks for memory, stays empty: what a driver puts into it all the same is given back as well.

use super::{Chain, Device, Fault, Io, Memory};
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

/// The device type.
const ID: u32 = 5;
/// Inflate, deflate, and reporting: the queues of features that are not offered do not count.
const QUEUES: &[u16] = &[64, 64, 64];
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// The feature of reporting free pages.
const REPORTING: u64 = 1 << 5;
/// The size of the pages that a driver numbers, whatever its processor's are.
const PAGE: usize = 4096;
/// The most pages that one request names: what Linux sends at once.
const MOST_PAGES: usize = 256;

/// A balloon that nobody blows up.
#[derive(Debug, Default)]
pub struct Balloon;

impl Balloon {
    /// The configuration: pages wanted and pages had, both none.
    const CONFIG: [u8; 8] = [0; 8];
}

/// Gives the whole pages of a piece of guest memory back. Afterwards they read as zeroes, or as the file that they were
/// mapped from: a driver reports only pages whose contents do not matter.
fn give_back(piece: &VolatileSlice<'_>) {
    let start = piece.ptr_guard_mut().as_ptr() as usize;
    let first = start.next_multiple_of(PAGE);
    let end = (start + piece.len()) & !(PAGE - 1);
    if first < end {
        // SAFETY: the range lies inside guest memory, which stays mapped: only its contents go, and no reference to guest
        // memory is ever held.
        unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_DONTNEED) };
    }
}

/// Gives back the pages that a request names by their numbers.
fn inflate(chain: &mut Chain<'_>, memory: &Memory) -> Result<(), Fault> {
    for _ in 0..MOST_PAGES {
        if chain.readable_bytes() < size_of::<u32>() as u64 {
            break;
        }
        let number: u32 = chain.read()?;
        let address = GuestAddress(u64::from(u32::from_le(number)) * PAGE as u64);
        if let Ok(page) = memory.get_slice(address, PAGE) {
            give_back(&page);
        }
    }
    Ok(())
}

impl Device for Balloon {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        QUEUES
    }

    fn features(&self) -> u64 {
        REPORTING
    }

    fn config(&self) -> &[u8] {
        &Self::CONFIG
    }

    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        let memory = io.memory;
        io.serve(queue, |chain| {
            match queue {
                INFLATE => inflate(chain, memory)?,
                // Memory comes back by being used.
                DEFLATE => {}
                _ => chain.writable().iter().for_each(give_back),
            }
            Ok(0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BUFFERS, Driver};
    use super::*;
    use proptest::prelude::*;

    const REPORT: usize = 2;

    /// How many of `count` pages from `address` on take up memory of the host.
    fn resident(driver: &Driver, address: u64, count: usize) -> usize {
        let slice = driver.memory.get_slice(GuestAddress(address), count * PAGE).unwrap();
        let mut pages = vec![0u8; count];
        let start = slice.ptr_guard_mut().as_ptr().cast();
        // SAFETY: the range is mapped, and there is a byte for each page of it.
        assert_eq!(unsafe { libc::mincore(start, count * PAGE, pages.as_mut_ptr()) }, 0);
        pages.iter().filter(|page| **page & 1 != 0).count()
    }

    fn filled() -> Driver {
        let driver = Driver::start(Box::new(Balloon), u64::MAX);
        driver.put(BUFFERS, &[7; 64 * PAGE]);
        assert_eq!(resident(&driver, BUFFERS, 64), 64);
        driver
    }

    #[test]
    fn what_is_reported_as_free_is_given_back() {
        let mut driver = filled();
        assert_ne!(driver.offered() & REPORTING, 0);
        let far = BUFFERS + 40 * PAGE as u64;
        driver.add(REPORT, &[(BUFFERS, 32 * PAGE as u32, true), (far, 8 * PAGE as u32, true)]);
        driver.kick(REPORT as u32);
        assert_eq!(driver.used(REPORT), [(0, 0)]);
        assert_eq!(resident(&driver, BUFFERS, 64), 24);
        assert_eq!(driver.get(BUFFERS + 33 * PAGE as u64, 4), [7; 4], "its neighbours stay");
    }

    #[test]
    fn only_whole_pages_go() {
        let mut driver = filled();
        driver.add(REPORT, &[(BUFFERS + 100, 2 * PAGE as u32, true), (BUFFERS + 8192 + 200, 50, true)]);
        driver.kick(REPORT as u32);
        assert_eq!(resident(&driver, BUFFERS, 64), 63);
        assert_eq!(driver.get(BUFFERS, PAGE), [7; PAGE]);
        assert_eq!(driver.get(BUFFERS + 8192, PAGE), [7; PAGE]);
    }

    #[test]
    fn pages_in_the_balloon_are_given_back() {
        let mut driver = filled();
        let number = (BUFFERS / PAGE as u64) as u32;
        let list: Vec<u8> =
            [number + 1, number + 2, u32::MAX].iter().flat_map(|page| page.to_le_bytes()).collect();
        driver.put(0x9_0000, &list);
        driver.add(INFLATE, &[(0x9_0000, list.len() as u32, false)]);
        driver.add(DEFLATE, &[(0x9_0000, list.len() as u32, false)]);
        driver.kick(INFLATE as u32);
        driver.kick(DEFLATE as u32);
        assert_eq!((driver.used(INFLATE).len(), driver.used(DEFLATE).len()), (1, 1));
        assert_eq!(resident(&driver, BUFFERS, 64), 62);
        assert!(!driver.needs_reset());
    }

    proptest! {
        #[test]
        fn any_list_of_pages_is_taken(list in prop::collection::vec(any::<u8>(), 1..5000), queue in 0usize..3) {
            let mut driver = Driver::start(Box::new(Balloon), u64::MAX);
            driver.put(BUFFERS, &list);
            driver.add(queue, &[(BUFFERS, list.len() as u32, queue == REPORT)]);
            driver.kick(queue as u32);
            prop_assert_eq!(driver.used(queue).len(), 1);
        }
    }
}
