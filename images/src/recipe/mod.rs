//! Images from recipes: `NAME.toml` says what is in the image, `NAME.lock` pins every Debian package of it by digest.
//!
//! No maintainer script runs and no root is needed: what scripts would have done is said in the recipe (users, links,
//! directories). Building is a function of recipe and lock: the same two give the same bytes anywhere, any day.

mod describe;
mod layout;
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
use describe::{Lock, Recipe, mode, owner};
use statements::Subject;
use tree::{Attributes, Node, Tree};

/// Changes when the same recipe comes to make other bytes; part of [`key`].
const FORMAT: u32 = 2;

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

/// Why a recipe cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no recipe by that name.
    #[error("no recipe `{name}` in {directory}; there are: {there}", directory = .directory.display())]
    Missing {
        /// The name asked for.
        name: String,
        /// Where recipes are.
        directory: PathBuf,
        /// Those that are there.
        there: String,
    },
    /// It was never locked.
    #[error("recipe `{name}` has no lock file: make it with `cargo xtask image lock --update {name}`")]
    NoLock {
        /// The recipe.
        name: String,
    },
    /// It asks for other packages than when it was locked.
    #[error("recipe `{name}` has changed since it was locked: run `cargo xtask image lock --update {name}`")]
    OldLock {
        /// The recipe.
        name: String,
    },
    /// Recipes that stand on each other in a circle.
    #[error("recipe `{name}` stands on more than {MAX_DEPTH} others, or on itself")]
    Depth {
        /// Where it became too much.
        name: String,
    },
    /// Not TOML, or not what a recipe or lock has.
    #[error("{path}: {cause}", path = .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Where and what.
        cause: Box<toml::de::Error>,
    },
    /// A value of the wrong form.
    #[error("`{value}` is not {what}")]
    Value {
        /// What is written.
        value: String,
        /// What should be.
        what: &'static str,
    },
    /// A path that leads nowhere good.
    #[error("`{path}` is not a path an image can have here")]
    Path {
        /// What is written.
        path: String,
    },
    /// Two packages bring different things under one name.
    #[error(
        "{path} is both in {one} and in {other}: leave it out with `drop` or say what it is in the recipe"
    )]
    Conflict {
        /// Where.
        path: String,
        /// Who came first.
        one: String,
        /// Who came second.
        other: String,
    },
    /// A package whose content makes no sense.
    #[error("package {name}: {cause}")]
    Package {
        /// Which.
        name: String,
        /// Why.
        cause: io::Error,
    },
    /// What is made cannot be written, or what is beside the recipe not read.
    #[error("{path}: {cause}", path = .path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Fetching packages.
    #[error(transparent)]
    Debian(#[from] debian::Error),
}

/// A recipe and its lock.
struct Stage {
    name: String,
    recipe: Recipe,
    lock: Lock,
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
        let own = ["toml", "lock"].map(|suffix| format!("{}.{suffix}", stage.name));
        let sources = stage.recipe.files.values().filter_map(|file| file.source.clone());
        for name in own.into_iter().chain(sources) {
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
        let lock = Lock::read(recipes, &name)?;
        if lock.packages != recipe.packages || lock.exclude != recipe.exclude {
            return Err(Error::OldLock { name });
        }
        next = recipe.from.clone();
        stages.push(Stage { name, recipe, lock });
    }
    stages.reverse();
    Ok(stages)
}

