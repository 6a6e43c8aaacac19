//! The text of recipes and of their locks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::debian::Package;
use crate::reference::is_recipe_name;

/// `NAME.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Recipe {
    /// One line for people.
    pub(super) description: String,
    /// The recipe whose layers go below this one's.
    pub(super) from: Option<String>,
    /// Debian packages; what they depend on comes with them.
    pub(super) packages: Vec<String>,
    /// Packages that are taken for installed, so that neither they nor what only they need come along: those that
    /// only maintainer scripts use.
    pub(super) exclude: Vec<String>,
    /// Paths that are not taken from the packages.
    pub(super) drop: Vec<String>,
    pub(super) image: ImageSection,
    pub(super) users: BTreeMap<String, User>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) directories: BTreeMap<String, Directory>,
    pub(super) files: BTreeMap<String, FileSource>,
    /// Path to target.
    pub(super) symlinks: BTreeMap<String, String>,
    /// Many names for one program.
    pub(super) links: Vec<Links>,
}

/// How the image is run: as the OCI image configuration has it.
#[derive(Debug, Default, Deserialize)]
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

/// `NAME.lock`: the exact packages of one build, and what it was resolved from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Every package of the recipe's own layer.
    #[serde(default, rename = "package")]
    pub(super) closure: Vec<Package>,
}

impl Lock {
    pub(super) fn read(recipes: &Path, name: &str) -> Result<Self, Error> {
        let path = recipes.join(format!("{name}.lock"));
        let text = fs::read_to_string(&path).map_err(|_| Error::NoLock { name: name.to_owned() })?;
        let lock: Self =
            toml::from_str(&text).map_err(|cause| Error::Text { path, cause: Box::new(cause) })?;
        lock.closure.iter().try_for_each(|package| package.check().map(drop))?;
        Ok(lock)
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

fn missing(recipes: &Path, name: &str) -> Error {
    let there = super::names(recipes).join(", ");
    Error::Missing { name: name.to_owned(), directory: recipes.to_owned(), there }
}
