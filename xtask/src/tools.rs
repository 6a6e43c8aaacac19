//! Host programs: which are wanted, which are there, and how to start them wherever they came from.
//!
//! What is there is found by looking for the program or the header itself, not by asking for a package: people
//! install things in many ways.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cache::Cache;

/// Where C compilers look for headers besides their own places.
const HEADERS: &str = "C_INCLUDE_PATH";

/// Something that the host must have.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    /// What it is, in a few words.
    pub name: &'static str,
    probe: Probe,
    /// Debian's packages for it.
    pub packages: &'static [&'static str],
}

#[derive(Debug, PartialEq, Eq)]
enum Probe {
    Program(&'static str),
    Header { file: &'static str, library: &'static str },
}

const fn program(name: &'static str, packages: &'static [&'static str]) -> Tool {
    Tool { name, probe: Probe::Program(name), packages }
}

/// What building the guest kernel takes.
pub const FOR_THE_KERNEL: &[Tool] = &[
    program("cc", &["gcc", "libc6-dev"]),
    program("make", &["make"]),
    program("flex", &["flex"]),
    program("bison", &["bison"]),
    program("bc", &["bc"]),
    program("perl", &["perl"]),
    program("patch", &["patch"]),
    program("tar", &["tar"]),
    program("xz", &["xz-utils"]),
    Tool {
        name: "libelf's headers",
        probe: Probe::Header { file: "gelf.h", library: "elf" },
        packages: &["libelf-dev"],
    },
];

/// What building an image from its recipe takes.
pub const FOR_IMAGES: &[Tool] = &[program("apt-get", &["apt"]), program("dpkg-deb", &["dpkg"])];

/// What running without KVM takes.
pub const FOR_QEMU: &[Tool] = &[program("qemu-system-x86_64", &["qemu-system-x86"])];

/// What the tests compare with and make images from.
pub const FOR_TESTS: &[Tool] = &[
    program("umoci", &["umoci"]),
    program("musl-gcc", &["musl-tools"]),
    program("skopeo", &["skopeo"]),
    program("docker-registry", &["docker-registry"]),
    program("openssl", &["openssl"]),
    program("sfdisk", &["fdisk"]),
    program("sgdisk", &["gdisk"]),
    program("passt", &["passt"]),
    program("strace", &["strace"]),
    program("gdb", &["gdb-minimal"]),
    program("faketime", &["faketime"]),
];

/// What else the tests of root run images with: for anybody else it would take a set-up of his own.
pub const FOR_TESTS_OF_ROOT: &[Tool] = &[program("podman", &["podman"]), program("runc", &["runc"])];

/// Packages that would start a service of the system's where they are installed: they are unpacked, whoever asks.
pub const WITH_SERVICES: &[&str] = &["docker-registry"];

/// The host's programs, together with those that were unpacked into the cache.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Directories with `usr/bin`, `usr/lib`… of unpacked packages.
    prefixes: Vec<PathBuf>,
}

impl Tools {
    /// What is there now.
    pub fn found(cache: &Cache) -> Tools {
        let mut prefixes: Vec<PathBuf> = fs::read_dir(cache.root().join(kind()))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        prefixes.retain(|path| path.is_dir() && path.file_name().is_some_and(|name| !is_hidden(name)));
        prefixes.sort();
        Tools { prefixes }
    }

    /// Those of `wanted` that are not there.
    pub fn missing(&self, wanted: &[&'static Tool]) -> Vec<&'static Tool> {
        wanted.iter().copied().filter(|tool| !self.has(tool)).collect()
    }

    fn has(&self, tool: &Tool) -> bool {
        match tool.probe {
            Probe::Program(name) => self.find(name).is_some(),
            Probe::Header { file, library } => self.compiles(file, library),
        }
    }

    /// Where a program is.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain(system)
            .chain(
                self.prefixes.iter().flat_map(|p| ["usr/bin", "usr/sbin", "bin", "sbin"].map(|d| p.join(d))),
            )
            .map(|directory| directory.join(name))
            .find(|path| is_executable(path))
    }

    /// Whether a program that includes this header and links with this library can be made.
    fn compiles(&self, header: &str, library: &str) -> bool {
        let program = format!("#include <{header}>\nint main(void) {{ return 0; }}\n");
        let mut compiler = self.command("cc");
        compiler.args(["-x", "c", "-", "-o", "/dev/null"]).arg(format!("-l{library}"));
        compiler.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut child) = compiler.spawn() else { return false };
        if let Some(mut input) = child.stdin.take() {
            let _ = io::Write::write_all(&mut input, program.as_bytes());
        }
        child.wait().is_ok_and(|status| status.success())
    }

