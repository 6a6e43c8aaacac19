//! Writing an OCI image layout (image-spec, image-layout.md): one image, sorted keys, no clock, so that the bytes follow from
//! the input alone. Layers made here are not compressed, because they stay on this machine, where each is converted once;
//! and because a compressor's output changes with its version.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Error;
use super::describe::ImageSection;
use super::service::Health;
use crate::digest::Digest;

/// A blob's digest and size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// A layer of an image.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) blob: Blob,
    pub(super) media_type: String,
    /// The digest of the uncompressed tar.
    pub(super) diff_id: Digest,
}

impl Layer {
    /// One that is not compressed.
    pub(super) fn plain(blob: Blob) -> Self {
        Self { blob, media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(), diff_id: blob.digest }
    }
}

/// What the configuration is made of.
pub(super) struct Image<'a> {
    pub(super) section: &'a ImageSection,
    /// One line for people.
    pub(super) description: &'a str,
    /// How its container's health is told.
    pub(super) health: Option<&'a Health>,
    /// Seconds since 1970.
    pub(super) epoch: u64,
}

/// Hashes and counts what is written through it.
struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a blob below `layout` under the name that its content gives it.
pub(super) fn add_blob(
    layout: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Blob, Error> {
    let blobs = layout.join("blobs/sha256");
    let failed = |cause| Error::Write { path: blobs.clone(), cause };
    fs::create_dir_all(&blobs).map_err(failed)?;
    let unnamed = blobs.join("unnamed");
    let file = BufWriter::with_capacity(1 << 18, File::create(&unnamed).map_err(failed)?);
    let mut out = Hashed { inner: file, hasher: Sha256::new(), size: 0 };
    write(&mut out).and_then(|()| out.flush()).map_err(failed)?;
    let digest = Digest::from_sha256(out.hasher);
    fs::rename(&unnamed, blobs.join(digest.hex())).map_err(failed)?;
    Ok(Blob { digest, size: out.size })
}

/// Writes configuration, manifest and index over `layers`, lowest first, and says the manifest's digest.
pub(super) fn finish(layout: &Path, image: &Image, layers: &[Layer]) -> Result<Digest, Error> {
    let json = |value: &Value| add_blob(layout, |out| out.write_all(value.to_string().as_bytes()));
    let configuration = json(&json!({
        "architecture": "amd64",
        "os": "linux",
        "created": rfc3339(image.epoch),
        "config": config(image),
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>() },
    }))?;
    let descriptor = |media_type: &str, blob: &Blob| json!({ "mediaType": media_type, "digest": blob.digest.to_string(), "size": blob.size });
    let manifest = json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &configuration),
        "layers": layers.iter().map(|layer| descriptor(&layer.media_type, &layer.blob)).collect::<Vec<_>>(),
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    let write = |name: &str, value: Value| {
        let path = layout.join(name);
        fs::write(&path, value.to_string()).map_err(|cause| Error::Write { path, cause })
    };
    write("index.json", index)?;
    write("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }))?;
    Ok(manifest.digest)
}

/// What is empty is left out, as the image spec has it.
fn config(image: &Image) -> Value {
    let Image { section: image, description, health, .. } = *image;
    let mut config = serde_json::Map::new();
    let mut put = |key: &str, value: Value, empty: bool| {
        if !empty {
            config.insert(key.to_owned(), value);
        }
    };
    let set = |names: &[String]| {
        names.iter().map(|name| (name.clone(), json!({}))).collect::<serde_json::Map<_, _>>()
    };
    let env: Vec<_> = image.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut labels = image.labels.clone();
    if !description.is_empty() {
        labels.insert("org.opencontainers.image.description".into(), description.into());
    }
    put("Entrypoint", json!(image.entrypoint), image.entrypoint.is_empty());
    put("Cmd", json!(image.cmd), image.cmd.is_empty());
    put("Env", json!(env), env.is_empty());
    put("User", json!(image.user), image.user.is_empty());
    put("WorkingDir", json!(image.workdir), image.workdir.is_empty());
    put("Volumes", Value::Object(set(&image.volumes)), image.volumes.is_empty());
    put("ExposedPorts", Value::Object(set(&image.ports)), image.ports.is_empty());
    put("StopSignal", json!(image.stop_signal), image.stop_signal.is_none());
    put("Labels", json!(labels), labels.is_empty());
    // Docker's own addition to the specification (docker-image-spec), which knows commands alone.
    if let Some(health) = health.filter(|health| !health.exec.is_empty()) {
        put("Healthcheck", healthcheck(health), false);
    }
    Value::Object(config)
}

/// Durations are in nanoseconds.
fn healthcheck(health: &Health) -> Value {
    let mut check = serde_json::Map::new();
    let command: Vec<_> = std::iter::once("CMD").chain(health.exec.iter().map(String::as_str)).collect();
    check.insert("Test".into(), json!(command));
    for (key, time) in
        [("Interval", health.interval), ("Timeout", health.timeout), ("StartPeriod", health.start_period)]
    {
        if let Some(time) = time {
            check.insert(key.into(), json!(u64::from(time.0) * 1_000_000));
        }
    }
    if let Some(failures) = health.failures {
        check.insert("Retries".into(), json!(failures));
    }
    Value::Object(check)
}

/// `1970-01-01T00:00:00Z` and on, by the civil calendar's days (Howard Hinnant's `civil_from_days`).
pub(super) fn rfc3339(epoch: u64) -> String {
    let (days, seconds) = (epoch / 86_400, epoch % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (epoch, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_740_787_200, "2025-03-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(epoch), date);
        }
    }
}
