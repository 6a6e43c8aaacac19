//! `ferry-vmm`: boots a kernel in a machine, without images or containers. For measuring and debugging the machine.

use ferry_vmm::backends::disk::{Access, Raw};
use ferry_vmm::machine::{Config, DiskConfig, Exit, Image, Machine, Output, Sandbox, VsockConfig, probe};
use ferry_vmm::payload;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: ferry-vmm [--kernel FILE] [--initrd FILE] [--memory MIB] [--cpus N] [--append WORDS] \
    [--disk FILE[:ro]]... [--vsock SOCKET] [--dump-fdt FILE] [--no-sandbox yes]

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
    let mut dump = None;
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
            "--dump-fdt" => dump = Some(PathBuf::from(value)),
            "--no-sandbox" => config.sandbox = Sandbox::Open,
            _ => return Err(USAGE.into()),
        }
    }
    config.kernel = kernel.ok_or("no kernel: name one with --kernel")?;
    config.initrd = initrd;
    if probe()?.emulates_ring0 {
        eprintln!("ferry-vmm: this KVM emulates ring 0: expect a boot of many seconds");
    }
    let started = Instant::now();
    let machine = Machine::new(config)?;
    if let Some(path) = dump {
        std::fs::write(path, machine.device_tree()?)?;
        return Ok(Exit::Reset);
    }
    let handle = machine.handle();
    eprintln!("ferry-vmm: machine made in {:?}", started.elapsed());
    let exit = machine.run()?;
    for fault in handle.device_faults() {
        eprintln!("ferry-vmm: {fault}");
    }
    eprintln!("ferry-vmm: ended after {:?}", started.elapsed());
    Ok(exit)
}
