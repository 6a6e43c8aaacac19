//! What converting layers costs, beside what others take for the same layers in the same run.
//!
//! Everything is run as programs of their own, ours too, so that each is timed and its memory counted from outside and in the
//! same way. The fastest of a few rounds counts: the others met something else that the machine had to do.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ferry_images::{Progress, Reference, Registries, Store, source};
use flate2::write::GzEncoder;

use super::Figure;
use crate::build::foreign::{self, Foreign};
use crate::build::{recipe, tool};
use crate::run::recipe_needs;
use crate::setup::{self, Need};
use crate::workshop::Workshop;

const ROUNDS: usize = 7;

/// The recipes whose layers together are the layer that is measured: a Debian with a large application.
const LAYER: [&str; 2] = ["debian", "postgres"];

/// Two recipes with one base.
const COUSINS: [&str; 2] = ["nginx", "redis"];

/// What a program has taken.
#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    /// The most memory it had at once, in bytes.
    memory: u64,
}

pub fn figures(workshop: &mut Workshop) -> Result<Vec<Figure>> {
    let mut needs = Foreign::needs(workshop)?;
    needs.push(Need::Tests);
    let recipes = recipe::directory(workshop);
    for name in COUSINS.iter().chain(&LAYER[1..]) {
        needs.extend(recipe_needs(workshop, &recipes, name)?);
    }
    setup::prepare(workshop, &needs)?;
    let bench = Bench {
        layer: tool::layer(workshop)?,
        foreign: Foreign::build(workshop)?,
        // On the disk that the store would be on, which a directory for temporary files need not be.
        directory: tempfile::tempdir_in(workshop.cache.dir("bench")?)?,
    };
    let mut figures = bench.conversions(workshop)?;
    figures.extend(bench.join()?);
    figures.extend(bench.memory()?);
    figures.extend(second_image(workshop)?);
    Ok(figures)
}

struct Bench {
    /// The example of ferry-images, optimised.
    layer: PathBuf,
    foreign: Foreign,
    directory: tempfile::TempDir,
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn layer(&self, words: &[&Path]) -> Command {
        let mut command = Command::new(&self.layer);
        command.args(words);
        command
    }

    fn erofs(&self, options: &[&str], out: &Path, archive: &Path) -> Result<Command> {
        make_room(out)?;
        let mut command = self.foreign.command("mkfs.erofs");
        command.args(["--quiet", "--tar=f"]).args(options).arg(out).arg(archive);
        Ok(command)
    }

