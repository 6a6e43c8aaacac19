//! What a pod sees of the host: its `hostPath` volumes. Each is shared as a directory or file of `-v` is, once for all
//! containers, which may write to it where one of them may.

use super::document::{Expected, HostPath, Pod, Source};
use crate::runtime::volume::{Shared, shared};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::Path;

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

/// Sees to it that everything is there as the pod says, and plans how the pod `id` gets it.
pub fn prepare(pod: &Pod, id: &str) -> Result<HostPaths, HostPathError> {
    let of_host = pod.volumes.iter().filter_map(|volume| match &volume.source {
        Source::HostPath(path) => Some((&volume.name, path)),
        Source::EmptyDir(_) => None,
    });
    of_host
        .enumerate()
        .map(|(number, (name, volume))| {
            let fault = |reason: String| HostPathError {
                volume: name.clone(),
                path: volume.path.display().to_string(),
                reason,
            };
            require(volume).map_err(fault)?;
            let shared = shared(id, number, &volume.path, !is_written(pod, name));
            Ok((name.clone(), shared.map_err(|error| fault(error.to_string()))?))
        })
        .collect()
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

    #[test]
    fn what_is_to_be_made_is_made_and_shared_once() {
        let here = tempfile::tempdir().unwrap();
        let pod = pod(here.path(), &[("deep/directory", "DirectoryOrCreate"), ("file", "FileOrCreate")]);
        for _ in 0..2 {
            let paths = prepare(&pod, "pod0").unwrap();
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
            let error =
                prepare(&pod(here.path(), &[(name, kind), ("file", "")]), "p").unwrap_err().to_string();
            assert!(error.starts_with("the volume v0 (") && error.contains(words), "{name} {kind}: {error}");
        }
        drop(socket);
    }
}
