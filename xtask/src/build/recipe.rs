//! Images from recipes: `images/recipes/NAME.toml`, pinned by `NAME.lock`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ferry_images::recipe::{self, Images, Sources};
use ferry_images::{Registries, Store};

use crate::workshop::Workshop;

/// Where the product's recipes are.
pub fn directory(workshop: &Workshop) -> PathBuf {
    workshop.checkout.join("images/recipes")
}

/// The OCI layout of the recipe's image, if it has been built before.
pub fn cached(workshop: &Workshop, recipes: &Path, name: &str) -> Result<Option<PathBuf>> {
    let layout = workshop.cache.entry(KIND, &key(recipes, name)?).join(LAYOUT);
    Ok(layout.is_dir().then_some(layout))
}

/// Bytes of the packages that the recipe's lock names: what has to be downloaded at most.
pub fn download(recipes: &Path, name: &str) -> u64 {
    let lock = fs::read_to_string(recipes.join(format!("{name}.lock"))).unwrap_or_default();
    lock.lines().filter_map(|line| line.strip_prefix("size = ")?.trim().parse::<u64>().ok()).sum()
}

/// Builds the recipe's image, or finds it in the cache. Returns its OCI layout.
pub fn build(workshop: &Workshop, recipes: &Path, name: &str) -> Result<PathBuf> {
    let inputs = Inputs::of(workshop)?;
    let progress = workshop.report.shown();
    let entry = workshop.cache.get_or_make(KIND, &key(recipes, name)?, |dir| {
        let layout = dir.join(LAYOUT);
        let built = recipe::build(recipes, name, &inputs.sources(), &layout, &progress)
            .with_context(|| format!("image {name}"))?;
        if !built.substituted.is_empty() {
            let names: Vec<String> = built
                .substituted
                .iter()
                .map(|package| format!("{} {}", package.name, package.version))
                .collect();
            workshop.report.say(format!(
                "image {name}: the mirror no longer has all that the recipe pins; used instead: {}",
                names.join(", ")
            ));
        }
        Ok(())
    })?;
    Ok(entry.join(LAYOUT))
}

/// Resolves the recipe's packages anew and pins them.
pub fn update_lock(workshop: &Workshop, recipes: &Path, name: &str) -> Result<()> {
    let inputs = Inputs::of(workshop)?;
    let locked = recipe::lock(recipes, name, &inputs.sources(), &workshop.report.shown())
        .with_context(|| format!("image {name}"))?;
    workshop.report.say(format!("image {name}: {} packages locked", locked.len()));
    Ok(())
}

/// Where what recipes ask for is kept.
struct Inputs {
    packages: PathBuf,
    store: Option<Store>,
    registries: Registries,
}

impl Inputs {
    fn of(workshop: &Workshop) -> Result<Self> {
        let store = Store::default_path().map(|path| Store::open(&path)).transpose()?;
        let registries = Registries::new(Default::default());
        Ok(Self { packages: workshop.cache.dir("debian")?, store, registries })
    }

    fn sources(&self) -> Sources<'_> {
        let images = self.store.as_ref().map(|store| Images { store, registries: &self.registries });
        Sources { packages: &self.packages, images }
    }
}

const KIND: &str = "images";
const LAYOUT: &str = "layout";

/// What was built under the same key need not be built again.
fn key(recipes: &Path, name: &str) -> Result<String> {
    let digest = recipe::key(recipes, name).with_context(|| format!("image {name}"))?.to_string();
    let hex = digest.rsplit(':').next().unwrap_or_default();
    Ok(format!("{name}-{}", hex.get(..24).unwrap_or(hex)))
}
