//! Small static programs that the tests put into images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The tree lister.
pub fn lister() -> PathBuf {
    rust("lister")
}

/// The program that tries to reach PID 1.
pub fn hostile() -> PathBuf {
    rust("hostile")
}

/// The program that debugs, profiles and traces.
pub fn debugging() -> PathBuf {
    rust("debugging")
}

/// The program that limits what others may have.
pub fn limits() -> PathBuf {
    rust("limits")
}

/// The program that says who it is.
pub fn whoami() -> PathBuf {
    rust("whoami")
}

/// A program of another maker, which `cargo xtask test images` has made ready.
pub fn foreign(program: &str) -> Command {
    let directory = std::env::var_os("FERRY_FOREIGN").expect("FERRY_FOREIGN, which cargo xtask test sets");
    Command::new(Path::new(&directory).join(program))
}

/// Builds `tests/programs/NAME.rs` as a static program, once for each version of its source.
fn rust(name: &str) -> PathBuf {
    let source = super::checkout().join(format!("xtask/tests/programs/{name}.rs"));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let digest = super::image::digest(&fs::read(&source).expect("the program's source"));
    let program = directory.join(format!("{name}-{}", &digest[7..19]));
    if !program.exists() {
        // Tests run side by side: each builds under a name of its own.
        let own = directory.join(format!("{name}-{}-{:?}", std::process::id(), std::thread::current().id()));
        let status = Command::new("rustc")
            .args(["--edition", "2024", "-C", "opt-level=2", "-C", "target-feature=+crt-static"])
            .args(["-C", "strip=symbols", "-o"])
            .arg(&own)
            .arg(&source)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "rustc {}", source.display());
        fs::rename(&own, &program).expect("the program in its place");
    }
    program
}
