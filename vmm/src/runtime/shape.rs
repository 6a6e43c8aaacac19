//! What a machine is to be like, whatever runs in it: asked for by options and settings, checked, and made a [`Plan`].

use super::directory;
use super::guest::{Launch, Plan, PlannedDisk, Serial, Tell};
use super::network;
use super::size::{MIB, human_size};
use super::supervise::Failure;
use crate::machine::{Backing, Model};
use crate::sandbox::UserRange;
use std::path::{Path, PathBuf};

/// The least memory a guest boots in, with a little left for its process.
pub const LEAST_MEMORY_MIB: u64 = 64;
/// The most a machine is offered: 1 TiB.
const MOST_MEMORY_MIB: u64 = 1 << 20;
/// The least scratch disk worth having.
const LEAST_SCRATCH: u64 = 16 * MIB;

/// The least memory of the host that a VM's process is held to: below it none would get to its guest's first instruction.
const LEAST_LIMIT: u64 = 32 * MIB;

/// The shape of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// To how much it can grow while it runs, in MiB; nothing: not at all.
    pub most_memory_mib: Option<u64>,
    /// Size of the scratch disk in bytes, where there is one.
    pub scratch_bytes: u64,
    /// How it gets at the image's layers.
    pub layers: Layers,
    /// Its network.
    pub network: network::Wanted,
    /// Words appended to the kernel's command line.
    pub cmdline_extra: String,
    /// A kernel other than the usual one.
    pub kernel: Option<PathBuf>,
    /// An initrd other than the usual one.
    pub initrd: Option<PathBuf>,
    /// Where the guest's serial output goes.
    pub serial: Serial,
    /// Whether the VM's process is locked in.
    pub sandboxed: bool,
    /// The users of whom it becomes one where root starts it; none: the usual ones.
    pub users: Option<UserRange>,
    /// A directory for the sockets of the guest's vsock, if its processes may use that.
    pub vsock: Option<PathBuf>,
    /// What its processors are like.
    pub cpu: Model,
    /// Where its memory comes from.
    pub backing: Backing,
    /// The most memory of the host, in bytes, that its process may take; none: as much as there is.
    pub memory_limit: Option<u64>,
    /// A socket at which it waits for a debugger.
    pub gdb: Option<PathBuf>,
    /// What is told of the VM besides how its container did.
    pub tell: Tell,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            vcpus: 1,
            memory_mib: 512,
            most_memory_mib: None,
            scratch_bytes: 10 << 30,
            layers: Layers::default(),
            network: network::Wanted::default(),
            cmdline_extra: String::new(),
            kernel: None,
            initrd: None,
            serial: Serial::Quiet,
            sandboxed: true,
            users: None,
            vsock: None,
            cpu: Model::Host,
            backing: Backing::default(),
            memory_limit: None,
            gdb: None,
            tell: Tell::default(),
        }
    }
}

impl Shape {
    /// What can be said to be wrong before anything is made.
    pub(super) fn check(&self, has_scratch: bool) -> Result<(), Failure> {
        let memory = self.memory_mib;
        if memory < LEAST_MEMORY_MIB {
            let asked = human_size(memory.saturating_mul(MIB));
            return Err(Failure::early(format!(
                "{asked} of memory is too little: the guest's kernel and one process need at least {LEAST_MEMORY_MIB} MiB \
             (--memory {LEAST_MEMORY_MIB}m)"
            )));
        }
        if memory > MOST_MEMORY_MIB {
            return Err(Failure::early(format!(
                "{memory} MiB of memory is more than the 1 TiB a machine can have"
            )));
        }
        // SAFETY: takes nothing.
        if self.users.is_some() && unsafe { libc::geteuid() } != 0 {
            return Err(Failure::early(
                "--uid-range is for root: only root can give each VM a user of its own",
            ));
        }
        if let Some(most) = self.most_memory_mib.filter(|most| !(memory..=MOST_MEMORY_MIB).contains(most)) {
            return Err(Failure::early(format!(
                "--memory-max {most}m: it is from the {memory} MiB that the machine starts with to 1 TiB"
            )));
        }
        if let Some(limit) = self.memory_limit.filter(|limit| *limit < LEAST_LIMIT) {
            return Err(Failure::early(format!(
                "--memory-limit: {} is too little for any VM: at least {}",
                human_size(limit),
                human_size(LEAST_LIMIT)
            )));
        }
        if has_scratch && self.scratch_bytes < LEAST_SCRATCH {
            let asked = human_size(self.scratch_bytes);
            return Err(Failure::early(format!(
                "a scratch disk of {asked} is too small: it needs at least 16 MiB"
            )));
        }
        Ok(())
    }

