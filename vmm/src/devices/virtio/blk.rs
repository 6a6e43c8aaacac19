//! virtio-blk: a disk over a [`Disk`] backend. Specification, section 5.2.

use super::{Chain, Device, Fault, Io};
use crate::backends::disk::Disk;
use std::io;
use vm_memory::{ByteValued, Bytes};

/// The device type.
const ID: u32 = 2;
/// Requests in flight. One queue is enough for the one thread that a disk has.
const QUEUES: &[u16] = &[QUEUE_SIZE];
const QUEUE_SIZE: u16 = 128;
const SECTOR: u64 = 512;

/// Feature bits.
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLOCK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Request types.
mod request {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// What a request's last byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// The length of a serial number.
pub const SERIAL_LENGTH: usize = 20;
/// The most that one discard or write-zeroes request covers: 1 GiB, so that zeroing by hand ends.
const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// A request's header.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

// SAFETY: plain integers without padding.
unsafe impl ByteValued for Header {}

/// What a discard or write-zeroes request covers.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

// SAFETY: plain integers without padding.
unsafe impl ByteValued for Range {}

/// The part of the configuration space up to the write-zeroes fields (specification, section 5.2.4).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Config {
    capacity: u64,
    size_max: u32,
    seg_max: u32,
    geometry: u32,
    block_size: u32,
    topology: u64,
    writeback: [u8; 2],
    queues: u16,
    max_discard_sectors: u32,
    max_discard_segments: u32,
    discard_alignment: u32,
    max_write_zeroes_sectors: u32,
    max_write_zeroes_segments: u32,
    write_zeroes_may_unmap: u32,
}

// SAFETY: plain integers; the fields add up to 64 bytes without padding.
unsafe impl ByteValued for Config {}

/// A disk.
pub struct Blk {
    disk: Box<dyn Disk>,
    serial: [u8; SERIAL_LENGTH],
    config: Config,
}

impl Blk {
    /// A disk over `disk`. Of the serial number the first [`SERIAL_LENGTH`] bytes count.
    pub fn new(disk: Box<dyn Disk>, serial: &str) -> Self {
        let mut bytes = [0; SERIAL_LENGTH];
        for (byte, value) in bytes.iter_mut().zip(serial.bytes()) {
            *byte = value;
        }
        let config = Config {
            capacity: disk.bytes() / SECTOR,
            // A chain has room for a header and a status besides.
            seg_max: u32::from(QUEUE_SIZE) - 2,
            block_size: SECTOR as u32,
            queues: 1,
            max_discard_sectors: MAX_RANGE_SECTORS,
            max_discard_segments: 1,
            discard_alignment: 8,
            max_write_zeroes_sectors: MAX_RANGE_SECTORS,
            max_write_zeroes_segments: 1,
            write_zeroes_may_unmap: 1,
            ..Config::default()
        };
        Self { disk, serial: bytes, config }
    }

    /// Does what a request asks for. The number is of the bytes written to it, its status not counted.
    fn execute(&mut self, header: Header, chain: &mut Chain<'_>) -> Result<u32, Refusal> {
        match header.kind {
            request::IN => {
                let bytes = chain.writable_bytes();
                self.disk.read(self.offset(header.sector, bytes)?, chain.writable())?;
                Ok(bytes as u32)
            }
            request::OUT => {
                let offset = self.offset(header.sector, chain.readable_bytes())?;
                self.disk.write(offset, chain.readable())?;
                Ok(0)
            }
            request::FLUSH => {
                self.disk.flush()?;
                Ok(0)
            }
            request::GET_ID => Ok(chain.write_at(0, &self.serial) as u32),
            request::DISCARD | request::WRITE_ZEROES => {
                let range: Range = chain.read().map_err(|_| Refusal(Status::IoError))?;
                let bytes = u64::from(range.sectors) * SECTOR;
                let offset = self.offset(range.sector, bytes)?;
                if range.sectors > MAX_RANGE_SECTORS {
                    return Err(Refusal(Status::IoError));
                }
                match header.kind {
                    // Discarding has no flags; "unmap" is the only one of write-zeroes, and a hint.
                    request::DISCARD if range.flags != 0 => return Err(Refusal(Status::Unsupported)),
                    _ if range.flags > 1 => return Err(Refusal(Status::Unsupported)),
                    request::DISCARD => self.disk.discard(offset, bytes)?,
                    _ => self.disk.write_zeroes(offset, bytes)?,
                }
                Ok(0)
            }
            _ => Err(Refusal(Status::Unsupported)),
        }
    }

    /// Where a request of whole sectors begins, if it ends on the disk.
    fn offset(&self, sector: u64, bytes: u64) -> Result<u64, Refusal> {
        let end = sector.checked_add(bytes / SECTOR);
        match end {
            Some(end) if bytes.is_multiple_of(SECTOR) && end <= self.config.capacity => Ok(sector * SECTOR),
            _ => Err(Refusal(Status::IoError)),
        }
    }
}

