//! The registers, and what a driver that breaks the rules meets.

use super::super::testing::{BUFFERS, Driver, INDIRECT, MEMORY, NEXT, WRITE, write_descriptor};
use super::super::{EVENT_IDX, INDIRECT_DESC};
use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Copies what it reads to what it writes, and counts resets.
#[derive(Default)]
struct Echo {
    resets: Arc<AtomicU64>,
    written: Vec<(u64, Vec<u8>)>,
}

impl Device for Echo {
    fn id(&self) -> u32 {
        42
    }
    fn queues(&self) -> &'static [u16] {
        &[8, 8]
    }
    fn features(&self) -> u64 {
        0b1010
    }
    fn config(&self) -> &[u8] {
        &[1, 2, 3, 4, 5, 6]
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.written.push((offset, data.to_vec()));
    }
    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        io.serve(queue, |chain| {
            let mut bytes = Vec::new();
            while chain.readable_bytes() > 0 {
                bytes.push(chain.read::<u8>()?);
            }
            Ok(chain.write_at(0, &bytes) as u32)
        })
    }
    fn reset(&mut self, _: &Poller) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }
}

fn started() -> Driver {
    Driver::start(Box::<Echo>::default(), u64::MAX)
}

/// Sends a good request and expects the answer.
fn works(driver: &mut Driver) {
    driver.put(BUFFERS, b"hello");
    driver.used(0);
    let head = driver.add(0, &[(BUFFERS, 5, false), (BUFFERS + 4096, 3, true), (BUFFERS + 8192, 9, true)]);
    driver.kick(0);
    assert!(!driver.needs_reset(), "{:?}", driver.transport.fault());
    assert_eq!(driver.used(0), [(head, 5)]);
    assert_eq!(driver.get(BUFFERS + 4096, 3), b"hel");
    assert_eq!(driver.get(BUFFERS + 8192, 3), b"lo\0");
}

#[test]
fn identifies_itself() {
    let driver = Driver::find(Box::<Echo>::default());
    assert_eq!(driver.read(register::MAGIC_VALUE), u32::from_le_bytes(*b"virt"));
    assert_eq!(driver.read(register::VERSION), 2);
    assert_eq!(driver.read(register::DEVICE_ID), 42);
    assert_eq!(driver.offered(), 0b1010 | VERSION_1 | INDIRECT_DESC | EVENT_IDX);
    let mut config = [9; 8];
    driver.transport.read(register::CONFIG, &mut config);
    assert_eq!(config, [1, 2, 3, 4, 5, 6, 0, 0]);
    driver.transport.read(register::CONFIG + 0xf0, &mut config);
    assert_eq!(config, [0; 8]);
}

#[test]
fn answers_requests_once_in_operation() {
    works(&mut started());
}

#[test]
fn interrupts_and_takes_acknowledgements() {
    let mut driver = Driver::start(Box::<Echo>::default(), 0);
    works(&mut driver);
    assert_eq!(driver.read(register::INTERRUPT_STATUS), 1);
    assert_eq!(driver.transport.interrupt().line().read().unwrap(), 1);
    driver.write(register::INTERRUPT_ACK, 1);
    assert_eq!(driver.read(register::INTERRUPT_STATUS), 0);
}

#[test]
fn refuses_features_it_did_not_offer_and_drivers_of_the_legacy_kind() {
    for features in [VERSION_1 | 1, 0b1010] {
        let driver = Driver::find(Box::<Echo>::default());
        driver.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        driver.accept(features);
        driver.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        assert_eq!(driver.read(register::STATUS), status::ACKNOWLEDGE | status::DRIVER);
        driver.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
        assert_eq!(driver.read(register::STATUS) & status::DRIVER_OK, 0);
    }
}

#[test]
fn features_stand_once_agreed_on() {
    let mut driver = Driver::find(Box::<Echo>::default());
    driver.negotiate(u64::MAX);
    driver.accept(0xffff_ffff);
    driver.set_up_queues();
    driver.write(register::STATUS, 0xf);
    works(&mut driver);
}

#[test]
fn a_reset_puts_everything_back() {
    let resets = Arc::new(AtomicU64::new(0));
    let mut driver = Driver::start(Box::new(Echo { resets: resets.clone(), ..Echo::default() }), 0);
    works(&mut driver);
    driver.write(register::STATUS, 0);
    assert_eq!(resets.load(Ordering::Relaxed), 1);
    assert_eq!(driver.read(register::STATUS), 0);
    assert_eq!(driver.read(register::INTERRUPT_STATUS), 0);
    assert_eq!(driver.read(register::QUEUE_READY), 0);
    driver.kick(0);
    driver.negotiate(u64::MAX);
    driver.set_up_queues();
    driver.write(register::STATUS, 0xf);
    works(&mut driver);
}

