//! Who this user is to a registry, from where Docker and Podman keep it: `auth.json` and `config.json` (`auths`,
//! `credHelpers`, `credsStore`) and the helper programs that they name (docker-credential-helpers' protocol).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use super::Error;
use crate::digest::shortened;
use crate::reference::{DEFAULT_HOST, DEFAULT_REGISTRY};

/// Bytes of a credential file, and of what a helper says.
const MAX_FILE: u64 = 1 << 20;

/// What Docker's files call the default registry: the address of its API of 2013.
const DEFAULT_KEY_END: &str = "/v1/";

/// The name under which helpers keep tokens instead of passwords.
const TOKEN_USER: &str = "<token>";

/// Proof of who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// A name and a password.
    Password { user: String, password: String },
    /// A token to be exchanged for others (OAuth 2's refresh token).
    Identity(String),
}

impl std::fmt::Debug for Credential {
    /// Without the secret: what is logged is read by others.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
        })
    }
}

impl Credential {
    /// The value of an `Authorization` header, for those who have a password.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Self::Identity(_) => None,
        }
    }
}

/// The files to look into, the first first.
#[derive(Debug)]
pub(super) struct Credentials {
    files: Vec<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl Credentials {
    /// Podman's files, then Docker's.
    pub(super) fn of_this_user() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = variable("HOME");
        let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let runtime = variable("XDG_RUNTIME_DIR").map(|path| path.join("containers/auth.json"));
        let runtime = runtime.unwrap_or_else(|| {
            PathBuf::from(format!("/run/containers/{}/auth.json", rustix::process::geteuid().as_raw()))
        });
        let config = variable("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
        let docker = variable("DOCKER_CONFIG").or_else(|| below_home(".docker"));
        let files = [
            variable("REGISTRY_AUTH_FILE"),
            Some(runtime),
            config.map(|path| path.join("containers/auth.json")),
            docker.map(|path| path.join("config.json")),
        ];
        Self { files: files.into_iter().flatten().collect() }
    }

    #[cfg(test)]
    pub(super) fn in_files(files: Vec<PathBuf>) -> Self {
        Self { files }
    }

    /// Who this user is to `registry` when it comes to `repository`; `None` for nobody.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>, Error> {
        for path in &self.files {
            let Some(file) = read(path)? else { continue };
            if let Some(found) = file.find(registry, repository, path)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> Result<Option<File>, Error> {
    let wrong = |why: &dyn std::fmt::Display| {
        Error::Credentials(format!("{}: {why}: correct it, or move it away", path.display()))
    };
    let mut text = Vec::new();
    let opened = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text));
    match opened {
        Ok(_) if text.len() as u64 > MAX_FILE => Err(wrong(&"more than 1 MiB of credentials")),
        Ok(_) if text.trim_ascii().is_empty() => Ok(None),
        Ok(_) => serde_json::from_slice(&text).map(Some).map_err(|error| wrong(&error)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        // Another user's runtime directory, inherited with the environment, is no business of ours.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(wrong(&error)),
    }
}

impl File {
    fn find(&self, registry: &str, repository: &str, path: &Path) -> Result<Option<Credential>, Error> {
        for name in names(registry) {
            if let Some(helper) = self.cred_helpers.get(name) {
                return ask(helper, name);
            }
        }
        if !self.creds_store.is_empty() {
            let mut keys: Vec<String> = names(registry).map(str::to_owned).collect();
            if registry == DEFAULT_REGISTRY {
                keys.insert(0, format!("https://{DEFAULT_HOST}{DEFAULT_KEY_END}"));
            }
            for key in keys {
                if let Some(found) = ask(&self.creds_store, &key)? {
                    return Ok(Some(found));
                }
            }
        }
        let wrong =
            || Error::Credentials(format!("{}: the entry for {registry} cannot be read", path.display()));
        match self.entry(registry, repository) {
            Some(entry) => entry.credential().map_err(|()| wrong()),
            None => Ok(None),
        }
    }

    /// The entry that says most of the repository: `HOST/a/b`, `HOST/a`, `HOST`.
    fn entry(&self, registry: &str, repository: &str) -> Option<&Entry> {
        let mut best: Option<(usize, &Entry)> = None;
        for (key, entry) in &self.auths {
            let key = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
            let (host, place) = key.split_once('/').unwrap_or((key, ""));
            let place = place.trim_end_matches('/');
            // Docker's keys may be the address of the API.
            let place = if matches!(place, "v1" | "v2") { "" } else { place };
            let covers = place.is_empty()
                || repository
                    .strip_prefix(place)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            let fits = names(registry).any(|name| name == host) && covers && !entry.is_empty();
            if fits && best.is_none_or(|(length, _)| place.len() > length) {
                best = Some((place.len(), entry));
            }
        }
        best.map(|(_, entry)| entry)
    }
}

/// What the files may call a registry.
fn names(registry: &str) -> impl Iterator<Item = &str> {
    let other = (registry == DEFAULT_REGISTRY).then_some(DEFAULT_HOST);
    std::iter::once(registry).chain(other)
}

impl Entry {
    /// Docker leaves entries without content where a helper has it.
    fn is_empty(&self) -> bool {
        self.auth.is_empty() && self.username.is_empty() && self.identitytoken.is_empty()
    }

    fn credential(&self) -> Result<Option<Credential>, ()> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::Identity(self.identitytoken.clone())));
        }
        if self.auth.is_empty() {
            let Self { username, password, .. } = self.clone();
            return Ok(Some(Credential::Password { user: username, password }));
        }
        let bytes =
            STANDARD.decode(&self.auth).or_else(|_| STANDARD_NO_PAD.decode(&self.auth)).map_err(drop)?;
        let text = String::from_utf8(bytes).map_err(drop)?;
        let (user, password) = text.split_once(':').ok_or(())?;
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(Credential::Password { user: user.to_owned(), password }))
    }
}

