//! The value of `-v`: what of the host a container sees where.

use super::details::{Tmpfs, tmpfs};
use super::guest::PlannedShare;
use super::name;
use super::size::parse_size;
use ferry_init::api::agent::Storage;
use ferry_init::api::oci::Mount;
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};

/// A directory or a file of the host, or a volume that ferry keeps, that a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// On the host; of a volume that ferry keeps, when it is there.
    pub source: PathBuf,
    /// In the container: an absolute path without `.` and `..`.
    pub target: String,
    /// Whether the container may only read.
    pub read_only: bool,
    /// Which of the volumes that ferry keeps it is; none: it is something else of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// A volume that ferry keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its name; empty until an anonymous one is made.
    pub name: String,
    /// Whether it goes with its container.
    pub anonymous: bool,
    /// Whether it gets, while it is empty, what the image has at its place.
    #[serde(skip)]
    pub copies: bool,
}

impl Volume {
    /// A directory or a file of the host.
    fn bind(source: &str, target: &str, read_only: bool) -> Result<Self, String> {
        Ok(Self { source: source.into(), target: absolute(target)?, read_only, kept: None })
    }

    /// A volume that ferry keeps, which is made where it is missing; without a name, one that goes with its container.
    fn kept(name: &str, target: &str, read_only: bool, copies: bool) -> Result<Self, String> {
        if !name.is_empty() && !name::is_valid(name) {
            let shown = crate::agent::printable(name);
            return Err(format!(
                "'{shown}' is no name of a volume (letters, digits, '_', '.' and '-', from two to 128 of them); for a \
                 directory or file here write ./{shown}"
            ));
        }
        let kept = Kept { name: name.to_owned(), anonymous: name.is_empty(), copies };
        Ok(Self { source: PathBuf::new(), target: absolute(target)?, read_only, kept: Some(kept) })
    }

    /// Its name, if it is one that ferry keeps.
    pub fn name(&self) -> Option<&str> {
        self.kept.as_ref().map(|kept| kept.name.as_str())
    }

    /// The name of one that goes with its container.
    pub(super) fn anonymous(&self) -> Option<&str> {
        self.kept.as_ref().filter(|kept| kept.anonymous).map(|kept| kept.name.as_str())
    }

    /// As `inspect` shows it, in Docker's words.
    pub(super) fn inspect(&self) -> serde_json::Value {
        let mut shown = serde_json::json!({
            "Type": "bind",
            "Source": self.source,
            "Destination": self.target,
            "Mode": access(self.read_only),
            "RW": !self.read_only,
        });
        if let Some(name) = self.name() {
            shown["Type"] = "volume".into();
            shown["Name"] = name.into();
            shown["Driver"] = "local".into();
        }
        shown
    }
}

/// Reads the value of `-v`: `HOST:CONTAINER[:OPTIONS]`, `NAME:CONTAINER[:OPTIONS]` or `CONTAINER`.
pub fn parse_volume(text: &str) -> Result<Volume, String> {
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => return Volume::kept("", target, false, true),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err("it is HOST:CONTAINER or HOST:CONTAINER:ro".to_owned()),
    };
    if source.is_empty() {
        return Err("it names nothing of the host".to_owned());
    }
    let is_kept = !source.contains('/') && source != "." && source != "..";
    let (mut read_only, mut copies) = (false, true);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "nocopy" if is_kept => copies = false,
            // Labels are for containers of the host's own kernel: ferry's processes are the user's.
            "rw" | "z" | "Z" => {}
            other => {
                return Err(format!(
                    "'{other}' is no option of a volume: they are ro and rw, and nocopy for one that has a name"
                ));
            }
        }
    }
    match is_kept {
        true => Volume::kept(source, target, read_only, copies),
        false => Volume::bind(source, target, read_only),
    }
}

/// The value of `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mounted {
    /// What of the host, or of ferry's volumes, a container sees.
    Volume(Volume),
    /// Memory.
    Tmpfs(Tmpfs),
}

