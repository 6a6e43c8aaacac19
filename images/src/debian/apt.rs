//! `apt-get`, `apt-cache` and `apt-helper` run over a private state, see apt.conf(5).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::sources::Mirrors;
use super::{Error, Package, SUITE};

/// apt's own downloader, which resumes, verifies and runs several downloads at once. Not in anybody's PATH.
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// What of the machine's configuration applies to a private state too: how mirrors are reached, and whether this
/// machine's clock and mirror can satisfy a release file's dates.
const INHERITED: &[&str] =
    &["Acquire::http", "Acquire::ftp::Proxy", "Acquire::Retries", "Acquire::ForceIPv", "Acquire::Check-"];

#[derive(Debug)]
pub(super) struct Apt {
    home: PathBuf,
    mirrors: Mirrors,
    /// The sources file's text: what the lists depend on.
    pub(super) sources: String,
}

impl Apt {
    /// Writes the private configuration below `cache`, an absolute path.
    pub(super) fn new(cache: &Path, mirrors: Mirrors) -> Result<Self, Error> {
        let home = cache.join("apt");
        let sources = mirrors.sources_for(SUITE, "amd64");
        let apt = Self { home, mirrors, sources };
        let root = apt.home.to_str().filter(|path| !path.contains(['"', '\n', '\\'])).ok_or_else(|| {
            Error::Cache {
                path: cache.to_owned(),
                cause: io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "apt cannot use a path with quotes or odd characters",
                ),
            }
        })?;
        let text = apt.configuration(root)?;
        apt.prepare(&text).map_err(|cause| Error::Cache { path: apt.home.clone(), cause })?;
        Ok(apt)
    }

    fn configuration(&self, root: &str) -> Result<String, Error> {
        let mut text = format!(
            "Dir \"{root}\";\n\
             Dir::State \"{root}/state\";\nDir::State::lists \"{root}/lists\";\nDir::State::status \"{root}/status\";\n\
             Dir::Cache \"{root}/cache\";\nDir::Etc \"{root}/etc\";\nDir::Etc::main \"{root}/etc/none\";\n\
             Dir::Etc::parts \"{root}/etc/none.d\";\nDir::Etc::sourcelist \"{root}/etc/none\";\n\
             Dir::Etc::sourceparts \"{root}/etc/sources.list.d\";\nDir::Etc::preferences \"{root}/etc/none\";\n\
             Dir::Etc::preferencesparts \"{root}/etc/none.d\";\nDir::Log \"{root}/log\";\n\
             Dir::Etc::netrc \"/etc/apt/auth.conf\";\nDir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n\
             Dir::Etc::trusted \"/etc/apt/trusted.gpg\";\nDir::Etc::trustedparts \"/etc/apt/trusted.gpg.d\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures \"\";\nAPT::Architectures:: \"amd64\";\n\
             APT::Install-Recommends \"false\";\nAPT::Install-Suggests \"false\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nDebug::NoLocking \"true\";\n\
             APT::Update::Error-Mode \"any\";\n"
        );
        if rustix::process::geteuid().is_root() {
            // The cache may lie where apt's own unprivileged user cannot write.
            text.push_str("APT::Sandbox::User \"root\";\n");
        }
        let mut dump = Command::new("apt-config");
        dump.arg("dump").env("LC_ALL", "C.UTF-8");
        let dump = run(&mut dump, "reading apt's configuration")?;
        for line in String::from_utf8_lossy(&dump.stdout).lines() {
            if INHERITED.iter().any(|prefix| line.starts_with(prefix)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        Ok(text)
    }

    fn prepare(&self, configuration: &str) -> io::Result<()> {
        for directory in
            ["lists/partial", "cache/archives/partial", "state", "log", "etc/none.d", "etc/sources.list.d"]
        {
            fs::create_dir_all(self.home.join(directory))?;
        }
        for (file, text) in [
            ("status", ""),
            ("etc/none", ""),
            ("apt.conf", configuration),
            ("etc/sources.list.d/debian.sources", &self.sources),
        ] {
            let path = self.home.join(file);
            // Unchanged files are left alone: apt of another process may be reading them.
            if !fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
                let temporary = path.with_extension(format!("new-{}", std::process::id()));
                fs::write(&temporary, text)?;
                fs::rename(&temporary, &path)?;
            }
        }
        Ok(())
    }

    /// One process at a time works on the state and on half-fetched files. Released when dropped.
    pub(super) fn lock(&self) -> Result<File, Error> {
        let path = self.home.join("lock");
        File::create(&path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|cause| Error::Cache { path, cause })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.home.join("apt.conf")).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    pub(super) fn update(&self) -> Result<(), Error> {
        let mut command = self.command("apt-get");
        run(command.args(["update", "-q"]), "fetching Debian's package lists").map(drop)
    }

    /// What installing `names` on a system with only `installed` would fetch.
    pub(super) fn closure(
        &self,
        installed: &[(String, String)],
        names: &[&str],
    ) -> Result<Vec<Package>, Error> {
        let doing = format!("resolving {}", names.join(" "));
        let mut status = String::new();
        for (name, version) in installed {
            // A version that satisfies whoever asks for a newer one.
            let version = if version.is_empty() { "9999:0" } else { version };
            let _ = write!(
                status,
                "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n"
            );
        }
        let path = self.home.join("status-over");
        fs::write(&path, status).map_err(|cause| Error::Cache { path: path.clone(), cause })?;
        let mut command = self.command("apt-get");
        command.arg("-o").arg(format!("Dir::State::status={}", path.display()));
        command.args(["install", "--print-uris", "-qq", "-y", "--"]).args(names);
        let output = run(&mut command, &doing)?;
        let mut wanted = Vec::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            wanted.extend(parse_uri_line(line));
        }
        let exact: Vec<String> =
            wanted.iter().map(|(name, version, _)| format!("{name}={version}")).collect();
        let mut records = self.records(&exact, &doing)?;
        let mut packages = Vec::with_capacity(wanted.len());
        for (name, version, uri) in wanted {
            // A version may be in two archives; the one that apt chose counts.
            let candidates = records.remove(&(name.clone(), version.clone())).unwrap_or_default();
            let chosen = candidates.iter().find(|package| uri.ends_with(&encoded(&package.filename)));
            let package = chosen.or(candidates.first()).cloned().ok_or_else(|| Error::Apt {
                doing: doing.clone(),
                message: format!("{name} {version} is not in the package lists"),
            })?;
            package.check()?;
            packages.push(package);
        }
        packages.sort();
        Ok(packages)
    }

    /// The index's record of `NAME` (its current version) or `NAME=VERSION`.
    pub(super) fn show(&self, which: &str) -> Result<Package, Error> {
        let doing = format!("looking up {which}");
        let records = self.records(&[which.to_owned()], &doing)?;
        let found = records.into_values().flatten().next();
        let package =
            found.ok_or_else(|| Error::Apt { doing, message: "not in the package lists".into() })?;
        package.check().map(|_| package)
    }

    fn records(
        &self,
        which: &[String],
        doing: &str,
    ) -> Result<HashMap<(String, String), Vec<Package>>, Error> {
        let mut records: HashMap<_, Vec<Package>> = HashMap::new();
        if which.is_empty() {
            return Ok(records);
        }
        let mut command = self.command("apt-cache");
        let output = run(command.args(["show", "--no-all-versions", "--"]).args(which), doing)?;
        for stanza in String::from_utf8_lossy(&output.stdout).split("\n\n") {
            if let Some(package) = parse_record(stanza) {
                records.entry((package.name.clone(), package.version.clone())).or_default().push(package);
            }
        }
        Ok(records)
    }

    /// Fetches each package to `directory`/SHA256, reporting bytes as they arrive. A package that cannot be had is no
    /// error: it is not there afterwards. Returns apt's complaints.
    pub(super) fn download(
        &self,
        packages: &[Package],
        directory: &Path,
        arrived: &dyn Fn(u64),
    ) -> Result<String, Error> {
        let mut command = self.command(HELPER);
        command.arg("download-file").current_dir(directory).stdout(Stdio::null()).stderr(Stdio::piped());
        for package in packages {
            let root = self.mirrors.root_of(&package.filename);
            // apt's `file:` hands out the path as it is; `copy:` copies.
            let root = match root.strip_prefix("file:") {
                Some(path) => format!("copy:{path}"),
                None => root.into_owned(),
            };
            command.arg(format!("{root}/{}", encoded(&package.filename)));
            command.arg(directory.join(&package.sha256)).arg(format!("SHA256:{}", package.sha256));
        }
        let mut child = command.spawn().map_err(|cause| Error::NoApt { program: HELPER.into(), cause })?;
        let mut stderr = child.stderr.take();
        std::thread::scope(|scope| {
            let complaints =
                scope.spawn(move || stderr.take().map(|pipe| io::read_to_string(pipe).unwrap_or_default()));
            let there = || -> u64 {
                let size = |package: &Package| {
                    let metadata = fs::metadata(directory.join(&package.sha256));
                    metadata.map_or(0, |metadata| metadata.len().min(package.size))
                };
                packages.iter().map(size).sum()
            };
            let mut reported = 0;
            while let Ok(None) = child.try_wait() {
                std::thread::sleep(Duration::from_millis(100));
                let now = there();
                arrived(now.saturating_sub(reported));
                reported = reported.max(now);
            }
            arrived(there().saturating_sub(reported));
            Ok(errors_in(&complaints.join().ok().flatten().unwrap_or_default()))
        })
    }
}

