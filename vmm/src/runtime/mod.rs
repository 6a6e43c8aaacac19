//! Containers as their users know them: what an image and its options make of a process ([`oci`]), the guest it runs in
//! ([`guest`]), and what a run leaves behind.
//!
//! Everything but starting a guest is the same for every kind of guest: `ferry` starts one on its own VMM ([`own_vmm`]),
//! the build automation also under QEMU.

pub mod appliance;
pub mod capabilities;
mod check;
pub mod clock;
pub mod command;
pub mod copy;
pub mod cores;
pub mod debug;
mod descriptors;
pub mod details;
pub mod directory;
mod ended;
pub mod environment;
#[cfg(test)]
pub(crate) mod fake_guest;
pub mod groups;
pub mod guest;
pub mod health;
pub mod init_system;
pub mod interrupt;
pub mod limits;
pub mod logs;
pub mod monitor;
pub mod name;
pub mod network;
pub mod oci;
mod oom;
pub mod own_vmm;
pub mod pod;
pub mod record;
pub mod resolver;
pub mod restart;
pub mod run;
pub mod seccomp_profile;
pub mod shape;
mod share_process;
pub mod size;
mod standby;
pub mod state;
pub mod supervise;
mod vm_process;
pub mod volume;
pub mod volumes;

pub use standby::stand_by;

/// Does what this process was started for by another of the same program, a VM or something a VM needs; the first question of
/// every `main`. Its exit status, if it was.
pub fn take_over() -> Option<u8> {
    vm_process::take_over().or_else(share_process::take_over)
}