/// Reads the value of `--mount`: `type=bind,source=HOST,target=CONTAINER[,readonly]`,
/// `type=volume[,source=NAME],target=CONTAINER[,readonly][,volume-nocopy]` or
/// `type=tmpfs,target=DIR[,tmpfs-size=SIZE][,tmpfs-mode=MODE]`.
pub fn parse_mount(text: &str) -> Result<Mounted, String> {
    let (mut kind, mut source, mut target, mut read_only, mut options) =
        ("volume", "", "", false, Vec::new());
    let mut copies = true;
    for word in text.split(',') {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match (key, value) {
            ("type", value) => kind = value,
            ("source" | "src", value) => source = value,
            ("target" | "destination" | "dst", value) => target = value,
            ("readonly" | "ro", "" | "true" | "1") => read_only = true,
            ("readonly" | "ro", "false" | "0") => read_only = false,
            ("tmpfs-size", size) => {
                options.push(format!("size={}", parse_size(size).map_err(|error| error.to_string())?));
            }
            ("volume-nocopy", "" | "true" | "1") => copies = false,
            ("volume-nocopy", "false" | "0") => copies = true,
            ("tmpfs-mode", mode) => options.push(format!("mode={mode}")),
            // What is mounted on the host later reaches no guest, whatever is said of it.
            ("bind-propagation" | "bind-nonrecursive" | "consistency", _) => {}
            _ => {
                return Err(format!(
                    "'{word}' is no word of a mount: there are type=, source=, target= and readonly"
                ));
            }
        }
    }
    if target.is_empty() {
        return Err("it says nothing of where: target=DIR".to_owned());
    }
    match kind {
        "bind" if source.is_empty() => Err("it names nothing of the host: source=PATH".to_owned()),
        "bind" | "volume" if !options.is_empty() => Err(format!("{} is for a tmpfs", options.join(" and "))),
        "bind" | "tmpfs" if !copies => Err("volume-nocopy is for a volume".to_owned()),
        "bind" => Volume::bind(source, target, read_only).map(Mounted::Volume),
        "volume" => Volume::kept(source, target, read_only, copies).map(Mounted::Volume),
        "tmpfs" if !source.is_empty() => Err("a tmpfs has no source".to_owned()),
        "tmpfs" => {
            options.extend(read_only.then(|| "ro".to_owned()));
            tmpfs(target, options.iter().map(String::as_str)).map(Mounted::Tmpfs)
        }
        _ => Err(format!("there is no type={kind} here: the types are bind, volume and tmpfs")),
    }
}

/// An absolute path of a container, without `.` and `..`.
pub(super) fn absolute(target: &str) -> Result<String, String> {
    let path = Path::new(target);
    if !path.is_absolute() {
        return Err(format!("'{target}' is not an absolute path of the container"));
    }
    let mut clean = String::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.extend(["/", &name.to_string_lossy()]),
            Component::ParentDir => return Err(format!("'{target}' has a '..' in it")),
            _ => {}
        }
    }
    match clean.is_empty() {
        true => Err("a volume cannot take the place of the container's whole root".to_owned()),
        false => Ok(clean),
    }
}

/// What is wrong with volumes that can be said before anything is started.
pub fn check(volumes: &[Volume]) -> Result<(), String> {
    for (at, volume) in volumes.iter().enumerate() {
        let Volume { source, target, kept, .. } = volume;
        if volumes[..at].iter().any(|other| other.target == *target) {
            return Err(format!("-v: {target} is given twice"));
        }
        if kept.is_some() {
            continue;
        }
        let kind = std::fs::metadata(source).map(|metadata| metadata.file_type());
        match kind {
            Ok(kind) if kind.is_dir() || kind.is_file() => {}
            Ok(_) => {
                return Err(format!("-v {}: it is neither a directory nor a regular file", source.display()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!(
                    "-v {}: there is no such directory or file: make it first",
                    source.display()
                ));
            }
            Err(error) => return Err(format!("-v {}: {error}", source.display())),
        }
    }
    Ok(())
}

/// What is shared with a guest, and where the guest has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared {
    /// What the machine has.
    pub share: PlannedShare,
    /// Where the guest's agent mounts it.
    pub storage: Storage,
    /// Where it is then, for containers to see: a directory, or the shared file in one.
    pub seen: String,
}

