//! `cargo xtask run IMAGE`: the whole road from a name to an exit status.
//!
//! Everything about the container is `ferry`'s own code; what is chosen here is who starts the guest: ferry's VMM on KVM, or
//! QEMU without KVM. Both boot the same kernel, PID 1 and layers.

mod appliance;
pub mod bare;
mod pod;
mod qemu;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use ferry_images::source::{Access, Keep, Pull};
use ferry_images::{Grammar, Reference, Registries, Store, disk, recipe};
use ferry_vmm::cli::cores::CoreArgs;
use ferry_vmm::cli::details::DetailArgs;
use ferry_vmm::cli::run::{ContainerArgs, MachineArgs, prepare};
use ferry_vmm::machine;
use ferry_vmm::runtime::guest::Launch;
use ferry_vmm::runtime::interrupt::{Forwarding, Interrupts};
use ferry_vmm::runtime::network::{Wanted, passt_is_installed};
use ferry_vmm::runtime::oci::Options;
use ferry_vmm::runtime::own_vmm::OwnVmm;
use ferry_vmm::runtime::restart::Restart;
use ferry_vmm::runtime::run::{self as container, Host, Mode, Ready, Request, Stop};
use ferry_vmm::runtime::shape::Shape;
use ferry_vmm::runtime::state::Containers;
use ferry_vmm::runtime::supervise::{Afterwards, Failure};

use self::qemu::Qemu;
use crate::build;
use crate::kernel;
use crate::setup::{self, Need, Work};
use crate::workshop::Workshop;

/// Where the virtual machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum On {
    /// ferry's own VMM on /dev/kvm
    Kvm,
    /// QEMU without KVM: it needs no privileges
    Qemu,
    /// ferry where KVM is fit for it, QEMU elsewhere
    Auto,
}

/// `run [OPTIONS] IMAGE [OPTIONS] [-- COMMAND…]`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// A recipe's name, any image reference that ferry takes, or the path of an appliance's disk
    #[arg(required_unless_present = "pod", default_value = "", hide_default_value = true)]
    image: String,
    /// Run the containers of a Kubernetes Pod, described in a YAML file, in one virtual machine
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ContainerArgs", "DetailArgs", "image", "command", "name"])]
    pod: Option<PathBuf>,
    /// The command and its arguments, instead of the image's own
    #[arg(last = true)]
    command: Vec<String>,
    /// Where to run
    #[arg(long, value_enum, default_value = "auto")]
    on: On,
    /// A further argument for QEMU, as it takes them; may be given several times
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    qemu_arg: Vec<std::ffi::OsString>,
    /// Name the container
    #[arg(long)]
    name: Option<String>,
    /// Run an appliance's disk itself and not a copy of it, so that the next run finds what this one keeps
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    details: DetailArgs,
    #[command(flatten)]
    cores: CoreArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Runs an image; the result is the container's exit status.
