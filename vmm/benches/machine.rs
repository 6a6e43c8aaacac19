//! What the host's side of a device costs: time, allocations and exits, each figure a line of JSON. `cargo xtask bench machine`
//! runs this and adds what concerns whole processes.

#[path = "../tests/guest/mod.rs"]
mod guest;

mod calls;

use ferry_vmm::backends::disk::{Access, Disk, Raw};
use ferry_vmm::backends::net::Port;
use ferry_vmm::backends::net::rate::Rates;
use ferry_vmm::devices::virtio::Memory;
use ferry_vmm::devices::virtio::blk::Blk;
use ferry_vmm::devices::virtio::net::Net;
use ferry_vmm::devices::virtio::testing::{BUFFERS, Driver};
use ferry_vmm::machine::{Config, Exit, Machine, probe};
use guest::Script;
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

/// Requests of a batch, and batches of a measurement; of several measurements the fastest counts.
const BATCH: usize = 32;
const BATCHES: usize = 2000;
const ROUNDS: usize = 5;
/// Starts of which the one with the least processor time counts.
const STARTS: usize = 5;
/// The sizes that the figures are about.
const BLOCK: usize = 4096;
const PACKET: usize = 1500;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: the system's allocator, and a counter beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the rules.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A disk that is memory: what is left is the queue's cost and the copy's.
struct MemoryDisk(Vec<u8>);

