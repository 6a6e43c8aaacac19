//! See `ferry_vmm::fuzz`.
#![no_main]

#[path = "../../../images/fuzz/plant.rs"]
mod plant;

libfuzzer_sys::fuzz_target!(init: plant::plant(ferry_vmm::fuzz::seeds("blk")), |bytes: &[u8]| {
    ferry_vmm::fuzz::target("blk", bytes);
});
