//! `ferry-vmm`: boots a kernel in a machine, without images or containers. For measuring and debugging the machine.

#![cfg_attr(not(test), no_main)]

use ferry_vmm::backends::disk::{Access, Raw};
use ferry_vmm::machine::{
    Config, DiskConfig, Exit, Image, Machine, Output, Sandbox, VsockConfig, usual_place,
};
use ferry_vmm::payload;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

const USAGE: &str = "usage: ferry-vmm [--kernel FILE] [--initrd FILE] [--memory MIB] [--cpus N] [--append WORDS] \
    [--disk FILE[:ro]]... [--vsock SOCKET] [--balloon yes] [--cpu MODEL] [--hugepages yes] [--prefault yes] \
    [--gdb SOCKET] [--metrics FILE] [--dump-fdt FILE] [--no-sandbox yes]

Boots the kernel and prints its serial output to standard error, or only writes the machine's device tree. Disks have the serial numbers disk0, disk1, …. Metrics go to FILE when it has ended, - for standard output.
Without --kernel and --initrd the embedded ones are used, or what FERRY_KERNEL and FERRY_INITRD name.";

/// Where the C library begins.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(_: i32, _: *const *const std::ffi::c_char) -> i32 {
    ferry_vmm::program::begin(boot)
}

#[cfg_attr(test, allow(dead_code))]
fn boot() -> u8 {
    match run() {
        Ok(Exit::Reset) => 0,
        Ok(exit) => {
            eprintln!("ferry-vmm: {exit:?}");
            125
        }
        Err(error) => {
            eprintln!("ferry-vmm: {error}");
            125
        }
    }
}

fn run() -> Result<Exit, Box<dyn std::error::Error>> {
    let mut config = Config::new(Image::Bytes([].into()));
    config.serial = Output::Stderr;
    config.sandbox = Sandbox::WholeProcess;
    config.kept = usual_place();
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
            "--metrics" => {
                metrics = Some(match value.as_str() {
                    "-" => Box::new(io::stdout()) as Box<dyn Write>,
                    path => Box::new(File::create(path)?),
                })
            }
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
