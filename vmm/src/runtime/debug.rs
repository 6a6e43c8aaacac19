//! A tools image in the namespaces of a container that runs, so that an image without a shell can be looked into: the tools
//! see the container's processes, network, host name and shared memory, and its root at [`TARGET`].
//!
//! A machine gets no new disk while it runs. So the tools' layers are copied onto the container's scratch disk, beside what
//! the container itself can reach of it, and mounted from there; afterwards they are gone.

use super::limits::Limits;
use super::oci::{self, Options, SpecError, Writable, guest_path};
use super::record::Record;
use super::run::Ready;
use super::size::human_size;
use crate::agent::session::{self, ContainerSpec, Control, Progress, RunError, Stdio};
use crate::agent::{CallError, Client};
use ferry_images::Segment;
use ferry_init::api::guest::CopyFileRequest;
use ferry_init::api::oci::{Mount, Spec};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

/// Where the tools see the container's root; `/proc/1/root` is the same with everything that is mounted in it.
pub const TARGET: &str = "/mnt";
/// Most bytes of one piece of the image: a guest whose kernel is interpreted takes seconds over as much.
const PIECE: usize = 128 << 10;
/// How long what is left of the tools may take to be put away.
const PUT_AWAY: Duration = Duration::from_secs(60);

/// Why there are no tools.
#[derive(Debug, thiserror::Error)]
pub enum DebugError {
    /// There is nowhere to put them.
    #[error(
        "container {0} has no scratch disk, on which the tools would be put: run it without --read-only and with --overlay disk"
    )]
    NoDisk(String),
    /// The image and the options do not go together.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A file of the image cannot be read.
    #[error("{}: {error}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The guest does not take it.
    #[error("the tools' image ({size}) cannot be copied into the guest: {error}")]
    Copy {
        /// Its size.
        size: String,
        /// The guest's words.
        error: CallError,
    },
    /// The tools did not run.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl DebugError {
    /// ferry's exit status for it.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Run(error) => error.exit_status(),
            _ => 125,
        }
    }
}

/// Tools beside a container.
pub struct Tools<'a> {
    client: &'a Client,
    /// The image in the guest.
    place: String,
    spec: ContainerSpec,
}

impl<'a> Tools<'a> {
    /// Copies the tools' image into the guest of the container and makes their container there, called `id`.
    pub fn make(
        client: &'a Client,
        target: &Record,
        id: &str,
        image: &Ready,
        options: &Options,
    ) -> Result<Self, DebugError> {
        if target.made.writable != Writable::Disk {
            return Err(DebugError::NoDisk(target.name.clone()));
        }
        let spec = spec(&target.id, id, image, options)?;
        let place = guest_path(&target.id, &format!("scratch/{id}/image"));
        let tools = Self { client, place, spec };
        tools.copy(&image.segments)?;
        session::create(client, &tools.spec)?;
        Ok(tools)
    }

    /// Runs them to their end; their exit status.
    pub fn run(
        &self,
        stdio: &Stdio,
        control: Control,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<u8, DebugError> {
        let raw = stdio.keyboard.take_over()?;
        session::start(self.client, &self.spec)?;
        progress(Progress::Started);
        let status = session::attend(self.client, &self.spec.target(), stdio, control, progress);
        drop(raw);
        Ok(status?)
    }

    /// The files of the image's disk, end to end, as one file in the guest.
    fn copy(&self, segments: &[Segment]) -> Result<(), DebugError> {
        let size: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let mut offset = 0;
        let mut piece = Vec::with_capacity(PIECE);
        for segment in segments {
            let fault = |error| DebugError::Image { path: segment.path.clone(), error };
            let mut file = File::open(&segment.path).map_err(fault)?.take(segment.bytes);
            loop {
                piece.clear();
                let length = (&mut file).take(PIECE as u64).read_to_end(&mut piece).map_err(fault)?;
                if length == 0 {
                    break;
                }
                self.put(&piece, offset, size)?;
                offset += length as u64;
            }
        }
        Ok(())
    }

    fn put(&self, data: &[u8], offset: u64, size: u64) -> Result<(), DebugError> {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let request = CopyFileRequest {
            path: self.place.clone(),
            file_size: signed(size),
            file_mode: 0o100_600,
            dir_mode: 0o700,
            offset: signed(offset),
            data: data.to_vec(),
            ..Default::default()
        };
        self.client.copy_file(&request).map_err(|error| DebugError::Copy { size: human_size(size), error })
    }
}

impl Drop for Tools<'_> {
    fn drop(&mut self) {
        // It may have ended with its container and its machine.
        if let Err(error) = self.client.remove_container(&self.spec.id, PUT_AWAY) {
            tracing::debug!(%error, "what is left of the tools");
        }
        // An empty file in its place gives the room back.
        if let Err(error) = self.put(&[], 0, 0) {
            tracing::debug!(%error, "the tools' image");
        }
    }
}

fn spec(target: &str, id: &str, image: &Ready, options: &Options) -> Result<ContainerSpec, SpecError> {
    let options = Options {
        privileged: true,
        writable: Writable::Tmpfs,
        hostname: options.hostname.clone(),
        ..options.clone()
    };
    let mut storages = oci::storages(id, options.writable);
    if let Some(layers) = storages.first_mut() {
        layers.driver = "ephemeral".to_owned();
        layers.source = guest_path(target, &format!("scratch/{id}/image"));
    }
    let mut oci: Spec = oci::spec_for(id, &guest_path(id, "rootfs"), &image.image.config, &options)?;
    if let Some(linux) = &mut oci.linux {
        for namespace in &mut linux.namespaces {
            if matches!(namespace.r#type.as_str(), "pid" | "ipc" | "uts") {
                namespace.path = format!("container:{target}");
            }
        }
        linux.resources = Some(Limits::default().resources());
    }
    oci.mounts.push(Mount {
        destination: TARGET.to_owned(),
        source: guest_path(target, "rootfs"),
        r#type: "bind".to_owned(),
        options: ["rbind", "rprivate"].map(str::to_owned).into(),
    });
    // Process 1 is the container's.
    oci.annotations.insert(oci::PID1_ANNOTATION.to_owned(), "false".to_owned());
    Ok(ContainerSpec { id: id.to_owned(), storages, oci, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake_guest::request;

    #[test]
    fn tools_are_in_the_containers_namespaces_and_see_its_root() {
        let image = request().image;
        let options = Options { command: vec!["sh".into()], ..Options::default() };
        let made = spec("target", "debug-1", &image, &options).unwrap();
        assert_eq!(
            (made.storages[0].driver.as_str(), made.storages[0].fstype.as_str()),
            ("ephemeral", "erofs")
        );
        assert!(made.storages[0].source.ends_with("/target/scratch/debug-1/image"));
        let linux = made.oci.linux.unwrap();
        let joined = |kind: &str| {
            linux.namespaces.iter().any(|one| one.r#type == kind && one.path == "container:target")
        };
        assert!(joined("pid") && joined("ipc") && joined("uts") && !joined("mount"));
        assert!(linux.masked_paths.is_empty());
        let mount = made.oci.mounts.last().unwrap();
        assert_eq!((mount.destination.as_str(), mount.source.ends_with("/target/rootfs")), (TARGET, true));
        let process = made.oci.process.unwrap();
        assert!(process.capabilities.unwrap().effective.contains(&"CAP_SYS_PTRACE".to_owned()));
    }
}
