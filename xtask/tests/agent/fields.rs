//! Fields of the OCI runtime specification that take one of many words: every word, as a process sees it from inside.

use ferry_init::api::oci::*;
use ferry_init::api::ttrpc::Code;

use crate::guest::*;
use crate::oci::{annotate, last_device, linux, mount, prints, process, refused, strings};

/// Prints what the kernel says of the mounts below `/m`, and what the script itself is in.
const MOUNTS: &str = "while read -r id parent device root at rest; do case $at in /m/*) echo ${at#/m/} $rest;; esac; done < /proc/self/mountinfo";

#[test]
fn every_mount_option_and_propagation() {
    // The words of one mount, and a word that is or is not in its line: of the mount, of its propagation, of its file system.
    let table: [(&[&str], &str, bool); 32] = [
        (&["ro"], "ro,relatime", true),
        (&["ro", "rw"], "ro,", false),
        (&["nosuid"], "nosuid", true),
        (&["nosuid", "suid"], "nosuid", false),
        (&["nodev"], "nodev", true),
        (&["nodev", "dev"], "nodev", false),
        (&["noexec"], "noexec", true),
        (&["noexec", "exec"], "noexec", false),
        (&["noatime"], "noatime", true),
        (&["noatime", "atime"], "noatime", false),
        (&["nodiratime"], "nodiratime", true),
        (&["nodiratime", "diratime"], "nodiratime", false),
        (&["relatime"], "relatime", true),
        (&["strictatime"], "relatime", false),
        (&["nosymfollow"], "nosymfollow", true),
        (&["nosymfollow", "symfollow"], "nosymfollow", false),
        (&["sync"], "sync", true),
        (&["dirsync"], "dirsync", true),
        (&["lazytime"], "lazytime", true),
        (&["defaults", "async", "nolazytime", "silent", "loud", "nomand", "noiversion"], "sync", false),
        (&["rro"], "ro,relatime", true),
        (&["rnosuid"], "nosuid", true),
        (&["rnodev"], "nodev", true),
        (&["rnoexec"], "noexec", true),
        (&["shared"], "shared:", true),
        (&["rshared"], "shared:", true),
        (&["private"], "shared:", false),
        (&["rprivate"], "shared:", false),
        (&["slave"], "shared:", false),
        (&["unbindable"], "unbindable", true),
        (&["runbindable"], "unbindable", true),
        (&["size=64k", "mode=711", "uid=5", "gid=6"], "size=64k,mode=711,uid=5,gid=6", true),
    ];
    let mut guest = guest();
    let text = prints(&guest.client(), MOUNTS, |spec| {
        for (number, (words, _, _)) in table.iter().enumerate() {
            spec.mounts.push(mount(&format!("/m/{number}"), "tmpfs", "tmpfs", words));
        }
    });
    for (number, (words, sought, is_there)) in table.iter().enumerate() {
        let begins = format!("{number} ");
        let line = text.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(line.contains(sought), *is_there, "{words:?}: {line}");
    }
}

#[test]
fn every_propagation_of_the_root() {
    let mut guest = guest();
    let client = guest.client();
    let script = "while read -r id parent device root at rest; do case $at in /) echo $rest;; esac; done < /proc/self/mountinfo";
    for (word, sought, is_there) in [
        ("", "shared:", false),
        ("shared", "shared:", true),
        ("rshared", "shared:", true),
        ("private", "shared:", false),
        ("rslave", "shared:", false),
        ("unbindable", "unbindable", true),
    ] {
        let text = prints(&client, script, |spec| linux(spec).rootfs_propagation = word.to_owned());
        assert_eq!(text.contains(sought), is_there, "{word}: {text}");
    }
}

