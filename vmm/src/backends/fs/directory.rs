//! Directories as the guest reads them: entries packed behind each other, each with the place where the next is.

use super::wire::{DirectoryEntry, Entry};
use rustix::fs::{RawDir, SeekFrom, seek};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::mem::MaybeUninit;
use vm_memory::ByteValued;

/// Bytes of entries that are asked of the host at once.
const AT_ONCE: usize = 32 << 10;

/// Entries packed into a message.
pub(super) struct Listing<'a> {
    out: &'a mut Vec<u8>,
    end: usize,
}

impl<'a> Listing<'a> {
    /// At most `room` bytes of entries, behind what is in `out`.
    pub fn new(out: &'a mut Vec<u8>, room: usize) -> Self {
        let end = out.len() + room;
        Self { out, end }
    }

    /// Whether an entry of that name still fits.
    pub fn has_room(&self, name: &CStr, is_plus: bool) -> bool {
        let entry = if is_plus { size_of::<Entry>() } else { 0 };
        let length = entry + (size_of::<DirectoryEntry>() + name.count_bytes()).next_multiple_of(8);
        self.out.len() + length <= self.end
    }

    /// Adds an entry, with what READDIRPLUS tells of it besides. The next entry is found at `offset`.
    pub fn add(&mut self, plus: Option<&Entry>, ino: u64, offset: u64, kind: u32, name: &CStr) {
        if let Some(entry) = plus {
            self.out.extend_from_slice(entry.as_slice());
        }
        let bytes = name.to_bytes();
        let head = DirectoryEntry { ino, offset, name_length: bytes.len() as u32, kind };
        self.out.extend_from_slice(head.as_slice());
        self.out.extend_from_slice(bytes);
        // Both structures are multiples of eight bytes long.
        let padding = (8 - bytes.len() % 8) % 8;
        self.out.extend_from_slice(&[0; 8][..padding]);
    }
}

/// Reads a directory from `offset` on, until `each` has no room for an entry: it is given number, place of the next entry,
/// kind and name.
pub(super) fn read(
    directory: &File,
    offset: u64,
    mut each: impl FnMut(u64, u64, u32, &CStr) -> bool,
) -> Result<(), Errno> {
    if i64::try_from(offset).is_err() {
        return Err(Errno::INVAL);
    }
    seek(directory, SeekFrom::Start(offset))?;
    let mut buffer = [MaybeUninit::uninit(); AT_ONCE];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        // The kind as directories have it: the upper bits of a mode.
        let kind = entry.file_type().as_raw_mode() >> 12;
        if !each(entry.ino(), entry.next_entry_cookie(), kind, entry.file_name()) {
            return Ok(());
        }
    }
    Ok(())
}
