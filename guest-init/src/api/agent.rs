//! Messages of the service `grpc.AgentService` about containers, processes and the sandbox (Kata's `agent.proto`).
//!
//! `exec_id` names a process of a container. The container's first process goes by the container's own id
//! (or by the empty string, except for `SignalProcess`, where that means every process).

use alloc::string::String;
use alloc::vec::Vec;

use super::oci::{LinuxResources, Process, Spec};
use super::types::FsGroupChangePolicy;

/// The empty message that calls without an answer of their own answer (`google.protobuf.Empty`).
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Empty {}

/// `DestroySandbox`: stop everything, unmount, sync, then reset the machine.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct DestroySandboxRequest {}

/// Makes a container: mounts its storages and prepares its process, which waits for `StartContainer`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateContainerRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Name of its first process; empty for the container's.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// Whom the process runs as, by name; the spec's `Username` does the same.
    #[prost(message, optional, tag = "3")]
    pub string_user: Option<StringUser>,
    /// Devices to wait for and to rename in the spec.
    #[prost(message, repeated, tag = "4")]
    pub devices: Vec<Device>,
    /// Filesystems to mount in the guest, in order.
    #[prost(message, repeated, tag = "5")]
    pub storages: Vec<Storage>,
    /// The container.
    #[prost(message, optional, tag = "6")]
    pub oci: Option<Spec>,
    /// Whether it shares the sandbox's pid namespace, whatever the spec says.
    #[prost(bool, tag = "7")]
    pub sandbox_pidns: bool,
    /// Mounts shared with other containers.
    #[prost(message, repeated, tag = "8")]
    pub shared_mounts: Vec<SharedMount>,
    /// Host port of a passed stdin stream; 0 for none.
    #[prost(uint32, tag = "9")]
    pub stdin_port: u32,
    /// Host port of a passed stdout stream; 0 for none.
    #[prost(uint32, tag = "10")]
    pub stdout_port: u32,
    /// Host port of a passed stderr stream; 0 for none.
    #[prost(uint32, tag = "11")]
    pub stderr_port: u32,
}

/// Lets a made container's process begin.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StartContainerRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Kills what is left of a container and releases what it holds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemoveContainerRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Seconds to wait for its processes; 0 for ever.
    #[prost(uint32, tag = "2")]
    pub timeout: u32,
}

/// Starts another process in a running container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecProcessRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The process's name.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// Whom it runs as, by name.
    #[prost(message, optional, tag = "3")]
    pub string_user: Option<StringUser>,
    /// The process.
    #[prost(message, optional, tag = "4")]
    pub process: Option<Process>,
    /// Host port of a passed stdin stream; 0 for none.
    #[prost(uint32, tag = "5")]
    pub stdin_port: u32,
    /// Host port of a passed stdout stream; 0 for none.
    #[prost(uint32, tag = "6")]
    pub stdout_port: u32,
    /// Host port of a passed stderr stream; 0 for none.
    #[prost(uint32, tag = "7")]
    pub stderr_port: u32,
}

/// Sends a signal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignalProcessRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The process; empty for every process of the container.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// Signal number.
    #[prost(uint32, tag = "3")]
    pub signal: u32,
}

/// Answered when a process has ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WaitProcessRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The process.
    #[prost(string, tag = "2")]
    pub exec_id: String,
}

/// How a process ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WaitProcessResponse {
    /// Exit status, or 128+N for signal N.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// Changes a container's limits.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateContainerRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The limits to change.
    #[prost(message, optional, tag = "2")]
    pub resources: Option<LinuxResources>,
}

/// Asks for a container's counters.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatsContainerRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Freezes a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PauseContainerRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Thaws a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResumeContainerRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// `WriteStdin`: answered when some of the data is written.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteStreamRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The process.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// The data.
    #[prost(bytes = "vec", tag = "3")]
    pub data: Vec<u8>,
}

/// How much `WriteStdin` took.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteStreamResponse {
    /// Bytes.
    #[prost(uint32, tag = "1")]
    pub len: u32,
}

/// `ReadStdout` or `ReadStderr`: answered when there is data, or with the error [`EOF`](super::ttrpc::EOF).
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadStreamRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The process.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// Bytes wanted at most.
    #[prost(uint32, tag = "3")]
    pub len: u32,
}

/// Data of a stream, at least one byte.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadStreamResponse {
    /// The data.
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
}