#[test]
fn every_limit_of_a_process() {
    // By the kernel's names, and numbers that it takes from anybody.
    let limits = [
        ("CPU", "Max cpu time", 1000),
        ("FSIZE", "Max file size", 1 << 30),
        ("DATA", "Max data size", 1 << 30),
        ("STACK", "Max stack size", 1 << 20),
        ("CORE", "Max core file size", 1 << 16),
        ("RSS", "Max resident set", 1 << 30),
        ("NPROC", "Max processes", 77),
        ("NOFILE", "Max open files", 99),
        ("MEMLOCK", "Max locked memory", 1 << 17),
        ("AS", "Max address space", 1 << 32),
        ("LOCKS", "Max file locks", 1001),
        ("SIGPENDING", "Max pending signals", 1002),
        ("MSGQUEUE", "Max msgqueue size", 1003),
        ("NICE", "Max nice priority", 3),
        ("RTPRIO", "Max realtime priority", 4),
        ("RTTIME", "Max realtime timeout", 1 << 40),
    ];
    let mut guest = guest();
    let text = prints(&guest.client(), "cat /proc/self/limits", |spec| {
        let limit = |(name, _, most): &(&str, &str, u64)| PosixRlimit {
            r#type: format!("RLIMIT_{name}"),
            soft: most - 1,
            hard: *most,
        };
        process(spec).rlimits = limits.iter().map(limit).collect();
    });
    for (name, shown, most) in limits {
        let line = text.lines().find(|line| line.starts_with(shown)).unwrap_or_else(|| panic!("{text}"));
        let numbers: Vec<_> = line[shown.len()..].split_whitespace().take(2).collect();
        assert_eq!(numbers, [(most - 1).to_string(), most.to_string()], "{name}");
    }
}

#[test]
fn every_scheduling_policy_and_class_of_io_priority() {
    let mut guest = guest();
    let client = guest.client();
    // Real-time priority and policy are fields 40 and 41, niceness is field 19.
    let script = "set -- $(cat /proc/self/stat); echo ${40} ${41} ${19}; ionice";
    for (scheduler, priority, expected) in [
        ("policy=SCHED_OTHER,nice=-5", "class=IOPRIO_CLASS_RT,priority=3", "0 0 -5\nrealtime: prio 3\n"),
        ("policy=SCHED_FIFO,priority=7", "class=IOPRIO_CLASS_IDLE", "7 1 0\nidle\n"),
        ("policy=SCHED_IDLE", "class=IOPRIO_CLASS_BE,priority=1", "0 5 0\nbest-effort: prio 1\n"),
    ] {
        let text = prints(&client, script, |spec| {
            annotate(spec, "process.scheduler", scheduler);
            annotate(spec, "process.ioPriority", priority);
        });
        // The level of the idle class says nothing, and not every ionice shows it.
        let text = text.replace("idle: prio 0", "idle");
        assert_eq!(text, expected, "{scheduler} {priority}");
    }
}

#[test]
fn every_kind_of_device_node() {
    let mut guest = guest();
    let client = guest.client();
    let node = |kind: &str, major, minor| LinuxDevice {
        path: format!("/dev/of-{kind}"),
        r#type: kind.to_owned(),
        major,
        minor,
        file_mode: 0o604,
        uid: 3,
        gid: 4,
    };
    let text =
        prints(&client, "stat -c '%F %a %u %g %t:%T' /dev/of-c /dev/of-u /dev/of-b /dev/of-p", |spec| {
            linux(spec).devices.extend([node("c", 1, 3), node("u", 1, 5), node("b", 7, 9), node("p", 0, 0)]);
        });
    let expected = "character special file 604 3 4 1:3\ncharacter special file 604 3 4 1:5\n\
                    block special file 604 3 4 7:9\nfifo 604 3 4 0:0\n";
    assert_eq!(text, expected);
    let unknown = |spec: &mut Spec| linux(spec).devices.push(node("q", 1, 1));
    assert_eq!(refused(&client, unknown).0, Code::InvalidArgument);
}

