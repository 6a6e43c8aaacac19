//! OCI images in, EROFS layers and appliance disks out.
//!
//! [`reference`] reads how people name an image, [`source`] brings it into the [`store`], [`recipe`] builds images from
//! Debian packages. A layer becomes an EROFS image once; an image's [`source::Disk`] joins its layers, and a [`disk`] holds
//! images for a machine that runs them by itself.

mod compression;
pub mod config;
pub mod debian;
pub mod digest;
pub mod disk;
pub mod erofs;
pub mod ext4;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod initrd;
pub mod join;
pub mod layer;
pub mod progress;
pub mod recipe;
pub mod reference;
pub mod registry;
pub mod source;
pub mod store;
pub mod verity;

pub use config::ImageConfig;
pub use digest::{DiffId, Digest};
pub use progress::Progress;
pub use reference::{Grammar, Reference};
pub use registry::Registries;
pub use source::{Disk, Image, Segment};
pub use store::Store;

/// Changes with every line of this crate's source. What is quickly made anew is kept under it, so that nothing is handed
/// out that an older version has written.
pub const CODE: &str = include_str!(concat!(env!("OUT_DIR"), "/code"));

/// Takes everything out of a file that is to be written. One that is empty already is left alone: ext4 takes what is written
/// to a file after it was emptied for the replacement of another, and starts writing all of it to the disk when it is closed.
fn empty(out: &std::fs::File) -> std::io::Result<()> {
    if out.metadata()?.len() == 0 {
        return Ok(());
    }
    out.set_len(0)
}
