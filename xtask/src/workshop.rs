//! What every command works with: the checkout, the cache, the host's tools, and a way to tell people about it.

use std::env;
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
    /// Cargo's target directory for it.
    pub target_dir: PathBuf,
    /// Where finished things are kept.
    pub cache: Cache,
    /// Host programs, wherever they were found.
    pub tools: Tools,
    /// Tells people what goes on, on standard error.
    pub report: Report,
}

impl Workshop {
    /// The workshop of this user: in another checkout if one is named, else in the one that xtask was built from.
    pub fn open(other: Option<&Path>) -> Result<Workshop> {
        let cache = Cache::open()?;
        let tools = Tools::found(&cache);
        let checkout = match other {
            Some(path) => path.to_owned(),
            // At run time cargo says where the package is; an xtask that is started by hand remembers.
            None => env::var_os("CARGO_MANIFEST_DIR")
                .map(PathBuf::from)
                .filter(|dir| dir.ends_with("xtask"))
                .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")))
                .parent()
                .map_or_else(PathBuf::new, Path::to_owned),
        };
        let checkout =
            checkout.canonicalize().with_context(|| format!("no checkout at {}", checkout.display()))?;
        let target_dir = match other {
            Some(_) => checkout.join("target"),
            None => own_target_dir().unwrap_or_else(|| checkout.join("target")),
        };
        Ok(Workshop { checkout, target_dir, cache, tools, report: Report::to_stderr() })
    }
}

/// The target directory that this program was built into: `TARGET/debug/xtask`.
fn own_target_dir() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let profile = program.parent()?;
    (profile.file_name()? == "debug").then(|| profile.parent().map(Path::to_owned))?
}