/// What a guest gets for its volumes: something to share, where its agent mounts it, and what the container sees of it.
pub fn plan(id: &str, volumes: &[Volume]) -> std::io::Result<Vec<(PlannedShare, Storage, Mount)>> {
    let each = |(number, volume): (usize, &Volume)| {
        let Shared { share, storage, seen } = shared(id, number, &volume.source, volume.read_only)?;
        Ok((share, storage, mount(seen, &volume.target, volume.read_only)))
    };
    volumes.iter().enumerate().map(each).collect()
}

/// The `number`th thing that is shared with the guest of the container or pod `id`.
pub fn shared(id: &str, number: usize, source: &Path, read_only: bool) -> std::io::Result<Shared> {
    // As it is called where ferry stands now; a symbolic link is followed once, here.
    let source = source.canonicalize()?;
    let tag = format!("volume{number}");
    let mount_point = format!("/run/kata-containers/{id}/volumes/{number}");
    let seen = match source.file_name().filter(|_| !source.is_dir()) {
        Some(name) => {
            let unspeakable = || std::io::Error::other("the name of a shared file has to be UTF-8");
            format!("{mount_point}/{}", name.to_str().ok_or_else(unspeakable)?)
        }
        None => mount_point.clone(),
    };
    let storage = Storage {
        driver: "virtio-fs".to_owned(),
        source: tag.clone(),
        fstype: "virtiofs".to_owned(),
        options: vec![access(read_only).to_owned()],
        mount_point,
        ..Default::default()
    };
    Ok(Shared { share: PlannedShare { tag, source, read_only }, storage, seen })
}

/// What a container sees of the guest at `target`.
pub fn mount(seen: String, target: &str, read_only: bool) -> Mount {
    Mount {
        destination: target.to_owned(),
        source: seen,
        r#type: "bind".to_owned(),
        options: ["rbind", "rprivate", access(read_only)].map(str::to_owned).to_vec(),
    }
}

