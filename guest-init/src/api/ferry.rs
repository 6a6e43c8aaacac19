//! Messages of the service `ferry.v1.Containers`: what Kata's agent has no call for.
//!
//! Paths are resolved beneath the container's root, as a process in the container would resolve them: no
//! symbolic link, absolute or with `..`, leads out of it. A path that is not there is answered `NOT_FOUND`.

use super::protobuf::messages;
use crate::prelude::*;

messages! {
    /// `ListProcesses`: the processes of a container.
    ListProcessesRequest {
        1 container_id: String => "The container.",
    }

    /// A process.
    ProcessInfo {
        1 pid: u32 => "Its number, in the container's pid namespace.",
        2 ppid: u32 => "Its parent's number there; 0 for a parent outside the container.",
        3 uid: u32 => "Its effective user.",
        4 state: String => "Its state as one letter (proc_pid_stat(5)): `R`, `S`, `D`, `Z`, …",
        5 start_ticks: u64 => "When it started, in clock ticks since boot.",
        6 cpu_ticks: u64 => "Processor time that it used, user and system, in clock ticks.",
        7 rss_bytes: u64 => "Resident memory, in bytes.",
        /// Its arguments; none for a zombie or a process that took them away (show `name` in brackets then).
        8 args: Vec<Vec<u8>>,
        9 name: Vec<u8> => "Its name as the kernel keeps it (15 bytes at most).",
    }

    /// `ListProcesses`'s answer, sorted by pid.
    ListProcessesResponse {
        1 processes: Vec<ProcessInfo> => "The processes.",
        2 ticks_per_second: u32 => "Clock ticks in a second.",
        3 now_ticks: u64 => "Clock ticks since boot, now.",
    }

    /// `StatFile`: what a path is.
    StatFileRequest {
        1 container_id: String => "The container.",
        2 path: Vec<u8> => "The path.",
        3 follow: bool => "Whether a symbolic link at its end is followed.",
    }

    /// `StatFile`'s answer.
    FileInfo {
        1 mode: u32 => "Mode with the type bits (`S_IFMT`).",
        2 uid: u32 => "Owner.",
        3 gid: u32 => "Group.",
        4 size: u64 => "Size, in bytes.",
        5 mtime_ns: i64 => "When it was modified, in nanoseconds since 1970.",
        6 device_major: u32 => "Major number of a device node.",
        7 device_minor: u32 => "Minor number of a device node.",
        8 link_target: Vec<u8> => "Where a symbolic link points.",
        9 inode: u64 => "Number of the file in its filesystem, with `device`: tells hard links of one file.",
        10 device: u64 => "Number of its filesystem.",
        11 links: u64 => "How many hard links it has.",
    }

    /// `ReadDir`: the names in a directory, some at a time.
    ReadDirRequest {
        1 container_id: String => "The container.",
        2 path: Vec<u8> => "The path.",
        3 cursor: u64 => "0, or the `next` of the answer before.",
    }

    /// `ReadDir`'s answer.
    ReadDirResponse {
        1 names: Vec<Vec<u8>> => "Names, `.` and `..` left out; as the filesystem orders them.",
        2 next: u64 => "Where to go on; 0 at the end.",
    }

    /// `ReadFile`: a part of a regular file; anything else is refused.
    ReadFileRequest {
        1 container_id: String => "The container.",
        2 path: Vec<u8> => "The path; a symbolic link at its end is followed.",
        3 offset: u64 => "Where in the file.",
        4 len: u32 => "How many bytes at most; the answer has at most 1 MiB whatever is asked.",
    }

    /// `ReadFile`'s answer.
    ReadFileResponse {
        1 data: Vec<u8> => "The bytes; none at or after the end.",
    }

    /// `KernelLog`: what is in the kernel's log.
    KernelLogRequest {}

    /// `KernelLog`'s answer.
    KernelLogResponse {
        1 text: Vec<u8> => "The newest lines, in order, each as `dmesg` shows it: `[seconds.micros] text`.",
    }
}