pub fn run(workshop: &mut Workshop, run: Run) -> Result<ExitCode> {
    if let Some(file) = &run.pod {
        return pod::run(workshop, file, &run);
    }
    let shape = run.machine.shape(run.container.overlay, Shape::default());
    let cores = run.cores.cores();
    let with_options = |cores| {
        let options = run.container.options(run.command, Option::as_ref(&cores))?;
        Ok((run.details.complete(options)?, cores))
    };
    let (options, cores) = match cores.and_then(with_options) {
        Ok(both) => both,
        Err(failure) => return Ok(failed(&failure)),
    };
    if let Err(failure) = container::check(&options, &shape, run.container.interactive) {
        return Ok(failed(&failure));
    }
    let (on, why) = choose(run.on);
    let what = What::of(&run.image, &build::recipe::directory(workshop))?;
    let is_image = matches!(what, What::Image(_));
    if !is_image && (run.container.interactive || options != Options::default()) {
        bail!(
            "{} is an appliance: its containers are as the recipe has them, without options or a command",
            run.image
        );
    }
    let writes = match (run.keep, &what) {
        (false, _) => appliance::Writes::ToACopy,
        (true, What::Disk(path))
            if !path.canonicalize()?.starts_with(workshop.cache.root().canonicalize()?) =>
        {
            appliance::Writes::ToTheDisk
        }
        (true, _) => bail!(
            "--keep is for a disk of your own: build one with `cargo xtask build image NAME --format disk`, copy it out of \
             the cache, and name the copy's path"
        ),
    };
    let ingredients = Ingredients { what, kernel: run.machine.kernel, initrd: run.machine.initrd, on };
    let prepared = ingredients.prepare(workshop)?;
    say_where(workshop, on, &why);
    if shape.network == Wanted::default() && !passt_is_installed() {
        workshop
            .report
            .say("passt is not installed, so the container has no network (--network none says so)");
    }

    let interrupts = Interrupts::install(Forwarding::ToContainer)?;
    let Prepared { what, kernel, initrd } = prepared;
    let qemu = Qemu { tools: &workshop.tools, further: &run.qemu_arg };
    let launch: &dyn Launch = if on == On::Kvm { &OwnVmm } else { &qemu };
    if let What::Disk(disk) = &what {
        let shape = Shape { kernel: Some(kernel), initrd: Some(initrd), ..shape };
        return appliance::run(
            workshop,
            appliance::Appliance { disk, writes, shape, launch, interrupts: &interrupts },
        );
    }
    let image = match fetch(workshop, &run.image, &what.image()?)? {
        Ok(image) => image,
        Err(failure) => return Ok(failed(&failure)),
    };
    let request = Request {
        image,
        options,
        shape: Shape { kernel: Some(kernel), initrd: Some(initrd), ..shape },
        name: run.name,
        interactive: run.container.interactive,
        afterwards: Afterwards::ThrowAway,
        mode: Mode::Foreground,
        restart: Restart::No,
        stop: Stop::default(),
        cores,
    };
    match container::run(&request, &Host::quiet(&containers()?, launch, &interrupts)) {
        Ok(status) => Ok(ExitCode::from(status)),
        Err(failure) => Ok(failed(&failure)),
    }
}

/// Where containers are kept.
fn containers() -> Result<Containers> {
    let path = Containers::default_path().ok_or_else(|| anyhow!("no place for containers: set HOME"))?;
    Ok(Containers::open(&path).with_usual_volumes())
}

fn say_where(workshop: &Workshop, on: On, why: &str) {
    workshop.report.say(match on {
        On::Kvm => format!("on ferry with KVM: {why}"),
        _ => format!("on QEMU without KVM: {why}"),
    });
}

/// What can be run.
enum What {
    /// An image, in a container of its own.
    Image(Reference),
    /// A recipe with services, whose disk is yet to be built.
    Services(String),
    /// An appliance's disk.
    Disk(PathBuf),
}

impl What {
    /// What `text` names: a disk is told by its partition table, where a path is given.
    fn of(text: &str, recipes: &Path) -> Result<Self> {
        let path = Path::new(text);
        if text.contains('/') && disk::is_one(path) {
            return Ok(Self::Disk(path.to_owned()));
        }
        match Reference::parse(text, Grammar::RecipesIn(recipes)).map_err(|error| anyhow!("{error}"))? {
            Reference::Recipe(name) if recipe::has_services(recipes, &name)? => Ok(Self::Services(name)),
            reference => Ok(Self::Image(reference)),
        }
    }

    /// The recipe that it is made from.
    fn recipe(&self) -> Option<&str> {
        match self {
            Self::Image(Reference::Recipe(name)) | Self::Services(name) => Some(name),
            Self::Image(_) | Self::Disk(_) => None,
        }
    }

    /// The image's reference; an error where it is no image.
    fn image(self) -> Result<Reference> {
        match self {
            Self::Image(reference) => Ok(reference),
            Self::Services(_) | Self::Disk(_) => bail!("an appliance is no image: its disk is run by itself"),
        }
    }

