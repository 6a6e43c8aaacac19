//! Host programs: which are wanted, which are there, and where they come from.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;

/// The host's programs, together with those that were unpacked into the cache.
#[derive(Clone, Debug)]
pub struct Tools {
    /// A directory with `usr/bin`, `usr/lib`… of unpacked packages, if there is one.
    prefix: Option<PathBuf>,
}

impl Tools {
    /// What is there now.
    pub fn found(cache: &Cache) -> Tools {
        let prefix = cache.root().join("tools/host");
        Tools { prefix: prefix.is_dir().then_some(prefix) }
    }

    /// The unpacked packages' root, if there are any.
    pub fn prefix(&self) -> Option<&Path> {
        self.prefix.as_deref()
    }

    /// A command that finds programs, headers and libraries also among the unpacked packages.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let Some(prefix) = &self.prefix else { return command };
        let lib = prefix.join("usr/lib/x86_64-linux-gnu");
        for (variable, directories) in [
            ("PATH", vec![prefix.join("usr/bin"), prefix.join("bin")]),
            ("LD_LIBRARY_PATH", vec![lib.clone(), prefix.join("lib/x86_64-linux-gnu")]),
            ("LIBRARY_PATH", vec![lib.clone()]),
            ("C_INCLUDE_PATH", vec![prefix.join("usr/include"), prefix.join("usr/include/x86_64-linux-gnu")]),
        ] {
            command.env(variable, after(env::var_os(variable), directories));
        }
        // These find their data and each other by absolute path unless told otherwise.
        for (variable, path) in [
            ("BISON_PKGDATADIR", "usr/share/bison"),
            ("QEMU_MODULE_DIR", "usr/lib/x86_64-linux-gnu/qemu"),
            ("M4", "usr/bin/m4"),
        ] {
            if prefix.join(path).exists() {
                command.env(variable, prefix.join(path));
            }
        }
        command
    }
}

/// A search path with `more` behind what is there: the host's own come first.
fn after(there: Option<OsString>, more: Vec<PathBuf>) -> OsString {
    let there = there.unwrap_or_default();
    let all = env::split_paths(&there).filter(|p| !p.as_os_str().is_empty()).chain(more);
    env::join_paths(all).unwrap_or(there.clone())
}
