//! Debian binary packages, read as deb(5) describes them: an `ar` archive whose `data.tar.*` member is the files.
//! Nothing of `control.tar` is run or kept.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tar::EntryType;

use super::Error;
use crate::compression::Compression;

/// A reader of the package's uncompressed `data.tar`.
pub fn data(deb: &Path) -> Result<tar::Archive<Box<dyn Read>>, Error> {
    let broken = |cause: io::Error| Error::Package { path: deb.to_owned(), cause };
    open_data(File::open(deb).map_err(broken)?).map(tar::Archive::new).map_err(broken)
}

fn open_data(file: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let invalid = |message: &str| io::Error::new(io::ErrorKind::InvalidData, message.to_owned());
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut magic = [0; 8];
    reader.read_exact(&mut magic)?;
    if &magic != b"!<arch>\n" {
        return Err(invalid("not a Debian package"));
    }
    // Three members are usual (debian-binary, control, data); the bound is against files that never come to data.
    for _ in 0..16 {
        let mut header = [0; 60];
        reader.read_exact(&mut header)?;
        let field = |range: std::ops::Range<usize>| {
            std::str::from_utf8(&header[range]).map(str::trim_end).unwrap_or("")
        };
        let (name, size) = (field(0..16).trim_end_matches('/'), field(48..58).parse::<u64>());
        let (b"`\n", Ok(size)) = (&header[58..60], size) else {
            return Err(invalid("damaged ar header"));
        };
        if let Some(compression) = name.strip_prefix("data.tar") {
            let compression = match compression {
                "" => Compression::None,
                ".xz" => Compression::Xz,
                ".gz" => Compression::Gzip,
                ".zst" => Compression::Zstd,
                other => return Err(invalid(&format!("data.tar{other} is compressed in an unknown way"))),
            };
            return compression.decoder(reader.take(size));
        }
        // Members start at even offsets.
        let padded = size + size % 2;
        if io::copy(&mut (&mut reader).take(padded), &mut io::sink())? != padded {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Err(invalid("no data.tar in it"))
}

/// Unpacks the package's files below `dest`, as the calling user's: owners, device nodes and setuid bits are not
/// recreated, and everything stays writable by its owner. Nothing is written outside `dest`.
pub fn unpack(deb: &Path, dest: &Path) -> Result<(), Error> {
    let broken = |cause: io::Error| Error::Package { path: deb.to_owned(), cause };
    fs::create_dir_all(dest).map_err(broken)?;
    let mut archive = data(deb)?;
    // Modes of directories last: a read-only one would refuse its own content.
    let mut directories: Vec<(PathBuf, u32)> = Vec::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let mode = entry.header().mode().map_err(broken)? & 0o777 | 0o200;
        match entry.header().entry_type() {
            EntryType::Directory => {
                let path = entry.path().map_err(broken)?.into_owned();
                entry.set_preserve_mtime(false);
                if entry.unpack_in(dest).map_err(broken)? {
                    let path = dest.join(path.strip_prefix("/").unwrap_or(&path));
                    fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(broken)?;
                    directories.push((path, mode | 0o700));
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::Symlink | EntryType::Link => {
                entry.set_mask(0o7000);
                entry.unpack_in(dest).map_err(broken)?;
            }
            _ => {}
        }
    }
    for (path, mode) in directories.into_iter().rev() {
        // A later entry may have replaced it; only what is still a directory is touched.
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(broken)?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A package around the given `data.tar`.
    pub(crate) fn deb_of(member: &str, data: &[u8]) -> Vec<u8> {
        let mut deb = b"!<arch>\n".to_vec();
        for (name, bytes) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", b"odd"), (member, data)] {
            deb.extend_from_slice(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, bytes.len()).as_bytes(),
            );
            deb.extend_from_slice(bytes);
            deb.resize(deb.len().next_multiple_of(2), b'\n');
        }
        deb
    }

    fn sample_tar() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |kind, path: &str, mode, link: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(content.len() as u64);
            // Raw names: the builder would refuse the hostile ones.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            tar.append(&header, content).unwrap();
        };
        add(EntryType::Directory, "./usr/", 0o555, "", b"");
        add(EntryType::Regular, "./usr/tool", 0o4555, "", b"#!/bin/sh\n");
        add(EntryType::Symlink, "./usr/link", 0o777, "tool", b"");
        add(EntryType::Link, "./usr/hard", 0o755, "./usr/tool", b"");
        add(EntryType::Char, "./null", 0o666, "", b"");
        add(EntryType::Regular, "../escaped", 0o644, "", b"no");
        tar.into_inner().unwrap()
    }

    fn unpacked(deb: &[u8]) -> (tempfile::TempDir, Result<(), Error>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.deb");
        fs::write(&path, deb).unwrap();
        let result = unpack(&path, &dir.path().join("root"));
        (dir, result)
    }

    #[test]
    fn unpacks_every_compression_without_rights_and_inside_the_destination() {
        let tar = sample_tar();
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(&tar[..], 1).read_to_end(&mut xz).unwrap();
        let mut gz = Vec::new();
        flate2::read::GzEncoder::new(&tar[..], flate2::Compression::fast()).read_to_end(&mut gz).unwrap();
        let zst = zstd::encode_all(&tar[..], 1).unwrap();
        for (member, data) in
            [("data.tar", tar), ("data.tar.xz", xz), ("data.tar.gz", gz), ("data.tar.zst", zst)]
        {
            let (dir, result) = unpacked(&deb_of(member, &data));
            result.unwrap();
            let root = dir.path().join("root");
            let metadata = fs::metadata(root.join("usr/tool")).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o555, "{member}");
            assert_eq!(fs::read_link(root.join("usr/link")).unwrap(), Path::new("tool"));
            assert_eq!(fs::read(root.join("usr/hard")).unwrap(), b"#!/bin/sh\n");
            assert_eq!(fs::metadata(root.join("usr")).unwrap().permissions().mode() & 0o777, 0o755);
            assert!(!root.join("null").exists() && !dir.path().join("escaped").exists());
        }
    }

    #[test]
    fn does_not_write_through_a_symlink_that_leads_out() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "out", "..").unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        tar.append_data(&mut header, "out/escaped", &b"no"[..]).unwrap();
        let (dir, result) = unpacked(&deb_of("data.tar", &tar.into_inner().unwrap()));
        assert!(result.is_err());
        assert!(!dir.path().join("escaped").exists());
    }

    #[test]
    fn says_what_is_wrong_with_a_package() {
        for (deb, expected) in [
            (b"not an ar archive".to_vec(), "not a Debian package"),
            (deb_of("data.tar.xyz", b""), "compressed in an unknown way"),
            (b"!<arch>\n".to_vec(), "fill whole buffer"),
            (deb_of("data.tar.xz", b"not xz at all, truly"), "a.deb"),
        ] {
            let error = unpacked(&deb).1.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
