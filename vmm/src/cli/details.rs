//! Docker's finer options of a container; see [`crate::runtime::details`] and [`crate::runtime::resolver`].

use super::run::read_text;
use crate::runtime::clock;
use crate::runtime::details::{
    Details, Security, Tmpfs, Ulimit, parse_label, parse_pids, parse_shm, parse_sysctl, parse_tmpfs,
    parse_ulimit,
};
use crate::runtime::environment;
use crate::runtime::groups::{Group, parse_group};
use crate::runtime::health::Wanted;
use crate::runtime::oci::Options;
use crate::runtime::resolver::{HostEntry, Resolver, parse_host, parse_option, parse_search};
use crate::runtime::seccomp_profile::Profile;
use crate::runtime::supervise::Failure;
use crate::runtime::volume::{Mounted, Volume, parse_mount};
use clap::Args;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The options.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Container")]
pub struct DetailArgs {
    /// The same as -v, or --tmpfs, in words: type=bind,source=HOST,target=CONTAINER[,readonly],
    /// type=volume,source=NAME,target=CONTAINER[,readonly][,volume-nocopy] or type=tmpfs,target=DIR[,tmpfs-size=SIZE][,tmpfs-mode=MODE]
    #[arg(long, value_name = "WORDS", value_parser = parse_mount)]
    mount: Vec<Mounted>,
    /// Memory as a file system there: DIR[:OPTIONS], as in /run:size=64m,mode=1777,exec
    #[arg(long, value_name = "DIR", value_parser = parse_tmpfs)]
    tmpfs: Vec<Tmpfs>,
    /// How large /dev/shm is [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = parse_shm)]
    shm_size: Option<u64>,
    /// A limit of its processes: NAME=SOFT[:HARD], as in nofile=1024 or core=-1
    #[arg(long, value_name = "LIMIT", value_parser = parse_ulimit)]
    ulimit: Vec<Ulimit>,
    /// How many processes it may have, -1 for no limit
    #[arg(long, value_name = "N", value_parser = parse_pids, allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// How soon its processes are ended where memory is short, from -1000 (last) to 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(-1000..=1000), allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    /// A group of its processes besides their user's, by number or by its name in the image
    #[arg(long, value_name = "GROUP", value_parser = parse_group)]
    group_add: Vec<Group>,
    /// A setting of its kernel: NAME=VALUE
    #[arg(long, value_name = "SETTING", value_parser = parse_sysctl)]
    sysctl: Vec<(String, String)>,
    /// no-new-privileges; seccomp=FILE, a profile as Docker's; systempaths=unconfined, hiding nothing of /proc and /sys
    ///
    /// What else there is for Docker protects a host whose kernel containers share: seccomp=unconfined, apparmor=… and label=…
    /// change nothing here.
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Have process 1 be one that does nothing but wait for orphans, even where the command is an init system; other commands
    /// are not process 1 in any case
    #[arg(long)]
    init: bool,
    /// Say something about it: NAME[=VALUE], for ferry inspect and ferry ps --filter label=NAME
    #[arg(short, long, value_name = "LABEL", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Read labels from a file, one a line
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Look at whether it is well by this line of a shell, and not as the image says
    #[arg(long, value_name = "COMMAND", conflicts_with = "no_healthcheck")]
    health_cmd: Option<String>,
    /// How long from one look to the next [default: the image's, or 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    health_interval: Option<Duration>,
    /// How long a look may take [default: the image's, or 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    health_timeout: Option<Duration>,
    /// How many failures in a row make it unhealthy [default: the image's, or 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    health_retries: Option<u32>,
    /// How long after its start failures do not count [default: the image's, or none]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    health_start_period: Option<Duration>,
    /// How long from one look to the next meanwhile [default: the image's, or 5s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    health_start_interval: Option<Duration>,
    /// Do not look at whether it is well
    #[arg(long)]
    no_healthcheck: bool,
    /// A line of its /etc/hosts: NAME:ADDRESS; the address host-gateway is the host's end of a tap
    #[arg(long, value_name = "HOST", value_parser = parse_host, help_heading = "Network")]
    add_host: Vec<HostEntry>,
    /// The address of a name server to ask instead of the network's
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    dns: Vec<IpAddr>,
    /// A domain in which names without dots are looked for
    #[arg(long, value_name = "DOMAIN", value_parser = parse_search, help_heading = "Network")]
    dns_search: Vec<String>,
    /// An option of its resolv.conf, as in ndots:2
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", value_parser = parse_option, help_heading = "Network")]
    dns_option: Vec<String>,
}