    /// A machine of this shape with these disks, whose sockets are below this directory of the run.
    pub(super) fn plan(
        &self,
        disks: Vec<PlannedDisk>,
        network: Option<network::Plan>,
        sockets: &Path,
    ) -> Plan {
        Plan {
            shares: Vec::new(),
            network,
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            most_memory_mib: self.most_memory_mib.unwrap_or(0),
            disks,
            cmdline_extra: self.cmdline(),
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            directory: directory::of_vm(sockets),
            serial: self.serial,
            sandboxed: self.sandboxed,
            users: self.users,
            cpu: self.cpu,
            backing: self.backing,
            memory_limit: self.memory_limit,
            gdb: self.gdb.clone(),
            tell: self.tell.clone(),
        }
    }

    /// A kernel whose serial port somebody watches is not to be quiet. What the user adds comes last and wins.
    fn cmdline(&self) -> String {
        match self.serial {
            Serial::Quiet => self.cmdline_extra.clone(),
            Serial::Stderr => format!("loglevel=7 {}", self.cmdline_extra),
        }
    }
}

/// How a guest gets at an image's layers.
///
/// A page of a mapped image is in the host's page cache, once for all guests, and in no guest's memory. The guest's kernel pays
/// for it with 64 bytes for each page of the whole image (`struct page`), read or not, and with 40 instructions to write them:
/// measured with 1 GiB, 16.4 MB of its memory and 10 million instructions, on top of the 35 million of a boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layers {
    /// As a disk, whose contents each guest caches for itself: a large image costs nothing before it is read
    #[default]
    Blk,
    /// Mapped into its address space (KVM only): all guests share the host's copy and cache nothing; each GiB of the image
    /// costs each guest 16 MiB and 10 million instructions at its start
    Pmem,
    /// pmem for images of up to half of the guest's memory, which then pays a 128th of that at most; blk for larger ones
    Auto,
}

impl Layers {
    /// Whether the files of an image of `bytes` bytes are mapped for a guest with so much memory.
    pub(super) fn are_mapped(
        self,
        launch: &dyn Launch,
        bytes: u64,
        memory_mib: u64,
    ) -> Result<bool, Failure> {
        match self {
            Self::Blk => Ok(false),
            Self::Pmem if launch.maps_files() => Ok(true),
            Self::Pmem => Err(Failure::early(
                "--layers pmem: only ferry's own machine maps layers: run it with --on kvm, or leave it out",
            )),
            Self::Auto => Ok(launch.maps_files() && bytes / MIB <= memory_mib / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::guest::{Guest, LaunchError};
    use std::sync::Arc;

    #[test]
    fn layers_are_mapped_where_that_can_be_and_by_themselves_where_it_costs_little() {
        struct Machine {
            maps: bool,
        }
        impl Launch for Machine {
            fn maps_files(&self) -> bool {
                self.maps
            }
            fn launch(&self, _: &Plan) -> Result<Arc<dyn Guest>, LaunchError> {
                Err(LaunchError("no guest today".into()))
            }
        }
        let are_mapped =
            |layers: Layers, maps, mib: u64| layers.are_mapped(&Machine { maps }, mib * MIB, 128);
        for (layers, maps, mib, mapped) in [
            (Layers::Blk, true, 1, false),
            (Layers::Pmem, true, 4096, true),
            (Layers::Auto, true, 64, true),
            (Layers::Auto, true, 65, false),
            (Layers::Auto, false, 1, false),
        ] {
            assert_eq!(are_mapped(layers, maps, mib).unwrap(), mapped, "{layers:?} {mib}");
        }
        assert!(are_mapped(Layers::Pmem, false, 1).unwrap_err().message.contains("--on kvm"));
    }
}
