//! What fuzzers drive: the ways of hostile bytes through tar, whiteouts and EROFS, with what must hold whatever comes. The
//! targets in `images/fuzz` call these with whatever libFuzzer thinks of; the tests below with a fixed sequence.

use std::fs::File;
use std::io::Write;

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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::layer::fixture::Tar;

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

    fn archives() -> Vec<Vec<u8>> {
        let lower = Tar::new()
            .directory("d")
            .file("d/f", &[7; 5000])
            .hard_link("d/g", "d/f")
            .symlink("l", "d")
            .pax(b'x', &[("path", b"d/p"), ("SCHILY.xattr.user.a", b"b")])
            .file("x", b"x");
        let upper = Tar::new()
            .file("d/.wh.f", b"")
            .hard_link("h", "d/g")
            .file("l/new", b"n")
            .file("d/.wh..wh..opq", b"");
        let joined = [lower.clone().end(), BETWEEN.to_vec(), upper.clone().end()].concat();
        vec![lower.end(), upper.end(), joined]
    }

    #[test]
    fn mutants_of_layers_are_joined_or_refused() {
        let mut sequence = Sequence(0x2545_f491_4f6c_dd1d);
        for seed in archives() {
            layers(&seed);
            (0..ROUNDS).for_each(|_| layers(&sequence.mutate(&seed)));
        }
    }

    #[test]
    fn mutants_of_images_are_read_or_refused() {
        let mut sequence = Sequence(0x9e37_79b9_7f4a_7c15);
        for seed in archives().into_iter().take(2) {
            let file = converted(&seed).expect("the seed is a layer");
            let mut image = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut image, 0).unwrap();
            erofs(&image);
            (0..ROUNDS).for_each(|_| erofs(&sequence.mutate(&image)));
        }
    }
}
