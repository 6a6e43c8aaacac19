//! What is remembered of a container: how it was made, and how far it has come. `state.json` is this, written down.

use super::clock;
use super::details::{Details, SHM_BYTES};
use super::health::{Check, Health};
use super::limits::Limits;
use super::network;
use super::oci::Writable;
use super::resolver::Resolver;
use super::restart::Restart;
use super::volume::Volume;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The format of `state.json` written here, the only one read.
pub const VERSION: u32 = 2;

/// The reason of a container whose process was killed for want of memory.
pub const OUT_OF_MEMORY: &str = "oom";

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its guest starts.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended, and is started again soon.
    Restarting,
    /// Its process has ended.
    Exited,
    /// Its guest or its ferry has died under it.
    Dead,
}

impl Status {
    /// As Docker writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether there is a process, frozen or not.
    pub fn has_process(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Whether somebody has to look after it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Exited | Self::Dead)
    }
}

/// How a container was made. What nobody said is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// The image as the user named it.
    pub image: String,
    /// The digest of the image's configuration.
    pub image_digest: String,
    /// The argument vector of its process.
    pub args: Vec<String>,
    /// The environment of its process.
    pub env: Vec<String>,
    /// The working directory of its process.
    pub working_dir: String,
    /// The user it runs as, as given.
    pub user: String,
    /// Its host name.
    pub hostname: String,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether its stdin is kept open.
    pub interactive: bool,
    /// Whether a monitor runs it, and not the command that started it.
    pub detached: bool,
    /// Whether it was given every capability.
    pub privileged: bool,
    /// Capabilities besides the default ones.
    pub cap_add: Vec<String>,
    /// Default capabilities that it does not have.
    pub cap_drop: Vec<String>,
    /// What of the host it sees.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Where what it writes goes.
    #[serde(default)]
    pub writable: Writable,
    /// The most bytes of a core that a process of it leaves.
    #[serde(default)]
    pub core_limit: Option<u64>,
    /// What else was said of it; its labels with the image's.
    #[serde(default)]
    pub details: Details,
    /// How it is looked at whether it is well.
    #[serde(default)]
    pub check: Option<Check>,
    /// How it finds others by their names.
    #[serde(default)]
    pub resolver: Resolver,
    /// Number of vCPUs of its machine.
    pub vcpus: u8,
    /// Memory of its machine in MiB.
    pub memory_mib: u64,
    /// The network of its machine, if it has one.
    #[serde(default)]
    pub network: Option<network::Plan>,
    /// To how much that can grow, in MiB.
    #[serde(default)]
    pub most_memory_mib: Option<u64>,
    /// Whether it goes away with its end.
    pub auto_remove: bool,
    /// Whether it is started again after its end.
    pub restart: Restart,
    /// The number of the signal that asks it to end.
    pub stop_signal: u8,
    /// How many seconds it has then.
    pub stop_timeout: u32,
}

/// A container's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The format, [`VERSION`].
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, unique.
    pub name: String,
    /// How it was made.
    pub made: Made,
    /// What has been changed since.
    pub limits: Limits,
    /// How far it has come.
    pub status: Status,
    /// The process id of its ferry while it runs.
    pub pid: u32,
    /// Its exit status.
    pub exit_code: Option<u8>,
    /// Why it ended if not by itself, in one word.
    pub reason: String,
    /// Whether a process of it was killed for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// Whether it is well, where that is looked at.
    #[serde(default)]
    pub health: Option<Health>,
    /// The same in a line for people.
    pub error: String,
    /// How often it has been started again.
    pub restarts: u32,
    /// When it was made; nanoseconds since 1970, as all times here.
    pub created: u64,
    /// When its process began; 0 before.
    pub started: u64,
    /// When it ended; 0 before.
    pub finished: u64,
    /// The directory of its sockets; empty when it runs no more.
    pub runtime_directory: PathBuf,
    /// The name of its monitor's socket there; empty: the usual one.
    #[serde(default)]
    pub socket: String,
    /// The pod that it is in, by name; empty: none.
    #[serde(default)]
    pub pod: String,
}

