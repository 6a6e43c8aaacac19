//! The guest kernel and initrd: inside the binary when it was built with them, else files named at run time.
//!
//! Embedded images start on a page boundary in a writable section, so that the machine can map their pages
//! copy-on-write straight into guest memory.

use crate::machine::Image;
use std::cell::UnsafeCell;
use std::env;

/// An image whose bytes start on a page boundary of the binary's writable data.
#[repr(C, align(4096))]
struct Pages<T: ?Sized>(UnsafeCell<T>);

// SAFETY: nothing in this process writes through the cell. It is there for the section the linker chooses.
unsafe impl<T: ?Sized> Sync for Pages<T> {}

impl<T> Pages<T> {
    #[allow(dead_code, reason = "unused in a build without embedded images")]
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
}

/// Bytes of this binary that can be mapped copy-on-write into guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Embedded(&'static [u8]);

impl Embedded {
    /// Takes bytes that start on a page boundary; `None` if they do not.
    ///
    /// # Safety
    ///
    /// Up to the end of their last whole page, the bytes are part of the binary's private, writable, file-backed data
    /// and nothing in this process has written or will ever write to them.
    pub unsafe fn new(bytes: &'static [u8]) -> Option<Self> {
        if (bytes.as_ptr() as usize).is_multiple_of(4096) { Some(Self(bytes)) } else { None }
    }

    /// The bytes.
    pub const fn bytes(self) -> &'static [u8] {
        self.0
    }
}

include!(concat!(env!("OUT_DIR"), "/payload.rs"));

/// The guest kernel: the embedded one, else the file that `FERRY_KERNEL` names in the environment.
pub fn kernel() -> Option<Image> {
    choose(KERNEL, "FERRY_KERNEL")
}

/// The initrd: the embedded one, else the file that `FERRY_INITRD` names in the environment.
pub fn initrd() -> Option<Image> {
    choose(INITRD, "FERRY_INITRD")
}

fn choose(embedded: Option<&'static Pages<[u8]>>, variable: &str) -> Option<Image> {
    match embedded {
        // SAFETY: `Pages` lies in writable data, which the linker keeps file-backed, and is never written.
        Some(pages) => unsafe { Embedded::new(&*pages.0.get()) }.map(Image::Embedded),
        None => env::var_os(variable).filter(|path| !path.is_empty()).map(|path| Image::File(path.into())),
    }
}
