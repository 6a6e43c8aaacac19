//! A container that tries to reach PID 1.

use crate::road::image::{Image, Packing};
use crate::road::tarball::Tarball;
use crate::road::{on_qemu, program};

#[test]
fn a_container_reaches_neither_the_control_channel_nor_vsock() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut layer = Tarball::new();
    layer.program("hostile", &std::fs::read(program::hostile()).expect("the program"));
    Image::new(&["/hostile"]).layer(layer, Packing::Plain).write_layout(directory.path(), "hostile");
    let reference = format!("oci:{}:hostile", directory.path().display());
    // EAFNOSUPPORT, ENOSYS, EPERM; PID 1 has the one port that there is.
    on_qemu(&[&reference]).run().exits(0).prints(
        "socket 97\nsocket with noise in its upper half 97\nx32 socket 38\nio_uring 1\nports refused\n",
    );
}