/// A request that the device or its backend refused. The guest learns of it and goes on.
struct Refusal(Status);

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self(Status::IoError)
    }
}

impl Device for Blk {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        QUEUES
    }

    fn waits_for_disks(&self) -> bool {
        true
    }

    fn features(&self) -> u64 {
        let always = feature::SEG_MAX | feature::BLOCK_SIZE | feature::FLUSH;
        match self.disk.is_read_only() {
            true => always | feature::READ_ONLY,
            false => always | feature::DISCARD | feature::WRITE_ZEROES,
        }
    }

    fn config(&self) -> &[u8] {
        self.config.as_slice()
    }

    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        io.serve(queue, |chain| {
            let header: Header = chain.read()?;
            let status = chain.take_last_writable()?;
            let (code, written) = match self.execute(header, chain) {
                Ok(written) => (Status::Ok, written),
                Err(Refusal(code)) => (code, 0),
            };
            status.write_obj(code as u8, 0).map_err(|_| Fault("a request has no room for its status"))?;
            Ok(written + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BUFFERS, Driver};
    use super::super::transport::register;
    use super::*;
    use crate::backends::disk::{Access, Raw};
    use proptest::prelude::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use vm_memory::VolatileSlice;

    const DATA: u64 = BUFFERS + 0x1000;
    const STATUS: u64 = BUFFERS + 0x800;

    fn file(sectors: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        for sector in 0..sectors {
            file.write_all_at(&[sector as u8; 512], sector * 512).unwrap();
        }
        file
    }

    fn driver(file: &File, access: Access) -> Driver {
        let disk = Raw::from_file(file.try_clone().unwrap(), access).unwrap();
        Driver::start(Box::new(Blk::new(Box::new(disk), "scratch")), u64::MAX)
    }

    /// Sends a request with one buffer and returns its status and how much was written.
    fn send(driver: &mut Driver, kind: u32, sector: u64, length: u32, writable: bool) -> (u8, u32) {
        driver.put(BUFFERS, Header { kind, reserved: 0, sector }.as_slice());
        driver.put(STATUS, &[0xaa]);
        driver.add(0, &[(BUFFERS, 16, false), (DATA, length, writable), (STATUS, 1, true)]);
        driver.kick(0);
        assert!(!driver.needs_reset(), "{:?}", driver.transport.fault());
        let used = driver.used(0);
        assert_eq!(used.len(), 1);
        (driver.get(STATUS, 1)[0], used[0].1)
    }

    #[test]
    fn reads_and_writes_sectors() {
        let file = file(8);
        let mut driver = driver(&file, Access::ReadWrite);
        assert_eq!(driver.read(register::CONFIG), 8);
        assert_eq!(send(&mut driver, request::IN, 3, 1024, true), (0, 1025));
        assert_eq!(driver.get(DATA, 1024), [[3; 512], [4; 512]].concat());
        driver.put(DATA, &[0x77; 512]);
        assert_eq!(send(&mut driver, request::OUT, 7, 512, false), (0, 1));
        let mut sector = [0; 512];
        file.read_exact_at(&mut sector, 7 * 512).unwrap();
        assert_eq!(sector, [0x77; 512]);
        assert_eq!(send(&mut driver, request::FLUSH, 0, 512, false), (0, 1));
    }

    #[test]
    fn tells_its_serial_number() {
        let mut driver = driver(&file(1), Access::ReadOnly);
        assert_eq!(send(&mut driver, request::GET_ID, 0, 20, true), (0, 21));
        assert_eq!(driver.get(DATA, 20), b"scratch\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn reports_requests_that_leave_the_disk_and_goes_on() {
        let mut driver = driver(&file(8), Access::ReadWrite);
        for (sector, length) in [(8, 512), (7, 1024), (u64::MAX, 512), (u64::MAX / 512, 1024), (0, 100)] {
            assert_eq!(send(&mut driver, request::IN, sector, length, true), (1, 1), "{sector} {length}");
            assert_eq!(send(&mut driver, request::OUT, sector, length, false), (1, 1), "{sector} {length}");
        }
        assert_eq!(send(&mut driver, 99, 0, 512, true), (2, 1));
        assert_eq!(send(&mut driver, request::IN, 0, 512, true), (0, 513));
    }

    #[test]
    fn a_read_only_disk_says_so_and_refuses_writes() {
        let file = file(8);
        let mut driver = driver(&file, Access::ReadOnly);
        assert_ne!(driver.offered() & feature::READ_ONLY, 0);
        assert_eq!(driver.offered() & feature::DISCARD, 0);
        assert_eq!(send(&mut driver, request::OUT, 0, 512, false), (1, 1));
        driver.put(DATA, Range { sector: 0, sectors: 1, flags: 0 }.as_slice());
        assert_eq!(send(&mut driver, request::WRITE_ZEROES, 0, 16, false), (1, 1));
    }

    #[test]
    fn zeroes_and_discards_ranges() {
        let file = file(16);
        let mut driver = driver(&file, Access::ReadWrite);
        let ask = |driver: &mut Driver, kind, sector, sectors, flags| {
            driver.put(DATA, Range { sector, sectors, flags }.as_slice());
            send(driver, kind, 0, 16, false).0
        };
        assert_eq!(ask(&mut driver, request::WRITE_ZEROES, 2, 2, 1), 0);
        let mut sectors = [1; 2048];
        file.read_exact_at(&mut sectors, 512).unwrap();
        assert_eq!(sectors.to_vec(), [[1; 512], [0; 512], [0; 512], [4; 512]].concat());
        assert_eq!(ask(&mut driver, request::DISCARD, 8, 8, 0), 0);
        assert_eq!(ask(&mut driver, request::DISCARD, 8, 9, 0), 1);
        assert_eq!(ask(&mut driver, request::DISCARD, 8, 1, 1), 2);
        assert_eq!(ask(&mut driver, request::WRITE_ZEROES, 8, u32::MAX, 0), 1);
        assert_eq!(ask(&mut driver, request::WRITE_ZEROES, 8, 1, 4), 2);
    }

    #[test]
    fn takes_headers_and_data_however_they_are_split() {
        let file = file(8);
        let mut driver = driver(&file, Access::ReadWrite);
        driver.put(BUFFERS, Header { kind: request::IN, reserved: 0, sector: 2 }.as_slice());
        driver.add(
            0,
            &[
                (BUFFERS, 3, false),
                (BUFFERS + 3, 13, false),
                (DATA, 100, true),
                (DATA + 100, 0, true),
                (DATA + 100, 413, true),
            ],
        );
        driver.kick(0);
        assert_eq!(driver.used(0), [(0, 513)]);
        assert_eq!(driver.get(DATA, 513), [&[2; 512][..], &[0]].concat());
    }

    #[test]
    fn a_request_without_header_or_status_is_a_fault() {
        for buffers in
            [&[(BUFFERS, 15, false), (STATUS, 1, true)][..], &[(BUFFERS, 16, false)], &[(BUFFERS, 16, true)]]
        {
            let mut driver = driver(&file(8), Access::ReadWrite);
            driver.add(0, buffers);
            driver.kick(0);
            assert!(driver.needs_reset());
        }
    }

    #[test]
    fn an_error_of_the_host_reaches_the_guest_as_one() {
        let file = file(8);
        let mut driver = driver(&file, Access::ReadWrite);
        file.set_len(1024).unwrap();
        assert_eq!(send(&mut driver, request::IN, 4, 512, true), (1, 1));
        assert_eq!(send(&mut driver, request::IN, 0, 512, true), (0, 513));
    }

    /// A backend that refuses everything with one error of the system.
    struct Refusing(i32);

    impl Disk for Refusing {
        fn bytes(&self) -> u64 {
            4096
        }
        fn is_read_only(&self) -> bool {
            false
        }
        fn read(&mut self, _: u64, _: &[VolatileSlice<'_>]) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(self.0))
        }
        fn write(&mut self, _: u64, _: &[VolatileSlice<'_>]) -> io::Result<()> {
            self.flush()
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(self.0))
        }
        fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
            self.flush()
        }
        fn write_zeroes(&mut self, _: u64, _: u64) -> io::Result<()> {
            self.flush()
        }
    }

    #[test]
    fn a_full_or_broken_disk_of_the_host_is_an_io_error_and_no_more() {
        for error in [libc::ENOSPC, libc::EIO] {
            let mut driver = Driver::start(Box::new(Blk::new(Box::new(Refusing(error)), "full")), u64::MAX);
            for (kind, writable) in [(request::IN, true), (request::OUT, false), (request::FLUSH, false)] {
                assert_eq!(send(&mut driver, kind, 0, 512, writable), (1, 1), "{error} {kind}");
            }
            driver.put(DATA, Range { sector: 0, sectors: 1, flags: 0 }.as_slice());
            for kind in [request::DISCARD, request::WRITE_ZEROES] {
                assert_eq!(send(&mut driver, kind, 0, 16, false), (1, 1), "{error} {kind}");
            }
            assert_eq!(send(&mut driver, request::GET_ID, 0, 20, true), (0, 21), "it goes on");
        }
    }

    proptest! {
        #[test]
        fn any_request_gets_one_answer(
            kind in 0u32..16, sector in prop_oneof![0u64..20, any::<u64>()], length in 1u32..4096, writable: bool,
            payload in prop::collection::vec(any::<u8>(), 16),
        ) {
            let mut driver = driver(&file(8), Access::ReadWrite);
            driver.put(DATA, &payload);
            let (status, _) = send(&mut driver, kind, sector, length, writable);
            prop_assert!(status <= 2);
        }
    }
}