#[test]
fn a_live_queue_cannot_be_moved() {
    let mut driver = started();
    works(&mut driver);
    driver.write(register::QUEUE_SEL, 0);
    for register in [register::QUEUE_DESC_LOW, register::QUEUE_DRIVER_LOW, register::QUEUE_DEVICE_LOW] {
        driver.write(register, 0xdead_0000);
    }
    driver.write(register::QUEUE_NUM, 2);
    works(&mut driver);
}

#[test]
fn a_queue_taken_back_is_left_alone() {
    let mut driver = started();
    driver.write(register::QUEUE_SEL, 0);
    driver.write(register::QUEUE_READY, 0);
    driver.add(0, &[(BUFFERS, 5, false)]);
    driver.kick(0);
    assert!(driver.used(0).is_empty());
    assert!(!driver.needs_reset());
}

#[test]
fn queues_outside_memory_are_not_entered() {
    for register in [register::QUEUE_DESC_HIGH, register::QUEUE_DRIVER_HIGH, register::QUEUE_DEVICE_HIGH] {
        let mut driver = Driver::find(Box::<Echo>::default());
        driver.negotiate(u64::MAX);
        driver.set_up_queues();
        driver.write(register::QUEUE_SEL, 0);
        driver.write(register::QUEUE_READY, 0);
        driver.write(register, 0x7fff_ffff);
        driver.write(register::QUEUE_READY, 1);
        driver.write(register::STATUS, 0xf);
        assert!(driver.needs_reset());
        assert_eq!(driver.read(register::INTERRUPT_STATUS), 2);
        driver.kick(0);
    }
}

/// Runs a chain that breaks the rules, expects the device to give up, and to work again after a reset.
fn breaks(make: impl Fn(&mut Driver)) {
    let mut driver = started();
    make(&mut driver);
    driver.kick(0);
    assert!(driver.needs_reset(), "was accepted");
    assert!(driver.transport.fault().is_some());
    driver.kick(0);
    driver.write(register::STATUS, 0);
    assert!(!driver.needs_reset());
    driver.negotiate(u64::MAX);
    driver.set_up_queues();
    driver.write(register::STATUS, 0xf);
    works(&mut driver);
}

#[test]
fn rejects_a_chain_that_loops() {
    breaks(|driver| {
        driver.descriptor(0, 0, BUFFERS, 1, NEXT, 1);
        driver.descriptor(0, 1, BUFFERS, 1, NEXT, 0);
        driver.offer(0, 0);
    });
}

#[test]
fn rejects_a_chain_that_leaves_its_table() {
    breaks(|driver| {
        driver.descriptor(0, 0, BUFFERS, 1, NEXT, 8);
        driver.offer(0, 0);
    });
    breaks(|driver| driver.offer(0, 8));
    breaks(|driver| driver.offer(0, 0xffff));
}

#[test]
fn rejects_buffers_outside_memory() {
    for (address, length) in
        [(MEMORY, 1), (MEMORY - 1, 2), (u64::MAX, 2), (u64::MAX - 1, 1), (0, u32::MAX), (BUFFERS, 1 << 31)]
    {
        breaks(|driver| {
            driver.add(0, &[(address, length, true)]);
        });
    }
}

#[test]
fn rejects_readable_buffers_after_writable_ones() {
    breaks(|driver| {
        driver.add(0, &[(BUFFERS, 1, true), (BUFFERS, 1, false)]);
    });
}

#[test]
fn rejects_more_requests_than_the_queue_holds() {
    breaks(|driver| {
        for _ in 0..9 {
            driver.add(0, &[(BUFFERS, 1, false)]);
        }
    });
}

