//! A real registry on loopback, skopeo as the one who pushes, and `ferry` as the one who pulls.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Whom a registry with users knows.
pub const USER: &str = "tester";
pub const PASSWORD: &str = "open sesame";
/// What bcrypt makes of the password.
const PASSWORD_HASH: &str = "$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW";

/// Longer than a registry takes to begin on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Docker's registry, with storage of its own; it ends with this.
pub struct Registry {
    child: Child,
    /// Its storage, settings and users.
    _place: tempfile::TempDir,
    /// Whether only those may push whom it knows.
    asks: bool,
    /// `127.0.0.1:PORT`.
    pub host: String,
}

impl Registry {
    pub fn start() -> Registry {
        Registry::start_with("", None)
    }

    /// One that only this user may pull from and push to, by his password.
    pub fn for_user_alone() -> Registry {
        let users = format!("{USER}:{PASSWORD_HASH}\n");
        Registry::start_with("auth:\n  htpasswd:\n    realm: tests\n    path: users\n", Some(&users))
    }

    /// One that asks as these settings say.
    pub fn that_asks(settings: &str) -> Registry {
        Registry::start_with(settings, Some(""))
    }

    fn start_with(settings_more: &str, users: Option<&str>) -> Registry {
        let place = tempfile::tempdir().expect("a directory");
        users.iter().for_each(|users| {
            std::fs::write(place.path().join("users"), users).expect("the registry's users");
        });
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let host = free.expect("a free port").to_string();
        let settings = place.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n{settings_more}",
            place.path().join("data").display()
        );
        std::fs::write(&settings, text).expect("the registry's settings");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&settings)
            .current_dir(place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        let registry = Registry { child, _place: place, asks: users.is_some(), host };
        let began = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(began.elapsed() < PATIENCE, "the registry does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        registry
    }

    /// Pushes the image of a layout with skopeo; says by what name it can be pulled.
    #[track_caller]
    pub fn push(&self, layout: &Path, in_layout: &str, name: &str, options: &[&str]) -> String {
        let pulled_as = format!("{}/{name}", self.host);
        let mut skopeo = skopeo();
        skopeo.arg("copy").arg("--dest-tls-verify=false").args(options);
        if self.asks {
            skopeo.args(["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        }
        skopeo.arg(format!("oci:{}:{in_layout}", layout.display())).arg(format!("docker://{pulled_as}"));
        succeed(&mut skopeo);
        pulled_as
    }

    /// Puts a manifest as it is.
    #[track_caller]
    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &str, manifest: &str) {
        let mut stream = TcpStream::connect(&self.host).expect("the registry");
        let head = format!(
            "PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{manifest}",
            self.host,
            manifest.len()
        );
        stream.write_all(head.as_bytes()).expect("the registry reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the registry answers");
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// skopeo, which asks no policy of the machine's.
pub fn skopeo() -> Command {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy");
    command
}

/// Runs it; fails the test unless it succeeds. What it printed.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(status.success(), "{command:?}: {status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// `ferry` with everything of it below `home`. `cargo xtask test` has built it beside xtask.
pub fn ferry(home: &Path, words: &[&str]) -> Command {
    let program: PathBuf = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("ferry");
    let mut command = Command::new(program);
    command.args(words).env("HOME", home).env("XDG_DATA_HOME", home.join("data"));
    for variable in ["XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"] {
        command.env_remove(variable);
    }
    command
}

/// The store of that `ferry`.
pub fn store(home: &Path) -> PathBuf {
    home.join("data/ferry")
}
