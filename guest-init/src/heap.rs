//! PID 1's memory: free lists by size over pages from the kernel. For a program of one thread.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;

use linux_raw_sys::general as c;
use syscalls::{Sysno, syscall};

/// The smallest block, in bytes; the others double from here.
const SMALLEST: usize = 16;

/// How many sizes there are: 16 bytes to 64 KiB. Anything larger has pages of its own.
const SIZES: usize = 13;

/// What the kernel is asked for at once, for small blocks. In bytes.
const CHUNK: usize = 64 << 10;

const PAGE: usize = 4096;

struct Lists {
    /// The first free block of each size; each begins with the address of the next.
    free: [*mut u8; SIZES],
    /// The part of the present chunk that was never used.
    fresh: *mut u8,
    left: usize,
}

/// The allocator.
pub struct Heap(UnsafeCell<Lists>);

// SAFETY: PID 1 has one thread, and so has each child that it forks.
unsafe impl Sync for Heap {}

impl Heap {
    /// A heap whose first chunk is there already. Beside the program it has the program's page tables, of which each fork
    /// makes new ones.
    ///
    /// # Safety
    /// Only one thread may ever use it, and nobody else its first chunk.
    pub const unsafe fn new(first: *mut [u8]) -> Heap {
        Heap(UnsafeCell::new(Lists { free: [null_mut(); SIZES], fresh: first.cast(), left: first.len() }))
    }
}

/// Which size a layout gets, or `None` for pages of its own.
fn size_class(layout: Layout) -> Option<usize> {
    // How many times the smallest must double; the largest sizes that there are do not overflow here.
    let above = (layout.size().max(layout.align()) - 1) / SMALLEST;
    let class = ((above * 2) | 1).ilog2() as usize;
    (class < SIZES).then_some(class)
}

fn pages(size: usize) -> Option<usize> {
    size.checked_next_multiple_of(PAGE)
}

