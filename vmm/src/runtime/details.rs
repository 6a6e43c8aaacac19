//! What Docker's finer options change in a container: its limits, its groups, memory as file systems, what is hidden from it,
//! which system calls it may make.
//!
//! An option that asks the kernel of a host for protection that the VM gives already is taken and changes nothing, so that a
//! command line that was written for Docker runs.

use super::groups::Group;
use super::oci::PID1_ANNOTATION;
use super::seccomp_profile::Profile;
use super::size::parse_size;
use super::volume::{Volume, absolute};
use ferry_init::api::oci::{LinuxPids, Mount, PosixRlimit, Process, Spec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of `/dev/shm` where nobody says how many: Docker's default.
pub const SHM_BYTES: u64 = 64 << 20;

/// What is said of a container besides the usual; what nobody said is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// Memory as file systems.
    pub tmpfs: Vec<Tmpfs>,
    /// Bytes of `/dev/shm`.
    pub shm_bytes: Option<u64>,
    /// Limits of its processes.
    pub ulimits: Vec<Ulimit>,
    /// Settings of its kernel.
    pub sysctls: BTreeMap<String, String>,
    /// Groups of its processes besides their user's.
    pub groups: Vec<u32>,
    /// The same while the container is made: some of them by names that only its image knows.
    #[serde(skip)]
    pub named_groups: Vec<Group>,
    /// How soon its processes are ended where memory is short.
    pub oom_score: Option<i32>,
    /// How many processes it may have; -1 for no limit.
    pub pids: Option<i64>,
    /// What of Docker's protection it goes without, or with.
    pub security: Security,
    /// Whether its command is not process 1 even where it is an init system.
    pub init: bool,
    /// What is said of it.
    pub labels: BTreeMap<String, String>,
}

/// The values of `--security-opt` together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Whether no program gives its process rights that it did not have.
    pub no_new_privileges: bool,
    /// Whether nothing of /proc and /sys is hidden or read-only.
    pub open_paths: bool,
    /// Whether a profile says which system calls it may make.
    pub filtered: bool,
    /// The profile, while the container is made.
    #[serde(skip)]
    pub seccomp: Option<Profile>,
}

/// Memory as a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// In the container: an absolute path without `.` and `..`.
    pub target: String,
    /// Its mount options, Docker's included.
    pub options: Vec<String>,
}

/// A limit of processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// As in `ulimit`'s and Docker's words, such as `nofile`.
    pub name: String,
    /// What holds.
    pub soft: u64,
    /// To what a process may raise it.
    pub hard: u64,
}

/// The limits that Linux has.
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// What Docker gives a tmpfs that is not said otherwise.
const TMPFS: [&str; 3] = ["noexec", "nosuid", "nodev"];

/// Words of mount options that turn into each other.
const OPPOSITES: [(&str, &str); 5] =
    [("exec", "noexec"), ("suid", "nosuid"), ("dev", "nodev"), ("rw", "ro"), ("atime", "noatime")];

/// Other mount options that a tmpfs takes; `mode=` and the like have a value.
const TMPFS_WORDS: [&str; 6] = ["relatime", "strictatime", "diratime", "nodiratime", "sync", "async"];
const TMPFS_VALUES: [&str; 5] = ["size", "mode", "uid", "gid", "nr_inodes"];

/// Reads the value of `--tmpfs`: `DIR[:OPTIONS]`.
pub fn parse_tmpfs(text: &str) -> Result<Tmpfs, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    tmpfs(target, options.split(',').filter(|word| !word.is_empty()))
}

/// A tmpfs with these mount options and Docker's.
pub(super) fn tmpfs<'a>(target: &str, words: impl Iterator<Item = &'a str>) -> Result<Tmpfs, String> {
    let mut options: Vec<String> = TMPFS.map(str::to_owned).to_vec();
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if TMPFS_VALUES.contains(&key) && !value.is_empty() {
            options.push(word.to_owned());
            continue;
        }
        let opposite = OPPOSITES.iter().find_map(|(yes, no)| match word {
            _ if word == *yes => Some(*no),
            _ if word == *no => Some(*yes),
            _ => None,
        });
        if opposite.is_none() && !TMPFS_WORDS.contains(&word) {
            return Err(format!(
                "'{word}' is no option of a tmpfs: there are size=, mode=, uid=, gid=, nr_inodes=, ro, exec, suid and dev"
            ));
        }
        options.retain(|other| other != word && Some(other.as_str()) != opposite);
        options.push(word.to_owned());
    }
    Ok(Tmpfs { target: absolute(target)?, options })
}

