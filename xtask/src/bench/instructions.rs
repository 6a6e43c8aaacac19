//! Counting guest instructions: the one unit that no other work on this machine changes. QEMU counts them with a plugin of
//! ours.
//!
//! QEMU is a hundred times slower than a processor. By the host's clock a guest then has a hundred times the ticks of its
//! timer, and what they set off (RCU, the scheduler's averages), the more the busier the host is. By its own instructions
//! it has those that a processor would give it, and the count does not depend on the host's speed.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::build;
use crate::cache::Key;
use crate::elf;
use crate::setup::{self, Need};
use crate::workshop::Workshop;

const SOURCE: &str = include_str!("instructions.c");

/// How the guest's time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// With its instructions, a nanosecond each.
    Instructions,
    /// As it does for the host.
    Host,
}

/// A plugin for one QEMU, and the file of its numbers.
pub struct Counter {
    clock: Clock,
    directory: TempDir,
    plugin: PathBuf,
    /// PID 1's addresses.
    init: (u64, u64),
}

/// Instructions, counted from the machine's reset.
#[derive(Debug, PartialEq, Eq)]
pub struct Counts {
    /// Up to PID 1's first.
    pub to_pid_1: u64,
    /// Up to the first one of a container's process.
    pub to_container: u64,
    /// All so far.
    pub all: u64,
}

impl Counter {
    pub fn new(workshop: &mut Workshop, clock: Clock) -> Result<Counter> {
        setup::prepare(workshop, &[Need::Qemu])?;
        let plugin = plugin(workshop)?;
        let init = build::init::build(workshop)?.program;
        let init = fs::read(&init).with_context(|| format!("cannot read {}", init.display()))?;
        let init = elf::addresses(&init).context("PID 1")?;
        Ok(Counter { clock, directory: tempfile::tempdir()?, plugin, init })
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("counts")
    }

    /// What `run` and `guest` pass on to QEMU.
    pub fn arguments(&self) -> Vec<OsString> {
        let comma = |path: PathBuf| path.display().to_string().replace(',', ",,");
        let (first, last) = self.init;
        let plugin =
            format!("{},init={first:x}-{last:x},out={}", comma(self.plugin.clone()), comma(self.file()));
        let clock: &[&str] = match self.clock {
            Clock::Instructions => &["-icount", "shift=0"],
            Clock::Host => &[],
        };
        let words = [clock, &["-plugin", &plugin]].concat();
        words.into_iter().flat_map(|word| ["--qemu-arg", word]).map(OsString::from).collect()
    }

    /// The numbers, while QEMU runs or after it.
    pub fn read(&self) -> Result<Counts> {
        let bytes = fs::read(self.file()).context("QEMU began without its plugin")?;
        parse(&bytes).context("the plugin's figures are odd")
    }
}

fn parse(bytes: &[u8]) -> Option<Counts> {
    let numbers: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|bytes| bytes.try_into().map(u64::from_ne_bytes))
        .collect::<Result<_, _>>()
        .ok()?;
    match numbers[..] {
        [to_pid_1, to_container, all] if 0 < to_pid_1 && to_pid_1 < to_container && to_container <= all => {
            Some(Counts { to_pid_1, to_container, all })
        }
        _ => None,
    }
}

/// The plugin, compiled for the interface of the QEMU that there is.
fn plugin(workshop: &Workshop) -> Result<PathBuf> {
    let told = workshop.tools.command("qemu-system-x86_64").arg("--version").output();
    let told = told.context("cannot start qemu-system-x86_64")?;
    let version = interface(&String::from_utf8_lossy(&told.stdout))
        .context("qemu-system-x86_64 --version does not say its version")?;
    let key = Key::default().add("source", SOURCE.as_bytes()).add("version", &[version]).finish();
    let entry = workshop.cache.get_or_make("bench", &key, |directory| {
        let source = directory.join("instructions.c");
        fs::write(&source, SOURCE)?;
        let mut compiler = workshop.tools.command("cc");
        compiler.args(["-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o"]);
        compiler.arg(directory.join("instructions.so")).arg(&source);
        compiler.arg(format!("-DPLUGIN_VERSION={version}"));
        let output = compiler.output().context("cannot start the C compiler")?;
        if !output.status.success() {
            bail!("instructions.c: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(())
    })?;
    Ok(entry.join("instructions.so"))
}

/// The version of the plugin interface that a QEMU takes: it refuses versions older than its oldest, and newer ones.
fn interface(told: &str) -> Option<u8> {
    let number = told.split("version ").nth(1)?.split(['.', ' ', '\n', '(']).next()?;
    Some(if number.parse::<u32>().ok()? >= 9 { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_old_plugin_interfaces_from_new_ones() {
        assert_eq!(interface("QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7)\n"), Some(1));
        assert_eq!(interface("QEMU emulator version 10.0.2\n"), Some(2));
        assert_eq!(interface("qemu"), None);
    }

    #[test]
    fn figures_out_of_order_are_refused() {
        let bytes =
            |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<_>>();
        assert!(parse(&bytes(&[10, 20, 30])).is_some());
        for odd in [&[][..], &[10, 20], &[0, 20, 30], &[20, 10, 30], &[10, 20, 15]] {
            assert!(parse(&bytes(odd)).is_none(), "{odd:?}");
        }
    }
}
