//! The reader of the store's own images.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferry_images::fuzz::erofs(bytes));
