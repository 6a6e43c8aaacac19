//! The guest kernel: fetched, patched, configured and built out of tree into the cache.
//!
//! What it is made from is in `images/kernel`: the source's pin, one configuration fragment, our patches. A finished
//! kernel is keyed by all of these and by the compiler. Source and objects are in the cache too while it is being built,
//! so that an interrupted build goes on where it stopped; who works on the kernel can have them kept.

mod compile;
mod config;
mod download;
mod image;
mod source;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ferry_images::debian::{Fetched, Package};
use serde::{Deserialize, Serialize};

use crate::cache::Key;
use crate::workshop::Workshop;

/// Counts changes to this module that change what it makes out of the same input.
const RECIPE: &str = "3";

/// Environment variable: if set, a finished build leaves source and objects behind, for the next change.
const KEEP: &str = "FERRY_KEEP_KERNEL_BUILD";

/// Cache directory of finished kernels.
const KIND: &str = "kernel";

/// A built guest kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The ELF image without symbols and padding: what boots. Beside it are `vmlinux.debug`, the same with symbols for gdb, and
    /// `config`.
    pub vmlinux: PathBuf,
    /// What it was made from.
    pub info: Info,
}

/// What a kernel was made from: `info.toml` beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Debian's version of the source.
    pub version: String,
    /// SHA-256 of the source package.
    pub sha256: String,
    /// False if the pinned version had gone from the mirror and this one stands in for it.
    pub pinned: bool,
    /// The compiler and the linker.
    pub toolchain: String,
}

/// Everything a kernel is made from, read but not yet acted on.
struct Recipe {
    pin: Package,
    /// The configuration fragment: where it is, and its content.
    fragment: (PathBuf, Vec<u8>),
    /// Our patches, likewise, in order.
    patches: Vec<(PathBuf, Vec<u8>)>,
    toolchain: String,
}

impl Recipe {
    fn read(workshop: &Workshop) -> Result<Recipe> {
        let home = workshop.checkout.join("images/kernel");
        let read = |path: PathBuf| {
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            anyhow::Ok((path, content))
        };
        let (path, pin) = read(home.join("source.toml"))?;
        let pin = String::from_utf8(pin).with_context(|| path.display().to_string())?;
        Ok(Recipe {
            pin: source::parse_pin(&pin)?,
            fragment: read(home.join("vm.config"))?,
            patches: source::patches(&home.join("patches"))?.into_iter().map(read).collect::<Result<_>>()?,
            toolchain: compile::toolchain(workshop)?,
        })
    }

    /// The key of the finished kernel.
    fn key(&self) -> String {
        let mut key = self.key_of_tree(&self.pin);
        key.add("toolchain", self.toolchain.as_bytes()).add("fragment", &self.fragment.1);
        key.finish()
    }

    /// The key of a source tree: this package with our patches.
    fn key_of_tree(&self, source: &Package) -> Key {
        let mut key = Key::default();
        key.add("recipe", RECIPE.as_bytes()).add("source", source.sha256.as_bytes());
        for (_, patch) in &self.patches {
            key.add("patch", patch);
        }
        key
    }

    fn patch_files(&self) -> Vec<&Path> {
        self.patches.iter().map(|(path, _)| path.as_path()).collect()
    }
}

/// The kernel as it is in the cache, if this configuration has been built before.
pub fn cached(workshop: &Workshop) -> Result<Option<Kernel>> {
    let recipe = Recipe::read(workshop)?;
    finished(workshop, &recipe)
}

/// Builds the guest kernel, or finds it in the cache.
pub fn build(workshop: &Workshop) -> Result<Kernel> {
    let recipe = Recipe::read(workshop)?;
    if let Some(kernel) = finished(workshop, &recipe)? {
        warn_of_substitute(workshop, &recipe, &kernel.info);
        return Ok(kernel);
    }
    // One build at a time: they share the source tree and the objects, and would share the processors.
    let _lock = workshop.cache.lock("kernel")?;
    let fetched = download::fetch(workshop, &recipe.pin)?;
    let entry = make(workshop, &recipe, &fetched)?;
    let kernel = open(&entry)?;
    warn_of_substitute(workshop, &recipe, &kernel.info);
    Ok(kernel)
}

/// A kernel of the pinned source, or one of a substitute that was made when the pinned one could not be had.
fn finished(workshop: &Workshop, recipe: &Recipe) -> Result<Option<Kernel>> {
    for key in [recipe.key(), substitute_key(recipe)] {
        let entry = workshop.cache.entry(KIND, &key);
        if entry.exists() {
            return open(&entry).map(Some);
        }
    }
    Ok(None)
}

fn substitute_key(recipe: &Recipe) -> String {
    format!("{}-substitute", recipe.key())
}