/// Builds recipe `name` of `recipes` into an OCI layout at `layout`, which is replaced if it is there, and writes what it is
/// made of [`statements::beside`] it; Debian's packages come through `cache` (see [`Packages::open`]).
pub fn build(
    recipes: &Path,
    name: &str,
    cache: &Path,
    layout: &Path,
    progress: &dyn Progress,
) -> Result<Built, Error> {
    let stages = stages(recipes, name)?;
    let packages = Packages::open(cache)?;
    let mut substituted = Vec::new();
    let mut debs = Vec::new();
    let mut closures = Vec::new();
    for stage in &stages {
        let mut closure = stage.lock.closure.clone();
        let paths = match packages.fetch(&closure, progress) {
            Err(debian::Error::Gone(gone)) => {
                // One package's current version may need another's: all of them are taken anew.
                closure = resolve(&stages, stage, &packages, progress)?;
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
    let manifest = assemble(recipes, &stages, &debs, layout);
    progress.end();
    let subject = Subject {
        name,
        manifest: manifest?,
        epoch: stages.last().map_or(0, |top| top.lock.epoch),
        inputs: inputs(recipes, &stages)?,
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
    layout: &Path,
) -> Result<Digest, Error> {
    let failed = |cause| Error::Write { path: layout.to_owned(), cause };
    let parent = layout.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed)?;
    let new = tempfile::Builder::new().prefix(".building-").tempdir_in(parent).map_err(failed)?;
    let mut tree = Tree::new(0).map_err(failed)?;
    let mut layers = Vec::new();
    for (stage, debs) in stages.iter().zip(debs) {
        tree.next_layer(stage.recipe.drop.clone(), stage.lock.epoch);
        if layers.is_empty() {
            add_skeleton(&mut tree, &stage.name)?;
        }
        for (name, deb) in debs {
            tree.add_package(name, debian::data(deb)?)?;
        }
        add_recipe(&mut tree, recipes, stage)?;
        layers.push(layout::add_blob(new.path(), |out| tree.write_layer(out))?);
    }
    let Some(top) = stages.last() else { return Err(Error::Path { path: layout.display().to_string() }) };
    let digest =
        layout::finish(new.path(), &top.recipe.image, &top.recipe.description, &layers, top.lock.epoch)?;
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

/// Resolves the packages of recipe `name` anew, dates it by the newest of them, and writes its lock file. The recipes
/// below it keep theirs. Returns what it locked.
pub fn lock(
    recipes: &Path,
    name: &str,
    cache: &Path,
    progress: &dyn Progress,
) -> Result<Vec<Package>, Error> {
    let recipe = Recipe::read(recipes, name)?;
    let mut below = match &recipe.from {
        Some(from) => stages(recipes, from)?,
        None => Vec::new(),
    };
    let epoch = below.iter().map(|stage| stage.lock.epoch).max().unwrap_or(0);
    let lock = Lock {
        suite: debian::SUITE.to_owned(),
        epoch,
        packages: recipe.packages.clone(),
        exclude: recipe.exclude.clone(),
        closure: Vec::new(),
    };
    below.push(Stage { name: name.to_owned(), recipe, lock });
    let Some(stage) = below.last() else { return Ok(Vec::new()) };

    let packages = Packages::open(cache)?;
    packages.update(progress)?;
    let mut lock = stage.lock.clone();
    lock.closure = resolve(&below, stage, &packages, progress)?;
    for (package, deb) in lock.closure.iter().zip(packages.fetch(&lock.closure, progress)?) {
        let newest = tree::newest(debian::data(&deb)?);
        lock.epoch =
            lock.epoch.max(newest.map_err(|cause| Error::Package { name: package.name.clone(), cause })?);
    }
    lock.write(recipes, name)?;
    Ok(lock.closure)
}

/// The current closure of a stage over what the stages below it hold.
fn resolve(
    stages: &[Stage],
    stage: &Stage,
    packages: &Packages,
    progress: &dyn Progress,
) -> Result<Vec<Package>, Error> {
    let mut installed = Vec::new();
    for below in stages.iter().take_while(|other| other.name != stage.name) {
        installed
            .extend(below.lock.closure.iter().map(|package| (package.name.clone(), package.version.clone())));
        installed.extend(below.recipe.exclude.iter().map(|name| (name.clone(), String::new())));
    }
    installed.extend(stage.recipe.exclude.iter().map(|name| (name.clone(), String::new())));
    if stage.recipe.packages.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> = stage.recipe.packages.iter().map(String::as_str).collect();
    Ok(packages.resolve_over(&installed, &names, progress)?)
}
