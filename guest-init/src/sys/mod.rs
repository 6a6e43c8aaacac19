//! System calls, and nothing above them: the one place where PID 1 meets the kernel by its ABI.
//!
//! Each function is one call with checked arguments; what to do with it is said elsewhere. Most are rows of tables, which
//! `calls!` turns into functions. Numbers and layouts come from `linux-raw-sys` (the kernel's uapi headers) and `syscalls`.

/// Defines functions of one system call each, all with the same result: what they take, and what they hand over.
///
/// For calls that write no memory of ours and read only what their arguments, which outlive them, hold: numbers,
/// descriptors, terminated text, and structures of the kernel's layout.
macro_rules! calls {
    ($result:ty; $(
        $(#[$about:meta])*
        $visible:vis $name:ident($($argument:ident: $type:ty),*) = $call:ident($($value:expr),*);
    )*) => { $(
        $(#[$about])*
        $visible fn $name($($argument: $type),*) -> $result {
            // SAFETY: this is a call of the kind that the table is for.
            $crate::sys::Returned::from(unsafe { syscalls::syscall!(syscalls::Sysno::$call $(, $value)*) })
        }
    )* };
}

/// Text for the kernel, as an argument of a call: it is gone when the call has ended.
macro_rules! text {
    ($text:expr) => {
        $crate::sys::Room::new().hold($text.as_ref())?
    };
}

pub mod bpf;
pub mod event;
pub mod file;
pub mod mapper;
pub mod mount;
pub mod net;
pub mod process;
pub mod terminal;

use alloc::vec::Vec;
use core::mem::MaybeUninit;

pub use syscalls::Errno;

/// What a system call gives.
pub type Result<T> = core::result::Result<T, Errno>;

/// Takes an error that means no harm for success.
pub trait Despite {
    /// Success if this is, or this error: `mkdir(…).despite(Errno::EEXIST)`.
    fn despite(self, harmless: Errno) -> Self;
}

impl Despite for Result<()> {
    fn despite(self, harmless: Errno) -> Self {
        self.or_else(|errno| if errno == harmless { Ok(()) } else { Err(errno) })
    }
}

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

/// What a call gives: success or failure, a new descriptor, or nothing when it cannot fail.
trait Returned {
    fn from(result: Result<usize>) -> Self;
}

impl Returned for Result<()> {
    fn from(result: Result<usize>) -> Self {
        result.map(drop)
    }
}

impl Returned for Result<Fd> {
    fn from(result: Result<usize>) -> Self {
        result.map(Fd::new)
    }
}

impl Returned for () {
    fn from(_: Result<usize>) {}
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours alone; closing it invalidates no memory.
        let _ = unsafe { syscalls::syscall!(syscalls::Sysno::close, self.0) };
    }
}

/// Where text gets a zero behind it. Short text needs no memory but the stack's.
struct Room {
    short: MaybeUninit<[u8; 64]>,
    long: Vec<u8>,
}

impl Room {
    const fn new() -> Room {
        Room { short: MaybeUninit::uninit(), long: Vec::new() }
    }

    /// A path or other text as the kernel takes it; `EINVAL` when it has a zero inside.
    fn hold(&mut self, text: &[u8]) -> Result<*const u8> {
        if text.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let mut place = self.short.as_mut_ptr().cast::<u8>();
        if text.len() >= size_of_val(&self.short) {
            self.long.try_reserve_exact(text.len() + 1).map_err(|_| Errno::ENOMEM)?;
            place = self.long.as_mut_ptr();
        }
        // SAFETY: either place is longer than the text.
        unsafe {
            place.copy_from_nonoverlapping(text.as_ptr(), text.len());
            place.add(text.len()).write(0);
        }
        Ok(place)
    }
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
