//! What an OCI specification says, in the kernel's terms. Nothing here makes a system call.

pub mod annotation;
pub mod bpf;
pub mod capability;
pub mod cgroup;
pub mod device_filter;
pub mod environment;
pub mod limit;
pub mod mount_options;
pub mod seccomp;
pub mod syscall_name;
pub mod user;
pub mod words;
