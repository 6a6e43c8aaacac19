//! Debian packages without touching the machine's own packages, and without root: `apt-get` is the client, with a
//! private state below the cache (package lists, an empty status file, a configuration that takes from the machine only
//! its mirror, its proxies and its trust). Recipes, the build's host tools and the kernel's source come through here.
//!
//! Packages are kept by SHA-256 and checked each time they are handed out.

mod apt;
pub(crate) mod deb;
mod sources;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::digest::{Digest, shortened};
use crate::progress::Progress;

pub use deb::{data, unpack};

/// The Debian release that packages are taken from, whatever the host runs.
pub const SUITE: &str = "trixie";

/// Package lists older than this are fetched again before anything is resolved against them.
const LISTS_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// What can go wrong with Debian packages.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a machine with apt.
    #[error(
        "`{program}` cannot be run ({cause}): Debian packages need a Debian host, or apt installed on it"
    )]
    NoApt {
        /// What was started.
        program: String,
        /// Why it did not start.
        cause: io::Error,
    },
    /// apt's sources name no mirror of Debian.
    #[error("no Debian mirror in {0}: add one, such as a line `deb MIRROR {SUITE} main` in sources.list")]
    NoMirror(PathBuf),
    /// apt said no.
    #[error("{doing}: {message}")]
    Apt {
        /// What it was to do.
        doing: String,
        /// Its own error lines.
        message: String,
    },
    /// Neither the mirror nor its current lists have these versions any more.
    #[error("no longer on the mirror: {}; newer versions can be locked with `cargo xtask image lock --update NAME`", list(.0))]
    Gone(Vec<Package>),
    /// A package file cannot be read.
    #[error("package {path}: {cause}", path = .path.display())]
    Package {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: io::Error,
    },
    /// A name or version no package can have.
    #[error("`{0}` is not a package name, version or pool path")]
    Malformed(String),
    /// The cache cannot be used.
    #[error("package cache {path}: {cause}", path = .path.display())]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

fn list(packages: &[Package]) -> String {
    let names: Vec<_> =
        packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
    names.join(", ")
}

/// One version of one binary package, as the mirror's signed index or a lock file describes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Binary package name.
    pub name: String,
    /// Full version, epoch included.
    pub version: String,
    /// `amd64` or `all`.
    pub arch: String,
    /// Path below the archive's root.
    pub filename: String,
    /// Bytes of the package file.
    pub size: u64,
    /// SHA-256 of the package file, 64 hex digits.
    pub sha256: String,
}

impl Package {
    /// Refuses what could be taken for an option, a path out of the pool or a second line.
    pub fn check(&self) -> Result<Digest, Error> {
        let word = |text: &str, extra: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
        };
        for (text, extra) in [(&self.name, "+-."), (&self.version, "+-.:~"), (&self.arch, "-")] {
            if !word(text, extra) {
                return Err(Error::Malformed(shortened(text)));
            }
        }
        if !word(&self.filename, "+-.:~/_%") || self.filename.split('/').any(|part| part == "..") {
            return Err(Error::Malformed(shortened(&self.filename)));
        }
        Digest::from_hex(&self.sha256).map_err(|_| Error::Malformed(shortened(&self.sha256)))
    }
}

/// What [`Packages::fetch_or_current`] found.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The verified package file.
    pub path: PathBuf,
    /// What it holds: the package asked for, or the mirror's current version of it.
    pub package: Package,
    /// True if the version asked for has gone and `package` is another one. To be told to whoever builds.
    pub substituted: bool,
}

/// Debian's packages, through a cache directory that any number of processes may share.
#[derive(Debug)]
pub struct Packages {
    apt: apt::Apt,
    debs: PathBuf,
    stamp: PathBuf,
}

impl Packages {
    /// Uses (and makes) `cache`. Nothing is fetched yet.
    pub fn open(cache: &Path) -> Result<Self, Error> {
        Self::open_with(cache, Path::new("/etc/apt"))
    }

