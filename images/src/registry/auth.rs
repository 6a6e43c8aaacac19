//! What a registry wants to see before it answers: HTTP's challenges (RFC 9110, 11.6.1) for Basic and Docker's Bearer, and
//! the exchange of credentials for a token.

use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use ureq::Body;
use ureq::http::{Response, Uri, header};

use super::Error;
use super::credentials::{Credential, Credentials};
use super::http::{self, Failure, Get, Http, Trust};

/// Bytes of a token server's answer; tokens are a few KiB.
const MAX_ANSWER: u64 = 1 << 20;

/// A way in that a registry offers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// What has been shown to one registry for one repository.
#[derive(Debug)]
pub(super) struct Authorization<'a> {
    credentials: &'a Credentials,
    registry: String,
    repository: String,
    trust: Trust,
    current: Mutex<Shown>,
}

#[derive(Debug, Default, Clone)]
struct Shown {
    header: Option<String>,
    user: Option<String>,
}

impl<'a> Authorization<'a> {
    pub(super) fn new(credentials: &'a Credentials, registry: &str, repository: &str, trust: Trust) -> Self {
        let current = Mutex::new(Shown::default());
        Self { credentials, registry: registry.to_owned(), repository: repository.to_owned(), trust, current }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The header to send, if one was found to be wanted.
    pub(super) fn header(&self) -> Option<String> {
        self.lock().header.clone()
    }

    /// Who asks, for people.
    pub(super) fn who(&self) -> String {
        self.lock().user.clone().unwrap_or_else(|| "those who have not signed in".into())
    }

    /// Finds what answers the challenge of `refusal`, a 401 to a request that had sent `sent`. False if there is nothing
    /// left to show.
    pub(super) fn renew(
        &self,
        http: &Http,
        refusal: &Response<Body>,
        sent: Option<&str>,
    ) -> Result<bool, Failure<Error>> {
        let mut current = self.lock();
        if current.header.as_deref() != sent {
            // Another thread was here first.
            return Ok(true);
        }
        let challenges = refusal.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> = challenges.filter_map(|value| value.to_str().ok()).flat_map(parse).collect();
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let Some(challenge) = bearer.or(challenges.first()) else { return Ok(false) };
        let credential = self.credentials.find(&self.registry, &self.repository).map_err(Failure::Lasting)?;
        let user = credential.as_ref().map(|credential| match credential {
            Credential::Password { user, .. } => format!("`{}`", crate::digest::shortened(user)),
            Credential::Identity(_) => "the holder of this identity token".into(),
        });
        let header = match challenge {
            Challenge::Basic => credential.and_then(|credential| credential.basic()),
            Challenge::Bearer { realm, service, scope } => {
                let fallback = format!("repository:{}:pull", self.repository);
                let scope = scope.as_deref().unwrap_or(&fallback);
                self.token(http, realm, service.as_deref(), scope, credential.as_ref())?
            }
        };
        let news = header.is_some() && header != current.header;
        *current = Shown { header, user };
        Ok(news)
    }

    /// A token of the token server, as a header. `None` if it does not give one.
    fn token(
        &self,
        http: &Http,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credential: Option<&Credential>,
    ) -> Result<Option<String>, Failure<Error>> {
        let answer = |why: String| Error::Answer {
            host: self.registry.clone(),
            what: format!("its token server {}", crate::digest::shortened(realm)),
            why,
        };
        let uri: Uri = realm.parse().map_err(|_| Failure::Lasting(answer("that is no address".into())))?;
        let host = uri.authority().map_or("", |authority| authority.as_str());
        // A registry that proves who it is does not get our password sent over an open line.
        let trust = match self.trust {
            Trust::Anyone if http::is_loopback(host) || host == self.registry => Trust::Anyone,
            _ => Trust::Verified,
        };
        let unreachable = |failure: Failure<String>| match failure {
            Failure::Passing(why, after) => Failure::Passing(answer(why), after),
            Failure::Lasting(why) => Failure::Lasting(answer(why)),
        };
        let response = match credential {
            Some(Credential::Identity(token)) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("client_id", "ferry"),
                    ("service", service.unwrap_or_default()),
                    ("scope", scope),
                    ("refresh_token", token),
                ];
                http.post_form(trust, realm, &form).map_err(unreachable)?
            }
            credential => {
                let mut query: Vec<(&str, &str)> =
                    service.map(|service| ("service", service)).into_iter().collect();
                query.push(("scope", scope));
                let url = with_query(realm, &query);
                let basic = credential.and_then(Credential::basic);
                let get = Get { authorization: basic.as_deref(), ..Get::default() };
                http.get(trust, &url, get).map_err(unreachable)?
            }
        };
        if let Some(after) = http::is_passing(&response) {
            let why = format!("it answers {}", response.status().as_u16());
            return Err(Failure::Passing(answer(why), after));
        }
        if !response.status().is_success() {
            return Ok(None);
        }
        let body = http::read_body(response, MAX_ANSWER);
        let body = body.map_err(|error| Failure::Passing(answer(error.to_string()), None))?;
        let body = body.ok_or_else(|| Failure::Lasting(answer("it sends more than a token".into())))?;
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let Token { token, access_token } =
            serde_json::from_slice(&body).map_err(|error| Failure::Lasting(answer(error.to_string())))?;
        let token = if token.is_empty() { access_token } else { token };
        let sendable = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        Ok(sendable.then(|| format!("Bearer {token}")))
    }
}

