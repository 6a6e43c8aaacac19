//! The text of recipes and of their locks.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use super::service::{Service, Settings};
use crate::debian::Package;
use crate::digest::Digest;
use crate::reference::is_recipe_name;

/// `NAME.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Recipe {
    /// One line for people.
    pub(super) description: String,
    /// The recipe or the image whose layers go below this one's.
    pub(super) from: Option<From>,
    /// Debian packages; what they depend on comes with them.
    pub(super) packages: Vec<String>,
    /// Packages that are taken for installed, so that neither they nor what only they need come along: those that
    /// only maintainer scripts use.
    pub(super) exclude: Vec<String>,
    /// Paths that are not taken from the packages.
    pub(super) drop: Vec<String>,
    pub(super) image: ImageSection,
    /// How its container is run where no host says it.
    pub(super) service: Service,
    /// The containers of an appliance: a recipe that has them has no image of its own.
    pub(super) services: BTreeMap<String, Service>,
    /// What those have in common.
    pub(super) appliance: Settings,
    pub(super) users: BTreeMap<String, User>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) directories: BTreeMap<String, Directory>,
    pub(super) files: BTreeMap<String, FileSource>,
    /// Path to target.
    pub(super) symlinks: BTreeMap<String, String>,
    /// Many names for one program.
    pub(super) links: Vec<Links>,
}

/// What a recipe stands on: `from = "NAME"`, another recipe, or `from = { image = "REFERENCE" }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum From {
    Recipe(String),
    Image(FromImage),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromImage {
    /// As a registry or a path beside the recipe has it.
    pub(super) image: String,
}

/// How the image is run: as the OCI image configuration has it. What is left open is as in the image below.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct ImageSection {
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) user: String,
    pub(super) workdir: String,
    pub(super) volumes: Vec<String>,
    pub(super) ports: Vec<String>,
    pub(super) stop_signal: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
}

impl ImageSection {
    /// This over the image below: lists that are empty here are that one's, and maps are joined. A new entrypoint makes the
    /// command below it meaningless, as in Docker.
    pub(super) fn over(&self, below: &Self) -> Self {
        let words = |own: &[String], below: &[String]| if own.is_empty() { below } else { own }.to_vec();
        let text = |own: &String, below: &String| if own.is_empty() { below } else { own }.clone();
        let joined = |own: &BTreeMap<String, String>, below: &BTreeMap<String, String>| {
            let mut joined = below.clone();
            joined.extend(own.clone());
            joined
        };
        let all = |own: &[String], below: &[String]| {
            let mut all = below.to_vec();
            all.extend(own.iter().filter(|word| !below.contains(word)).cloned());
            all
        };
        Self {
            entrypoint: words(&self.entrypoint, &below.entrypoint),
            cmd: if self.entrypoint.is_empty() { words(&self.cmd, &below.cmd) } else { self.cmd.clone() },
            env: joined(&self.env, &below.env),
            user: text(&self.user, &below.user),
            workdir: text(&self.workdir, &below.workdir),
            volumes: all(&self.volumes, &below.volumes),
            ports: all(&self.ports, &below.ports),
            stop_signal: self.stop_signal.clone().or_else(|| below.stop_signal.clone()),
            labels: joined(&self.labels, &below.labels),
        }
    }
}

/// A line of /etc/passwd, and of /etc/group where `groups` has none by that name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    #[serde(default = "root_directory")]
    pub(super) home: String,
    #[serde(default = "no_shell")]
    pub(super) shell: String,
}

/// A line of /etc/group.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) gid: u32,
    #[serde(default)]
    pub(super) members: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Directory {
    #[serde(default = "directory_mode")]
    pub(super) mode: String,
    #[serde(default = "root")]
    pub(super) owner: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSource {
    /// The content itself.
    pub(super) content: Option<String>,
    /// A file beside the recipe.
    pub(super) source: Option<String>,
    /// A directory of the image: its files one behind the other, by name. What update-ca-certificates and its like make.
    pub(super) joined: Option<String>,
    #[serde(default = "file_mode")]
    pub(super) mode: String,
    #[serde(default = "root")]
    pub(super) owner: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Links {
    pub(super) target: String,
    pub(super) directory: String,
    /// Apart by white space.
    pub(super) names: String,
}

fn root_directory() -> String {
    "/".into()
}

fn no_shell() -> String {
    "/usr/sbin/nologin".into()
}

fn directory_mode() -> String {
    "0755".into()
}

fn file_mode() -> String {
    "0644".into()
}

fn root() -> String {
    "0:0".into()
}

/// An octal mode.
pub(super) fn mode(text: &str) -> Result<u32, Error> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| Error::Value { value: text.to_owned(), what: "an octal mode such as 0755" })
}

