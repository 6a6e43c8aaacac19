//! What the VMM hands to a kernel, read back: the command line and the device tree.
//!
//! Follows Linux's Documentation/arch/x86/boot.rst and zero-page.rst. The structure is the VMM's word, so its pointers are
//! followed as given; only the list of `setup_data` is bounded, since a list that loops would never end.

/// Offset of `cmd_line_ptr` (32 bits) in the zero page.
const CMD_LINE_PTR: usize = 0x228;
/// Offset of `setup_data` (64 bits) in the zero page.
const SETUP_DATA: usize = 0x250;
/// `setup_data` type of a flattened device tree.
const SETUP_DTB: u32 = 2;
/// Longest list of `setup_data` that is followed.
const LONGEST_LIST: usize = 64;
/// Longest command line that is read, in bytes.
const LONGEST_COMMAND_LINE: usize = 2048;

/// Memory as addressed by the structures: the identity map of the machine, or a test's array.
pub trait Memory {
    /// The bytes `[address, address + length)`, or `None` where there is no memory.
    fn bytes(&self, address: u64, length: usize) -> Option<&'static [u8]>;

    /// The 32-bit little-endian number at `address`.
    fn u32(&self, address: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(address, 4)?.try_into().ok()?))
    }

    /// The 64-bit little-endian number at `address`.
    fn u64(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(address, 8)?.try_into().ok()?))
    }
}

/// The machine's own memory below 4 GiB, which the VMM maps one to one before it enters a kernel.
pub struct IdentityMap;

impl Memory for IdentityMap {
    fn bytes(&self, address: u64, length: usize) -> Option<&'static [u8]> {
        let end = address.checked_add(length as u64)?;
        if address == 0 || end > 1 << 32 {
            return None;
        }
        // SAFETY: the first 4 GiB are mapped one to one, and the boot structures stay as they are while the guest runs.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, length) })
    }
}

/// The flattened device tree that the zero page at `zero_page` leads to.
pub fn device_tree(memory: &impl Memory, zero_page: u64) -> Option<&'static [u8]> {
    let mut node = memory.u64(zero_page + SETUP_DATA as u64)?;
    for _ in 0..LONGEST_LIST {
        if node == 0 {
            return None;
        }
        let next = memory.u64(node)?;
        let kind = memory.u32(node.checked_add(8)?)?;
        let length = memory.u32(node.checked_add(12)?)?;
        if kind == SETUP_DTB {
            return memory.bytes(node.checked_add(16)?, length as usize);
        }
        node = next;
    }
    None
}

/// The kernel command line, up to its terminating zero.
pub fn command_line(memory: &impl Memory, zero_page: u64) -> Option<&'static str> {
    let start = u64::from(memory.u32(zero_page + CMD_LINE_PTR as u64)?);
    let bytes = memory.bytes(start, LONGEST_COMMAND_LINE)?;
    let length = bytes.iter().position(|byte| *byte == 0)?;
    core::str::from_utf8(&bytes[..length]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Array(&'static [u8]);

    impl Memory for Array {
        fn bytes(&self, address: u64, length: usize) -> Option<&'static [u8]> {
            let start = usize::try_from(address).ok()?;
            self.0.get(start..start.checked_add(length)?)
        }
    }

    fn memory(fill: impl FnOnce(&mut [u8])) -> Array {
        let mut bytes = vec![0; 0x4000];
        fill(&mut bytes);
        Array(bytes.leak())
    }

    fn setup_data(bytes: &mut [u8], at: usize, next: u64, kind: u32, content: &[u8]) {
        bytes[at..at + 8].copy_from_slice(&next.to_le_bytes());
        bytes[at + 8..at + 12].copy_from_slice(&kind.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&(content.len() as u32).to_le_bytes());
        bytes[at + 16..at + 16 + content.len()].copy_from_slice(content);
    }

    #[test]
    fn finds_the_device_tree_behind_other_setup_data() {
        let memory = memory(|bytes| {
            bytes[SETUP_DATA..SETUP_DATA + 8].copy_from_slice(&0x2000u64.to_le_bytes());
            setup_data(bytes, 0x2000, 0x3000, 9, b"something else");
            setup_data(bytes, 0x3000, 0, SETUP_DTB, b"tree");
        });
        assert_eq!(device_tree(&memory, 0), Some(&b"tree"[..]));
    }

    #[test]
    fn gives_up_on_a_list_that_loops_or_leaves_memory() {
        let looping = memory(|bytes| {
            bytes[SETUP_DATA..SETUP_DATA + 8].copy_from_slice(&0x2000u64.to_le_bytes());
            setup_data(bytes, 0x2000, 0x2000, 9, b"");
        });
        assert_eq!(device_tree(&looping, 0), None);
        let leaving = memory(|bytes| {
            bytes[SETUP_DATA..SETUP_DATA + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        });
        assert_eq!(device_tree(&leaving, 0), None);
    }

    #[test]
    fn reads_the_command_line_up_to_its_zero() {
        let memory = memory(|bytes| {
            bytes[CMD_LINE_PTR..CMD_LINE_PTR + 4].copy_from_slice(&0x1000u32.to_le_bytes());
            bytes[0x1000..0x100c].copy_from_slice(b"vsock=5000\0x");
        });
        assert_eq!(command_line(&memory, 0), Some("vsock=5000"));
    }
}
