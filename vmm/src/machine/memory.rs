//! Guest RAM: anonymous memory private to this process, into which files and parts of the binary can be mapped
//! copy-on-write instead of being copied.

use super::layout::{self, PAGE};
use super::{Backing, Image};
use crate::backends::disk::OpenError;
use crate::payload::Embedded;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use thiserror::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

/// Why guest memory could not be made or filled.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The amount asked for is out of range.
    #[error("{0} MiB of memory: it must be between {min} and {max} MiB", min = layout::MIN_MEMORY_MIB, max = layout::MAX_MEMORY_MIB)]
    Amount(u64),
    /// The host gave no memory.
    #[error("the host has no address space for {mib} MiB of guest memory: {source}")]
    NoSpace {
        /// The amount asked for.
        mib: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The host's reserve of huge pages is too small.
    #[error(
        "the host has no {mib} MiB of free huge pages: {source} (reserve {pages} of 2 MiB with `sysctl vm.nr_hugepages`, \
         or leave --hugepages out)",
        pages = mib.div_ceil(2)
    )]
    NoHugePages {
        /// The amount asked for.
        mib: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Not all of the memory could be had at once.
    #[error("the host does not give all of the guest's memory at once (--prefault): {0}")]
    NoPages(io::Error),
    /// Something does not fit.
    #[error("too little memory: {what} needs {needed_mib} MiB of guest memory (--memory)")]
    TooLittle {
        /// What does not fit.
        what: &'static str,
        /// The least amount with which it would.
        needed_mib: u64,
    },
    /// A file that is mapped into the guest's address space is not what it should be.
    #[error(transparent)]
    Disk(#[from] OpenError),
    /// A file could not be read or mapped.
    #[error("{what}: {source}")]
    Unreadable {
        /// The file and what it is for.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The size of a huge page in MiB.
const HUGE_PAGE_MIB: u64 = 2;

/// Makes the guest's RAM. Pages come into being when they are touched.
pub fn allocate(memory_mib: u64) -> Result<GuestMemoryMmap, MemoryError> {
    allocate_from(memory_mib, Backing::default())
}

/// Makes the guest's RAM of this kind.
pub fn allocate_from(memory_mib: u64, backing: Backing) -> Result<GuestMemoryMmap, MemoryError> {
    if !(layout::MIN_MEMORY_MIB..=layout::MAX_MEMORY_MIB).contains(&memory_mib) {
        return Err(MemoryError::Amount(memory_mib));
    }
    let mib = memory_mib.next_multiple_of(if backing.huge_pages { HUGE_PAGE_MIB } else { 1 });
    let (mut flags, mut huge) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, false);
    match backing.huge_pages {
        // Reserved when they are mapped: a guest is not to die of a page that is not there any more.
        true => (flags, huge) = (flags | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB, true),
        // More than the host has may be mapped, as long as it is not touched.
        false => flags |= libc::MAP_NORESERVE,
    }
    let refused = |error: &dyn std::fmt::Display| {
        let source = io::Error::other(error.to_string());
        match huge {
            true => MemoryError::NoHugePages { mib, source },
            false => MemoryError::NoSpace { mib, source },
        }
    };
    let regions: Result<Vec<_>, MemoryError> = layout::ram(mib)
        .into_iter()
        .map(|(address, size)| {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let mapping = MmapRegion::build(None, size as usize, access, flags).map_err(|e| refused(&e))?;
            GuestRegionMmap::new(mapping, GuestAddress(address))
                .ok_or_else(|| refused(&"an address that is none"))
        })
        .collect();
    GuestMemoryMmap::from_regions(regions?).map_err(|error| refused(&error))
}

/// Has the host give all of the memory now: what it has not got is missed here, and not by the guest.
pub fn prefault(memory: &GuestMemoryMmap) -> Result<(), MemoryError> {
    for region in memory.iter() {
        let (start, length) = (region.as_ptr(), region.len() as usize);
        // SAFETY: the range is this process's own, readable and writable; its contents stay as they are.
        if unsafe { libc::madvise(start.cast(), length, libc::MADV_POPULATE_WRITE) } != 0 {
            return Err(MemoryError::NoPages(io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// An image opened for loading: its length is known and any part of it can be put into guest memory.
pub enum Source<'a> {
    /// A file.
    File {
        /// The open file.
        file: File,
        /// Its length when it was opened.
        length: u64,
        /// Its name, for errors.
        name: String,
    },
    /// Part of this binary.
    Embedded(Embedded),
    /// Other bytes.
    Bytes(&'a [u8]),
}

impl<'a> Source<'a> {
    /// Opens an image.
    pub fn open(image: &'a Image, what: &str) -> Result<Self, MemoryError> {
        match image {
            Image::File(path) => {
                let name = format!("{what} {}", path.display());
                let wrap = |source| MemoryError::Unreadable { what: name.clone(), source };
                let file = File::open(path).map_err(wrap)?;
                let length = file.metadata().map_err(wrap)?.len();
                Ok(Self::File { file, length, name })
            }
            Image::Embedded(embedded) => Ok(Self::Embedded(*embedded)),
            Image::Bytes(bytes) => Ok(Self::Bytes(bytes)),
        }
    }

    /// The image's length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::File { length, .. } => *length,
            Self::Embedded(embedded) => embedded.bytes().len() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Reads a part of the image into `buffer`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let bytes = match self {
            Self::File { file, name, .. } => {
                let wrap = |source| MemoryError::Unreadable { what: name.clone(), source };
                return file.read_exact_at(buffer, offset).map_err(wrap);
            }
            Self::Embedded(embedded) => embedded.bytes(),
            Self::Bytes(bytes) => bytes,
        };
        let part = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)?.get(..buffer.len()));
        buffer.copy_from_slice(part.ok_or_else(|| self.ends_early())?);
        Ok(())
    }

    fn ends_early(&self) -> MemoryError {
        let what = match self {
            Self::File { name, .. } => name.clone(),
            _ => "the embedded image".into(),
        };
        MemoryError::Unreadable { what, source: io::ErrorKind::UnexpectedEof.into() }
    }

    /// Puts `length` bytes from `offset` of the image at `address` of guest memory: whole pages are mapped
    /// copy-on-write where image and guest address agree on the page boundary, everything else is copied.
    ///
    /// The caller has checked that the range is RAM, below the hole, and that the image is long enough.
    pub fn place(
        &self,
        memory: &GuestMemoryMmap,
        address: u64,
        offset: u64,
        length: u64,
    ) -> Result<(), MemoryError> {
        let end = address + length;
        let (first, last) = (address.next_multiple_of(PAGE), end / PAGE * PAGE);
        if first >= last || address % PAGE != offset % PAGE {
            return self.copy(memory, address, offset, length);
        }
        if self.map(memory, first, offset + (first - address), last - first).is_err() {
            return self.copy(memory, address, offset, length);
        }
        self.copy(memory, address, offset, first - address)?;
        self.copy(memory, last, offset + (last - address), end - last)
    }

    /// Maps whole pages over guest memory.
    fn map(&self, memory: &GuestMemoryMmap, address: u64, offset: u64, length: u64) -> io::Result<()> {
        let slice = memory.get_slices(GuestAddress(address), length as usize).next();
        let target = match slice {
            Some(Ok(slice)) if slice.len() as u64 == length => slice.ptr_guard_mut().as_ptr(),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let length = length as usize;
        let mapped = match self {
            Self::File { file, .. } => {
                let (access, flags) =
                    (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED);
                let fd = file.as_raw_fd();
                // SAFETY: `target` is the start of `length` bytes of guest RAM, which is this process's own anonymous
                // mapping made of whole pages: replacing pages of it keeps every pointer into it valid.
                unsafe { libc::mmap(target.cast(), length, access, flags, fd, offset as libc::off_t) }
            }
            Self::Embedded(embedded) => {
                let part = embedded.bytes().get(offset as usize..).and_then(|rest| rest.get(..length));
                let start = part.ok_or(io::ErrorKind::InvalidInput)?.as_ptr();
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
                // SAFETY: as above for the target. The source is whole pages of this binary's private file mapping,
                // never written, as `Embedded` promises; MREMAP_DONTUNMAP leaves them mapped, and they read from the file again.
                unsafe { libc::mremap(start.cast_mut().cast(), length, length, flags, target) }
            }
            Self::Bytes(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn copy(
        &self,
        memory: &GuestMemoryMmap,
        address: u64,
        offset: u64,
        length: u64,
    ) -> Result<(), MemoryError> {
        let mut buffer = vec![0; length.min(1 << 20) as usize];
        let mut done = 0;
        while done < length {
            let step = (length - done).min(buffer.len() as u64) as usize;
            self.read(offset + done, &mut buffer[..step])?;
            memory
                .write_slice(&buffer[..step], GuestAddress(address + done))
                .map_err(|_| self.ends_early())?;
            done += step as u64;
        }
        Ok(())
    }
}

/// The end of RAM below the hole.
pub fn low_end(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().next().map_or(0, |region| region.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Bytes whose value tells their place.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n / 7 + n / 4096) as u8).collect()
    }

    fn bytes(memory: &GuestMemoryMmap, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    #[test]
    fn refuses_silly_amounts() {
        for mib in [0, layout::MIN_MEMORY_MIB - 1, layout::MAX_MEMORY_MIB + 1, u64::MAX] {
            assert!(matches!(allocate(mib), Err(MemoryError::Amount(_))));
        }
    }

    #[test]
    fn has_memory_on_both_sides_of_the_hole() {
        let memory = allocate(4096).unwrap();
        memory.write_obj(1u8, GuestAddress(layout::HOLE_START - 1)).unwrap();
        memory.write_obj(1u8, GuestAddress(layout::HOLE_END + (1 << 30) - 1)).unwrap();
        assert!(memory.write_obj(1u8, GuestAddress(layout::HOLE_START)).is_err());
        assert!(memory.write_obj(1u8, GuestAddress(layout::HOLE_END + (1 << 30))).is_err());
        assert!(memory.write_obj(1u16, GuestAddress(layout::HOLE_START - 1)).is_err());
    }

    #[test]
    fn gives_all_of_it_at_once_where_asked() {
        let memory = allocate(16).unwrap();
        memory.write_obj(7u8, GuestAddress(0x1234)).unwrap();
        prefault(&memory).unwrap();
        let region = memory.iter().next().unwrap();
        let mut pages = vec![0u8; 16 << 8];
        // SAFETY: the range is mapped, and there is a byte for each page of it.
        let looked = unsafe { libc::mincore(region.as_ptr().cast(), 16 << 20, pages.as_mut_ptr()) };
        assert_eq!(looked, 0);
        assert!(pages.iter().all(|page| page & 1 == 1));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1234)).unwrap(), 7);
    }

    #[test]
    fn huge_pages_that_are_not_there_are_told_with_the_way_out() {
        let backing = Backing { huge_pages: true, prefault: false };
        // No host reserves that many.
        let error = allocate_from(1 << 20, backing).unwrap_err();
        assert!(error.to_string().contains("vm.nr_hugepages"), "{error}");
        assert!(error.to_string().contains("524288"), "{error}");
    }

    #[test]
    fn places_a_file_whatever_its_alignment() {
        let contents = pattern(20_000);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&contents).unwrap();
        let image = Image::File(file.path().into());
        let source = Source::open(&image, "kernel").unwrap();
        assert_eq!(source.length(), 20_000);
        for (address, offset, length) in
            [(0x10_0000, 0, 20_000), (0x10_0123, 0x123, 19_000), (0x10_0200, 5, 9000), (0x10_0000, 4096, 10)]
        {
            let memory = allocate(16).unwrap();
            source.place(&memory, address, offset, length).unwrap();
            let part = &contents[offset as usize..(offset + length) as usize];
            assert_eq!(bytes(&memory, address, length as usize), part);
            assert_eq!(bytes(&memory, address - 16, 16), [0; 16]);
            assert_eq!(bytes(&memory, address + length, 16), [0; 16]);
        }
    }

    #[test]
    fn writing_to_a_placed_file_leaves_the_file_alone() {
        let contents = pattern(8192);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&contents).unwrap();
        let image = Image::File(file.path().into());
        let memory = allocate(16).unwrap();
        Source::open(&image, "kernel").unwrap().place(&memory, 0x10_0000, 0, 8192).unwrap();
        memory.write_slice(&[0xff; 8192], GuestAddress(0x10_0000)).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), contents);
    }

    #[test]
    fn maps_the_binarys_own_pages_and_leaves_them_as_they_were() {
        #[repr(align(4096))]
        struct Pages(std::cell::UnsafeCell<[u8; 12_388]>);
        // SAFETY: never written.
        unsafe impl Sync for Pages {}
        static PAGES: Pages = Pages(std::cell::UnsafeCell::new([0xa5; 12_388]));
        // SAFETY: as above, and a static that is interiorly mutable lies in the binary's writable data.
        let embedded = unsafe { Embedded::new(&*PAGES.0.get()) }.unwrap();
        let image = Image::Embedded(embedded);
        let memory = allocate(16).unwrap();
        for address in [0x20_0000, 0x30_0000] {
            Source::open(&image, "kernel").unwrap().place(&memory, address, 0, 12_388).unwrap();
            assert_eq!(bytes(&memory, address, 12_388), [0xa5; 12_388]);
            assert_eq!(bytes(&memory, address + 12_388, 16), [0; 16]);
            memory.write_slice(&[1; 12_388], GuestAddress(address)).unwrap();
        }
        assert_eq!(embedded.bytes(), [0xa5; 12_388]);
    }
}
