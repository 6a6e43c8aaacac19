//! How the program is linked: static, without a C library, at fixed addresses, reproducibly.

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
        "-Wl,--icf=all",
        "-Wl,--strip-all",
        "-Wl,-z,nosectionheader",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rerun-if-changed=discard.ld");
    // A copy of the linker script, since a target directory may outlive the checkout that it was filled from.
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    let script = std::path::Path::new(&out).join("discard.ld");
    std::fs::copy("discard.ld", &script).expect("OUT_DIR is writable");
    // One word to the linker each, whatever is in the path.
    for word in ["-T", &script.display().to_string()] {
        println!("cargo::rustc-link-arg-bins=-Xlinker");
        println!("cargo::rustc-link-arg-bins={word}");
    }
}
