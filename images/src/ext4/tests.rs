use super::*;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn formatted(bytes: u64) -> tempfile::NamedTempFile {
    formatted_for(Purpose::Scratch, bytes)
}

fn formatted_for(purpose: Purpose, bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.as_file(), bytes, purpose).unwrap();
    file
}

/// Whether `program` can be started here.
fn installed(program: &str) -> bool {
    Command::new(program).arg("-V").output().is_ok()
}

fn fsck(path: &Path) {
    let output = Command::new("e2fsck").args(["-f", "-n"]).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[test]
fn refuses_sizes_out_of_range() {
    let file = tempfile::tempfile().unwrap();
    for bytes in [0, SMALLEST - 1, LARGEST + 1, u64::MAX] {
        let error = format(&file, bytes).unwrap_err();
        assert!(error.to_string().contains("from 16 MiB to 16 TiB"), "{error}");
    }
}

#[test]
fn writes_next_to_nothing_of_a_large_disk() {
    let file = formatted(10 * GIB);
    let metadata = file.as_file().metadata().unwrap();
    assert_eq!(metadata.len(), 10 * GIB);
    assert!(metadata.blocks() * 512 <= 64 * 1024, "{} bytes", metadata.blocks() * 512);
}

#[test]
fn is_a_function_of_the_size() {
    let (a, b) = (formatted(16 * MIB), formatted(16 * MIB));
    format(b.as_file(), 64 * MIB).unwrap();
    format(b.as_file(), 16 * MIB).unwrap();
    assert!(std::fs::read(a.path()).unwrap() == std::fs::read(b.path()).unwrap());
}

#[test]
fn e2fsck_finds_nothing_to_complain_about() {
    if !installed("e2fsck") {
        eprintln!("skipped: no e2fsck");
        return;
    }
    let group = 128 * MIB;
    let sizes = [
        SMALLEST,
        16 * MIB + 4097,
        group - 4096,
        group,
        group + 4096,
        group + 9 * MIB,
        512 * MIB - 1,
        512 * MIB,
        3 * GIB + 4096,
        10 * GIB,
        200 * GIB + 5 * MIB,
        // Where the last group has a backup: 3, 5, 7 and 9.
        3 * group + 12 * MIB,
        6 * group,
        8 * group,
        10 * group,
    ];
    for purpose in [Purpose::Scratch, Purpose::Kept] {
        for bytes in sizes {
            fsck(formatted_for(purpose, bytes).path());
        }
    }
}

#[test]
fn the_largest_geometry_has_32_bit_numbers() {
    let geometry = Geometry::of(LARGEST, Purpose::Kept).unwrap();
    assert_eq!(geometry.groups, 1 << 17);
    assert_eq!(geometry.blocks, u32::MAX);
    assert!(geometry.groups.checked_mul(geometry.inodes_per_group).is_some());
    assert!(geometry.used_blocks_in(0) < geometry::BLOCKS_PER_GROUP);
}

/// Mounts a disk through a loop device, uses it as overlayfs would, and checks it again. Only as root on a
/// host with loop devices; says so otherwise.
#[test]
fn the_kernel_mounts_and_fills_it() {
    for purpose in [Purpose::Scratch, Purpose::Kept] {
        mount_and_fill(&formatted_for(purpose, 96 * MIB));
    }
}

fn mount_and_fill(file: &tempfile::NamedTempFile) {
    let script = r#"
        set -e
        mount -o loop "$1" "$2" || exit 99
        trap 'umount "$2"' EXIT
        mkdir -p "$2/lower" "$2/merged" "$2/upper" "$2/work"
        echo below > "$2/lower/gone"
        mount -t overlay overlay -o "lowerdir=$2/lower,upperdir=$2/upper,workdir=$2/work" "$2/merged" || exit 99
        trap 'umount "$2/merged"; umount "$2"' EXIT
        rm "$2/merged/gone"
        for i in $(seq 300); do echo $i > "$2/merged/file-with-a-rather-long-name-$i"; done
        head -c 20000000 /dev/urandom > "$2/merged/big"
        ln -s "$(printf 'x%.0s' $(seq 2000))" "$2/merged/long"
        test -c "$2/upper/gone" && ! test -e "$2/merged/gone"
    "#;
    used_by_the_kernel(file.path(), script, "");
}

/// Runs a script with the disk's file, a directory to mount it at and another word, and checks the disk again. Status 99
/// says that this host cannot do such things.
fn used_by_the_kernel(disk: &Path, script: &str, word: &str) {
    let directory = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", script, "sh"]).arg(disk).arg(directory.path()).arg(word).output().unwrap();
    if output.status.code() == Some(99) {
        eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert!(output.status.success(), "{output:?}");
    if installed("e2fsck") {
        fsck(disk);
    }
}

/// Where a kept disk grows to: within its descriptors' block, and far beyond it.
const GROWN: [(u64, u64); 2] = [(96 * MIB, GIB + 5 * MIB), (3 * GIB, 40 * GIB)];

#[test]
fn resize2fs_grows_what_is_kept() {
    if !installed("e2fsck") {
        eprintln!("skipped: no e2fsprogs");
        return;
    }
    for (from, to) in GROWN {
        let file = formatted_for(Purpose::Kept, from);
        file.as_file().set_len(to).unwrap();
        let output = Command::new("resize2fs").arg("-f").arg(file.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        fsck(file.path());
    }
}

/// The same while it is mounted. As above.
#[test]
fn the_kernel_grows_what_is_kept() {
    for (from, to) in GROWN {
        let file = formatted_for(Purpose::Kept, from);
        let script = r#"
            set -e
            command -v resize2fs >/dev/null && disk=$(losetup -f --show "$1") || exit 99
            trap 'umount "$2" 2>/dev/null; losetup -d $disk' EXIT
            mount $disk "$2" || exit 99
            echo kept > "$2/file"
            truncate -s "$3" "$1"
            losetup -c $disk
            # Which takes CAP_SYS_RESOURCE.
            resize2fs $disk || exit 99
            test $(stat -f -c '%b' "$2") -gt $(($3 / 4096 * 9 / 10))
            head -c 200000000 /dev/zero > "$2/big"
            test "$(cat "$2/file")" = kept
        "#;
        used_by_the_kernel(file.path(), script, &to.to_string());
    }
}
