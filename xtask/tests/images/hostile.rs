//! Archives made to do harm: each is refused in one line, within bounds of time and memory, and nothing of it is kept.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::registry::left;
use crate::road::image::digest;
use crate::road::registry::{ferry, store};
use crate::road::size;
use crate::road::tarball::{Entry, Tarball};

/// What a refusal may take on a busy machine, built for development.
const PATIENCE: Duration = Duration::from_secs(240);

/// Kilobytes of address space: everything the process maps, its threads' stacks included.
const MEMORY: u64 = 2 << 20;

/// A layer, written as it is made: it may be larger uncompressed than the disk.
struct Layer {
    hasher: Sha256,
    out: GzEncoder<BufWriter<File>>,
}

impl Write for Layer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Makes an image of these layers, has it loaded, and checks that all that comes of it is a line with this reason.
#[track_caller]
fn refused(layers: &[&dyn Fn(&mut dyn Write)], reason: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let layout = directory.path().join("layout");
    write_layout(&layout, layers);
    let home = directory.path().join("home");
    let load = ferry(&home, &["load", "-i", &format!("oci:{}", layout.display())]);
    // A shell sets the limit for what it becomes.
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\"")]).arg(load.get_program());
    limited.args(load.get_args()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for (name, value) in load.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let began = Instant::now();
    let mut child = limited.spawn().expect("ferry starts");
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break status;
        }
        if began.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("{reason}: not refused within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    let lines: Vec<&str> = said.lines().filter(|line| !line.contains(" % after ")).collect();
    assert_eq!(status.code(), Some(125), "{said}");
    assert!(lines.len() == 1 && lines[0].contains(reason), "{said} should say: {reason}");
    assert_eq!(left(&store(&home)), [""; 0]);
}

fn write_layout(layout: &Path, layers: &[&dyn Fn(&mut dyn Write)]) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("the layout's directory");
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for write in layers {
        let path = blobs.join("unnamed");
        let file = BufWriter::new(File::create(&path).expect("a blob"));
        let mut layer =
            Layer { hasher: Sha256::new(), out: GzEncoder::new(file, flate2::Compression::fast()) };
        write(&mut layer);
        layer.out.finish().and_then(|mut out| out.flush()).expect("gzip packs");
        let hex: String = layer.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        diff_ids.push(format!("sha256:{hex}"));
        let bytes = fs::read(&path).expect("the blob");
        let digest = digest(&bytes);
        fs::rename(&path, blobs.join(&digest[7..])).expect("its name");
        descriptors.push(json!({ "digest": digest, "size": bytes.len() }));
    }
    let add = |bytes: String| {
        let digest = digest(bytes.as_bytes());
        fs::write(blobs.join(&digest[7..]), &bytes).expect("a blob");
        json!({ "digest": digest, "size": bytes.len() })
    };
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = add(json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }).to_string());
    let manifest = add(json!({ "schemaVersion": 2, "config": config, "layers": descriptors }).to_string());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string();
    fs::write(layout.join("index.json"), index).expect("the index");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("its mark");
}

#[track_caller]
fn refuses(fill: impl Fn(&mut Tarball), reason: &str) {
    let write = |out: &mut dyn Write| {
        let mut tarball = Tarball::new();
        fill(&mut tarball);
        out.write_all(&tarball.bytes()).expect("the layer");
    };
    refused(&[&write], reason);
}

/// A header that announces more than follows.
fn header(kind: u8, name: &str, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    // Binary, as GNU tar writes what octal digits cannot hold.
    header[124] = 0x80;
    header[128..136].copy_from_slice(&size.to_be_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[test]
fn names_that_lead_out_are_refused() {
    refuses(
        |tar| {
            tar.file("a/../../../etc/cron.d/x", b"x");
        },
        "leads upwards (..)",
    );
    refuses(
        |tar| {
            tar.hardlink("a", "../../../etc/passwd");
        },
        "a hard link to an impossible name",
    );
    // Inside the image this is its own file, which it does not have.
    refuses(
        |tar| {
            tar.hardlink("a", "/etc/shadow");
        },
        "has a hard link a to etc/shadow, which no lower layer has",
    );
    refuses(
        |tar| {
            tar.symlink("out", "/").hardlink("a", "out/etc/shadow");
        },
        "which no lower layer has",
    );
}

#[test]
fn names_that_no_filesystem_has_are_refused() {
    let long = "n".repeat(300);
    refuses(
        |tar| {
            tar.file(&long, b"");
        },
        "more than 255 bytes",
    );
    let mut records = Vec::new();
    crate::road::tarball::record(&mut records, b"path", b"a\0b");
    refuses(
        |tar| {
            tar.pax(&records).file("x", b"");
        },
        "a name with a NUL",
    );
}

#[test]
fn links_and_whiteouts_in_a_circle_end() {
    refuses(
        |tar| {
            tar.symlink("a", "b").symlink("b", "a").file("a/x", b"");
        },
        "symbolic links",
    );
    let first = |out: &mut dyn Write| {
        let mut tar = Tarball::new();
        tar.directory("d/").file("d/x", b"x");
        out.write_all(&tar.bytes()).expect("the layer");
    };
    // Each link's target is hidden, or is the other link.
    let second = |out: &mut dyn Write| {
        let mut tar = Tarball::new();
        tar.file("d/.wh.x", b"").hardlink("d/a", "d/b").hardlink("d/b", "d/a").file(".wh.d", b"");
        out.write_all(&tar.bytes()).expect("the layer");
    };
    refused(&[&first, &second], "hard link");
}

#[test]
fn entries_without_end_end() {
    let entries = size(1_200_000, 10_000_000);
    refused(
        &[&|out| {
            for number in 0..entries {
                out.write_all(&header(b'0', &format!("{number}"), 0)).expect("the layer");
            }
        }],
        "more than 524288 entries that are next to nothing",
    );
}

#[test]
fn a_bomb_is_refused_by_its_announcement() {
    refused(
        &[&|out| {
            out.write_all(&header(b'0', "bomb", 100 << 40)).expect("the layer");
            let zeros = vec![0; 1 << 20];
            (0..size(64, 4096)).for_each(|_| out.write_all(&zeros).expect("the layer"));
        }],
        "more than 274877906944 bytes",
    );
}

#[test]
fn a_header_of_a_gibibyte_is_not_read() {
    refused(
        &[&|out| {
            out.write_all(&header(b'x', "pax", 1 << 30)).expect("the layer");
            let letters = vec![b'a'; 1 << 20];
            (0..size(64, 1024)).for_each(|_| out.write_all(&letters).expect("the layer"));
        }],
        "an extended header of more than 1 MiB",
    );
}

#[test]
fn a_device_of_the_host_is_only_an_entry() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut tar = Tarball::new();
    tar.add(&Entry { device: (8, 0), ..Entry::new(b'4', "disk") });
    let bytes = tar.bytes();
    write_layout(directory.path(), &[&|out| out.write_all(&bytes).expect("the layer")]);
    let home = directory.path().join("home");
    let loaded = ferry(&home, &["load", "-i", &format!("oci:{}", directory.path().display())]).output();
    assert!(loaded.expect("ferry starts").status.success());
    use std::os::unix::fs::FileTypeExt;
    for path in left(&store(&home)) {
        let kind = fs::symlink_metadata(&path).expect("a file of the store").file_type();
        assert!(kind.is_file() && !kind.is_block_device(), "{path}");
    }
}
