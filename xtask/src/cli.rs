//! The command line: what can be asked for, and who answers.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::build;
use crate::kernel;
use crate::setup::{self, Need};
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
    Run(Run),
    /// Build a part, or everything that a run needs
    Build {
        /// What to build; nothing: kernel, PID 1 and ferry
        #[command(subcommand)]
        part: Option<Part>,
    },
    /// Run the tests
    Test(Test),
    /// Measure
    Bench {
        /// One benchmark; none: all of them
        name: Option<String>,
        /// Print a JSON array of {"subject", "metric", "unit", "value"} on standard output
        #[arg(long)]
        json: bool,
    },
    /// Make dist/ferry: one static binary with the kernel and PID 1 inside
    Dist {
        /// Where to leave it
        #[arg(long, default_value = "dist")]
        output: PathBuf,
    },
    /// Say what is missing on this machine, and the command that installs it
    Doctor,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Part {
    /// The guest kernel
    Kernel,
    /// PID 1 and the initial file system around it
    Init,
    /// The `ferry` command
    Ferry,
    /// An image from its recipe
    Image {
        /// The recipe's name: images/recipes/NAME.toml
        name: String,
    },
}

/// Where the virtual machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum On {
    /// ferry's own VMM on /dev/kvm
    Kvm,
    /// QEMU without KVM: slower to start, and needs no privileges
    Qemu,
    /// ferry where KVM is fit for it, QEMU elsewhere
    Auto,
}

#[derive(Clone, Debug, Args)]
pub struct Run {
    /// A recipe's name, or any image reference that ferry takes
    pub image: String,
    /// The command and its arguments, instead of the image's own
    #[arg(last = true)]
    pub command: Vec<String>,
    /// Where to run
    #[arg(long, value_enum, default_value = "auto")]
    pub on: On,
}

#[derive(Clone, Debug, Args)]
struct Test {
    /// Groups to run; none: all
    groups: Vec<String>,
    /// Full sizes: for machines with hardware KVM
    #[arg(long)]
    full: bool,
}

/// Does what the command line asks.
pub fn dispatch(cli: Cli) -> Result<ExitCode> {
    let mut workshop = Workshop::open(cli.checkout.as_deref())?;
    match cli.command {
        Command::Doctor => return Ok(ExitCode::from(u8::from(!setup::doctor(&workshop)))),
        Command::Build { part } => build_parts(&mut workshop, part)?,
        Command::Dist { output } => {
            setup::prepare(&mut workshop, &[Need::Kernel])?;
            let kernel = kernel::build(&workshop)?;
            let init = build::init::build(&workshop)?;
            let output = workshop.checkout.join(output);
            let ferry = build::ferry::distribution(&workshop, &kernel, &init.initrd, &output)?;
            workshop.report.built("ferry", &ferry);
        }
        _ => bail!("not there yet"),
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
    if all || part == Some(Part::Ferry) {
        workshop.report.built("ferry", &build::ferry::development(workshop)?);
    }
    Ok(())
}
