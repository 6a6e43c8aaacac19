//! A driver that does anything: registers, configuration, chains of every shape, rings written over, resets, in any order.

use super::Input;
use crate::backends::disk::{Access, Raw};
use crate::backends::net::rate::Rates;
use crate::backends::net::{Passt, Port};
use crate::devices::bus::Registers;
use crate::devices::virtio::Device;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::blk::Blk;
use crate::devices::virtio::console::{Console, PortConfig, Size};
use crate::devices::virtio::fs::Fs;
use crate::devices::virtio::mem::{Mem, Pool};
use crate::devices::virtio::net::Net;
use crate::devices::virtio::pmem::Pmem;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::{BUFFERS, Driver, MEMORY};
use crate::devices::virtio::transport::register;
use crate::devices::virtio::vsock::Vsock;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use vm_memory::{Bytes, GuestAddress};

/// Steps of one input: a device that takes more is no other device then.
const MOST_STEPS: usize = 200;

/// A device to be fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the devices")]
pub enum Kind {
    Blk,
    Net,
    Console,
    Vsock,
    Rng,
    Balloon,
    Fs,
    Mem,
    Pmem,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Blk,
        Self::Net,
        Self::Console,
        Self::Vsock,
        Self::Rng,
        Self::Balloon,
        Self::Fs,
        Self::Mem,
        Self::Pmem,
    ];

    /// What its target is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blk => "blk",
            Self::Net => "net",
            Self::Console => "console",
            Self::Vsock => "vsock",
            Self::Rng => "rng",
            Self::Balloon => "balloon",
            Self::Fs => "fs",
            Self::Mem => "mem",
            Self::Pmem => "pmem",
        }
    }
}

/// A device, and what must stay as long as it does.
struct World {
    device: Box<dyn Device>,
    _others: (Vec<UnixStream>, Option<UnixListener>, Option<tempfile::TempDir>),
}

/// Memory of which each byte is plugged once and unplugged once.
#[derive(Default)]
struct Books(BTreeMap<u64, u64>);

impl Pool for Books {
    fn plug(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        for at in (offset..offset + bytes).step_by(1 << 20) {
            assert_eq!(self.0.insert(at, 1 << 20), None, "plugged twice");
        }
        Ok(())
    }

    fn unplug(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        for at in (offset..offset + bytes).step_by(1 << 20) {
            assert!(self.0.remove(&at).is_some(), "not plugged");
        }
        Ok(())
    }
}

fn world(kind: Kind) -> World {
    let (mut streams, mut listener, mut directory) = (Vec::new(), None, None);
    let device: Box<dyn Device> = match kind {
        Kind::Blk => {
            let file = tempfile::tempfile().expect("a temporary file");
            file.set_len(1 << 20).expect("a temporary file takes it");
            let disk = Raw::from_file(file, Access::ReadWrite).expect("a file is a disk");
            Box::new(Blk::new(Box::new(disk), "fuzz", 2).expect("a disk"))
        }
        Kind::Net => {
            let mut port = || -> Box<dyn Port> {
                let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
                // A frame to receive, and a length that no frame has.
                let frames = [&[0, 0, 0, 60][..], &[0; 60], &[0, 0, 0, 1, 9]].concat();
                theirs.write_all(&frames).expect("it fits");
                streams.push(theirs);
                Box::new(Passt::new(ours).expect("a socket is a port"))
            };
            let ports = vec![port(), port()];
            Box::new(Net::new([2; 6], 1500, ports, Rates::default(), Box::new(|_| ())).expect("a card"))
        }
        Kind::Console => {
            let file = |path: &str| File::options().read(true).write(true).open(path).expect("a device file");
            let port = |input| PortConfig {
                name: "fuzz".to_owned(),
                is_console: false,
                input,
                output: file("/dev/null"),
            };
            let ports = vec![port(Some(file("/dev/zero"))), port(None)];
            Box::new(Console::new(ports, Size::new().expect("an event descriptor")).expect("a console"))
        }
        Kind::Vsock => {
            let place = tempfile::tempdir().expect("a temporary directory");
            let path = place.path().join("vsock");
            listener = UnixListener::bind(place.path().join("vsock_5")).ok();
            directory = Some(place);
            Box::new(Vsock::new(3, path).expect("a socket"))
        }
        Kind::Rng => Box::new(Rng),
        Kind::Balloon => Box::new(Balloon),
        Kind::Fs => {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
            // An answer that nobody waits for.
            theirs.write_all(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).expect("it fits");
            streams.push(theirs);
            Box::new(Fs::new("work", ours, Box::new(|_| ())).expect("a share"))
        }
        Kind::Mem => {
            let device = Mem::new(8 << 30, 70 << 21, Box::<Books>::default()).expect("a region");
            device.wish().set(20 << 21).expect("a wish");
            Box::new(device)
        }
        Kind::Pmem => Box::new(Pmem::new(5 << 30, 2 << 20)),
    };
    World { device, _others: (streams, listener, directory) }
}

