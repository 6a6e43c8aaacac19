//! How people name images. A bare name is a registry reference, completed as Docker completes it; a prefix names
//! another kind of source; a path that exists is taken for what it contains.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::digest::{Digest, shortened};
use crate::source::sniff::{Found, sniff};

/// The registry of names that carry none, the host that serves it, and the directory there of names without one.
pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";
pub(crate) const DEFAULT_HOST: &str = "index.docker.io";
const DEFAULT_DIRECTORY: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// What a bare name means.
#[derive(Debug, Clone, Copy)]
pub enum Grammar<'a> {
    /// A registry reference, as in Docker.
    Registry,
    /// A recipe if this directory has one by that name, and otherwise a registry reference.
    RecipesIn(&'a Path),
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A name in a registry.
    Registry(Name),
    /// A directory laid out as the OCI image spec says; `name` chooses among several images.
    OciLayout {
        /// The directory.
        path: PathBuf,
        /// A tag or full reference in it.
        name: Option<String>,
    },
    /// The same in a tar.
    OciArchive {
        /// The tar, which may be compressed.
        path: PathBuf,
        /// A tag or full reference in it.
        name: Option<String>,
    },
    /// What `docker save` writes.
    DockerArchive {
        /// The tar, which may be compressed.
        path: PathBuf,
        /// `name:tag` of an image in it.
        name: Option<String>,
    },
    /// An archive of either kind, told by looking into it.
    Archive {
        /// The tar, which may be compressed.
        path: PathBuf,
        /// A name in it.
        name: Option<String>,
    },
    /// A directory with a manifest and its blobs side by side, as `skopeo copy … dir:` writes it, or else an unpacked
    /// root directory.
    Dir {
        /// The directory.
        path: PathBuf,
    },
    /// A recipe of Ferry's own, by its name.
    Recipe(String),
    /// An archive of either kind on standard input.
    Stdin,
}

/// A complete registry reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Host and perhaps port of the registry.
    pub registry: String,
    /// The repository's path in it.
    pub repository: String,
    /// The tag; `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// The manifest's digest, if the reference is pinned.
    pub digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// Nothing at all, or nothing after a prefix.
    #[error("`{0}` names no image: something is missing after the colon")]
    Empty(String),
    /// Docker refuses these too.
    #[error("`{0}` is not an image name: repository names are lower-case")]
    UpperCase(String),
    /// Some other fault of a name.
    #[error("`{0}` is not an image name: {1}")]
    Malformed(String, &'static str),
    /// A path that is not there.
    #[error("{0}: no such file or directory")]
    NoPath(String),
    /// A path that is there but is no image.
    #[error(
        "{0} is not an image: neither an OCI layout nor an archive of one; an unpacked root directory is dir:{0}"
    )]
    NotAnImage(String),
}

impl Reference {
    /// Reads what a person wrote.
    pub fn parse(text: &str, grammar: Grammar<'_>) -> Result<Self, ParseReferenceError> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        for (prefix, kind) in PREFIXES {
            if let Some(rest) = text.strip_prefix(prefix) {
                if rest.is_empty() {
                    return Err(ParseReferenceError::Empty(text.to_owned()));
                }
                return kind(rest);
            }
        }
        if let Some(reference) = Self::of_path(text)? {
            return Ok(reference);
        }
        if let Grammar::RecipesIn(directory) = grammar
            && is_recipe_name(text)
            && directory.join(format!("{text}.toml")).is_file()
        {
            return Ok(Self::Recipe(text.to_owned()));
        }
        text.parse().map(Self::Registry)
    }

    /// A path by its form (`/…`, `./…`, `../…`) must be an image; a name that happens to be a path in the working
    /// directory is taken for it only if an image is there, so that a directory `redis` does not hide the image redis.
    fn of_path(text: &str) -> Result<Option<Self>, ParseReferenceError> {
        let explicit =
            ["/", "./", "../"].iter().any(|start| text.starts_with(start)) || text == "." || text == "..";
        let (path, name) = split_name(text);
        let reference = match sniff(&path) {
            Ok(Some(Found::OciLayout)) => Self::OciLayout { path, name },
            Ok(Some(Found::Dir)) => Self::Dir { path },
            Ok(Some(Found::Archive)) => Self::Archive { path, name },
            Ok(None) if explicit => return Err(ParseReferenceError::NotAnImage(path.display().to_string())),
            Err(_) if explicit => return Err(ParseReferenceError::NoPath(path.display().to_string())),
            Ok(None) | Err(_) => return Ok(None),
        };
        Ok(Some(reference))
    }
}

type FromRest = fn(&str) -> Result<Reference, ParseReferenceError>;

