//! See `ferry_vmm::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    ferry_vmm::fuzz::target("mem", bytes);
});
