//! The kernel's source tree: Debian's package, unpacked as far as this kernel needs it, with our patches applied.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ferry_images::debian::{self, Package};

use crate::workshop::Workshop;

/// Reads and checks `source.toml`.
pub fn parse_pin(text: &str) -> Result<Package> {
    let pin: Package = toml::from_str(text).context("source.toml")?;
    pin.check().context("source.toml")?;
    Ok(pin)
}

/// Our patches in the order of their names.
pub fn patches(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut patches = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "patch") {
            patches.push(path);
        }
    }
    patches.sort();
    Ok(patches)
}

/// Parts of the tree that no file of this kernel is made from, nor reads. Only their Kconfig files and makefiles are
/// kept, which refer to each other across the whole tree. Two thirds of it.
const NOT_NEEDED: &[&str] = &[
    "Documentation/",
    "drivers/gpu/",
    "drivers/media/",
    "drivers/net/ethernet/",
    "drivers/net/wireless/",
    "drivers/infiniband/",
    "drivers/scsi/",
    "drivers/staging/",
    "drivers/usb/",
    "samples/",
    "sound/",
    "tools/perf/",
    "tools/testing/",
];

/// Whether a file of the tree, by its path inside it, is unpacked.
fn is_needed(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    if name.starts_with("Kconfig") || name.starts_with("Makefile") || name == "Kbuild" {
        return true;
    }
    if let Some(architecture) = path.strip_prefix("arch/") {
        return !architecture.contains('/') || architecture.starts_with("x86/");
    }
    !NOT_NEEDED.iter().any(|part| path.starts_with(part))
}

/// Unpacks the source out of its package into `tree` (fresh) and applies the patches. Returns the date of the source,
/// in seconds since 1970.
pub fn unpack(workshop: &Workshop, deb: &Path, patches: &[&Path], tree: &Path) -> Result<u64> {
    let _step = workshop.report.step("unpacking the kernel's source", Duration::from_secs(20));
    let released = unpack_tree(deb, tree).with_context(|| format!("cannot unpack {}", deb.display()))?;
    for patch in patches {
        apply(workshop, patch, tree)?;
    }
    Ok(released)
}

fn unpack_tree(deb: &Path, tree: &Path) -> Result<u64> {
    for entry in debian::data(deb)?.entries()? {
        let entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if !(path.contains("/usr/src/linux-source-") && path.ends_with(".tar.xz")) {
            continue;
        }
        let released = entry.header().mtime()?;
        let mut source = tar::Archive::new(liblzma::read::XzDecoder::new_multi_decoder(entry));
        for file in source.entries()? {
            let mut file = file?;
            let path = file.path()?.into_owned();
            // The first component is the tree's own name.
            let inside: PathBuf = path.components().skip(1).collect();
            let kept = inside.to_str().is_some_and(|path| !path.is_empty() && is_needed(path));
            if kept && !file.header().entry_type().is_dir() {
                let target = tree.join(&inside);
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent)?;
                }
                // `unpack` would follow "..", which no kernel tree has.
                if inside.components().any(|part| part == std::path::Component::ParentDir) {
                    bail!("{} leads out of the tree", path.display());
                }
                file.unpack(&target)?;
            }
        }
        return Ok(released);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "there is no linux-source tar in it").into())
}

fn apply(workshop: &Workshop, patch: &Path, tree: &Path) -> Result<()> {
    let mut command = workshop.tools.command("patch");
    // No fuzz: a patch that only nearly fits a new source is looked at by a person first.
    command.args(["--strip=1", "--forward", "--batch", "--fuzz=0", "--no-backup-if-mismatch"]);
    command.arg("--directory").arg(tree).arg("--input").arg(patch);
    let output = command.output().context("cannot start `patch`")?;
    if !output.status.success() {
        bail!("{} does not apply:\n{}", patch.display(), String::from_utf8_lossy(&output.stdout).trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = include_str!("../../../images/kernel/source.toml");

    #[test]
    fn the_pin_in_the_tree_names_a_package_by_version_and_digest() {
        let pin = parse_pin(PIN).unwrap();
        assert_eq!(pin.name, "linux-source-6.12");
        assert!(pin.filename.ends_with(&format!("_{}_all.deb", pin.version)));
        assert_eq!(pin.sha256.len(), 64);
    }

    #[test]
    fn a_pin_with_a_bad_digest_an_unknown_key_or_a_path_out_of_the_pool_is_refused() {
        assert!(parse_pin(&PIN.replace("sha256 = \"91", "sha256 = \"zz")).is_err());
        assert!(parse_pin(&format!("{PIN}\nmirror = \"somewhere\"")).is_err());
        assert!(parse_pin(&PIN.replace("pool/updates", "pool/../..")).is_err());
        assert!(parse_pin(&PIN.replace("version = \"6", "version = \"6;")).is_err());
    }

    #[test]
    fn only_what_an_x86_guest_kernel_is_made_from_is_unpacked() {
        for needed in [
            "Makefile",
            "arch/Kconfig",
            "arch/x86/kernel/setup.c",
            "drivers/gpu/drm/amd/Kconfig",
            "arch/um/scripts/Makefile.rules",
            "drivers/virtio/virtio_mmio.c",
            "Documentation/Kconfig",
            "scripts/Makefile.build",
            "tools/objtool/check.c",
        ] {
            assert!(is_needed(needed), "{needed}");
        }
        for not in ["arch/arm64/kernel/setup.c", "drivers/gpu/drm/amd/a.h", "Documentation/index.rst"] {
            assert!(!is_needed(not), "{not}");
        }
    }

    #[test]
    fn patches_are_applied_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0002-b.patch", "0001-a.patch", "README"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = patches(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["0001-a.patch", "0002-b.patch"]);
    }

    #[test]
    fn every_patch_says_its_licence_and_its_reason() {
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
        let directory = Path::new(&xtask).join("../images/kernel/patches");
        for patch in patches(&directory).unwrap() {
            let text = fs::read_to_string(&patch).unwrap();
            let head = text.split("\n---\n").next().unwrap();
            let (_, reason) = head
                .split_once("SPDX-License-Identifier: GPL-2.0\n")
                .unwrap_or_else(|| panic!("{}: no licence", patch.display()));
            // Two full lines at least.
            assert!(reason.trim().len() > 150, "{}: no reason given", patch.display());
        }
    }
}
