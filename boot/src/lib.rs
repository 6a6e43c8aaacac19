//! Firmware that finds, verifies and enters a kernel; also the guest that tests the devices.
#![cfg_attr(not(test), no_std)]
