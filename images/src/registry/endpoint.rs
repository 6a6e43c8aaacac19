//! One place where a repository can be had: its address, the way in, and the questions it is asked.

use std::sync::{Mutex, PoisonError};

use ureq::Body;
use ureq::http::Response;

use super::auth::Authorization;
use super::credentials::Credentials;
use super::http::{self, Failure, Get, Http, Trust};
use super::{Document, Error, complaint};

/// Every kind of manifest that can be understood.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";

/// Bytes of a refusal that are looked at.
const MAX_COMPLAINT: u64 = 64 << 10;

/// Authorisations that are tried for one request: with what is at hand, with a new token.
const MAX_CHALLENGES: usize = 2;

#[derive(Debug)]
pub(super) struct Endpoint<'a> {
    pub(super) http: &'a Http,
    /// As people call it, for messages and credentials.
    registry: String,
    host: String,
    repository: String,
    trust: Trust,
    authorization: Authorization<'a>,
    /// `https` or `http`, once it is known.
    scheme: Mutex<Option<&'static str>>,
}

impl<'a> Endpoint<'a> {
    pub(super) fn new(
        http: &'a Http,
        credentials: &'a Credentials,
        registry: &str,
        host: &str,
        repository: String,
        insecure: bool,
    ) -> Self {
        let trust = if insecure { Trust::Anyone } else { Trust::Verified };
        Self {
            http,
            registry: registry.to_owned(),
            host: host.to_owned(),
            authorization: Authorization::new(credentials, registry, &repository, trust),
            repository,
            trust,
            scheme: Mutex::new((trust == Trust::Verified).then_some("https")),
        }
    }

    /// What is asked for, for people.
    pub(super) fn name(&self, document: Document<'_>) -> String {
        match document {
            Document::Manifest(tag) if tag.contains(':') => format!("{}@{tag}", self.repository),
            Document::Manifest(tag) => format!("{}:{tag}", self.repository),
            Document::Blob(digest) => format!("blob {digest} of {}", self.repository),
        }
    }

    pub(super) fn answer(&self, what: String, why: impl std::fmt::Display) -> Error {
        Error::Answer { host: self.registry.clone(), what, why: why.to_string() }
    }

    pub(super) fn unreachable(&self, why: impl std::fmt::Display) -> Error {
        Error::Unreachable { host: self.registry.clone(), why: why.to_string() }
    }

    pub(super) fn damaged(&self, what: String, found: crate::digest::Digest) -> Error {
        Error::Digest { host: self.registry.clone(), what, found }
    }

    pub(super) fn document(&self, document: Document<'_>, limit: u64) -> Result<Vec<u8>, Error> {
        self.http.patiently(|| {
            let response = self.get(document, 0)?;
            match http::read_body(response, limit) {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => {
                    let why = format_args!("it is longer than {} MiB, which no such thing is", limit >> 20);
                    Err(Failure::Lasting(self.answer(self.name(document), why)))
                }
                Err(error) => Err(Failure::Passing(self.unreachable(error), None)),
            }
        })
    }

    /// One attempt to open a document from byte `from` on; what comes back is a success.
    pub(super) fn get(&self, document: Document<'_>, from: u64) -> Result<Response<Body>, Failure<Error>> {
        let (path, accept) = match document {
            Document::Manifest(tag) => (format!("manifests/{tag}"), Some(MANIFESTS)),
            Document::Blob(digest) => (format!("blobs/{digest}"), None),
        };
        let url = format!("{}://{}/v2/{}/{path}", self.scheme()?, self.host, self.repository);
        for _ in 0..=MAX_CHALLENGES {
            let authorization = self.authorization.header();
            let get = Get { accept, authorization: authorization.as_deref(), from };
            let response = self.http.get(self.trust, &url, get).map_err(|failure| self.failed(failure))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status.as_u16() == 401
                && self.authorization.renew(self.http, &response, authorization.as_deref())?
            {
                continue;
            }
            return Err(self.refused(document, response));
        }
        Err(Failure::Lasting(self.denied(document)))
    }

    fn failed(&self, failure: Failure<String>) -> Failure<Error> {
        match failure {
            Failure::Passing(why, after) => Failure::Passing(self.unreachable(why), after),
            Failure::Lasting(why) => Failure::Lasting(self.unreachable(why)),
        }
    }

    fn denied(&self, document: Document<'_>) -> Error {
        let (what, who) = (self.name(document), self.authorization.who());
        Error::Denied { host: self.registry.clone(), what, who }
    }

    fn refused(&self, document: Document<'_>, response: Response<Body>) -> Failure<Error> {
        let status = response.status().as_u16();
        let (host, what) = (self.registry.clone(), self.name(document));
        match status {
            401 | 403 => return Failure::Lasting(self.denied(document)),
            404 => return Failure::Lasting(Error::NotFound { host, what }),
            _ => {}
        }
        let passing = http::is_passing(&response);
        let body = http::read_body(response, MAX_COMPLAINT).ok().flatten().unwrap_or_default();
        let error = Error::Status { host, status, what, message: complaint(&body) };
        match passing {
            Some(after) => Failure::Passing(error, after),
            None => Failure::Lasting(error),
        }
    }

    /// `https`, or for those who need not prove who they are `http` if that is all they speak.
    fn scheme(&self) -> Result<&'static str, Failure<Error>> {
        let mut scheme = self.scheme.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *scheme {
            return Ok(known);
        }
        let asked = |scheme| {
            self.http.get(self.trust, &format!("{scheme}://{}/v2/", self.host), Get::default()).map(drop)
        };
        let found = match asked("https") {
            Ok(()) => "https",
            // Whatever it said, it was not TLS.
            Err(_) => asked("http").map(|()| "http").map_err(|failure| self.failed(failure))?,
        };
        *scheme = Some(found);
        Ok(found)
    }
}
