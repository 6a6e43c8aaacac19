//! Images from recipes: `NAME.toml` says what is in the image, `NAME.lock` pins every Debian package of it by digest.
//!
//! No maintainer script runs and no root is needed: what scripts would have done is said in the recipe (users, links,
//! directories). Building is a function of recipe and lock: the same two give the same bytes anywhere, any day.

mod base;
mod describe;
pub mod disk_statements;
mod error;
mod layout;
pub mod service;
pub mod statements;
#[cfg(test)]
mod tests;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::debian::{self, Package, Packages};
use crate::digest::Digest;
use crate::progress::Progress;
use base::Base;
pub use base::Images;
use describe::{Lock, Recipe, mode, owner};
pub use error::Error;
use service::{Appliance, Service};
use statements::Subject;
use tree::{Attributes, Node, Tree};

/// Changes when the same recipe comes to make other bytes; part of [`key`].
const FORMAT: u32 = 3;

/// Recipes that stand on one another, at most.
const MAX_DEPTH: usize = 8;

/// What [`build`] made.
#[derive(Debug, Clone)]
pub struct Built {
    /// The OCI layout's directory, ready for [`crate::Reference::OciLayout`].
    pub layout: PathBuf,
    /// The image manifest's digest.
    pub manifest: Digest,
    /// Packages that are not the locked ones because those have gone from the mirror; empty in a faithful build.
    pub substituted: Vec<Package>,
}

/// Where what recipes ask for comes from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// Debian's packages, through this directory (see [`Packages::open`]).
    pub packages: &'a Path,
    /// Images; nothing where there is no place for them.
    pub images: Option<Images<'a>>,
}

/// A recipe and its lock.
struct Stage {
    name: String,
    recipe: Recipe,
    lock: Lock,
    /// Whether the lock is a file.
    locked: bool,
}

