//! OCI images in, EROFS layers and appliance disks out.

pub mod debian;
pub mod digest;
pub mod ext4;
pub mod initrd;
pub mod progress;

pub use progress::Progress;
