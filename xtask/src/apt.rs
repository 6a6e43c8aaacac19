//! `apt-get` as the way to what the host lacks: as root it installs; as anyone else it downloads with lists and
//! archives of our own, and the packages are unpacked into the cache. Nothing here ever asks for more rights.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key};
use crate::report::{Report, Step};
use crate::tools;

/// One of the two ways of getting packages.
#[derive(Debug)]
pub enum Apt {
    /// As root: into the system.
    System,
    /// As an ordinary user: into this part of the cache.
    Private(PathBuf),
}

/// Whether this user may do everything.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// What apt-get would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Download {
    /// How many packages.
    pub packages: u64,
    /// How many bytes to download.
    pub bytes: u64,
}

impl Apt {
    /// The way that this user has.
    pub fn new(cache: &Cache) -> Result<Apt> {
        if is_root() {
            return Ok(Apt::System);
        }
        let dir = cache.dir("apt")?;
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part))?;
        }
        Ok(Apt::Private(dir))
    }

    /// Whether packages are installed into the system.
    pub fn is_system(&self) -> bool {
        matches!(self, Apt::System)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        // Another apt-get on a fresh machine (unattended-upgrades) is waited for.
        command.args(["-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600"]);
        if let Apt::Private(dir) = self {
            command.arg("-o").arg(format!("Dir::State::Lists={}/", dir.join("lists").display()));
            command.arg("-o").arg(format!("Dir::Cache={}/", dir.join("cache").display()));
            command.args(["-o", "Debug::NoLocking=true"]);
        }
        command
    }

    /// What has to be downloaded for these packages; nothing where the lists do not know them (yet).
    pub fn estimate(&self, packages: &[&str]) -> Option<Download> {
        let output = self
            .command()
            .args(["-qq", "--print-uris", "install"])
            .args(packages)
            .stdin(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then(|| parse_uris(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Gets the lists of packages.
    fn update(&self, report: &Report, step: &Step, log: &Path) -> Result<()> {
        report.run(step, self.command().arg("update"), log).context("apt-get update")
    }

    /// Gets the packages: into the system, or into an entry of the cache.
    pub fn get(&self, packages: &[&str], cache: &Cache, report: &Report, step: &Step) -> Result<()> {
        let logs = cache.dir("logs")?;
        if self.estimate(packages).is_none() {
            self.update(report, step, &logs.join("apt-update.log"))?;
        }
        let log = logs.join("apt-install.log");
        let mut install = self.command();
        if self.is_system() {
            let (apart, packages): (Vec<&str>, Vec<&str>) =
                packages.iter().partition(|package| tools::WITH_SERVICES.contains(package));
            for package in apart {
                self.get_without_its_service(package, cache, report, step, &log)?;
            }
            if packages.is_empty() {
                return Ok(());
            }
            install.arg("install").args(packages);
            let installed = report.run(step, &mut install, &log);
            if installed.is_ok() {
                return Ok(());
            }
            // Lists that are too old name files that the mirror no longer has.
            self.update(report, step, &logs.join("apt-update.log"))?;
            return report.run(step, &mut install, &log);
        }
        let mut key = Key::default();
        packages.iter().for_each(|package| {
            key.add("package", package.as_bytes());
        });
        install.args(["--download-only", "install"]).args(packages);
        cache.get_or_make(&tools::kind(), &key.finish(), |prefix| {
            if report.run(step, &mut install, &log).is_err() {
                self.update(report, step, &logs.join("apt-update.log"))?;
                report.run(step, &mut install, &log)?;
            }
            self.unpack(packages, prefix, step)
        })?;
        Ok(())
    }

    /// Unpacks a package into the cache, without what it needs: nothing of it is started.
    fn get_without_its_service(
        &self,
        package: &str,
        cache: &Cache,
        report: &Report,
        step: &Step,
        log: &Path,
    ) -> Result<()> {
        let mut key = Key::default();
        key.add("package", package.as_bytes());
        cache.get_or_make(&tools::kind(), &key.finish(), |prefix| {
            let place = tempfile::tempdir_in(prefix)?;
            let mut download = self.command();
            download.args(["download", package]).current_dir(place.path());
            report.run(step, &mut download, log)?;
            for entry in fs::read_dir(place.path())? {
                let status = Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(prefix).status()?;
                if !status.success() {
                    bail!("dpkg-deb cannot unpack {package}");
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Unpacks what was downloaded, and gives the room of the archives back.
    fn unpack(&self, packages: &[&str], prefix: &Path, step: &Step) -> Result<()> {
        let Apt::Private(dir) = self else { bail!("packages of the system are not unpacked by hand") };
        let archives = dir.join("cache/archives");
        let mut unpacked = Vec::new();
        for entry in fs::read_dir(&archives)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "deb") {
                continue;
            }
            step.note(&format!("unpacking {}", path.display()));
            let status = Command::new("dpkg-deb").arg("-x").arg(&path).arg(prefix).status()?;
            if !status.success() {
                bail!("dpkg-deb cannot unpack {}", path.display());
            }
            unpacked.push(path);
        }
        if unpacked.is_empty() {
            bail!("apt-get says that {} is installed, and yet it was not found", packages.join(" "));
        }
        // Only now: an interrupted run goes on with what it has.
        for path in unpacked {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Adds up `'URI' file size hash` lines.
fn parse_uris(output: &str) -> Download {
    output
        .lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok())
        .fold(Download::default(), |sum, bytes| Download {
            packages: sum.packages + 1,
            bytes: sum.bytes.saturating_add(bytes),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_what_apt_get_would_download() {
        let output = "Reading package lists...\n\
            'http://mirror.example/pool/m/make_4.3_amd64.deb' make_4.3_amd64.deb 396000 MD5Sum:00\n\
            'http://mirror.example/pool/b/bc_1.07_amd64.deb' bc_1.07_amd64.deb 4000 MD5Sum:00\n";
        assert_eq!(parse_uris(output), Download { packages: 2, bytes: 400_000 });
        assert_eq!(parse_uris("garbage 'x y"), Download::default());
    }
}
