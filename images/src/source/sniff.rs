//! What kind of image a path holds, told by looking.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// A kind of image at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A directory with `oci-layout` and `index.json`.
    OciLayout,
    /// A directory with `manifest.json` and `version`, blobs beside it.
    Dir,
    /// A tar of an OCI layout.
    OciArchive,
    /// A tar with `manifest.json`.
    DockerArchive,
}

/// `None` if something is there but no image.
pub fn sniff(path: &Path) -> io::Result<Option<Found>> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        let has = |name: &str| path.join(name).is_file();
        return Ok(match () {
            () if has("oci-layout") && has("index.json") => Some(Found::OciLayout),
            () if has("manifest.json") && has("version") => Some(Found::Dir),
            () => None,
        });
    }
    let mut start = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut start)?;
    Ok((start.len() == 512 && &start[257..262] == b"ustar").then_some(Found::DockerArchive))
}
