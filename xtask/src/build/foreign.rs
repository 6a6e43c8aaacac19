//! Programs that the tests and benchmarks compare with, from the Debian release that the recipes use, whichever the host
//! has: an image like any other, unpacked, and run through its own dynamic linker with its own libraries.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::recipe;
use crate::run::recipe_needs;
use crate::setup::Need;
use crate::workshop::Workshop;

const RECIPE: &str = "foreign";

/// Where the programs are in the image.
const PROGRAMS: [&str; 4] =
    ["usr/bin/fsck.erofs", "usr/bin/mkfs.erofs", "usr/bin/mksquashfs", "usr/sbin/veritysetup"];

/// The directory with a script for each of them; no Debian system has one of that name.
const SCRIPTS: &str = "ferry-scripts";

/// The unpacked programs.
#[derive(Clone, Debug)]
pub struct Foreign {
    root: PathBuf,
}

impl Foreign {
    /// What unpacking them takes.
    pub fn needs(workshop: &Workshop) -> Result<Vec<Need>> {
        let mut needs = vec![Need::Images];
        needs.extend(recipe_needs(workshop, &recipes(workshop), RECIPE)?);
        Ok(needs)
    }

    /// The programs, unpacked unless they were before.
    pub fn build(workshop: &Workshop) -> Result<Foreign> {
        let layout = recipe::build(workshop, &recipes(workshop), RECIPE)?;
        let key = layout.parent().and_then(Path::file_name).context("the image's entry in the cache")?;
        let root = workshop.cache.get_or_make("foreign", &key.to_string_lossy(), |root| {
            for layer in layers(&layout)? {
                let mut archive = tar::Archive::new(File::open(&layer)?);
                archive.set_preserve_mtime(false);
                archive.unpack(root).with_context(|| format!("cannot unpack {}", layer.display()))?;
            }
            write_scripts(root)
        })?;
        Ok(Foreign { root })
    }

    /// Where they are: one script for each.
    pub fn directory(&self) -> PathBuf {
        self.root.join(SCRIPTS)
    }

    /// One of them.
    pub fn command(&self, program: &str) -> Command {
        Command::new(self.directory().join(program))
    }
}

/// A script for each program, which finds it and its libraries from where it is itself.
fn write_scripts(root: &Path) -> Result<()> {
    let directory = root.join(SCRIPTS);
    fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for program in PROGRAMS {
        let name = Path::new(program).file_name().context("a program's name")?;
        let text = format!(
            "#!/bin/sh\nroot=${{0%/*}}/..\nlibraries=$root/usr/lib/x86_64-linux-gnu\n\
             exec \"$libraries/ld-linux-x86-64.so.2\" --library-path \"$libraries\" \"$root/{program}\" \"$@\"\n"
        );
        let script = directory.join(name);
        fs::write(&script, text)?;
        fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn recipes(workshop: &Workshop) -> PathBuf {
    workshop.checkout.join("xtask/tests/recipes")
}

/// The layers' files of the one image in a layout, the lowest first.
pub fn layers(layout: &Path) -> Result<Vec<PathBuf>> {
    let blob = |digest: &Value| -> Result<PathBuf> {
        let hex = digest.as_str().and_then(|text| text.strip_prefix("sha256:")).context("a digest")?;
        Ok(layout.join("blobs/sha256").join(hex))
    };
    let parse = |path: &Path| -> Result<Value> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    };
    let index = parse(&layout.join("index.json"))?;
    let manifest = parse(&blob(&index["manifests"][0]["digest"])?)?;
    let layers = manifest["layers"].as_array().context("a manifest's layers")?;
    layers.iter().map(|layer| blob(&layer["digest"])).collect()
}
