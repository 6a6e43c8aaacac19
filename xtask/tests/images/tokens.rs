//! A token server as registries send their clients to one (Docker's token authentication): it knows one user, and signs
//! with a key of its own what he may do. The registry believes whoever shows its certificate.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::road::registry::{PASSWORD, USER, succeed};

/// What `docker login` may have got for the user's password.
pub const IDENTITY: &str = "an/identity+token";

/// Whom the tokens are for, and who gives them.
const SERVICE: &str = "the tests' registry";
const ISSUER: &str = "the tests";

/// Repositories that everybody may pull.
pub const PUBLIC: &str = "public/";

/// The server, which answers for as long as the test program runs.
pub struct TokenServer {
    directory: tempfile::TempDir,
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What signs tokens.
struct Signer {
    key: PathBuf,
    /// The certificate as it stands in tokens: DER in base64.
    certificate: String,
}

/// A request, as far as it matters.
struct Asked {
    basic: Option<String>,
    parameters: Vec<(String, String)>,
}

impl TokenServer {
    pub fn start() -> TokenServer {
        let directory = tempfile::tempdir().expect("a directory");
        let (key, certificate) = (directory.path().join("key.pem"), directory.path().join("certificate.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"]);
        succeed(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
        let pem = fs::read_to_string(&certificate).expect("the certificate");
        let certificate = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let signer = Signer { key, certificate };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let list = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who hangs up is not answered.
                let _ = answer(stream, &signer, &list);
            }
        });
        TokenServer { directory, address, asked }
    }

    /// What the registry's settings say of it.
    pub fn settings(&self) -> String {
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: {SERVICE}\n    issuer: {ISSUER}\n    rootcertbundle: {}\n",
            self.address,
            self.directory.path().join("certificate.pem").display()
        )
    }

    /// The scopes that tokens have been asked for since this was called last.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("nobody panics with it"))
    }
}

fn answer(stream: TcpStream, signer: &Signer, list: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let asked = read(&mut reader)?;
    let scopes: Vec<&str> = asked.all("scope").collect();
    list.lock().expect("nobody panics with it").extend(scopes.iter().map(|scope| (*scope).to_owned()));
    let right = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let known = asked.basic.as_ref().is_some_and(|basic| *basic == right)
        || asked.all("refresh_token").any(|token| token == IDENTITY);
    let somebody = asked.basic.is_some() || asked.all("refresh_token").next().is_some();
    let is_for_us = asked.all("service").any(|service| service == SERVICE);
    let (status, body) = match (is_for_us, known || !somebody) {
        (true, true) => ("200 OK", json!({ "token": signer.token(&scopes, known), "expires_in": 300 })),
        (true, false) => ("401 Unauthorized", json!({ "details": "incorrect username or password" })),
        (false, _) => ("400 Bad Request", json!({ "details": "no such service" })),
    };
    let body = body.to_string();
    write!(
        reader.into_inner(),
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// A request's parameters, whether in its address or its body, and its credentials.
fn read(reader: &mut impl BufRead) -> std::io::Result<Asked> {
    let mut lines = Vec::new();
    for line in reader.by_ref().lines() {
        match line? {
            line if line.is_empty() => break,
            line => lines.push(line),
        }
    }
    let field = |name: &str| {
        let fields = lines.iter().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    };
    let length = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    let target = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').chain(body.split('&')).filter_map(|pair| pair.split_once('='));
    let parameters = pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
    let basic = field("authorization").and_then(|value| value.strip_prefix("Basic "));
    Ok(Asked { basic: basic.map(str::to_owned), parameters })
}

/// Text out of a form or an address.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).unwrap_or(0) as u8;
        bytes.push(match byte {
            b'%' => digit() << 4 | digit(),
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Asked {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.parameters.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl Signer {
    /// A token for what of these scopes (`repository:NAME:ACTION,…`) is allowed.
    fn token(&self, scopes: &[&str], known: bool) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let access: Vec<Value> = scopes.iter().filter_map(|scope| allowed(scope, known)).collect();
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [self.certificate] });
        let claims = json!({
            "iss": ISSUER, "aud": SERVICE, "sub": "", "jti": "1", "access": access,
            "iat": now, "nbf": now - 60, "exp": now + 300,
        });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(sign(&self.key, text.as_bytes())))
    }
}

fn allowed(scope: &str, known: bool) -> Option<Value> {
    let [kind, name, actions] = scope.splitn(3, ':').collect::<Vec<_>>().try_into().ok()?;
    let may = |action: &&str| known || *action == "pull" && name.starts_with(PUBLIC);
    let actions: Vec<&str> = actions.split(',').filter(may).collect();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}

/// The signature of RSA with SHA-256 (RFC 7518, 3.3).
fn sign(key: &Path, text: &[u8]) -> Vec<u8> {
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-sign"]).arg(key).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = openssl.spawn().expect("openssl starts");
    child.stdin.take().expect("a pipe").write_all(text).expect("openssl reads");
    child.wait_with_output().expect("a signature").stdout
}
