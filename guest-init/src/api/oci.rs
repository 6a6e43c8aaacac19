//! The OCI runtime specification as the agent API carries it (Kata's `oci.proto`).

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Spec {
    /// Version of the OCI runtime specification.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Its process.
    #[prost(message, optional, tag = "2")]
    pub process: Option<Process>,
    /// Its root filesystem.
    #[prost(message, optional, tag = "3")]
    pub root: Option<Root>,
    /// Its host name.
    #[prost(string, tag = "4")]
    pub hostname: String,
    /// Mounts on top of the root, in order.
    #[prost(message, repeated, tag = "5")]
    pub mounts: Vec<Mount>,
    /// Programs to run at points of its life.
    #[prost(message, optional, tag = "6")]
    pub hooks: Option<Hooks>,
    /// Free key and value pairs.
    #[prost(btree_map = "string, string", tag = "7")]
    pub annotations: BTreeMap<String, String>,
    /// What is special to Linux.
    #[prost(message, optional, tag = "8")]
    pub linux: Option<Linux>,
    /// Never used.
    #[prost(message, optional, tag = "9")]
    pub solaris: Option<Solaris>,
    /// Never used.
    #[prost(message, optional, tag = "10")]
    pub windows: Option<Windows>,
}

/// A process of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Process {
    /// Whether it gets a terminal instead of three pipes.
    #[prost(bool, tag = "1")]
    pub terminal: bool,
    /// The terminal's first size.
    #[prost(message, optional, tag = "2")]
    pub console_size: Option<Box>,
    /// Whom it runs as.
    #[prost(message, optional, tag = "3")]
    pub user: Option<User>,
    /// Program and arguments; the program is looked up in `PATH` of the container.
    #[prost(string, repeated, tag = "4")]
    pub args: Vec<String>,
    /// Environment, `NAME=value` each.
    #[prost(string, repeated, tag = "5")]
    pub env: Vec<String>,
    /// Working directory, inside the container; created when missing.
    #[prost(string, tag = "6")]
    pub cwd: String,
    /// Its capabilities; none of the message: what the user change leaves.
    #[prost(message, optional, tag = "7")]
    pub capabilities: Option<LinuxCapabilities>,
    /// Its resource limits.
    #[prost(message, repeated, tag = "8")]
    pub rlimits: Vec<PosixRlimit>,
    /// Whether set-user-ID files and file capabilities are without effect.
    #[prost(bool, tag = "9")]
    pub no_new_privileges: bool,
    /// AppArmor profile; the guest has no AppArmor.
    #[prost(string, tag = "10")]
    pub apparmor_profile: String,
    /// Added to its badness when memory is short, -1000 to 1000.
    #[prost(int64, tag = "11")]
    pub oom_score_adj: i64,
    /// SELinux label; the guest has no SELinux.
    #[prost(string, tag = "12")]
    pub selinux_label: String,
}

/// Size of a terminal, in characters.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Box {
    /// Rows.
    #[prost(uint32, tag = "1")]
    pub height: u32,
    /// Columns.
    #[prost(uint32, tag = "2")]
    pub width: u32,
}

/// Whom a process runs as.
#[derive(Clone, PartialEq, prost::Message)]
pub struct User {
    /// User id.
    #[prost(uint32, tag = "1")]
    pub uid: u32,
    /// Group id.
    #[prost(uint32, tag = "2")]
    pub gid: u32,
    /// Supplementary group ids.
    #[prost(uint32, repeated, tag = "3")]
    pub additional_gids: Vec<u32>,
    /// An image's user string (`name`, `uid`, `name:group`, …), to be looked up in the container; overrides the ids.
    #[prost(string, tag = "4")]
    pub username: String,
}

/// The five capability sets, in names (`CAP_CHOWN`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxCapabilities {
    /// What file capabilities and root may give at most.
    #[prost(string, repeated, tag = "1")]
    pub bounding: Vec<String>,
    /// What the kernel checks.
    #[prost(string, repeated, tag = "2")]
    pub effective: Vec<String>,
    /// Kept across an exec for files that say so.
    #[prost(string, repeated, tag = "3")]
    pub inheritable: Vec<String>,
    /// What may become effective.
    #[prost(string, repeated, tag = "4")]
    pub permitted: Vec<String>,
    /// Kept across an exec of an ordinary file.
    #[prost(string, repeated, tag = "5")]
    pub ambient: Vec<String>,
}

