//! From a vCPU's virtual addresses to guest memory, by the guest's own page tables.
//!
//! See Intel's SDM volume 3, section 4.5 (4-level and 5-level paging). A guest may have any nonsense in its tables: what
//! leads nowhere is no address.

use crate::devices::virtio::Memory;
use vm_memory::{Bytes, GuestAddress};

const CR0_PAGING: u64 = 1 << 31;
const CR4_LEVELS_5: u64 = 1 << 12;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;
/// Bits 12 to 51 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How a vCPU translates addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Control register 0.
    pub cr0: u64,
    /// Control register 3.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// The extended feature register.
    pub efer: u64,
}

impl Mode {
    /// The physical address of a virtual one; none where nothing is mapped, or where the mode has page tables of another
    /// kind.
    pub fn translate(self, memory: &Memory, address: u64) -> Option<u64> {
        if self.cr0 & CR0_PAGING == 0 {
            return Some(address);
        }
        if self.efer & EFER_LONG_MODE_ACTIVE == 0 {
            return None;
        }
        let levels = if self.cr4 & CR4_LEVELS_5 == 0 { 4 } else { 5 };
        let bits = 12 + 9 * levels;
        // The unused high bits repeat the highest used one.
        let high = (address as i64) >> (bits - 1);
        if high != 0 && high != -1 {
            return None;
        }
        let mut table = self.cr3 & ADDRESS;
        for level in (0..levels).rev() {
            let shift = 12 + 9 * level;
            let at = table + (address >> shift & 511) * 8;
            let entry = u64::from_le(memory.read_obj(GuestAddress(at)).ok()?);
            if entry & PRESENT == 0 {
                return None;
            }
            let within = (1 << shift) - 1;
            match level {
                0 => return Some(entry & ADDRESS | address & within),
                1 | 2 if entry & LARGE != 0 => return Some(entry & ADDRESS & !within | address & within),
                _ => table = entry & ADDRESS,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    fn mode(cr4: u64) -> Mode {
        Mode { cr0: CR0_PAGING, cr3: 0x1000 | 0x18, cr4, efer: EFER_LONG_MODE_ACTIVE }
    }

    fn entry(memory: &Memory, table: u64, index: u64, value: u64) {
        memory.write_obj(value, GuestAddress(table + index * 8)).unwrap();
    }

    #[test]
    fn finds_pages_of_every_size() {
        let memory = memory();
        entry(&memory, 0x1000, 511, 0x2001);
        entry(&memory, 0x2000, 510, 0x3001);
        entry(&memory, 0x2000, 1, 0x4000_0081);
        entry(&memory, 0x3000, 8, 0x0100_0000 | 0x81);
        entry(&memory, 0x3000, 9, 0x4001);
        entry(&memory, 0x4000, 3, 0x8000_0000_0005_5003);
        let at = |address| mode(0).translate(&memory, address);
        assert_eq!(at(0xffff_ffff_8100_0123), Some(0x0100_0123));
        assert_eq!(at(0xffff_ffff_8120_3abc), Some(0x0005_5abc));
        assert_eq!(at(0xffff_ff80_4abc_def0), Some(0x4abc_def0));
        assert_eq!(at(0xffff_ffff_8120_4000), None, "not present");
        assert_eq!(at(0x0000_ffff_8100_0000), None, "not canonical");
        assert_eq!(at(0x1000), None);
    }

    #[test]
    fn has_a_level_more_where_the_guest_says_so() {
        let memory = memory();
        entry(&memory, 0x1000, 511, 0x2001);
        entry(&memory, 0x2000, 511, 0x3001);
        entry(&memory, 0x3000, 510, 0x81);
        assert_eq!(mode(CR4_LEVELS_5).translate(&memory, 0xffff_ffff_8000_0010), Some(0x10));
        assert_eq!(mode(0).translate(&memory, 0xffff_ffff_8000_0010), None);
    }

    #[test]
    fn without_paging_addresses_are_what_they_are() {
        let off = Mode { cr0: 0, ..mode(0) };
        assert_eq!(off.translate(&memory(), 0x1234), Some(0x1234));
        let protected = Mode { efer: 0, ..mode(0) };
        assert_eq!(protected.translate(&memory(), 0x1234), None);
    }

    proptest! {
        #[test]
        fn tables_full_of_nonsense_lead_somewhere_or_nowhere(
            entries in prop::collection::vec((0u64..2048, any::<u64>()), 0..64),
            address in any::<u64>(),
            cr3 in any::<u64>(),
            cr4 in any::<u64>(),
        ) {
            let memory = memory();
            for (index, value) in entries {
                entry(&memory, 0x1000, index, value);
            }
            let _ = Mode { cr3, ..mode(cr4) }.translate(&memory, address);
            let _ = mode(cr4).translate(&memory, address);
        }
    }
}
