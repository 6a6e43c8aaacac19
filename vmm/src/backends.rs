//! What devices stand on: disks, networks, shared directories, and the Unix sockets behind vsock. Nothing here knows of KVM or virtio.

pub mod disk;
pub mod fs;
pub mod net;
pub(crate) mod scatter;
pub(crate) mod unix;
