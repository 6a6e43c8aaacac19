//! What nearly every module uses: what `std`'s prelude would bring, the one error, and the kernel's.

pub use alloc::string::String;
pub use alloc::vec::Vec;

#[cfg(feature = "pid1")]
pub use alloc::{format, vec};

#[cfg(feature = "pid1")]
pub use crate::fault::{Context, Fault};
#[cfg(feature = "pid1")]
pub use crate::sys::{Errno, Fd, Result as SysResult};

#[cfg(feature = "pid1")]
pub(crate) use crate::fault::fault;