/// Reads the value of `--ulimit`: `NAME=SOFT[:HARD]`, -1 for no limit.
pub fn parse_ulimit(text: &str) -> Result<Ulimit, String> {
    let (name, values) =
        text.split_once('=').ok_or("it is NAME=SOFT or NAME=SOFT:HARD, as in nofile=1024")?;
    if !ULIMITS.contains(&name) {
        return Err(format!("there is no limit '{name}': there are {}", ULIMITS.join(", ")));
    }
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse().map_err(|_| format!("'{text}' is neither a number nor -1, which is no limit")),
    };
    let (soft, hard) = values.split_once(':').map_or((values, values), |both| both);
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft > hard {
        return Err(format!("the limit that holds ({soft}) is above the one it may be raised to ({hard})"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// Reads the value of `--sysctl`: `NAME=VALUE`.
pub fn parse_sysctl(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE, as in net.core.somaxconn=1024")?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if name.is_empty() || !name.chars().all(is_word) || name.split(['.', '/']).any(str::is_empty) {
        return Err(format!("'{name}' is no name of a setting of the kernel"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Reads the value of `--label`: `NAME[=VALUE]`.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err("it has no name".to_owned()),
        (name, value) => Ok((name.to_owned(), value.to_owned())),
    }
}

/// Reads the value of `--shm-size`.
pub fn parse_shm(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(0) => Err("it cannot be nothing".to_owned()),
        other => other.map_err(|error| error.to_string()),
    }
}

/// Reads the value of `--pids-limit`; none for no limit, which 0 and -1 are to Docker.
pub fn parse_pids(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(0 | -1) => Ok(-1),
        Ok(limit @ 1..) => Ok(limit),
        _ => Err("it is a number of processes, or -1 for no limit".to_owned()),
    }
}

impl Security {
    /// As the options that say so.
    pub fn words(&self) -> Vec<&'static str> {
        let words = [
            (self.no_new_privileges, "no-new-privileges"),
            (self.open_paths, "systempaths=unconfined"),
            (self.filtered, "seccomp"),
        ];
        words.into_iter().filter_map(|(holds, word)| holds.then_some(word)).collect()
    }
}

impl Details {
    /// Whether something is mounted twice, these volumes included.
    pub fn check(&self, volumes: &[Volume]) -> Result<(), String> {
        let mut seen: BTreeSet<&str> = volumes.iter().map(|volume| volume.target.as_str()).collect();
        match self.tmpfs.iter().find(|tmpfs| !seen.insert(&tmpfs.target)) {
            Some(twice) => Err(format!("--tmpfs: {} is given twice", twice.target)),
            None => Ok(()),
        }
    }

    /// Changes a container's specification to what they say of it, whose processes [`Details::apply_to`] changes.
    pub fn apply(&self, spec: &mut Spec) {
        if let Some(bytes) = self.shm_bytes {
            let shm = spec.mounts.iter_mut().filter(|mount| mount.destination == "/dev/shm");
            for option in shm.flat_map(|mount| &mut mount.options).filter(|word| word.starts_with("size=")) {
                *option = format!("size={bytes}");
            }
        }
        spec.mounts.extend(self.tmpfs.iter().map(|tmpfs| Mount {
            destination: tmpfs.target.clone(),
            source: "tmpfs".to_owned(),
            r#type: "tmpfs".to_owned(),
            options: tmpfs.options.clone(),
        }));
        if self.init {
            spec.annotations.insert(PID1_ANNOTATION.to_owned(), "false".to_owned());
        }
        let Some(linux) = &mut spec.linux else { return };
        linux.sysctl.extend(self.sysctls.clone());
        if let Some(profile) = &self.security.seccomp {
            let capabilities = spec.process.as_ref().and_then(|process| process.capabilities.as_ref());
            let bounding = capabilities.map(|sets| &sets.bounding[..]).unwrap_or_default();
            linux.seccomp = Some(profile.for_capabilities(bounding));
        }
        if self.security.open_paths {
            linux.masked_paths.clear();
            linux.readonly_paths.clear();
        }
        if let Some(limit) = self.pids {
            linux.resources.get_or_insert_default().pids = Some(LinuxPids { limit });
        }
    }

    /// Changes a process of such a container, its first or a later one.
    pub fn apply_to(&self, process: &mut Process) {
        for limit in &self.ulimits {
            let kind = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
            process.rlimits.retain(|other| other.r#type != kind);
            process.rlimits.push(PosixRlimit { r#type: kind, soft: limit.soft, hard: limit.hard });
        }
        process.no_new_privileges |= self.security.no_new_privileges;
        process.oom_score_adj = self.oom_score.map_or(process.oom_score_adj, Into::into);
        if !self.groups.is_empty() {
            process.user.get_or_insert_default().additional_gids.extend(&self.groups);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<T: std::fmt::Debug>(result: Result<T, String>) -> String {
        result.unwrap_err()
    }

    #[test]
    fn a_tmpfs_has_dockers_options_unless_told_otherwise() {
        let options = |text| parse_tmpfs(text).unwrap().options.join(",");
        assert_eq!(options("/run"), "noexec,nosuid,nodev");
        assert_eq!(options("/run:rw,exec,size=64m,mode=1777"), "nosuid,nodev,rw,exec,size=64m,mode=1777");
        assert_eq!(parse_tmpfs("/run/./x/").unwrap().target, "/run/x");
        assert!(words(parse_tmpfs("run")).contains("absolute"));
        assert!(words(parse_tmpfs("/run:colour=red")).contains("'colour=red' is no option"));
        assert!(words(parse_tmpfs("/run:size=")).contains("'size=' is no option"));
    }

    #[test]
    fn limits_are_read_as_docker_reads_them() {
        let limit = |name: &str, soft, hard| Ok(Ulimit { name: name.into(), soft, hard });
        assert_eq!(parse_ulimit("nofile=1024"), limit("nofile", 1024, 1024));
        assert_eq!(parse_ulimit("core=0:-1"), limit("core", 0, u64::MAX));
        assert!(words(parse_ulimit("nofile")).contains("NAME=SOFT"));
        assert!(words(parse_ulimit("files=1")).contains("nofile"));
        assert!(words(parse_ulimit("cpu=2:1")).contains("above"));
        assert!(words(parse_ulimit("cpu=x")).contains("neither"));
        assert_eq!((parse_pids("0"), parse_pids("64")), (Ok(-1), Ok(64)));
        assert!(parse_pids("-2").is_err() && parse_pids("few").is_err());
        assert!(parse_shm("0").is_err());
    }

    #[test]
    fn names_of_settings_and_labels_are_looked_at() {
        assert_eq!(parse_sysctl("net.core.somaxconn=10=1"), Ok(("net.core.somaxconn".into(), "10=1".into())));
        for text in ["net.core", "=1", "net..core=1", "../x=1", "a b=1"] {
            assert!(parse_sysctl(text).is_err(), "{text}");
        }
        assert_eq!(parse_label("a.b"), Ok(("a.b".into(), String::new())));
        assert!(parse_label("=x").is_err());
    }

    #[test]
    fn nothing_is_mounted_twice() {
        let tmpfs = |targets: &[&str]| Details {
            tmpfs: targets.iter().map(|target| parse_tmpfs(target).unwrap()).collect(),
            ..Details::default()
        };
        let volume = Volume { source: "/srv".into(), target: "/data".into(), ..Volume::default() };
        assert!(tmpfs(&["/run", "/data/x"]).check(std::slice::from_ref(&volume)).is_ok());
        assert!(words(tmpfs(&["/run", "/run/"]).check(&[])).contains("/run is given twice"));
        assert!(words(tmpfs(&["/data"]).check(&[volume])).contains("/data is given twice"));
    }

    #[test]
    fn a_specification_is_changed_where_something_was_said() {
        let base = || Spec {
            process: Some(Process {
                rlimits: vec![PosixRlimit { r#type: "RLIMIT_NOFILE".into(), soft: 1, hard: 2 }],
                ..Default::default()
            }),
            mounts: vec![Mount {
                destination: "/dev/shm".into(),
                options: vec!["nodev".into(), "size=67108864".into()],
                ..Default::default()
            }],
            linux: Some(ferry_init::api::oci::Linux {
                masked_paths: vec!["/proc/kcore".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut spec = base();
        let change = |details: &Details, spec: &mut Spec| {
            details.apply(spec);
            details.apply_to(spec.process.as_mut().unwrap());
        };
        change(&Details::default(), &mut spec);
        assert!(spec == base(), "nothing said, nothing changed");

        let details = Details {
            tmpfs: vec![parse_tmpfs("/run").unwrap()],
            shm_bytes: Some(5),
            ulimits: vec![parse_ulimit("nofile=7:8").unwrap()],
            sysctls: [parse_sysctl("a.b=c").unwrap()].into(),
            groups: vec![9],
            named_groups: Vec::new(),
            oom_score: Some(-5),
            pids: Some(3),
            security: Security { no_new_privileges: true, open_paths: true, ..Security::default() },
            init: true,
            labels: BTreeMap::new(),
        };
        change(&details, &mut spec);
        assert!(spec.annotations.get(PID1_ANNOTATION).is_some_and(|value| value == "false"));
        let process = spec.process.unwrap();
        assert_eq!(process.rlimits, [PosixRlimit { r#type: "RLIMIT_NOFILE".into(), soft: 7, hard: 8 }]);
        assert_eq!((process.oom_score_adj, process.no_new_privileges), (-5, true));
        assert_eq!(process.user.unwrap().additional_gids, [9]);
        let linux = spec.linux.unwrap();
        assert_eq!(linux.sysctl.get("a.b").map(String::as_str), Some("c"));
        assert!(linux.masked_paths.is_empty());
        assert_eq!(linux.resources.unwrap().pids.unwrap().limit, 3);
        assert_eq!(spec.mounts[0].options, ["nodev", "size=5"]);
        assert_eq!((spec.mounts[1].destination.as_str(), spec.mounts[1].r#type.as_str()), ("/run", "tmpfs"));
    }
}