/// The prefixes and what follows them, longest first where one starts another.
const PREFIXES: &[(&str, FromRest)] = &[
    ("oci-archive:", |rest| {
        let (path, name) = split_name(rest);
        Ok(Reference::OciArchive { path, name })
    }),
    ("docker-archive:", |rest| {
        let (path, name) = split_name(rest);
        Ok(Reference::DockerArchive { path, name })
    }),
    ("oci:", |rest| {
        let (path, name) = split_name(rest);
        Ok(Reference::OciLayout { path, name })
    }),
    ("dir:", |rest| Ok(Reference::Dir { path: rest.into() })),
    ("recipe:", |rest| {
        if is_recipe_name(rest) {
            Ok(Reference::Recipe(rest.to_owned()))
        } else {
            Err(ParseReferenceError::Malformed(
                shortened(rest),
                "a recipe's name is lower-case letters, digits and dashes",
            ))
        }
    }),
    ("docker://", |rest| rest.parse().map(Reference::Registry)),
];

/// `PATH[:NAME]`: the whole if it exists, and otherwise split at the first colon.
fn split_name(text: &str) -> (PathBuf, Option<String>) {
    match text.split_once(':') {
        Some((path, name)) if !path.is_empty() && !name.is_empty() && !Path::new(text).exists() => {
            (path.into(), Some(name.to_owned()))
        }
        _ => (text.into(), None),
    }
}

/// A recipe's name is a file name without surprises.
pub(crate) fn is_recipe_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

impl Name {
    /// The host, perhaps with a port, that serves the registry.
    pub(crate) fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { DEFAULT_HOST } else { &self.registry }
    }
}

impl FromStr for Name {
    type Err = ParseReferenceError;

    /// The grammar and the completion of Docker's references (distribution/reference).
    fn from_str(text: &str) -> Result<Self, ParseReferenceError> {
        let malformed = |why| ParseReferenceError::Malformed(shortened(text), why);
        if text.is_empty() {
            return Err(malformed("it is empty"));
        }
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(malformed("64 hex digits are an id, not a name; write NAME@sha256:DIGEST"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| malformed("what follows @ is not sha256:DIGEST"))?))
            }
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, rest),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (rest, None),
        };
        let registry = if registry == DEFAULT_HOST { DEFAULT_REGISTRY } else { registry };
        if !valid_registry(registry) {
            return Err(malformed("what stands before the first slash is not a host"));
        }
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(ParseReferenceError::UpperCase(shortened(text)));
        }
        if !repository.split('/').all(valid_component) {
            return Err(malformed("its parts are lower-case letters and digits with . _ __ - between them"));
        }
        if tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(malformed("a tag is up to 128 letters, digits and . _ -"));
        }
        let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
            true => format!("{DEFAULT_DIRECTORY}/{repository}"),
            false => repository.to_owned(),
        };
        if registry.len() + 1 + repository.len() > 255 {
            return Err(malformed("it is longer than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// Docker tells a host from a directory by its form.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(|c| c.is_ascii_uppercase())
}

fn valid_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port))
                if !host.is_empty() && host.chars().all(|c| c.is_ascii_hexdigit() || c == ':') =>
            {
                ("v6", if port.is_empty() { None } else { Some(port.strip_prefix(':').unwrap_or("")) })
            }
            _ => return false,
        },
        None => registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    host.split('.').all(label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Runs of letters and digits with one separator between each: `.`, `_`, `__` or any number of `-`.
fn valid_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = component.split(alphanumeric).filter(|separator| !separator.is_empty());
    component.starts_with(alphanumeric)
        && component.ends_with(alphanumeric)
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.chars().all(|c| c == '-'))
}

