//! What Linux has mapped in its half of the address space besides all of memory and its own text: stacks, what it has
//! allocated by pages, the areas of its processors. Found by walking the page tables (Intel SDM volume 3, 4.5), which are the
//! guest's word: they may lead in circles or out of memory, so the walk is bounded, and what is not in memory is left out.

use super::{CR4_LA57, DIRECT_MAP, DIRECT_MAP_5, TEXT_MAP};
use crate::devices::virtio::Memory;
use kvm_bindings::kvm_sregs;
use std::ops::Range;
use vm_memory::{Bytes, GuestAddress};

/// The most that are told of: one is a program header in the file.
pub const MOST: usize = 16_000;
/// The most page tables that are read: Linux needs a handful for each of these areas.
const MOST_TABLES: usize = 8192;

/// Where Linux's allocations by pages begin, above all of memory, with four levels of page tables and with five (its
/// Documentation/arch/x86/x86_64/mm.rst).
const VMALLOC: u64 = 0xffff_c900_0000_0000;
const VMALLOC_5: u64 = 0xffa0_0000_0000_0000;
/// CR0: paging.
const CR0_PG: u64 = 1 << 31;
/// Bits of an entry: present, a large page, and the address.
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Linux's page tables for user mode, where it keeps them apart, are the page behind those for kernel mode.
const USER_TABLES: u64 = 0x1000;
/// Bytes of a page table, and bits of an address that one level decides on.
const TABLE: usize = 4096;
const LEVEL_BITS: u32 = 9;
const PAGE_BITS: u32 = 12;

/// Memory that is contiguous by both addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The address that the kernel uses.
    pub virtual_address: u64,
    /// The guest-physical one.
    pub physical: u64,
    /// Bytes.
    pub size: u64,
}

/// All that there are, by address, of a vCPU with these registers. Without paging there are none.
pub fn mappings(memory: &Memory, special: &kvm_sregs) -> Vec<Mapping> {
    let five_levels = special.cr4 & CR4_LA57 != 0;
    let (levels, direct_map) = if five_levels { (5, DIRECT_MAP_5) } else { (4, DIRECT_MAP) };
    let mut walk = Walk {
        memory,
        tables: 0,
        // Which ends below what is told of here.
        direct: direct_map..if five_levels { VMALLOC_5 } else { VMALLOC },
        found: Vec::new(),
    };
    let root = special.cr3 & ADDRESS;
    let is_kernels = |root: &u64| {
        let index = index(direct_map, levels);
        walk.table(*root).is_some_and(|table| entry(&table, index) & PRESENT != 0)
    };
    let root = [root, root ^ USER_TABLES].into_iter().find(is_kernels);
    if let Some(root) = root.filter(|_| special.cr0 & CR0_PG != 0) {
        walk.down(root, levels, 0);
    }
    walk.found
}

fn index(address: u64, level: u32) -> usize {
    (address >> (PAGE_BITS + LEVEL_BITS * (level - 1))) as usize & 511
}

fn entry(table: &[u8; TABLE], index: usize) -> u64 {
    let bytes = table.chunks_exact(8).nth(index).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

struct Walk<'a> {
    memory: &'a Memory,
    tables: usize,
    /// What is told of elsewhere.
    direct: Range<u64>,
    found: Vec<Mapping>,
}

