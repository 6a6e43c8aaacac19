//! What a Pod says of its volumes.

use super::super::fields::{DocumentError, Field, Fields};
use super::container::amount;
use super::name_of;
use crate::runtime::name::is_valid;
use std::path::PathBuf;

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// What it is.
    pub source: Source,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An empty directory, which lives as long as the pod.
    EmptyDir(EmptyDir),
    /// Something of the host.
    HostPath(HostPath),
    /// A volume that ferry keeps.
    Claim(Claim),
}

/// `emptyDir`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmptyDir {
    /// Where it is.
    pub medium: Medium,
    /// Its size in bytes, which memory keeps to.
    pub limit: Option<u64>,
}

/// Where an `emptyDir` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// On the pod's scratch disk.
    Disk,
    /// In the machine's memory.
    Memory,
}

/// `persistentVolumeClaim`: as podman has it, the claim's name is the volume's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The volume, which is made where it is missing.
    pub name: String,
    /// Whether it is only read, whatever its mounts say.
    pub read_only: bool,
}

/// `hostPath`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath {
    /// Where it is on the host: an absolute path.
    pub path: PathBuf,
    /// What has to be there.
    pub expected: Expected,
}

/// What has to be at a `hostPath`: its `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A directory or a regular file.
    Anything,
    /// A directory.
    Directory,
    /// A directory, which is made where there is nothing.
    DirectoryOrCreate,
    /// A regular file.
    File,
    /// A regular file, which is made, empty, where there is nothing; the directory it is in has to be there.
    FileOrCreate,
}

/// Reads a volume.
pub(super) fn volume(field: Field) -> Result<Volume, DocumentError> {
    let mut fields = field.clone().fields()?;
    let name = name_of(fields.need("name")?)?;
    let kinds = ["emptyDir", "hostPath", "persistentVolumeClaim"].map(|kind| fields.take_any(kind));
    let source = match kinds {
        [Some(directory), None, None] => Source::EmptyDir(empty_dir(directory.fields()?)?),
        [None, Some(path), None] => Source::HostPath(host_path(path.fields()?)?),
        [None, None, Some(claimed)] => Source::Claim(claim(claimed.fields()?)?),
        [None, None, None] => {
            fields.end()?;
            return Err(
                field.wrong("what kind of volume? There are emptyDir, hostPath and persistentVolumeClaim")
            );
        }
        _ => {
            return Err(field.wrong("it is one of an emptyDir, a hostPath and a persistentVolumeClaim"));
        }
    };
    fields.end()?;
    Ok(Volume { name, source })
}

fn empty_dir(mut directory: Fields) -> Result<EmptyDir, DocumentError> {
    let medium = match directory.text("medium")?.as_deref() {
        None | Some("") => Medium::Disk,
        Some("Memory") => Medium::Memory,
        Some(other) => return Err(directory.wrong(format!("no medium '{other}': Memory, or none"))),
    };
    let limit = directory.take("sizeLimit").map(amount).transpose()?;
    if limit.is_some() && medium == Medium::Disk {
        return Err(directory.wrong("sizeLimit without medium: Memory is not supported"));
    }
    directory.end()?;
    Ok(EmptyDir { medium, limit })
}

fn claim(mut fields: Fields) -> Result<Claim, DocumentError> {
    let at = fields.need("claimName")?;
    let name = at.clone().text()?;
    if !is_valid(&name) {
        return Err(
            at.wrong("a volume's name has letters, digits, '_', '.' and '-', from two to 128 of them")
        );
    }
    let read_only = fields.truth("readOnly")?.unwrap_or(false);
    fields.end()?;
    Ok(Claim { name, read_only })
}

fn host_path(mut fields: Fields) -> Result<HostPath, DocumentError> {
    let at = fields.need("path")?;
    let path = PathBuf::from(at.clone().text()?);
    if !path.is_absolute() {
        return Err(at.wrong("the absolute path of a directory or file of the host is wanted"));
    }
    let expected = match fields.take("type") {
        None => Expected::Anything,
        Some(kind) => kind.one_of(&[
            ("", Expected::Anything),
            ("Directory", Expected::Directory),
            ("DirectoryOrCreate", Expected::DirectoryOrCreate),
            ("File", Expected::File),
            ("FileOrCreate", Expected::FileOrCreate),
        ])?,
    };
    fields.end()?;
    Ok(HostPath { path, expected })
}
