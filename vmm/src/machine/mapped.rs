//! Files in the guest's address space, one behind the other: what [virtio-pmem](crate::devices::virtio::pmem) shows.
//!
//! The guest can only read there, its writes go nowhere. A device that a hostile guest has write there changes a copy of this
//! VM's own: files are never written to, and nothing faults.

use super::layout::{MAPPED_UNIT, PAGE};
use super::memory::MemoryError;
use crate::backends::disk::{OpenError, Segment};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};

/// Maps the segments, which are whole pages, from the guest's address `start` on. What is left of the last piece of
/// [`MAPPED_UNIT`] reads as zeroes.
pub fn map(segments: &[Segment], start: u64) -> Result<Arc<GuestRegionMmap>, MemoryError> {
    let refused = |source| MemoryError::Unreadable { what: "the layers cannot be mapped".into(), source };
    let too_many = || refused(io::ErrorKind::InvalidInput.into());
    let total =
        segments.iter().try_fold(0u64, |sum, segment| sum.checked_add(segment.bytes)).ok_or_else(too_many)?;
    let size = total.max(1).checked_next_multiple_of(MAPPED_UNIT).ok_or_else(too_many)?;
    let size = usize::try_from(size).map_err(|_| too_many())?;
    let whole = MmapRegion::new(size).map_err(|error| refused(io::Error::other(error.to_string())))?;
    let mut offset = 0;
    for segment in segments {
        let wrap = |source| MemoryError::Disk(OpenError::Unreadable { path: segment.path.clone(), source });
        if segment.bytes % PAGE != 0 {
            return Err(MemoryError::Disk(OpenError::Unaligned {
                path: segment.path.clone(),
                bytes: segment.bytes,
            }));
        }
        let file = File::open(&segment.path).map_err(wrap)?;
        let found = file.metadata().map_err(wrap)?.len();
        if found < segment.bytes {
            let (path, expected) = (segment.path.clone(), segment.bytes);
            return Err(MemoryError::Disk(OpenError::Short { path, found, expected }));
        }
        if segment.bytes > 0 {
            place(&whole, offset, &file, segment.bytes as usize).map_err(wrap)?;
        }
        offset += segment.bytes as usize;
    }
    GuestRegionMmap::new(whole, GuestAddress(start)).map(Arc::new).ok_or_else(too_many)
}

fn place(whole: &MmapRegion, offset: usize, file: &File, length: usize) -> io::Result<()> {
    let target = whole.as_ptr().wrapping_add(offset).cast();
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: `length` bytes from `target` on are whole pages of a fresh anonymous mapping that nobody has a pointer into.
    match unsafe { libc::mmap(target, length, access, flags, file.as_raw_fd(), 0) } {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use vm_memory::{Bytes, GuestMemoryRegion, MemoryRegionAddress};

    fn segment(directory: &Path, name: &str, pages: usize) -> Segment {
        let path = directory.join(name);
        let contents: Vec<u8> = (0..pages * 4096).map(|at| (at / 4096) as u8 + name.as_bytes()[0]).collect();
        std::fs::write(&path, [&contents[..], &[0xee; 10]].concat()).unwrap();
        Segment { path, bytes: contents.len() as u64 }
    }

    #[test]
    fn files_lie_behind_each_other_and_are_never_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let segments = [segment(directory.path(), "a", 2), segment(directory.path(), "k", 3)];
        let region = map(&segments, 4 << 30).unwrap();
        assert_eq!((region.start_addr().0, region.len()), (4 << 30, MAPPED_UNIT));
        let byte = |page: u64| region.read_obj::<u8>(MemoryRegionAddress(page * 4096)).unwrap();
        assert_eq!([0, 1, 2, 4, 5].map(byte), [b'a', b'b', b'k', b'm', 0]);
        region.write_obj(7u8, MemoryRegionAddress(0)).unwrap();
        assert_eq!(std::fs::read(&segments[0].path).unwrap()[0], b'a');
    }

    #[test]
    fn what_is_short_or_no_whole_pages_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let good = segment(directory.path(), "a", 1);
        for bytes in [8192, 512, !4095] {
            let error = map(&[Segment { bytes, ..good.clone() }], 0).unwrap_err().to_string();
            assert!(error.contains(if bytes < u64::MAX / 2 { "/a" } else { "cannot be mapped" }), "{error}");
        }
        let missing = Segment { path: directory.path().join("none"), bytes: 4096 };
        assert!(map(&[good, missing], 0).unwrap_err().to_string().contains("none"));
    }
}
