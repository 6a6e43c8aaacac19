//! The agent API over the real wire: one guest on QEMU, and every test a client of its PID 1.

#[path = "../road/mod.rs"]
mod road;

mod appliance;
mod beside;
mod calls;
mod debugging;
mod every;
mod fields;
mod foreign;
mod guest;
mod life;
mod many;
mod namespaces;
mod oci;
mod pod;
mod random;
mod roots;
mod scarce;
mod served;
mod wire;