impl DetailArgs {
    /// A container's options with these.
    pub fn complete(&self, mut options: Options) -> Result<Options, Failure> {
        options.volumes.extend(self.volumes());
        options.details = self.details()?;
        options.resolver = self.resolver();
        options.health = self.health();
        Ok(options)
    }

    /// What of the host, and of ferry's volumes, they let it see.
    fn volumes(&self) -> impl Iterator<Item = Volume> + '_ {
        self.mount.iter().filter_map(|mounted| match mounted {
            Mounted::Volume(volume) => Some(volume.clone()),
            Mounted::Tmpfs(_) => None,
        })
    }

    /// What they say of the container.
    fn details(&self) -> Result<Details, Failure> {
        let of_mounts = self.mount.iter().filter_map(|mounted| match mounted {
            Mounted::Tmpfs(tmpfs) => Some(tmpfs.clone()),
            Mounted::Volume(_) => None,
        });
        let mut labels = BTreeMap::new();
        for path in &self.label_file {
            labels.extend(
                labels_of(path)
                    .map_err(|error| Failure::early(format!("--label-file {}: {error}", path.display())))?,
            );
        }
        labels.extend(self.label.iter().cloned());
        Ok(Details {
            tmpfs: self.tmpfs.iter().cloned().chain(of_mounts).collect(),
            shm_bytes: self.shm_size,
            ulimits: self.ulimit.clone(),
            sysctls: self.sysctl.iter().cloned().collect(),
            groups: Vec::new(),
            named_groups: self.group_add.clone(),
            oom_score: self.oom_score_adj,
            pids: self.pids_limit,
            security: security(&self.security_opt)?,
            init: self.init,
            labels,
        })
    }

    /// What they say of how it is looked at whether it is well.
    fn health(&self) -> Wanted {
        Wanted {
            never: self.no_healthcheck || self.health_cmd.as_deref() == Some("none"),
            command: self.health_cmd.clone(),
            interval: self.health_interval,
            timeout: self.health_timeout,
            start_period: self.health_start_period,
            start_interval: self.health_start_interval,
            retries: self.health_retries,
        }
    }

    /// What they say of names.
    fn resolver(&self) -> Resolver {
        Resolver {
            hosts: self.add_host.clone(),
            servers: self.dns.clone(),
            search: self.dns_search.clone(),
            options: self.dns_option.clone(),
        }
    }
}

/// Reads a length of time as Docker writes it: `90s`, `1m30s`, `500ms`.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    // Less than a millisecond would keep the guest busy with nothing else; and Docker has no days.
    let length = clock::parse_length(text, &clock::UNITS[..4]).filter(|length| *length >= 1_000_000);
    length.map(Duration::from_nanos).ok_or_else(|| {
        format!("'{text}' is no length of time: write a number and a unit, as in 500ms, 30s or 1m30s")
    })
}

/// The labels in a file: one a line, empty lines and those that begin with `#` left out.
fn labels_of(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = read_text(path).map_err(|error| error.to_string())?;
    environment::lines(&text)
        .map(|line| parse_label(line).map_err(|error| format!("{line}: {error}")))
        .collect()
}