    fn conversions(&self, workshop: &Workshop) -> Result<Vec<Figure>> {
        let (plain, gzip, zstd) =
            (self.path("layer.tar"), self.path("layer.tar.gz"), self.path("layer.tar.zst"));
        make_layer(workshop, &plain)?;
        let mut packer = GzEncoder::new(BufWriter::new(File::create(&gzip)?), flate2::Compression::default());
        std::io::copy(&mut File::open(&plain)?, &mut packer)?;
        packer.finish()?.flush()?;
        zstd::stream::copy_encode(File::open(&plain)?, File::create(&zstd)?, 3)?;
        let layout = self.path("layout");
        write_layout(&layout, &plain, &gzip)?;
        let (ours, theirs, mapped) =
            (self.path("ours.erofs"), self.path("theirs.erofs"), self.path("squash"));

        let convert = |from: &Path| {
            make_room(&ours)?;
            Ok(self.layer(&[Path::new("convert"), from, &ours]))
        };
        let [gzip_time, discard] =
            in_turn([&|| convert(&gzip), &|| Ok(self.layer(&[Path::new("discard"), &gzip]))])?;
        let ours_bytes = fs::metadata(&ours)?.len();
        let [none, mkfs] = in_turn([&|| convert(&plain), &|| self.erofs(&[], &theirs, &plain)])?;
        // mkfs.erofs does not know zstd, so it gets what comes out: from here, while it works.
        let unpacked_for_it = || {
            make_room(&theirs)?;
            let (reader, mut writer) = std::io::pipe()?;
            // Neither is to wait for the other as long as there is something to do.
            // SAFETY: takes a descriptor, which is open, and a number.
            unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
            let mut archive = zstd::stream::read::Decoder::new(File::open(&zstd)?)?;
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut piece = vec![0; 128 << 10];
                loop {
                    match archive.read(&mut piece)? {
                        0 => return Ok(()),
                        length => writer.write_all(&piece[..length])?,
                    }
                }
            });
            let mut command = self.foreign.command("mkfs.erofs");
            command.args(["--quiet", "--tar=f"]).arg(&theirs).stdin(reader);
            Ok(command)
        };
        let [zstd_time, discard_zstd, mkfs_zstd] = in_turn([
            &|| convert(&zstd),
            &|| Ok(self.layer(&[Path::new("discard"), &zstd])),
            &unpacked_for_it,
        ])?;
        let mkfs_gzip = rounds(|| self.erofs(&["--gzip"], &theirs, &gzip))?;
        run(&mut self.erofs(&["-Enoinline_data"], &theirs, &plain)?)?;
        let theirs_bytes = fs::metadata(&theirs)?.len();
        let squash = rounds(|| {
            make_room(&mapped)?;
            let mut command = self.foreign.command("mksquashfs");
            command.args(["-".as_ref(), mapped.as_os_str()]);
            command.args(["-tar", "-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX"]);
            command.stdin(File::open(&plain)?);
            Ok(command)
        })?;
        let rootfs = self.path("rootfs");
        let umoci = rounds(|| {
            if rootfs.exists() {
                fs::remove_dir_all(&rootfs)?;
            }
            let mut command = workshop.tools.command("umoci");
            command.args(["raw", "unpack", "--rootless", "--image"]);
            command.arg(format!("{}:layer", layout.display())).arg(&rootfs);
            Ok(command)
        })?;

        let ratio = |one: Duration, other: Duration| one.as_secs_f64() / other.as_secs_f64();
        let megabytes = fs::metadata(&plain)?.len() as f64 / 1e6;
        let layer = |metric, unit, value| Figure { subject: "Debian layer", metric, unit, value };
        let seconds = |metric, cost: Cost| layer(metric, "s", cost.time.as_secs_f64());
        Ok(vec![
            layer("uncompressed", "MB", megabytes),
            seconds("gzip, decompressed to nowhere", discard),
            seconds("gzip, to EROFS", gzip_time),
            layer("gzip: the one beside the other (at most 1.15)", "x", ratio(gzip_time.time, discard.time)),
            seconds("gzip, mkfs.erofs --tar", mkfs_gzip),
            seconds("zstd, decompressed to nowhere", discard_zstd),
            seconds("zstd, to EROFS", zstd_time),
            layer("zstd: the one beside the other", "x", ratio(zstd_time.time, discard_zstd.time)),
            seconds("plain, to EROFS", none),
            seconds("plain, mkfs.erofs --tar", mkfs),
            seconds("zstd, decompressed into mkfs.erofs --tar", mkfs_zstd),
            layer("zstd: beside mkfs.erofs (at most 0.5)", "x", ratio(zstd_time.time, mkfs_zstd.time)),
            layer("plain: beside mkfs.erofs (at most 0.5)", "x", ratio(none.time, mkfs.time)),
            seconds("plain, mksquashfs -tar without compression", squash),
            seconds("gzip, umoci raw unpack", umoci),
            layer("size", "bytes", ours_bytes as f64),
            layer(
                "size: beside mkfs.erofs -Enoinline_data (at most 1.02)",
                "x",
                ours_bytes as f64 / theirs_bytes as f64,
            ),
            layer("memory, gzip to EROFS", "MiB", gzip_time.memory as f64 / MIB),
        ])
    }

    /// Ten layers with five thousand files each, of which every upper one changes some of the ones below.
    fn join(&self) -> Result<Vec<Figure>> {
        let (archive, out) = (self.path("part.tar"), self.path("joined.erofs"));
        let mut layers = Vec::new();
        for number in 0..10 {
            let mut tar = tar::Builder::new(BufWriter::new(File::create(&archive)?));
            for file in 0..5_000 {
                // A tenth of them is there in every layer.
                let owner = if file % 10 == 0 { 0 } else { number };
                let path = format!("usr/share/part-{owner}/directory-{:02}/file-{file:04}.txt", file / 100);
                let content = format!("{number} {file}");
                tar.append_data(&mut header(content.len() as u64), path, content.as_bytes())?;
            }
            tar.into_inner()?.flush()?;
            let layer = self.path(&format!("layer-{number}.erofs"));
            run(&mut self.layer(&[Path::new("convert"), &archive, &layer]))?;
            layers.push(layer);
        }
        let cost = rounds(|| {
            let mut command = self.layer(&[Path::new("join"), &out]);
            command.args(&layers);
            Ok(command)
        })?;
        Ok(vec![Figure {
            subject: "10 layers, 50,000 files",
            metric: "join (at most 150)",
            unit: "ms",
            value: cost.time.as_secs_f64() * 1e3,
        }])
    }

    /// A gibibyte that is nowhere else: it is made while it is read.
    fn memory(&self) -> Result<Vec<Figure>> {
        let out = self.path("large.erofs");
        let mut figures = Vec::new();
        for (subject, files) in [("1 GiB, 65,536 files", 1 << 16), ("1 GiB, 1,048,576 files", 1 << 20)] {
            let mut command = self.layer(&[Path::new("convert"), Path::new("/dev/stdin"), &out]);
            let (reader, writer) = std::io::pipe()?;
            let making = std::thread::spawn(move || write_gibibyte(writer, files));
            let cost = run(command.stdin(reader))?;
            making.join().map_err(|_| anyhow::anyhow!("the archive was not made"))??;
            figures.push(Figure {
                subject,
                metric: "memory (at most 96)",
                unit: "MiB",
                value: cost.memory as f64 / MIB,
            });
            fs::remove_file(&out)?;
        }
        Ok(figures)
    }
}

