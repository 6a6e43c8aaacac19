//! See `inputs::netlink`.
#![no_main]

#[path = "../inputs.rs"]
#[allow(dead_code)]
mod inputs;
#[path = "../../../images/fuzz/plant.rs"]
mod plant;

libfuzzer_sys::fuzz_target!(init: plant::plant(inputs::seeds("netlink")), |bytes: &[u8]| inputs::netlink(bytes));
