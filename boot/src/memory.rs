//! Memory of a program without an operating system: a heap, and pages that devices may write to.
//!
//! Both are cut from arrays in the program's own zeroed memory and never given back: a test guest lives for milliseconds,
//! and clearing a page again costs more than the page is worth where ring 0 is interpreted.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use spin::Mutex;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Bytes for the heap.
const HEAP: usize = 4 << 20;
/// Pages for devices.
const PAGES: usize = 4096;

/// An array that is handed out from its start.
#[repr(C, align(4096))]
struct Pool<const N: usize> {
    bytes: UnsafeCell<[u8; N]>,
    used: Mutex<usize>,
}

// SAFETY: `take` hands every byte out once, under the lock of its counter.
unsafe impl<const N: usize> Sync for Pool<N> {}

impl<const N: usize> Pool<N> {
    const fn new() -> Self {
        Self { bytes: UnsafeCell::new([0; N]), used: Mutex::new(0) }
    }

    /// `size` bytes at a multiple of `align` (a power of two up to the page size), or `None` when the pool is empty.
    fn take(&self, size: usize, align: usize) -> Option<NonNull<u8>> {
        let mut used = self.used.lock();
        let start = used.checked_next_multiple_of(align)?;
        *used = start.checked_add(size).filter(|end| *end <= N)?;
        // SAFETY: `start + size` lies inside the array.
        NonNull::new(unsafe { self.bytes.get().cast::<u8>().add(start) })
    }
}

static DEVICE_PAGES: Pool<{ PAGES * PAGE_SIZE }> = Pool::new();

/// The heap, for the program to declare as its global allocator.
pub struct Heap(Pool<HEAP>);

impl Heap {
    /// An empty heap.
    pub const fn new() -> Self {
        Self(Pool::new())
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: blocks are disjoint, aligned up to the page size and never reused.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > PAGE_SIZE {
            return null_mut();
        }
        self.0.take(layout.size(), layout.align()).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, _block: *mut u8, _layout: Layout) {}
}

/// `count` zeroed pages that a device may be told of, or `None` when there are no more.
pub fn pages(count: usize) -> Option<NonNull<u8>> {
    DEVICE_PAGES.take(count.checked_mul(PAGE_SIZE)?, PAGE_SIZE)
}

/// The machine as the virtio drivers see it: physical addresses are virtual addresses.
pub struct Flat;

// SAFETY: pages come zeroed, aligned and once each from a pool; memory below 4 GiB is mapped one to one.
unsafe impl Hal for Flat {
    fn dma_alloc(count: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        match pages(count) {
            Some(start) => (start.as_ptr() as PhysAddr, start),
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        NonNull::new(paddr as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_disjoint_aligned_blocks_until_empty() {
        let pool = Box::new(Pool::<8192>::new());
        let first = pool.take(10, 1).unwrap().as_ptr() as usize;
        let second = pool.take(4096, 4096).unwrap().as_ptr() as usize;
        assert!(second >= first + 10 && second.is_multiple_of(4096));
        assert_eq!(pool.take(1, 1), None);
        assert_eq!(pool.take(usize::MAX, 1), None);
    }
}
