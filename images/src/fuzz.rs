//! What fuzzers drive: the ways of hostile bytes through tar, whiteouts and EROFS, with what must hold whatever comes. The
//! targets in `images/fuzz` call these with whatever libFuzzer thinks of; the tests below with a fixed sequence.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use tar::EntryType;

use crate::erofs::{read, write};
use crate::join;
use crate::layer::{self, Limits};

/// Small enough that a fuzzer gets on.
const LIMITS: Limits =
    Limits { archive: 1 << 24, entries: 1 << 12, file: 1 << 30, names: 1 << 22, memory: 1 << 24 };

/// What separates the layers of [`layers`].
const BETWEEN: &[u8] = b"--next layer--";

/// The archive with the checksums of its headers made right, so that what is behind them is reached.
fn sealed(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for header in archive.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}

/// The archive as a layer, if it is one.
fn converted(archive: &[u8]) -> Option<File> {
    let [file, scratch] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
    layer::convert(&sealed(archive)[..], &file, &scratch, &LIMITS).ok().map(|_| file)
}

/// Archives, joined as layers of one image: refused, or an image that can be read back.
pub fn layers(bytes: &[u8]) {
    let mut archives = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
        archives.push(&rest[..at]);
        rest = &rest[at + BETWEEN.len()..];
    }
    archives.push(rest);
    let layers: Vec<File> = archives.into_iter().take(4).filter_map(converted).collect();
    for layer in &layers {
        read::load(layer).expect("a layer that was converted can be read");
    }
    let [out, scratch] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
    if join::join(&layers, &out, &scratch).is_ok() {
        read::load(&out).expect("an image that was joined can be read");
    }
}

/// An EROFS image: refused, or one that can be written again.
pub fn erofs(bytes: &[u8]) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("a temporary file takes it");
    if let Ok(mut tree) = read::load(&file) {
        write::Plan::new(&mut tree, 1).expect("what was read can be written");
    }
}

/// What a target begins with: archives with everything that layers know, and the images they become. Nothing for a name
/// that is no target's.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let archives = archives().expect("memory takes an archive");
    match target {
        "layers" => {
            let joined = archives.join(BETWEEN);
            archives.into_iter().chain([joined]).collect()
        }
        "erofs" => {
            let layers: Vec<File> =
                archives.iter().map(|archive| converted(archive).expect("the seeds are layers")).collect();
            let [out, scratch] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
            join::join(&layers, &out, &scratch).expect("the seeds' layers can be joined");
            layers
                .into_iter()
                .chain([out])
                .map(|image| content(&image).expect("a temporary file is read"))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// A lower layer and an upper one.
fn archives() -> io::Result<[Vec<u8>; 2]> {
    let mut lower = tar::Builder::new(Vec::new());
    entry(&mut lower, EntryType::Directory, "d", "", b"")?;
    entry(&mut lower, EntryType::Regular, "d/f", "", &[7; 5000])?;
    entry(&mut lower, EntryType::Link, "d/g", "d/f", b"")?;
    entry(&mut lower, EntryType::Symlink, "l", "d", b"")?;
    entry(&mut lower, EntryType::Char, "null", "", b"")?;
    lower.append_pax_extensions([
        ("path", &b"d/p"[..]),
        ("SCHILY.xattr.user.a", b"b"),
        ("mtime", b"1.000000002"),
    ])?;
    entry(&mut lower, EntryType::Regular, "x", "", b"x")?;
    let mut upper = tar::Builder::new(Vec::new());
    entry(&mut upper, EntryType::Regular, "d/.wh.f", "", b"")?;
    entry(&mut upper, EntryType::Link, "h", "d/g", b"")?;
    entry(&mut upper, EntryType::Regular, "l/new", "", b"n")?;
    entry(&mut upper, EntryType::Regular, "d/.wh..wh..opq", "", b"")?;
    Ok([lower.into_inner()?, upper.into_inner()?])
}

fn entry(
    tar: &mut tar::Builder<Vec<u8>>,
    kind: EntryType,
    name: &str,
    link: &str,
    data: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_device_major(1)?;
    header.set_device_minor(3)?;
    if !link.is_empty() {
        header.set_link_name(link)?;
    }
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, name, data)
}

fn content(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutants of each seed.
    const ROUNDS: usize = 400;

    /// Xorshift: the same sequence everywhere.
    struct Sequence(u64);

    impl Sequence {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound.max(1) as u64) as usize
        }

        /// Changes bytes, doubles or drops pieces, cuts.
        fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
            let mut bytes = seed.to_vec();
            for _ in 0..=self.below(6) {
                let at = self.below(bytes.len());
                let length = self.below(bytes.len() - at).min(1024);
                match self.below(6) {
                    0 => bytes.truncate(at.max(1)),
                    1 => drop(bytes.drain(at..at + length)),
                    2 => {
                        let piece = bytes[at..at + length].to_vec();
                        bytes.splice(at..at, piece);
                    }
                    3 => bytes[at] = [0, 0xff, b'/', b'.', b'0', 0x80][self.below(6)],
                    _ => bytes[at] = self.below(256) as u8,
                }
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            bytes
        }
    }

    #[test]
    fn mutants_of_layers_are_joined_or_refused() {
        let mut sequence = Sequence(0x2545_f491_4f6c_dd1d);
        for seed in seeds("layers") {
            layers(&seed);
            (0..ROUNDS).for_each(|_| layers(&sequence.mutate(&seed)));
        }
    }

    #[test]
    fn mutants_of_images_are_read_or_refused() {
        let mut sequence = Sequence(0x9e37_79b9_7f4a_7c15);
        for image in seeds("erofs") {
            erofs(&image);
            (0..ROUNDS).for_each(|_| erofs(&sequence.mutate(&image)));
        }
    }
}
