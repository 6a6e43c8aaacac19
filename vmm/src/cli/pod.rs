//! `ferry run --pod`: the containers of a Kubernetes Pod in one VM.

use super::monitored::{Milestones, in_monitor};
use super::progress::Show;
use super::pull::{self, When};
use super::run::{RunArgs, host, prepare};
use super::settings::Settings;
use super::{Fault, Global};
use crate::runtime::cores::Cores;
use crate::runtime::guest::{Launch, Serial};
use crate::runtime::interrupt::{Forwarding, Interrupts};
use crate::runtime::own_vmm::OwnVmm;
use crate::runtime::pod::document::{Container, Pull};
use crate::runtime::pod::{self, LONGEST, Output, Pod, Request};
use crate::runtime::run::Ready;
use crate::runtime::shape::{Layers, Shape};
use crate::runtime::stand_by;
use crate::runtime::supervise::{Afterwards, Failure};
use ferry_images::source::{self, Access, Keep};
use ferry_images::{Grammar, Progress, Reference};
use std::io::Read;
use std::path::Path;

/// `ferry run --pod`.
pub(super) fn run(global: &Global, settings: &Settings, args: &RunArgs, file: &Path) -> Result<u8, Fault> {
    let pod = read(file)?;
    let serial = if global.verbosity() > 1 && !args.detaches() { Serial::Stderr } else { Serial::Quiet };
    let defaults = Shape { serial, ..settings.shape() };
    let machine = args.machine();
    let shape = machine.shape(settings.overlay, defaults);
    let shape = pod::machine(&pod, shape, machine.cpus.is_some(), machine.memory.is_some());
    let cores = args.cores()?;
    if shape.layers == Layers::Pmem {
        return Err(Fault::new("--layers pmem: the images of a pod are disks; leave it out"));
    }
    OwnVmm.check().map_err(Fault::new)?;
    match args.detaches() {
        false => {
            stand_by();
            fetch_and_run(global, settings, args, pod, (shape, cores), Output::Shown, &|_, _| {})
        }
        true => in_monitor(|milestone| {
            fetch_and_run(global, settings, args, pod, (shape, cores), Output::Quiet, milestone)
        }),
    }
}

/// Reads a pod's file, or standard input for `-`.
pub fn read(file: &Path) -> Result<Pod, Failure> {
    let at = |error: &dyn std::fmt::Display| Failure::early(format!("--pod {}: {error}", file.display()));
    let mut text = String::new();
    let most = LONGEST as u64 + 1;
    match file == Path::new("-") {
        true => std::io::stdin().lock().take(most).read_to_string(&mut text),
        false => {
            let file = std::fs::File::open(file).map_err(|error| at(&error))?;
            file.take(most).read_to_string(&mut text)
        }
    }
    .map_err(|error| at(&error))?;
    pod::parse(&text).map_err(|error| at(&error))
}

/// The images of a pod's containers, each once, and which of them is whose. `fetch` gets one by its name and when its
/// registry is to be asked.
pub fn images(
    pod: &Pod,
    mut fetch: impl FnMut(&str, Option<Pull>) -> Result<Ready, Failure>,
) -> Result<(Vec<Ready>, Vec<usize>), Failure> {
    let mut images: Vec<Ready> = Vec::new();
    let mut image_of = Vec::new();
    for container in pod.init.iter().chain(&pod.containers) {
        let there = images.iter().position(|image| image.name == container.image);
        image_of.push(match there {
            Some(number) => number,
            None => {
                images.push(named(container, fetch(&container.image, container.pull))?);
                images.len() - 1
            }
        });
    }
    Ok((images, image_of))
}

fn named(container: &Container, result: Result<Ready, Failure>) -> Result<Ready, Failure> {
    result.map_err(|failure| {
        let message = format!("container {}: {}", container.name, failure.message);
        Failure { message, ..failure }
    })
}

fn fetch_and_run(
    global: &Global,
    settings: &Settings,
    args: &RunArgs,
    pod: Pod,
    (shape, cores): (Shape, Option<Cores>),
    output: Output,
    milestone: Milestones<'_>,
) -> Result<u8, Fault> {
    let interrupts = Interrupts::install(Forwarding::ToContainer)
        .map_err(|error| Fault::new(format_args!("signals cannot be received: {error}")))?;
    let progress = Show::new();
    let registries = pull::registries(settings);
    let store = global.store()?;
    let (images, image_of) = images(&pod, |name, pull| {
        let reference =
            Reference::parse(name, Grammar::Registry).map_err(|error| Failure::early(error.to_string()))?;
        if reference == Reference::Stdin {
            return Err(Failure::early("an image of a pod cannot be standard input"));
        }
        let when = pull.map_or(args.when_to_pull().into(), policy);
        let access = Access { registries: &registries, pull: when, keep: Keep::Converted };
        prepare(&store, name, &reference, &access, &progress)
    })?;
    progress.end();
    let request = Request {
        pod,
        images,
        image_of,
        shape,
        afterwards: if args.removes() { Afterwards::ThrowAway } else { Afterwards::Keep },
        output,
        log: settings.log_capacity(args.log_options()),
        cores,
    };
    let containers = Global::containers()?;
    Ok(pod::run(&request, &host(&containers, &interrupts, &progress, milestone))?)
}

/// What the document says, in the words of images.
pub fn policy(pull: Pull) -> source::Pull {
    match pull {
        Pull::Always => When::Always.into(),
        Pull::Missing => When::Missing.into(),
        Pull::Never => When::Never.into(),
    }
}