fn map(size: usize) -> *mut u8 {
    let (protection, flags) = (c::PROT_READ | c::PROT_WRITE, c::MAP_PRIVATE | c::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    unsafe { syscall!(Sysno::mmap, 0, size, protection, flags, -1i32, 0) }
        .map_or(null_mut(), |address| address as *mut u8)
}

impl Lists {
    fn take(&mut self, class: usize) -> *mut u8 {
        let size = SMALLEST << class;
        let block = self.free[class];
        if !block.is_null() {
            // SAFETY: a free block begins with the address of the next one (`give`), and is aligned for it.
            self.free[class] = unsafe { block.cast::<*mut u8>().read() };
            return block;
        }
        // Blocks of a chunk are aligned to their size, as large as a page at most.
        let gap = self.fresh.align_offset(size.min(PAGE));
        if self.left < gap + size {
            let chunk = map(CHUNK);
            if chunk.is_null() {
                return chunk;
            }
            (self.fresh, self.left) = (chunk, CHUNK);
            return self.cut(0, size);
        }
        self.cut(gap, size)
    }

    fn cut(&mut self, gap: usize, size: usize) -> *mut u8 {
        let block = self.fresh.wrapping_add(gap);
        self.fresh = block.wrapping_add(size);
        self.left -= gap + size;
        block
    }

    fn give(&mut self, block: *mut u8, class: usize) {
        if class == SIZES - 1 {
            // SAFETY: these are whole pages, of what nobody needs any more. The kernel has them till they are used again.
            let _ = unsafe { syscall!(Sysno::madvise, block, SMALLEST << class, c::MADV_DONTNEED) };
        }
        // SAFETY: the block is ours again, and at least as large and as aligned as an address.
        unsafe { block.cast::<*mut u8>().write(self.free[class]) };
        self.free[class] = block;
    }
}

// SAFETY: blocks are as large and as aligned as asked for (alignment above a page is refused), and no two in use
// overlap.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > PAGE {
            return null_mut();
        }
        match size_class(layout) {
            // SAFETY: one thread, and no reference outlives this call.
            Some(class) => unsafe { &mut *self.0.get() }.take(class),
            None => pages(layout.size()).map_or(null_mut(), map),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about the layout is the one that is asked for; nothing refers to the lists.
        let (fresh, block, now) =
            unsafe { ((*self.0.get()).fresh, self.alloc(layout), (*self.0.get()).fresh) };
        // What was never used is zero, and writing to it would make the kernel provide it.
        if fresh == now && size_class(layout).is_some() && !block.is_null() {
            // SAFETY: the block is new and as long as this.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match size_class(layout) {
            // SAFETY: one thread, and no reference outlives this call.
            Some(class) => unsafe { &mut *self.0.get() }.give(block, class),
            None => {
                // SAFETY: the mapping was made for this block alone.
                let _ = unsafe { syscall!(Sysno::munmap, block, pages(layout.size()).unwrap_or(0)) };
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else { return null_mut() };
        if size_class(layout).is_some_and(|class| size_class(new_layout) == Some(class)) {
            return block;
        }
        // SAFETY: the caller's promises about `block` and `layout` are those that these calls need; both blocks
        // are at least as long as what is copied.
        unsafe {
            let new = self.alloc(new_layout);
            if !new.is_null() {
                core::ptr::copy_nonoverlapping(block, new, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: *mut [u8] = core::ptr::slice_from_raw_parts_mut(null_mut(), 0);

    #[test]
    fn freed_blocks_are_used_again() {
        // SAFETY: this test's thread alone uses it.
        let heap = unsafe { Heap::new(NONE) };
        let layout = Layout::from_size_align(100, 8).unwrap();
        // SAFETY: each block is freed with the layout that it was made with.
        unsafe {
            let first = heap.alloc(layout);
            heap.dealloc(first, layout);
            assert_eq!(heap.alloc(layout), first);
        }
    }

    #[test]
    fn zeroed_blocks_are_zero_when_used_again() {
        // SAFETY: this test's thread alone uses it.
        let heap = unsafe { Heap::new(NONE) };
        for size in [100, 100_000] {
            let layout = Layout::from_size_align(size, 8).unwrap();
            // SAFETY: each block is used within its layout and freed with it.
            unsafe {
                let dirty = heap.alloc(layout);
                dirty.write_bytes(7, size);
                heap.dealloc(dirty, layout);
                let block = heap.alloc_zeroed(layout);
                assert!((0..size).all(|at| block.add(at).read() == 0));
                heap.dealloc(block, layout);
            }
        }
    }

    #[test]
    fn alignment_above_a_page_is_refused() {
        // SAFETY: as above.
        unsafe { assert!(Heap::new(NONE).alloc(Layout::from_size_align(8, 8192).unwrap()).is_null()) };
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn blocks_keep_what_is_written(steps in proptest::collection::vec((0usize..100_000, 0u32..13, any::<bool>()), 1..60)) {
            // SAFETY: this thread alone uses it.
            let heap = unsafe { Heap::new(NONE) };
            let mut live: Vec<(*mut u8, Layout, u8)> = Vec::new();
            for (n, (size, align, grow)) in steps.into_iter().enumerate() {
                let mark = n as u8;
                let layout = Layout::from_size_align(size.max(1), 1 << align).unwrap();
                // SAFETY: blocks are used within their layouts and freed once.
                unsafe {
                    let block = heap.alloc(layout);
                    prop_assert!(!block.is_null());
                    prop_assert_eq!(block as usize % layout.align(), 0);
                    block.write_bytes(mark, layout.size());
                    live.push((block, layout, mark));
                    if grow {
                        let at = n * 7 % live.len();
                        let (block, layout, mark) = live[at];
                        // A block that is doubled again and again would fill the host.
                        let new = if layout.size() < 1 << 20 { layout.size() * 2 + 1 } else { layout.size() };
                        let block = heap.realloc(block, layout, new);
                        let layout = Layout::from_size_align(new, layout.align()).unwrap();
                        prop_assert!((0..layout.size() / 2).all(|i| block.add(i).read() == mark));
                        block.write_bytes(mark, new);
                        live[at] = (block, layout, mark);
                    } else if n % 3 == 0 {
                        let (block, layout, mark) = live.swap_remove(n * 5 % live.len());
                        prop_assert!((0..layout.size()).all(|i| block.add(i).read() == mark));
                        heap.dealloc(block, layout);
                    }
                }
            }
            for (block, layout, mark) in live {
                // SAFETY: as above.
                unsafe {
                    prop_assert!((0..layout.size()).all(|i| block.add(i).read() == mark));
                    heap.dealloc(block, layout);
                }
            }
        }
    }
}
