//! The files of an image's source by name: those of a directory, or the members of a tar, which is read in place.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::compression::Compression;
use crate::store::Store;

/// Members of an archive, at most. An image of a thousand layers has a few thousand.
const MAX_MEMBERS: usize = 1 << 16;

/// Bytes of a long name or of extended headers, as layers have them at most.
const MAX_EXTENSION: u64 = 1 << 20;

/// Bytes of an archive when it is decompressed: room for any image, an end to a bomb.
const MAX_ARCHIVE: u64 = 256 << 30;

/// Links from one member to another that are followed.
const MAX_LINKS: u32 = 8;

const BLOCK: u64 = 512;

/// Where files are looked up.
#[derive(Debug)]
pub(super) enum Files {
    Directory(PathBuf),
    Archive { file: File, members: HashMap<String, Member> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// The name of another member.
    Link(String),
}

/// A part of a file, read without moving the file's position.
#[derive(Debug)]
pub(super) struct Section {
    file: File,
    offset: u64,
    left: u64,
}

impl Section {
    pub(super) fn size(&self) -> u64 {
        self.left
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.file.read_at(&mut buffer[..length], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Files {
    /// The files of an archive at `path`, or on standard input. One that is compressed, or cannot be read in place, is
    /// put into a temporary file of the store first.
    pub(super) fn open_archive(
        mut input: impl Read,
        seekable: Option<File>,
        store: &Store,
    ) -> Result<Self, Error> {
        let mut start = Vec::with_capacity(4);
        input.by_ref().take(4).read_to_end(&mut start).map_err(Error::archive)?;
        let compression = Compression::of(&start);
        let file = match seekable {
            Some(file) if compression == Compression::None => file,
            _ => {
                let mut file = store.temporary()?;
                let mut plain =
                    compression.decoder((&start[..]).chain(input)).map_err(Error::archive)?.take(MAX_ARCHIVE);
                spool(&mut plain, &mut file)?;
                file
            }
        };
        let members = index(&file)?;
        Ok(Self::Archive { file, members })
    }

    /// The file of that name; `None` if there is none. `path` is one that Ferry made, or was checked.
    pub(super) fn open(&self, path: &str) -> Result<Option<Section>, Error> {
        match self {
            Self::Directory(root) => {
                let path = root.join(path);
                let opened = match fs::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => File::open(&path),
                    Ok(_) => Err(io::Error::other("not a file")),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => Err(error),
                };
                let section = opened.and_then(|file| {
                    let left = file.metadata()?.len();
                    Ok(Section { file, offset: 0, left })
                });
                section.map(Some).map_err(|cause| Error::Read { what: path.display().to_string(), cause })
            }
            Self::Archive { file, members } => {
                let mut name = path.to_owned();
                for _ in 0..MAX_LINKS {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Member::Link(target)) => name = target.clone(),
                        Some(Member::File { offset, size }) => {
                            let file = file.try_clone().map_err(Error::archive)?;
                            return Ok(Some(Section { file, offset: *offset, left: *size }));
                        }
                    }
                }
                Err(Error::malformed(path, "its links lead in a circle"))
            }
        }
    }

    /// A whole small file.
    pub(super) fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(section) = self.open(path)? else { return Ok(None) };
        if section.size() > limit {
            return Err(Error::malformed(path, "it is too large to be what it should be"));
        }
        let mut bytes = Vec::new();
        let read = section.take(limit).read_to_end(&mut bytes);
        read.map_err(|cause| Error::Read { what: path.to_owned(), cause })?;
        Ok(Some(bytes))
    }
}

/// Copies, leaving holes where there are only zeros: a bomb of them costs no disk.
fn spool(from: &mut impl Read, to: &mut File) -> Result<(), Error> {
    let full = |cause| Error::Read { what: "temporary file for the archive".into(), cause };
    let mut buffer = vec![0; 1 << 18];
    let mut total = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::archive(error)),
        };
        total += read as u64;
        if total >= MAX_ARCHIVE {
            return Err(Error::malformed("the archive", "it is larger than 256 GiB"));
        }
        if buffer[..read].iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(read as i64)).map_err(full)?;
        } else {
            to.write_all(&buffer[..read]).map_err(full)?;
        }
    }
    to.set_len(total).map_err(full)
}

