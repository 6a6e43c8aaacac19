//! `ferry`: runs container images, each in a virtual machine of its own.
fn main() {}
