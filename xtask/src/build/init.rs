//! PID 1, and the initial file system around it.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{TARGET, encoded, reproducible};
use crate::cache::Key;
use crate::workshop::Workshop;

/// PID 1 as it was built.
#[derive(Clone, Debug)]
pub struct Init {
    /// The program: a static ELF file.
    pub program: PathBuf,
    /// The cpio archive with it that a kernel starts from.
    pub initrd: PathBuf,
}

/// What makes it small: it lies at fixed addresses, so that none need be worked out; instructions that stand in several
/// places are moved to one; and few choices are worth a table.
const SMALL: [&str; 4] = [
    "-C",
    "relocation-model=static",
    "-C",
    "llvm-args=-enable-machine-outliner=always -min-jump-table-entries=12",
];

/// Builds PID 1.
pub fn build(workshop: &Workshop) -> Result<Init> {
    let target = workshop.target_dir.join("init");
    let (mut command, mut flags) = reproducible(workshop, &target)?;
    flags.extend(SMALL.map(OsString::from));
    command
        .args(["build", "--locked", "--release", "--package", "ferry-init", "--bin", "ferry-init"])
        .args(["--features", "bin", "--target", TARGET])
        .env("CARGO_ENCODED_RUSTFLAGS", encoded(&flags));
    let log = workshop.cache.dir("logs")?.join("init.log");
    // Cargo knows best whether there is anything to do; where there is a result there is seldom much.
    let expected = Duration::from_secs(if target.join(TARGET).exists() { 2 } else { 15 });
    let step = workshop.report.step("PID 1", expected);
    workshop.report.run(&step, &mut command, &log).context("PID 1")?;
    drop(step);
    let program = target.join(TARGET).join("release/ferry-init");
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let archive = ferry_images::initrd::write(&bytes);
    let key = Key::default().add("initrd", &archive).finish();
    let entry = workshop.cache.get_or_make("initrd", &key, |dir| {
        fs::write(dir.join("initrd.cpio"), &archive).context("cannot write the initrd")
    })?;
    Ok(Init { program, initrd: entry.join("initrd.cpio") })
}
