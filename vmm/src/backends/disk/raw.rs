//! A disk that is one file, or one block device of the host.

use super::engine::PUNCH;
use super::transfer::transfer;
use super::{Direction, Disk, OpenError, Place};
use crate::backends::scatter::Cursor;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use vm_memory::VolatileSlice;

/// What a disk's file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only; the guest sees a read-only disk.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
    /// The same, of a file that nobody wants after the guest: flushing it does nothing, so that no write waits for the
    /// host's disk. What the guest reads back is right as long as the host runs.
    Throwaway,
}

/// A raw disk image: byte N of the file is byte N of the disk.
#[derive(Debug)]
pub struct Raw {
    file: File,
    bytes: u64,
    access: Access,
    /// Its file system gives ranges back.
    punches: bool,
}

impl Raw {
    /// Opens the file or block device at `path`.
    pub fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        let wrap = |source| OpenError::Unreadable { path: path.into(), source };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(access != Access::ReadOnly).open(path).map_err(wrap)?;
        Self::from_file(file, access).map_err(wrap)
    }

    /// Takes a file that is open already. Its size is rounded down to whole sectors.
    pub fn from_file(mut file: File, access: Access) -> io::Result<Self> {
        let bytes = file.seek(SeekFrom::End(0))? & !511;
        let mut disk = Self { file, bytes, access, punches: false };
        // Behind its end there is nothing to give back, but whether that can be done at all is told. Where such a range is an
        // error, as on a block device, that is left to whoever knows the ranges.
        disk.punches = access != Access::ReadOnly && disk.punch(bytes.next_multiple_of(4096), 4096).is_ok();
        Ok(disk)
    }

    fn writable(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match (self.access, offset.checked_add(bytes)) {
            (Access::ReadOnly, _) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            (_, Some(end)) if end <= self.bytes => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Gives a range's blocks back to the file system; it reads as zeroes afterwards.
    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let range =
            |value| libc::off64_t::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let (offset, bytes) = (range(offset)?, range(bytes)?);
        // SAFETY: `fallocate` takes no pointers and the descriptor is open.
        match unsafe { libc::fallocate64(self.file.as_raw_fd(), PUNCH, offset, bytes) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Disk for Raw {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    fn read(&mut self, offset: u64, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut cursor = Cursor::new(buffers);
        let bytes = cursor.remaining();
        transfer(&self.file, Direction::Read, offset, &mut cursor, bytes)
    }

    fn write(&mut self, offset: u64, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut cursor = Cursor::new(buffers);
        let bytes = cursor.remaining();
        self.writable(offset, bytes)?;
        transfer(&self.file, Direction::Write, offset, &mut cursor, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.access {
            Access::ReadOnly | Access::Throwaway => Ok(()),
            Access::ReadWrite => self.file.sync_data(),
        }
    }

    fn discard(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        self.writable(offset, bytes)?;
        match self.punch(offset, bytes) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            result => result,
        }
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.file.as_fd()]
    }

    fn place(&self, direction: Direction, offset: u64, bytes: u64) -> Option<Place> {
        let may = direction == Direction::Read || self.access != Access::ReadOnly;
        let within = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        (may && within).then_some(Place { file: 0, offset })
    }

    fn can_give_back(&self) -> bool {
        self.punches
    }

    fn flushed(&self) -> Option<u32> {
        (self.access == Access::ReadWrite).then_some(0)
    }

    fn write_zeroes(&mut self, mut offset: u64, mut bytes: u64) -> io::Result<()> {
        self.writable(offset, bytes)?;
        match self.punch(offset, bytes) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            result => return result,
        }
        static ZEROES: [u8; 65536] = [0; 65536];
        while bytes > 0 {
            let step = bytes.min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..step as usize], offset)?;
            offset += step;
            bytes -= step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn reads_and_writes_scattered_buffers() {
        let mut disk = Raw::from_file(file(&[7; 4096]), Access::ReadWrite).unwrap();
        let (mut a, mut b) = (vec![1u8; 100], vec![2u8; 924]);
        disk.write(512, &[VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..])]).unwrap();
        let (mut c, mut d) = (vec![0u8; 600], vec![0u8; 1448]);
        disk.read(0, &[VolatileSlice::from(&mut c[..]), VolatileSlice::from(&mut d[..])]).unwrap();
        let all = [c, d].concat();
        assert_eq!(all[..512], [7; 512]);
        assert_eq!(all[512..612], [1; 100]);
        assert_eq!(all[612..1536], [2; 924]);
        assert_eq!(all[1536..], [7; 512]);
    }

    #[test]
    fn moves_more_buffers_than_one_system_call_takes() {
        let contents: Vec<u8> = (0..512 * 200).map(|n| (n / 512) as u8).collect();
        let mut disk = Raw::from_file(file(&contents), Access::ReadOnly).unwrap();
        let mut memory = vec![0u8; contents.len()];
        let buffers: Vec<_> = memory.chunks_mut(512).map(VolatileSlice::from).collect();
        disk.read(0, &buffers).unwrap();
        assert_eq!(memory, contents);
    }

    #[test]
    fn refuses_to_write_what_is_read_only_or_beyond_the_end() {
        let mut one = [0u8; 512];
        let mut disk = Raw::from_file(file(&[0; 1024]), Access::ReadOnly).unwrap();
        assert!(disk.write(0, &[VolatileSlice::from(&mut one[..])]).is_err());
        assert!(disk.discard(0, 512).is_err());
        let mut disk = Raw::from_file(file(&[0; 1024]), Access::ReadWrite).unwrap();
        assert!(disk.write(1024, &[VolatileSlice::from(&mut one[..])]).is_err());
        assert!(disk.write_zeroes(u64::MAX, 512).is_err());
        assert!(disk.read(1024, &[VolatileSlice::from(&mut one[..])]).is_err());
    }

    #[test]
    fn says_where_ranges_are_that_it_lets_be_moved() {
        let disk = Raw::from_file(file(&[0; 4096]), Access::ReadWrite).unwrap();
        assert_eq!(disk.place(Direction::Write, 512, 512), Some(Place { file: 0, offset: 512 }));
        assert_eq!(disk.place(Direction::Read, 4096, 512), None);
        assert_eq!(disk.place(Direction::Read, u64::MAX, 512), None);
        assert_eq!(disk.flushed(), Some(0));
        let disk = Raw::from_file(file(&[0; 4096]), Access::ReadOnly).unwrap();
        assert_eq!((disk.place(Direction::Write, 0, 512), disk.flushed()), (None, None));
        let disk = Raw::from_file(file(&[0; 4096]), Access::Throwaway).unwrap();
        assert_eq!(disk.flushed(), None, "nobody waits for the host's disk");
    }

    #[test]
    fn finds_out_whether_its_file_system_gives_ranges_back() {
        let disk = Raw::from_file(file(&[7; 5000]), Access::ReadWrite).unwrap();
        assert_eq!(disk.can_give_back(), disk.punch(0, 512).is_ok());
        assert_eq!(disk.file.metadata().unwrap().len(), 5000, "its length stays");
        assert!(!Raw::from_file(file(&[7; 4096]), Access::ReadOnly).unwrap().can_give_back());
    }

    #[test]
    fn zeroes_a_range_and_leaves_its_neighbours() {
        let mut disk = Raw::from_file(file(&[9; 16384]), Access::ReadWrite).unwrap();
        disk.write_zeroes(4096, 8192).unwrap();
        let mut all = vec![1u8; 16384];
        disk.read(0, &[VolatileSlice::from(&mut all[..])]).unwrap();
        assert_eq!(all[..4096], [9; 4096]);
        assert_eq!(all[4096..12288], [0; 8192]);
        assert_eq!(all[12288..], [9; 4096]);
    }
}
