//! What runs on the bare machine: the guest that tests the devices, and the pieces that a program without an operating
//! system stands on (entry, memory, serial port, device tree).
//!
//! Everything here runs in ring 0 with nothing beneath it. The programs are built for the host's target without SSE
//! (`-C target-feature=-sse,-sse2`), so that they also run where KVM interprets ring 0 instruction by instruction.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod boot_params;
pub mod device_test;
pub mod memory;
pub mod report;
pub mod serial;
pub mod virtio_mmio;
