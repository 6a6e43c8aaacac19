//! One HTTP request and its answer: whom to trust, how long to wait, which redirects to follow with what.

use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ureq::http::{Response, StatusCode, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

use super::resolver::{self, Resolver, random};

/// Attempts at a request that is answered with silence, a broken connection or "later".
const ATTEMPTS: u32 = 5;

/// A registry that wants us back later than this is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// From a registry to its storage there is one redirect, perhaps another in front.
const MAX_REDIRECTS: u32 = 5;

/// Where hosts keep the authorities that they trust, all in one file.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A bundle has some 150 certificates of 2 KiB; one of 8 MiB is something else.
const MAX_BUNDLE: u64 = 8 << 20;

/// Whether the other side has to prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// HTTPS with a certificate that an authority vouches for, and nothing less after redirects.
    Verified,
    /// Anything: loopback, and registries that a person calls insecure.
    Anyone,
}

/// Connections are shared and kept open between requests.
#[derive(Debug)]
pub(super) struct Http {
    verified: Agent,
    anyone: Agent,
    pause: Duration,
}

/// What to ask for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Get<'a> {
    pub(super) accept: Option<&'a str>,
    /// Never sent to another origin than the first.
    pub(super) authorization: Option<&'a str>,
    /// The first byte wanted.
    pub(super) from: u64,
}

/// Why one attempt failed.
#[derive(Debug)]
pub(super) enum Failure<E> {
    /// The next one may not. The registry may have said when to try.
    Passing(E, Option<Duration>),
    /// The next one will, too.
    Lasting(E),
}

impl Http {
    /// `pause` is the first between attempts; each one after is twice as long.
    pub(super) fn new(pause: Duration) -> Self {
        let roots = host_roots().unwrap_or(RootCerts::WebPki);
        let agent = |trust| {
            let tls = TlsConfig::builder()
                .root_certs(roots.clone())
                .disable_verification(trust == Trust::Anyone)
                .build();
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .https_only(trust == Trust::Verified)
                // Followed here, where it is known which of them may see credentials.
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(concat!("ferry/", env!("CARGO_PKG_VERSION")))
                .tls_config(tls)
                .timeout_resolve(Some(Duration::from_secs(20)))
                .timeout_connect(Some(Duration::from_secs(20)))
                .timeout_send_request(Some(Duration::from_secs(30)))
                .timeout_recv_response(Some(Duration::from_secs(60)))
                // However long a body takes, it must move.
                .timeout_per_read(Some(Duration::from_secs(60)))
                .build();
            Agent::with_parts(config, DefaultConnector::default(), Resolver)
        };
        Self { verified: agent(Trust::Verified), anyone: agent(Trust::Anyone), pause }
    }

    fn agent(&self, trust: Trust) -> &Agent {
        match trust {
            Trust::Verified => &self.verified,
            Trust::Anyone => &self.anyone,
        }
    }

    /// One attempt, redirects followed.
    pub(super) fn get(
        &self,
        trust: Trust,
        url: &str,
        get: Get<'_>,
    ) -> Result<Response<Body>, Failure<String>> {
        let first: Uri = url.parse().map_err(|error| Failure::Lasting(format!("{error}")))?;
        let mut here = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent(trust).get(&here);
            if let Some(accept) = get.accept {
                request = request.header(header::ACCEPT, accept);
            }
            if let Some(authorization) = get.authorization.filter(|_| same_origin(&first, &here)) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            if get.from > 0 {
                request = request.header(header::RANGE, format!("bytes={}-", get.from));
            }
            let response = request.call().map_err(failure)?;
            let status = response.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            here = location
                .and_then(|location| target(&here, location))
                .ok_or_else(|| Failure::Lasting("it redirects to nowhere".into()))?;
            if trust == Trust::Verified && here.scheme_str() != Some("https") {
                return Err(Failure::Lasting("it redirects from HTTPS to plain HTTP".into()));
            }
        }
        Err(Failure::Lasting("it redirects again and again".into()))
    }

    /// Sends a form, as one asks for a token.
    pub(super) fn post_form(
        &self,
        trust: Trust,
        url: &str,
        form: &[(&str, &str)],
    ) -> Result<Response<Body>, Failure<String>> {
        self.agent(trust).post(url).send_form(form.iter().copied()).map_err(failure)
    }

    /// Attempts until one succeeds or fails for good, with longer and longer pauses.
    pub(super) fn patiently<T, E>(&self, mut attempt: impl FnMut() -> Result<T, Failure<E>>) -> Result<T, E> {
        let mut attempts = Attempts::default();
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(failure) => self.pause(&mut attempts, failure)?,
            }
        }
    }

    /// Waits until it is time for another attempt; the error if that makes no sense any more.
    pub(super) fn pause<E>(&self, attempts: &mut Attempts, failure: Failure<E>) -> Result<(), E> {
        let (error, after) = match failure {
            Failure::Passing(error, after) => (error, after),
            Failure::Lasting(error) => return Err(error),
        };
        attempts.failed += 1;
        if attempts.failed >= ATTEMPTS || after.is_some_and(|after| after > LONGEST_PAUSE) {
            return Err(error);
        }
        let doubled = self.pause * (1 << (attempts.failed - 1));
        // Not all clients of a registry that had a fault should come back at the same moment.
        let jitter = doubled.mul_f64(f64::from(random() % 256) / 512.0);
        std::thread::sleep(after.unwrap_or(doubled) + jitter);
        Ok(())
    }
}

