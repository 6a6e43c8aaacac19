//! What is in an image, for the host: its files as a container of it sees them, read out of the files of its disk.
//!
//! Whoever made the image is not trusted: of a file no more is read than its reader asked for, and symbolic links lead
//! nowhere but into the image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Segment;
use crate::erofs::format::{BLOCK, HOLE};
use crate::erofs::read;
use crate::erofs::tree::{Content, Data, Node, NodeId, Tree};

/// How many symbolic links a path may lead through, as for Linux.
const MOST_LINKS: usize = 40;

/// What is copied at once, in bytes.
const PIECE: usize = 1 << 20;

/// The tree of an image, and where its data are.
#[derive(Debug)]
pub struct Contents {
    tree: Tree,
    /// The files that the tree's data are in, by device.
    devices: Vec<File>,
}

/// A part of a file that is somewhere.
struct Part {
    /// Where it begins in the file.
    at: u64,
    length: u64,
    /// Where it begins on the device.
    from: u64,
}

impl Contents {
    /// Opens an image by the files of its disk.
    pub fn open(segments: &[Segment]) -> io::Result<Self> {
        let open = |segment: &Segment| {
            let path = &segment.path;
            File::open(path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let devices = segments.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let joined = devices.first().ok_or(io::ErrorKind::NotFound)?;
        let tree = read::load(joined).map_err(io::Error::other)?;
        Ok(Self { tree, devices })
    }

    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What a path leads to, as for a process whose root the image is; nothing if it leads nowhere.
    pub fn find(&self, path: &[u8]) -> Option<NodeId> {
        // The way from the root, and what is left to walk, the next name last.
        let (mut way, mut left) = (vec![Tree::ROOT], Vec::new());
        let names = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|byte| *byte == b'/')
                .rev()
                .filter(|name| !name.is_empty())
                .map(<[u8]>::to_vec)
                .collect()
        };
        left.extend(names(path));
        let mut links = 0;
        while let Some(name) = left.pop() {
            match &name[..] {
                b"." => continue,
                b".." => {
                    way.truncate(way.len().max(2) - 1);
                    continue;
                }
                _ => {}
            }
            let id = self.tree.child(*way.last()?, &name)?;
            let Content::Symlink(target) = self.tree.node(id).content else {
                way.push(id);
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                return None;
            }
            let target = self.tree.text(target);
            if target.starts_with(b"/") {
                way.truncate(1);
            }
            left.extend(names(&target));
        }
        way.pop()
    }

    /// What a regular file holds, if that is at most so many bytes; of anything else nothing.
    pub fn read(&self, node: &Node, most: u64) -> io::Result<Vec<u8>> {
        let Content::File { size, data } = node.content else { return Ok(Vec::new()) };
        if size > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {most} bytes")));
        }
        let mut bytes = vec![0; size as usize];
        let device = self.device(data)?;
        for Part { at, length, from } in self.parts(size, data) {
            device.read_exact_at(&mut bytes[at as usize..][..length as usize], from)?;
        }
        Ok(bytes)
    }

    /// Makes `out`, a regular file that is empty, hold what a regular file of the image holds, its holes included.
    pub fn copy(&self, node: &Node, out: &File) -> io::Result<()> {
        let Content::File { size, data } = node.content else { return Ok(()) };
        out.set_len(size)?;
        let device = self.device(data)?;
        let mut piece = Vec::new();
        for Part { at, length, from } in self.parts(size, data) {
            let mut done = 0;
            while done < length {
                piece.resize((length - done).min(PIECE as u64) as usize, 0);
                device.read_exact_at(&mut piece, from + done)?;
                out.write_all_at(&piece, at + done)?;
                done += piece.len() as u64;
            }
        }
        Ok(())
    }

    fn device(&self, data: Data) -> io::Result<&File> {
        let number = match data {
            Data::Plain { device, .. } => device,
            Data::Chunks(id) => self.tree.chunks(id).device,
        };
        let device = self.devices.get(usize::from(number));
        device.ok_or_else(|| io::Error::other("its data are on no device of the image"))
    }

    /// What of a file of this size is not in a hole.
    fn parts(&self, size: u64, data: Data) -> impl Iterator<Item = Part> {
        let (chunk, blocks) = match data {
            Data::Plain { block, .. } => (size, vec![block]),
            Data::Chunks(id) => {
                let chunks = self.tree.chunks(id);
                ((BLOCK as u64) << chunks.bits, chunks.blocks.clone())
            }
        };
        let parts = (0u64..).zip(blocks).map(move |(number, block)| {
            let at = number.saturating_mul(chunk).min(size);
            let from = u64::from(block) * BLOCK as u64;
            (block != HOLE).then_some(Part { at, length: chunk.min(size - at), from })
        });
        parts.flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::reference::{Grammar, Reference};
    use crate::registry::Registries;
    use crate::source::{Access, Keep, Pull, resolve};
    use crate::store::Store;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn contents(root: &Path, place: &Path) -> Contents {
        let store = Store::open(place).unwrap();
        let reference = Reference::parse(&format!("dir:{}", root.display()), Grammar::Registry).unwrap();
        let registries = Registries::new(Default::default());
        let access = Access { registries: &registries, pull: Pull::Missing, keep: Keep::Converted };
        let image = resolve(&store, &reference, &access, &() as &dyn Progress).unwrap();
        Contents::open(&image.disk(&store).unwrap().segments).unwrap()
    }

    #[test]
    fn files_are_found_through_links_that_stay_in_the_image_and_read_with_their_holes() {
        let here = tempfile::tempdir().unwrap();
        let root = here.path().join("root");
        fs::create_dir_all(root.join("usr/lib/deep")).unwrap();
        fs::write(root.join("usr/lib/deep/file"), "text").unwrap();
        fs::write(root.join("secret"), "inside").unwrap();
        fs::write(here.path().join("secret"), "outside").unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink("/lib/deep/../deep/file", root.join("usr/far")).unwrap();
        symlink("../../../secret", root.join("usr/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let sparse = File::create(root.join("sparse")).unwrap();
        sparse.set_len(5 << 20).unwrap();
        sparse.write_all_at(b"middle", 2 << 20).unwrap();
        sparse.write_all_at(b"end", (5 << 20) - 3).unwrap();
        let contents = contents(&root, &here.path().join("store"));
        let read = |path: &str| {
            let node = contents.tree().node(contents.find(path.as_bytes())?);
            contents.read(&node, 100).ok().map(|bytes| String::from_utf8(bytes).unwrap())
        };
        for (path, text) in [
            ("/usr/lib/deep/file", Some("text")),
            ("lib/./deep//file", Some("text")),
            ("/usr/far", Some("text")),
            ("/usr/up", Some("inside")),
            ("/../../secret", Some("inside")),
            ("/loop", None),
            ("/usr/lib/deep/file/more", None),
            ("/nothing", None),
            ("/sparse", None),
        ] {
            assert_eq!(read(path).as_deref(), text, "{path}");
        }
        assert_eq!(contents.find(b""), Some(Tree::ROOT));
        let out = tempfile::tempfile().unwrap();
        let node = contents.tree().node(contents.find(b"/sparse").unwrap());
        contents.copy(&node, &out).unwrap();
        let mut whole = vec![0; 5 << 20];
        assert_eq!(out.metadata().unwrap().len(), whole.len() as u64);
        out.read_exact_at(&mut whole, 0).unwrap();
        assert!(
            whole == contents.read(&node, u64::MAX).unwrap()
                && whole == fs::read(root.join("sparse")).unwrap()
        );
    }
}