/// A device with a driver whose steps the input tells.
pub fn device(kind: Kind, bytes: &[u8]) {
    let mut input = Input(bytes);
    let World { device, _others } = world(kind);
    let mask = input.double() | if input.byte() & 1 == 0 { u64::MAX } else { 0 };
    let mut driver = Driver::start(device, mask);
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut driver, &mut input);
    }
    // Whatever it was, a reset makes the device usable again.
    driver.write(register::STATUS, 0);
    assert!(!driver.needs_reset());
    assert!(driver.transport.fault().is_none());
}

fn step(driver: &mut Driver, input: &mut Input<'_>) {
    let queues = driver.rings.len();
    let queue = usize::from(input.byte()) % queues.max(1);
    match input.byte() % 10 {
        // A chain of up to 8 buffers.
        0..=2 if queues > 0 => {
            let count = 1 + input.byte() % 8;
            let buffers: Vec<(u64, u32, bool)> = (0..count).map(|_| buffer(input)).collect();
            driver.add(queue, &buffers);
        }
        // Any descriptor at all.
        3 if queues > 0 => {
            let at = input.half() % driver.rings[queue].size;
            let (address, length) = (place(input), input.word());
            driver.descriptor(queue, at, address, length, input.half() % 8, input.half());
        }
        4 if queues > 0 => {
            let head = input.half();
            driver.offer(queue, head);
        }
        5 | 6 => driver.kick(queue as u32),
        // Bytes anywhere: buffers and rings.
        7 => {
            let at = place(input) % MEMORY;
            let length = usize::from(input.byte());
            // What does not fit is not written.
            let _ = driver.memory.write_slice(input.bytes(length), GuestAddress(at));
        }
        8 => {
            let offset = u64::from(input.half() % 0x200);
            let length = [1, 2, 4, 8][usize::from(input.byte() % 4)];
            let value = input.double().to_le_bytes();
            let mut read = [0; 8];
            // It may be a reset.
            driver.rest();
            driver.transport.write(offset, &value[..length]);
            driver.transport.read(offset, &mut read[..length]);
        }
        _ => {
            driver.write(register::STATUS, 0);
            driver.negotiate(input.double());
            driver.set_up_queues();
            driver.write(register::STATUS, 0xf);
        }
    }
    driver.work();
}

/// An address that is often one of memory.
fn place(input: &mut Input<'_>) -> u64 {
    match input.byte() % 8 {
        0 => input.double(),
        1 => u64::from(input.word()) % (MEMORY + 0x1000),
        2 => 0x1_0000 + u64::from(input.half()) * 16,
        _ => BUFFERS + u64::from(input.half()) * 8,
    }
}

fn buffer(input: &mut Input<'_>) -> (u64, u32, bool) {
    let address = place(input);
    let shape = input.byte();
    let length = match shape & 3 {
        0 => input.word(),
        1 => u32::from(input.byte()),
        2 => 16,
        _ => u32::from(input.half()),
    };
    (address, length, shape & 0x80 != 0)
}

