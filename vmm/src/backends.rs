//! What devices stand on: disks, and the Unix sockets behind vsock. Nothing here knows of KVM or virtio.

pub mod disk;
pub(crate) mod scatter;
pub(crate) mod unix;