#[test]
fn accepts_an_indirect_table_and_rejects_wrong_ones() {
    let table = BUFFERS + 0x1_0000;
    let mut driver = started();
    driver.put(BUFFERS, b"abc");
    write_descriptor(&driver.memory, table, 0, BUFFERS, 3, NEXT, 1);
    write_descriptor(&driver.memory, table, 1, BUFFERS + 16, 3, WRITE, 0);
    driver.descriptor(0, 0, table, 32, INDIRECT, 0);
    driver.offer(0, 0);
    driver.kick(0);
    assert_eq!(driver.used(0), [(0, 3)]);
    assert_eq!(driver.get(BUFFERS + 16, 3), b"abc");

    breaks(|driver| {
        // A table in a table.
        write_descriptor(&driver.memory, table, 0, table, 32, INDIRECT, 0);
        driver.descriptor(0, 0, table, 32, INDIRECT, 0);
        driver.offer(0, 0);
    });
    for length in [0, 15, 17, 1 << 20] {
        breaks(|driver| {
            driver.descriptor(0, 0, table, length, INDIRECT, 0);
            driver.offer(0, 0);
        });
    }
    breaks(|driver| {
        driver.descriptor(0, 0, MEMORY - 16, 32, INDIRECT, 0);
        write_descriptor(&driver.memory, MEMORY - 16, 0, BUFFERS, 1, NEXT, 1);
        driver.offer(0, 0);
    });
    breaks(|driver| {
        // Longer than the queue: nine descriptors of a queue of eight.
        for at in 0..9 {
            write_descriptor(&driver.memory, table, at, BUFFERS, 1, if at < 8 { NEXT } else { 0 }, at + 1);
        }
        driver.descriptor(0, 0, table, 9 * 16, INDIRECT, 0);
        driver.offer(0, 0);
    });
}

#[test]
fn ignores_accesses_of_other_widths_and_unknown_registers() {
    let mut driver = started();
    for width in [1, 2, 8] {
        driver.transport.write(register::STATUS, &vec![0; width]);
        driver.transport.write(register::QUEUE_NOTIFY, &vec![0; width]);
        let mut data = vec![7; width];
        driver.transport.read(register::STATUS, &mut data);
        assert_eq!(data, vec![0; width]);
    }
    driver.write(register::QUEUE_NOTIFY, 77);
    driver.write(register::QUEUE_SEL, 77);
    assert_eq!(driver.read(register::QUEUE_NUM_MAX), 0);
    works(&mut driver);
}

proptest! {
    #[test]
    fn survives_any_registers(writes in prop::collection::vec((0u64..0x80, any::<u32>()), 0..60)) {
        let driver = started();
        for (register, value) in writes {
            // Small values reach more states than random ones.
            driver.write(register * 4, if value & 1 == 0 { value >> 1 & 0xf } else { value });
            driver.work();
            driver.read(register * 4);
        }
    }

    #[test]
    fn survives_any_descriptors(
        table in prop::collection::vec((0u64..MEMORY * 2, 0u32..0x2_0000, 0u16..8, 0u16..10), 8),
        heads in prop::collection::vec(0u16..10, 1..8),
    ) {
        let mut driver = started();
        for (at, (address, length, flags, next)) in table.into_iter().enumerate() {
            // Buffers must not lie over the rings, or the outcome depends on luck.
            driver.descriptor(0, at as u16, address | BUFFERS, length, flags, next);
        }
        for head in heads {
            driver.offer(0, head);
        }
        driver.kick(0);
    }
}

/// Has something under way until its descriptor is ready and it settles.
struct Busy {
    event: EventFd,
    idle: bool,
}

impl Device for Busy {
    fn id(&self) -> u32 {
        42
    }
    fn queues(&self) -> &'static [u16] {
        &[8]
    }
    fn activate(&mut self, _: u64, io: &mut Io<'_>) -> Result<(), Fault> {
        io.poller.add(&self.event, 0, EventSet::IN).map_err(|_| Fault("no descriptor"))
    }
    fn kicked(&mut self, _: usize, _: &mut Io<'_>) -> Result<(), Fault> {
        self.idle = false;
        Ok(())
    }
    fn is_idle(&self) -> bool {
        self.idle
    }
    fn settle(&mut self) {
        let _ = self.event.read();
        self.idle = true;
    }
}

#[test]
fn a_reset_waits_until_nothing_is_under_way() {
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    let busy = Busy { event: event.try_clone().unwrap(), idle: true };
    let driver = Driver::start(Box::new(busy), u64::MAX);
    driver.kick(0);
    let transport = driver.transport.clone();
    let reset = std::thread::spawn(move || transport.write(register::STATUS, &[0; 4]));
    while driver.transport.state().resetting == 0 {
        std::thread::yield_now();
    }
    assert_ne!(driver.read(register::STATUS), 0, "it is not done yet");
    event.write(1).unwrap();
    driver.work();
    reset.join().unwrap();
    assert_eq!(driver.read(register::STATUS), 0);
}
