//! Appliance disks from recipes: the images of a recipe's services, and what PID 1 needs to run them, on one disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use ferry_images::disk::Verity;
use ferry_images::recipe::disk_statements::{DiskSubject, manifest_of, write_for_disk};
use ferry_images::source::{self, Access, Keep, Pull};
use ferry_images::{Image, Reference, Registries, Store, disk, recipe};
use ferry_vmm::runtime::appliance::{FILE_NAME, Ingredients, specification, volumes};

use super::recipe as images;
use crate::cache::Key;
use crate::workshop::Workshop;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Bytes of the partition that is written to.
    pub state_bytes: u64,
    /// Whether the images carry hash trees.
    pub verity: Verity,
}

impl Default for Wanted {
    /// 1 GiB of state, which takes no room until it is used, and no hash trees.
    fn default() -> Self {
        Self { state_bytes: 1 << 30, verity: Verity::Without }
    }
}

/// Builds the recipe's disk, or finds it in the cache. Returns its file, which nobody may write to; beside it is what it is
/// made of.
pub fn build(workshop: &Workshop, recipes: &Path, name: &str, wanted: Wanted) -> Result<PathBuf> {
    let appliance = recipe::appliance(recipes, name).with_context(|| format!("appliance {name}"))?;
    let store =
        Store::default_path().ok_or_else(|| anyhow!("no place for images: set HOME or XDG_DATA_HOME"))?;
    let store = Store::open(&store)?;
    let registries = Registries::new(Default::default());
    let access = Access { registries: &registries, pull: Pull::Never, keep: Keep::Converted };
    let progress = workshop.report.shown();

    let mut found: Vec<(&String, Image)> = Vec::new();
    let mut layouts = BTreeMap::new();
    for (service_name, service) in &appliance.services {
        let image = service.image.as_deref().unwrap_or(service_name);
        let path = images::build(workshop, recipes, image)?;
        layouts.insert(image, path.clone());
        let reference = Reference::OciLayout { path, name: None };
        found.push((service_name, source::resolve(&store, &reference, &access, &progress)?));
    }
    let layers: Vec<_> = found.iter().map(|(_, image)| &image.layers[..]).collect();
    let on_disk = disk::Images::of(&store, &layers, wanted.verity)?;

    let mut ingredients = BTreeMap::new();
    for (index, (service_name, image)) in found.iter().enumerate() {
        let volumes = volumes(&appliance.services[*service_name], &image.config);
        let directories = on_disk.directories(index, &volumes)?;
        let root = on_disk.root(index).context("an image without partitions")?;
        let ingredient = Ingredients {
            config: &image.config,
            root,
            directories: directories.into_iter().map(str::to_owned).collect(),
        };
        ingredients.insert((*service_name).clone(), ingredient);
    }
    let specification =
        specification(&appliance, &ingredients).with_context(|| format!("appliance {name}"))?;

    let mut key = Key::default();
    key.add("code", ferry_images::CODE.as_bytes()).add("specification", &specification);
    for layer in layers.iter().copied().flatten() {
        key.add("layer", layer.to_string().as_bytes());
    }
    // The documents name more than is on the disk.
    key.add("recipe", &fs::read(recipes.join(format!("{name}.toml")))?);
    for layout in layouts.values() {
        key.add("manifest", manifest_of(layout)?.as_bytes());
    }
    key.add("state", &wanted.state_bytes.to_le_bytes());
    let file_name = format!("{name}.img");
    let entry = workshop.cache.get_or_make("disks", &format!("{name}-{}", key.finish()), |directory| {
        let path = directory.join(&file_name);
        let out = File::options().read(true).write(true).create_new(true).open(&path)?;
        let files = [(FILE_NAME, &specification[..])];
        disk::write(&store, &files, &on_disk, wanted.state_bytes, &out, &progress)
            .with_context(|| format!("appliance {name}"))?;
        out.sync_all()?;
        write_for_disk(&DiskSubject { name, disk: &path, recipes, images: &layouts })?;
        Ok(())
    })?;
    Ok(entry.join(file_name))
}
