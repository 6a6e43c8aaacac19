//! Images from recipes: `NAME.toml` says what is in the image, `NAME.lock` pins every package by digest.

use std::path::{Path, PathBuf};

use crate::debian::{self, Package};
use crate::digest::Digest;
use crate::progress::Progress;

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
    /// Its packages.
    #[error(transparent)]
    Debian(#[from] debian::Error),
}

/// Builds recipe `name` of `recipes` into an OCI layout at `layout`, with packages through `cache`.
pub fn build(
    recipes: &Path,
    name: &str,
    _cache: &Path,
    _layout: &Path,
    _progress: &dyn Progress,
) -> Result<Built, Error> {
    Err(Error::Missing { name: name.to_owned(), directory: recipes.to_owned(), there: String::new() })
}

/// Resolves the packages of recipe `name` anew and writes its lock file. Returns what it locked.
pub fn lock(
    recipes: &Path,
    name: &str,
    _cache: &Path,
    _progress: &dyn Progress,
) -> Result<Vec<Package>, Error> {
    Err(Error::Missing { name: name.to_owned(), directory: recipes.to_owned(), there: String::new() })
}
