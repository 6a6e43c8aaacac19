//! `cargo xtask run NAME` of a recipe with services: its disk in a machine that runs it by itself. The host gives it a
//! network, shows its console, and passes on the wish that it end.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use ferry_images::disk;
use ferry_vmm::agent::session::{Control, Event};
use ferry_vmm::agent::{self, Client, Patience, Signal, Wait};
use ferry_vmm::runtime::appliance::{BOOT_WORD, status_in};
use ferry_vmm::runtime::guest::{Contents, Guest, Launch, Plan, PlannedDisk, Serial};
use ferry_vmm::runtime::interrupt::Interrupts;
use ferry_vmm::runtime::shape::Shape;
use ferry_vmm::runtime::supervise::{BOOT_LIMIT, SHUTDOWN_LIMIT};
use ferry_vmm::runtime::{directory, network};

use crate::workshop::Workshop;

/// What the disk is called in the guest.
const SERIAL: &str = "appliance";

/// What an appliance writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// A copy of its disk, which goes with the run.
    ToACopy,
    /// The disk itself, so that the next run finds what this one has kept.
    ToTheDisk,
}

/// What an appliance is run with.
pub struct Appliance<'a> {
    /// Its disk.
    pub disk: &'a Path,
    /// What of it is kept.
    pub writes: Writes,
    /// The machine.
    pub shape: Shape,
    /// Starts it.
    pub launch: &'a dyn Launch,
    /// The signals of this process.
    pub interrupts: &'a Interrupts,
}

/// Runs it to its end; its exit status.
pub fn run(workshop: &Workshop, appliance: Appliance<'_>) -> Result<ExitCode> {
    let Appliance { disk, writes, shape, launch, interrupts } = appliance;
    let place = directory::make(workshop.cache.root()).context("no place for the machine's sockets")?;
    directory::make_for_vm(place.path(), None).context("no place for the machine's sockets")?;
    let copy = tempfile::NamedTempFile::new_in(workshop.cache.dir("runs")?)?;
    for path in [place.path().to_owned(), copy.path().to_owned()] {
        interrupts.at_exit(Box::new(move || {
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
        }));
    }
    let contents = match writes {
        Writes::ToTheDisk => Contents::Scratch(disk.to_owned()),
        Writes::ToACopy => {
            disk::duplicate(&File::open(disk)?, copy.as_file())
                .with_context(|| format!("cannot copy {}", disk.display()))?;
            Contents::Throwaway(copy.path().to_owned())
        }
    };
    let network = network::plan(&shape.network, "", launch.has_network())?;
    let plan = Plan {
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        most_memory_mib: 0,
        shares: Vec::new(),
        disks: vec![PlannedDisk { serial: SERIAL.to_owned(), contents }],
        network: network.clone(),
        cpu: shape.cpu,
        backing: shape.backing,
        memory_limit: shape.memory_limit,
        gdb: shape.gdb,
        cmdline_extra: format!("{BOOT_WORD} {}", shape.cmdline_extra),
        kernel: shape.kernel,
        initrd: shape.initrd,
        directory: directory::of_vm(place.path()),
        // What the services say comes out there.
        serial: Serial::Stderr,
        sandboxed: shape.sandboxed,
        users: shape.users,
        tell: shape.tell,
    };
    let guest = launch.launch(&plan)?;
    let result = attend(&guest, network.as_ref(), interrupts);
    interrupts.keep();
    guest.stop();
    result
}

/// From the start of the guest to its end.
fn attend(
    guest: &Arc<dyn Guest>,
    network: Option<&network::Plan>,
    interrupts: &Interrupts,
) -> Result<ExitCode> {
    let alive = || guest.wait(Duration::ZERO).is_none();
    let patience = Patience { since: Instant::now(), limit: BOOT_LIMIT, alive: &alive };
    let client = match agent::connect(&guest.transport(), &patience) {
        Ok(client) => client,
        // One that is refused its services ends before anybody can ask it.
        Err(error) => return last_word(guest.as_ref(), &error.to_string()),
    };
    if let Some(network) = network {
        network.guest().configure(&client).map_err(|error| anyhow!("the guest's network: {error}"))?;
    }
    let control = Control::new();
    interrupts.forward_to(control.remote());
    let asking = client.clone();
    thread::spawn(move || pass_on(&asking, &control));
    match client.wait_appliance(Wait::Until(&|| !alive())) {
        Ok(status) => {
            // What its disks have not been told yet is told now.
            guest.wait(SHUTDOWN_LIMIT);
            Ok(exit_code(status))
        }
        Err(error) => last_word(guest.as_ref(), &error.to_string()),
    }
}

/// A signal that would end a program ends the appliance, in order.
fn pass_on(client: &Client, control: &Control) {
    loop {
        match control.next() {
            Event::Signal(Signal::INT | Signal::TERM | Signal::QUIT) => {
                if client.end_appliance(Wait::AtMost(SHUTDOWN_LIMIT)).is_ok() {
                    control.answered();
                }
            }
            Event::Over => return,
            Event::Signal(_) | Event::Resize(_) => {}
        }
    }
}

/// What a guest that is not heard over the agent any more has said at the console.
fn last_word(guest: &dyn Guest, otherwise: &str) -> Result<ExitCode> {
    let Some(end) = guest.wait(SHUTDOWN_LIMIT) else { bail!("{otherwise}") };
    match status_in(&guest.serial_tail()) {
        Some(status) => Ok(exit_code(status)),
        None => bail!("the machine has ended: {}", end.sentence()),
    }
}

fn exit_code(status: i32) -> ExitCode {
    ExitCode::from((status & 0xff) as u8)
}