/// A resource limit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PosixRlimit {
    /// Its name (`RLIMIT_NOFILE`).
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// Hard limit; 2^64-1 for none.
    #[prost(uint64, tag = "2")]
    pub hard: u64,
    /// Soft limit; 2^64-1 for none.
    #[prost(uint64, tag = "3")]
    pub soft: u64,
}

/// A mount inside a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mount {
    /// Where, inside the container.
    #[prost(string, tag = "1")]
    pub destination: String,
    /// What: a path of the guest for a bind mount, otherwise a name.
    #[prost(string, tag = "2")]
    pub source: String,
    /// Filesystem type; `bind` or nothing for a bind mount.
    #[prost(string, tag = "3")]
    pub r#type: String,
    /// Options as mount(8) has them.
    #[prost(string, repeated, tag = "4")]
    pub options: Vec<String>,
}

/// A root filesystem.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Root {
    /// Path of the mounted root in the guest.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Whether the container sees it read-only.
    #[prost(bool, tag = "2")]
    pub readonly: bool,
}

/// Programs to run at points of a container's life.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hooks {
    /// Before the process.
    #[prost(message, repeated, tag = "1")]
    pub prestart: Vec<Hook>,
    /// After its start.
    #[prost(message, repeated, tag = "2")]
    pub poststart: Vec<Hook>,
    /// After its end.
    #[prost(message, repeated, tag = "3")]
    pub poststop: Vec<Hook>,
    /// At the sandbox's creation.
    #[prost(message, repeated, tag = "4")]
    pub create_runtime: Vec<Hook>,
    /// Before the container's creation.
    #[prost(message, repeated, tag = "5")]
    pub create_container: Vec<Hook>,
    /// Before the container's start.
    #[prost(message, repeated, tag = "6")]
    pub start_container: Vec<Hook>,
}

/// A program of the guest.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hook {
    /// Its path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Arguments, its name first.
    #[prost(string, repeated, tag = "2")]
    pub args: Vec<String>,
    /// Environment.
    #[prost(string, repeated, tag = "3")]
    pub env: Vec<String>,
    /// Seconds that it may take.
    #[prost(int64, tag = "4")]
    pub timeout: i64,
}

/// What is special to Linux.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Linux {
    /// User ids of a user namespace.
    #[prost(message, repeated, tag = "1")]
    pub uid_mappings: Vec<LinuxIdMapping>,
    /// Group ids of a user namespace.
    #[prost(message, repeated, tag = "2")]
    pub gid_mappings: Vec<LinuxIdMapping>,
    /// Kernel parameters, by dotted name.
    #[prost(btree_map = "string, string", tag = "3")]
    pub sysctl: BTreeMap<String, String>,
    /// Limits.
    #[prost(message, optional, tag = "4")]
    pub resources: Option<LinuxResources>,
    /// The container's cgroup, relative to the mount of cgroup2.
    #[prost(string, tag = "5")]
    pub cgroups_path: String,
    /// Namespaces to make or to join.
    #[prost(message, repeated, tag = "6")]
    pub namespaces: Vec<LinuxNamespace>,
    /// Device nodes besides the default ones.
    #[prost(message, repeated, tag = "7")]
    pub devices: Vec<LinuxDevice>,
    /// System call filter.
    #[prost(message, optional, tag = "8")]
    pub seccomp: Option<LinuxSeccomp>,
    /// Mount propagation of the root.
    #[prost(string, tag = "9")]
    pub rootfs_propagation: String,
    /// Paths to hide.
    #[prost(string, repeated, tag = "10")]
    pub masked_paths: Vec<String>,
    /// Paths to make read-only.
    #[prost(string, repeated, tag = "11")]
    pub readonly_paths: Vec<String>,
    /// SELinux label; the guest has no SELinux.
    #[prost(string, tag = "12")]
    pub mount_label: String,
    /// Cache allocation.
    #[prost(message, optional, tag = "13")]
    pub intel_rdt: Option<LinuxIntelRdt>,
}

/// Never used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Windows {
    /// Never used.
    #[prost(string, tag = "1")]
    pub dummy: String,
}

/// Never used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Solaris {
    /// Never used.
    #[prost(string, tag = "1")]
    pub dummy: String,
}