/// Finds the members of a tar by going from header to header. Of what makes no difference to an image's files, such as
/// owners and times, nothing is read.
fn index(file: &File) -> Result<HashMap<String, Member>, Error> {
    let length = file.metadata().map_err(Error::archive)?.len();
    let mut members = HashMap::new();
    let mut position = 0;
    let mut next = Overrides::default();
    let mut headers = 0;
    while position < length {
        let mut header = [0; BLOCK as usize];
        file.read_exact_at(&mut header, position).map_err(Error::archive)?;
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        headers += 1;
        if headers > MAX_MEMBERS {
            return Err(Error::malformed("the archive", "it has more members than an image can have"));
        }
        let declared =
            size_of(&header).ok_or_else(|| Error::malformed("the archive", "it is not a proper tar"))?;
        let kind = header[156];
        let extension = matches!(kind, b'x' | b'g' | b'L' | b'K');
        let size = if extension { declared } else { next.size.unwrap_or(declared) };
        let data = position + BLOCK;
        let end = data.checked_add(size).filter(|end| *end <= length);
        let end =
            end.ok_or_else(|| Error::malformed("the archive", "it is truncated: copy or save it again"))?;
        if extension {
            if size > MAX_EXTENSION {
                return Err(Error::malformed("the archive", "it has a header of more than 1 MiB"));
            }
            let mut text = vec![0; size as usize];
            file.read_exact_at(&mut text, data).map_err(Error::archive)?;
            match kind {
                b'x' => next.parse(&text),
                b'L' => next.path = Some(text_of(&text)),
                b'K' => next.link = Some(text_of(&text)),
                // Global headers say nothing that matters here.
                _ => {}
            }
        } else {
            let given = std::mem::take(&mut next);
            let name = normalised(&given.path.unwrap_or_else(|| name_of(&header)));
            let target = given.link.unwrap_or_else(|| text_of(&header[157..257]));
            let member = match kind {
                0 | b'0' | b'7' => Some(Member::File { offset: data, size }),
                b'1' => normalised(&target).map(Member::Link),
                b'2' => name.as_deref().and_then(|name| beside(name, &target)).map(Member::Link),
                _ => None,
            };
            // A name that leads out of the archive cannot be asked for.
            if let (Some(name), Some(member)) = (name, member) {
                members.insert(name, member);
            }
        }
        position = end.next_multiple_of(BLOCK);
    }
    // Not every writer ends its archive with empty blocks, but all fill the last one.
    match position <= length {
        true => Ok(members),
        false => Err(Error::malformed("the archive", "it is truncated: copy or save it again")),
    }
}

/// What extension headers say of the member after them.
#[derive(Debug, Default)]
struct Overrides {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl Overrides {
    /// `LENGTH KEY=VALUE\n` records; what is not one ends them.
    fn parse(&mut self, mut text: &[u8]) {
        while let Some(space) = text.iter().position(|byte| *byte == b' ') {
            let length =
                std::str::from_utf8(&text[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
            let Some(length) = length.filter(|length| *length > space + 1 && *length <= text.len()) else {
                return;
            };
            let record = String::from_utf8_lossy(&text[space + 1..length - 1]);
            match record.split_once('=') {
                Some(("path", value)) => self.path = Some(value.to_owned()),
                Some(("linkpath", value)) => self.link = Some(value.to_owned()),
                Some(("size", value)) => self.size = value.parse().ok(),
                _ => {}
            }
            text = &text[length..];
        }
    }
}

/// Up to the first NUL.
fn text_of(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn name_of(header: &[u8; BLOCK as usize]) -> String {
    let name = text_of(&header[..100]);
    match &header[257..263] == b"ustar\0" && header[345] != 0 {
        true => format!("{}/{name}", text_of(&header[345..500])),
        false => name,
    }
}

/// The size field of a header whose checksum is right: octal, or big-endian binary after a set first bit.
fn size_of(header: &[u8; BLOCK as usize]) -> Option<u64> {
    let octal = |field: &[u8]| {
        let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
        if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
    };
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte }))
        .sum();
    if octal(&header[148..156])? != sum {
        return None;
    }
    let field = &header[124..136];
    match field[0] {
        0x80 => field[4..]
            .iter()
            .try_fold(0_u64, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte))),
        first if first > 0x80 => None,
        _ => octal(field),
    }
}

/// Without `.` and needless slashes; `None` for nothing, and for what leads out.
pub(super) fn normalised(path: &str) -> Option<String> {
    beside("", path)
}

