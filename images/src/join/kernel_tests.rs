//! The same images, seen by the kernel's EROFS and by `fsck.erofs`. Mounting takes root and loop devices: where
//! they are missing these tests say so and pass, and the whole-image tests see the same in a VM.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::join;
use crate::erofs::read;
use crate::layer::fixture::{Header, Tar, converted, told};

/// A filesystem image in a file, mounted while this lives.
struct Mounted {
    directory: tempfile::TempDir,
}

impl Mounted {
    fn new(image: &Path) -> Option<Mounted> {
        let directory = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "erofs", "-o", "loop,ro"])
            .arg(image)
            .arg(directory.path())
            .output();
        let mount = mount.ok()?;
        if !mount.status.success() {
            eprintln!("skipped: {}", String::from_utf8_lossy(&mount.stderr));
            return None;
        }
        Some(Mounted { directory })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg(self.directory.path()).status().unwrap();
    }
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found
}

/// The mounted tree in the words of [`told`].
fn kernel_told(root: &Path) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let mut names: HashMap<u64, String> = HashMap::new();
    let mut links: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut ways = vec![(String::new(), PathBuf::from(root))];
    while let Some((path, place)) = ways.pop() {
        let metadata = fs::symlink_metadata(&place).unwrap();
        let kind = metadata.file_type();
        let mut text = format!(
            "{:o} {}:{} {}.{:09}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        let mut xattrs = xattrs(&place);
        // The order that they are stored in: by the number of the namespace.
        let order = ["user.", "system.posix_acl_access", "system.posix_acl_default", "trusted.", "security."];
        xattrs.sort_by_key(|(name, _)| {
            (order.iter().position(|prefix| name.starts_with(prefix.as_bytes())), name.clone())
        });
        for (name, value) in xattrs {
            text += &format!(" {}={}", name.escape_ascii(), value.escape_ascii());
        }
        if kind.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap()).collect();
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            for entry in &entries {
                // What reading the directory says of a type must agree with the inode.
                assert_eq!(
                    entry.file_type().unwrap(),
                    fs::symlink_metadata(entry.path()).unwrap().file_type()
                );
                ways.push((format!("{path}/{}", entry.file_name().as_bytes().escape_ascii()), entry.path()));
            }
            let below = entries.iter().filter(|entry| entry.file_type().unwrap().is_dir()).count() as u64;
            assert_eq!(metadata.nlink(), 2 + below, "{path}");
        } else if kind.is_file() {
            let bytes = fs::read(&place).unwrap();
            let start = bytes[..bytes.len().min(40)].escape_ascii();
            text += &format!(" {} bytes {:x} {start}", bytes.len(), xxhash_rust::xxh3::xxh3_64(&bytes));
        } else if kind.is_symlink() {
            text += &format!(" -> {}", fs::read_link(&place).unwrap().as_os_str().as_bytes().escape_ascii());
        } else if kind.is_char_device() || kind.is_block_device() {
            let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
            text += &format!(" device {:#x}", minor & 0xff | major << 8 | (minor & !0xff) << 12);
        }
        if !kind.is_dir() {
            links.entry(metadata.ino()).or_insert((metadata.nlink(), 0)).1 += 1;
            let first = names.entry(metadata.ino()).or_insert_with(|| path.clone());
            if *first != path {
                text = format!("= {first}");
            }
        }
        told.insert(if path.is_empty() { "/".to_owned() } else { path }, text);
    }
    assert!(links.values().all(|(counted, found)| counted == found), "{links:?}");
    told
}

