//! `cargo xtask run --pod FILE`: several containers in one virtual machine, each image a recipe or any reference that ferry
//! takes.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use ferry_vmm::cli::pod::{images, read};
use ferry_vmm::runtime::guest::Launch;
use ferry_vmm::runtime::interrupt::{Forwarding, Interrupts};
use ferry_vmm::runtime::logs::Capacity;
use ferry_vmm::runtime::own_vmm::OwnVmm;
use ferry_vmm::runtime::pod::{self, Output, Request};
use ferry_vmm::runtime::run::Host;
use ferry_vmm::runtime::shape::Shape;
use ferry_vmm::runtime::supervise::{Afterwards, Failure};

use super::qemu::Qemu;
use super::{Ingredients, On, Prepared, Run, What, choose, containers, failed, fetch, say_where};
use crate::build::recipe::directory;
use crate::workshop::Workshop;

/// Runs a pod; the result is the status of its first container that has failed.
pub fn run(workshop: &mut Workshop, file: &Path, run: &Run) -> Result<ExitCode> {
    let pod = match read(file) {
        Ok(pod) => pod,
        Err(failure) => return Ok(failed(&failure)),
    };
    let cores = match run.cores.cores() {
        Ok(cores) => cores,
        Err(failure) => return Ok(failed(&failure)),
    };
    let machine = &run.machine;
    let shape = machine.shape(None, Shape::default());
    let shape = pod::machine(&pod, shape, machine.cpus.is_some(), machine.memory.is_some());
    let (on, why) = choose(run.on);
    say_where(workshop, on, &why);
    let interrupts = Interrupts::install(Forwarding::ToContainer)?;
    // What is made for one image is there for the next.
    let mut parts = None;
    let mut fault = None;
    let found = images(&pod, |name, _| {
        let what = What::of(name, &directory(workshop));
        let prepared = what.and_then(|what| {
            let (kernel, initrd) = (machine.kernel.clone(), machine.initrd.clone());
            Ingredients { what, kernel, initrd, on }.prepare(workshop)
        });
        let fetched = prepared.and_then(|Prepared { what, kernel, initrd }| {
            parts = Some((kernel, initrd));
            fetch(workshop, name, &what.image()?)
        });
        fetched.unwrap_or_else(|error| {
            let message = error.to_string();
            fault = Some(error);
            Err(Failure::early(message))
        })
    });
    if let Some(error) = fault {
        return Err(error);
    }
    let (images, image_of) = match found {
        Ok(found) => found,
        Err(failure) => return Ok(failed(&failure)),
    };
    let (kernel, initrd) = parts.unzip();
    let request = Request {
        pod,
        images,
        image_of,
        shape: Shape { kernel, initrd, ..shape },
        afterwards: Afterwards::ThrowAway,
        output: Output::Shown,
        log: Capacity::default(),
        cores,
    };
    let qemu = Qemu { tools: &workshop.tools, further: &run.qemu_arg };
    let launch: &dyn Launch = if on == On::Kvm { &OwnVmm } else { &qemu };
    match pod::run(&request, &Host::quiet(&containers()?, launch, &interrupts)) {
        Ok(status) => Ok(ExitCode::from(status)),
        Err(failure) => Ok(failed(&failure)),
    }
}
