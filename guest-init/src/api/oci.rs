//! The OCI runtime specification as the agent API carries it (Kata's `oci.proto`).

use super::protobuf::messages;
use crate::prelude::*;

messages! {
    /// A container.
    Spec {
        1 version: String => "Version of the OCI runtime specification.",
        2 process: Option<Process> => "Its process.",
        3 root: Option<Root> => "Its root filesystem.",
        4 hostname: String => "Its host name.",
        5 mounts: Vec<Mount> => "Mounts on top of the root, in order.",
        6 hooks: Option<Hooks> => "Programs to run at points of its life.",
        7 annotations: Table<String, String> => "Free key and value pairs.",
        8 linux: Option<Linux> => "What is special to Linux.",
    }

    /// A process of a container.
    Process {
        1 terminal: bool => "Whether it gets a terminal instead of three pipes.",
        2 console_size: Option<Box> => "The terminal's first size.",
        3 user: Option<User> => "Whom it runs as.",
        4 args: Vec<String> => "Program and arguments; the program is looked up in `PATH` of the container.",
        5 env: Vec<String> => "Environment, `NAME=value` each.",
        6 cwd: String => "Working directory, inside the container; created when missing.",
        /// Its capabilities; none of the message: what the user change leaves.
        7 capabilities: Option<LinuxCapabilities>,
        8 rlimits: Vec<PosixRlimit> => "Its resource limits.",
        9 no_new_privileges: bool => "Whether set-user-ID files and file capabilities are without effect.",
        10 apparmor_profile: String => "AppArmor profile; the guest has no AppArmor.",
        11 oom_score_adj: i64 => "Added to its badness when memory is short, -1000 to 1000.",
        12 selinux_label: String => "SELinux label; the guest has no SELinux.",
    }

    /// Size of a terminal, in characters.
    Box {
        1 height: u32 => "Rows.",
        2 width: u32 => "Columns.",
    }

    /// Whom a process runs as.
    User {
        1 uid: u32 => "User id.",
        2 gid: u32 => "Group id.",
        3 additional_gids: Vec<u32> => "Supplementary group ids.",
        /// An image's user string (`name`, `uid`, `name:group`, …), to be looked up in the container; overrides the ids.
        4 username: String,
    }

    /// The five capability sets, in names (`CAP_CHOWN`).
    LinuxCapabilities {
        1 bounding: Vec<String> => "What file capabilities and root may give at most.",
        2 effective: Vec<String> => "What the kernel checks.",
        3 inheritable: Vec<String> => "Kept across an exec for files that say so.",
        4 permitted: Vec<String> => "What may become effective.",
        5 ambient: Vec<String> => "Kept across an exec of an ordinary file.",
    }

    /// A resource limit.
    PosixRlimit {
        1 r#type: String => "Its name (`RLIMIT_NOFILE`).",
        2 hard: u64 => "Hard limit; 2^64-1 for none.",
        3 soft: u64 => "Soft limit; 2^64-1 for none.",
    }

    /// A mount inside a container.
    Mount {
        1 destination: String => "Where, inside the container.",
        2 source: String => "What: a path of the guest for a bind mount, otherwise a name.",
        3 r#type: String => "Filesystem type; `bind` or nothing for a bind mount.",
        4 options: Vec<String> => "Options as mount(8) has them.",
    }

    /// A root filesystem.
    Root {
        1 path: String => "Path of the mounted root in the guest.",
        2 readonly: bool => "Whether the container sees it read-only.",
    }

    /// Programs to run at points of a container's life.
    Hooks {
        1 prestart: Vec<Hook> => "Before the process.",
        2 poststart: Vec<Hook> => "After its start.",
        3 poststop: Vec<Hook> => "After its end.",
        4 create_runtime: Vec<Hook> => "At the sandbox's creation.",
        5 create_container: Vec<Hook> => "Before the container's creation.",
        6 start_container: Vec<Hook> => "Before the container's start.",
    }

    /// A program of the guest.
    Hook {
        1 path: String => "Its path.",
        2 args: Vec<String> => "Arguments, its name first.",
        3 env: Vec<String> => "Environment.",
        4 timeout: i64 => "Seconds that it may take.",
    }

    /// What is special to Linux.
    Linux {
        1 uid_mappings: Vec<LinuxIdMapping> => "User ids of a user namespace.",
        2 gid_mappings: Vec<LinuxIdMapping> => "Group ids of a user namespace.",
        3 sysctl: Table<String, String> => "Kernel parameters, by dotted name.",
        4 resources: Option<LinuxResources> => "Limits.",
        5 cgroups_path: String => "The container's cgroup, relative to the mount of cgroup2.",
        6 namespaces: Vec<LinuxNamespace> => "Namespaces to make or to join.",
        7 devices: Vec<LinuxDevice> => "Device nodes besides the default ones.",
        8 seccomp: Option<LinuxSeccomp> => "System call filter.",
        9 rootfs_propagation: String => "Mount propagation of the root.",
        10 masked_paths: Vec<String> => "Paths to hide.",
        11 readonly_paths: Vec<String> => "Paths to make read-only.",
        12 mount_label: String => "SELinux label; the guest has no SELinux.",
        13 intel_rdt: Option<LinuxIntelRdt> => "Cache allocation.",
    }

    /// A range of ids of a user namespace.
    LinuxIdMapping {
        1 host_id: u32 => "First id outside.",
        2 container_id: u32 => "First id inside.",
        3 size: u32 => "How many.",
    }

    /// A namespace to make or to join.
    LinuxNamespace {
        1 r#type: String => "`pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup` or `time`.",
        2 path: String => "A namespace file to join; empty for a new one.",
    }

    /// A device node.
    LinuxDevice {
        1 path: String => "Where, inside the container.",
        2 r#type: String => "`c`, `u`, `b` or `p`.",
        3 major: i64 => "Major number.",
        4 minor: i64 => "Minor number.",
        5 file_mode: u32 => "Permission bits.",
        6 uid: u32 => "Owner.",
        7 gid: u32 => "Group.",
    }

    /// Limits of a container.
    LinuxResources {
        1 devices: Vec<LinuxDeviceCgroup> => "Devices that may be used.",
        2 memory: Option<LinuxMemory> => "Memory.",
        3 cpu: Option<LinuxCpu> => "Processor time.",
        4 pids: Option<LinuxPids> => "Number of tasks.",
        5 block_io: Option<LinuxBlockIo> => "Block devices.",
        6 hugepage_limits: Vec<LinuxHugepageLimit> => "Huge pages.",
        7 network: Option<LinuxNetwork> => "Network classes.",
    }

    /// Memory limits, in bytes; 0 says nothing, -1 no limit.
    LinuxMemory {
        1 limit: i64 => "Limit.",
        2 reservation: i64 => "Soft limit.",
        3 swap: i64 => "Memory and swap together.",
        4 kernel: i64 => "Kernel memory; cgroup v2 has none.",
        5 kernel_tcp: i64 => "TCP buffers; cgroup v2 has none.",
        6 swappiness: u64 => "0 to 100.",
        7 disable_oom_killer: bool => "cgroup v2 has none.",
    }

    /// Processor limits.
    LinuxCpu {
        1 shares: u64 => "Weight among siblings, cgroup v1's 2 to 262144.",
        2 quota: i64 => "Microseconds a period; 0 says nothing, -1 no limit.",
        3 period: u64 => "Microseconds.",
        4 realtime_runtime: i64 => "Microseconds of real-time scheduling a period.",
        5 realtime_period: u64 => "Microseconds.",
        6 cpus: String => "CPUs, as a list.",
        7 mems: String => "Memory nodes, as a list.",
    }

    /// Weight for one block device.
    LinuxWeightDevice {
        1 major: i64 => "Major number.",
        2 minor: i64 => "Minor number.",
        3 weight: u32 => "Weight.",
        4 leaf_weight: u32 => "cgroup v2 has none.",
    }

    /// Limit for one block device.
    LinuxThrottleDevice {
        1 major: i64 => "Major number.",
        2 minor: i64 => "Minor number.",
        3 rate: u64 => "Bytes or operations a second.",
    }

    /// Limits on block devices.
    LinuxBlockIo {
        1 weight: u32 => "Weight, 10 to 1000.",
        2 leaf_weight: u32 => "cgroup v2 has none.",
        3 weight_device: Vec<LinuxWeightDevice> => "Weights by device.",
        4 throttle_read_bps_device: Vec<LinuxThrottleDevice> => "Bytes read a second.",
        5 throttle_write_bps_device: Vec<LinuxThrottleDevice> => "Bytes written a second.",
        6 throttle_read_iops_device: Vec<LinuxThrottleDevice> => "Reads a second.",
        7 throttle_write_iops_device: Vec<LinuxThrottleDevice> => "Writes a second.",
    }

    /// Limit on tasks.
    LinuxPids {
        1 limit: i64 => "How many; 0 says nothing, -1 no limit.",
    }

    /// A rule about device access.
    LinuxDeviceCgroup {
        1 allow: bool => "Whether it allows.",
        2 r#type: String => "`a`, `c` or `b`.",
        3 major: i64 => "Major number; -1 for all.",
        4 minor: i64 => "Minor number; -1 for all.",
        5 access: String => "Some of `rwm`.",
    }

    /// Network classes; cgroup v2 has none.
    LinuxNetwork {
        1 class_id: u32 => "Class.",
        2 priorities: Vec<LinuxInterfacePriority> => "Priorities.",
    }

    /// Limit on one size of huge pages.
    LinuxHugepageLimit {
        1 pagesize: String => "Size, such as `2MB`.",
        2 limit: u64 => "Bytes.",
    }

    /// Priority on an interface.
    LinuxInterfacePriority {
        1 name: String => "Interface.",
        2 priority: u32 => "Priority.",
    }

    /// A system call filter.
    LinuxSeccomp {
        1 default_action: String => "What happens to a call that no rule names (`SCMP_ACT_ERRNO`).",
        2 architectures: Vec<String> => "Architectures (`SCMP_ARCH_X86_64`).",
        3 flags: Vec<String> => "Flags (`SECCOMP_FILTER_FLAG_LOG`).",
        4 syscalls: Vec<LinuxSyscall> => "Rules.",
    }

    /// A condition on one argument.
    LinuxSeccompArg {
        1 index: u64 => "Which argument, 0 to 5.",
        2 value: u64 => "Compared with it.",
        3 value_two: u64 => "Second value of `SCMP_CMP_MASKED_EQ`.",
        4 op: String => "`SCMP_CMP_EQ` and so on.",
    }

    /// A rule.
    LinuxSyscall {
        1 names: Vec<String> => "System calls by name.",
        2 action: String => "What happens.",
        3 errno_ret: Option<u32> => "The error number that `SCMP_ACT_ERRNO` returns.",
        4 args: Vec<LinuxSeccompArg> => "Conditions, all of which must hold.",
    }

    /// Cache allocation.
    LinuxIntelRdt {
        1 l3_cache_schema: String => "The schema.",
    }
}
