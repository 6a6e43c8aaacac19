//! Which Debian mirror this machine uses: read from its own apt configuration (one-line `.list` files and deb822
//! `.sources` files, see sources.list(5)), so that no mirror's name is written in Ferry.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// One enabled `deb` entry of the machine's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    /// A keyring path, fingerprints, or an embedded key with its continuation lines, exactly as found.
    signed_by: Option<String>,
}

/// A mirror and the keyring its signatures are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The archive's root, without a slash at its end.
    pub uri: String,
    /// The value of `Signed-By`; `None` leaves it to apt's trusted keys.
    pub signed_by: Option<String>,
}

/// The mirrors of Debian's main archive and of its security archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// Suites `NAME` and `NAME-updates`.
    pub main: Mirror,
    /// Suite `NAME-security`; not every machine has one.
    pub security: Option<Mirror>,
}

/// Debian's own suite names. A vendor's repository may use one of them too: see [`Mirrors::choose`].
const SUITES: &[&str] = &[
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "sid",
    "stretch",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
];

/// Where Debian installs its archive's keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Mirrors {
    /// Reads the configuration below `etc` (`/etc/apt`). `None` if it names no Debian mirror.
    pub fn read(etc: &Path) -> Option<Self> {
        let mut entries = Vec::new();
        for path in configuration_files(etc) {
            // A file that this user cannot read says nothing to him; apt would skip it likewise.
            let Ok(text) = fs::read(&path) else { continue };
            let text = String::from_utf8_lossy(&text);
            if path.extension().is_some_and(|extension| extension == "sources") {
                entries.extend(parse_deb822(&text));
            } else {
                entries.extend(text.lines().filter_map(parse_line));
            }
        }
        Self::choose(&entries)
    }

    /// The first entry that is Debian's. Vendors publish under Debian's suite names too, so an entry signed with
    /// Debian's keyring counts most, then one whose path ends as Debian's archive does.
    fn choose(entries: &[Entry]) -> Option<Self> {
        let best = |is_suite: fn(&str) -> bool, directory: &str| {
            let mut found: Option<(u8, Mirror)> = None;
            for entry in entries {
                let of_debian = entry.components.iter().any(|component| component == "main")
                    && entry.suites.iter().any(|suite| is_suite(suite));
                let Some(uri) = entry.uris.iter().find_map(|uri| plain_uri(uri)).filter(|_| of_debian) else {
                    continue;
                };
                let rank = match &entry.signed_by {
                    Some(key) if key.contains("debian-archive") => 3,
                    _ if uri.rsplit('/').next() == Some(directory) => 2,
                    None => 1,
                    Some(_) => 0,
                };
                if found.as_ref().is_none_or(|(best, _)| rank > *best) {
                    found = Some((rank, Mirror { uri, signed_by: entry.signed_by.clone().or_else(keyring) }));
                }
            }
            found.filter(|(rank, _)| *rank > 0).map(|(_, mirror)| mirror)
        };
        let is_security = |suite: &str| {
            suite
                .strip_suffix("-security")
                .or(suite.strip_suffix("/updates"))
                .is_some_and(|base| SUITES.contains(&base))
        };
        Some(Self {
            main: best(|suite| SUITES.contains(&suite), "debian")?,
            security: best(is_security, "debian-security"),
        })
    }

    /// The archive that holds a package file, by its path below the archive's root.
    ///
    /// The pools have different names: `pool/updates/` is the security archive's. A machine that names no security mirror
    /// is sent to the directory beside its main one, where mirrors that carry both have it: a package that is asked for by
    /// digest may come from anywhere.
    pub fn root_of(&self, filename: &str) -> Cow<'_, str> {
        match &self.security {
            _ if !filename.starts_with("pool/updates/") => Cow::Borrowed(&self.main.uri),
            Some(security) => Cow::Borrowed(&security.uri),
            None => Cow::Owned(format!("{}-security", self.main.uri)),
        }
    }

    /// A deb822 file for apt that offers `suite`, its updates and its security updates for `architecture`.
    pub fn sources_for(&self, suite: &str, architecture: &str) -> String {
        let mut text = String::new();
        let mut stanza = |mirror: &Mirror, suites: &str| {
            let _ = write!(text, "Types: deb\nURIs: {}\nSuites: {suites}\nComponents: main\n", mirror.uri);
            let _ = writeln!(text, "Architectures: {architecture}");
            if let Some(key) = &mirror.signed_by {
                let _ = writeln!(text, "Signed-By: {key}");
            }
            text.push('\n');
        };
        stanza(&self.main, &format!("{suite} {suite}-updates"));
        if let Some(security) = &self.security {
            stanza(security, &format!("{suite}-security"));
        }
        text
    }
}

fn keyring() -> Option<String> {
    Path::new(KEYRING).exists().then(|| KEYRING.to_owned())
}

/// `sources.list` first, then the parts in name order, as apt reads them.
fn configuration_files(etc: &Path) -> Vec<PathBuf> {
    let mut files = vec![etc.join("sources.list")];
    let mut parts: Vec<_> = fs::read_dir(etc.join("sources.list.d"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "list" || extension == "sources")
        })
        .collect();
    parts.sort();
    files.extend(parts);
    files
}

