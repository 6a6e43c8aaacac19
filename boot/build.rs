//! Links the programs as bare-metal images: no C library, no start files, at the address they run at.

/// Where a program lies in guest memory: 16 MiB, as a Linux kernel does, so that the VMM needs no second rule.
const LOAD_ADDRESS: &str = "0x1000000";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        "-Wl,-z,norelro",
        "-Wl,--gc-sections",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-Wl,--image-base={LOAD_ADDRESS}");
}
