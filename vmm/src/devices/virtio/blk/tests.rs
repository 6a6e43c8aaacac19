use super::super::testing::{BUFFERS, Driver};
use super::super::transport::register;
use super::*;
use crate::backends::disk::engine::Job;
use crate::backends::disk::{Access, Raw};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

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
    Driver::start(Box::new(Blk::new(Box::new(disk), "scratch", 1).unwrap()), u64::MAX)
}

/// Sends a request with one buffer and returns its status and how much was written.
fn send(driver: &mut Driver, kind: u32, sector: u64, length: u32, writable: bool) -> (u8, u32) {
    driver.put(BUFFERS, Header { kind, reserved: 0, sector }.as_slice());
    driver.put(STATUS, &[0xaa]);
    driver.add(0, &[(BUFFERS, 16, false), (DATA, length, writable), (STATUS, 1, true)]);
    driver.kick(0);
    let used = wait(driver, 0, 1);
    assert_eq!(used.len(), 1);
    (driver.get(STATUS, 1)[0], used[0].1)
}

/// Waits until a queue has given `count` requests back.
fn wait(driver: &mut Driver, queue: usize, count: usize) -> Vec<(u16, u32)> {
    let started = Instant::now();
    let mut used = driver.used(queue);
    while used.len() < count {
        assert!(!driver.needs_reset(), "{:?}", driver.transport.fault());
        assert!(started.elapsed() < Duration::from_secs(30), "no answer");
        driver.reactor.turn(100).unwrap();
        used.extend(driver.used(queue));
    }
    used
}

