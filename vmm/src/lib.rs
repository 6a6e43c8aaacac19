//! The ferry VMM: a library of the machine and its devices, and the `ferry` command above it.
//!
//! [`machine`] is what the guest sees, [`devices`] what it talks to, [`backends`] what those stand on, and
//! [`payload`] the kernel and initrd that the binary carries.

#[cfg(feature = "cli")]
pub mod agent;
pub mod backends;
#[cfg(feature = "cli")]
pub mod cli;
pub mod devices;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod machine;
pub mod payload;
pub mod program;
#[cfg(feature = "cli")]
pub mod runtime;
pub mod sandbox;
