//! What a start costs the guest, in instructions. The figures repeat to two in a hundred, seldom to seven: they move with the
//! moments at which the host hands things over. By the host's clock they are larger, and move with its load.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Figure;
use super::instructions::{Clock, Counter};
use crate::workshop::Workshop;

/// Memory of the guest, in MiB: what every figure about a small VM is about.
pub const MEMORY: &str = "128m";

pub fn figures(workshop: &mut Workshop) -> Result<Vec<Figure>> {
    let figure = |metric, value: u64| Figure {
        subject: "hello on QEMU, 128 MiB",
        metric,
        unit: "guest instructions",
        value: value as f64,
    };
    let (pid_1, container) = count(&Counter::new(workshop, Clock::Instructions)?)?;
    let (slow_pid_1, slow_container) = count(&Counter::new(workshop, Clock::Host)?)?;
    Ok(vec![
        figure("reset_to_pid_1", pid_1),
        figure("pid_1_to_container", container),
        figure("reset_to_pid_1_by_host_clock", slow_pid_1),
        figure("pid_1_to_container_by_host_clock", slow_container),
    ])
}

/// Instructions up to PID 1's first, and from there to the container's process's first.
pub fn count(counter: &Counter) -> Result<(u64, u64)> {
    let xtask = std::env::current_exe().context("where xtask is")?;
    let status = Command::new(xtask)
        .args(["run", "--on", "qemu", "--memory", MEMORY])
        .args(counter.arguments())
        .args(["hello", "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("`run hello -- true` failed with the plugin in QEMU: {status}");
    }
    let counts = counter.read()?;
    Ok((counts.to_pid_1, counts.to_container - counts.to_pid_1))
}