/// A range of ids of a user namespace.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxIdMapping {
    /// First id outside.
    #[prost(uint32, tag = "1")]
    pub host_id: u32,
    /// First id inside.
    #[prost(uint32, tag = "2")]
    pub container_id: u32,
    /// How many.
    #[prost(uint32, tag = "3")]
    pub size: u32,
}

/// A namespace to make or to join.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxNamespace {
    /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup` or `time`.
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// A namespace file to join; empty for a new one.
    #[prost(string, tag = "2")]
    pub path: String,
}

/// A device node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxDevice {
    /// Where, inside the container.
    #[prost(string, tag = "1")]
    pub path: String,
    /// `c`, `u`, `b` or `p`.
    #[prost(string, tag = "2")]
    pub r#type: String,
    /// Major number.
    #[prost(int64, tag = "3")]
    pub major: i64,
    /// Minor number.
    #[prost(int64, tag = "4")]
    pub minor: i64,
    /// Permission bits.
    #[prost(uint32, tag = "5")]
    pub file_mode: u32,
    /// Owner.
    #[prost(uint32, tag = "6")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "7")]
    pub gid: u32,
}

/// Limits of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxResources {
    /// Devices that may be used.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<LinuxDeviceCgroup>,
    /// Memory.
    #[prost(message, optional, tag = "2")]
    pub memory: Option<LinuxMemory>,
    /// Processor time.
    #[prost(message, optional, tag = "3")]
    pub cpu: Option<LinuxCpu>,
    /// Number of tasks.
    #[prost(message, optional, tag = "4")]
    pub pids: Option<LinuxPids>,
    /// Block devices.
    #[prost(message, optional, tag = "5")]
    pub block_io: Option<LinuxBlockIo>,
    /// Huge pages.
    #[prost(message, repeated, tag = "6")]
    pub hugepage_limits: Vec<LinuxHugepageLimit>,
    /// Network classes.
    #[prost(message, optional, tag = "7")]
    pub network: Option<LinuxNetwork>,
}

/// Memory limits, in bytes; 0 says nothing, -1 no limit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxMemory {
    /// Limit.
    #[prost(int64, tag = "1")]
    pub limit: i64,
    /// Soft limit.
    #[prost(int64, tag = "2")]
    pub reservation: i64,
    /// Memory and swap together.
    #[prost(int64, tag = "3")]
    pub swap: i64,
    /// Kernel memory; cgroup v2 has none.
    #[prost(int64, tag = "4")]
    pub kernel: i64,
    /// TCP buffers; cgroup v2 has none.
    #[prost(int64, tag = "5")]
    pub kernel_tcp: i64,
    /// 0 to 100.
    #[prost(uint64, tag = "6")]
    pub swappiness: u64,
    /// cgroup v2 has none.
    #[prost(bool, tag = "7")]
    pub disable_oom_killer: bool,
}

/// Processor limits.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxCpu {
    /// Weight among siblings, cgroup v1's 2 to 262144.
    #[prost(uint64, tag = "1")]
    pub shares: u64,
    /// Microseconds a period; 0 says nothing, -1 no limit.
    #[prost(int64, tag = "2")]
    pub quota: i64,
    /// Microseconds.
    #[prost(uint64, tag = "3")]
    pub period: u64,
    /// Microseconds of real-time scheduling a period.
    #[prost(int64, tag = "4")]
    pub realtime_runtime: i64,
    /// Microseconds.
    #[prost(uint64, tag = "5")]
    pub realtime_period: u64,
    /// CPUs, as a list.
    #[prost(string, tag = "6")]
    pub cpus: String,
    /// Memory nodes, as a list.
    #[prost(string, tag = "7")]
    pub mems: String,
}

/// Weight for one block device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxWeightDevice {
    /// Major number.
    #[prost(int64, tag = "1")]
    pub major: i64,
    /// Minor number.
    #[prost(int64, tag = "2")]
    pub minor: i64,
    /// Weight.
    #[prost(uint32, tag = "3")]
    pub weight: u32,
    /// cgroup v2 has none.
    #[prost(uint32, tag = "4")]
    pub leaf_weight: u32,
}

/// Limit for one block device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxThrottleDevice {
    /// Major number.
    #[prost(int64, tag = "1")]
    pub major: i64,
    /// Minor number.
    #[prost(int64, tag = "2")]
    pub minor: i64,
    /// Bytes or operations a second.
    #[prost(uint64, tag = "3")]
    pub rate: u64,
}

/// Limits on block devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxBlockIo {
    /// Weight, 10 to 1000.
    #[prost(uint32, tag = "1")]
    pub weight: u32,
    /// cgroup v2 has none.
    #[prost(uint32, tag = "2")]
    pub leaf_weight: u32,
    /// Weights by device.
    #[prost(message, repeated, tag = "3")]
    pub weight_device: Vec<LinuxWeightDevice>,
    /// Bytes read a second.
    #[prost(message, repeated, tag = "4")]
    pub throttle_read_bps_device: Vec<LinuxThrottleDevice>,
    /// Bytes written a second.
    #[prost(message, repeated, tag = "5")]
    pub throttle_write_bps_device: Vec<LinuxThrottleDevice>,
    /// Reads a second.
    #[prost(message, repeated, tag = "6")]
    pub throttle_read_iops_device: Vec<LinuxThrottleDevice>,
    /// Writes a second.
    #[prost(message, repeated, tag = "7")]
    pub throttle_write_iops_device: Vec<LinuxThrottleDevice>,
}

/// Limit on tasks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxPids {
    /// How many; 0 says nothing, -1 no limit.
    #[prost(int64, tag = "1")]
    pub limit: i64,
}

/// A rule about device access.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxDeviceCgroup {
    /// Whether it allows.
    #[prost(bool, tag = "1")]
    pub allow: bool,
    /// `a`, `c` or `b`.
    #[prost(string, tag = "2")]
    pub r#type: String,
    /// Major number; -1 for all.
    #[prost(int64, tag = "3")]
    pub major: i64,
    /// Minor number; -1 for all.
    #[prost(int64, tag = "4")]
    pub minor: i64,
    /// Some of `rwm`.
    #[prost(string, tag = "5")]
    pub access: String,
}

/// Network classes; cgroup v2 has none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxNetwork {
    /// Class.
    #[prost(uint32, tag = "1")]
    pub class_id: u32,
    /// Priorities.
    #[prost(message, repeated, tag = "2")]
    pub priorities: Vec<LinuxInterfacePriority>,
}

/// Limit on one size of huge pages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxHugepageLimit {
    /// Size, such as `2MB`.
    #[prost(string, tag = "1")]
    pub pagesize: String,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub limit: u64,
}

/// Priority on an interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxInterfacePriority {
    /// Interface.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Priority.
    #[prost(uint32, tag = "2")]
    pub priority: u32,
}

/// A system call filter.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxSeccomp {
    /// What happens to a call that no rule names (`SCMP_ACT_ERRNO`).
    #[prost(string, tag = "1")]
    pub default_action: String,
    /// Architectures (`SCMP_ARCH_X86_64`).
    #[prost(string, repeated, tag = "2")]
    pub architectures: Vec<String>,
    /// Flags (`SECCOMP_FILTER_FLAG_LOG`).
    #[prost(string, repeated, tag = "3")]
    pub flags: Vec<String>,
    /// Rules.
    #[prost(message, repeated, tag = "4")]
    pub syscalls: Vec<LinuxSyscall>,
}

/// A condition on one argument.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxSeccompArg {
    /// Which argument, 0 to 5.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Compared with it.
    #[prost(uint64, tag = "2")]
    pub value: u64,
    /// Second value of `SCMP_CMP_MASKED_EQ`.
    #[prost(uint64, tag = "3")]
    pub value_two: u64,
    /// `SCMP_CMP_EQ` and so on.
    #[prost(string, tag = "4")]
    pub op: String,
}

/// A rule.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxSyscall {
    /// System calls by name.
    #[prost(string, repeated, tag = "1")]
    pub names: Vec<String>,
    /// What happens.
    #[prost(string, tag = "2")]
    pub action: String,
    /// The error number that `SCMP_ACT_ERRNO` returns.
    #[prost(uint32, optional, tag = "3")]
    pub errno_ret: Option<u32>,
    /// Conditions, all of which must hold.
    #[prost(message, repeated, tag = "4")]
    pub args: Vec<LinuxSeccompArg>,
}

/// Cache allocation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxIntelRdt {
    /// The schema.
    #[prost(string, tag = "1")]
    pub l3_cache_schema: String,
}