/// Packets of a vsock's driver: each a header as the input tells, mostly about the same few ports, with what follows it.
pub fn vsock_packets(bytes: &[u8]) {
    const TRANSMIT: usize = 1;
    const RECEIVE: usize = 0;
    const ROOM: u32 = 4096;
    let mut input = Input(bytes);
    let World { device, _others } = world(Kind::Vsock);
    let mut driver = Driver::start(device, u64::MAX);
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        let shape = input.byte();
        let (source, destination) = match shape & 3 {
            0 => (input.double(), input.double()),
            _ => (3, 2),
        };
        let ports = if shape & 4 == 0 { (1234, 5) } else { (input.word(), input.word()) };
        let length = u32::from(input.half() % 2048);
        let told = if shape & 8 == 0 { length } else { input.word() };
        let kind = if shape & 16 == 0 { 1 } else { input.half() };
        let mut packet = Vec::new();
        packet.extend(source.to_le_bytes());
        packet.extend(destination.to_le_bytes());
        packet.extend([ports.0, ports.1, told].map(u32::to_le_bytes).concat());
        packet.extend([kind, u16::from(input.byte() % 9)].map(u16::to_le_bytes).concat());
        packet.extend([input.word() % 8, input.word(), input.word()].map(u32::to_le_bytes).concat());
        driver.put(BUFFERS, &packet);
        let header = packet.len() as u32;
        driver.add(TRANSMIT, &[(BUFFERS, header, false), (BUFFERS + 0x1000, length, false)]);
        driver.add(RECEIVE, &[(BUFFERS + 0x1_0000, ROOM, true)]);
        driver.kick(TRANSMIT as u32);
        driver.kick(RECEIVE as u32);
        driver.used(TRANSMIT);
        driver.used(RECEIVE);
    }
    // A packet that is shorter than it says is broken, and the only reason to give up.
    let broken = driver.transport.fault().is_none_or(|fault| fault.to_string().contains("shorter"));
    assert!(broken, "{:?}", driver.transport.fault());
}

/// Requests, resets, registers: a little of each.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    // The mask: every feature.
    let start = [0; 9];
    // A chain of a readable buffer of 16 bytes, a writable one of 512 and one of one byte; then a kick.
    let chain = [0, 0, 2, 3, 0, 0, 2, 3, 0, 1, 0x83, 0, 2, 3, 0x40, 0, 0x81, 1];
    let kick = [0, 5];
    let register = [0, 8, 0x34, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    // To the network card's control queue: use two pairs of queues.
    let pairs = [0, 7, 3, 0, 0, 4, 4, 0, 2, 0, 4, 0, 1, 3, 0, 0, 1, 4, 3, 0x40, 0, 0x81, 1, 4, 5];
    let reset = [0, 9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    vec![
        [&start[..], &chain, &kick].concat(),
        [&start[..], &chain, &chain, &kick, &reset, &chain, &kick].concat(),
        [&start[..], &register, &kick, &chain, &kick, &register].concat(),
        [&start[..], &pairs, &[2], &chain[1..], &[2, 5], &[3], &chain[1..], &[3, 5], &pairs].concat(),
        [&start[..], &[1], &chain[1..], &[1, 5], &[2], &chain[1..], &[2, 5]].concat(),
    ]
}

/// A connection: request, data, credit, shutdown, reset.
pub(super) fn packet_seeds() -> Vec<Vec<u8>> {
    let packet = |length: u16, operation: u8| {
        let [low, high] = length.to_le_bytes();
        vec![1, low, high, operation, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    };
    let life: Vec<u8> = [(0, 1), (100, 5), (0, 6), (0, 7), (0, 4), (0, 3)]
        .into_iter()
        .flat_map(|(length, operation)| packet(length, operation))
        .collect();
    vec![packet(0, 1), life]
}