/// The names of all recipes in a directory, sorted.
pub fn names(recipes: &Path) -> Vec<String> {
    let entries = fs::read_dir(recipes).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok()?.strip_suffix(".toml").map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// A digest of all that goes into recipe `name`: what was built under the same key need not be built again.
pub fn key(recipes: &Path, name: &str) -> Result<Digest, Error> {
    let mut text = format!("{FORMAT}\n");
    for (_, digest) in inputs(recipes, &stages(recipes, name)?)? {
        text += &digest.to_string();
    }
    Ok(Digest::of(text.as_bytes()))
}

/// The files that the stages are written in, by name: recipes, locks, and what is beside them.
fn inputs(recipes: &Path, stages: &[Stage]) -> Result<Vec<(String, Digest)>, Error> {
    let mut inputs = Vec::new();
    for stage in stages {
        let suffixes = if stage.locked { &["toml", "lock"][..] } else { &["toml"] };
        let own = suffixes.iter().map(|suffix| format!("{}.{suffix}", stage.name));
        let sources = stage.recipe.files.values().filter_map(|file| file.source.clone());
        for name in own.chain(sources) {
            let path = tree::beside(recipes, &name)?;
            let digest = Digest::of_file(&path).map_err(|cause| Error::Write { path, cause })?;
            inputs.push((name, digest));
        }
    }
    Ok(inputs)
}

/// The recipe and those below it, lowest first, each checked against its lock.
fn stages(recipes: &Path, name: &str) -> Result<Vec<Stage>, Error> {
    let mut stages = Vec::new();
    let mut next = Some(name.to_owned());
    while let Some(name) = next {
        if stages.len() == MAX_DEPTH {
            return Err(Error::Depth { name });
        }
        let recipe = Recipe::read(recipes, &name)?;
        if !recipe.services.is_empty() {
            return Err(Error::Services { name });
        }
        let lock = Lock::read(recipes, &name)?;
        let locked = lock.is_some();
        if !locked && recipe.asks_for_something() {
            return Err(Error::NoLock { name });
        }
        let lock = lock.unwrap_or_default();
        if locked && !lock.fits(&recipe) {
            return Err(Error::OldLock { name });
        }
        next = recipe.base_recipe().map(str::to_owned);
        stages.push(Stage { name, recipe, lock, locked });
    }
    stages.reverse();
    // What has no date of its own is as old as what it stands on.
    let mut epoch = 0;
    for stage in &mut stages {
        if !stage.locked {
            stage.lock.epoch = epoch;
        }
        epoch = epoch.max(stage.lock.epoch);
    }
    Ok(stages)
}

/// What recipe `name` runs where no host says it: its services, or the one container of its image.
pub fn appliance(recipes: &Path, name: &str) -> Result<Appliance, Error> {
    let recipe = Recipe::read(recipes, name)?;
    if !recipe.services.is_empty() && recipe.has_image() {
        return Err(Error::Both { name: name.to_owned() });
    }
    service::appliance(name, &recipe, |image| own_service(recipes, image))
}

/// The recipes of the images that recipe `name` runs: its services', each once, or itself.
pub fn images(recipes: &Path, name: &str) -> Result<Vec<String>, Error> {
    let services = appliance(recipes, name)?.services;
    let images: std::collections::BTreeSet<_> =
        services.into_values().filter_map(|service| service.image).collect();
    Ok(images.into_iter().collect())
}

/// What a recipe with an image says of its container.
fn own_service(recipes: &Path, name: &str) -> Result<Service, Error> {
    let recipe = Recipe::read(recipes, name)?;
    if recipe.services.is_empty() {
        Ok(recipe.service)
    } else {
        Err(Error::Services { name: name.to_owned() })
    }
}

/// Whether recipe `name` has services, and so a disk but no image of its own.
pub fn has_services(recipes: &Path, name: &str) -> Result<bool, Error> {
    Ok(!Recipe::read(recipes, name)?.services.is_empty())
}

/// Builds recipe `name` of `recipes` into an OCI layout at `layout`, which is replaced if it is there, and writes what it is
/// made of [`statements::beside`] it.
pub fn build(
    recipes: &Path,
    name: &str,
    sources: &Sources<'_>,
    layout: &Path,
    progress: &dyn Progress,
) -> Result<Built, Error> {
    let stages = stages(recipes, name)?;
    let base = stages.first().and_then(|stage| stage.lock.base.as_ref());
    let base = match base.map(|lock| (lock, sources.images)) {
        Some((lock, Some(images))) => Some(base::locked(lock, recipes, images, progress)?),
        Some((lock, None)) => return Err(Error::NoStore { image: lock.image.clone() }),
        None => None,
    };
    let packages = Packages::open(sources.packages)?;
    let mut substituted = Vec::new();
    let mut debs = Vec::new();
    let mut closures = Vec::new();
    for stage in &stages {
        let mut closure = stage.lock.closure.clone();
        let paths = match packages.fetch(&closure, progress) {
            Err(debian::Error::Gone(gone)) => {
                // One package's current version may need another's: all of them are taken anew.
                closure = resolve(&stages, stage, base.as_ref(), &packages, progress)?;
                let paths = packages.fetch(&closure, progress)?;
                warn_of(&stage.name, &gone, progress);
                substituted
                    .extend(closure.iter().filter(|package| !stage.lock.closure.contains(package)).cloned());
                paths
            }
            other => other?,
        };
        debs.push(closure.iter().map(|package| package.name.clone()).zip(paths).collect::<Vec<_>>());
        closures.push(closure);
    }
    progress.begin(&format!("image {name}"), None);
    let manifest = assemble(recipes, &stages, &debs, base.as_ref(), layout);
    progress.end();
    let subject = Subject {
        name,
        manifest: manifest?,
        epoch: stages.last().map_or(0, |top| top.lock.epoch),
        inputs: inputs(recipes, &stages)?,
        base: base.as_ref().zip(stages.first()).and_then(|(base, stage)| {
            let lock = stage.lock.base.as_ref()?;
            Some(statements::Base { image: &lock.image, manifest: lock.manifest, layers: base.digests() })
        }),
        packages: closures.iter().flatten().collect(),
    };
    statements::write(layout, &subject)?;
    Ok(Built { layout: layout.to_owned(), manifest: subject.manifest, substituted })
}

fn warn_of(name: &str, gone: &[Package], progress: &dyn Progress) {
    let gone: Vec<_> = gone.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
    progress.warn(&format!(
        "image {name}: {} can no longer be had from the mirror; current versions are used, so the image is not the locked \
         one (`cargo xtask image lock --update {name}` locks them)",
        gone.join(", ")
    ));
}

/// Everything after the downloads: a new directory beside `layout` that takes its place when it is complete.
fn assemble(
    recipes: &Path,
    stages: &[Stage],
    debs: &[Vec<(String, PathBuf)>],
    base: Option<&Base>,
    layout: &Path,
) -> Result<Digest, Error> {
    let failed = |cause| Error::Write { path: layout.to_owned(), cause };
    let parent = layout.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed)?;
    let new = tempfile::Builder::new().prefix(".building-").tempdir_in(parent).map_err(failed)?;
    let mut tree = Tree::new(0).map_err(failed)?;
    let mut layers = Vec::new();
    if let Some(base) = base {
        layers.extend(base.add_layers(new.path())?);
        let read = stages
            .iter()
            .flat_map(|stage| stage.recipe.files.values().filter_map(|file| file.joined.clone()));
        tree.stand_on(base, &read.collect::<Vec<_>>())?;
    }
    for (stage, debs) in stages.iter().zip(debs) {
        tree.next_layer(stage.recipe.drop.clone(), stage.lock.epoch);
        if layers.is_empty() {
            add_skeleton(&mut tree, &stage.name)?;
        }
        for (name, deb) in debs {
            tree.add_package(name, debian::data(deb)?)?;
        }
        add_recipe(&mut tree, recipes, stage)?;
        layers.push(layout::Layer::plain(layout::add_blob(new.path(), |out| tree.write_layer(out))?));
    }
    let Some(top) = stages.last() else { return Err(Error::Path { path: layout.display().to_string() }) };
    let below = base.map(Base::section).unwrap_or_default();
    let image = stages.iter().fold(below, |below, stage| stage.recipe.image.over(&below));
    let image = layout::Image {
        section: &image,
        description: &top.recipe.description,
        health: top.recipe.service.health.as_ref(),
        epoch: top.lock.epoch,
    };
    let digest = layout::finish(new.path(), &image, &layers)?;
    match fs::remove_dir_all(layout) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // What a temporary directory is allowed is for its maker alone; what replaces it is for whoever may read the parent.
    fs::set_permissions(new.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(failed)?;
    fs::rename(new.path(), layout).map_err(failed)?;
    Ok(digest)
}

/// Directories that every image has, and the links of a merged /usr.
fn add_skeleton(tree: &mut Tree, name: &str) -> Result<(), Error> {
    // As young as anything in the image may be.
    let at = |mode| Attributes { mode, uid: 0, gid: 0, mtime: u64::MAX };
    for directory in [
        "dev",
        "etc",
        "home",
        "mnt",
        "opt",
        "proc",
        "run",
        "srv",
        "sys",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "usr/sbin",
        "var/cache",
        "var/lib",
        "var/log",
    ] {
        tree.add(directory, Node::Directory, at(0o755), name)?;
    }
    for (directory, mode) in [("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)] {
        tree.add(directory, Node::Directory, at(mode), name)?;
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("sbin", "usr/sbin"),
        ("var/run", "/run"),
        ("var/lock", "/run/lock"),
    ] {
        tree.add(link, Node::Symlink(target.into()), at(0o777), name)?;
    }
    Ok(())
}

/// What the recipe says besides packages.
fn add_recipe(tree: &mut Tree, recipes: &Path, stage: &Stage) -> Result<(), Error> {
    let (recipe, origin, mtime) = (&stage.recipe, stage.name.as_str(), stage.lock.epoch);
    let root = |mode| Attributes { mode, uid: 0, gid: 0, mtime };
    let failed = |cause| Error::Write { path: "temporary file".into(), cause };
    for (path, text) in accounts(tree, recipe)? {
        let content = tree.store(text.as_bytes()).map_err(failed)?;
        tree.add(path, Node::File(content), root(0o644), origin)?;
    }
    for (path, directory) in &recipe.directories {
        let (uid, gid) = owner(&directory.owner)?;
        tree.add(
            path,
            Node::Directory,
            Attributes { mode: mode(&directory.mode)?, uid, gid, mtime },
            origin,
        )?;
    }
    for (path, file) in &recipe.files {
        let content = match (&file.content, &file.source, &file.joined) {
            (Some(content), None, None) => content.clone().into_bytes(),
            (None, Some(source), None) => {
                let path = tree::beside(recipes, source)?;
                fs::read(&path).map_err(|cause| Error::Write { path, cause })?
            }
            (None, None, Some(directory)) => tree.read_all_in(directory)?,
            _ => {
                return Err(Error::Value {
                    value: path.clone(),
                    what: "a file with one of `content`, `source` and `joined`",
                });
            }
        };
        let (uid, gid) = owner(&file.owner)?;
        let content = tree.store(&content[..]).map_err(failed)?;
        tree.add(path, Node::File(content), Attributes { mode: mode(&file.mode)?, uid, gid, mtime }, origin)?;
    }
    for (path, target) in &recipe.symlinks {
        tree.add(path, Node::Symlink(target.clone().into()), root(0o777), origin)?;
    }
    for links in &recipe.links {
        for name in links.names.split_whitespace() {
            let path = format!("{}/{name}", links.directory);
            // A package that has a program of its own keeps it.
            if !tree.has(&path) {
                tree.add(&path, Node::Symlink(links.target.clone().into()), root(0o777), origin)?;
            }
        }
    }
    Ok(())
}

/// /etc/passwd and /etc/group with the recipe's accounts at their ends. They start as the recipe below has them, as
/// base-passwd's masters have them, or with root and nobody.
fn accounts(tree: &mut Tree, recipe: &Recipe) -> Result<Vec<(&'static str, String)>, Error> {
    const KINDS: [(&str, &str, &str); 2] = [
        (
            "/etc/passwd",
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        ),
        ("/etc/group", "group", "root:x:0:\nnogroup:x:65534:\n"),
    ];
    let mut made = Vec::new();
    for (path, kind, minimal) in KINDS {
        let before = tree.read(path)?;
        let master = tree.read(&format!("/usr/share/base-passwd/{kind}.master"))?;
        let mut text = match before.clone().or(master) {
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None => minimal.to_owned(),
        };
        if !tree.has("/usr/bin/bash") {
            text = text.replace(":/bin/bash\n", ":/bin/sh\n");
        }
        if kind == "passwd" {
            for (name, user) in &recipe.users {
                text += &format!("{name}:x:{}:{}::{}:{}\n", user.uid, user.gid, user.home, user.shell);
            }
        } else {
            for (name, user) in recipe.users.iter().filter(|(name, _)| !recipe.groups.contains_key(*name)) {
                text += &format!("{name}:x:{}:\n", user.gid);
            }
            for (name, group) in &recipe.groups {
                text += &format!("{name}:x:{}:{}\n", group.gid, group.members.join(","));
            }
        }
        if before.is_none_or(|before| before != text.as_bytes()) {
            made.push((path, text));
        }
    }
    Ok(made)
}

/// Resolves what recipe `name` asks for anew, dates it by the newest of it, and writes its lock file. The recipes below it
/// keep theirs. Returns the packages that it locked; a recipe that asks for nothing has no lock.
pub fn lock(
    recipes: &Path,
    name: &str,
    sources: &Sources<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Package>, Error> {
    let recipe = Recipe::read(recipes, name)?;
    if !recipe.services.is_empty() {
        return Err(Error::Services { name: name.to_owned() });
    }
    if !recipe.asks_for_something() {
        return Ok(Vec::new());
    }
    let mut below = match recipe.base_recipe() {
        Some(from) => stages(recipes, from)?,
        None => Vec::new(),
    };
    let mut lock = Lock {
        suite: debian::SUITE.to_owned(),
        epoch: below.iter().map(|stage| stage.lock.epoch).max().unwrap_or(0),
        packages: recipe.packages.clone(),
        exclude: recipe.exclude.clone(),
        base: None,
        closure: Vec::new(),
    };
    let failed = |cause| Error::Package { name: name.to_owned(), cause };
    let base = match (recipe.base_image(), sources.images) {
        (Some(image), Some(images)) => {
            let base = base::current(image, recipes, images, progress)?;
            lock.base = Some(base.lock(image).map_err(failed)?);
            lock.epoch = base.created();
            Some(base)
        }
        (Some(image), None) => return Err(Error::NoStore { image: image.to_owned() }),
        (None, _) => None,
    };
    below.push(Stage { name: name.to_owned(), recipe, lock: lock.clone(), locked: true });
    let Some(stage) = below.last() else { return Ok(Vec::new()) };

    let packages = Packages::open(sources.packages)?;
    packages.update(progress)?;
    lock.closure = resolve(&below, stage, base.as_ref(), &packages, progress)?;
    for (package, deb) in lock.closure.iter().zip(packages.fetch(&lock.closure, progress)?) {
        let newest = tree::newest(debian::data(&deb)?);
        lock.epoch =
            lock.epoch.max(newest.map_err(|cause| Error::Package { name: package.name.clone(), cause })?);
    }
    lock.write(recipes, name)?;
    Ok(lock.closure)
}

/// The current closure of a stage over what is below it.
fn resolve(
    stages: &[Stage],
    stage: &Stage,
    base: Option<&Base>,
    packages: &Packages,
    progress: &dyn Progress,
) -> Result<Vec<Package>, Error> {
    if stage.recipe.packages.is_empty() {
        return Ok(Vec::new());
    }
    let image = stages.first().and_then(|stage| stage.recipe.base_image());
    let mut installed = match (base, image) {
        (Some(base), Some(image)) => base.packages(image)?,
        _ => Vec::new(),
    };
    for below in stages.iter().take_while(|other| other.name != stage.name) {
        installed
            .extend(below.lock.closure.iter().map(|package| (package.name.clone(), package.version.clone())));
        installed.extend(below.recipe.exclude.iter().map(|name| (name.clone(), String::new())));
    }
    installed.extend(stage.recipe.exclude.iter().map(|name| (name.clone(), String::new())));
    let names: Vec<_> = stage.recipe.packages.iter().map(String::as_str).collect();
    Ok(packages.resolve_over(&installed, &names, progress)?)
}
