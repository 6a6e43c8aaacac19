//! `cargo xtask test`: gets everything ready that the tests need, and runs them group by group.
//!
//! The groups are cargo's own test programs, so that what is printed is the test runner's own report.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::build::foreign::Foreign;
use crate::build::{self, forget_the_outer_cargo};
use crate::kernel;
use crate::run::{given_kernel, recipe_needs};
use crate::setup::{self, Need};
use crate::workshop::Workshop;

/// The images that the tests run under their own names.
const RECIPES: [&str; 8] = ["hello", "redis", "python", "nginx", "postgres", "node", "edge-app", "edge-web"];

/// Images of other makes, which only the tests run.
const OTHER_MAKES: [&str; 6] = ["go", "java", "sshd", "dropping", "asked", "systemd"];

/// Tells the test programs to use full sizes.
const FULL: &str = "FERRY_TEST_FULL";

/// What to test.
#[derive(Clone, Debug, Args)]
pub struct Test {
    /// Groups to run; none: all
    #[arg(value_enum)]
    groups: Vec<Group>,
    /// Full sizes, for machines with hardware KVM; also proves that the kernel's build is reproducible
    #[arg(long)]
    full: bool,
}

/// A group of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Format, lints, and every crate's own tests
    Unit,
    /// The virtual machine's devices with KVM, from a guest without an operating system
    Devices,
    /// Images: recipes, stores, layers against an independent unpacker, reproducible builds
    Images,
    /// The agent API over the wire, with a guest on QEMU without KVM
    Agent,
    /// Whole images in virtual machines on QEMU without KVM
    Qemu,
    /// Whole images in virtual machines on ferry with KVM
    Kvm,
}

impl Group {
    const ALL: [Group; 6] =
        [Group::Unit, Group::Devices, Group::Images, Group::Agent, Group::Qemu, Group::Kvm];

    fn needs_kvm(self) -> bool {
        matches!(self, Group::Devices | Group::Kvm)
    }

    fn name(self) -> &'static str {
        match self {
            Group::Unit => "unit",
            Group::Devices => "devices",
            Group::Images => "images",
            Group::Agent => "agent",
            Group::Qemu => "qemu",
            Group::Kvm => "kvm",
        }
    }
}

/// Runs the groups, all of them even where one fails.
pub fn test(workshop: &mut Workshop, test: &Test) -> Result<ExitCode> {
    let without_kvm = setup::kvm_fault();
    let groups: Vec<Group> = match test.groups.is_empty() {
        true => Group::ALL.into_iter().filter(|group| !group.needs_kvm() || without_kvm.is_none()).collect(),
        false => Group::ALL.into_iter().filter(|group| test.groups.contains(group)).collect(),
    };
    let left_out = without_kvm
        .filter(|_| test.groups.is_empty())
        .map(|fault| format!("devices and kvm are left out: {fault}"));
    get_ready(workshop, &groups)?;
    let mut results = Vec::new();
    for group in groups {
        let began = Instant::now();
        let mut failed = Vec::new();
        for mut command in commands(workshop, group) {
            if test.full {
                command.env(FULL, "1");
            }
            let line = in_words(&command);
            workshop.report.say(format!("{}: {line}", group.name()));
            let status = command.status().with_context(|| format!("cannot start {line}"))?;
            if !status.success() {
                failed.push(line);
            }
        }
        results.push((group, began.elapsed(), failed));
    }
    let size = if test.full { "full" } else { "small" };
    for (group, time, failed) in &results {
        let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
        workshop.report.say(format!(
            "{:<8} {verdict:<6} {:>4} s, {size} sizes",
            group.name(),
            time.as_secs_f64().ceil()
        ));
        failed.iter().for_each(|line| workshop.report.say(format!("         failed: {line}")));
    }
    left_out.iter().for_each(|line| workshop.report.say(line));
    Ok(ExitCode::from(u8::from(results.iter().any(|(_, _, failed)| !failed.is_empty()))))
}

