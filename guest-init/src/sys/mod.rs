//! System calls, and nothing above them: the one place where PID 1 meets the kernel by its ABI.
//!
//! Each function is one call with checked arguments; what to do with it is said elsewhere. Numbers and
//! layouts come from `linux-raw-sys` (the kernel's uapi headers) and `syscalls`.

pub mod bpf;
pub mod event;
pub mod file;
pub mod mapper;
pub mod mount;
pub mod net;
pub mod process;
pub mod terminal;

use alloc::ffi::CString;

pub use syscalls::Errno;

/// What a system call gives.
pub type Result<T> = core::result::Result<T, Errno>;

/// A file descriptor that is closed when dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct Fd(i32);

impl Fd {
    /// Takes ownership of an open descriptor.
    fn new(raw: usize) -> Fd {
        Fd(raw as i32)
    }

    /// Its number, which stays owned by `self`.
    pub fn raw(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours alone; closing it invalidates no memory.
        let _ = unsafe { syscalls::syscall!(syscalls::Sysno::close, self.0) };
    }
}

/// A path (or other text) as the kernel takes it; `EINVAL` when it has a NUL inside.
pub fn cstr(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

/// Repeats a call that a signal interrupted.
fn uninterrupted<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => continue,
            other => return other,
        }
    }
}
