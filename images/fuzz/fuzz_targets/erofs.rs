//! The reader of the store's own images.
#![no_main]

#[path = "../plant.rs"]
mod plant;

libfuzzer_sys::fuzz_target!(init: plant::plant(ferry_images::fuzz::seeds("erofs")), |bytes: &[u8]| {
    ferry_images::fuzz::erofs(bytes);
});
