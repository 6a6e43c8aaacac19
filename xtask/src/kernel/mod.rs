//! The guest kernel: fetched, configured, patched and built out of tree into the cache.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::workshop::Workshop;

/// A built guest kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The ELF image without symbols: what boots.
    pub vmlinux: PathBuf,
}

/// The kernel as it is in the cache, if this configuration has been built before.
pub fn cached(_workshop: &Workshop) -> Result<Option<Kernel>> {
    Ok(None)
}

/// Builds the guest kernel, or finds it in the cache.
pub fn build(_workshop: &Workshop) -> Result<Kernel> {
    bail!("the kernel build is not there yet")
}