    fn open_with(cache: &Path, etc: &Path) -> Result<Self, Error> {
        let in_cache = |cause| Error::Cache { path: cache.to_owned(), cause };
        fs::create_dir_all(cache).map_err(in_cache)?;
        let cache = fs::canonicalize(cache).map_err(in_cache)?;
        let mirrors = sources::Mirrors::read(etc).ok_or_else(|| Error::NoMirror(etc.to_owned()))?;
        let debs = cache.join("debs");
        fs::create_dir_all(&debs).map_err(|cause| Error::Cache { path: debs.clone(), cause })?;
        Ok(Self { stamp: cache.join("lists-fetched"), apt: apt::Apt::new(&cache, mirrors)?, debs })
    }

    /// Fetches the mirror's package lists unless those here are younger than a day.
    pub fn update(&self, progress: &dyn Progress) -> Result<(), Error> {
        let _lock = self.apt.lock()?;
        if !self.lists_are_recent() { self.fetch_lists(progress) } else { Ok(()) }
    }

    /// The stamp holds the sources that the lists came from: other sources make other lists.
    fn lists_are_recent(&self) -> bool {
        let age = fs::metadata(&self.stamp)
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|fetched| SystemTime::now().duration_since(fetched).ok());
        age.is_some_and(|age| age < LISTS_MAX_AGE)
            && fs::read_to_string(&self.stamp).is_ok_and(|sources| sources == self.apt.sources)
    }

    fn fetch_lists(&self, progress: &dyn Progress) -> Result<(), Error> {
        progress.begin("Debian package lists", None);
        let result = self.apt.update();
        progress.end();
        result?;
        fs::write(&self.stamp, &self.apt.sources)
            .map_err(|cause| Error::Cache { path: self.stamp.clone(), cause })
    }

    /// `names` and everything they depend on (not what they only recommend), current versions, in name order.
    /// A name may carry `=VERSION`.
    pub fn resolve(&self, names: &[&str], progress: &dyn Progress) -> Result<Vec<Package>, Error> {
        self.resolve_over(&[], names, progress)
    }

    /// The same on a system that has the packages `installed` already, as names and versions. One without a version is
    /// only pretended: whatever needs it is content, and neither it nor what it would need comes along.
    pub fn resolve_over(
        &self,
        installed: &[(String, String)],
        names: &[&str],
        progress: &dyn Progress,
    ) -> Result<Vec<Package>, Error> {
        let _lock = self.apt.lock()?;
        let fresh = self.lists_are_recent();
        if !fresh {
            self.fetch_lists(progress)?;
        }
        let mut closure = match self.apt.closure(installed, names) {
            // A wanted version may be younger than the lists.
            Err(Error::Apt { .. }) if fresh => {
                self.fetch_lists(progress)?;
                self.apt.closure(installed, names)?
            }
            other => other?,
        };
        // apt reinstalls what it finds installed with fewer dependencies than its index says: all that it is told here.
        let there = |package: &Package| {
            installed.iter().any(|(name, version)| *name == package.name && *version == package.version)
        };
        closure.retain(|package| !there(package));
        Ok(closure)
    }

    /// The verified file of each package, from the cache or the mirror, in the same order.
    pub fn fetch(&self, packages: &[Package], progress: &dyn Progress) -> Result<Vec<PathBuf>, Error> {
        let mut paths = Vec::with_capacity(packages.len());
        for package in packages {
            paths.push(self.debs.join(format!("{}.deb", package.check()?.hex())));
        }
        let missing = self.missing(packages)?;
        if !missing.is_empty() {
            let _lock = self.apt.lock()?;
            // Another process may have fetched them while this one waited.
            self.download(self.missing(packages)?, progress)?;
        }
        Ok(paths)
    }

    /// One package; if its version has gone from the mirror, the current version instead, which the result says and
    /// `progress` is warned of.
    pub fn fetch_or_current(&self, package: &Package, progress: &dyn Progress) -> Result<Fetched, Error> {
        match self.fetch(std::slice::from_ref(package), progress) {
            Ok(mut paths) => {
                Ok(Fetched { path: paths.remove(0), package: package.clone(), substituted: false })
            }
            Err(Error::Gone(_)) => {
                let current = {
                    let _lock = self.apt.lock()?;
                    self.apt.show(&package.name)?
                };
                let path = self.fetch(std::slice::from_ref(&current), progress)?.remove(0);
                progress.warn(&format!(
                    "{} {} is no longer on the mirror: its current version {} (sha256 {}) is used instead, so what is \
                     built from it differs from what was pinned",
                    package.name, package.version, current.version, current.sha256
                ));
                Ok(Fetched { path, package: current, substituted: true })
            }
            Err(other) => Err(other),
        }
    }

    /// Those not in the cache. A damaged file counts as missing and is removed.
    fn missing<'a>(&self, packages: &'a [Package]) -> Result<Vec<&'a Package>, Error> {
        let mut missing = Vec::new();
        for package in packages {
            let digest = package.check()?;
            let path = self.debs.join(format!("{}.deb", digest.hex()));
            match Digest::of_file(&path) {
                Ok(found) if found == digest => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(package),
                Ok(_) | Err(_) => {
                    fs::remove_file(&path).map_err(|cause| Error::Cache { path, cause })?;
                    missing.push(package);
                }
            }
        }
        Ok(missing)
    }

    /// By the paths the packages are known under, then by those that current lists give the same versions (a security
    /// update moves to the main archive at the next point release).
    fn download(&self, missing: Vec<&Package>, progress: &dyn Progress) -> Result<(), Error> {
        let wanted: Vec<Package> = missing.into_iter().cloned().collect();
        let message = self.download_by_path(&wanted, progress)?;
        let wanted: Vec<Package> = self.missing(&wanted)?.into_iter().cloned().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        self.fetch_lists(progress)?;
        let mut moved = Vec::new();
        for package in &wanted {
            match self.apt.show(&format!("{}={}", package.name, package.version)) {
                Ok(found) if found.sha256 == package.sha256 => moved.push(found),
                _ => return Err(Error::Gone(wanted.clone())),
            }
        }
        self.download_by_path(&moved, progress)?;
        match self.missing(&wanted)?.is_empty() {
            true => Ok(()),
            // The lists still have them, so it is not the version that is at fault.
            false => Err(Error::Apt { doing: format!("fetching {}", list(&wanted)), message }),
        }
    }

    /// Fetches what can be fetched, resuming where an earlier attempt stopped; returns apt's complaints.
    fn download_by_path(&self, packages: &[Package], progress: &dyn Progress) -> Result<String, Error> {
        let partial = self.debs.join("partial");
        fs::create_dir_all(&partial).map_err(|cause| Error::Cache { path: partial.clone(), cause })?;
        let what = match packages {
            [one] => format!("Debian package {}", one.name),
            many => format!("{} Debian packages", many.len()),
        };
        progress.begin(&what, Some(packages.iter().map(|package| package.size).sum()));
        let result = self.apt.download(packages, &partial, &|bytes| progress.advance(bytes));
        progress.end();
        let message = result?;
        for package in packages {
            let (from, to) =
                (partial.join(&package.sha256), self.debs.join(format!("{}.deb", package.sha256)));
            // apt has compared the hash; what it left here unfinished has another one and stays for the next attempt.
            if Digest::of_file(&from).is_ok_and(|found| found.hex() == package.sha256) {
                fs::File::open(&from)
                    .and_then(|file| file.sync_all())
                    .and_then(|()| fs::rename(&from, &to))
                    .map_err(|cause| Error::Cache { path: to, cause })?;
            }
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests;
