//! Where things are on an appliance disk, and how they are found: the one place that says so.
//!
//! The disk has a GUID partition table (UEFI 2.10, section 5.3) of 512-byte sectors. Every partition begins at a multiple
//! of 1 MiB and is found by its name alone, never by its number, so that others may come before and between:
//!
//! | name | what is in it |
//! | --- | --- |
//! | `ferry-spec` | an EROFS image with what PID 1 is to run; a disk that has it is an appliance |
//! | `image-…` | an image's metadata: the EROFS image that joins its layers, whose device table names them in order |
//! | `layer-…` | one layer, an EROFS image; shared by all images of the disk that have it |
//! | `ferry-state` | an ext4 filesystem with a journal: what outlives a reboot; the last one, and the only one written to |
//!
//! Where an image or a layer has a hash tree for dm-verity, it is behind it in the same partition, with `veritysetup`'s
//! superblock in front.
//!
//! The names of images and layers end in the first 96 bits of what they are known by (the digest of the list of layers, the
//! diff-ID), so that a name stands for the same bytes on every disk and in every version of an appliance.
//!
//! What the firmware adds has its place: its EFI system partition goes first, before `ferry-spec`. An appliance with two
//! slots has two spec partitions, `ferry-spec-a` and `ferry-spec-b`, each with the kernel it is booted by; layers of the
//! second slot that the first has too are not there twice, and those that it has not follow the first one's. State stays
//! last, so that it alone changes its place or size when a disk is made larger.

use std::collections::BTreeSet;

use crate::digest::{DiffId, Digest};

/// Bytes that every partition's beginning is a multiple of.
pub const ALIGNMENT: u64 = 1 << 20;

/// The name of the partition with the appliance's description.
pub const SPEC: &str = "ferry-spec";

/// The name of the partition that is written to.
pub const STATE: &str = "ferry-state";

/// Hex digits of a digest in a name: with what stands before them they fit the 36 characters of a table's entry.
const DIGITS: usize = 24;

/// What partitions of layers, and of the lists of them that images are, have in common.
pub(super) fn each_once<T: Ord + Copy>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    all.into_iter().filter(|one| seen.insert(*one)).collect()
}

/// The name of a layer's partition.
pub fn layer_name(layer: &DiffId) -> String {
    named("layer", &layer.0)
}

/// The name of the partition that joins these layers, lowest first.
pub fn image_name(layers: &[DiffId]) -> String {
    named("image", &image_digest(layers))
}

/// What a list of layers is known by.
pub(super) fn image_digest(layers: &[DiffId]) -> Digest {
    let list: String = layers.iter().map(|layer| format!("{layer}\n")).collect();
    Digest::of(list.as_bytes())
}

fn named(kind: &str, digest: &Digest) -> String {
    format!("{kind}-{}", digest.hex().get(..DIGITS).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_table_and_differ_by_content_and_kind() {
        let layer = |text: &str| DiffId(Digest::of(text.as_bytes()));
        let names = [
            layer_name(&layer("one")),
            layer_name(&layer("two")),
            image_name(&[layer("one")]),
            image_name(&[layer("one"), layer("two")]),
            image_name(&[layer("two"), layer("one")]),
            image_name(&[]),
        ];
        assert!(names.iter().all(|name| name.len() <= 36), "{names:?}");
        assert_eq!(each_once(&names).len(), names.len());
    }
}
