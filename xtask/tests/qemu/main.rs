//! Whole images in virtual machines on QEMU without KVM: what a user types, and what must come of it.

#[path = "../road/mod.rs"]
mod road;

mod appliance;
mod errors;
mod hello;
mod hostile;
mod makes;
mod options;
mod pod;
mod python;
mod redis;
mod services;
