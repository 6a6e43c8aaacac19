//! Messages of the service `grpc.AgentService` about containers, processes and the sandbox (Kata's `agent.proto`).
//!
//! `exec_id` names a process of a container. The container's first process goes by the container's own id
//! (or by the empty string, except for `SignalProcess`, where that means every process).

use super::oci::{LinuxResources, Process, Spec};
use super::protobuf::messages;
use crate::prelude::*;

messages! {
    /// The empty message that calls without an answer of their own answer (`google.protobuf.Empty`).
    /// `DestroySandbox`: stop everything, unmount, sync, then reset the machine.
    Empty | DestroySandboxRequest {}

    /// Makes a container: mounts its storages and prepares its process, which waits for `StartContainer`.
    CreateContainerRequest {
        1 container_id: String => "Its name.",
        2 exec_id: String => "Name of its first process; empty for the container's.",
        /// Whom the process runs as, by name; the spec's `Username` does the same.
        3 string_user: Option<StringUser>,
        4 devices: Vec<Device> => "Devices to wait for and to rename in the spec.",
        5 storages: Vec<Storage> => "Filesystems to mount in the guest, in order.",
        6 oci: Option<Spec> => "The container.",
        7 sandbox_pidns: bool => "Whether it shares the sandbox's pid namespace, whatever the spec says.",
        8 shared_mounts: Vec<SharedMount> => "Mounts shared with other containers.",
        9 stdin_port: u32 => "Host port of a passed stdin stream; 0 for none.",
        10 stdout_port: u32 => "Host port of a passed stdout stream; 0 for none.",
        11 stderr_port: u32 => "Host port of a passed stderr stream; 0 for none.",
    }

    /// `StartContainer` lets a made container's process begin, `StatsContainer` asks for its counters, `PauseContainer`
    /// freezes it and `ResumeContainer` thaws it.
    StartContainerRequest | StatsContainerRequest | PauseContainerRequest | ResumeContainerRequest {
        1 container_id: String => "The container.",
    }

    /// Kills what is left of a container and releases what it holds.
    RemoveContainerRequest {
        1 container_id: String => "The container.",
        2 timeout: u32 => "Seconds to wait for its processes; 0 for ever.",
    }

    /// Starts another process in a running container.
    ExecProcessRequest {
        1 container_id: String => "The container.",
        2 exec_id: String => "The process's name.",
        3 string_user: Option<StringUser> => "Whom it runs as, by name.",
        4 process: Option<Process> => "The process.",
        5 stdin_port: u32 => "Host port of a passed stdin stream; 0 for none.",
        6 stdout_port: u32 => "Host port of a passed stdout stream; 0 for none.",
        7 stderr_port: u32 => "Host port of a passed stderr stream; 0 for none.",
    }

    /// Sends a signal.
    SignalProcessRequest {
        1 container_id: String => "The container.",
        2 exec_id: String => "The process; empty for every process of the container.",
        3 signal: u32 => "Signal number.",
    }

    /// `WaitProcess` is answered when a process has ended; `CloseStdin` closes its stdin once what was written before is
    /// through.
    WaitProcessRequest | CloseStdinRequest {
        1 container_id: String => "The container.",
        2 exec_id: String => "The process.",
    }

    /// How a process ended.
    WaitProcessResponse {
        1 status: i32 => "Exit status, or 128+N for signal N.",
    }

    /// Changes a container's limits.
    UpdateContainerRequest {
        1 container_id: String => "The container.",
        2 resources: Option<LinuxResources> => "The limits to change.",
    }

    /// `WriteStdin`: answered when some of the data is written.
    WriteStreamRequest {
        1 container_id: String => "The container.",
        2 exec_id: String => "The process.",
        3 data: Vec<u8> => "The data.",
    }

    /// How much `WriteStdin` took.
    WriteStreamResponse {
        1 len: u32 => "Bytes.",
    }

    /// `ReadStdout` or `ReadStderr`: answered when there is data, or with the error [`EOF`](super::ttrpc::EOF).
    ReadStreamRequest {
        1 container_id: String => "The container.",
        2 exec_id: String => "The process.",
        3 len: u32 => "Bytes wanted at most.",
    }

    /// Data of a stream, at least one byte.
    ReadStreamResponse {
        1 data: Vec<u8> => "The data.",
    }

    /// Changes a terminal's size.
    TtyWinResizeRequest {
        1 container_id: String => "The container.",
        2 exec_id: String => "The process.",
        3 row: u32 => "Rows.",
        4 column: u32 => "Columns.",
    }

    /// A kernel module to load.
    KernelModule {
        1 name: String => "Its name.",
        2 parameters: Vec<String> => "Its parameters.",
    }

    /// Says what containers share; comes before the first of them.
    CreateSandboxRequest {
        1 hostname: String => "Host name of the sandbox.",
        2 dns: Vec<String> => "Lines or addresses for resolv.conf.",
        3 storages: Vec<Storage> => "Filesystems to mount for all.",
        4 sandbox_pidns: bool => "Whether containers share one pid namespace.",
        5 sandbox_id: String => "The sandbox's name.",
        6 guest_hook_path: String => "Directory of OCI hooks; not supported.",
        7 kernel_modules: Vec<KernelModule> => "Modules to load; the kernel has none.",
        8 guest_userns: bool => "Whether containers share a user namespace.",
    }

    /// Changes the size of tmpfs mounts.
    UpdateEphemeralMountsRequest {
        1 storages: Vec<Storage> => "The mounts.",
    }

    /// Group owner that a volume's files get.
    FsGroup {
        2 group_id: u32 => "The group.",
        3 group_change_policy: i32 => "When.",
    }

    /// A mount point of one container shown in another.
    SharedMount {
        1 name: String => "Its name.",
        2 src_ctr: String => "Container that has it.",
        3 src_path: String => "Path there.",
        4 dst_ctr: String => "Container that gets it.",
        5 dst_path: String => "Path there.",
    }

    /// A filesystem that the guest mounts.
    Storage {
        1 driver: String => "How the source is found: `blk`, `ephemeral`, `overlayfs`, …; `local` is a mere directory.",
        /// Options of the driver. For disks, one for each device that is to be verified with dm-verity:
        /// `verity=SOURCE,ROOT,BLOCKS,START[,SALT]`, where the hash tree begins at block START of the same device.
        2 driver_options: Vec<String>,
        /// The source: a device path, `serial=NAME` for a disk of that serial, `partname=NAME` for the partition of that name,
        /// or a filesystem's own.
        3 source: String,
        4 fstype: String => "Filesystem type.",
        5 options: Vec<String> => "Mount options; an EROFS's `device=` takes what `source` takes.",
        6 mount_point: String => "Where, in the guest; created.",
        7 fs_group: Option<FsGroup> => "Group owner for the files.",
        8 shared: bool => "Whether it outlives the container.",
    }

    /// A device that the guest waits for.
    Device {
        1 id: String => "How it is found.",
        2 r#type: String => "Kind of device.",
        3 vm_path: String => "Its path in the guest.",
        4 container_path: String => "Its path in the container's spec.",
        5 options: Vec<String> => "Options.",
    }

    /// Whom a process runs as, by name or number.
    StringUser {
        1 uid: String => "User.",
        2 gid: String => "Group.",
        3 additional_gids: Vec<String> => "Supplementary groups.",
    }
}