impl Disk for MemoryDisk {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&mut self, offset: u64, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut at = offset as usize;
        for buffer in buffers {
            buffer.copy_from(&self.0[at..at + buffer.len()]);
            at += buffer.len();
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut at = offset as usize;
        for buffer in buffers {
            buffer.copy_to(&mut self.0[at..at + buffer.len()]);
            at += buffer.len();
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A port that takes every frame, and gives as many as it is told to.
struct Sink {
    fd: UnixStream,
    frame: Vec<u8>,
    left: std::sync::Arc<AtomicU64>,
}

impl Port for Sink {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.left.fetch_sub(1, Ordering::Relaxed);
        frame[..self.frame.len()].copy_from_slice(&self.frame);
        Ok(self.frame.len())
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        black_box(frame);
        Ok(())
    }
}

fn say(metric: &str, unit: &str, value: f64) {
    println!("{{\"metric\":\"{metric}\",\"unit\":\"{unit}\",\"value\":{value}}}");
}

/// Nanoseconds and allocations of one request, where `batch` serves [`BATCH`] of them and tells how long that took.
fn each(mut batch: impl FnMut() -> (Duration, u64)) -> (f64, f64) {
    let (mut fastest, mut allocations) = (f64::INFINITY, 0);
    for _ in 0..ROUNDS {
        let (mut time, mut made) = (Duration::ZERO, 0);
        for _ in 0..BATCHES {
            let (one, allocated) = batch();
            time += one;
            made += allocated;
        }
        // The last round: what is allocated once is so by then.
        (fastest, allocations) = (fastest.min(time.as_nanos() as f64), made);
    }
    let requests = (BATCH * BATCHES) as f64;
    (fastest / requests, allocations as f64 / requests)
}

/// Kicks a queue; how long serving it took, and how many allocations.
fn served(driver: &Driver, queue: u32) -> (Duration, u64) {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let began = Instant::now();
    driver.kick(queue);
    (began.elapsed(), ALLOCATIONS.load(Ordering::Relaxed) - before)
}

/// Offers a batch of reads of 4 KiB.
fn offer_reads(driver: &mut Driver) {
    for number in 0..BATCH as u64 {
        let header = BUFFERS + number * 32;
        let data = BUFFERS + 0x1_0000 + number * BLOCK as u64;
        let sector = number * 8;
        driver.put(header, &[&[0; 8][..], &sector.to_le_bytes()].concat());
        driver.add(0, &[(header, 16, false), (data, BLOCK as u32, true), (header + 16, 1, true)]);
    }
}

/// Waits for what was not at hand when it was asked for.
fn wait_for_batch(driver: &mut Driver) {
    let mut given = driver.used(0).len();
    while given < BATCH {
        driver.reactor.turn(100).unwrap();
        given += driver.used(0).len();
    }
}

fn blk(disk: Box<dyn Disk>, name: &str) {
    let mut driver = Driver::start(Box::new(Blk::new(disk, "bench", 1).unwrap()), u64::MAX);
    let (time, allocations) = each(|| {
        offer_reads(&mut driver);
        let served = served(&driver, 0);
        wait_for_batch(&mut driver);
        served
    });
    say(&format!("{name}_4k_read_ns"), "ns a request", time);
    say(&format!("{name}_4k_read_allocations"), "allocations a request", allocations);
}

/// A frame to somewhere in the Internet, behind its header.
fn frame() -> Vec<u8> {
    let mut frame = vec![0; 12 + 14];
    frame[12 + 12..].copy_from_slice(&[8, 0]);
    frame.extend([0x45, 0]);
    frame.resize(12 + PACKET, 7);
    frame[12 + 14 + 16..12 + 14 + 20].copy_from_slice(&[192, 0, 2, 1]);
    frame
}

/// A disk that is a file, all of whose bytes the host has at hand.
fn file() -> Box<dyn Disk> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    Box::new(Raw::from_file(file, Access::ReadWrite).unwrap())
}

fn net() {
    let (fd, _far) = UnixStream::pair().unwrap();
    let left = std::sync::Arc::new(AtomicU64::new(0));
    let frame = frame();
    let port = Sink { fd, frame: frame.clone(), left: left.clone() };
    let lost = Box::new(|error: io::Error| panic!("{error}"));
    let card = Net::new([2; 6], 1500, vec![Box::new(port)], Rates::default(), lost).unwrap();
    let mut driver = Driver::start(Box::new(card), u64::MAX);
    let place = |number: usize| BUFFERS + 0x1_0000 + (number * 2048) as u64;
    (0..BATCH).for_each(|number| driver.put(place(number), &frame));
    for (queue, name) in [(1, "net_1500_send"), (0, "net_1500_receive")] {
        let (time, allocations) = each(|| {
            for number in 0..BATCH {
                driver.add(queue, &[(place(number), frame.len() as u32, queue == 0)]);
            }
            left.store(if queue == 0 { BATCH as u64 } else { 0 }, Ordering::Relaxed);
            let served = served(&driver, queue as u32);
            assert_eq!(driver.used(queue).len(), BATCH);
            served
        });
        say(&format!("{name}_ns"), "ns a packet", time);
        say(&format!("{name}_allocations"), "allocations a packet", allocations);
    }
}

/// What copying alone takes.
fn copies(bytes: usize, name: &str) {
    let from = vec![7u8; BATCH * bytes];
    let mut to = vec![0u8; BATCH * bytes];
    let (time, _) = each(|| {
        let began = Instant::now();
        for (to, from) in to.chunks_exact_mut(bytes).zip(from.chunks_exact(bytes)) {
            to.copy_from_slice(black_box(from));
        }
        black_box(&mut to);
        (began.elapsed(), 0)
    });
    say(name, "ns a copy", time);
}

/// Exits to user space of a guest that serves `batches` of four requests each with the source of randomness, with
/// EVENT_IDX: exits for registers, interrupts raised, kicks served.
fn exits(batches: u16) -> (u64, u64, u64) {
    const DEVICE: u64 = 0xd000_0000;
    const RINGS: u64 = 0x20_0000;
    const QUEUE: u16 = 8;
    const REQUESTS: u16 = 4;
    let (available, used) = (RINGS + 0x1000, RINGS + 0x2000);
    let mut script = Script::default();
    for status in [0, 1, 3] {
        script = script.write(DEVICE + 0x70, status);
    }
    for (half, features) in [(0, 1 << 29), (1, 1)] {
        script = script.write(DEVICE + 0x24, half).write(DEVICE + 0x20, features);
    }
    script = script.write(DEVICE + 0x70, 0xb).write(DEVICE + 0x38, QUEUE.into());
    for (register, address) in [(0x80, RINGS), (0x90, available), (0xa0, used)] {
        script = script.write(DEVICE + register, address as u32).write(DEVICE + register + 4, 0);
    }
    for number in 0..QUEUE {
        let descriptor = RINGS + u64::from(number) * 16;
        // 16 bytes for the device to write.
        script = script.write64(descriptor, 0x30_0000).write64(descriptor + 8, 2 << 32 | 16);
    }
    for pair in 0..u32::from(QUEUE) / 2 {
        script = script.write(available + 4 + u64::from(pair) * 4, (2 * pair + 1) << 16 | 2 * pair);
    }
    script = script.write(DEVICE + 0x44, 1).write(DEVICE + 0x70, 0xf);
    for batch in 0..batches {
        let index = (batch + 1) * REQUESTS;
        // The driver wants to know when the last request of the batch is back.
        script = script.write(available + 4 + u64::from(QUEUE) * 2, u32::from(index - 1));
        script = script.write(available, u32::from(index) << 16).write(DEVICE + 0x50, 0);
        script = script.wait(used + 2, index).read(DEVICE + 0x60).write(DEVICE + 0x64, 1);
    }
    let machine = Machine::new(Config { memory_mib: 16, ..Config::new(script.reset().kernel()) }).unwrap();
    let handle = machine.handle();
    assert_eq!(machine.run().unwrap(), Exit::Reset);
    let metrics = handle.metrics();
    let of = |name| metrics.vcpus[0].iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count);
    (of("register_reads") + of("register_writes"), metrics.devices[0].interrupts, metrics.devices[0].kicks)
}

