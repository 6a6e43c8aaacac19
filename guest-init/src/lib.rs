//! PID 1 of a Ferry guest, as a library that the host can test.
//!
//! [`api`] is what both ends of the control channel share; it is always there.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod api;
