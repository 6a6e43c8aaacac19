//! What devices stand on: disks, networks, and the Unix sockets behind vsock. Nothing here knows of KVM or virtio.

pub mod disk;
pub mod net;
pub(crate) mod scatter;
pub(crate) mod unix;
