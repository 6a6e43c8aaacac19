//! A client of registries (OCI distribution spec 1.1, "Pull"; Docker's token authentication): manifests and blobs by
//! digest, everything from outside bounded and checked. What becomes of them is [`crate::source`]'s business.
//!
//! No part of it needs the C library's name service, so it works in a static binary and in an empty root.

mod auth;
mod blob;
mod credentials;
mod endpoint;
mod http;
mod resolver;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use serde::Deserialize;

use crate::digest::{Digest, shortened};
use crate::progress::Progress;
use crate::reference::Name;
use credentials::Credentials;
use endpoint::Endpoint;
use http::Http;

/// What a person has settled about one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Asked before the registry itself, in this order: `HOST[:PORT][/PREFIX]`. A mirror is trusted to say what a tag
    /// stands for; what it delivers is checked against digests.
    pub mirrors: Vec<String>,
    /// Talk to it without a verified certificate, and without TLS where it has none. Loopback is always taken so.
    pub insecure: bool,
}

impl Settings {
    /// What is wrong with them, if anything is.
    pub fn check(&self) -> Result<(), String> {
        let is_place = |mirror: &str| {
            let host = mirror.split('/').next().unwrap_or_default();
            format!("{mirror}/x")
                .parse::<Name>()
                .is_ok_and(|name| name.registry == host && name.digest.is_none())
        };
        match self.mirrors.iter().find(|mirror| !is_place(mirror)) {
            Some(mirror) => Err(format!("mirror `{}` is not HOST[:PORT][/PREFIX]", shortened(mirror))),
            None => Ok(()),
        }
    }
}

/// All registries, as this user may use them.
#[derive(Debug)]
pub struct Registries {
    settings: BTreeMap<String, Settings>,
    credentials: Credentials,
    http: Http,
}

/// Why a registry did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or the connection breaks again and again.
    #[error("registry {host}: {why}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// What happened at the last attempt.
        why: String,
    },
    /// It wants to know who asks, or does not like who does.
    #[error(
        "registry {host} lets {who} not read {what}: check the name, or sign in with `docker login {host}` or `podman \
         login {host}`"
    )]
    Denied {
        /// Host and port.
        host: String,
        /// Repository and tag or digest.
        what: String,
        /// Who asked.
        who: String,
    },
    /// It has no such thing.
    #[error("registry {host} has no {what}")]
    NotFound {
        /// Host and port.
        host: String,
        /// Repository and tag or digest, or a blob.
        what: String,
    },
    /// Any other refusal.
    #[error("registry {host} answers {status} to {what}{message}")]
    Status {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// What it says about it, after a colon.
        message: String,
    },
    /// An answer that cannot be right.
    #[error("registry {host}: {what}: {why}")]
    Answer {
        /// Host and port.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A blob that is not what its digest says.
    #[error("registry {host} sends {what} damaged: found {found}")]
    Digest {
        /// Host and port.
        host: String,
        /// Which blob.
        what: String,
        /// What came.
        found: Digest,
    },
    /// The user's own credential files or helpers.
    #[error("{0}")]
    Credentials(String),
    /// The file that a blob goes to.
    #[error("a downloaded layer cannot be kept: {0}")]
    Keep(std::io::Error),
    /// Nobody waits for it any more.
    #[error("the download was given up")]
    Abandoned,
}

impl Registries {
    /// With these settings, by registry, and the credentials of Docker and Podman.
    pub fn new(settings: BTreeMap<String, Settings>) -> Self {
        Self {
            settings,
            credentials: Credentials::of_this_user(),
            http: Http::new(Duration::from_millis(500)),
        }
    }

    #[cfg(test)]
    fn for_tests(settings: BTreeMap<String, Settings>, credentials: Credentials) -> Self {
        Self { settings, credentials, http: Http::new(Duration::from_millis(5)) }
    }

    /// The repository of that name, wherever it may be had.
    pub(crate) fn repository(&self, name: &Name) -> Repository<'_> {
        let insecure = |host: &str| {
            http::is_loopback(host) || self.settings.get(host).is_some_and(|settings| settings.insecure)
        };
        let mirrors = self.settings.get(&name.registry).map_or(&[][..], |settings| &settings.mirrors);
        let mut endpoints: Vec<Endpoint<'_>> = Vec::with_capacity(mirrors.len() + 1);
        for mirror in mirrors {
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let path = [prefix.trim_matches('/'), &name.repository];
            let path = path.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
            endpoints.push(Endpoint::new(&self.http, &self.credentials, host, host, path, insecure(host)));
        }
        let (registry, repository) = (&name.registry, name.repository.clone());
        let host = name.host();
        endpoints.push(Endpoint::new(
            &self.http,
            &self.credentials,
            registry,
            host,
            repository,
            insecure(registry),
        ));
        Repository { endpoints }
    }
}

/// One repository, wherever it may be had.
#[derive(Debug)]
pub(crate) struct Repository<'a> {
    /// The mirrors, then the registry itself. Never empty.
    endpoints: Vec<Endpoint<'a>>,
}

/// A small document to ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Document<'a> {
    /// A manifest or index, by tag or digest.
    Manifest(&'a str),
    /// A blob.
    Blob(&'a Digest),
}

impl Repository<'_> {
    /// A whole document of at most `limit` bytes; its digest is for the caller to check.
    pub(crate) fn document(&self, document: Document<'_>, limit: u64) -> Result<Vec<u8>, Error> {
        self.anywhere(|endpoint| endpoint.document(document, limit))
    }

    /// Puts the blob into `file` behind what an earlier attempt has left there. An error keeps what has come, if it can be
    /// of use; `wanted` says from time to time if anybody still waits.
    pub(crate) fn blob(
        &self,
        digest: &Digest,
        size: u64,
        file: &File,
        wanted: &(dyn Fn() -> bool + Sync),
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        self.anywhere(|endpoint| blob::download(endpoint, digest, size, file, wanted, progress))
    }

    /// The answer of the first that has one. Where none has, what the registry itself says is what counts.
    fn anywhere<T>(&self, ask: impl Fn(&Endpoint<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let (registry, mirrors) = self.endpoints.split_last().expect("the registry itself is there");
        for mirror in mirrors {
            match ask(mirror) {
                Err(Error::Keep(error)) => return Err(Error::Keep(error)),
                Err(Error::Abandoned) => return Err(Error::Abandoned),
                Err(_) => {}
                found => return found,
            }
        }
        ask(registry)
    }
}

/// What a registry says about its refusal: the first of its errors, on one short line.
fn complaint(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(Errors { errors }) = serde_json::from_slice(body) else { return String::new() };
    match errors.first() {
        Some(One { message, .. }) if !message.is_empty() => format!(": {}", shortened(message)),
        Some(One { code, .. }) if !code.is_empty() => format!(": {}", shortened(code)),
        _ => String::new(),
    }
}