/// Asks `docker-credential-HELPER` for what it keeps under `key`.
fn ask(helper: &str, key: &str) -> Result<Option<Credential>, Error> {
    // The name becomes a program's: nothing that leads elsewhere.
    if helper.is_empty() || !helper.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    {
        return Err(Error::Credentials(format!("`{}` is no name of a credential helper", shortened(helper))));
    }
    let program = format!("docker-credential-{helper}");
    run(Path::new(&program), key)
        .map_err(|why| Error::Credentials(format!("credential helper {program}: {why}")))
}

fn run(program: &Path, key: &str) -> Result<Option<Credential>, String> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not read has its own reasons, and says so.
        let _ = input.write_all(key.as_bytes());
    }
    let mut text = Vec::new();
    let read = child.stdout.take().map_or(Ok(0), |output| output.take(MAX_FILE).read_to_end(&mut text));
    let status = child.wait().map_err(|error| error.to_string())?;
    read.map_err(|error| error.to_string())?;
    if !status.success() {
        let said = String::from_utf8_lossy(&text);
        // The protocol's way of having nothing.
        return match said.contains("credentials not found") {
            true => Ok(None),
            false => Err(shortened(said.trim())),
        };
    }
    let Helped { username, secret } = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    Ok(Some(match username.as_str() {
        TOKEN_USER => Credential::Identity(secret),
        _ => Credential::Password { user: username, password: secret },
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str) -> File {
        serde_json::from_str(text).unwrap()
    }

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { user: user.into(), password: password.into() })
    }

    fn found(file: &File, registry: &str, repository: &str) -> Option<Credential> {
        file.find(registry, repository, Path::new("f")).unwrap()
    }

    #[test]
    fn the_entry_that_says_most_of_the_repository_counts() {
        // a:b, c:d, e:f
        let file = file(
            r#"{"auths":{"r.example":{"auth":"YTpi"},"r.example/team":{"auth":"Yzpk"},"https://other.example/v1/":
                {"auth":"ZTpm"},"empty.example":{}}}"#,
        );
        assert_eq!(found(&file, "r.example", "x"), password("a", "b"));
        assert_eq!(found(&file, "r.example", "team/x"), password("c", "d"));
        assert_eq!(found(&file, "r.example", "teams/x"), password("a", "b"));
        assert_eq!(found(&file, "other.example", "v1/x"), password("e", "f"));
        assert_eq!(found(&file, "empty.example", "x"), None);
        assert_eq!(found(&file, "r.example:5000", "x"), None);
    }

    #[test]
    fn the_default_registry_goes_by_dockers_old_name() {
        let file = file(&format!(r#"{{"auths":{{"https://{DEFAULT_HOST}/v1/":{{"auth":"YTpiOmM="}}}}}}"#));
        assert_eq!(found(&file, DEFAULT_REGISTRY, "library/x"), password("a", "b:c"));
    }

    #[test]
    fn an_identity_token_comes_before_the_name() {
        let file = file(r#"{"auths":{"r.example":{"auth":"YTpi","identitytoken":"t"}}}"#);
        assert_eq!(found(&file, "r.example", "x"), Some(Credential::Identity("t".into())));
    }

    #[test]
    fn the_first_file_that_knows_counts_and_broken_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two, gone] = ["one", "two", "gone"].map(|name| dir.path().join(name));
        std::fs::write(&one, r#"{"auths":{"a.example":{"auth":"YTpi"}}}"#).unwrap();
        std::fs::write(&two, r#"{"auths":{"a.example":{"auth":"Yzpk"},"b.example":{"auth":"Yzpk"}}}"#)
            .unwrap();
        let credentials = Credentials::in_files(vec![gone, one.clone(), two]);
        assert_eq!(credentials.find("a.example", "x").unwrap(), password("a", "b"));
        assert_eq!(credentials.find("b.example", "x").unwrap(), password("c", "d"));
        assert_eq!(credentials.find("c.example", "x").unwrap(), None);
        for text in ["{", "7", r#"{"auths":{"a.example":{"auth":"!"}}}"#] {
            std::fs::write(&one, text).unwrap();
            let message = credentials.find("a.example", "x").unwrap_err().to_string();
            assert!(message.starts_with(one.to_str().unwrap()), "{message}");
        }
    }

    #[test]
    fn helpers_are_asked_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-ferry-test");
        let script = "#!/bin/sh\nread key\ncase $key in\n\
                      good.example) echo '{\"Username\":\"u\",\"Secret\":\"s\"}';;\n\
                      token.example) echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}';;\n\
                      none.example) echo 'credentials not found in native keychain'; exit 1;;\n\
                      *) echo locked; exit 1;; esac\n";
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        // By its path: a test cannot change the search path of the process that others share.
        assert_eq!(run(&path, "good.example"), Ok(password("u", "s")));
        assert_eq!(run(&path, "token.example"), Ok(Some(Credential::Identity("t".into()))));
        assert_eq!(run(&path, "none.example"), Ok(None));
        assert_eq!(run(&path, "other.example"), Err("locked".into()));
        for name in ["", "../x", "a/b", "a b"] {
            assert!(
                ask(name, "x").unwrap_err().to_string().contains("no name of a credential helper"),
                "{name}"
            );
        }
        assert!(ask("surely-not-installed", "x").unwrap_err().to_string().contains("surely-not-installed"));
    }
}
