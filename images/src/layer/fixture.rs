//! For tests: archives made by hand, and trees told as text to be compared.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Error, Layer, Limits, convert};
use crate::erofs::format::{BLOCK, HOLE};
use crate::erofs::tree::*;

/// An archive being written.
#[derive(Default, Clone)]
pub(crate) struct Tar(pub Vec<u8>);

/// The fields of a header that tests change.
pub(crate) struct Header {
    pub block: [u8; 512],
}

impl Header {
    pub fn new(kind: u8, name: &[u8], size: u64) -> Header {
        let mut header = Header { block: [0; 512] };
        header.block[..name.len()].copy_from_slice(name);
        header.octal(100, 8, 0o644).octal(108, 8, 0).octal(116, 8, 0).octal(124, 12, size).octal(136, 12, 0);
        header.block[156] = kind;
        header.block[257..265].copy_from_slice(b"ustar\x0000");
        header
    }

    pub fn octal(&mut self, at: usize, width: usize, value: u64) -> &mut Header {
        let digits = format!("{value:0width$o}\0", width = width - 1);
        self.put(at, digits.as_bytes())
    }

    pub fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Header {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn sealed(&self) -> [u8; 512] {
        let mut block = self.block;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    pub fn raw(mut self, header: &Header, data: &[u8]) -> Tar {
        self.0.extend_from_slice(&header.sealed());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn link(self, kind: u8, name: &str, target: &str) -> Tar {
        self.raw(Header::new(kind, name.as_bytes(), 0).put(157, target.as_bytes()), b"")
    }

    pub fn file(self, name: &str, data: &[u8]) -> Tar {
        self.raw(&Header::new(b'0', name.as_bytes(), data.len() as u64), data)
    }

    pub fn directory(self, name: &str) -> Tar {
        self.raw(Header::new(b'5', name.as_bytes(), 0).octal(100, 8, 0o755), b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.link(b'2', name, target)
    }

    pub fn hard_link(self, name: &str, target: &str) -> Tar {
        self.link(b'1', name, target)
    }

    /// An extended header: of the next entry (`x`) or of all further ones (`g`).
    pub fn pax(self, kind: u8, records: &[(&str, &[u8])]) -> Tar {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length = length.to_string().len() + rest;
            }
            text.extend_from_slice(format!("{length} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.raw(&Header::new(kind, b"pax", text.len() as u64), &text)
    }

    /// The archive, properly ended.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// The archive as a layer, and the file it is in.
pub(crate) fn converted(archive: &[u8]) -> Result<(File, Layer), Error> {
    let file = tempfile::tempfile().unwrap();
    let layer = convert(archive, &file, &tempfile::tempfile().unwrap(), &Limits::default())?;
    assert_eq!(file.metadata().unwrap().len(), layer.bytes);
    assert_eq!(layer.bytes % 4096, 0);
    Ok((file, layer))
}

/// The bytes of a regular file; `disks[0]` is the image itself, the rest its devices.
pub(crate) fn read_file(disks: &[&File], tree: &Tree, node: &Node) -> Vec<u8> {
    let Content::File { size, data } = node.content else { panic!("no file") };
    let mut bytes = vec![0; size as usize];
    match data {
        Data::Plain { device, block } => {
            disks[usize::from(device)].read_exact_at(&mut bytes, u64::from(block) * BLOCK as u64).unwrap();
        }
        Data::Chunks(chunks) => {
            let chunks = tree.chunks(chunks);
            for (piece, block) in bytes.chunks_mut(BLOCK << chunks.bits).zip(&chunks.blocks) {
                if *block != HOLE {
                    disks[usize::from(chunks.device)]
                        .read_exact_at(piece, u64::from(*block) * BLOCK as u64)
                        .unwrap();
                }
            }
        }
    }
    bytes
}

/// The tree by paths: attributes and contents as text, hard links as the first of their names.
pub(crate) fn told(disks: &[&File], tree: &Tree) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let mut names: HashMap<NodeId, String> = HashMap::new();
    let mut ways = vec![(String::new(), Tree::ROOT)];
    let mut seen = 0;
    while let Some((path, id)) = ways.pop() {
        seen += 1;
        assert!(seen < 100_000);
        let node = tree.node(id);
        let Attributes { uid, gid, mtime, xattrs, .. } = node.attributes;
        let mut text = format!("{:o} {uid}:{gid} {}.{:09}", node.mode(), mtime.0, mtime.1);
        for xattr in tree.xattrs(xattrs) {
            text += &format!(" {}={}", xattr.name().escape_ascii(), xattr.value().escape_ascii());
        }
        match node.content {
            Content::Directory(_) => {
                let mut below: Vec<_> = tree.entries(id).collect();
                // Backwards onto the stack, so that paths come in order.
                below.sort_by(|one, other| other.cmp(one));
                ways.extend(below.iter().map(|(name, id)| (format!("{path}/{}", name.escape_ascii()), *id)));
            }
            Content::File { .. } => {
                let bytes = read_file(disks, tree, &node);
                let start = bytes[..bytes.len().min(40)].escape_ascii();
                text += &format!(" {} bytes {:x} {start}", bytes.len(), xxhash_rust::xxh3::xxh3_64(&bytes));
            }
            Content::Symlink(target) => text += &format!(" -> {}", tree.text(target).escape_ascii()),
            Content::Character(device) | Content::Block(device) => text += &format!(" device {device:#x}"),
            Content::Fifo | Content::Socket => {}
        }
        if !node.is_directory() {
            let first = names.entry(id).or_insert_with(|| path.clone());
            if *first != path {
                text = format!("= {first}");
            }
        }
        told.insert(if path.is_empty() { "/".to_owned() } else { path }, text);
    }
    told
}