/// The same disk with each engine, and with none.
fn drivers(file: &File, access: Access) -> Vec<Driver> {
    type Make = fn(&[std::os::fd::BorrowedFd<'_>]) -> Option<Box<dyn Engine>>;
    let engines: [Make; 3] =
        [|files| Some(engine::choose(files, 128).unwrap()), |files| Some(engine::threads(files)), |_| None];
    let driver = |make: Make| {
        let disk = Raw::from_file(file.try_clone().unwrap(), access).unwrap();
        let engine = make(&disk.files());
        let mut blk = Blk::with_engine(Box::new(disk), "scratch", 1, engine);
        for worker in blk.workers() {
            std::thread::spawn(worker);
        }
        Driver::start(Box::new(blk), u64::MAX)
    };
    engines.into_iter().map(driver).collect()
}

#[test]
fn reads_and_writes_sectors() {
    let file = file(8);
    for (number, mut driver) in drivers(&file, Access::ReadWrite).into_iter().enumerate() {
        assert_eq!(driver.read(register::CONFIG), 8);
        assert_eq!(send(&mut driver, request::IN, 3, 1024, true), (0, 1025));
        assert_eq!(driver.get(DATA, 1024), [[3; 512], [4; 512]].concat());
        driver.put(DATA, &[0x77 + number as u8; 512]);
        assert_eq!(send(&mut driver, request::OUT, 7, 512, false), (0, 1));
        let mut sector = [0; 512];
        file.read_exact_at(&mut sector, 7 * 512).unwrap();
        assert_eq!(sector, [0x77 + number as u8; 512]);
        assert_eq!(send(&mut driver, request::FLUSH, 0, 512, false), (0, 1));
    }
}

#[test]
fn a_batch_is_answered_whole_in_whatever_order() {
    let file = file(64);
    for mut driver in drivers(&file, Access::ReadOnly) {
        for number in 0..40u64 {
            let at = BUFFERS + 0x1_0000 + number * 0x1000;
            driver.put(at, Header { kind: request::IN, reserved: 0, sector: number }.as_slice());
            driver.put(at + 16, &[0xaa]);
            driver.add(0, &[(at, 16, false), (at + 512, 512, true), (at + 16, 1, true)]);
        }
        driver.kick(0);
        let mut heads: Vec<_> = wait(&mut driver, 0, 40).into_iter().map(|(head, _)| head).collect();
        heads.sort();
        assert_eq!(heads, (0..40).map(|number| number * 3).collect::<Vec<_>>());
        for number in 0..40u64 {
            let at = BUFFERS + 0x1_0000 + number * 0x1000;
            assert_eq!(driver.get(at + 16, 1), [0]);
            assert_eq!(driver.get(at + 512, 512), [number as u8; 512]);
        }
    }
}

/// A block that tells its own number, and in which round it was written.
fn block(number: u64, round: u64) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    for (at, word) in block.chunks_exact_mut(8).enumerate() {
        let mixed = (number << 20 | round << 10 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&mixed.to_le_bytes());
    }
    block
}

const BLOCK: u64 = 4096;
/// How many requests are under way at once.
const DEPTH: u64 = 32;

/// Writes or reads (and compares) blocks, in this order.
fn transfer(driver: &mut Driver, order: &[u64], kind: u32, round: u64) {
    for batch in order.chunks(DEPTH as usize) {
        for (place, number) in batch.iter().enumerate() {
            let at = BUFFERS + 0x1_0000 + place as u64 * 0x2000;
            let sector = number * (BLOCK / 512);
            driver.put(at, Header { kind, reserved: 0, sector }.as_slice());
            driver.put(at + 16, &[0xaa]);
            let reads = kind == request::IN;
            driver.put(at + BLOCK, &if reads { [0; BLOCK as usize] } else { block(*number, round) });
            driver.add(0, &[(at, 16, false), (at + BLOCK, BLOCK as u32, reads), (at + 16, 1, true)]);
        }
        driver.kick(0);
        wait(driver, 0, batch.len());
        for (place, number) in batch.iter().enumerate() {
            let at = BUFFERS + 0x1_0000 + place as u64 * 0x2000;
            assert_eq!(driver.get(at + 16, 1), [0], "block {number}");
            let is_right =
                kind == request::OUT || driver.get(at + BLOCK, BLOCK as usize) == block(*number, round);
            assert!(is_right, "block {number} in round {round}");
        }
    }
}

/// As fio's verify does it: every block in some order, many at once, and read back in another. 100,000 blocks in a full run.
#[test]
fn every_block_reads_as_it_was_written_last() {
    let blocks: u64 = if std::env::var_os("FERRY_TEST_FULL").is_some() { 100_000 } else { 500 };
    let file = tempfile::tempfile().unwrap();
    file.set_len(blocks * BLOCK).unwrap();
    // Steps that have no factor in common with the number of blocks come to each of them.
    let order = |step: u64| (0..blocks).map(|n| n * step % blocks).collect::<Vec<_>>();
    for mut driver in drivers(&file, Access::ReadWrite) {
        for (round, (there, back)) in [(7919, 7907), (104_729, 27)].into_iter().enumerate() {
            transfer(&mut driver, &order(there), request::OUT, round as u64);
            assert_eq!(send(&mut driver, request::FLUSH, 0, 512, false).0, 0);
            transfer(&mut driver, &order(back), request::IN, round as u64);
        }
        driver.rest();
    }
    // It is on the host's disk, and not only in what the device remembers.
    let mut last = [0; BLOCK as usize];
    file.read_exact_at(&mut last, (blocks - 1) * BLOCK).unwrap();
    assert!(last == block(blocks - 1, 1));
}

#[test]
fn has_a_queue_for_each_vcpu_up_to_a_number() {
    let queues = |vcpus| {
        let disk = Raw::from_file(file(8), Access::ReadWrite).unwrap();
        Driver::start(Box::new(Blk::new(Box::new(disk), "", vcpus).unwrap()), u64::MAX)
    };
    let mut driver = queues(3);
    assert_ne!(driver.offered() & feature::SEVERAL_QUEUES, 0);
    assert_eq!(driver.read(register::CONFIG + 32) >> 16, 3);
    assert_eq!(driver.rings.len(), 3);
    for queue in [2, 0, 1] {
        driver.put(BUFFERS, Header { kind: request::IN, reserved: 0, sector: 5 }.as_slice());
        driver.put(DATA, &[0; 512]);
        driver.add(queue, &[(BUFFERS, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
        driver.kick(queue as u32);
        assert_eq!(wait(&mut driver, queue, 1), [(0, 513)]);
        assert_eq!(driver.get(DATA, 512), [5; 512]);
    }
    assert_eq!(queues(1).offered() & feature::SEVERAL_QUEUES, 0);
    assert_eq!(queues(64).rings.len(), MAX_QUEUES);
}

/// An engine that moves what it is told to, when it is told to.
struct Held {
    event: EventFd,
    state: Arc<Mutex<HeldState>>,
}

#[derive(Default)]
struct HeldState {
    jobs: Vec<Job>,
    ended: VecDeque<(u32, io::Result<u32>)>,
    /// Where transfers have begun, and how long they were to be.
    seen: Vec<(u64, usize)>,
}

impl Engine for Held {
    fn fd(&self) -> std::os::fd::RawFd {
        self.event.as_raw_fd()
    }
    unsafe fn start(&mut self, job: Job) -> io::Result<()> {
        self.state.lock().unwrap().jobs.push(job);
        Ok(())
    }
    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn ended(&mut self) -> Option<(u32, io::Result<u32>)> {
        let end = self.state.lock().unwrap().ended.pop_front();
        if end.is_none() {
            let _ = self.event.read();
        }
        end
    }
    fn wait(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Ends what is held, and tells where it had begun and how long it was to be.
type End = dyn Fn(&dyn Fn(usize) -> io::Result<u32>) -> Vec<(u64, usize)>;

/// A disk whose transfers are held, with what ends them: each with what the function makes of its length.
fn held() -> (Driver, Box<End>) {
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    let state = Arc::new(Mutex::new(HeldState::default()));
    let engine = Held { event: event.try_clone().unwrap(), state: state.clone() };
    let disk = Raw::from_file(file(16), Access::ReadWrite).unwrap();
    let blk = Blk::with_engine(Box::new(disk), "held", 1, Some(Box::new(engine)));
    let end = move |result: &dyn Fn(usize) -> io::Result<u32>| {
        let mut state = state.lock().unwrap();
        for job in std::mem::take(&mut state.jobs) {
            // SAFETY: what is held has not been told of, so its vectors are there.
            let vectors = unsafe { std::slice::from_raw_parts(job.vectors, job.count as usize) };
            let length = vectors.iter().map(|vector| vector.iov_len).sum();
            state.seen.push((job.offset, length));
            state.ended.push_back((job.tag, result(length)));
        }
        event.write(1).unwrap();
        std::mem::take(&mut state.seen)
    };
    (Driver::start(Box::new(blk), u64::MAX), Box::new(end))
}

fn offer(driver: &mut Driver, kind: u32, sector: u64) {
    driver.put(BUFFERS, Header { kind, reserved: 0, sector }.as_slice());
    let writable = kind == request::IN;
    driver.add(
        0,
        &[(BUFFERS, 16, false), (DATA, 1024, writable), (DATA + 1024, 1024, writable), (STATUS, 1, true)],
    );
}

#[test]
fn a_transfer_that_ends_early_goes_on_where_it_ended() {
    let (mut driver, end) = held();
    offer(&mut driver, request::IN, 2);
    driver.kick(0);
    assert!(driver.used(0).is_empty());
    let mut seen = Vec::new();
    while driver.used(0).is_empty() {
        seen.extend(end(&|length| Ok(length.min(900) as u32)));
        driver.work();
    }
    assert_eq!(seen, [(1024, 2048), (1924, 1148), (2824, 248)]);
    assert_eq!(driver.get(STATUS, 1), [0]);
}

#[test]
fn a_transfer_that_fails_or_ends_at_nothing_is_an_io_error() {
    let full: fn(usize) -> io::Result<u32> = |_| Err(io::Error::from_raw_os_error(libc::ENOSPC));
    let nothing: fn(usize) -> io::Result<u32> = |_| Ok(0);
    for fault in [full, nothing] {
        let (mut driver, end) = held();
        offer(&mut driver, request::OUT, 0);
        driver.kick(0);
        end(&fault);
        driver.work();
        assert_eq!(driver.used(0), [(0, 1)]);
        assert_eq!(driver.get(STATUS, 1), [1]);
        // And goes on.
        offer(&mut driver, request::OUT, 0);
        driver.kick(0);
        end(&|length| Ok(length as u32));
        driver.work();
        assert_eq!((driver.used(0).len(), driver.get(STATUS, 1)), (1, vec![0]));
    }
}

#[test]
fn what_a_host_cannot_begin_for_ever_is_an_io_error() {
    let (mut driver, end) = held();
    offer(&mut driver, request::IN, 0);
    driver.kick(0);
    let mut attempts = 0;
    while driver.used(0).is_empty() {
        end(&|_| Err(io::Error::from_raw_os_error(libc::EAGAIN)));
        driver.work();
        attempts += 1;
        assert!(attempts < 1000);
    }
    assert_eq!(driver.get(STATUS, 1), [1]);
}

#[test]
fn more_requests_than_there_is_room_for_wait_in_their_queue() {
    let (mut driver, end) = held();
    offer(&mut driver, request::IN, 0);
    driver.kick(0);
    // A driver that offers again what it has not got back: it harms itself alone.
    for _ in 0..2 {
        (0..100).for_each(|_| driver.offer(0, 0));
        driver.kick(0);
    }
    assert!(driver.used(0).is_empty() && !driver.stirs());
    assert_eq!(end(&|length| Ok(length as u32)).len(), usize::from(QUEUE_SIZE));
    driver.work();
    assert_eq!(end(&|length| Ok(length as u32)).len(), 201 - usize::from(QUEUE_SIZE));
    driver.work();
    assert!(!driver.needs_reset() && !driver.stirs());
}

#[test]
fn what_was_begun_before_a_fault_still_ends() {
    let (mut driver, end) = held();
    offer(&mut driver, request::IN, 0);
    driver.add(0, &[(BUFFERS, 15, false)]);
    driver.kick(0);
    assert!(driver.needs_reset());
    end(&|length| Ok(length as u32));
    driver.work();
    assert!(driver.used(0).is_empty(), "the driver is told of nothing any more");
    // This would wait for ever if it had not.
    driver.write(register::STATUS, 0);
    assert_eq!(driver.read(register::STATUS), 0);
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
    let disk = file(16);
    let ask = |driver: &mut Driver, kind, sector, sectors, flags| {
        driver.put(DATA, Range { sector, sectors, flags }.as_slice());
        send(driver, kind, 0, 16, false).0
    };
    for mut driver in drivers(&disk, Access::ReadWrite) {
        disk.write_all_at(&[[2; 512], [3; 512]].concat(), 1024).unwrap();
        assert_eq!(ask(&mut driver, request::WRITE_ZEROES, 2, 2, 1), 0);
        let mut sectors = [1; 2048];
        disk.read_exact_at(&mut sectors, 512).unwrap();
        assert_eq!(sectors.to_vec(), [[1; 512], [0; 512], [0; 512], [4; 512]].concat());
        assert_eq!(ask(&mut driver, request::DISCARD, 8, 8, 0), 0);
        assert_eq!(ask(&mut driver, request::DISCARD, 8, 9, 0), 1);
        assert_eq!(ask(&mut driver, request::DISCARD, 8, 1, 1), 2);
        assert_eq!(ask(&mut driver, request::WRITE_ZEROES, 8, u32::MAX, 0), 1);
        assert_eq!(ask(&mut driver, request::WRITE_ZEROES, 8, 1, 4), 2);
    }
    assert_eq!(disk.metadata().unwrap().len(), 8192);
}

#[test]
fn only_what_is_done_at_once_needs_a_thread_of_its_own() {
    let blk = |file: File, access| {
        let disk = Raw::from_file(file, access).unwrap();
        let gives_back = disk.can_give_back();
        (Blk::new(Box::new(disk), "scratch", 1).unwrap(), gives_back)
    };
    let (disk, gives_back) = blk(file(8), Access::ReadWrite);
    assert_eq!(disk.waits_for_disks(), !gives_back);
    assert!(!blk(file(8), Access::ReadOnly).0.waits_for_disks());
    // Of this nothing can be given back.
    let nothing = File::options().read(true).write(true).open("/dev/null").unwrap();
    assert!(blk(nothing, Access::ReadWrite).0.waits_for_disks());
    assert!(Blk::new(Box::new(Refusing(libc::EIO)), "scratch", 1).unwrap().waits_for_disks());
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
    assert_eq!(wait(&mut driver, 0, 1), [(0, 513)]);
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
        let full = Blk::new(Box::new(Refusing(error)), "full", 1).unwrap();
        let mut driver = Driver::start(Box::new(full), u64::MAX);
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
