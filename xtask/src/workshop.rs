//! What every command works with: the checkout, the cache, the host's tools, and a way to tell people about it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::report::Report;
use crate::tools::Tools;

/// The place where things are built.
#[derive(Debug)]
pub struct Workshop {
    /// The root of the checkout.
    pub checkout: PathBuf,
    /// Where finished things are kept.
    pub cache: Cache,
    /// Host programs, wherever they were found.
    pub tools: Tools,
    /// Tells people what goes on, on standard error.
    pub report: Report,
}

impl Workshop {
    /// The workshop of this checkout and this user.
    pub fn open() -> Result<Workshop> {
        let cache = Cache::open()?;
        let tools = Tools::found(&cache);
        Ok(Workshop { checkout: checkout()?, cache, tools, report: Report::to_stderr() })
    }
}

/// The checkout that this xtask was built from.
fn checkout() -> Result<PathBuf> {
    // At run time cargo says where the package is; an xtask that is started by hand remembers.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.ends_with("xtask"))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    let root = package.parent().unwrap_or(Path::new("/"));
    root.canonicalize().with_context(|| format!("the checkout {} is gone", root.display()))
}