/// `uid:gid`.
pub(super) fn owner(text: &str) -> Result<(u64, u64), Error> {
    let number = |text: &str| text.parse::<u32>().ok().map(u64::from);
    let owner = text.split_once(':').and_then(|(uid, gid)| number(uid).zip(number(gid)));
    owner.ok_or_else(|| Error::Value { value: text.to_owned(), what: "an owner such as 999:999" })
}

/// `NAME.lock`: the exact packages of one build, and what it was resolved from. A recipe that asks for nothing from outside
/// has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    /// The Debian release.
    pub(super) suite: String,
    /// Seconds since 1970: nothing in the image is younger.
    pub(super) epoch: u64,
    /// What the recipe asked for when it was locked.
    pub(super) packages: Vec<String>,
    /// What it excluded then.
    pub(super) exclude: Vec<String>,
    /// The image that the recipe stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<LockedBase>,
    /// Every package of the recipe's own layer.
    #[serde(default, rename = "package")]
    pub(super) closure: Vec<Package>,
}

/// An image that is not from a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LockedBase {
    /// What the recipe called it.
    pub(super) image: String,
    /// Its manifest for this platform.
    pub(super) manifest: Digest,
    /// Bytes of its layers as they come.
    pub(super) size: u64,
}

impl Lock {
    /// Whether it was made for what the recipe asks for now.
    pub(super) fn fits(&self, recipe: &Recipe) -> bool {
        let base = self.base.as_ref().map(|base| base.image.as_str());
        self.packages == recipe.packages && self.exclude == recipe.exclude && base == recipe.base_image()
    }

    pub(super) fn read(recipes: &Path, name: &str) -> Result<Option<Self>, Error> {
        let path = recipes.join(format!("{name}.lock"));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(Error::Write { path, cause }),
        };
        let lock: Self =
            toml::from_str(&text).map_err(|cause| Error::Text { path, cause: Box::new(cause) })?;
        lock.closure.iter().try_for_each(|package| package.check().map(drop))?;
        Ok(Some(lock))
    }

    pub(super) fn write(&self, recipes: &Path, name: &str) -> Result<(), Error> {
        let path = recipes.join(format!("{name}.lock"));
        // Serialising what was just made from plain strings and numbers cannot fail; an empty lock would be noticed.
        let body = toml::to_string(self).unwrap_or_default();
        let head = format!(
            "# The packages of the image `{name}`, each pinned by digest. Made by `cargo xtask image lock --update {name}`.\n"
        );
        fs::write(&path, head + &body).map_err(|cause| Error::Write { path, cause })
    }
}

impl Recipe {
    pub(super) fn read(recipes: &Path, name: &str) -> Result<Self, Error> {
        let path = recipes.join(format!("{name}.toml"));
        let text = match is_recipe_name(name).then(|| fs::read_to_string(&path)) {
            Some(Ok(text)) => text,
            _ => return Err(missing(recipes, name)),
        };
        toml::from_str(&text).map_err(|cause| Error::Text { path, cause: Box::new(cause) })
    }
}

impl Recipe {
    /// Whether it says anything of an image of its own.
    pub(super) fn has_image(&self) -> bool {
        self.from.is_some()
            || self.asks_for_something()
            || !self.files.is_empty()
            || !self.directories.is_empty()
            || !self.symlinks.is_empty()
            || !self.links.is_empty()
            || !self.users.is_empty()
            || !self.groups.is_empty()
            || self.image != ImageSection::default()
            || self.service != Service::default()
    }

    /// Whether it needs anything from outside, which a lock pins.
    pub(super) fn asks_for_something(&self) -> bool {
        !self.packages.is_empty() || self.base_image().is_some()
    }

    /// The image, not from a recipe, that it stands on.
    pub(super) fn base_image(&self) -> Option<&str> {
        match &self.from {
            Some(From::Image(from)) => Some(&from.image),
            _ => None,
        }
    }

    /// The recipe that it stands on.
    pub(super) fn base_recipe(&self) -> Option<&str> {
        match &self.from {
            Some(From::Recipe(name)) => Some(name),
            _ => None,
        }
    }
}

fn missing(recipes: &Path, name: &str) -> Error {
    let there = super::names(recipes).join(", ");
    Error::Missing { name: name.to_owned(), directory: recipes.to_owned(), there }
}
