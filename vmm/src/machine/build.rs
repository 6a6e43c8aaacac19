//! Making a machine, step by step: memory, kernel, devices, vCPUs.

use super::boot_params::BootParams;
use super::ending::Ending;
#[cfg(feature = "gdb")]
use super::hold::Debugger;
use super::hold::Hold;
use super::hotplug::Reserve;
use super::layout::Slot;
use super::memory::{self, Source};
use super::vcpu::{Buses, Vcpu};
use super::{
    Config, DiskConfig, Error, Exit, Image, Machine, NetworkConfig, PortConfig, Sandbox, ShareConfig,
    VsockConfig, cmdline, cpuid, entry, fdt, kernel, layout, mapped, metrics, probe, supported,
};
use crate::backends::disk::{Segment, Worker};
use crate::devices::bus::Bus;
use crate::devices::panic::Pvpanic;
use crate::devices::reactor::Reactor;
use crate::devices::reset::KeyboardController;
use crate::devices::serial::{Output, SerialPort, Tail};
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::blk::Blk;
use crate::devices::virtio::console::{Console, Size};
use crate::devices::virtio::fs::Fs;
use crate::devices::virtio::mem::Mem;
use crate::devices::virtio::net::Net;
use crate::devices::virtio::pmem::Pmem;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::transport::{Transport, register};
use crate::devices::virtio::vsock::Vsock;
use crate::devices::virtio::{Device, SharedMemory};
use crate::devices::vmgenid::Vmgenid;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, VmFd};
use std::io;
use std::sync::Arc;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(super) fn build(config: Config) -> Result<Machine, Error> {
    if config.vcpus == 0 || config.vcpus > layout::MAX_VCPUS {
        return Err(Error::Vcpus(config.vcpus));
    }
    if config.sandbox == Sandbox::WholeProcess {
        share_the_heap();
    }
    let kvm = probe::open()?;
    let features = probe::examine(&kvm)?;
    #[cfg(feature = "gdb")]
    let debugger = match config.gdb {
        Some(_) => {
            let bell = EventFd::new(EFD_NONBLOCK).map_err(Error::system("make an event descriptor"))?;
            Some(Debugger { bell, steps_to_watch: features.emulates_ring0 })
        }
        None => None,
    };
    #[cfg(not(feature = "gdb"))]
    let debugger = None;
    let vm = kvm.create_vm().map_err(Error::kvm("create a VM"))?;
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(Error::kvm("place its identity map"))?;
    vm.set_tss_address(layout::KVM_TSS as usize).map_err(Error::kvm("place its task state segment"))?;
    vm.create_irq_chip().map_err(Error::kvm("create interrupt controllers"))?;

    let memory = memory::allocate_from(config.memory_mib, config.backing)?;
    give_memory(&vm, &memory)?;

    let ending = Arc::new(Ending::new().map_err(Error::system("make an event descriptor"))?);
    let tail = Tail::default();
    let ports = port_bus(&vm, config.serial, &tail, &ending)?;
    let mut memory_bus = memory_bus(&vm, &ending)?;
    let vcpus = config.vcpus.into();
    let console_size = Size::new().map_err(Error::system("make an event descriptor"))?;
    let vm = Arc::new(vm);
    let pluggable = layout::pluggable(config.memory_mib, config.most_memory_mib);
    let (mapped, files) = map_files(&vm, &memory, &config.mapped, pluggable.0 + pluggable.1)?;
    let shared = SharedMemory::from(mapped.clone());
    let mut wish = None;
    let consoles = (config.console, &console_size);
    let mut devices = devices(vcpus, config.disks, config.networks, config.shares, config.vsock, consoles)?;
    if config.balloon {
        devices.push(Box::new(Balloon));
    }
    devices.extend(files);
    if pluggable.1 > 0 {
        let slot = mapped.num_regions() as u32;
        let reserve = Reserve::new(vm.clone(), pluggable, slot, mapped, shared.clone())?;
        let device = Mem::new(pluggable.0, pluggable.1, Box::new(reserve));
        let device = device.map_err(Error::system("make an event descriptor"))?;
        wish = Some(device.wish());
        devices.push(Box::new(device));
    }
    // What devices are told to read may lie in mapped files and plugged memory too.
    let main = ending.reactor().map_err(Error::system("make an event queue"))?;
    let main = (main, config.sandbox);
    let Attached { slots, transports, reactors, workers } =
        attach(devices, &vm, &shared, &mut memory_bus, main)?;

    let kernel = kernel::load(&Source::open(&config.kernel, "kernel")?, &memory)?;
    let initrd = match &config.initrd {
        Some(image) => Some(load_initrd(image, &memory, kernel)?),
        None => None,
    };
    let processor = match features.emulates_ring0 {
        true => cmdline::Processor::EmulatedRing0,
        false => cmdline::Processor::Complete,
    };
    let tree =
        fdt::describe(config.vcpus, &slots).map_err(|_| Error::Internal("the device tree does not close"))?;
    let cmdline = cmdline::for_ferry(processor, config.backing, &config.cmdline_extra);
    let seed = random()?;
    BootParams { cmdline: &cmdline, initrd, tree: &tree, seed }.write(&memory)?;
    entry::write_tables(&memory).map_err(|_| Error::Internal("no memory for the page tables"))?;

    if config.backing.prefault {
        memory::prefault(&memory)?;
    }

    let mut supported = supported::leaves(&kvm, config.kept.as_deref())?;
    cpuid::apply(config.cpu, &mut supported)?;
    let mut vcpus = Vec::with_capacity(config.vcpus.into());
    for id in 0..config.vcpus {
        let fd = vm.create_vcpu(id.into()).map_err(Error::kvm("create a vCPU"))?;
        vcpus.push(Vcpu::new(fd, id, config.vcpus, &supported, features.emulates_ring0)?);
    }
    let exits = vcpus.iter().map(Vcpu::exits).collect();
    vcpus[0].start_at(kernel.entry)?;
    let hold = Arc::new(Hold::new(vcpus.len(), memory.clone(), ending.clone(), debugger));
    let buses = Arc::new(Buses { ports, memory: memory_bus });
    Ok(Machine {
        vcpus,
        vm,
        memory,
        buses,
        reactors,
        workers,
        console_size,
        transports: transports.into(),
        left: Arc::default(),
        exits,
        ending,
        hold,
        #[cfg(feature = "gdb")]
        gdb: config.gdb,
        tail,
        sandbox: config.sandbox,
        memory_mib: config.memory_mib..=config.most_memory_mib.max(config.memory_mib),
        wish,
        kvm: features,
    })
}

