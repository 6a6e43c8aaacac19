//! What a kernel is handed at entry: `boot_params` with the memory map, the command line, and `setup_data` with the device
//! tree and a random seed.
//!
//! See Linux's Documentation/arch/x86/boot.rst ("64-bit boot protocol") and zero-page.rst.

use super::layout;
use linux_loader::loader::bootparam::{SETUP_DTB, SETUP_RNG_SEED, boot_e820_entry, boot_params};
use thiserror::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
};

/// Memory map entry: usable RAM.
const E820_RAM: u32 = 1;
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// Boot protocol 2.15, the first with 64-bit entry documented as it is now.
const PROTOCOL: u16 = 0x020f;

/// Where in a `struct setup_data` the length of its contents is.
pub const SETUP_DATA_LENGTH: u64 = 12;
/// Where its contents are.
pub const SETUP_DATA_CONTENTS: u64 = 16;

/// Why the boot parameters could not be written.
#[derive(Debug, Error)]
pub enum BootParamsError {
    /// The command line is too long.
    #[error("the kernel's command line has {0} bytes, and {max} is the most", max = super::cmdline::LIMIT - 1)]
    CmdlineTooLong(usize),
    /// The command line has a zero byte inside.
    #[error("the kernel's command line has a zero byte inside")]
    CmdlineZero,
    /// The device tree is too long for its place.
    #[error("the device tree has {0} bytes and does not fit")]
    TreeTooLong(usize),
    /// Guest memory is smaller than any machine's.
    #[error("cannot write the boot parameters: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// What goes into them.
pub struct BootParams<'a> {
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// The initrd's address and length, if there is one.
    pub initrd: Option<(u64, u64)>,
    /// The flattened device tree.
    pub tree: &'a [u8],
    /// Random bytes for the kernel's generator.
    pub seed: [u8; 32],
}

impl BootParams<'_> {
    /// Writes everything to its place in guest memory.
    pub fn write(&self, memory: &GuestMemoryMmap) -> Result<(), BootParamsError> {
        if self.cmdline.len() >= super::cmdline::LIMIT {
            return Err(BootParamsError::CmdlineTooLong(self.cmdline.len()));
        }
        if self.cmdline.contains('\0') {
            return Err(BootParamsError::CmdlineZero);
        }
        memory.write_slice(self.cmdline.as_bytes(), GuestAddress(layout::CMDLINE))?;
        memory.write_obj(0u8, GuestAddress(layout::CMDLINE + self.cmdline.len() as u64))?;

        if self.tree.len() as u64 > layout::SETUP_DTB_END - layout::SETUP_DTB - SETUP_DATA_CONTENTS {
            return Err(BootParamsError::TreeTooLong(self.tree.len()));
        }
        write_setup_data(memory, layout::SETUP_DTB, layout::SETUP_RNG_SEED, SETUP_DTB, self.tree)?;
        write_setup_data(memory, layout::SETUP_RNG_SEED, 0, SETUP_RNG_SEED, &self.seed)?;

        let mut params = boot_params::default();
        params.hdr.boot_flag = 0xaa55;
        params.hdr.header = u32::from_le_bytes(*b"HdrS");
        params.hdr.version = PROTOCOL;
        params.hdr.type_of_loader = LOADER_UNDEFINED;
        params.hdr.kernel_alignment = 0x20_0000;
        params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
        params.hdr.cmdline_size = super::cmdline::LIMIT as u32 - 1;
        params.hdr.setup_data = layout::SETUP_DTB;
        if let Some((address, length)) = self.initrd {
            params.hdr.ramdisk_image = address as u32;
            params.hdr.ramdisk_size = length as u32;
        }
        let mut entries = vec![(0, layout::LOW_RAM_END)];
        for region in memory.iter() {
            let (start, end) = (region.start_addr().0, region.start_addr().0 + region.len());
            let start = start.max(layout::HIGH_RAM);
            entries.push((start, end - start));
        }
        params.e820_entries = entries.len() as u8;
        for (entry, (addr, size)) in params.e820_table.iter_mut().zip(entries) {
            *entry = boot_e820_entry { addr, size, r#type: E820_RAM };
        }
        Ok(memory.write_obj(params, GuestAddress(layout::BOOT_PARAMS))?)
    }
}

