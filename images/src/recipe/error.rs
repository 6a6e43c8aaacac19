//! Why a recipe cannot be built, in a line for people.

use std::io;
use std::path::PathBuf;

use super::MAX_DEPTH;
use crate::digest::Digest;
use crate::{debian, source, store};

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
    /// It has services, and so no image of its own.
    #[error(
        "recipe `{name}` is an appliance of several images: build its disk (--format disk), or one of those images"
    )]
    Services {
        /// The recipe.
        name: String,
    },
    /// It has both services and what makes an image.
    #[error(
        "recipe `{name}` has services, so what it says of an image of its own belongs into a recipe of its own"
    )]
    Both {
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
    /// Fetching an image.
    #[error(transparent)]
    Image(#[from] source::Error),
    /// Keeping one.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An image that recipes cannot stand on, since there is no place for it.
    #[error("{image} is an image, and there is no place to keep it: set HOME or XDG_DATA_HOME")]
    NoStore {
        /// Its name.
        image: String,
    },
    /// An image whose layers are not here as they came.
    #[error("{image}: its layers cannot be had as they were packed, which an image made from it needs")]
    Unpacked {
        /// Its name.
        image: String,
    },
    /// An image that is another one than was locked.
    #[error(
        "{image} is {found} now and was locked as {locked}: lock it anew with `cargo xtask image lock --update NAME`"
    )]
    Moved {
        /// Its name.
        image: String,
        /// What it was.
        locked: Digest,
        /// What it is.
        found: Digest,
    },
    /// Packages on an image of another system.
    #[error("{image} is not of Debian's release {SUITE}, so packages of that cannot be added to it", SUITE = debian::SUITE)]
    Release {
        /// Its name.
        image: String,
    },
}
