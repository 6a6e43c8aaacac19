//! Embeds the guest kernel and initrd that `FERRY_KERNEL` and `FERRY_INITRD` name at build time.
//!
//! Both are optional: without them the binary is built bare and takes the two files at run time. A static program, which is
//! what users are given, is linked without what only unwinding needs, and with functions of the same code only once.

use std::path::Path;
use std::{env, fs};

fn main() {
    let mut source = String::new();
    for (variable, name) in [("FERRY_KERNEL", "KERNEL"), ("FERRY_INITRD", "INITRD")] {
        println!("cargo::rerun-if-env-changed={variable}");
        // The static is interiorly mutable so that the linker puts it where the process may write: the pages stay
        // file-backed and private to whoever writes them, which is what guest memory is made of.
        match env::var_os(variable).filter(|path| !path.is_empty()) {
            Some(path) => {
                let path = fs::canonicalize(&path)
                    .unwrap_or_else(|error| panic!("{variable}: {}: {error}", Path::new(&path).display()));
                println!("cargo::rerun-if-changed={}", path.display());
                source += &format!(
                    "static {name}: Option<&Pages<[u8]>> = Some({{ \
                         static IMAGE: &Pages<[u8]> = &PAGES; \
                         #[unsafe(link_section = \".data.ferry\")] \
                         static PAGES: Pages<[u8; include_bytes!({path:?}).len()]> = Pages::new(*include_bytes!({path:?})); \
                         IMAGE }});\n"
                );
            }
            None => source += &format!("static {name}: Option<&Pages<[u8]>> = None;\n"),
        }
    }
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    if env::var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|features| features.contains("crt-static")) {
        println!("cargo::rerun-if-changed=static.ld");
        // A copy, since a target directory may outlive the checkout that it was filled from.
        let script = Path::new(&out).join("static.ld");
        fs::copy("static.ld", &script).expect("OUT_DIR is writable");
        // One word to the linker each, whatever is in the path.
        for word in ["-T", &script.display().to_string()] {
            println!("cargo::rustc-link-arg-bins=-Xlinker");
            println!("cargo::rustc-link-arg-bins={word}");
        }
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
    fs::write(Path::new(&out).join("payload.rs"), source).expect("OUT_DIR is writable");
}
