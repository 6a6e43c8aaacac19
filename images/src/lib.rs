//! OCI images in, EROFS layers and appliance disks out.

pub mod ext4;
pub mod initrd;
