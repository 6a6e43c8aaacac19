//! What a pod sees of the host: its `hostPath` volumes, and volumes that ferry keeps (`persistentVolumeClaim`). Each is shared
//! as what `-v` names is, once for all containers, which may write to it where one of them may.

use super::document::{Expected, HostPath, Pod, Source};
use crate::runtime::run::Ready;
use crate::runtime::volume::{Shared, shared};
use crate::runtime::volumes::{InUse, Volumes};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// The shared volumes of a pod, by their names.
pub type HostPaths = BTreeMap<String, Shared>;

/// A volume that cannot be shared.
#[derive(Debug, thiserror::Error)]
#[error("the volume {volume} ({path}): {reason}")]
pub struct HostPathError {
    volume: String,
    path: String,
    reason: String,
}

/// Sees to it that everything is there as the pod says, and plans how the pod `id` gets it. The volumes stay while the second
/// part lives. `image` is that of a container, by its place among all of them, the init containers first.
pub fn prepare<'a>(
    pod: &Pod,
    id: &str,
    volumes: &Volumes,
    image: impl Fn(usize) -> Option<&'a Ready>,
) -> Result<(HostPaths, InUse), HostPathError> {
    let (mut paths, mut in_use) = (HostPaths::new(), InUse::default());
    for volume in &pod.volumes {
        let name = &volume.name;
        let fault = |path: &Path, reason: String| HostPathError {
            volume: name.clone(),
            path: path.display().to_string(),
            reason,
        };
        let (path, is_read): (PathBuf, bool) = match &volume.source {
            Source::EmptyDir(_) => continue,
            Source::HostPath(host) => {
                require(host).map_err(|reason| fault(&host.path, reason))?;
                (host.path.clone(), false)
            }
            Source::Claim(claim) => {
                let from = first_mount(pod, name).and_then(|(at, place)| Some((image(at)?, place)));
                let held = volumes.hold(&claim.name, false, from);
                let (stored, lock) =
                    held.map_err(|error| fault(Path::new(&claim.name), error.to_string()))?;
                in_use.also(lock);
                (stored.data(), claim.read_only)
            }
        };
        let shared = shared(id, paths.len(), &path, is_read || !is_written(pod, name));
        paths.insert(name.clone(), shared.map_err(|error| fault(&path, error.to_string()))?);
    }
    Ok((paths, in_use))
}

/// The first container that sees a volume, and where: what its image has there is what a new one begins as.
fn first_mount<'a>(pod: &'a Pod, volume: &str) -> Option<(usize, &'a str)> {
    pod.init.iter().chain(&pod.containers).enumerate().find_map(|(at, container)| {
        let mount = container.mounts.iter().find(|mount| mount.volume == volume)?;
        Some((at, mount.path.as_str()))
    })
}

/// Whether a container may write to it.
fn is_written(pod: &Pod, volume: &str) -> bool {
    let mut mounts = pod.init.iter().chain(&pod.containers).flat_map(|container| &container.mounts);
    mounts.any(|mount| mount.volume == volume && !mount.read_only)
}

/// Makes what is to be made, and looks whether the rest is there.
fn require(volume: &HostPath) -> Result<(), String> {
    let HostPath { path, expected } = volume;
    let made = match expected {
        Expected::DirectoryOrCreate => std::fs::create_dir_all(path),
        Expected::FileOrCreate => make_file(path),
        Expected::Anything | Expected::Directory | Expected::File => Ok(()),
    };
    // What is there already may be of another kind, which is said below.
    made.or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        .map_err(|error| format!("it cannot be made: {error}"))?;
    let kind = std::fs::metadata(path).map_err(|error| missing(*expected, &error))?.file_type();
    match expected {
        Expected::Directory | Expected::DirectoryOrCreate if !kind.is_dir() => {
            Err("it is no directory".to_owned())
        }
        Expected::File | Expected::FileOrCreate if !kind.is_file() => Err("it is no regular file".to_owned()),
        _ if !kind.is_dir() && !kind.is_file() => {
            Err("it is neither a directory nor a regular file, and nothing else can be shared".to_owned())
        }
        _ => Ok(()),
    }
}

fn make_file(path: &Path) -> Result<(), Error> {
    std::fs::File::create_new(path).map(drop)
}