/// Has all threads allocate from one heap. A heap for each costs page faults at the start and memory afterwards, and is
/// for threads that allocate much: these do not while they serve queues.
fn share_the_heap() {
    // SAFETY: this parameter is a number. Where it is not taken, there are more heaps.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Hands guest memory to KVM, a slot for each region.
fn give_memory(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), Error> {
    memory.iter().enumerate().try_for_each(|(slot, region)| give_region(vm, slot, region, 0))
}

fn give_region(vm: &VmFd, slot: usize, region: &GuestRegionMmap, flags: u32) -> Result<(), Error> {
    let slot = kvm_userspace_memory_region {
        slot: slot as u32,
        flags,
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the machine owns memory, VM and vCPUs, and drops the memory last.
    unsafe { vm.set_user_memory_region(slot) }.map_err(Error::kvm("take the guest's memory"))
}

/// Maps the files that the guest is to find, not before the address `behind`: memory as devices see it, and the devices that tell of them.
fn map_files(
    vm: &VmFd,
    memory: &GuestMemoryMmap,
    files: &[Vec<Segment>],
    behind: u64,
) -> Result<(GuestMemoryMmap, Vec<Box<dyn Device>>), Error> {
    let (mut memory, mut devices) = (memory.clone(), Vec::<Box<dyn Device>>::new());
    let mut start = behind.next_multiple_of(layout::MAPPED_ALIGNMENT);
    for segments in files {
        let region = mapped::map(segments, start)?;
        give_region(vm, memory.num_regions(), &region, KVM_MEM_READONLY)?;
        devices.push(Box::new(Pmem::new(start, region.len())));
        start = (start + region.len()).next_multiple_of(layout::MAPPED_ALIGNMENT);
        memory =
            memory.insert_region(region).map_err(|_| Error::Internal("mapped files overlap with memory"))?;
    }
    Ok((memory, devices))
}

fn load_initrd(image: &Image, memory: &GuestMemoryMmap, kernel: kernel::Kernel) -> Result<(u64, u64), Error> {
    let source = Source::open(image, "initrd")?;
    Ok((kernel::load_initrd(&source, memory, kernel)?, source.length()))
}

fn port_bus(vm: &VmFd, output: Output, tail: &Tail, ending: &Arc<Ending>) -> Result<Bus, Error> {
    let interrupt = EventFd::new(EFD_NONBLOCK).map_err(Error::system("make an event descriptor"))?;
    vm.register_irqfd(&interrupt, layout::SERIAL_GSI).map_err(Error::kvm("connect an interrupt line"))?;
    let mut ports = Bus::default();
    let serial = SerialPort::new(interrupt, output, tail.clone());
    ports.add(layout::SERIAL_PORT.into(), 8, Arc::new(serial));
    let on_reset = ending.clone();
    let keyboard =
        KeyboardController::new(layout::KEYBOARD_RESET, Box::new(move || on_reset.set(Exit::Reset)));
    ports.add(layout::KEYBOARD_PORT.into(), 1, Arc::new(keyboard));
    Ok(ports)
}

fn memory_bus(vm: &VmFd, ending: &Arc<Ending>) -> Result<Bus, Error> {
    let mut bus = Bus::default();
    let on_panic = ending.clone();
    let register = Pvpanic::new(Box::new(move || on_panic.panicked()));
    bus.add(layout::PVPANIC, layout::PVPANIC_SIZE, Arc::new(register));
    let line = EventFd::new(EFD_NONBLOCK).map_err(Error::system("make an event descriptor"))?;
    vm.register_irqfd(&line, layout::VMGENID_GSI).map_err(Error::kvm("connect an interrupt line"))?;
    let generation = Vmgenid::new(random()?, line);
    bus.add(layout::VMGENID, layout::VMGENID_SIZE, Arc::new(generation));
    Ok(bus)
}

/// The virtio devices, in the order in which the guest finds them.
fn devices(
    vcpus: usize,
    disks: Vec<DiskConfig>,
    networks: Vec<NetworkConfig>,
    shares: Vec<ShareConfig>,
    vsock: Option<VsockConfig>,
    (console, console_size): (Vec<PortConfig>, &Size),
) -> Result<Vec<Box<dyn Device>>, Error> {
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    for DiskConfig { serial, backend } in disks {
        let what = format!("set up the disk {serial}");
        devices.push(Box::new(Blk::new(backend, &serial, vcpus).map_err(Error::system(what))?));
    }
    for NetworkConfig { mac, mtu, ports, rates, on_lost } in networks {
        let card = Net::new(mac, mtu, ports, rates, on_lost).map_err(Error::system("make a network card"))?;
        devices.push(Box::new(card));
    }
    for ShareConfig { tag, helper, on_lost } in shares {
        let device = Fs::new(&tag, helper, on_lost).map_err(Error::system("make a shared directory"))?;
        devices.push(Box::new(device));
    }
    if let Some(VsockConfig { cid, socket }) = vsock {
        raise_descriptor_limit();
        let what = format!("listen on the vsock's socket {}", socket.display());
        devices.push(Box::new(Vsock::new(cid, socket).map_err(Error::system(what))?));
    }
    if !console.is_empty() {
        let console = Console::new(console, console_size.clone()).map_err(Error::system("make a console"))?;
        devices.push(Box::new(console));
    }
    devices.push(Box::new(Rng));
    Ok(devices)
}

/// Allows this process as many descriptors as it may have: each vsock connection takes one.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a complete structure. Where they fail, the limit stays as it is.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// What [`attach`] makes of the devices.
struct Attached {
    slots: Vec<Slot>,
    transports: Vec<Arc<Transport>>,
    reactors: Vec<Reactor>,
    /// Threads that devices need besides.
    workers: Vec<Worker>,
}

/// Gives each device a slot: registers on the bus, an interrupt line, and kicks that need no exit.
///
/// The first reactor is that of the thread that waits for the machine's end, which serves the devices where it is locked in: each
/// thread more is started and locked in with every machine, which is a part of its start that can be measured. Devices that
/// wait for disks have a reactor each.
fn attach(
    devices: Vec<Box<dyn Device>>,
    vm: &VmFd,
    memory: &SharedMemory,
    bus: &mut Bus,
    (main, sandbox): (Reactor, Sandbox),
) -> Result<Attached, Error> {
    let reactor = || Reactor::new().map_err(Error::system("make an event queue"));
    let (mut reactors, mut serving) = (vec![main], 0);
    if sandbox != Sandbox::WholeProcess {
        reactors.push(reactor()?);
        serving = 1;
    }
    let count = devices.len();
    let (mut slots, mut transports) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut workers = Vec::new();
    for (number, mut device) in devices.into_iter().enumerate() {
        workers.extend(device.workers());
        let lacking = || Error::Devices { device: format!("{} device", metrics::name(device.id())), count };
        let slot = Slot::new(number).ok_or_else(lacking)?;
        let served_by = match device.waits_for_disks() {
            true => {
                reactors.push(reactor()?);
                reactors.len() - 1
            }
            false => serving,
        };
        let reactor = &mut reactors[served_by];
        let transport = Transport::new(device, memory.clone(), reactor.poller());
        let transport = Arc::new(transport.map_err(Error::system("set up a device"))?);
        let line = transport.interrupt().line();
        vm.register_irqfd(line, slot.gsi()).map_err(Error::kvm("connect an interrupt line"))?;
        let register = IoEventAddress::Mmio(slot.address() + register::QUEUE_NOTIFY);
        for (queue, kick) in transport.kicks().iter().enumerate() {
            vm.register_ioevent(kick, &register, queue as u32).map_err(Error::kvm("connect a kick"))?;
        }
        bus.add(slot.address(), layout::VIRTIO_MMIO_SIZE, transport.clone());
        reactor.push(transport.clone());
        slots.push(slot);
        transports.push(transport);
    }
    Ok(Attached { slots, transports, reactors, workers })
}

/// Random bytes from the host's kernel.
fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    // SAFETY: the buffer is as long as said.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    match usize::try_from(filled) {
        Ok(filled) if filled == N => Ok(bytes),
        _ => Err(Error::system("read random bytes")(io::Error::last_os_error())),
    }
}
