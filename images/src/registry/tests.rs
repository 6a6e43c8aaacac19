//! Registries that do all kinds of things, and what a client makes of them.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};

use serde_json::{Value, json};

use super::server::{Asked, Reply, Server};
use super::*;
use crate::reference::Reference;
use crate::source::{self, Access, Keep, Pull};
use crate::store::Store;

const LIMIT: u64 = 1 << 20;

fn nobody() -> Credentials {
    Credentials::in_files(Vec::new())
}

fn name(server: &Server) -> Name {
    format!("{}/team/app:1", server.host).parse().unwrap()
}

/// What the registry answers to a question for the manifest.
fn document(server: &Server, credentials: Credentials) -> Result<Vec<u8>, Error> {
    let registries = Registries::for_tests(BTreeMap::new(), credentials);
    registries.repository(&name(server)).document(Document::Manifest("1"), LIMIT)
}

/// Credentials for the server: `user` and `secret`, or an entry of its own.
struct SignedIn {
    dir: tempfile::TempDir,
}

impl SignedIn {
    fn new(server: &Server, entry: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = json!({ "auths": { server.host.clone(): entry } });
        fs::write(dir.path().join("auth.json"), file.to_string()).unwrap();
        Self { dir }
    }

    /// user:secret
    fn with_password(server: &Server) -> Self {
        Self::new(server, json!({ "auth": "dXNlcjpzZWNyZXQ=" }))
    }

    fn credentials(&self) -> Credentials {
        Credentials::in_files(vec![self.dir.path().join("auth.json")])
    }
}

