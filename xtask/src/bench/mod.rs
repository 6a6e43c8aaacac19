//! `cargo xtask bench`: how big the parts are, and what a start costs.
//!
//! Times are wall clock on this machine and say little about another; sizes and instructions are the same everywhere.

mod boot;
mod images;
mod init;
mod instructions;
mod machine;

use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::build;
use crate::kernel;
use crate::setup::{self, Need};
use crate::workshop::Workshop;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct Bench {
    /// One benchmark; none: all of them
    #[arg(value_enum)]
    name: Option<Name>,
    /// Print a JSON array of {"subject", "metric", "unit", "value"} on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Bytes of the kernel, PID 1 and the initrd
    Size,
    /// Guest instructions of `run hello -- true`, from reset to PID 1 and from there to the container's process
    Boot,
    /// What a VM costs its host: memory, processor time, bytes of programs, requests and exits; beside it QEMU's microvm
    Machine,
    /// PID 1: bytes, lines, memory, and guest instructions to the container's process and for an exec
    Init,
    /// Wall time of `run hello -- true`, everything built: the fastest of five
    Start,
    /// Layers to EROFS: time, size and memory, beside mkfs.erofs, mksquashfs and umoci
    Images,
}

/// One figure.
struct Figure {
    subject: &'static str,
    metric: &'static str,
    unit: &'static str,
    value: f64,
}

/// Measures and prints.
pub fn bench(workshop: &mut Workshop, bench: &Bench) -> Result<ExitCode> {
    let mut figures = Vec::new();
    if bench.name.is_none_or(|name| name == Name::Size) {
        figures.extend(sizes(workshop)?);
    }
    if bench.name.is_none_or(|name| name == Name::Boot) {
        figures.extend(boot::figures(workshop)?);
    }
    if bench.name.is_none_or(|name| name == Name::Machine) {
        figures.extend(machine::figures(workshop)?);
    }
    if bench.name.is_none_or(|name| name == Name::Init) {
        figures.extend(init::figures(workshop)?);
    }
    if bench.name.is_none_or(|name| name == Name::Start) {
        figures.extend(starts()?);
    }
    if bench.name.is_none_or(|name| name == Name::Images) {
        figures.extend(images::figures(workshop)?);
    }
    if bench.json {
        let all: Vec<Value> = figures
            .iter()
            .map(|f| json!({"subject": f.subject, "metric": f.metric, "unit": f.unit, "value": f.value}))
            .collect();
        println!("{}", Value::Array(all));
    } else {
        figures
            .iter()
            .for_each(|f| println!("{:<24} {:<56} {:>14.4} {}", f.subject, f.metric, f.value, f.unit));
    }
    Ok(ExitCode::SUCCESS)
}

fn sizes(workshop: &mut Workshop) -> Result<Vec<Figure>> {
    setup::prepare(workshop, &[Need::Kernel])?;
    let kernel = kernel::build(workshop)?;
    let init = build::init::build(workshop)?;
    [("kernel", kernel.vmlinux), ("PID 1", init.program), ("initrd", init.initrd)]
        .into_iter()
        .map(|(subject, path)| {
            let value = fs::metadata(&path).with_context(|| path.display().to_string())?.len() as f64;
            Ok(Figure { subject, metric: "size", unit: "bytes", value })
        })
        .collect()
}

/// Runs of which the fastest counts: the others met something else that the machine had to do.
const ROUNDS: usize = 5;

fn starts() -> Result<Vec<Figure>> {
    let xtask = std::env::current_exe().context("where xtask is")?;
    let mut fastest = f64::INFINITY;
    // The first one builds what is missing and does not count.
    for round in 0..=ROUNDS {
        let began = Instant::now();
        let mut command = Command::new(&xtask);
        command.args(["run", "--on", "qemu", "hello", "--", "true"]).stdin(Stdio::null());
        if !command.status()?.success() {
            bail!("`run hello -- true` failed");
        }
        if round > 0 {
            fastest = fastest.min(began.elapsed().as_secs_f64());
        }
    }
    Ok(vec![Figure { subject: "hello on QEMU, no KVM", metric: "whole run", unit: "s", value: fastest }])
}