impl Walk<'_> {
    fn table(&self, at: u64) -> Option<[u8; TABLE]> {
        let mut table = [0; TABLE];
        self.memory.read_slice(&mut table, GuestAddress(at)).ok().map(|()| table)
    }

    /// The table at `at`, of this level (1 is the last), for addresses from `base` on.
    fn down(&mut self, at: u64, level: u32, base: u64) {
        if self.tables == MOST_TABLES {
            return;
        }
        self.tables += 1;
        let Some(table) = self.table(at) else { return };
        let shift = PAGE_BITS + LEVEL_BITS * (level - 1);
        let is_top = base == 0;
        // Only the kernel's half.
        for index in if is_top { 256..512 } else { 0..512 } {
            let entry = entry(&table, index);
            let address = base | (index as u64) << shift;
            // Addresses are signed: what the highest decided bit says, those above it say too.
            let address = if is_top { address | u64::MAX << (shift + LEVEL_BITS) } else { address };
            if entry & PRESENT == 0 || self.direct.contains(&address) || address >= TEXT_MAP {
                continue;
            }
            let size = 1 << shift;
            match level {
                1 => self.add(address, entry & ADDRESS, size),
                2 | 3 if entry & LARGE != 0 => self.add(address, entry & ADDRESS & !(size - 1), size),
                _ => self.down(entry & ADDRESS, level - 1, address),
            }
        }
    }

    fn add(&mut self, virtual_address: u64, physical: u64, size: u64) {
        if let Some(last) = self.found.last_mut()
            && (last.virtual_address.wrapping_add(last.size), last.physical + last.size)
                == (virtual_address, physical)
        {
            last.size += size;
        } else if self.found.len() < MOST {
            self.found.push(Mapping { virtual_address, physical, size });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u64 = 0x1_0000;
    const STACKS: u64 = VMALLOC;

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    fn set(memory: &Memory, table: u64, index: usize, entry: u64) {
        memory.write_obj(entry, GuestAddress(table + 8 * index as u64)).unwrap();
    }

    fn special() -> kvm_sregs {
        kvm_sregs { cr0: CR0_PG, cr3: ROOT, cr4: 0x20, ..Default::default() }
    }

    /// Three levels below the entry for `STACKS`, and a direct map that leads nowhere.
    fn tables(memory: &Memory) {
        set(memory, ROOT, index(DIRECT_MAP, 4), 0xf_0000 | PRESENT);
        for (level, table) in [(4, ROOT), (3, 0x1_1000), (2, 0x1_2000)] {
            let next = if level == 4 { 0x1_1000 } else { table + 0x1000 };
            set(memory, table, index(STACKS, level), next | PRESENT);
        }
    }

    #[test]
    fn pages_are_found_and_neighbours_told_together() {
        let memory = memory();
        tables(&memory);
        for (index, entry) in [(1, 0x5001), (2, 0x6001), (3, 0x9001), (4, 0xa000), (5, 0xa001)] {
            set(&memory, 0x1_3000, index, entry | 1 << 63);
        }
        set(&memory, 0x1_3000, 4, 0xa000);
        set(&memory, 0x1_2000, 1, 0x20_0000 | LARGE | PRESENT);
        let page = |number: u64, physical: u64, pages: u64| Mapping {
            virtual_address: STACKS + number * 4096,
            physical,
            size: pages * 4096,
        };
        let expected =
            [page(1, 0x5000, 2), page(3, 0x9000, 1), page(5, 0xa000, 1), page(512, 0x20_0000, 512)];
        assert_eq!(mappings(&memory, &special()), expected);
        // The same while a program runs whose page tables are not the kernel's.
        let in_user_mode = kvm_sregs { cr3: ROOT + USER_TABLES, ..special() };
        memory.write_slice(&[0; TABLE], GuestAddress(ROOT + USER_TABLES)).unwrap();
        set(&memory, ROOT, index(STACKS, 4), 0x1_4000 | PRESENT);
        set(&memory, 0x1_4000, index(STACKS, 3), 0x1_2000 | PRESENT);
        assert_eq!(mappings(&memory, &in_user_mode), expected);
        assert_eq!(mappings(&memory, &kvm_sregs { cr0: 0, ..special() }), []);
    }

    #[test]
    fn tables_that_lead_in_circles_or_nowhere_end_the_walk() {
        let memory = memory();
        for index in 256..512 {
            set(&memory, ROOT, index, ROOT | PRESENT);
        }
        let found = mappings(&memory, &special());
        assert!(found.len() <= MOST);
        for index in 0..512 {
            set(&memory, ROOT, index, !LARGE);
        }
        mappings(&memory, &special());
        assert_eq!(mappings(&memory, &kvm_sregs { cr3: 1 << 50, ..special() }), []);
    }
}