/// Attempts that came to nothing, since the last that brought something.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    pub(super) failed: u32,
}

/// The answer if it is of that kind, and otherwise what to think of it.
pub(super) fn is_passing(response: &Response<Body>) -> Option<Option<Duration>> {
    let status = response.status();
    let later =
        matches!(status.as_u16(), 408 | 425 | 429 | 500..=599) && status != StatusCode::NOT_IMPLEMENTED;
    later.then(|| {
        let after = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
        after.parse().ok().map(Duration::from_secs)
    })
}

/// A body of at most `limit` bytes; `None` if it is longer.
pub(super) fn read_body(response: Response<Body>, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader(response).take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// A body, to be read in pieces.
pub(super) fn reader(response: Response<Body>) -> impl Read {
    response.into_body().into_with_config().limit(u64::MAX).reader()
}

fn failure(error: ureq::Error) -> Failure<String> {
    use io::ErrorKind::InvalidData;
    match error {
        ureq::Error::Io(error) if error.kind() == resolver::UNKNOWN => Failure::Lasting(error.to_string()),
        // A certificate that is wrong now is wrong in a second.
        ureq::Error::Io(error) if error.kind() == InvalidData => Failure::Lasting(format!(
            "{error}: name its authority's certificate with SSL_CERT_FILE, or call the registry insecure in config.toml"
        )),
        ureq::Error::Io(error) => Failure::Passing(error.to_string(), None),
        ureq::Error::Timeout(_) => Failure::Passing("it does not answer in time".into(), None),
        error @ (ureq::Error::ConnectionFailed | ureq::Error::Protocol(_)) => {
            Failure::Passing(error.to_string(), None)
        }
        ureq::Error::HostNotFound => Failure::Lasting("there is no host of that name".into()),
        other => Failure::Lasting(other.to_string()),
    }
}

fn origin(uri: &Uri) -> (Option<&str>, Option<String>, Option<u16>) {
    let port = uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    (uri.scheme_str(), uri.host().map(str::to_ascii_lowercase), port)
}

fn same_origin(one: &Uri, other: &Uri) -> bool {
    origin(one) == origin(other)
}

/// Where a redirect leads: an absolute URL, or an absolute path at the same origin, which is all that registries send.
fn target(here: &Uri, location: &str) -> Option<Uri> {
    let text = match location {
        rooted if rooted.starts_with("//") => format!("{}:{rooted}", here.scheme_str()?),
        rooted if rooted.starts_with('/') => {
            format!("{}://{}{rooted}", here.scheme_str()?, here.authority()?)
        }
        absolute => absolute.to_owned(),
    };
    let uri: Uri = text.split('#').next()?.parse().ok()?;
    let credentials = uri.authority()?.as_str().contains('@');
    (matches!(uri.scheme_str(), Some("http" | "https")) && !credentials).then_some(uri)
}

/// True if the host, perhaps with a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The authorities that this host trusts; `None` where it has no say, as in an empty root.
fn host_roots() -> Option<RootCerts> {
    let given = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let mut bundles = given.into_iter().chain(BUNDLES.map(Into::into));
    let pem = bundles.find_map(|path| read_bundle(&path))?;
    let found: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    (!found.is_empty()).then(|| found.into())
}

fn read_bundle(path: &Path) -> Option<Vec<u8>> {
    let mut pem = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_BUNDLE).read_to_end(&mut pem).ok()?;
    (!pem.is_empty()).then_some(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_loopback_with_and_without_a_port() {
        for host in ["localhost", "LocalHost:5000", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "128.0.0.1:5000", "[::2]:5000", "127.0.0.1.example", "", "::1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |one: &str, other: &str| same_origin(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("https://a.example/v2/", "https://A.example:443/x?y"));
        assert!(!same("https://a.example/", "https://a.example:444/"));
        assert!(!same("https://a.example/", "http://a.example/"));
        assert!(!same("https://a.example/", "https://b.a.example/"));
    }

    #[test]
    fn redirects_lead_to_urls_and_paths_and_nowhere_else() {
        let from = |location| {
            target(&"https://a.example:5000/v2/x".parse().unwrap(), location).map(|u| u.to_string())
        };
        assert_eq!(from("/y?z").as_deref(), Some("https://a.example:5000/y?z"));
        assert_eq!(from("//b.example/y").as_deref(), Some("https://b.example/y"));
        assert_eq!(from("http://c.example/#f").as_deref(), Some("http://c.example/"));
        for nowhere in ["", "y", "file:///etc/passwd", "https://user:word@c.example/", "ftp://c.example/"] {
            assert_eq!(from(nowhere), None, "{nowhere}");
        }
    }
}