fn run(command: &mut Command, doing: &str) -> Result<Output, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|cause| Error::NoApt { program, cause })?;
    if output.status.success() {
        return Ok(output);
    }
    let message = errors_in(&String::from_utf8_lossy(&output.stderr));
    let message = if message.is_empty() { output.status.to_string() } else { message };
    Err(Error::Apt { doing: doing.to_owned(), message })
}

/// apt's `E:` lines, without those that only say that something failed.
fn errors_in(stderr: &str) -> String {
    let lines: Vec<_> = stderr.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    lines.join("; ")
}

/// `'URI' NAME_VERSION_ARCH.deb SIZE HASH` with `%3a` for an epoch's colon.
fn parse_uri_line(line: &str) -> Option<(String, String, String)> {
    let (uri, rest) = line.strip_prefix('\'')?.split_once('\'')?;
    let mut parts = rest.split_whitespace().next()?.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some((name.to_owned(), version.replace("%3a", ":"), uri.to_owned()))
}

fn parse_record(stanza: &str) -> Option<Package> {
    let field = |name: &str| {
        let mut values =
            stanza.lines().filter_map(|line| line.split_once(": ").filter(|(field, _)| *field == name));
        values.next().map(|(_, value)| value.trim().to_owned())
    };
    Some(Package {
        name: field("Package")?,
        version: field("Version")?,
        arch: field("Architecture")?,
        filename: field("Filename")?,
        size: field("Size")?.parse().ok()?,
        sha256: field("SHA256")?,
    })
}