/// Builds what the tests start from, so that no test has to wait for it or be the one that fails to build it.
fn get_ready(workshop: &mut Workshop, groups: &[Group]) -> Result<()> {
    let mut needs = Vec::new();
    let asked = |wanted: &[Group]| groups.iter().any(|group| wanted.contains(group));
    let whole_runs = asked(&[Group::Agent, Group::Qemu, Group::Kvm]);
    if whole_runs || asked(&[Group::Images]) {
        needs.extend([Need::Images, Need::Tests]);
        needs.extend(given_kernel().is_none().then_some(Need::Kernel));
    }
    if asked(&[Group::Agent, Group::Qemu, Group::Images]) {
        needs.push(Need::Qemu);
    }
    if groups.iter().any(|group| group.needs_kvm()) {
        needs.push(Need::Kvm);
    }
    let recipes = match asked(&[Group::Images, Group::Qemu, Group::Kvm]) {
        true => recipe_directories(workshop).to_vec(),
        // The agent's tests run all their programs from that one image.
        false => vec![(build::recipe::directory(workshop), &RECIPES[..1])],
    };
    if whole_runs {
        for (recipes, names) in &recipes {
            for name in *names {
                needs.extend(recipe_needs(workshop, recipes, name)?);
            }
        }
    }
    if asked(&[Group::Images]) {
        needs.extend(Foreign::needs(workshop)?);
    }
    setup::prepare(workshop, &needs)?;
    if needs.contains(&Need::Kernel) {
        kernel::build(workshop)?;
    }
    if groups.contains(&Group::Devices) {
        build::boot::device_test(workshop)?;
    }
    if groups.contains(&Group::Images) {
        build::ferry::development(workshop)?;
        Foreign::build(workshop)?;
    }
    if needs.contains(&Need::Tests) {
        build::init::build(workshop)?;
        for (recipes, names) in &recipes {
            for name in *names {
                build::recipe::build(workshop, recipes, name)?;
            }
        }
    }
    Ok(())
}

/// Where the recipes of the tests' images are, and which they are.
fn recipe_directories(workshop: &Workshop) -> [(PathBuf, &'static [&'static str]); 2] {
    let of_tests = workshop.checkout.join("xtask/tests/recipes");
    [(build::recipe::directory(workshop), &RECIPES), (of_tests, &OTHER_MAKES)]
}

/// What a group consists of.
fn commands(workshop: &Workshop, group: Group) -> Vec<Command> {
    let cargo = |words: &str| {
        let mut command = workshop.tools.cargo();
        forget_the_outer_cargo(&mut command);
        command.current_dir(&workshop.checkout).env("CARGO_TARGET_DIR", &workshop.target_dir);
        command.args(words.split(' ')).stdin(Stdio::null());
        command
    };
    // All with the features of the whole workspace: what the unit tests have compiled serves the others too.
    let tests = || cargo(&format!("test --quiet --locked --workspace --test {}", group.name()));
    match group {
        Group::Unit => vec![
            cargo("fmt --all --check"),
            // The tests of the other groups are left out of "all targets", as they are of a plain `cargo test`.
            cargo(
                "clippy --quiet --locked --workspace --all-targets --test images --test agent --test qemu --test kvm -- -D warnings",
            ),
            cargo(
                "clippy --quiet --locked --release --package ferry-init --features bin --bin ferry-init -- -D warnings",
            ),
            cargo("test --quiet --locked --workspace --no-fail-fast"),
        ],
        Group::Devices => {
            let mut tests = tests();
            tests.env("FERRY_DEVICE_TEST", build::boot::device_test_path(workshop));
            vec![tests]
        }
        Group::Images => {
            let mut tests = tests();
            // It was made ready before.
            if let Ok(foreign) = Foreign::build(workshop) {
                tests.env("FERRY_FOREIGN", foreign.directory());
            }
            vec![tests]
        }
        Group::Agent | Group::Qemu | Group::Kvm => vec![tests()],
    }
}

fn in_words(command: &Command) -> String {
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    std::iter::once("cargo".into()).chain(arguments).collect::<Vec<_>>().join(" ")
}
