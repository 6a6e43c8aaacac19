//! Archives as layers of one image.
#![no_main]

#[path = "../plant.rs"]
mod plant;

libfuzzer_sys::fuzz_target!(init: plant::plant(ferry_images::fuzz::seeds("layers")), |bytes: &[u8]| {
    ferry_images::fuzz::layers(bytes);
});