fn valid_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut path = |kind: &str, path: &Path, name: &Option<String>| {
            write!(f, "{kind}{}", path.display())?;
            name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
        };
        match self {
            Self::Registry(name) => name.fmt(f),
            Self::OciLayout { path: at, name } => path("oci:", at, name),
            Self::OciArchive { path: at, name } => path("oci-archive:", at, name),
            Self::DockerArchive { path: at, name } => path("docker-archive:", at, name),
            Self::Archive { path: at, name } => path("", at, name),
            Self::Dir { path: at } => path("dir:", at, &None),
            Self::Recipe(name) => write!(f, "recipe:{name}"),
            Self::Stdin => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn complete(text: &str) -> Result<String, ParseReferenceError> {
        text.parse::<Name>().map(|name| name.to_string())
    }

    #[test]
    fn completes_names_as_docker_does() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, expected) in [
            ("redis", "docker.io/library/redis:latest"),
            ("redis:7", "docker.io/library/redis:7"),
            ("someone/redis", "docker.io/someone/redis:latest"),
            ("docker.io/redis", "docker.io/library/redis:latest"),
            ("index.docker.io/redis", "docker.io/library/redis:latest"),
            ("localhost/redis", "localhost/redis:latest"),
            ("localhost:5000/a/b/c:v1.2-x", "localhost:5000/a/b/c:v1.2-x"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("registry.example/a__b/c.d/e--f", "registry.example/a__b/c.d/e--f:latest"),
            ("HOST/a", "HOST/a:latest"),
            (&format!("redis@{digest}"), &format!("docker.io/library/redis@{digest}")),
            (&format!("redis:7@{digest}"), &format!("docker.io/library/redis:7@{digest}")),
        ] {
            assert_eq!(complete(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_docker_refuses() {
        for text in [
            "",
            ":",
            "a:",
            ":a",
            "a b",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:b:c",
            "a@",
            "a@sha256:00",
            "a@md5:00",
            "host:port/a",
            "-host.example/a",
            "ünï",
            "a\nb",
            &"f".repeat(64),
            &"a".repeat(256),
            &format!("a:{}", "t".repeat(129)),
        ] {
            assert!(complete(text).is_err(), "{text:?} gave {:?}", complete(text));
        }
        assert_eq!(complete("Redis"), Err(ParseReferenceError::UpperCase("Redis".into())));
    }

    #[test]
    fn prefixes_say_what_is_meant() {
        let parse = |text| Reference::parse(text, Grammar::Registry).unwrap();
        let (path, name) = (PathBuf::from("some/dir"), Some("tag".to_owned()));
        assert_eq!(parse("oci:some/dir"), Reference::OciLayout { path: path.clone(), name: None });
        assert_eq!(
            parse("oci:some/dir:tag"),
            Reference::OciLayout { path: path.clone(), name: name.clone() }
        );
        assert_eq!(parse("oci-archive:some/dir:tag"), Reference::OciArchive { path: path.clone(), name });
        let tagged = Some("redis:7".to_owned());
        assert_eq!(
            parse("docker-archive:some/dir:redis:7"),
            Reference::DockerArchive { path: path.clone(), name: tagged }
        );
        assert_eq!(parse("dir:some/dir"), Reference::Dir { path });
        assert_eq!(parse("recipe:hello"), Reference::Recipe("hello".into()));
        assert_eq!(parse("-"), Reference::Stdin);
        for text in ["oci:", "recipe:", "recipe:../x", "recipe:a/b"] {
            assert!(Reference::parse(text, Grammar::Registry).is_err(), "{text}");
        }
        for text in ["oci:some/dir:tag", "docker-archive:a.tar:redis:7", "dir:x", "recipe:hello", "-"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn only_xtask_takes_bare_names_for_recipes() {
        let recipes = tempfile::tempdir().unwrap();
        fs::write(recipes.path().join("hello.toml"), "").unwrap();
        let bare = |text, grammar| Reference::parse(text, grammar).unwrap();
        assert_eq!(bare("hello", Grammar::RecipesIn(recipes.path())), Reference::Recipe("hello".into()));
        assert!(matches!(bare("hello", Grammar::Registry), Reference::Registry(_)));
        assert!(matches!(bare("other", Grammar::RecipesIn(recipes.path())), Reference::Registry(_)));
        assert!(matches!(bare("hello:latest", Grammar::RecipesIn(recipes.path())), Reference::Registry(_)));
    }

    #[test]
    fn a_path_is_taken_for_what_it_contains() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layout");
        fs::create_dir(&path).unwrap();
        let text = path.to_str().unwrap();
        assert!(matches!(
            Reference::parse(text, Grammar::Registry),
            Err(ParseReferenceError::NotAnImage(named)) if named == text
        ));
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(path.join("index.json"), "{}").unwrap();
        assert_eq!(
            Reference::parse(text, Grammar::Registry).unwrap(),
            Reference::OciLayout { path: path.clone(), name: None }
        );
        assert_eq!(
            Reference::parse(&format!("{text}:v1"), Grammar::Registry).unwrap(),
            Reference::OciLayout { path, name: Some("v1".into()) }
        );
        let missing = dir.path().join("missing.tar");
        assert!(matches!(
            Reference::parse(missing.to_str().unwrap(), Grammar::Registry),
            Err(ParseReferenceError::NoPath(_))
        ));
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_prints_what_parses_again(text in "\\PC{0,40}|[a-z0-9._:/@-]{0,60}") {
            if let Ok(name) = text.parse::<Name>() {
                proptest::prop_assert_eq!(name.to_string().parse::<Name>(), Ok(name));
            }
        }
    }
}