fn fsck(image: &Path, devices: &[PathBuf]) {
    let mut command = Command::new("fsck.erofs");
    command.args(devices.iter().map(|device| format!("--device={}", device.display()))).arg(image);
    let Ok(output) = command.output() else { return eprintln!("skipped: no fsck.erofs") };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

fn assert_the_kernel_agrees(archives: &[Vec<u8>]) {
    let directory = tempfile::tempdir().unwrap();
    let layers: Vec<File> = archives.iter().map(|archive| converted(archive).unwrap().0).collect();
    let image = tempfile::tempfile().unwrap();
    join(&layers, &image, &tempfile::tempfile().unwrap()).unwrap();

    let mut disk = File::create(directory.path().join("disk")).unwrap();
    let mut parts = Vec::new();
    for (number, part) in std::iter::once(&image).chain(&layers).enumerate() {
        let mut bytes = vec![0; part.metadata().unwrap().len() as usize];
        part.read_exact_at(&mut bytes, 0).unwrap();
        disk.write_all(&bytes).unwrap();
        parts.push(directory.path().join(format!("part-{number}")));
        fs::write(&parts[number], &bytes).unwrap();
    }
    assert_eq!(disk.stream_position().unwrap() % 4096, 0);
    fsck(&parts[0], &parts[1..]);
    let disks: Vec<&File> = std::iter::once(&image).chain(&layers).collect();
    if let Some(mounted) = Mounted::new(&directory.path().join("disk")) {
        assert_eq!(kernel_told(mounted.directory.path()), told(&disks, &read::load(&image).unwrap()));
    }
    // Each layer is an image by itself, too.
    for (part, layer) in parts[1..].iter().zip(&layers).take(3) {
        fsck(part, &[]);
        if let Some(mounted) = Mounted::new(part) {
            assert_eq!(kernel_told(mounted.directory.path()), told(&[layer], &read::load(layer).unwrap()));
        }
    }
}

fn device(kind: u8, name: &str, major: u64, minor: u64) -> Header {
    let mut header = Header::new(kind, name.as_bytes(), 0);
    header.octal(329, 8, major).octal(337, 8, minor);
    header
}

#[test]
fn the_kernel_sees_every_oddity() {
    let mut holes = vec![0; 700_000];
    holes[200_000..200_100].fill(b'h');
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x07\0\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    let mut lower = Tar::new()
        .raw(Header::new(b'5', b"./", 0).octal(100, 8, 0o1755).octal(136, 12, 1_000_000), b"")
        .pax(b'x', &[("mtime", b"-1.25"), ("uid", b"4294967294"), ("gid", b"65536")])
        .file("owned", b"data")
        .pax(
            b'x',
            &[("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.user.a", &[b'v'; 5000])],
        )
        .raw(Header::new(b'0', b"capable", 7).octal(100, 8, 0o4755), b"program")
        .pax(b'x', &[("SCHILY.xattr.system.posix_acl_access", acl), ("SCHILY.xattr.trusted.t", b"")])
        .file("acl", b"x")
        .pax(b'x', &[("path", b"\xff\xfe not UTF-8 \n")])
        .file("x", b"")
        .file("holes", &holes)
        .file("zeros", &[0; 100_000])
        .file("copy", &holes)
        .file("blocks", &[b'b'; 3 * 4096])
        .symlink("short", "owned")
        .raw(&device(b'3', "char", 1, 3), b"")
        .raw(&device(b'4', "block", 259, 70_000), b"")
        .raw(&device(b'6', "fifo", 0, 0), b"")
        .hard_link("linked", "blocks")
        .pax(b'x', &[("path", "n".repeat(255).as_bytes())])
        .directory("x");
    for length in [4000, 4031, 4032, 4033, 4095] {
        let target = "t".repeat(length);
        lower = lower.pax(b'x', &[("linkpath", target.as_bytes())]).symlink(&format!("long-{length}"), "t");
    }
    for number in 0..1000 {
        lower = lower.file(&format!("many/{number:0100}"), format!("{number}").as_bytes());
    }
    for number in 0..300 {
        lower = lower
            .pax(
                b'x',
                &[("SCHILY.xattr.security.selinux", b"system_u:object_r:usr_t:s0"), ("mtime", b"77.7")],
            )
            .directory(&format!("labelled/{number}"));
    }
    let upper = Tar::new()
        .file("many/.wh.0", b"")
        .file("labelled/.wh..wh..opq", b"")
        .file("labelled/only", b"")
        .hard_link("down", "holes")
        .file("owned/was/a/file", b"")
        .file(".wh.fifo", b"")
        .end();
    assert_the_kernel_agrees(&[lower.end(), upper]);
}

#[test]
fn the_kernel_sees_an_image_without_layers_and_one_of_many() {
    assert_the_kernel_agrees(&[]);
    assert_the_kernel_agrees(&[Tar::new().file("only", b"one").end()]);
    let layer =
        |number: usize| Tar::new().file(&format!("d/{number}"), &vec![number as u8; number * 77]).end();
    assert_the_kernel_agrees(&(0..150).map(layer).collect::<Vec<_>>());
}