fn missing(expected: Expected, error: &Error) -> String {
    match (error.kind(), expected) {
        (ErrorKind::NotFound, Expected::File) => {
            "there is no such file: make it first, or write type: FileOrCreate".to_owned()
        }
        (ErrorKind::NotFound, _) => {
            "there is no such directory or file: make it first, or write type: DirectoryOrCreate".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::parse;
    use super::*;

    fn pod(here: &Path, volumes: &[(&str, &str)]) -> Pod {
        let here = here.display();
        let each = volumes.iter().enumerate().map(|(number, (name, kind))| {
            format!("{{name: v{number}, hostPath: {{path: \"{here}/{name}\", type: \"{kind}\"}}}}")
        });
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{volumes: [{}], containers: [
              {{name: a, image: i, volumeMounts: [{{name: v0, mountPath: /x, readOnly: true}}]}},
              {{name: b, image: i, volumeMounts: [{{name: v0, mountPath: /y, readOnly: true}}, {{name: v1, mountPath: /z}}]}}]}}}}",
            each.collect::<Vec<_>>().join(", ")
        );
        parse(&text).unwrap()
    }

    fn paths(here: &Path, pod: &Pod, id: &str) -> Result<HostPaths, HostPathError> {
        prepare(pod, id, &Volumes::open(&here.join("volumes")), |_| None).map(|(paths, _)| paths)
    }

    #[test]
    fn a_claim_is_a_volume_that_stays_while_the_pod_has_it() {
        let here = tempfile::tempdir().unwrap();
        let text = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {volumes: [
              {name: one, persistentVolumeClaim: {claimName: Shop_data}},
              {name: two, persistentVolumeClaim: {claimName: conf, readOnly: true}}], containers: [
              {name: a, image: i, volumeMounts: [{name: one, mountPath: /x}, {name: two, mountPath: /y}]}]}}";
        let containers = crate::runtime::state::Containers::open(here.path());
        let pod = parse(text).unwrap();
        let (paths, in_use) = prepare(&pod, "pod0", containers.volumes(), |_| None).unwrap();
        let (one, two) = (&paths["one"], &paths["two"]);
        assert!(one.share.source.ends_with("volumes/Shop_data/data") && one.share.source.is_dir(), "{one:?}");
        assert!(!one.share.read_only && two.share.read_only && one.share.tag != two.share.tag, "{two:?}");
        assert!(containers.remove_volume("conf").is_err(), "it is used");
        drop(in_use);
        containers.remove_volume("conf").unwrap();
    }

    #[test]
    fn what_is_to_be_made_is_made_and_shared_once() {
        let here = tempfile::tempdir().unwrap();
        let pod = pod(here.path(), &[("deep/directory", "DirectoryOrCreate"), ("file", "FileOrCreate")]);
        for _ in 0..2 {
            let paths = paths(here.path(), &pod, "pod0").unwrap();
            let (directory, file) = (&paths["v0"], &paths["v1"]);
            assert!(directory.share.read_only && directory.share.source.is_dir(), "{directory:?}");
            assert!(!file.share.read_only && file.share.source.is_file(), "{file:?}");
            assert_ne!(directory.share.tag, file.share.tag);
            assert!(file.seen.ends_with("/file"), "{file:?}");
            std::fs::write(here.path().join("file"), "kept").unwrap();
        }
        assert_eq!(std::fs::read(here.path().join("file")).unwrap(), b"kept");
    }

    #[test]
    fn what_is_not_as_the_pod_says_is_an_error_that_names_it() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("file"), "").unwrap();
        std::fs::create_dir(here.path().join("directory")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(here.path().join("socket")).unwrap();
        for (name, kind, words) in [
            ("nothing", "", "make it first, or write type: DirectoryOrCreate"),
            ("nothing", "File", "FileOrCreate"),
            ("file", "Directory", "it is no directory"),
            ("file", "DirectoryOrCreate", "it is no directory"),
            ("directory", "FileOrCreate", "it is no regular file"),
            ("file/below", "DirectoryOrCreate", "it cannot be made"),
            ("missing/file", "FileOrCreate", "it cannot be made"),
            ("socket", "", "neither a directory nor a regular file"),
        ] {
            let error = paths(here.path(), &pod(here.path(), &[(name, kind), ("file", "")]), "p")
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("the volume v0 (") && error.contains(words), "{name} {kind}: {error}");
        }
        drop(socket);
    }
}