fn with_query(url: &str, query: &[(&str, &str)]) -> String {
    let mut url = url.split('#').next().unwrap_or_default().to_owned();
    for (key, value) in query {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(key);
        url.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
                    url.push(char::from(byte))
                }
                byte => url.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    url
}

/// The challenges of one header that Ferry can meet.
fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = header;
    while let Some((scheme, after)) = token(rest) {
        let mut parameters = Vec::new();
        rest = after;
        while let Some((name, value, after)) = parameter(rest) {
            parameters.push((name.to_ascii_lowercase(), value));
            rest = after;
        }
        let mut take = |name: &str| {
            let at = parameters.iter().position(|(key, _)| key == name)?;
            Some(parameters.swap_remove(at).1)
        };
        if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = take("realm")
        {
            challenges.push(Challenge::Bearer { realm, service: take("service"), scope: take("scope") });
        }
    }
    challenges
}

/// A word, and what follows it.
fn token(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)));
    match text.split_at(end.unwrap_or(text.len())) {
        ("", _) => None,
        found => Some(found),
    }
}

/// `name=value` or `name="value"`, and what follows it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = token(text)?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, rest) = token(rest)?;
        return Some((name, value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name, value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn reads_challenges_as_registries_write_them() {
        let realm = "https://auth.example/token";
        for (header, expected) in [
            (r#"Basic realm="x""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#,
                vec![bearer(realm, Some("r.example"), Some("repository:a/b:pull,push"))],
            ),
            (
                r#"Negotiate, Basic realm="a\"b, Bearer realm=c", BEARER Realm="https://auth.example/token" , scope=s"#,
                vec![Challenge::Basic, bearer(realm, None, Some("s"))],
            ),
            (r#"Bearer service="no realm""#, vec![]),
            (r#"Bearer realm="never ends"#, vec![]),
            ("", vec![]),
            (",,,===\"\"", vec![]),
        ] {
            assert_eq!(parse(header), expected, "{header}");
        }
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(
            with_query(
                "https://a.example/t?x=1#f",
                &[("service", "a b&c"), ("scope", "repository:a/b:pull")]
            ),
            "https://a.example/t?x=1&service=a%20b%26c&scope=repository:a/b:pull"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_to_its_end(header in "\\PC{0,80}|[a-zA-Z=\",\\\\ ]{0,80}") {
            parse(&header);
        }
    }
}