impl Record {
    /// A container that is being made by this process. An empty name is replaced by one that is free.
    pub fn new(id: &str, name: &str, made: Made) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            name: name.to_owned(),
            made,
            limits: Limits::default(),
            status: Status::Created,
            pid: std::process::id(),
            exit_code: None,
            reason: String::new(),
            oom_killed: false,
            health: None,
            error: String::new(),
            restarts: 0,
            created: clock::now(),
            started: 0,
            finished: 0,
            runtime_directory: PathBuf::new(),
            socket: String::new(),
            pod: String::new(),
        }
    }

    /// What `inspect` shows, in Docker's words.
    pub fn inspect(&self) -> serde_json::Value {
        let time = |nanoseconds| match nanoseconds {
            0 => "0001-01-01T00:00:00Z".to_owned(),
            some => clock::rfc3339(some),
        };
        let made = &self.made;
        let (network, details) = (made.network.as_ref(), &made.details);
        let ports = network.map(network::Plan::inspect_ports).unwrap_or_default();
        let mut shown = serde_json::json!({
            "Id": self.id,
            "Name": format!("/{}", self.name),
            "Created": clock::rfc3339(self.created),
            "Path": made.args.first(),
            "Args": made.args.get(1..).unwrap_or_default(),
            "Image": made.image_digest,
            "RestartCount": self.restarts,
            "Pod": self.pod,
            "State": {
                "Status": self.status.word(),
                "Running": self.status.has_process(),
                "Paused": self.status == Status::Paused,
                "Restarting": self.status == Status::Restarting,
                "Dead": self.status == Status::Dead,
                "OOMKilled": self.oom_killed,
                "Pid": if self.status.has_process() { self.pid } else { 0 },
                "ExitCode": self.exit_code.unwrap_or(0),
                "Reason": self.reason,
                "Error": self.error,
                "StartedAt": time(self.started),
                "FinishedAt": time(self.finished),
            },
            "Config": {
                "Hostname": made.hostname,
                "User": made.user,
                "Tty": made.terminal,
                "OpenStdin": made.interactive,
                "Env": made.env,
                "Image": made.image,
                "WorkingDir": made.working_dir,
                "StopSignal": made.stop_signal.to_string(),
                "StopTimeout": made.stop_timeout,
                "Labels": made.details.labels,
            },
            "Mounts": made.volumes.iter().map(Volume::inspect).collect::<Vec<_>>(),
            "HostConfig": {
                "AutoRemove": made.auto_remove,
                "RestartPolicy": { "Name": made.restart.word(), "MaximumRetryCount": made.restart.limit() },
                "Privileged": made.privileged,
                "CapAdd": made.cap_add,
                "CapDrop": made.cap_drop,
                "GroupAdd": details.groups.iter().map(u32::to_string).collect::<Vec<_>>(),
                "Tmpfs": details.tmpfs.iter().map(|one| (one.target.clone(), one.options.join(","))).collect::<BTreeMap<_, _>>(),
                "ShmSize": details.shm_bytes.unwrap_or(SHM_BYTES),
                "Ulimits": details.ulimits.iter().map(|limit| serde_json::json!({
                    "Name": limit.name, "Soft": limit.soft as i64, "Hard": limit.hard as i64,
                })).collect::<Vec<_>>(),
                "Sysctls": details.sysctls,
                "OomScoreAdj": details.oom_score.unwrap_or(0),
                "Init": details.init,
                "SecurityOpt": details.security.words(),
                "ExtraHosts": made.resolver.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "Dns": made.resolver.servers,
                "DnsSearch": made.resolver.search,
                "DnsOptions": made.resolver.options,
                "NanoCpus": self.limits.cpu_millis.unwrap_or(u64::from(made.vcpus) * 1000) * 1_000_000,
                "CpuShares": self.limits.cpu_shares.unwrap_or(0),
                "Memory": self.limits.memory.unwrap_or(made.memory_mib << 20),
                "PidsLimit": self.limits.pids.or(details.pids),
                "NetworkMode": network.map_or("none".to_owned(), network::Plan::mode),
                "PortBindings": ports,
            },
            "NetworkSettings": network.map(network::Plan::inspect).unwrap_or_else(|| serde_json::json!({})),
        });
        // Docker leaves both out where nothing is looked at.
        if let Some(health) = &self.health {
            shown["State"]["Health"] = health.inspect();
        }
        if let Some(check) = &made.check {
            shown["Config"]["Healthcheck"] = check.inspect();
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::volume::Kept;

    #[test]
    fn inspect_speaks_dockers_words() {
        let bound = Volume { source: "/srv".into(), target: "/data".into(), read_only: true, kept: None };
        let kept = Kept { name: "data".into(), anonymous: false, copies: false };
        let volumes = vec![bound, Volume { kept: Some(kept), ..Volume::default() }];
        let made = Made { args: vec!["sh".into(), "-c".into()], memory_mib: 512, volumes, ..Made::default() };
        let mut record = Record::new("0123", "web", made);
        record.status = Status::Dead;
        record.reason = "guest-panic".into();
        record.exit_code = Some(125);
        let shown = record.inspect();
        assert_eq!(shown["State"]["Reason"], "guest-panic");
        assert_eq!(shown["State"]["ExitCode"], 125);
        assert_eq!(shown["State"]["Pid"], 0);
        assert_eq!(shown["Name"], "/web");
        assert_eq!(shown["Path"], "sh");
        assert_eq!(
            (&shown["Mounts"][0]["Source"], &shown["Mounts"][0]["RW"]),
            (&"/srv".into(), &false.into())
        );
        let of = |mount: usize, what: &str| shown["Mounts"][mount][what].clone();
        assert_eq!(
            (of(0, "Type"), of(1, "Type"), of(1, "Name")),
            ("bind".into(), "volume".into(), "data".into())
        );
        assert_eq!(shown["HostConfig"]["Memory"], 512u64 << 20);
        assert_eq!(shown["HostConfig"]["RestartPolicy"]["Name"], "no");
    }

    #[test]
    fn the_network_shows() {
        assert_eq!(Record::new("0", "web", Made::default()).inspect()["HostConfig"]["NetworkMode"], "none");
        let link = network::parse_network("tap=tap0,ip=192.0.2.7/24,gateway=192.0.2.1").unwrap();
        let wanted = network::Wanted { link, published: Vec::new() };
        let plan = network::plan(&wanted, "00a1b2c3d4e5", true).unwrap();
        let shown = Record::new("0", "web", Made { network: plan, ..Made::default() }).inspect();
        assert_eq!(shown["HostConfig"]["NetworkMode"], "tap=tap0");
        assert_eq!(shown["NetworkSettings"]["IPAddress"], "192.0.2.7");
        assert_eq!(shown["NetworkSettings"]["Gateway"], "192.0.2.1");
        assert_eq!(shown["NetworkSettings"]["MacAddress"], "02:a1:b2:c3:d4:e5");
    }

    #[test]
    fn what_is_changed_shows() {
        let mut record = Record::new("0123", "web", Made { vcpus: 2, ..Made::default() });
        assert_eq!(record.inspect()["HostConfig"]["NanoCpus"], 2_000_000_000u64);
        record.limits = Limits { cpu_millis: Some(500), memory: Some(64 << 20), ..Limits::default() };
        record.status = Status::Paused;
        let shown = record.inspect();
        assert_eq!(shown["HostConfig"]["NanoCpus"], 500_000_000u64);
        assert_eq!(shown["HostConfig"]["Memory"], 64u64 << 20);
        assert_eq!((&shown["State"]["Running"], &shown["State"]["Paused"]), (&true.into(), &true.into()));
    }
}