    /// The same with everything built.
    fn built(self, workshop: &Workshop, recipes: &Path) -> Result<Self> {
        Ok(match self {
            Self::Image(Reference::Recipe(name)) => {
                let path = build::recipe::build(workshop, recipes, &name)?;
                Self::Image(Reference::OciLayout { path, name: None })
            }
            Self::Services(name) => {
                Self::Disk(build::disk::build(workshop, recipes, &name, build::disk::Wanted::default())?)
            }
            other => other,
        })
    }
}

/// What a guest is made of, as it was asked for.
struct Ingredients {
    what: What,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    on: On,
}

/// The same, there to be used.
struct Prepared {
    what: What,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Ingredients {
    /// Installs and builds what is missing.
    fn prepare(self, workshop: &mut Workshop) -> Result<Prepared> {
        let recipes = build::recipe::directory(workshop);
        let mut needs = vec![if self.on == On::Kvm { Need::Kvm } else { Need::Qemu }];
        let kernel = self.kernel.or_else(given_kernel);
        if kernel.is_none() {
            needs.push(Need::Kernel);
        }
        if let Some(name) = self.what.recipe() {
            workshop.report.say(format!("{name} is the recipe images/recipes/{name}.toml"));
            for image in recipe::images(&recipes, name)? {
                needs.extend(recipe_needs(workshop, &recipes, &image)?);
            }
        }
        setup::prepare(workshop, &needs)?;
        let kernel = match kernel {
            Some(kernel) => kernel,
            None => kernel::build(workshop)?.vmlinux,
        };
        let initrd = match self.initrd {
            Some(initrd) => initrd,
            None => build::init::build(workshop)?.initrd,
        };
        let what = self.what.built(workshop, &recipes)?;
        Ok(Prepared { what, kernel, initrd })
    }
}

/// Brings an image into the store.
fn fetch(workshop: &Workshop, name: &str, reference: &Reference) -> Result<Result<Ready, Failure>> {
    let store =
        Store::default_path().ok_or_else(|| anyhow!("no place for images: set HOME or XDG_DATA_HOME"))?;
    let store = Store::open(&store).map_err(|error| anyhow!("{error}"))?;
    let registries = Registries::new(Default::default());
    let access = Access { registries: &registries, pull: Pull::Missing, keep: Keep::Converted };
    Ok(prepare(&store, name, reference, &access, &workshop.report.shown()))
}

/// A kernel of the user's own, named as for `ferry`: there is none to build then.
pub fn given_kernel() -> Option<PathBuf> {
    std::env::var_os("FERRY_KERNEL").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Says in one line why there is no exit status of the container's own.
fn failed(failure: &Failure) -> ExitCode {
    eprintln!("xtask: {}", failure.message.trim().replace(['\n', '\r'], " "));
    ExitCode::from(failure.status)
}

/// What a recipe's image takes that is not there yet.
pub fn recipe_needs(workshop: &Workshop, recipes: &Path, name: &str) -> Result<Vec<Need>> {
    if build::recipe::cached(workshop, recipes, name)?.is_some() {
        return Ok(Vec::new());
    }
    let bytes = build::recipe::download(recipes, name);
    let work = Work {
        what: format!("image {name}"),
        download: bytes,
        // The packages, the layout, and the layers made from it.
        keep: 6 * bytes,
        time: Duration::from_secs(5 + bytes / 1_000_000),
    };
    Ok(vec![Need::Images, Need::Long(work)])
}

/// Where to run, and why there.
fn choose(on: On) -> (On, String) {
    match on {
        On::Kvm | On::Qemu => (on, "as asked".to_owned()),
        On::Auto => match (setup::kvm_fault(), machine::probe()) {
            (Some(fault), _) => (On::Qemu, fault),
            (None, Err(error)) => (On::Qemu, error.to_string()),
            (None, Ok(kvm)) if kvm.emulates_ring0 => (
                On::Qemu,
                "this machine's KVM emulates ring 0, which takes a minute to boot (--on kvm does it)"
                    .to_owned(),
            ),
            (None, Ok(_)) => (On::Kvm, "/dev/kvm works".to_owned()),
        },
    }
}