/// Writes one `struct setup_data`: address of the next, type, length, contents.
fn write_setup_data(
    memory: &GuestMemoryMmap,
    at: u64,
    next: u64,
    kind: u32,
    contents: &[u8],
) -> Result<(), GuestMemoryError> {
    memory.write_obj(next, GuestAddress(at))?;
    memory.write_obj(kind, GuestAddress(at + 8))?;
    memory.write_obj(contents.len() as u32, GuestAddress(at + SETUP_DATA_LENGTH))?;
    memory.write_slice(contents, GuestAddress(at + SETUP_DATA_CONTENTS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::allocate;

    fn written(mib: u64, params: &BootParams<'_>) -> (GuestMemoryMmap, boot_params) {
        let memory = allocate(mib).unwrap();
        params.write(&memory).unwrap();
        let written = memory.read_obj(GuestAddress(layout::BOOT_PARAMS)).unwrap();
        (memory, written)
    }

    #[test]
    fn lists_ram_around_the_holes() {
        let params = BootParams { cmdline: "", initrd: None, tree: &[], seed: [0; 32] };
        let (_, small) = written(64, &params);
        let entries = |params: &boot_params| -> Vec<_> {
            let table = params.e820_table;
            table[..params.e820_entries as usize]
                .iter()
                .map(|entry| (entry.addr, entry.size, entry.r#type))
                .collect()
        };
        assert_eq!(entries(&small), [(0, 0x9_fc00, 1), (0x10_0000, 63 << 20, 1)]);
        let (_, large) = written(4096, &params);
        assert_eq!(
            entries(&large),
            [(0, 0x9_fc00, 1), (0x10_0000, (3 << 30) - 0x10_0000, 1), (4 << 30, 1 << 30, 1)]
        );
    }

    #[test]
    fn chains_the_tree_and_the_seed() {
        let params =
            BootParams { cmdline: "quiet", initrd: Some((0x30_0000, 77)), tree: &[1, 2, 3], seed: [9; 32] };
        let (memory, written) = written(64, &params);
        let header = written.hdr;
        assert_eq!(
            (header.boot_flag, { header.ramdisk_image }, { header.ramdisk_size }),
            (0xaa55, 0x30_0000, 77)
        );
        let read = |at: u64| memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        let tree = { header.setup_data };
        assert_eq!((read(tree + 8), read(tree + 12)), (2, 3));
        let seed = u64::from(read(tree));
        assert_eq!((read(seed), read(seed + 8), read(seed + 12)), (0, 9, 32));
        let mut text = [1; 6];
        memory.read_slice(&mut text, GuestAddress(u64::from(header.cmd_line_ptr))).unwrap();
        assert_eq!(&text, b"quiet\0");
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let memory = allocate(64).unwrap();
        let long = "x".repeat(2048);
        let params = |cmdline, tree| BootParams { cmdline, initrd: None, tree, seed: [0; 32] };
        let error = params(&long, &[]).write(&memory).unwrap_err();
        assert!(matches!(error, BootParamsError::CmdlineTooLong(2048)), "{error}");
        assert!(params(&long[1..], &[]).write(&memory).is_ok());
        let error = params("a\0b", &[]).write(&memory).unwrap_err();
        assert!(matches!(error, BootParamsError::CmdlineZero), "{error}");
        let error = params("", &vec![0; 1 << 20]).write(&memory).unwrap_err();
        assert!(matches!(error, BootParamsError::TreeTooLong(_)), "{error}");
    }
}
