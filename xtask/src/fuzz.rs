//! `cargo xtask fuzz`: the fuzz targets of all crates, for as long as one likes, with the compiler that there is.
//!
//! libFuzzer wants code that counts where it has been. The compiler's pass for that is LLVM's own (SanitizerCoverage), and
//! stable Rust passes its options on, so neither nightly nor cargo-fuzz is needed; both work with the same targets.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::{TARGET, fuzzing};
use crate::workshop::Workshop;

/// Crates with fuzz targets.
const CRATES: [&str; 3] = ["vmm", "images", "guest-init"];

/// What to fuzz.
#[derive(Clone, Debug, Args)]
pub struct Fuzz {
    /// Targets; none: each of them, one after the other
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// List the targets and do nothing
    #[arg(long)]
    list: bool,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    crate_name: &'static str,
    name: String,
}

/// Runs the targets, all of them even where one finds something.
pub fn fuzz(workshop: &Workshop, fuzz: &Fuzz) -> Result<ExitCode> {
    let all = targets(&workshop.checkout)?;
    let wanted = choose(all, &fuzz.targets)?;
    if fuzz.list {
        wanted.iter().for_each(|target| println!("{} ({})", target.name, target.crate_name));
        return Ok(ExitCode::SUCCESS);
    }
    let mut found = Vec::new();
    for target in &wanted {
        workshop.report.say(format!("fuzz: {} of {}, {} s", target.name, target.crate_name, fuzz.seconds));
        if !run(workshop, target, fuzz.seconds)? {
            found.push(target.name.as_str());
        }
    }
    match found.is_empty() {
        true => workshop.report.say(format!("fuzz: {} targets, nothing found", wanted.len())),
        false => workshop.report.say(format!("fuzz: found something: {}", found.join(", "))),
    }
    Ok(ExitCode::from(u8::from(!found.is_empty())))
}

/// The targets that there are: a file each.
fn targets(checkout: &Path) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for crate_name in CRATES {
        let directory = checkout.join(crate_name).join("fuzz/fuzz_targets");
        let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension() == Some(OsStr::new("rs")))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        targets.extend(names.into_iter().map(|name| Target { crate_name, name }));
    }
    Ok(targets)
}

fn choose(all: Vec<Target>, wanted: &[String]) -> Result<Vec<Target>> {
    if wanted.is_empty() {
        return Ok(all);
    }
    for name in wanted {
        if !all.iter().any(|target| target.name == *name) {
            let names: Vec<_> = all.iter().map(|target| target.name.as_str()).collect();
            bail!("there is no fuzz target {name}; there are {}", names.join(", "));
        }
    }
    Ok(all.into_iter().filter(|target| wanted.contains(&target.name)).collect())
}

/// Fuzzes one target; false if it found something, which is then in the crate's `fuzz/artifacts`.
fn run(workshop: &Workshop, target: &Target, seconds: u32) -> Result<bool> {
    let program = build(workshop, target)?;
    let corpus = workshop.cache.dir("fuzz")?.join(target.crate_name).join(&target.name);
    fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    let artifacts = fuzz_directory(workshop, target.crate_name).join("artifacts").join(&target.name);
    fs::create_dir_all(&artifacts)?;
    let status = Command::new(program)
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={seconds}"))
        // Inputs become as long as the longest seed, and 4 KiB at least.
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .arg(&corpus)
        // Where it writes what it begins with.
        .env("FERRY_FUZZ_SEEDS", &corpus)
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        workshop.report.say(format!("fuzz: {} found something: see {}", target.name, artifacts.display()));
    }
    Ok(status.success())
}

fn fuzz_directory(workshop: &Workshop, crate_name: &str) -> PathBuf {
    workshop.checkout.join(crate_name).join("fuzz")
}

/// What is fuzzed is made of the same versions as the product: the crates of targets are of no workspace, and begin with its
/// lock file.
fn lock(workshop: &Workshop, crate_name: &str) -> Result<()> {
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let products = workshop.checkout.join("Cargo.lock");
    let own = fuzz_directory(workshop, crate_name).join("Cargo.lock");
    if changed(&own) < changed(&products) {
        fs::copy(&products, &own).with_context(|| own.display().to_string())?;
    }
    Ok(())
}

fn build(workshop: &Workshop, target: &Target) -> Result<PathBuf> {
    lock(workshop, target.crate_name)?;
    let target_dir = workshop.target_dir.join("fuzz");
    let manifest = fuzz_directory(workshop, target.crate_name).join("Cargo.toml");
    let mut command = fuzzing(workshop, &target_dir, &manifest);
    command.args(["--bin", &target.name]);
    let log = workshop.cache.dir("logs")?.join("fuzz.log");
    let step = workshop.report.step(format!("{}, for fuzzing", target.name), Duration::from_secs(120));
    workshop.report.run(&step, &mut command, &log).with_context(|| target.name.clone())?;
    drop(step);
    Ok(target_dir.join(TARGET).join("release").join(&target.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_program_of_its_crate() {
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
        let checkout = Path::new(&xtask).parent().unwrap();
        let all = targets(checkout).unwrap();
        for crate_name in CRATES {
            let manifest = fs::read_to_string(checkout.join(crate_name).join("fuzz/Cargo.toml")).unwrap();
            let of_crate: Vec<_> = all.iter().filter(|target| target.crate_name == crate_name).collect();
            assert!(!of_crate.is_empty(), "{crate_name}");
            for target in of_crate {
                assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{target:?}");
            }
        }
        assert!(choose(all.clone(), &["nothing".to_owned()]).unwrap_err().to_string().contains("blk"));
        assert_eq!(choose(all, &["blk".to_owned()]).unwrap().len(), 1);
    }
}