const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A registry whose tokens come from `/token` at itself, for those whom `knows` knows.
fn with_tokens(knows: fn(&Asked) -> bool) -> Server {
    Server::new(move |asked| {
        if asked.path().starts_with("/token") {
            return if knows(asked) { Reply::ok(r#"{"token":"t0ken"}"#) } else { Reply::status(401) };
        }
        let host = asked.header("host").unwrap();
        match asked.header("authorization") {
            Some("Bearer t0ken") => Reply::ok("manifest"),
            _ => Reply::status(401).with(
                "WWW-Authenticate",
                format!(
                    r#"Bearer realm="http://{host}/token",service="the registry",scope="repository:team/app:pull""#
                ),
            ),
        }
    })
}

#[test]
fn a_token_is_had_without_signing_in_and_with() {
    let anyone = with_tokens(|asked| asked.header("authorization").is_none());
    assert_eq!(document(&anyone, nobody()).unwrap(), b"manifest");
    let asked = anyone.asked();
    assert_eq!(asked[1].path(), "/token?service=the%20registry&scope=repository:team/app:pull");
    assert_eq!(asked.len(), 3);

    let known = with_tokens(|asked| asked.header("authorization") == Some(BASIC));
    assert_eq!(document(&known, SignedIn::with_password(&known).credentials()).unwrap(), b"manifest");
    let message = document(&known, nobody()).unwrap_err().to_string();
    assert!(message.contains("lets those who have not signed in not read team/app:1"), "{message}");
    let wrong = SignedIn::new(&known, json!({ "username": "eve", "password": "guess" }));
    let message = document(&known, wrong.credentials()).unwrap_err().to_string();
    assert!(message.contains("lets `eve` not read team/app:1: check the name, or sign in with"), "{message}");
    assert!(!message.contains("guess"));
}

#[test]
fn an_identity_token_is_exchanged() {
    let server = with_tokens(|asked| {
        asked.line.starts_with("POST ")
            && asked.body.contains("grant_type=refresh_token")
            && asked.body.contains("refresh_token=i%2Fd")
    });
    let signed_in = SignedIn::new(&server, json!({ "auth": "eDp5", "identitytoken": "i/d" }));
    assert_eq!(document(&server, signed_in.credentials()).unwrap(), b"manifest");
}

#[test]
fn a_password_is_shown_only_when_it_is_asked_for() {
    let server = Server::new(|asked| match asked.header("authorization") {
        Some(BASIC) => Reply::ok("manifest"),
        _ => Reply::status(401).with("WWW-Authenticate", r#"Basic realm="x""#),
    });
    assert_eq!(document(&server, SignedIn::with_password(&server).credentials()).unwrap(), b"manifest");
    assert_eq!(server.asked()[0].header("authorization"), None);
    assert!(matches!(document(&server, nobody()), Err(Error::Denied { .. })));
}

#[test]
fn a_token_that_is_never_accepted_ends() {
    let server = Server::new(|asked| match asked.path().starts_with("/token") {
        true => Reply::ok(format!(r#"{{"token":"{}"}}"#, super::resolver::random())),
        false => {
            let realm = format!("Bearer realm=\"http://{}/token\"", asked.header("host").unwrap());
            Reply::status(401).with("WWW-Authenticate", realm)
        }
    });
    assert!(matches!(document(&server, nobody()), Err(Error::Denied { .. })));
    assert!(server.asked().len() < 10);
}

#[test]
fn redirects_carry_credentials_within_the_origin_only() {
    let elsewhere = Server::new(|_| Reply::ok("from elsewhere"));
    let there = elsewhere.host.clone();
    let server = Server::new(move |asked| match (asked.header("authorization"), asked.path()) {
        (None, _) => Reply::status(401).with("WWW-Authenticate", "Basic"),
        (_, "/here") => Reply::status(307).with("Location", format!("http://{there}/there")),
        _ => Reply::status(302).with("Location", "/here"),
    });
    let signed_in = SignedIn::with_password(&server);
    assert_eq!(document(&server, signed_in.credentials()).unwrap(), b"from elsewhere");
    assert_eq!(server.asked().last().unwrap().header("authorization"), Some(BASIC));
    assert_eq!(elsewhere.asked()[0].header("authorization"), None);

    let circle = Server::new(|_| Reply::status(301).with("Location", "/again"));
    let message = document(&circle, nobody()).unwrap_err().to_string();
    assert!(message.contains("redirects again and again"), "{message}");
}

#[test]
fn who_proves_who_it_is_cannot_lead_to_an_open_line() {
    let server = Server::new(|_| Reply::ok("open"));
    let failure = Http::new(Duration::ZERO).get(
        http::Trust::Verified,
        &format!("http://{}/", server.host),
        http::Get::default(),
    );
    assert!(matches!(failure, Err(http::Failure::Lasting(_))));
    assert!(server.asked().is_empty());
}

/// A server that answers these in turn, the last one for ever.
fn in_turn(replies: Vec<Reply>) -> Server {
    let next = std::sync::Mutex::new(replies.into_iter().peekable());
    Server::new(move |asked| {
        if asked.path() == "/v2/" {
            return Reply::ok("");
        }
        let mut next = next.lock().unwrap();
        let reply = next.next().unwrap();
        if next.peek().is_none() {
            *next = vec![reply.clone()].into_iter().peekable();
        }
        reply
    })
}

#[test]
fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
    let later = Reply::status(429).with("Retry-After", "0");
    let broken = Reply { cut: Some(2), ..Reply::ok("manifest") };
    let server = in_turn(vec![Reply::status(503), later, broken, Reply::status(500), Reply::ok("manifest")]);
    assert_eq!(document(&server, nobody()).unwrap(), b"manifest");
    assert_eq!(server.asked().len(), 5);

    let down = in_turn(vec![Reply::status(502)]);
    let message = document(&down, nobody()).unwrap_err().to_string();
    assert!(message.ends_with("answers 502 to team/app:1") && down.asked().len() == 5, "{message}");

    let much_later = in_turn(vec![Reply::status(429).with("Retry-After", "86400")]);
    assert!(document(&much_later, nobody()).is_err());
    assert_eq!(much_later.asked().len(), 1);

    for (status, body, expected) in [
        (404, "", "has no team/app:1"),
        (403, "", "lets those who have not signed in not read"),
        (400, r#"{"errors":[{"code":"C","message":"no\nway"}]}"#, "answers 400 to team/app:1: no?way"),
    ] {
        let server = in_turn(vec![Reply { status, ..Reply::ok(body) }]);
        let message = document(&server, nobody()).unwrap_err().to_string();
        assert!(message.contains(expected) && server.asked().len() == 1, "{message}");
    }
}

#[test]
fn nobody_there_is_told_with_the_host() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let registries = Registries::for_tests(BTreeMap::new(), nobody());
    let name: Name = format!("{host}/a").parse().unwrap();
    let message =
        registries.repository(&name).document(Document::Manifest("1"), LIMIT).unwrap_err().to_string();
    assert!(message.starts_with(&format!("registry {host}: ")) && message.contains("refused"), "{message}");
}

#[test]
fn a_document_without_end_is_refused() {
    let server = Server::new(|_| Reply::ok(vec![b' '; LIMIT as usize + 1]));
    let message = document(&server, nobody()).unwrap_err().to_string();
    assert!(message.contains("longer than 1 MiB"), "{message}");
}

/// Some bytes that are not all alike.
fn blob() -> Vec<u8> {
    (0..300_000_u32).flat_map(|number| number.to_le_bytes()).collect()
}

/// Downloads the blob into a file that holds `before` already; what comes of it, and what the file holds then.
fn download_after(server: &Server, before: &[u8]) -> (Result<(), Error>, Vec<u8>) {
    let registries = Registries::for_tests(BTreeMap::new(), nobody());
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(before).unwrap();
    let (blob, name) = (blob(), name(server));
    let (digest, size) = (Digest::of(&blob), blob.len() as u64);
    let result = registries.repository(&name).blob(&digest, size, &file, &|| true, &());
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut found = Vec::new();
    file.read_to_end(&mut found).unwrap();
    (result, found)
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let server = Server::new(|asked| {
        let rest = 1_200_000 - asked.from();
        // Each answer brings a third of what is left; more answers than attempts without any progress.
        Reply { cut: (rest > 1000).then_some(rest / 3), ..Reply::part(&blob(), asked) }
    });
    let (result, found) = download_after(&server, b"");
    result.unwrap();
    assert!(found == blob());
    let starts: Vec<usize> = server.asked().iter().map(Asked::from).collect();
    assert!(starts.len() > 10 && starts.is_sorted_by(|one, next| one < next), "{starts:?}");
}

#[test]
fn a_download_that_never_moves_ends() {
    let server = Server::new(|asked| Reply { cut: Some(0), ..Reply::part(&blob(), asked) });
    let (result, _) = download_after(&server, &blob()[..7]);
    assert!(result.is_err());
    assert_eq!(server.asked().len(), 5);
}

#[test]
fn what_another_process_has_left_is_used_if_it_is_right() {
    let server = Server::new(|asked| Reply::part(&blob(), asked));
    for before in [&blob()[..1000], &blob(), b""] {
        let (result, found) = download_after(&server, before);
        result.unwrap();
        assert!(found == blob());
    }
    let starts: Vec<usize> = server.asked().iter().map(Asked::from).collect();
    assert_eq!(starts, [1000, 0], "a complete one is not asked for");
    // As a power cut may leave it.
    for before in [vec![0; 1000], vec![0; 1_200_000], vec![0; 2_000_000]] {
        let (result, found) = download_after(&server, &before);
        result.unwrap();
        assert!(found == blob());
    }
}

#[test]
fn a_registry_that_knows_no_ranges_sends_it_all() {
    let whole = Server::new(|_| Reply::ok(blob()));
    let other_range = Server::new(|asked| match asked.from() {
        0 => Reply::ok(blob()),
        _ => Reply { status: 206, ..Reply::ok(blob()) }.with("Content-Range", "bytes 0-1199999/1200000"),
    });
    let refusing =
        Server::new(|asked| if asked.from() == 0 { Reply::ok(blob()) } else { Reply::status(416) });
    for server in [whole, other_range, refusing] {
        let (result, found) = download_after(&server, &blob()[..1000]);
        result.unwrap();
        assert!(found == blob());
    }
}

#[test]
fn what_is_not_the_blob_is_refused_and_forgotten() {
    let mut changed = blob();
    changed[777] ^= 1;
    let longer = [blob(), b"x".to_vec()].concat();
    for (sent, expected) in [(changed, "damaged: found sha256:"), (longer, "it is longer than 1200000 bytes")]
    {
        let server = Server::new(move |asked| Reply::part(&sent, asked));
        let (result, found) = download_after(&server, b"");
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(found.is_empty());
    }
    let short = Server::new(|asked| Reply::part(&blob()[..1_000_000], asked));
    let message = download_after(&short, b"").0.unwrap_err().to_string();
    assert!(message.contains("cannot be") || message.contains("ended after 1000000 of 1200000"), "{message}");
}

#[test]
fn mirrors_are_asked_first_and_the_registry_where_they_fail() {
    let registry = Server::new(|asked| match asked.path().contains("manifests") {
        true => Reply::ok("from the registry"),
        false => Reply::part(&blob(), asked),
    });
    let empty = Server::new(|_| Reply::status(404));
    let mirror = Server::new(|asked| match asked.path() {
        "/v2/copies/team/app/manifests/1" => Reply::ok("from the mirror"),
        path if path.contains("blobs") => Reply::ok(vec![0; 1_200_000]),
        _ => Reply::status(404),
    });
    let ask = |mirrors: Vec<String>| {
        let settings = BTreeMap::from([(registry.host.clone(), Settings { mirrors, insecure: false })]);
        let registries = Registries::for_tests(settings, nobody());
        let repository = registries.repository(&name(&registry));
        let file = tempfile::tempfile().unwrap();
        repository.blob(&Digest::of(&blob()), 1_200_000, &file, &|| true, &()).unwrap();
        String::from_utf8(repository.document(Document::Manifest("1"), LIMIT).unwrap()).unwrap()
    };
    assert_eq!(ask(vec![empty.host.clone()]), "from the registry");
    assert_eq!(ask(vec![empty.host.clone(), format!("{}/copies", mirror.host)]), "from the mirror");
    assert_eq!(registry.asked().len(), 3, "the mirror's blob was damaged");
}

/// A registry with an image of these layers, each a tar, gzipped. What it has, by the ends of paths.
fn image(layers: &[&str]) -> (BTreeMap<String, Vec<u8>>, Digest) {
    let mut has = BTreeMap::new();
    let mut add = |kind: &str, bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        let descriptor = json!({ "digest": digest, "size": bytes.len() });
        has.insert(format!("{kind}/{digest}"), bytes);
        descriptor
    };
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let tar = crate::layer::fixture::Tar::new().file(layer, layer.as_bytes()).end();
        diff_ids.push(Digest::of(&tar));
        let mut packed = Vec::new();
        flate2::read::GzEncoder::new(&tar[..], flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
        descriptors.push(add("blobs", packed));
    }
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }).to_string();
    let manifest =
        json!({ "schemaVersion": 2, "config": add("blobs", config.into()), "layers": descriptors });
    let mut entry = add("manifests", manifest.to_string().into());
    entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let foreign = json!({ "digest": Digest::of(b""), "size": 0, "platform": { "os": "linux", "architecture": "arm64" } });
    let index = json!({ "schemaVersion": 2, "manifests": [foreign, entry] }).to_string();
    let digest = Digest::of(index.as_bytes());
    has.insert("manifests/1".into(), index.clone().into());
    has.insert(format!("manifests/{digest}"), index.into());
    (has, digest)
}

fn serving(has: BTreeMap<String, Vec<u8>>) -> Server {
    Server::new(move |asked| {
        let found = asked.path().strip_prefix("/v2/team/app/").and_then(|path| has.get(path));
        found.map_or(Reply::status(404), |bytes| Reply::part(bytes, asked))
    })
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

fn pull(store: &Store, name: &Name, pull: Pull, keep: Keep) -> Result<source::Image, source::Error> {
    let registries = Registries::for_tests(BTreeMap::new(), nobody());
    let access = Access { registries: &registries, pull, keep };
    source::resolve(store, &Reference::Registry(name.clone()), &access, &())
}

fn files(dir: &tempfile::TempDir, directory: &str) -> usize {
    fs::read_dir(dir.path().join("store").join(directory)).unwrap().count()
}

#[test]
fn an_image_is_pulled_once_and_by_whatever_names_it() {
    let (has, digest) = image(&["a", "b", "c", "d", "e", "a"]);
    let server = serving(has);
    let (dir, store) = store();
    let tagged = name(&server);
    assert!(matches!(pull(&store, &tagged, Pull::Never, Keep::Converted), Err(source::Error::NotHere(_))));
    let pulled = pull(&store, &tagged, Pull::Missing, Keep::Converted).unwrap();
    assert_eq!(pulled.layers.len(), 6);
    assert_eq!((files(&dir, "layers"), files(&dir, "blobs"), files(&dir, "manifests")), (5, 5, 1));
    assert_eq!((files(&dir, "tmp"), files(&dir, "partial")), (0, 0));
    let asked = server.asked().len();
    assert_eq!(pull(&store, &tagged, Pull::Missing, Keep::Packed).unwrap(), pulled);
    let pinned: Name = format!("{}/team/app@{digest}", server.host).parse().unwrap();
    assert_eq!(pull(&store, &pinned, Pull::Missing, Keep::Packed).unwrap(), pulled);
    assert_eq!(server.asked().len(), asked, "nobody was asked");
    assert_eq!(pull(&store, &pinned, Pull::Always, Keep::Packed).unwrap(), pulled);
    assert_eq!(server.asked().len(), asked + 3, "two manifests and the configuration");
    assert_eq!(store.names().unwrap().len(), 2);
}

#[test]
fn what_is_here_converted_is_not_downloaded_to_be_run_but_to_be_saved() {
    let (has, _) = image(&["a", "b"]);
    let server = serving(has);
    let (dir, store) = store();
    let name = name(&server);
    pull(&store, &name, Pull::Always, Keep::Packed).unwrap();
    store.drop_blobs().unwrap();
    let saved = |store: &Store| {
        source::save(store, std::slice::from_ref(&name), source::Format::DockerArchive, Vec::new())
    };
    let message = saved(&store).unwrap_err().to_string();
    assert!(message.contains("not kept as they came: `ferry pull`"), "{message}");
    pull(&store, &name, Pull::Always, Keep::Converted).unwrap();
    assert_eq!(files(&dir, "blobs"), 0);
    pull(&store, &name, Pull::Always, Keep::Packed).unwrap();
    assert_eq!(files(&dir, "blobs"), 2);
    saved(&store).unwrap();
}

#[test]
fn an_image_with_something_wrong_leaves_nothing() {
    let (has, digest) = image(&["a", "b", "c"]);
    for broken in has.keys().filter(|key| !key.ends_with(&digest.to_string())) {
        let mut has = has.clone();
        let bytes = has.get_mut(broken).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        let server = serving(has);
        let (dir, store) = store();
        let message = pull(&store, &name(&server), Pull::Missing, Keep::Packed).unwrap_err().to_string();
        assert!(message.contains(&name(&server).to_string()) && !message.contains('\n'), "{message}");
        for directory in ["images", "manifests", "names", "tmp"] {
            assert_eq!(files(&dir, directory), 0, "{directory} after {broken}: {message}");
        }
        let spoilt = broken.rsplit(':').next().unwrap();
        assert!(!dir.path().join("store/partial").join(spoilt).exists(), "{message}");
        // If the registry fails, layers that have come may stay until a sweep, and halves of those that were on their way
        // beside the one that failed.
        store.sweep(&[]).unwrap();
        assert_eq!(files(&dir, "layers") + files(&dir, "blobs") + files(&dir, "partial"), 0);
    }
}

#[test]
fn what_the_disk_has_spoilt_is_had_again() {
    use std::os::unix::fs::PermissionsExt;
    let (has, _) = image(&["a"]);
    let server = serving(has);
    let (dir, store) = store();
    let pulled = pull(&store, &name(&server), Pull::Missing, Keep::Packed).unwrap();
    let below = |name: &str| {
        fs::read_dir(dir.path().join("store").join(name)).unwrap().next().unwrap().unwrap().path()
    };
    fs::remove_file(below("layers")).unwrap();
    let blob = below("blobs");
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, b"spoilt").unwrap();
    assert!(pull(&store, &name(&server), Pull::Missing, Keep::Packed).is_err());
    assert_eq!(pull(&store, &name(&server), Pull::Missing, Keep::Packed).unwrap(), pulled);
}

#[test]
fn a_pinned_image_is_that_image() {
    let (mut has, digest) = image(&["a"]);
    let (other, _) = image(&["b"]);
    has.insert(format!("manifests/{digest}"), other["manifests/1"].clone());
    let server = serving(has);
    let (_dir, store) = store();
    let pinned: Name = format!("{}/team/app@{digest}", server.host).parse().unwrap();
    let message = pull(&store, &pinned, Pull::Missing, Keep::Packed).unwrap_err().to_string();
    assert!(message.contains("is damaged (expected sha256:"), "{message}");
}

#[test]
fn many_pull_the_same_at_once() {
    let (has, _) = image(&["a", "b", "c", "d"]);
    let blobs = has.keys().filter(|key| key.starts_with("blobs")).count();
    let server = serving(has);
    let (dir, store) = store();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| pull(&store, &name(&server), Pull::Missing, Keep::Packed).unwrap());
        }
    });
    let downloads = server.asked().iter().filter(|asked| asked.path().contains("/blobs/")).count();
    // Configurations are small enough to be had by everyone.
    assert!(downloads <= blobs - 1 + 6, "{downloads}");
    assert_eq!((files(&dir, "layers"), files(&dir, "tmp"), files(&dir, "partial")), (4, 0, 0));
}
