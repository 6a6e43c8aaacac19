//! Docker's finer options, as the container sees what they have done.

use crate::road::on_qemu;

const LOOK: &str = r#"
for place in /run/x /t2 /dev/shm; do awk -v p=$place '$2 == p { print $2, $4 }' /proc/mounts; done
ulimit -n; ulimit -Hn; ulimit -c
cat /proc/sys/net/core/somaxconn /proc/self/oom_score_adj /sys/fs/cgroup/pids.max
id -G
grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status
mkdir /tmp/refused || echo refused
grep -c ' /proc/' /proc/mounts
tail -n 2 /etc/hosts
cat /etc/resolv.conf
"#;

const SEEN: &str = "\
/run/x rw,nosuid,nodev,relatime,size=1024k
/t2 rw,nosuid,nodev,noexec,relatime,size=2048k
/dev/shm rw,nosuid,nodev,noexec,relatime,size=5120k
77
88
unlimited
99
100
50
0 33 65534
NoNewPrivs:\t1
Seccomp:\t2
refused
0
192.0.2.7\tdb
2001:db8::1\tme
nameserver 192.0.2.53
search a.example
options ndots:2
";

#[test]
fn the_container_is_as_the_options_say() {
    let here = tempfile::tempdir().expect("a directory");
    let profile = here.path().join("profile.json");
    let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1, "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["getuid"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}}]}"#;
    std::fs::write(&profile, rules).expect("a profile");
    let seccomp = format!("seccomp={}", profile.display());
    let options = "--tmpfs /run/x:size=1m,mode=1777,exec --mount type=tmpfs,target=/t2,tmpfs-size=2m --shm-size 5m \
                   --ulimit nofile=77:88 --ulimit core=-1 --sysctl net.core.somaxconn=99 --oom-score-adj 100 \
                   --pids-limit 50 --group-add 33 --group-add nogroup --security-opt no-new-privileges \
                   --security-opt systempaths=unconfined --add-host db:192.0.2.7 --add-host me=2001:db8::1 --dns 192.0.2.53 --dns-search a.example \
                   --dns-option ndots:2 --label tier=front";
    let options: Vec<&str> = options.split_whitespace().chain(["--security-opt", &seccomp]).collect();
    on_qemu(&[&options[..], &["hello", "--", "sh", "-c", LOOK]].concat()).run().exits(0).prints(SEEN);
}