    /// A command that finds programs, headers and libraries also among the unpacked packages.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if self.prefixes.is_empty() {
            return command;
        }
        let triplet = "x86_64-linux-gnu";
        for (variable, directories) in [
            ("PATH", vec!["usr/bin".to_owned(), "bin".to_owned(), "usr/sbin".to_owned()]),
            ("LD_LIBRARY_PATH", vec![format!("usr/lib/{triplet}"), format!("lib/{triplet}")]),
            ("LIBRARY_PATH", vec![format!("usr/lib/{triplet}")]),
            (HEADERS, vec!["usr/include".to_owned(), format!("usr/include/{triplet}")]),
        ] {
            let more = directories.iter().flat_map(|dir| self.prefixes.iter().map(move |p| p.join(dir)));
            command.env(variable, behind(env::var_os(variable), more));
        }
        // These find their data and each other by absolute path unless told otherwise.
        for (variable, path) in [
            ("BISON_PKGDATADIR", "usr/share/bison".to_owned()),
            ("QEMU_MODULE_DIR", format!("usr/lib/{triplet}/qemu")),
            ("M4", "usr/bin/m4".to_owned()),
        ] {
            if let Some(path) = self.unpacked(&path).next() {
                command.env(variable, path);
            }
        }
        command
    }

    /// A cargo that finds programs and libraries so. It compiles with the machine's own headers, as the cargo that built this
    /// program has: told of others, it would compile the C code of dependencies again, and everything that stands on it,
    /// here and once more when it is not told of them any longer.
    pub fn cargo(&self) -> Command {
        let mut command = self.command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        match env::var_os(HEADERS) {
            Some(own) => command.env(HEADERS, own),
            None => command.env_remove(HEADERS),
        };
        command
    }

    /// Where a path of a package is among the unpacked ones.
    pub fn unpacked<'a>(&'a self, path: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
        self.prefixes.iter().map(move |prefix| prefix.join(path)).filter(|path| path.exists())
    }
}

/// The kind of cache entry that unpacked packages are: one for each release of the host, whose libc they need.
pub fn kind() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown");
        value.trim_matches('"').replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-")
    };
    format!("tools/{}-{}", field("ID="), field("VERSION_ID="))
}

/// A search path with `more` behind what is there: the host's own come first.
fn behind(there: Option<OsString>, more: impl Iterator<Item = PathBuf>) -> OsString {
    let there = there.unwrap_or_default();
    let all = env::split_paths(&there).filter(|path| !path.as_os_str().is_empty()).chain(more);
    env::join_paths(all).unwrap_or(there.clone())
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(prefix: &Path) -> Tools {
        Tools { prefixes: vec![prefix.to_owned()] }
    }

    #[test]
    fn a_program_is_found_among_unpacked_packages_and_can_be_started() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        let path = dir.path().join("usr/bin/an-odd-program");
        fs::write(&path, "#!/bin/sh\necho yes\n").unwrap();
        static ODD: Tool = program("an-odd-program", &[]);
        assert_eq!(tools(dir.path()).missing(&[&ODD]), [&ODD], "it is not executable yet");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(tools(dir.path()).missing(&[&ODD]), [] as [&Tool; 0]);
        let output = tools(dir.path()).command("an-odd-program").output().unwrap();
        assert_eq!(output.stdout, b"yes\n");
    }

    #[test]
    fn cargo_has_the_headers_that_it_always_had() {
        let dir = tempfile::tempdir().unwrap();
        let told = |command: Command| {
            let headers = command.get_envs().find(|(name, _)| *name == HEADERS);
            headers.and_then(|(_, value)| value.map(OsStr::to_owned))
        };
        let (all, own) = (told(tools(dir.path()).command("cc")), told(tools(dir.path()).cargo()));
        assert!(all.is_some_and(|all| all.to_string_lossy().contains(&*dir.path().to_string_lossy())));
        assert_eq!(own, env::var_os(HEADERS));
    }

    #[test]
    fn a_header_without_its_library_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/include")).unwrap();
        fs::write(dir.path().join("usr/include/odd.h"), "").unwrap();
        assert!(tools(dir.path()).compiles("odd.h", "c"));
        assert!(!tools(dir.path()).compiles("odd.h", "nonesuch"));
        assert!(!tools(dir.path()).compiles("nonesuch.h", "c"));
    }
}
