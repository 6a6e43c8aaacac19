//! Makes the machine ready: finds out what is missing for what was asked, says so in one plan before the first long
//! step, and then gets it.
//!
//! Everything that stands in the way is found before anything is begun, and told all at once.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::apt::{Apt, is_root};
use crate::report::{roughly, size};
use crate::tools::{self, Tool, Tools};
use crate::workshop::Workshop;

/// Something that a command needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// The guest kernel, built.
    Kernel,
    /// Programs for building images from recipes.
    Images,
    /// QEMU.
    Qemu,
    /// A /dev/kvm that opens.
    Kvm,
    /// What the tests compare with and make images from.
    Tests,
    /// Something else that takes long, once.
    Long(Work),
}

/// A long step that has yet to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// What: a noun.
    pub what: String,
    /// Bytes to download.
    pub download: u64,
    /// Bytes that it keeps.
    pub keep: u64,
    /// How long it usually takes on two cores.
    pub time: Duration,
}

const MB: u64 = 1_000_000;

/// What building the guest kernel takes where its source has to be downloaded too.
fn kernel_work() -> Work {
    Work {
        what: "guest kernel".to_owned(),
        download: 145 * MB,
        keep: 180 * MB,
        time: Duration::from_secs(5 * 60),
    }
}

/// Free room that a build must leave.
const SPARE: u64 = 200 * MB;

/// Room that the kernel's tree takes while it is being built.
const WHILE_BUILDING: u64 = 1_900 * MB;

/// Gets ready: says what is missing and what will be done about it, and does the installing.
pub fn prepare(workshop: &mut Workshop, needs: &[Need]) -> Result<()> {
    let kernel = needs.contains(&Need::Kernel) && crate::kernel::cached(workshop)?.is_none();
    let missing = missing(&workshop.tools, needs, kernel);
    let mut faults = faults(workshop, needs, &missing);
    let mut works: Vec<Work> = needs
        .iter()
        .filter_map(|need| match need {
            Need::Long(work) => Some(work.clone()),
            _ => None,
        })
        .collect();
    if kernel {
        works.insert(0, kernel_work());
    }
    let apt = Apt::new(&workshop.cache)?;
    let packages = packages(&missing);
    let install = (!missing.is_empty() && apt_get_is_there(&workshop.tools)).then(|| {
        let download = apt.estimate(&packages);
        Work {
            what: format!("{}: {}", if apt.is_system() { "install" } else { "unpack" }, names(&missing)),
            // Where the lists are not there yet: what a bare Debian takes, lists included.
            download: download.map_or(90 * MB, |d| d.bytes),
            keep: download.map_or(300 * MB, |d| d.bytes * 4),
            time: Duration::from_secs(if download.is_some() { 30 } else { 60 }),
        }
    });
    works.splice(0..0, install.clone());
    let room: u64 = works.iter().map(|work| work.keep).sum::<u64>()
        + if kernel { WHILE_BUILDING } else { 0 }
        + if works.is_empty() { 0 } else { SPARE };
    faults.extend(too_full(workshop.cache.root(), room));
    if works.iter().any(|work| work.time >= Duration::from_secs(10)) {
        tell(workshop, &works);
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\nxtask: "));
    }
    if install.is_some() {
        let step = workshop.report.step(format!("installing {}", names(&missing)), Duration::from_secs(30));
        apt.get(&packages, &workshop.cache, &workshop.report, &step)
            .with_context(|| format!("cannot install {}", packages.join(" ")))?;
        drop(step);
        workshop.tools = Tools::found(&workshop.cache);
        let still: Vec<_> = workshop.tools.missing(&missing);
        if !still.is_empty() {
            bail!("installed {}, and {} is still not found", packages.join(" "), names(&still));
        }
    }
    Ok(())
}

/// The plan, before the first long step.
fn tell(workshop: &Workshop, works: &[Work]) {
    let report = &workshop.report;
    report.say("once, before this can run:");
    for work in works {
        report.say(format!(
            "  {:<40} {:>8} to download, {:>8} kept, {}",
            work.what,
            size(work.download),
            size(work.keep),
            roughly(work.time)
        ));
    }
    report.say(format!(
        "all of it is kept in {}; Ctrl-C is safe, the next run goes on from there",
        workshop.cache.root().display()
    ));
}

fn missing(tools: &Tools, needs: &[Need], kernel: bool) -> Vec<&'static Tool> {
    let mut wanted: Vec<&'static Tool> = Vec::new();
    if kernel {
        wanted.extend(tools::FOR_THE_KERNEL);
    }
    if needs.contains(&Need::Images) {
        wanted.extend(tools::FOR_IMAGES);
    }
    if needs.contains(&Need::Qemu) {
        wanted.extend(tools::FOR_QEMU);
    }
    if needs.contains(&Need::Tests) {
        wanted.extend(tools::FOR_TESTS);
        if is_root() {
            wanted.extend(tools::FOR_TESTS_OF_ROOT);
        }
    }
    tools.missing(&wanted)
}

