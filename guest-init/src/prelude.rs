//! What nearly every module uses: what `std`'s prelude would bring, the one error, and the kernel's.

pub use alloc::string::String;
pub use alloc::vec::Vec;

/// A small map: entries in a vector, sorted by key. What is kept by key is streams, processes and annotations, few of
/// each, and a tree has ten times the code.
pub use litemap::LiteMap as Table;

#[cfg(feature = "pid1")]
pub use alloc::{format, vec};

#[cfg(feature = "pid1")]
pub use crate::api::protobuf::Message;
#[cfg(feature = "pid1")]
pub use crate::fault::{Context, Fault, Result};
#[cfg(feature = "pid1")]
pub use crate::sys::{Despite, Errno, Fd, Result as SysResult};

#[cfg(feature = "pid1")]
pub(crate) use crate::fault::{fault, refuse_if};