/// Without the slash at its end, and through the file that `mirror+file:` names (cloud images use it): the packages
/// themselves are fetched by plain URI. A CD-ROM is of no use here.
fn plain_uri(uri: &str) -> Option<String> {
    let uri = match uri.strip_prefix("mirror+file:") {
        Some(list) => {
            let list = fs::read_to_string(Path::new("/").join(list.trim_start_matches('/'))).ok()?;
            list.lines()
                .map(str::trim)
                .find(|line| !line.is_empty() && !line.starts_with('#'))?
                .split('\t')
                .next()?
                .to_owned()
        }
        None => uri.to_owned(),
    };
    let fetchable = ["http:", "https:", "file:"].iter().any(|scheme| uri.starts_with(scheme));
    fetchable.then(|| uri.trim_end_matches('/').to_owned())
}

/// `deb [option=value …] URI suite component…`
fn parse_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim().strip_prefix("deb")?;
    let mut rest = line.strip_prefix([' ', '\t'])?.trim_start();
    let mut entry = Entry::default();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        rest = after;
        for option in options.split_whitespace() {
            if let Some(("signed-by", value)) =
                option.split_once('=').map(|(k, v)| (k.trim_end_matches(['+', '-']), v))
            {
                entry.signed_by = Some(value.replace(',', " "));
            }
        }
    }
    let mut words = rest.split_whitespace();
    entry.uris = vec![words.next()?.trim_matches('"').to_owned()];
    entry.suites = vec![words.next()?.to_owned()];
    entry.components = words.map(str::to_owned).collect();
    Some(entry)
}

/// Stanzas of `Field: value` lines with continuation lines, apart by empty lines.
fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(entry_of(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn entry_of(fields: &[(String, String)]) -> Option<Entry> {
    let value = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let words = |name: &str| {
        value(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let off =
        value("enabled").is_some_and(|enabled| matches!(enabled, "no" | "false" | "0" | "off" | "without"));
    let binary = words("types").iter().any(|kind| kind == "deb");
    (binary && !off).then(|| Entry {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: value("signed-by").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(files: &[(&str, &str)]) -> Option<Mirrors> {
        let etc = tempfile::tempdir().unwrap();
        fs::create_dir(etc.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(etc.path().join(name), text).unwrap();
        }
        Mirrors::read(etc.path())
    }

    #[test]
    fn reads_one_line_sources() {
        let found = mirrors(&[(
            "sources.list",
            "# deb http://commented.example/debian stable main\n\
             deb cdrom:[Debian]/ bookworm main\n\
             deb-src http://src.example/debian bookworm main\n\
             deb [ arch=amd64 signed-by=/k.gpg ] http://mirror.example/debian/ bookworm main contrib # ours\n\
             deb http://security.example/debian-security bookworm-security main\n",
        )])
        .unwrap();
        assert_eq!(
            found.main,
            Mirror { uri: "http://mirror.example/debian".into(), signed_by: Some("/k.gpg".into()) }
        );
        assert_eq!(found.security.unwrap().uri, "http://security.example/debian-security");
    }

    #[test]
    fn reads_deb822_sources_with_an_embedded_key_and_skips_disabled_ones() {
        let found = mirrors(&[(
            "sources.list.d/debian.sources",
            "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\n\n\
             # a comment\nTypes: deb deb-src\nURIs: https://on.example/debian\nSuites: trixie trixie-updates\n\
             Components: main\nSigned-By:\n -----BEGIN PGP-----\n .\n abc\n -----END PGP-----\n",
        )])
        .unwrap();
        assert_eq!(found.main.uri, "https://on.example/debian");
        assert_eq!(found.security, None);
        let text = found.sources_for("trixie", "amd64");
        assert!(text.contains("Suites: trixie trixie-updates\n"), "{text}");
        assert!(text.contains("Signed-By: \n -----BEGIN PGP-----\n .\n abc\n -----END PGP-----\n"), "{text}");
    }

    #[test]
    fn prefers_debian_to_a_vendor_that_uses_its_suite_names() {
        let vendor =
            "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://apt.vendor.example bookworm main\n";
        let debian = "Types: deb\nURIs: http://m.example/debian\nSuites: bookworm\nComponents: main\n\
                      Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
        let found =
            mirrors(&[("sources.list.d/a.list", vendor), ("sources.list.d/debian.sources", debian)]).unwrap();
        assert_eq!(found.main.uri, "http://m.example/debian");
        assert_eq!(mirrors(&[("sources.list.d/a.list", vendor)]), None);
    }

    #[test]
    fn follows_a_mirror_list() {
        let list = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            list.path(),
            "# comment\nhttps://one.example/debian\tpriority:1\nhttps://two.example/debian\n",
        )
        .unwrap();
        let line = format!("deb mirror+file:{} bookworm main\n", list.path().display());
        assert_eq!(mirrors(&[("sources.list", &line)]).unwrap().main.uri, "https://one.example/debian");
    }

    #[test]
    fn security_updates_come_from_beside_the_main_mirror_where_no_other_is_named() {
        let main = "deb http://m.example/debian bookworm main\n";
        let security = "deb http://s.example/debian-security bookworm-security main\n";
        let roots = |text: &str| {
            let mirrors = mirrors(&[("sources.list", text)]).unwrap();
            ["pool/main/h/hello.deb", "pool/updates/main/h/hello.deb"]
                .map(|path| mirrors.root_of(path).into_owned())
        };
        assert_eq!(roots(main), ["http://m.example/debian", "http://m.example/debian-security"]);
        assert_eq!(
            roots(&format!("{main}{security}")),
            ["http://m.example/debian", "http://s.example/debian-security"]
        );
    }

    #[test]
    fn knows_when_there_is_no_debian() {
        assert_eq!(mirrors(&[("sources.list", "deb http://archive.example/ubuntu noble main\n")]), None);
        assert_eq!(mirrors(&[]), None);
    }
}
