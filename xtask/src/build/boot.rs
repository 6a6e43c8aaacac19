//! What runs on the bare machine: the guest that tests the devices.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{TARGET, encoded, reproducible};
use crate::workshop::Workshop;

/// Builds the device-test guest and returns its ELF file.
pub fn device_test(workshop: &Workshop) -> Result<PathBuf> {
    let (mut command, flags) = reproducible(workshop, &target_dir(workshop))?;
    command
        .args(["rustc", "--locked", "--release", "--package", "ferry-boot", "--bin", "device-test"])
        .args(["--features", "bin", "--target", TARGET])
        // In ring 0 nothing has switched SSE on. Link-time optimisation carries this into every crate's code.
        .args(["--", "-C", "target-feature=-sse,-sse2"])
        .env("CARGO_ENCODED_RUSTFLAGS", encoded(&flags));
    let log = workshop.cache.dir("logs")?.join("boot.log");
    let step = workshop.report.step("device-test guest", Duration::from_secs(30));
    workshop.report.run(&step, &mut command, &log).context("device-test guest")?;
    Ok(device_test_path(workshop))
}

/// Where [`device_test`] leaves it.
pub fn device_test_path(workshop: &Workshop) -> PathBuf {
    target_dir(workshop).join(TARGET).join("release/device-test")
}

fn target_dir(workshop: &Workshop) -> PathBuf {
    workshop.target_dir.join("boot")
}
