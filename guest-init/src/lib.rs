//! PID 1 of a Ferry guest, as a library that the host can test.
//!
//! [`api`] is what both ends of the control channel share, and [`network_files`] what either may write; they are always
//! there. The rest is PID 1 itself.
#![cfg_attr(not(test), no_std)]

extern crate alloc;
#[cfg(test)]
extern crate self as ferry_init;

#[cfg(feature = "pid1")]
pub mod agent;
pub mod api;
#[cfg(feature = "pid1")]
pub mod fault;
#[cfg(feature = "pid1")]
pub mod guest;
#[cfg(feature = "pid1")]
pub mod heap;
#[cfg(feature = "pid1")]
pub mod netlink;
pub mod network_files;
mod prelude;
#[cfg(feature = "pid1")]
pub mod spec;
#[cfg(feature = "pid1")]
pub mod supervise;
#[cfg(feature = "pid1")]
pub mod sys;

#[cfg(test)]
mod hostile_tests;