fn apt_get_is_there(tools: &Tools) -> bool {
    tools.find("apt-get").is_some() && tools.find("dpkg-deb").is_some()
}

/// Everything that stands in the way and that xtask cannot do anything about.
fn faults(workshop: &Workshop, needs: &[Need], missing: &[&'static Tool]) -> Vec<String> {
    let mut faults = Vec::new();
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        faults.push("Ferry runs on Linux on x86-64".to_owned());
    }
    if !missing.is_empty() && !apt_get_is_there(&workshop.tools) {
        faults.push(format!(
            "missing: {}; this is no Debian with apt-get, so install them with the system's own package manager",
            names(missing)
        ));
    }
    if needs.contains(&Need::Kvm) {
        faults.extend(kvm_fault());
    }
    faults
}

/// Why /dev/kvm does not open, and what to do about it; nothing when it opens.
pub fn kvm_fault() -> Option<String> {
    let error = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").err()?;
    Some(match error.kind() {
        ErrorKind::NotFound => {
            "there is no /dev/kvm: enable virtualisation in the firmware, load kvm_intel or kvm_amd, \
                                or run with --on qemu"
                .to_owned()
        }
        ErrorKind::PermissionDenied => {
            let user = user();
            format!(
                "no permission on /dev/kvm: as root, `usermod --append --groups kvm {user}`, then log in again; or run \
                 with --on qemu"
            )
        }
        _ => format!("/dev/kvm does not open: {error}; --on qemu runs without it"),
    })
}

/// The name of this user, as /etc/passwd has it.
fn user() -> String {
    // SAFETY: getuid has no preconditions and cannot fail.
    let uid = unsafe { libc::getuid() }.to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    name.unwrap_or(uid)
}

/// What to say where the cache's disk has less room than `wanted`.
fn too_full(cache: &Path, wanted: u64) -> Option<String> {
    let free = free(cache)?;
    (free < wanted).then(|| {
        format!(
            "{} has {} free and needs {}: make room, or set FERRY_CACHE to a directory elsewhere",
            cache.display(),
            size(free),
            size(wanted)
        )
    })
}

/// Bytes that this user may still write there.
fn free(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: statvfs is plain data, for which zero is a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte and `stat` is ours to write.
    let failed = unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0;
    (!failed).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn packages(missing: &[&'static Tool]) -> Vec<&'static str> {
    let mut packages: Vec<_> = missing.iter().flat_map(|tool| tool.packages.iter().copied()).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn names(tools: &[&'static Tool]) -> String {
    tools.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ")
}

/// Prints what is there and what is missing; true where nothing is missing.
pub fn doctor(workshop: &Workshop) -> bool {
    let mut well = true;
    let mut lacking = Vec::new();
    for (what, tools) in [
        ("guest kernel", tools::FOR_THE_KERNEL),
        ("images", tools::FOR_IMAGES),
        ("running without KVM", tools::FOR_QEMU),
        ("tests", tools::FOR_TESTS),
    ] {
        let wanted: Vec<&'static Tool> = tools.iter().collect();
        let missing = workshop.tools.missing(&wanted);
        match missing.is_empty() {
            true => println!("ok       {what}: {}", names(&wanted)),
            false => println!("missing  {what}: {}", names(&missing)),
        }
        lacking.extend(missing);
    }
    if !lacking.is_empty() {
        well = false;
        println!(
            "         as root: apt-get install --no-install-recommends {}",
            packages(&lacking).join(" ")
        );
        println!("         or nothing: `cargo xtask run` unpacks them into the cache where you are not root");
    }
    match kvm_fault() {
        None => println!("ok       /dev/kvm opens"),
        Some(fault) => println!("missing  {fault}"),
    }
    match crate::kernel::cached(workshop) {
        Ok(Some(kernel)) => println!("ok       guest kernel: {}", kernel.vmlinux.display()),
        Ok(None) => {
            println!("to do    guest kernel: `cargo xtask build kernel`, {}", roughly(kernel_work().time))
        }
        Err(error) => println!("missing  guest kernel: {error:#}"),
    }
    let cache = workshop.cache.root();
    println!("ok       cache: {} ({} free)", cache.display(), free(cache).map_or("?".to_owned(), size));
    well
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(too_full(dir.path(), 1), None);
        let said = too_full(dir.path(), u64::MAX).unwrap();
        assert!(said.contains("FERRY_CACHE"), "{said}");
    }

    #[test]
    fn packages_are_named_once_and_in_order() {
        let kernel: Vec<&'static Tool> = tools::FOR_THE_KERNEL.iter().chain(tools::FOR_THE_KERNEL).collect();
        let packages = packages(&kernel);
        assert!(packages.windows(2).all(|pair| pair[0] < pair[1]), "{packages:?}");
        assert!(packages.contains(&"libelf-dev"));
    }
}
