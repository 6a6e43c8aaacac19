//! The initial RAM disk: an uncompressed cpio archive (newc, the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`) that holds PID 1 and the console node it
//! needs before anything is mounted, and the directories that it mounts on. Nothing else belongs in it: the image's files
//! come from EROFS layers.

/// Mode bits of a directory, a regular file and a character device (`S_IFDIR`, `S_IFREG`, `S_IFCHR`).
const DIRECTORY: u32 = 0o040000;
const REGULAR: u32 = 0o100000;
const CHARACTER: u32 = 0o020000;

/// Device number of `/dev/console`.
const CONSOLE: (u32, u32) = (5, 1);

/// The guest's directories, by name and mode.
const DIRECTORIES: [(&str, u32); 5] =
    [("dev", 0o755), ("proc", 0o755), ("run", 0o755), ("sys", 0o755), ("tmp", 0o1777)];

/// The archive that makes `init` the guest's `/init` (mode 0755), beside directories and `/dev/console`.
///
/// A function of `init` alone: owners, times and inode numbers are fixed. The result is a whole number of
/// 4-byte words, as the kernel wants of an archive that others may follow.
pub fn write(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::with_capacity(init.len() + 1024);
    for (number, (name, mode)) in (3..).zip(DIRECTORIES) {
        entry(&mut archive, number, name, DIRECTORY | mode, (0, 0), &[]);
    }
    entry(&mut archive, 1, "dev/console", CHARACTER | 0o600, CONSOLE, &[]);
    entry(&mut archive, 2, "init", REGULAR | 0o755, (0, 0), init);
    entry(&mut archive, 0, "TRAILER!!!", 0, (0, 0), &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, ino: u32, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
    // newc counts data in 8 hexadecimal digits; a PID 1 of 4 GiB is a mistake of the build.
    let size = u32::try_from(data.len()).expect("a PID 1 smaller than 4 GiB");
    let links = if mode & DIRECTORY != 0 && mode & REGULAR == 0 { 2 } else { 1 };
    let fields = [
        ino,
        mode,
        0, // uid
        0, // gid
        links,
        0, // mtime
        size,
        0, // the device the file was on: major
        0, // and minor
        device.0,
        device.1,
        name.len() as u32 + 1,
        0, // checksum: none in newc
    ];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(data);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode, device and data.
    type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// The entries, read by the format's description.
    fn read(mut archive: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&archive[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&archive[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = String::from_utf8(archive[110..110 + name_size - 1].to_vec()).unwrap();
            let start = (110 + name_size).next_multiple_of(4);
            let data = archive[start..start + size].to_vec();
            let (mode, device) = (field(1), (field(9), field(10)));
            archive = &archive[(start + size).next_multiple_of(4)..];
            if name == "TRAILER!!!" {
                assert!(archive.is_empty());
                return entries;
            }
            entries.push((name, mode, device, data));
        }
    }

    #[test]
    fn holds_pid_1_and_a_console() {
        for init in [&b""[..], b"x", b"four", b"\x7fELF and some more"] {
            let entries = read(&write(init));
            assert_eq!(
                entries,
                [
                    ("dev".into(), 0o040755, (0, 0), vec![]),
                    ("proc".into(), 0o040755, (0, 0), vec![]),
                    ("run".into(), 0o040755, (0, 0), vec![]),
                    ("sys".into(), 0o040755, (0, 0), vec![]),
                    ("tmp".into(), 0o041777, (0, 0), vec![]),
                    ("dev/console".into(), 0o020600, (5, 1), vec![]),
                    ("init".into(), 0o100755, (0, 0), init.to_vec()),
                ]
            );
        }
    }

    #[test]
    fn is_whole_words_long() {
        for length in 0..9 {
            assert_eq!(write(&vec![7; length]).len() % 4, 0);
        }
    }
}
