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

impl Pages<[u8]> {
    fn bytes(&'static self) -> &'static [u8] {
        // SAFETY: the contents are never written: guest memory takes private copies of the pages.
        unsafe { &*self.0.get() }
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
        Some(pages) => Some(Image::Embedded(pages.bytes())),
        None => env::var_os(variable).filter(|path| !path.is_empty()).map(|path| Image::File(path.into())),
    }
}