/// Processor seconds of a process that does nothing but make a VM of one vCPU, until it would be run: what the host's kernel,
/// its KVM and the C library take in any case.
fn bare() -> Result<f64, kvm_ioctls::Error> {
    let kvm = kvm_ioctls::Kvm::new()?;
    let vm = kvm.create_vm()?;
    vm.set_identity_map_address(0xfffb_c000)?;
    vm.set_tss_address(0xfffb_d000)?;
    vm.create_irq_chip()?;
    let memory = Memory::from_ranges(&[(GuestAddress(0), 128 << 20)]).expect("there is address space");
    let region = kvm_bindings::kvm_userspace_memory_region {
        memory_size: 128 << 20,
        userspace_addr: memory.get_host_address(GuestAddress(0)).expect("it is there") as u64,
        ..Default::default()
    };
    // SAFETY: the memory lives longer than the VM, which never runs.
    unsafe { vm.set_user_memory_region(region) }?;
    let supported = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?;
    let vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&supported)?;
    vcpu.set_sregs(&vcpu.get_sregs()?)?;
    vcpu.set_regs(&Default::default())?;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is complete.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// The least that such a process of this program took.
fn least_bare() -> Option<f64> {
    let once = || {
        let output = Command::new(std::env::current_exe().ok()?).arg("bare").output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<f64>().ok()
    };
    (0..STARTS).filter_map(|_| once()).reduce(f64::min)
}

fn main() {
    if std::env::args().any(|word| word == "bare") {
        match bare() {
            Ok(seconds) => println!("{seconds}"),
            Err(error) => eprintln!("no VM: {error}"),
        }
        return;
    }
    // Children are made as long as there is one thread.
    calls::each(say);
    copies(BLOCK, "copy_4k_ns");
    copies(PACKET, "copy_1500_ns");
    blk(Box::new(MemoryDisk(vec![1; 1 << 20])), "blk_memory");
    blk(file(), "blk_file");
    net();
    if let Err(error) = probe() {
        eprintln!("no exits are counted: {error}");
        return;
    }
    if let Some(seconds) = least_bare() {
        say("bare_cpu_seconds_to_first_run", "seconds", seconds);
    }
    const ROUNDS: u16 = 32;
    let (before, with) = (exits(0), exits(ROUNDS));
    let (exits, interrupts, kicks) = (with.0 - before.0, with.1 - before.1, with.2 - before.2);
    // Each batch reads the interrupt's status and acknowledges it: two accesses that are not the kick's.
    let of_kicks = exits as f64 - 2.0 * f64::from(ROUNDS);
    say("user_space_exits_per_kick", "exits", of_kicks / kicks.max(1) as f64);
    say("user_space_exits_per_interrupt", "exits", exits as f64 / interrupts.max(1) as f64);
    say("user_space_exits_per_batch", "exits", exits as f64 / f64::from(ROUNDS));
}