fn open(entry: &Path) -> Result<Kernel> {
    let info = entry.join("info.toml");
    let text = fs::read_to_string(&info).with_context(|| format!("cannot read {}", info.display()))?;
    let info = toml::from_str(&text).with_context(|| info.display().to_string())?;
    Ok(Kernel { vmlinux: entry.join("vmlinux"), info })
}

fn warn_of_substitute(workshop: &Workshop, recipe: &Recipe, info: &Info) {
    if !info.pinned {
        workshop.report.say(format!(
            "warning: the guest kernel is made from {} {} (sha256 {}), because the pinned {} has gone from the mirror",
            recipe.pin.name, info.version, info.sha256, recipe.pin.version
        ));
    }
}

fn make(workshop: &Workshop, recipe: &Recipe, fetched: &Fetched) -> Result<PathBuf> {
    let tree_key = recipe.key_of_tree(&fetched.package).finish();
    let tree = workshop.cache.get_or_make("kernel-source", &tree_key, |dir| {
        let released = source::unpack(workshop, &fetched.path, &recipe.patch_files(), &dir.join("linux"))?;
        fs::write(dir.join("released"), released.to_string())?;
        Ok(())
    })?;
    let released = fs::read_to_string(tree.join("released"))?.parse().context("date of the source")?;
    let objects = workshop.cache.dir(&format!("kernel-objects/{tree_key}"))?;
    let build = compile::Build { workshop, tree: &tree.join("linux"), objects: &objects, released };
    build.configure(&recipe.fragment.0)?;
    build.compile()?;
    let key = if fetched.substituted { substitute_key(recipe) } else { recipe.key() };
    let info = Info {
        version: fetched.package.version.clone(),
        sha256: fetched.package.sha256.clone(),
        pinned: !fetched.substituted,
        toolchain: recipe.toolchain.clone(),
    };
    let entry = workshop.cache.get_or_make(KIND, &key, |dir| {
        let built = fs::read(objects.join("vmlinux")).context("cannot read the built kernel")?;
        fs::write(dir.join("vmlinux"), image::compact(&built).context("vmlinux")?)?;
        fs::write(dir.join("vmlinux.debug"), &built)?;
        fs::copy(objects.join(".config"), dir.join("config"))?;
        fs::write(dir.join("info.toml"), toml::to_string(&info)?)?;
        Ok(())
    })?;
    let keep = env::var_os(KEEP).map(|_| tree_key.as_str());
    for kind in ["kernel-source", "kernel-objects"] {
        clear(&workshop.cache.dir(kind)?, keep);
    }
    Ok(entry)
}

/// Removes what builds have left in a directory, save one. What cannot be removed is no reason to fail.
fn clear(directory: &Path, keep: Option<&str>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str() != keep {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            pin: source::parse_pin(include_str!("../../../images/kernel/source.toml")).unwrap(),
            fragment: (PathBuf::from("f"), b"CONFIG_SMP=y".to_vec()),
            patches: vec![(PathBuf::from("1"), b"one".to_vec()), (PathBuf::from("2"), b"two".to_vec())],
            toolchain: "gcc 12".to_owned(),
        }
    }

    #[test]
    fn whatever_changes_the_kernel_changes_its_key() {
        let changes: [fn(&mut Recipe); 5] = [
            |r| r.pin.sha256 = "0".repeat(64),
            |r| r.fragment.1 = b"CONFIG_SMP=n".to_vec(),
            |r| r.patches.swap(0, 1),
            |r| r.patches.truncate(1),
            |r| r.toolchain = "gcc 13".to_owned(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = recipe();
            change(&mut changed);
            assert_ne!(changed.key(), recipe().key(), "change {number}");
        }
    }

    #[test]
    fn a_changed_fragment_goes_on_with_the_same_tree_and_objects() {
        let mut changed = recipe();
        changed.fragment.1 = b"CONFIG_SMP=n".to_vec();
        assert_eq!(changed.key_of_tree(&changed.pin).finish(), recipe().key_of_tree(&recipe().pin).finish());
    }

    #[test]
    fn a_finished_build_leaves_nothing_but_what_is_to_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        for name in ["this", "other", ".other.unfinished"] {
            fs::create_dir_all(dir.path().join(name).join("linux")).unwrap();
        }
        clear(dir.path(), Some("this"));
        assert_eq!(names(), ["this"]);
        clear(dir.path(), None);
        assert!(names().is_empty());
    }

    #[test]
    fn what_a_kernel_was_made_from_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let info = Info {
            version: "6.12.1-1".into(),
            sha256: "ab".into(),
            pinned: false,
            toolchain: "gcc 12\nld 2\n".into(),
        };
        fs::write(dir.path().join("info.toml"), toml::to_string(&info).unwrap()).unwrap();
        assert_eq!(open(dir.path()).unwrap().info, info);
    }
}
