//! The devices a guest talks to. None of them knows of KVM: they see guest memory, queues and an interrupt handle.

pub mod bus;
pub mod panic;
pub mod reactor;
pub mod reset;
pub mod serial;
pub mod virtio;
pub mod vmgenid;