fn security(options: &[String]) -> Result<Security, Failure> {
    let mut security = Security::default();
    for option in options {
        let wrong = |error: &str| Failure::early(format!("--security-opt {option}: {error}"));
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("systempaths", "unconfined") | ("unmask", "ALL") => security.open_paths = true,
            ("seccomp", "unconfined") => (security.seccomp, security.filtered) = (None, false),
            ("seccomp", "") => return Err(wrong("it is seccomp=FILE or seccomp=unconfined")),
            ("seccomp", file) => {
                let text = read_text(Path::new(file)).map_err(|error| wrong(&error.to_string()))?;
                security.seccomp = Some(Profile::parse(&text).map_err(|error| wrong(&error))?);
                security.filtered = true;
            }
            ("apparmor" | "label", _) => {}
            _ => {
                return Err(wrong("there are no-new-privileges, seccomp= and systempaths=unconfined"));
            }
        }
    }
    Ok(security)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        details: DetailArgs,
    }

    fn args(line: &str) -> Result<DetailArgs, clap::Error> {
        Only::try_parse_from(line.split(' ')).map(|only| only.details)
    }

    #[test]
    fn options_become_details() {
        let line = "run --tmpfs /run --mount type=tmpfs,target=/t --mount type=bind,src=/srv,dst=/data,ro --ulimit core=-1 \
                    --sysctl net.core.somaxconn=1024 --group-add 7 --group-add video --oom-score-adj -5 --pids-limit -1 --label a=b -l c \
                    --security-opt no-new-privileges --security-opt label=disable --init --shm-size 1m --add-host a:192.0.2.1 \
                    --dns 192.0.2.53 --dns-search example --dns-opt ndots:2";
        let args = args(line).unwrap();
        let volumes: Vec<_> = args.volumes().collect();
        assert_eq!((volumes[0].target.as_str(), volumes[0].read_only), ("/data", true));
        let details = args.details().unwrap();
        assert_eq!(details.tmpfs.iter().map(|one| one.target.as_str()).collect::<Vec<_>>(), ["/run", "/t"]);
        assert_eq!(details.named_groups, [Group::Id(7), Group::Name("video".into())]);
        assert_eq!((details.oom_score, details.pids), (Some(-5), Some(-1)));
        assert_eq!((details.shm_bytes, details.init), (Some(1 << 20), true));
        assert!(details.security.no_new_privileges && !details.security.open_paths);
        assert_eq!(
            details.labels.into_iter().collect::<Vec<_>>(),
            [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]
        );
        let resolver = args.resolver();
        assert_eq!((resolver.hosts[0].name.as_str(), resolver.search[0].as_str()), ("a", "example"));
        assert_eq!((resolver.servers.len(), resolver.options.len()), (1, 1));
    }

    #[test]
    fn times_are_written_as_in_docker() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("1m30s", 90_000), ("1h", 3_600_000)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "0s", "30", "s", "1d", "-1s", "1.5s", "4294967295h4294967295h99999999999h"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        let some = args("run --health-cmd x --health-interval 2s --health-retries 1").unwrap();
        let health = some.complete(Options::default()).unwrap().health;
        assert_eq!((health.command.as_deref(), health.retries), (Some("x"), Some(1)));
        assert_eq!(health.interval, Some(Duration::from_secs(2)));
        assert!(self::args("run --no-healthcheck").unwrap().health().never);
    }

    #[test]
    fn labels_come_from_files_and_options_have_the_last_word() {
        let here = tempfile::tempdir().unwrap();
        let file = here.path().join("labels");
        std::fs::write(&file, "# ours\n\na=1\n b=2\n").unwrap();
        let line = format!("run --label-file {} -l b=3", file.display());
        let labels = args(&line).unwrap().details().unwrap().labels;
        assert_eq!((labels["a"].as_str(), labels["b"].as_str(), labels.len()), ("1", "3", 2));
        assert!(args("run --label-file /no/such").unwrap().details().is_err());
    }

    #[test]
    fn profiles_are_read_and_other_protection_is_refused_in_words() {
        let here = tempfile::tempdir().unwrap();
        let file = here.path().join("profile.json");
        std::fs::write(&file, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
        let with = |option: &str| args(&format!("run --security-opt {option}")).unwrap().details();
        let profile = with(&format!("seccomp={}", file.display())).unwrap().security.seccomp.unwrap();
        assert_eq!(profile.for_capabilities(&[]).default_action, "SCMP_ACT_ALLOW");
        assert!(with("systempaths=unconfined").unwrap().security.open_paths);
        assert!(with("seccomp=unconfined").unwrap().security.seccomp.is_none());
        for option in
            ["seccomp=/no/such", "seccomp=", "selinux", "no-new-privileges=maybe", "seccomp=/dev/null"]
        {
            let error = with(option).unwrap_err().message;
            assert!(error.starts_with(&format!("--security-opt {option}: ")), "{error}");
        }
    }
}