const MIB: f64 = (1 << 20) as f64;

/// The layers of [`LAYER`] as one archive.
fn make_layer(workshop: &Workshop, to: &Path) -> Result<()> {
    let layout = recipe::build(workshop, &recipe::directory(workshop), LAYER[1])?;
    let mut out = File::create(to)?;
    for layer in foreign::layers(&layout)? {
        let mut from = File::open(&layer)?;
        let end = end_of_entries(&mut from)?;
        from.rewind()?;
        std::io::copy(&mut from.take(end), &mut out)?;
    }
    out.write_all(&[0; 1024])?;
    Ok(())
}

/// Where an archive's entries end and its zeros begin.
fn end_of_entries(archive: &mut File) -> Result<u64> {
    let mut end = 0;
    for entry in tar::Archive::new(archive).entries_with_seek()? {
        let entry = entry?;
        end = (entry.raw_file_position() + entry.size()).next_multiple_of(512);
    }
    Ok(end)
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// An archive of so many files which together have a gibibyte that cannot be left out anywhere.
fn write_gibibyte(out: impl Write, files: u64) -> Result<()> {
    let size = (1 << 30) / files;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 18, out));
    let mut content = vec![0; size as usize];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for file in 0..files {
        for word in content.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let path = format!("srv/data/{:05}/object-{file:08}.bin", file / 256);
        tar.append_data(&mut header(size), path, &content[..])?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

/// A layout with that one layer, for umoci.
fn write_layout(layout: &Path, plain: &Path, gzip: &Path) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let digest = |path: &Path| ferry_images::Digest::of_file(path).map(|digest| digest.to_string());
    let add = |text: String| -> Result<(String, usize)> {
        let digest = ferry_images::Digest::of(text.as_bytes());
        fs::write(blobs.join(digest.hex()), &text)?;
        Ok((digest.to_string(), text.len()))
    };
    let (layer, size) = (digest(gzip)?, fs::metadata(gzip)?.len());
    fs::copy(gzip, blobs.join(&layer[7..]))?;
    let (config, config_size) = add(serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(plain)?]},
    })
    .to_string())?;
    let (manifest, manifest_size) = add(serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": size}],
    })
    .to_string())?;
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": manifest_size,
        "annotations": {"org.opencontainers.image.ref.name": "layer"},
    }]});
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Counts what is converted.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Progress for Counting {
    fn begin(&self, _what: &str, _total: Option<u64>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}

/// Two images with one base are brought into an empty store, one after the other.
fn second_image(workshop: &Workshop) -> Result<Vec<Figure>> {
    let directory = tempfile::tempdir_in(workshop.cache.dir("bench")?)?;
    let store = Store::open(directory.path())?;
    let mut converted = Vec::new();
    for name in COUSINS {
        let layout = recipe::build(workshop, &recipe::directory(workshop), name)?;
        let counting = Counting::default();
        let reference = Reference::OciLayout { path: layout, name: None };
        let registries = Registries::new(BTreeMap::new());
        let access = source::Access {
            registries: &registries,
            pull: source::Pull::Never,
            keep: source::Keep::Converted,
        };
        source::resolve(&store, &reference, &access, &counting)?;
        converted.push(counting.0.into_inner() as f64);
    }
    let figure = |metric, value| Figure { subject: "second image on a base", metric, unit: "layers", value };
    Ok(vec![
        figure("converted for the first", converted[0]),
        figure("converted for the second (its own: at most 1)", converted[1]),
    ])
}

/// Taking away what the last round left is nobody's work.
fn make_room(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// What the fastest of some rounds has taken.
fn rounds(command: impl Fn() -> Result<Command>) -> Result<Cost> {
    let [cost] = in_turn([&command])?;
    Ok(cost)
}

/// The same for several that are compared: in turn, so that all meet the same machine.
fn in_turn<const N: usize>(commands: [&dyn Fn() -> Result<Command>; N]) -> Result<[Cost; N]> {
    let mut costs = [Cost { time: Duration::MAX, memory: 0 }; N];
    for _ in 0..ROUNDS {
        for (cost, command) in costs.iter_mut().zip(commands) {
            let round = run(&mut command()?)?;
            *cost = Cost { time: cost.time.min(round.time), memory: cost.memory.max(round.memory) };
        }
    }
    Ok(costs)
}

/// Runs a program to its end; what it says is shown if it fails.
fn run(command: &mut Command) -> Result<Cost> {
    let name = format!("{command:?}");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    let mut status = 0;
    // SAFETY: rusage is plain data, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both places are ours to write; the child is ours and nobody else waits for it.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    let time = began.elapsed();
    if waited < 0 {
        return Err(std::io::Error::last_os_error()).context(name);
    }
    let status = ExitStatus::from_raw(status);
    if !status.success() {
        bail!("{name} failed ({status}): {}", said.trim_end());
    }
    // The kernel counts in KiB.
    Ok(Cost { time, memory: usage.ru_maxrss as u64 * 1024 })
}
