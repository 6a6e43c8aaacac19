//! `cargo xtask guest IMAGE`: a guest on QEMU without a container, for whoever wants to speak to its agent.
//!
//! It prints the path of the socket on which the agent API is spoken (ttrpc from the first byte), and runs until its
//! standard input ends, or until the guest does: then it shows the end of its console, and exits with the status of the
//! appliance if it was one.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use ferry_images::Segment;
use ferry_vmm::cli::run::MachineArgs;
use ferry_vmm::runtime::appliance::status_in;
use ferry_vmm::runtime::directory;
use ferry_vmm::runtime::guest::{Contents, Launch, Plan, PlannedDisk, Serial};
use ferry_vmm::runtime::oci::LAYERS_SERIAL;
use ferry_vmm::runtime::shape::Shape;

use super::qemu::Qemu;
use super::{Ingredients, On, Prepared, What, fetch};
use crate::workshop::Workshop;

/// `guest [OPTIONS] IMAGE`.
#[derive(Clone, Debug, Args)]
pub struct Bare {
    /// The image whose layers are its first disk, `serial=layers`
    image: String,
    /// A further argument for QEMU, as it takes them; may be given several times
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    qemu_arg: Vec<std::ffi::OsString>,
    /// A further disk, which the guest can only read; may be given several times
    #[arg(long, value_name = "SERIAL=FILE", value_parser = parse_disk)]
    disk: Vec<PlannedDisk>,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Starts the guest, and ends it with our standard input.
pub fn bare(workshop: &mut Workshop, bare: Bare) -> Result<ExitCode> {
    let shape = bare.machine.shape(None, Shape::default());
    let ingredients = Ingredients {
        what: What::of(&bare.image, &crate::build::recipe::directory(workshop))?,
        kernel: bare.machine.kernel,
        initrd: bare.machine.initrd,
        on: On::Qemu,
    };
    let Prepared { what, kernel, initrd } = ingredients.prepare(workshop)?;
    let reference = what.image()?;
    let image =
        fetch(workshop, &bare.image, &reference)?.map_err(|failure| anyhow!("{}", failure.message))?;
    let directory = directory::make(&std::env::temp_dir()).context("no place for the guest's socket")?;
    let layers = PlannedDisk { serial: LAYERS_SERIAL.to_owned(), contents: Contents::Layers(image.segments) };
    let plan = Plan {
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        most_memory_mib: 0,
        disks: [vec![layers], bare.disk].concat(),
        cmdline_extra: shape.cmdline_extra,
        kernel: Some(kernel),
        initrd: Some(initrd),
        directory: directory.path().to_owned(),
        serial: Serial::Quiet,
        shares: Vec::new(),
        network: None,
        sandboxed: true,
        users: None,
        cpu: shape.cpu,
        backing: shape.backing,
        memory_limit: shape.memory_limit,
        gdb: None,
        tell: shape.tell,
    };
    let guest = Qemu { tools: &workshop.tools, further: &bare.qemu_arg }.launch(&plan)?;
    println!("{}", guest.transport().socket().display());
    io::stdout().flush()?;
    let stopped = Arc::clone(&guest);
    thread::spawn(move || {
        // Nothing is expected there but the end.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        stopped.stop();
    });
    loop {
        if let Some(end) = guest.wait(Duration::from_secs(1)) {
            let console = guest.serial_tail();
            eprintln!("{console}");
            workshop.report.say(format!("the guest has ended: {}", end.sentence()));
            return Ok(status_in(&console).map_or(ExitCode::SUCCESS, |status| ExitCode::from(status as u8)));
        }
    }
}

fn parse_disk(text: &str) -> Result<PlannedDisk, String> {
    let (serial, path) = text.split_once('=').ok_or("a disk is SERIAL=FILE")?;
    let path = PathBuf::from(path);
    let bytes = fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?.len();
    Ok(PlannedDisk { serial: serial.to_owned(), contents: Contents::Layers(vec![Segment { path, bytes }]) })
}
