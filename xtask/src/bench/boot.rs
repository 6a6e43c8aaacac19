//! What a start costs the guest, in instructions: the one unit that no other work on this machine changes.
//!
//! QEMU counts them with a plugin of ours. The figures repeat to a few in a thousand; what is left moves with the moments at
//! which the host hands things over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Figure;
use crate::build;
use crate::cache::Key;
use crate::elf;
use crate::setup::{self, Need};
use crate::workshop::Workshop;

const SOURCE: &str = include_str!("instructions.c");

/// Memory of the guest, in MiB: what every figure about a small VM is about.
const MEMORY: &str = "128m";

/// Instructions of one run, counted from the machine's reset.
struct Counts {
    pid_1: u64,
    container: u64,
}

pub fn figures(workshop: &mut Workshop) -> Result<Vec<Figure>> {
    setup::prepare(workshop, &[Need::Qemu])?;
    let plugin = plugin(workshop)?;
    let init = build::init::build(workshop)?.program;
    let init = fs::read(&init).with_context(|| format!("cannot read {}", init.display()))?;
    let (first, last) = elf::addresses(&init).context("PID 1")?;
    let counts = count(&plugin, &format!("{first:x}-{last:x}"))?;
    let figure = |metric, value: u64| Figure {
        subject: "hello on QEMU, 128 MiB",
        metric,
        unit: "guest instructions",
        value: value as f64,
    };
    Ok(vec![
        figure("reset_to_pid_1", counts.pid_1),
        figure("pid_1_to_container", counts.container - counts.pid_1),
    ])
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

fn count(plugin: &Path, init: &str) -> Result<Counts> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("counts");
    let xtask = std::env::current_exe().context("where xtask is")?;
    let comma = |path: &Path| path.display().to_string().replace(',', ",,");
    let status = Command::new(xtask)
        .args(["run", "--on", "qemu", "--memory", MEMORY, "--qemu-arg", "-plugin", "--qemu-arg"])
        .arg(format!("{},init={init},out={}", comma(plugin), comma(&out)))
        .args(["hello", "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("`run hello -- true` failed with the plugin in QEMU: {status}");
    }
    let text = fs::read_to_string(&out).context("QEMU ended without its plugin's figures")?;
    parse(&text).with_context(|| format!("the plugin's figures are odd: {}", text.trim_end()))
}

fn parse(text: &str) -> Option<Counts> {
    let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    match numbers[..] {
        [pid_1, container] if 0 < pid_1 && pid_1 < container => Some(Counts { pid_1, container }),
        _ => None,
    }
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
        assert!(parse("10 20\n").is_some());
        for odd in ["", "10", "0 20", "20 10", "10 20 30", "a b"] {
            assert!(parse(odd).is_none(), "{odd}");
        }
    }
}