#[test]
fn every_action_and_comparison_of_a_system_call_filter() {
    let mut guest = guest();
    let client = guest.client();
    let arg = |op: &str, index, value, value_two| LinuxSeccompArg {
        index,
        value,
        value_two,
        op: format!("SCMP_CMP_{op}"),
    };
    let with = |action: &str, args: Vec<LinuxSeccompArg>| {
        let action = format!("SCMP_ACT_{action}");
        move |spec: &mut Spec| {
            linux(spec).seccomp = Some(LinuxSeccomp {
                default_action: "SCMP_ACT_ALLOW".to_owned(),
                architectures: strings(&["SCMP_ARCH_X86_64"]),
                syscalls: vec![LinuxSyscall {
                    names: strings(&["chmod", "fchmodat"]),
                    action,
                    errno_ret: None,
                    args,
                }],
                ..Default::default()
            });
        }
    };
    let script = "touch /f; chmod 640 /f && echo allowed || echo status $?";
    // A child that is killed, by its signal; a call without a tracer; a call that is let through and noted.
    for (action, expected) in [
        ("KILL", "status 159"),
        ("KILL_PROCESS", "status 159"),
        ("KILL_THREAD", "status 159"),
        ("TRAP", "status 159"),
        ("ERRNO", "status 1"),
        ("TRACE", "status 1"),
        ("LOG", "allowed"),
        ("ALLOW", "allowed"),
    ] {
        let text = prints(&client, &format!("exec 2>/dev/null; {script}"), with(action, vec![]));
        assert_eq!(text.lines().last(), Some(expected), "{action}: {text}");
    }
    // chmod(2)'s second argument is the mode, fchmodat(2)'s the third: both are there, for whichever is used.
    let mode = 0o640;
    for (op, value, value_two, is_met) in [
        ("EQ", mode, 0, true),
        ("EQ", mode + 1, 0, false),
        ("NE", mode + 1, 0, true),
        ("NE", mode, 0, false),
        ("LT", mode + 1, 0, true),
        ("LT", mode, 0, false),
        ("LE", mode, 0, true),
        ("LE", mode - 1, 0, false),
        ("GT", mode - 1, 0, true),
        ("GT", mode, 0, false),
        ("GE", mode, 0, true),
        ("GE", mode + 1, 0, false),
        ("MASKED_EQ", 0o070, 0o040, true),
        ("MASKED_EQ", 0o070, 0o060, false),
    ] {
        let change = |spec: &mut Spec| {
            with("ERRNO", vec![arg(op, 1, value, value_two)])(spec);
            let rules = &mut linux(spec).seccomp.as_mut().expect("a filter").syscalls;
            let mut at = rules[0].clone();
            rules[0].names = strings(&["chmod"]);
            (at.names, at.args[0].index) = (strings(&["fchmodat"]), 2);
            rules.push(at);
        };
        let text = prints(&client, &format!("exec 2>/dev/null; {script}"), change);
        assert_eq!(text.trim() != "allowed", is_met, "{op} {value:o} {value_two:o}: {text}");
    }
}

#[test]
fn limits_that_are_none_and_those_of_disks() {
    let mut guest = guest();
    let client = guest.client();
    let files = "memory.max memory.swap.max memory.low cpu.max cpuset.mems pids.max io.max";
    let script =
        format!("cd /sys/fs/cgroup; for f in {files}; do echo $f $(cat $f); done; cat /sys/block/vda/dev");
    let text = prints(&client, &script, |spec| {
        linux(spec).resources = Some(LinuxResources {
            memory: Some(LinuxMemory { limit: -1, swap: -1, reservation: -1, ..Default::default() }),
            cpu: Some(LinuxCpu { quota: -1, period: 50_000, mems: "0".to_owned(), ..Default::default() }),
            pids: Some(LinuxPids { limit: -1 }),
            ..Default::default()
        });
    });
    for line in [
        "memory.max max",
        "memory.swap.max max",
        "memory.low max",
        "cpu.max max 50000",
        "cpuset.mems 0",
        "pids.max max",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}: {text}");
    }
    let (disk, major, minor) = last_device(&text);
    let limited = prints(&client, &script, |spec| {
        let rate = |rate| vec![LinuxThrottleDevice { major, minor, rate }];
        let block_io = Some(LinuxBlockIo {
            throttle_read_bps_device: rate(1 << 20),
            throttle_write_bps_device: rate(2 << 20),
            throttle_read_iops_device: rate(30),
            throttle_write_iops_device: rate(40),
            ..Default::default()
        });
        linux(spec).resources = Some(LinuxResources { block_io, ..Default::default() });
    });
    assert!(
        limited.contains(&format!("io.max {disk} rbps=1048576 wbps=2097152 riops=30 wiops=40")),
        "{limited}"
    );
}
