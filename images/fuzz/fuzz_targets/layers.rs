//! Archives as layers of one image.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferry_images::fuzz::layers(bytes));
