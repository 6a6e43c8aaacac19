//! OCI images in, EROFS layers and appliance disks out.