fn access(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_written_as_in_docker() {
        let volume = |source: &str, target: &str, read_only| {
            Ok(Volume { source: source.into(), target: target.into(), read_only, kept: None })
        };
        assert_eq!(parse_volume("/srv:/data"), volume("/srv", "/data", false));
        assert_eq!(parse_volume("./a:/data/./b/:ro"), volume("./a", "/data/b", true));
        assert_eq!(parse_volume(".:/src:rw,z"), volume(".", "/src", false));
    }

    #[test]
    fn volumes_of_ferrys_have_names_or_none() {
        let kept = |name: &str, target: &str, read_only, copies| {
            let kept = Some(Kept { name: name.into(), anonymous: name.is_empty(), copies });
            Ok(Volume { source: PathBuf::new(), target: target.into(), read_only, kept })
        };
        assert_eq!(parse_volume("data:/srv"), kept("data", "/srv", false, true));
        assert_eq!(parse_volume("da.ta_1:/srv:ro,nocopy"), kept("da.ta_1", "/srv", true, false));
        assert_eq!(parse_volume("/srv/x/"), kept("", "/srv/x", false, true));
        let mount = |text: &str| match parse_mount(text) {
            Ok(Mounted::Volume(volume)) => Ok(volume),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(mount("type=volume,source=data,target=/data,readonly"), kept("data", "/data", true, true));
        assert_eq!(mount("src=data,dst=/data,volume-nocopy"), kept("data", "/data", false, false));
        assert_eq!(mount("target=/data"), kept("", "/data", false, true));
    }

    #[test]
    fn volumes_that_make_no_sense_are_refused_in_words() {
        for (text, words) in [
            ("srv", "not an absolute path"),
            ("", "not an absolute path"),
            ("/a:/b:ro:x", "it is HOST:CONTAINER"),
            (":/b", "nothing of the host"),
            ("d:/b", "write ./d"),
            ("data\0:/b", "no name of a volume"),
            ("-x:/b", "no name of a volume"),
            ("data:/b:copy", "'copy' is no option"),
            ("/a:b", "not an absolute path"),
            ("/a:/b/../c", "'..'"),
            ("/a:/", "whole root"),
            ("/a:/b:nocopy", "'nocopy' is no option"),
        ] {
            let error = parse_volume(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn mounts_are_written_as_in_docker() {
        let bind = |source: &str, target: &str, read_only| {
            Volume::bind(source, target, read_only).map(Mounted::Volume)
        };
        assert_eq!(parse_mount("type=bind,source=/srv,target=/data"), bind("/srv", "/data", false));
        assert_eq!(parse_mount("type=bind,src=srv,dst=/data,readonly"), bind("srv", "/data", true));
        let memory = parse_mount("type=tmpfs,destination=/run,tmpfs-size=1m,tmpfs-mode=1777,ro").unwrap();
        let Mounted::Tmpfs(memory) = memory else { panic!("{memory:?}") };
        assert_eq!(memory.options, ["noexec", "nosuid", "nodev", "size=1048576", "mode=1777", "ro"]);
        for (text, words) in [
            ("type=bind,source=/srv", "target=DIR"),
            ("type=bind,target=/data", "source=PATH"),
            ("type=bind,source=/srv,target=/data,tmpfs-size=1m", "for a tmpfs"),
            ("type=volume,source=/data,target=/data", "no name of a volume"),
            ("type=volume,source=..,target=/data", "no name of a volume"),
            ("type=volume,source=data", "target=DIR"),
            ("type=volume,source=data,target=/data,tmpfs-size=1m", "for a tmpfs"),
            ("type=bind,source=/srv,target=/data,volume-nocopy", "for a volume"),
            ("type=npipe,source=data,target=/data", "no type=npipe"),
            ("type=tmpfs,target=/run,size=1", "'size=1' is no word"),
            ("type=tmpfs,target=/run,tmpfs-size=much", "not a size"),
            ("type=tmpfs,source=x,target=/run", "no source"),
        ] {
            let error = parse_mount(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_not_there_or_given_twice_is_said_before_anything_starts() {
        let here = tempfile::tempdir().unwrap();
        let volume = |source: &Path, target: &str| Volume {
            source: source.to_owned(),
            target: target.into(),
            ..Volume::default()
        };
        check(&[volume(here.path(), "/a"), volume(here.path(), "/b")]).unwrap();
        let twice = check(&[volume(here.path(), "/a"), volume(here.path(), "/a")]).unwrap_err();
        assert!(twice.contains("/a is given twice"), "{twice}");
        let missing = check(&[volume(&here.path().join("x"), "/a")]).unwrap_err();
        assert!(missing.contains("make it first"), "{missing}");
        assert!(check(&[volume(Path::new("/dev/null"), "/a")]).unwrap_err().contains("neither"));
    }

    #[test]
    fn a_file_is_seen_by_its_name_and_a_directory_as_a_whole() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", here.path().join("link")).unwrap();
        let volume =
            |source: PathBuf, read_only| Volume { source, target: "/x".into(), read_only, kept: None };
        let volumes = [volume(here.path().to_owned(), false), volume(here.path().join("link"), true)];
        let planned = plan("c", &volumes).unwrap();
        let (share, storage, mount) = &planned[0];
        assert_eq!((share.tag.as_str(), storage.source.as_str()), ("volume0", "volume0"));
        assert_eq!(mount.source, storage.mount_point);
        let (share, storage, mount) = &planned[1];
        assert!(share.read_only && share.source.ends_with("file"));
        assert_eq!(mount.source, format!("{}/file", storage.mount_point));
        assert_eq!(storage.options, ["ro"]);
    }
}
