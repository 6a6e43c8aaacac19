//! Images from recipes: `images/recipes/NAME.toml`, pinned by `NAME.lock`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ferry_images::recipe;

use crate::cache::Key;
use crate::workshop::Workshop;

/// Where recipes are.
pub fn directory(workshop: &Workshop) -> PathBuf {
    workshop.checkout.join("images/recipes")
}

/// The OCI layout of the recipe's image, if it has been built before.
pub fn cached(workshop: &Workshop, name: &str) -> Result<Option<PathBuf>> {
    let layout = workshop.cache.entry(KIND, &key(workshop, name)?).join(LAYOUT);
    Ok(layout.is_dir().then_some(layout))
}

/// Builds the recipe's image, or finds it in the cache. Returns its OCI layout.
pub fn build(workshop: &Workshop, name: &str) -> Result<PathBuf> {
    let packages = workshop.cache.dir("debian")?;
    let progress = workshop.report.shown();
    let entry = workshop.cache.get_or_make(KIND, &key(workshop, name)?, |dir| {
        let layout = dir.join(LAYOUT);
        let built = recipe::build(&directory(workshop), name, &packages, &layout, &progress)
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
pub fn update_lock(workshop: &Workshop, name: &str) -> Result<()> {
    let packages = workshop.cache.dir("debian")?;
    let locked = recipe::lock(&directory(workshop), name, &packages, &workshop.report.shown())
        .with_context(|| format!("image {name}"))?;
    workshop.report.say(format!("image {name}: {} packages locked", locked.len()));
    Ok(())
}

const KIND: &str = "images";
const LAYOUT: &str = "layout";

/// What an image is made from: its recipe, its lock, its files, and the code that puts them together.
fn key(workshop: &Workshop, name: &str) -> Result<String> {
    let mut key = Key::default();
    let recipes = directory(workshop);
    for extension in ["toml", "lock"] {
        let file = recipes.join(format!("{name}.{extension}"));
        if let Ok(content) = fs::read(&file) {
            key.add(extension, &content);
        }
    }
    for tree in [recipes.join(name), workshop.checkout.join("images/src")] {
        if tree.is_dir() {
            key.add_tree(&tree).with_context(|| format!("cannot read {}", tree.display()))?;
        }
    }
    Ok(format!("{name}-{}", key.finish()))
}