/// `target` as seen from the directory of the member `name`; `None` if it leads out.
fn beside(name: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = match target.starts_with('/') {
        true => Vec::new(),
        false => name.split('/').collect(),
    };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// An archive's file, as a reader from its start and to seek in.
pub(super) fn open_file(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|cause| Error::Read { what: path.display().to_string(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::{Builder, EntryType, Header};

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        (dir, store)
    }

    fn open(tar: &[u8]) -> Result<Files, Error> {
        let (_dir, store) = store();
        Files::open_archive(tar, None, &store)
    }

    fn add(tar: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, content: &[u8]) {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }

    fn sample() -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, EntryType::Directory, "a/", "", b"");
        add(&mut tar, EntryType::Regular, "./a/layer.tar", "", b"content");
        add(&mut tar, EntryType::Symlink, "b/layer.tar", "../a/layer.tar", b"");
        add(&mut tar, EntryType::Link, "c", "b/layer.tar", b"");
        add(&mut tar, EntryType::Symlink, "out", "../../etc/passwd", b"");
        add(&mut tar, EntryType::Symlink, "one", "two", b"");
        add(&mut tar, EntryType::Symlink, "two", "one", b"");
        add(&mut tar, EntryType::Regular, "../escaped", "", b"e");
        let mut header = Header::new_gnu();
        header.set_size(4);
        tar.append_data(&mut header, "long/".repeat(40) + "name", &b"long"[..]).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn finds_members_through_links_but_not_outside() {
        let files = open(&sample()).unwrap();
        for name in ["a/layer.tar", "b/layer.tar", "c"] {
            assert_eq!(files.read(name, 100).unwrap().unwrap(), b"content", "{name}");
        }
        assert_eq!(files.read(&("long/".repeat(40) + "name"), 100).unwrap().unwrap(), b"long");
        for name in ["a", "out", "escaped", "../escaped", "missing"] {
            assert!(files.read(name, 100).unwrap().is_none(), "{name}");
        }
        assert!(files.read("one", 100).is_err());
        assert!(files.read("c", 3).unwrap_err().to_string().contains("too large"));
    }

    #[test]
    fn reads_every_compression_of_the_archive() {
        let tar = sample();
        let mut gzip = Vec::new();
        flate2::read::GzEncoder::new(&tar[..], flate2::Compression::fast()).read_to_end(&mut gzip).unwrap();
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(&tar[..], 1).read_to_end(&mut xz).unwrap();
        for archive in [gzip, xz, zstd::encode_all(&tar[..], 1).unwrap()] {
            assert_eq!(open(&archive).unwrap().read("c", 100).unwrap().unwrap(), b"content");
        }
    }

    #[test]
    fn a_truncated_archive_is_an_error() {
        let tar = sample();
        for length in [100, 513, 1400] {
            assert!(open(&tar[..length]).is_err(), "{length}");
        }
        let mut gzip = Vec::new();
        flate2::read::GzEncoder::new(&tar[..], flate2::Compression::fast()).read_to_end(&mut gzip).unwrap();
        assert!(open(&gzip[..gzip.len() / 2]).is_err());
    }

    #[test]
    fn a_size_beyond_the_end_is_an_error() {
        let mut tar = sample();
        // An 11-digit octal size of 8 GiB less one, under a right checksum.
        let mut header = Header::new_ustar();
        header.as_mut_bytes().copy_from_slice(&tar[512..1024]);
        header.set_size(0o77_777_777_777);
        header.set_cksum();
        tar[512..1024].copy_from_slice(header.as_bytes());
        assert!(open(&tar).unwrap_err().to_string().contains("truncated"));
    }

    #[test]
    fn an_extended_size_counts() {
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, EntryType::XHeader, "x", "", b"9 size=3\n14 path=other\n");
        add(&mut tar, EntryType::Regular, "name", "", b"abc");
        let files = open(&tar.into_inner().unwrap()).unwrap();
        assert_eq!(files.read("other", 9).unwrap().unwrap(), b"abc");
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(garbage in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000)) {
            let _ = open(&garbage);
            let mut tar = sample();
            for (at, byte) in garbage.iter().enumerate() {
                let at = at * 37 % tar.len();
                tar[at] = *byte;
            }
            let _ = open(&tar);
        }
    }
}
