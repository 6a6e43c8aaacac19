//! `ferry-vmm`: boots a kernel in a machine, without images or containers. For measuring and debugging the machine.

use ferry_vmm::backends::disk::{Access, Raw};
use ferry_vmm::machine::{Config, DiskConfig, Exit, Handle, Image, Machine, Output, Sandbox, VsockConfig};
use ferry_vmm::payload;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: ferry-vmm [--kernel FILE] [--initrd FILE] [--memory MIB] [--cpus N] [--append WORDS] \
    [--disk FILE[:ro]]... [--vsock SOCKET] [--balloon yes] [--cpu MODEL] [--hugepages yes] [--prefault yes] \
    [--gdb SOCKET] [--metrics FILE] [--dump-fdt FILE] [--no-sandbox yes]

Boots the kernel and prints its serial output to standard error, or only writes the machine's device tree. Disks have the serial numbers disk0, disk1, ….
Without --kernel and --initrd the embedded ones are used, or what FERRY_KERNEL and FERRY_INITRD name.";

fn main() -> ExitCode {
    match run() {
        Ok(Exit::Reset) => ExitCode::SUCCESS,
        Ok(exit) => {
            eprintln!("ferry-vmm: {exit:?}");
            ExitCode::from(125)
        }
        Err(error) => {
            eprintln!("ferry-vmm: {error}");
            ExitCode::from(125)
        }
    }
}

fn run() -> Result<Exit, Box<dyn std::error::Error>> {
    let mut config = Config::new(Image::Bytes([].into()));
    config.serial = Output::Stderr;
    config.sandbox = Sandbox::WholeProcess;
    let (mut kernel, mut initrd) = (payload::kernel(), payload::initrd());
    let (mut dump, mut metrics) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match option.as_str() {
            "--kernel" => kernel = Some(Image::File(value.into())),
            "--initrd" => initrd = Some(Image::File(value.into())),
            "--memory" => config.memory_mib = value.parse()?,
            "--cpus" => config.vcpus = value.parse()?,
            "--append" => config.cmdline_extra = value,
            "--vsock" => config.vsock = Some(VsockConfig { cid: 3, socket: PathBuf::from(value) }),
            "--disk" => {
                let (path, access) = match value.strip_suffix(":ro") {
                    Some(path) => (path, Access::ReadOnly),
                    None => (value.as_str(), Access::ReadWrite),
                };
                let backend = Box::new(Raw::open(Path::new(path), access)?);
                config.disks.push(DiskConfig { serial: format!("disk{}", config.disks.len()), backend });
            }
            "--balloon" => config.balloon = value == "yes",
            "--cpu" => config.cpu = value.parse()?,
            "--hugepages" => config.backing.huge_pages = value == "yes",
            "--prefault" => config.backing.prefault = value == "yes",
            #[cfg(feature = "gdb")]
            "--gdb" => config.gdb = Some(ferry_vmm::machine::gdb::Socket::bind(Path::new(&value))?),
            "--metrics" => metrics = Some(File::create(value)?),
            "--dump-fdt" => dump = Some(PathBuf::from(value)),
            "--no-sandbox" => config.sandbox = Sandbox::Open,
            _ => return Err(USAGE.into()),
        }
    }
    config.kernel = kernel.ok_or("no kernel: name one with --kernel")?;
    config.initrd = initrd;
    let started = Instant::now();
    let machine = Machine::new(config)?;
    if let Some(path) = dump {
        std::fs::write(path, machine.device_tree()?)?;
        return Ok(Exit::Reset);
    }
    let handle = machine.handle();
    let made = started.elapsed();
    match machine.kvm().emulates_ring0 {
        true => {
            eprintln!("ferry-vmm: machine made in {made:?}; KVM emulates ring 0: its boot takes many seconds")
        }
        false => eprintln!("ferry-vmm: machine made in {made:?}"),
    }
    stop_on_sigterm(handle.clone())?;
    let exit = machine.run()?;
    if let Some(file) = &mut metrics {
        file.write_all(handle.metrics().to_json().as_bytes())?;
    }
    for fault in handle.device_faults() {
        eprintln!("ferry-vmm: {fault}");
    }
    eprintln!("ferry-vmm: ended after {:?}", started.elapsed());
    Ok(exit)
}

/// Has SIGTERM stop the machine, so that what it has done is told. Called before any other thread is there: they all keep the
/// signal back, and one takes it.
fn stop_on_sigterm(handle: Handle) -> std::io::Result<()> {
    // SAFETY: an all-zero set is a valid one, and both calls get pointers to it.
    let signals = unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to complete values of this function's.
        unsafe { libc::sigwait(&signals, &mut signal) };
        handle.stop();
    })?;
    Ok(())
}
