//! The `ferry` command: for work on it as a plain development build, for users as one static file.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{TARGET, cargo, cargo_home, encoded, quoted, remapped, reproducible};
use crate::elf::{self, PT_DYNAMIC, PT_INTERP};
use crate::kernel::Kernel;
use crate::workshop::Workshop;

/// Builds `ferry` as it is run from the checkout: quick to build, kernel and PID 1 named by its environment.
pub fn development(workshop: &Workshop) -> Result<PathBuf> {
    // The very target directory that xtask came from, with its features: all but the program itself is built already.
    let mut command = cargo(workshop, &workshop.target_dir);
    command.args(["build", "--locked", "--package", "xtask", "--package", "ferry-vmm", "--bin", "ferry"]);
    command.env_remove("FERRY_KERNEL").env_remove("FERRY_INITRD");
    let log = workshop.cache.dir("logs")?.join("ferry.log");
    let step = workshop.report.step("ferry", Duration::from_secs(20));
    workshop.report.run(&step, &mut command, &log).context("ferry")?;
    Ok(workshop.target_dir.join("debug/ferry"))
}

/// Builds the one static file with the kernel and PID 1 inside, and leaves it in `output`.
pub fn distribution(workshop: &Workshop, kernel: &Kernel, initrd: &Path, output: &Path) -> Result<PathBuf> {
    let mut command = optimised(workshop, &["--bin", "ferry"])?;
    command.env("FERRY_KERNEL", &kernel.vmlinux).env("FERRY_INITRD", initrd);
    let built = run(workshop, command, "ferry")?;
    fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;
    let path = output.join("ferry");
    let new = output.join(".ferry.new");
    fs::copy(&built, &new).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, &path)?;
    Ok(path)
}

/// Builds the machine and its devices without anything else, as one static file.
pub fn machine_only(workshop: &Workshop) -> Result<PathBuf> {
    let mut command = optimised(workshop, &["--bin", "ferry-vmm"])?;
    command.arg("--no-default-features").env_remove("FERRY_KERNEL").env_remove("FERRY_INITRD");
    run(workshop, command, "ferry-vmm")
}

/// The benchmark of the devices, to be started.
pub fn benchmark(workshop: &Workshop) -> Result<Command> {
    let parts = ["--quiet", "--bench", "machine", "--no-default-features", "--features", "fuzz"];
    let mut command = as_given(workshop, &["bench"], &parts)?;
    command.env_remove("FERRY_KERNEL").env_remove("FERRY_INITRD");
    Ok(command)
}

/// What builds such parts of the VMM's crate as they are given to users.
fn optimised(workshop: &Workshop, parts: &[&str]) -> Result<Command> {
    as_given(workshop, &["build", "--release"], parts)
}

/// Cargo doing this to such parts, with the flags of what is given to users.
fn as_given(workshop: &Workshop, verb: &[&str], parts: &[&str]) -> Result<Command> {
    let (mut command, mut flags) = reproducible(workshop, &workshop.target_dir.join("dist"))?;
    flags.extend(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"].map(Into::into));
    let mut prefix = OsString::from("-ffile-prefix-map=");
    prefix.push(remapped(&cargo_home()?, "/cargo"));
    command
        .args(verb)
        .args(["--locked", "--package", "ferry-vmm"])
        .args(parts)
        .args(["--target", TARGET])
        .env("CARGO_ENCODED_RUSTFLAGS", encoded(&flags))
        // C code that came with a dependency must not carry this machine's paths either.
        .env("CC_SHELL_ESCAPED_FLAGS", "1")
        .env("CFLAGS", quoted(&prefix));
    Ok(command)
}

/// Runs such a build; the program.
fn run(workshop: &Workshop, mut command: Command, program: &str) -> Result<PathBuf> {
    let log = workshop.cache.dir("logs")?.join("dist.log");
    let step = workshop.report.step(format!("{program}, optimised and static"), Duration::from_secs(240));
    workshop.report.run(&step, &mut command, &log).with_context(|| program.to_owned())?;
    drop(step);
    let built = workshop.target_dir.join("dist").join(TARGET).join("release").join(program);
    is_static(&built)?;
    Ok(built)
}

/// Fails where the program asks for a dynamic linker or a shared library.
fn is_static(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let (_, segments) = elf::parse(&bytes).with_context(|| program.display().to_string())?;
    if segments.iter().any(|segment| [PT_DYNAMIC, PT_INTERP].contains(&segment.kind)) {
        bail!("{} is not static: it has a dynamic section", program.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_dynamic_program_from_a_static_one() {
        let error = is_static(&std::env::current_exe().unwrap()).unwrap_err();
        assert!(error.to_string().contains("not static"), "{error}: test programs are dynamic");
        assert!(is_static(Path::new(file!())).is_err());
    }
}
