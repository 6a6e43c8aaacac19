//! The command line: what can be asked for, and who answers.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use ferry_images::disk::Verity;
use ferry_images::recipe::{self, statements};
use ferry_vmm::runtime::size::parse_size;

use crate::bench::{self, Bench};
use crate::build;
use crate::fuzz::{self, Fuzz};
use crate::kernel;
use crate::run::bare::Bare;
use crate::run::{self, Run};
use crate::setup::{self, Need};
use crate::test::{self, Test};
use crate::workshop::Workshop;

/// Builds, runs and tests Ferry.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Work in this checkout instead of the one that xtask was built from
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    checkout: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an image in a virtual machine of its own
    Run(Box<Run>),
    /// Start a guest without a container on QEMU, and print where its agent is spoken to
    Guest(Box<Bare>),
    /// Build a part, or everything that a run needs
    Build {
        /// What to build; nothing: kernel, PID 1 and ferry
        #[command(subcommand)]
        part: Option<Part>,
    },
    /// Run the tests
    Test(Test),
    /// Measure
    Bench(Bench),
    /// Run the fuzz targets of all crates for a while
    Fuzz(Fuzz),
    /// Make dist/ferry: one static binary with the kernel and PID 1 inside
    Dist {
        /// Where to leave it
        #[arg(long, default_value = "dist")]
        output: PathBuf,
    },
    /// Look after images
    Image {
        #[command(subcommand)]
        what: Images,
    },
    /// Say what is missing on this machine, and the command that installs it
    Doctor,
}

#[derive(Clone, Debug, Subcommand)]
enum Images {
    /// Resolve a recipe's packages anew and pin what was found
    Lock {
        /// Write images/recipes/NAME.lock
        #[arg(long, required = true)]
        update: bool,
        /// The recipe's name
        name: String,
        /// The directory with the recipe, instead of images/recipes
        #[arg(long, value_name = "DIR")]
        recipes: Option<PathBuf>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Part {
    /// The guest kernel
    Kernel,
    /// PID 1 and the initial file system around it
    Init,
    /// The guest that tests the devices
    Boot,
    /// The `ferry` command
    Ferry,
    /// An image from its recipe, or a disk that runs it
    Image {
        /// The recipe's name: images/recipes/NAME.toml
        name: String,
        /// What to make: an OCI layout, or a disk for a machine of its own [default: what the recipe is for]
        #[arg(long, value_enum)]
        format: Option<Format>,
        /// Bytes of the disk's writable partition, such as 512m or 4g
        #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "1g")]
        state: u64,
        /// Put a hash tree behind every image and layer of the disk, which the guest checks what it reads against
        #[arg(long)]
        verity: bool,
        /// The directory with the recipe, instead of images/recipes
        #[arg(long, value_name = "DIR")]
        recipes: Option<PathBuf>,
    },
}

/// What is made from a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A directory that podman, skopeo, Docker and ferry read
    Oci,
    /// A disk image with a partition table, whose containers start by themselves
    Disk,
}

/// Does what the command line asks.
pub fn dispatch(cli: Cli) -> Result<ExitCode> {
    let mut workshop = Workshop::open(cli.checkout.as_deref())?;
    match cli.command {
        Command::Doctor => return Ok(ExitCode::from(u8::from(!setup::doctor(&workshop)))),
        Command::Run(run) => return run::run(&mut workshop, *run),
        Command::Guest(bare) => return run::bare::bare(&mut workshop, *bare),
        Command::Test(test) => return test::test(&mut workshop, &test),
        Command::Image { what: Images::Lock { update: _, name, recipes } } => {
            setup::prepare(&mut workshop, &[Need::Images])?;
            let recipes = recipes.unwrap_or_else(|| build::recipe::directory(&workshop));
            build::recipe::update_lock(&workshop, &recipes, &name)?;
        }
        Command::Build { part } => build_parts(&mut workshop, part)?,
        Command::Dist { output } => {
            setup::prepare(&mut workshop, &[Need::Kernel])?;
            let kernel = kernel::build(&workshop)?;
            let init = build::init::build(&workshop)?;
            let output = workshop.checkout.join(output);
            let ferry = build::ferry::distribution(&workshop, &kernel, &init.initrd, &output)?;
            workshop.report.built("ferry", &ferry);
        }
        Command::Bench(bench) => return bench::bench(&mut workshop, &bench),
        Command::Fuzz(targets) => return fuzz::fuzz(&workshop, &targets),
    }
    Ok(ExitCode::SUCCESS)
}

fn build_parts(workshop: &mut Workshop, part: Option<Part>) -> Result<()> {
    let all = part.is_none();
    if all || part == Some(Part::Kernel) {
        setup::prepare(workshop, &[Need::Kernel])?;
        let kernel = kernel::build(workshop)?;
        workshop.report.built("kernel", &kernel.vmlinux);
    }
    if all || part == Some(Part::Init) {
        let init = build::init::build(workshop)?;
        workshop.report.built("PID 1", &init.program);
        workshop.report.built("initrd", &init.initrd);
    }
    if part == Some(Part::Boot) {
        workshop.report.built("device-test guest", &build::boot::device_test(workshop)?);
    }
    if let Some(Part::Image { name, format, state, verity, recipes }) = &part {
        setup::prepare(workshop, &[Need::Images])?;
        let recipes = recipes.clone().unwrap_or_else(|| build::recipe::directory(workshop));
        let is_appliance = recipe::has_services(&recipes, name)?;
        if format.unwrap_or(if is_appliance { Format::Disk } else { Format::Oci }) == Format::Disk {
            let verity = if *verity { Verity::Trees } else { Verity::Without };
            let wanted = build::disk::Wanted { state_bytes: *state, verity };
            let disk = build::disk::build(workshop, &recipes, name, wanted)?;
            workshop.report.built("disk", &disk);
            println!("{}", disk.display());
            return Ok(());
        }
        let layout = build::recipe::build(workshop, &recipes, name)?;
        let [materials, provenance] = statements::beside(&layout);
        workshop.report.built("bill of materials", &materials);
        workshop.report.built("provenance", &provenance);
        // The path is the result: it goes where a script can take it.
        println!("{}", layout.display());
    }
    if all || part == Some(Part::Ferry) {
        workshop.report.built("ferry", &build::ferry::development(workshop)?);
    }
    Ok(())
}
