//! What kind of image a path holds, told by looking.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::compression::Compression;

/// A kind of image at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A directory with `oci-layout` and `index.json`.
    OciLayout,
    /// A directory with `manifest.json` and `version`, blobs beside it.
    Dir,
    /// A tar, perhaps compressed. Which kind of image it holds, if any, is seen when it is read.
    Archive,
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
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut start = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut start)?;
    let tar = start.len() == 512 && &start[257..262] == b"ustar";
    Ok((tar || Compression::of(&start) != Compression::None).then_some(Found::Archive))
}