/// Closes a process's stdin once what was written before is through.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CloseStdinRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The process.
    #[prost(string, tag = "2")]
    pub exec_id: String,
}

/// Changes a terminal's size.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TtyWinResizeRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The process.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// Rows.
    #[prost(uint32, tag = "3")]
    pub row: u32,
    /// Columns.
    #[prost(uint32, tag = "4")]
    pub column: u32,
}

/// A kernel module to load.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KernelModule {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its parameters.
    #[prost(string, repeated, tag = "2")]
    pub parameters: Vec<String>,
}

/// Says what containers share; comes before the first of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateSandboxRequest {
    /// Host name of the sandbox.
    #[prost(string, tag = "1")]
    pub hostname: String,
    /// Lines or addresses for resolv.conf.
    #[prost(string, repeated, tag = "2")]
    pub dns: Vec<String>,
    /// Filesystems to mount for all.
    #[prost(message, repeated, tag = "3")]
    pub storages: Vec<Storage>,
    /// Whether containers share one pid namespace.
    #[prost(bool, tag = "4")]
    pub sandbox_pidns: bool,
    /// The sandbox's name.
    #[prost(string, tag = "5")]
    pub sandbox_id: String,
    /// Directory of OCI hooks; not supported.
    #[prost(string, tag = "6")]
    pub guest_hook_path: String,
    /// Modules to load; the kernel has none.
    #[prost(message, repeated, tag = "7")]
    pub kernel_modules: Vec<KernelModule>,
    /// Whether containers share a user namespace.
    #[prost(bool, tag = "8")]
    pub guest_userns: bool,
}

/// Changes the size of tmpfs mounts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateEphemeralMountsRequest {
    /// The mounts.
    #[prost(message, repeated, tag = "1")]
    pub storages: Vec<Storage>,
}

/// Group owner that a volume's files get.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsGroup {
    /// The group.
    #[prost(uint32, tag = "2")]
    pub group_id: u32,
    /// When.
    #[prost(enumeration = "FsGroupChangePolicy", tag = "3")]
    pub group_change_policy: i32,
}

/// A mount point of one container shown in another.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SharedMount {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Container that has it.
    #[prost(string, tag = "2")]
    pub src_ctr: String,
    /// Path there.
    #[prost(string, tag = "3")]
    pub src_path: String,
    /// Container that gets it.
    #[prost(string, tag = "4")]
    pub dst_ctr: String,
    /// Path there.
    #[prost(string, tag = "5")]
    pub dst_path: String,
}

/// A filesystem that the guest mounts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Storage {
    /// How the source is found: `mmioblk`, `ephemeral`, `overlayfs`, …
    #[prost(string, tag = "1")]
    pub driver: String,
    /// Options of the driver.
    #[prost(string, repeated, tag = "2")]
    pub driver_options: Vec<String>,
    /// The source: a device path, `serial=NAME` for a disk of that serial, or a filesystem's own.
    #[prost(string, tag = "3")]
    pub source: String,
    /// Filesystem type.
    #[prost(string, tag = "4")]
    pub fstype: String,
    /// Mount options.
    #[prost(string, repeated, tag = "5")]
    pub options: Vec<String>,
    /// Where, in the guest; created.
    #[prost(string, tag = "6")]
    pub mount_point: String,
    /// Group owner for the files.
    #[prost(message, optional, tag = "7")]
    pub fs_group: Option<FsGroup>,
    /// Whether it outlives the container.
    #[prost(bool, tag = "8")]
    pub shared: bool,
}

/// A device that the guest waits for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Device {
    /// How it is found.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Kind of device.
    #[prost(string, tag = "2")]
    pub r#type: String,
    /// Its path in the guest.
    #[prost(string, tag = "3")]
    pub vm_path: String,
    /// Its path in the container's spec.
    #[prost(string, tag = "4")]
    pub container_path: String,
    /// Options.
    #[prost(string, repeated, tag = "5")]
    pub options: Vec<String>,
}

/// Whom a process runs as, by name or number.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringUser {
    /// User.
    #[prost(string, tag = "1")]
    pub uid: String,
    /// Group.
    #[prost(string, tag = "2")]
    pub gid: String,
    /// Supplementary groups.
    #[prost(string, repeated, tag = "3")]
    pub additional_gids: Vec<String>,
}
