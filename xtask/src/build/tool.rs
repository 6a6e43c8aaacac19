//! Programs of ours that only benchmarks run: built as users' programs are, since how fast others are is no question of how
//! they were built.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cargo;
use crate::workshop::Workshop;

/// Builds the example `layer` of ferry-images, optimised.
pub fn layer(workshop: &Workshop) -> Result<PathBuf> {
    let mut command = cargo(workshop, &workshop.target_dir);
    command.args(["build", "--locked", "--release", "--package", "ferry-images", "--example", "layer"]);
    let log = workshop.cache.dir("logs")?.join("layer.log");
    let step = workshop.report.step("layer, optimised", Duration::from_secs(120));
    workshop.report.run(&step, &mut command, &log).context("layer")?;
    Ok(workshop.target_dir.join("release/examples/layer"))
}
