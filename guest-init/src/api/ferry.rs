//! Messages of the service `ferry.v1.Containers`: what Kata's agent has no call for.
//!
//! Paths are resolved beneath the container's root, as a process in the container would resolve them: no
//! symbolic link, absolute or with `..`, leads out of it.

use alloc::string::String;
use alloc::vec::Vec;

/// `ListProcesses`: the processes of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListProcessesRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// A process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessInfo {
    /// Its number, in the container's pid namespace.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// Its parent's number there; 0 for a parent outside the container.
    #[prost(uint32, tag = "2")]
    pub ppid: u32,
    /// Its effective user.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Its state as one letter (proc_pid_stat(5)): `R`, `S`, `D`, `Z`, …
    #[prost(string, tag = "4")]
    pub state: String,
    /// When it started, in clock ticks since boot.
    #[prost(uint64, tag = "5")]
    pub start_ticks: u64,
    /// Processor time that it used, user and system, in clock ticks.
    #[prost(uint64, tag = "6")]
    pub cpu_ticks: u64,
    /// Resident memory, in bytes.
    #[prost(uint64, tag = "7")]
    pub rss_bytes: u64,
    /// Its arguments; none for a zombie or a process that took them away (show `name` in brackets then).
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub args: Vec<Vec<u8>>,
    /// Its name as the kernel keeps it (15 bytes at most).
    #[prost(bytes = "vec", tag = "9")]
    pub name: Vec<u8>,
}

/// `ListProcesses`'s answer, sorted by pid.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListProcessesResponse {
    /// The processes.
    #[prost(message, repeated, tag = "1")]
    pub processes: Vec<ProcessInfo>,
    /// Clock ticks in a second.
    #[prost(uint32, tag = "2")]
    pub ticks_per_second: u32,
    /// Clock ticks since boot, now.
    #[prost(uint64, tag = "3")]
    pub now_ticks: u64,
}

/// `StatFile`: what a path is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatFileRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The path.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
    /// Whether a symbolic link at its end is followed.
    #[prost(bool, tag = "3")]
    pub follow: bool,
}

/// `StatFile`'s answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileInfo {
    /// Mode with the type bits (`S_IFMT`).
    #[prost(uint32, tag = "1")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "2")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "3")]
    pub gid: u32,
    /// Size, in bytes.
    #[prost(uint64, tag = "4")]
    pub size: u64,
    /// When it was modified, in nanoseconds since 1970.
    #[prost(sint64, tag = "5")]
    pub mtime_ns: i64,
    /// Major number of a device node.
    #[prost(uint32, tag = "6")]
    pub device_major: u32,
    /// Minor number of a device node.
    #[prost(uint32, tag = "7")]
    pub device_minor: u32,
    /// Where a symbolic link points.
    #[prost(bytes = "vec", tag = "8")]
    pub link_target: Vec<u8>,
    /// Number of the file in its filesystem, with `device`: tells hard links of one file.
    #[prost(uint64, tag = "9")]
    pub inode: u64,
    /// Number of its filesystem.
    #[prost(uint64, tag = "10")]
    pub device: u64,
    /// How many hard links it has.
    #[prost(uint64, tag = "11")]
    pub links: u64,
}

/// `ReadDir`: the names in a directory, some at a time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadDirRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The path.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
    /// 0, or the `next` of the answer before.
    #[prost(uint64, tag = "3")]
    pub cursor: u64,
}

/// `ReadDir`'s answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadDirResponse {
    /// Names, `.` and `..` left out; as the filesystem orders them.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub names: Vec<Vec<u8>>,
    /// Where to go on; 0 at the end.
    #[prost(uint64, tag = "2")]
    pub next: u64,
}

/// `ReadFile`: a part of a regular file; anything else is refused.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadFileRequest {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The path; a symbolic link at its end is followed.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
    /// Where in the file.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// How many bytes at most; the answer has at most 1 MiB whatever is asked.
    #[prost(uint32, tag = "4")]
    pub len: u32,
}

/// `ReadFile`'s answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadFileResponse {
    /// The bytes; none at or after the end.
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
}

/// `KernelLog`: what is in the kernel's log.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct KernelLogRequest {}

/// `KernelLog`'s answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KernelLogResponse {
    /// The newest lines, in order, each as `dmesg` shows it: `[seconds.micros] text`.
    #[prost(bytes = "vec", tag = "1")]
    pub text: Vec<u8>,
}
