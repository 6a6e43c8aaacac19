//! Words of the command line: taken or refused in words, never worse.

use crate::cli::details::parse_time;
use crate::cli::keys::DetachKeys;
use crate::cli::lifecycle;
use crate::cli::values::{parse_cpus, parse_log_option, parse_log_size, parse_memory, parse_overlay};
use crate::machine::Model;
use crate::runtime::details::{parse_label, parse_pids, parse_shm, parse_sysctl, parse_tmpfs, parse_ulimit};
use crate::runtime::groups::parse_group;
use crate::runtime::network::{parse_network, parse_published};
use crate::runtime::resolver::{parse_host, parse_option, parse_search};
use crate::runtime::restart::Restart;
use crate::runtime::seccomp_profile::Profile;
use crate::runtime::size::{human_size, parse_size};
use crate::runtime::volume::{Volume, parse_mount, parse_volume};
use crate::sandbox::UserRange;

/// A word, by every option's parser.
pub fn command_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(size) = parse_size(&text) {
        let _ = human_size(size);
    }
    if let Ok(mib) = parse_memory(&text) {
        assert!(mib <= u64::MAX >> 20);
    }
    if let Ok(count) = parse_cpus(&text) {
        assert!((1..=64).contains(&count));
    }
    if let Ok(model) = text.parse::<Model>() {
        assert_eq!(model.to_string().parse(), Ok(model));
    }
    if let Ok(keys) = DetachKeys::parse(&text) {
        assert_eq!(DetachKeys::parse(&keys.to_string()), Ok(keys));
    }
    if let Ok(limit) = parse_ulimit(&text) {
        assert!(limit.soft <= limit.hard);
    }
    if let Ok(ports) = parse_published(&text)
        && let Some(host) = ports.host.filter(|_| ports.guest.single().is_none())
    {
        assert_eq!(host.count(), ports.guest.count());
    }
    if let Ok(Volume { kept: Some(kept), .. }) = parse_volume(&text) {
        assert!(kept.anonymous == kept.name.is_empty() && !kept.name.contains(['/', '\0']));
        assert!(!kept.name.starts_with('.'));
    }
    if let Ok(host) = parse_host(&text) {
        assert_eq!(parse_host(&host.to_string()), Ok(host));
    }
    if let Ok(profile) = Profile::parse(&text) {
        let _ = profile.for_capabilities(&["CAP_CHOWN".to_owned()]);
    }
    // What is refused is refused in words.
    let refusals = [
        parse_network(&text).err(),
        parse_published(&text).err(),
        parse_overlay(&text).err(),
        parse_log_option(&text).err(),
        parse_log_size(&text).err(),
        Restart::parse(&text).err(),
        parse_volume(&text).err(),
        DetachKeys::parse(&text).err(),
        UserRange::parse(&text).err(),
        lifecycle::parse_seconds(&text).err(),
        lifecycle::parse_signal(&text).err(),
        parse_time(&text).err(),
        parse_group(&text).err(),
        parse_label(&text).err(),
        parse_pids(&text).err(),
        parse_shm(&text).err(),
        parse_sysctl(&text).err(),
        parse_tmpfs(&text).err(),
        parse_ulimit(&text).err(),
        parse_host(&text).err(),
        parse_option(&text).err(),
        parse_search(&text).err(),
        parse_mount(&text).err(),
        Profile::parse(&text).err(),
    ];
    refusals.into_iter().flatten().for_each(|words| assert!(!words.is_empty()));
}

/// One of each kind.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        "512m",
        "1.5GiB",
        "4",
        "2.0",
        "x86-64-v3",
        "user",
        "tap=vm0,ip=10.0.0.2/24,gateway=10.0.0.1,mtu=9000",
        "127.0.0.1:8080:80",
        "[::1]:53:53/udp",
        "127.0.0.1:8000-8002:80-82/udp",
        "8000-8005",
        "disk=40g",
        "tmpfs",
        "/srv:/srv:ro",
        "data:/srv:ro,nocopy",
        "/srv",
        "max-size=10m",
        "max-file=3",
        "on-failure:3",
        "unless-stopped",
        "10",
        "-1",
        "SIGTERM",
        "ctrl-p,ctrl-q",
        "1900000000-1900065535",
        "9",
        "video",
        "1m30s",
        "net.core.somaxconn=1024",
        "/run:size=64m,mode=1777,exec",
        "type=bind,source=/srv,target=/data,readonly",
        "type=tmpfs,target=/run,tmpfs-size=1m",
        "type=volume,source=data,target=/data,volume-nocopy",
        "nofile=1024:-1",
        "db:192.0.2.7",
        "me=[2001:db8::1]",
        "example.org",
        "ndots:2",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "b", "includes": {"caps": ["c"]}}]}"#,
    ]
    .into_iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}
