//! Shared directories: what stands behind virtio-fs. A helper process of ferry serves one directory (or one file) of the host
//! to one guest, over messages that are copied through a socket.
//!
//! The messages are FUSE's (Linux, include/uapi/linux/fuse.h, version 7.31 and later); [`frame`] is how they travel between
//! the device and the helper. The helper never has guest memory in its hands and the device never has a file of the host, so
//! neither of the two is a way from the guest to more than the one directory. What was decided, and why:
//!
//! - **No DAX window and no vhost-user**: both would put guest memory and host files into one process.
//! - **Writes go through** (no writeback cache): a write that has returned in the guest is the host's, other programs on the
//!   host see it at once, and a helper that dies loses nothing. `mmap` works, shared and writable too: dirty pages are written
//!   at `msync` and at the latest when the last mapping goes.
//! - **What the guest caches**: names and attributes for a second, file contents until the next `open`, or until the file's
//!   size or time of modification is seen to have changed. What is not there is never cached. This is what NFS promises; a
//!   guest sees a file that the host has changed when it opens it, and not a second later.
//! - **Locks are the host's**, POSIX and BSD ones, so that two guests (or a guest and the host) that share a database file
//!   exclude each other. The price: Linux's virtio-fs cannot interrupt a process that waits for one.
//! - **Owners**: started as root, ids are the host's, as with a bind mount. Started as an ordinary user, that user's files are
//!   root's in the guest and the other way round, as in rootless Podman; an owner that the host would not let this user set
//!   is remembered beside the file (see `owners`), so that images which `chown` their data directory run.
//! - **No devices**: a guest cannot make device nodes, and nothing but regular files and directories is ever opened.
//! - **Descriptors are bounded**: a node of the guest is a path that is opened again when needed (see `nodes`), not a
//!   descriptor for as long as the guest remembers it.

#[cfg(feature = "cli")]
mod directory;
pub mod frame;
#[cfg(feature = "cli")]
mod fuzz;
#[cfg(feature = "cli")]
mod locks;
#[cfg(feature = "cli")]
mod nodes;
#[cfg(feature = "cli")]
mod owners;
#[cfg(feature = "cli")]
mod serve;
#[cfg(feature = "cli")]
mod server;
#[cfg(feature = "cli")]
mod wire;

#[cfg(feature = "cli")]
pub use fuzz::fuzz;
#[cfg(feature = "cli")]
pub use owners::give_to;
#[cfg(feature = "cli")]
pub use serve::serve;
#[cfg(feature = "cli")]
pub use server::{Answer, Server, Share};

/// The most file data in one message, in bytes: 64 pages.
pub const MAX_DATA: usize = 256 << 10;
/// The longest message: data and the longest header with its two names.
pub const MAX_MESSAGE: usize = MAX_DATA + 4096;
/// The length of a request's header.
pub const REQUEST_HEADER: usize = 40;
/// The length of an answer's header.
pub const REPLY_HEADER: usize = 16;