/// As apt writes pool paths in URIs: some servers take a bare `+` for a space.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' => text.push(byte.into()),
            other => text.push_str(&format!("%{other:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apt_prints() {
        let line = "'http://m.example/pool/main/z/zlib/zlib1g_1.3%2breally1_amd64.deb' zlib1g_1%3a1.3+really1_amd64.deb 7 X:1";
        let (name, version, uri) = parse_uri_line(line).unwrap();
        assert_eq!((name.as_str(), version.as_str()), ("zlib1g", "1:1.3+really1"));
        assert!(uri.ends_with(&encoded("pool/main/z/zlib/zlib1g_1.3+really1_amd64.deb")));
        assert_eq!(parse_uri_line("NOTE: nothing"), None);

        let record = "Package: a\nVersion: 1\nArchitecture: all\nDescription: Size: none\n .\nFilename: pool/a.deb\nSize: 12\n\
                      SHA256: 00";
        let package = parse_record(record).unwrap();
        assert_eq!((package.size, package.sha256.as_str()), (12, "00"));
        assert_eq!(parse_record("Package: a\nVersion: 1\n"), None);
    }

    #[test]
    fn keeps_only_error_lines() {
        assert_eq!(errors_in("W: beware\nE: no such thing\nnoise\nE: at all\n"), "no such thing; at all");
    }
}
