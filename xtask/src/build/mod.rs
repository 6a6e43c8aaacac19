//! Builds the parts: PID 1 and the file system around it, the device-test guest, the `ferry` command, images and
//! appliance disks from recipes.
//!
//! What ends up in front of users is built the same wherever it is built: paths of this machine are taken out, and
//! nothing of the time or the place goes in.

pub mod boot;
pub mod disk;
pub mod ferry;
pub mod foreign;
pub mod init;
pub mod recipe;
pub mod tool;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workshop::Workshop;

/// The only target there is. Named even though it is the host's, so that flags for the product do not reach build
/// scripts and procedural macros.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A cargo that builds in this checkout, in a target directory of its own below the usual one: flags that differ from
/// those of a plain `cargo build` would otherwise make each undo the other's work.
fn cargo(workshop: &Workshop, target_dir: &Path) -> Command {
    let mut command = workshop.tools.cargo();
    command.current_dir(&workshop.checkout);
    forget_the_outer_cargo(&mut command);
    command.env("CARGO_TARGET_DIR", target_dir);
    command
}

/// Takes out what the `cargo run` that started xtask has set for it: it says nothing about what is built now.
pub fn forget_the_outer_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_BIN_")
            || [
                "CARGO_PRIMARY_PACKAGE",
                "CARGO_CRATE_NAME",
                "OUT_DIR",
                "RUSTFLAGS",
                "CARGO_ENCODED_RUSTFLAGS",
            ]
            .contains(&text.as_ref())
        {
            command.env_remove(&name);
        }
    }
}

/// A cargo that builds a program of a crate's `fuzz` directory, which counts where its code has been.
pub fn fuzzing(workshop: &Workshop, target_dir: &Path, manifest: &Path) -> Command {
    /// What cargo-fuzz asks of the compiler, in words that stable Rust takes.
    const COUNTING: [&str; 9] = [
        "--cfg",
        "fuzzing",
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
        "-Cdebug-assertions",
        "-Ccodegen-units=1",
    ];
    let mut command = cargo(workshop, target_dir);
    command.env("CARGO_ENCODED_RUSTFLAGS", encoded(&COUNTING.map(OsString::from)));
    command.args(["build", "--release", "--target", TARGET, "--manifest-path"]).arg(manifest);
    command
}

/// A cargo whose results do not depend on where they were built, and its flags for them.
///
/// Paths of the checkout are taken out by a program in front of the compiler instead of a flag: a flag that is another in
/// every checkout would have cargo compile all dependencies for each of them anew.
fn reproducible(workshop: &Workshop, target_dir: &Path) -> Result<(Command, Vec<OsString>)> {
    let mut command = cargo(workshop, target_dir);
    command.env("RUSTC_WRAPPER", in_front_of_the_compiler(workshop, target_dir)?);
    let mut flags = vec![OsString::from("--remap-path-prefix"), remapped(&cargo_home()?, "/cargo")];
    flags.extend(["-C", "link-arg=-Wl,--build-id=none"].map(OsString::from));
    Ok((command, flags))
}

/// Where cargo keeps the sources of dependencies.
fn cargo_home() -> Result<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")
}

/// A path and what is written in its place, as `--remap-path-prefix` takes them.
fn remapped(from: &Path, to: &str) -> OsString {
    let mut mapping = from.as_os_str().to_owned();
    mapping.push("=");
    mapping.push(to);
    mapping
}

/// A program that starts the compiler with the paths of the checkout taken out.
fn in_front_of_the_compiler(workshop: &Workshop, target_dir: &Path) -> Result<PathBuf> {
    // The last that fits counts: what build scripts have written is in the target directory, wherever that is.
    let places = [(workshop.checkout.as_path(), "/ferry"), (workshop.target_dir.as_path(), "/ferry/target")];
    let mut script = OsString::from("#!/bin/sh\nexec \"$@\"");
    for (from, to) in places {
        script.push(" --remap-path-prefix ");
        script.push(quoted(&remapped(from, to)));
    }
    script.push("\n");
    fs::create_dir_all(target_dir).with_context(|| format!("cannot make {}", target_dir.display()))?;
    let path = target_dir.join("compiler");
    // A file that is being executed cannot be written to: another takes its place, and only where it is another one.
    if fs::read(&path).ok().as_deref() != Some(script.as_bytes()) {
        let mut new = tempfile::NamedTempFile::new_in(target_dir)?;
        new.write_all(script.as_bytes())?;
        new.as_file().set_permissions(Permissions::from_mode(0o755))?;
        new.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

/// A word as the shell reads it, whatever is in it.
fn quoted(word: &OsStr) -> OsString {
    let mut quoted = b"'".to_vec();
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

/// Flags as cargo takes them from the environment: apart from each other even where a path has spaces.
fn encoded(flags: &[OsString]) -> OsString {
    flags.join(OsStr::new("\u{1f}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_reads_a_word_as_it_is() {
        for word in ["plain", "", "it's", "a b\n$(c) `d` \"e\" \\", "''"] {
            let mut script = OsString::from("printf %s ");
            script.push(quoted(OsStr::new(word)));
            let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
