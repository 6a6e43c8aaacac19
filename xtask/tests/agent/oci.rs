//! The OCI runtime specification, field by field: what a process sees of it from inside its container.

use ferry_init::api::agent::{Device, UpdateContainerRequest};
use ferry_init::api::method;
use ferry_init::api::oci::*;
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::{CallError, Client, OutputStream};

use crate::guest::*;

/// What a shell script prints as the process of a container whose specification was changed; it must end with 0.
#[track_caller]
pub fn prints(client: &Client, script: &str, change: impl FnOnce(&mut Spec)) -> String {
    let spec = container(&fresh("oci"), &["sh", "-ec", script], change);
    let id = running_as(client, &spec);
    let mut text = read_all(client, OutputStream::Stdout, &id, &id);
    text.extend(read_all(client, OutputStream::Stderr, &id, &id));
    let text = String::from_utf8(text).expect("text");
    assert_eq!(wait(client, &id, &id).expect("it ends"), 0, "{text}");
    client.remove_container(&id, LONG).unwrap();
    text
}

/// With what code and words a container is refused, when it is made or when it is started. The agent goes on.
#[track_caller]
pub fn refused(client: &Client, change: impl FnOnce(&mut Spec)) -> (Code, String) {
    let spec = container(&fresh("refused"), &["true"], change);
    let result = create(client, &spec).and_then(|()| {
        let result = client.start_container(&spec.id);
        client.remove_container(&spec.id, LONG).unwrap();
        result
    });
    let code = code(&result);
    let words = result.expect_err("it is refused").to_string();
    client.check(ferry_vmm::agent::Wait::AtMost(LONG)).unwrap();
    (code, words)
}

pub fn process(spec: &mut Spec) -> &mut Process {
    spec.process.as_mut().expect("a process")
}

pub fn linux(spec: &mut Spec) -> &mut Linux {
    spec.linux.as_mut().expect("a part about Linux")
}

pub fn annotate(spec: &mut Spec, key: &str, value: &str) {
    spec.annotations.insert(format!("io.ferry.oci.{key}"), value.to_owned());
}

pub fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        source: source.to_owned(),
        r#type: kind.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn update(client: &Client, id: &str, resources: LinuxResources) -> Result<(), CallError> {
    let request = UpdateContainerRequest { container_id: id.to_owned(), resources: Some(resources) };
    tell(client, method::UPDATE_CONTAINER, &request)
}

pub fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn user_groups_umask_and_directory() {
    let mut guest = guest();
    let script = "id -u; id -g; grep Groups: /proc/self/status; umask; pwd; echo $A$B";
    let text = prints(&guest.client(), script, |spec| {
        annotate(spec, "process.user.umask", "63");
        let process = process(spec);
        let user = User { uid: 1234, gid: 56, additional_gids: vec![7, 9], ..Default::default() };
        process.user = Some(user);
        process.cwd = "/made/on/the/way".to_owned();
        process.env.extend(strings(&["A=one", "B=x", "B=two"]));
        process.capabilities = None;
    });
    assert_eq!(text, "1234\n56\nGroups:\t7 9 \n0077\n/made/on/the/way\nonetwo\n");
}

#[test]
fn capabilities_in_all_five_sets() {
    let mut guest = guest();
    let text = prints(&guest.client(), "grep ^Cap /proc/self/status", |spec| {
        let process = process(spec);
        process.user = Some(User { uid: 5, gid: 5, ..Default::default() });
        process.capabilities = Some(LinuxCapabilities {
            bounding: strings(&["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_TIME"]),
            permitted: strings(&["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]),
            effective: strings(&["CAP_CHOWN"]),
            inheritable: strings(&["CAP_KILL", "CAP_NET_RAW"]),
            ambient: strings(&["CAP_NET_RAW"]),
        });
    });
    // An exec by an ordinary user leaves what is ambient, and what is inheritable for files that say so.
    let set = |bits: u64| format!("{bits:016x}");
    let [raw, kill] = [1 << 13, 1 << 5];
    let expected = [
        ("CapInh", raw | kill),
        ("CapPrm", raw),
        ("CapEff", raw),
        ("CapBnd", 1 | kill | raw | 1 << 25),
        ("CapAmb", raw),
    ];
    for (name, bits) in expected {
        assert!(text.contains(&format!("{name}:\t{}\n", set(bits))), "{name}: {text}");
    }
}

#[test]
fn limits_privileges_and_badness() {
    let mut guest = guest();
    let client = guest.client();
    let script = "grep -E 'open files|locked memory|realtime priority' /proc/self/limits; grep NoNewPrivs /proc/self/status; cat /proc/self/oom_score_adj";
    let text = prints(&client, script, |spec| {
        let process = process(spec);
        let limit = |name: &str, soft, hard| PosixRlimit { r#type: name.to_owned(), soft, hard };
        process.rlimits = vec![
            limit("RLIMIT_NOFILE", 77, 88),
            limit("RLIMIT_MEMLOCK", u64::MAX, u64::MAX),
            limit("RLIMIT_RTPRIO", 0, 3),
        ];
        process.no_new_privileges = true;
        process.oom_score_adj = 321;
    });
    let words: Vec<&str> = text.split_whitespace().collect();
    let joined = words.join(" ");
    assert!(joined.contains("open files 77 88 files"), "{joined}");
    assert!(joined.contains("locked memory unlimited unlimited bytes"), "{joined}");
    assert!(joined.contains("realtime priority 0 3"), "{joined}");
    assert!(joined.ends_with("NoNewPrivs: 1 321"), "{joined}");
    let odd = |spec: &mut Spec| {
        process(spec).rlimits = vec![PosixRlimit { r#type: "RLIMIT_LUCK".to_owned(), soft: 1, hard: 1 }];
    };
    assert!(refused(&client, odd).1.contains("RLIMIT_LUCK"));
}

#[test]
fn a_terminal_has_its_first_size() {
    let mut guest = guest();
    let text = prints(&guest.client(), "stty size; test -c /dev/console && echo console", |spec| {
        let process = process(spec);
        process.terminal = true;
        process.console_size = Some(Box { height: 33, width: 99 });
    });
    assert_eq!(text, "33 99\r\nconsole\r\n");
}

#[test]
fn scheduler_io_priority_and_personality() {
    let mut guest = guest();
    let client = guest.client();
    let script = "set -- $(cat /proc/self/stat); shift 39; echo $1 $2; ionice; uname -m";
    let text = prints(&client, script, |spec| {
        annotate(spec, "process.scheduler", "policy=SCHED_RR,priority=9");
        annotate(spec, "process.ioPriority", "class=IOPRIO_CLASS_BE,priority=5");
        annotate(spec, "linux.personality", "LINUX32");
    });
    assert_eq!(text, "9 2\nbest-effort: prio 5\ni686\n");
    let text = prints(&client, "set -- $(cat /proc/self/stat); shift 18; echo $1", |spec| {
        annotate(spec, "process.scheduler", "policy=SCHED_BATCH,nice=7")
    });
    assert_eq!(text, "7\n");
    let bad = |spec: &mut Spec| annotate(spec, "process.scheduler", "policy=SCHED_FIFO,priority=100");
    assert!(refused(&client, bad).1.contains("scheduling policy"));
    let unknown = |spec: &mut Spec| annotate(spec, "process.karma", "1");
    assert_eq!(refused(&client, unknown).0, Code::InvalidArgument);
}

#[test]
fn names_of_the_host_and_its_domain() {
    let mut guest = guest();
    let script = "hostname; cat /proc/sys/kernel/domainname /etc/hostname";
    let text = prints(&guest.client(), script, |spec| {
        spec.hostname = "box".to_owned();
        annotate(spec, "domainname", "example.org");
    });
    assert_eq!(text, "box\nexample.org\nbox\n");
}

#[test]
fn mounts_have_their_options() {
    let mut guest = guest();
    let script = "touch /t/x 2>&1 || true; while read -r id parent device root at options rest; do \
                  case $at in /t|/n|/p|/b) echo $at $options $rest;; esac; done < /proc/self/mountinfo";
    let text = prints(&guest.client(), script, |spec| {
        spec.mounts.extend([
            mount("/t", "tmpfs", "tmpfs", &["ro", "nosuid", "nodev", "noexec", "size=64k", "mode=711"]),
            mount("/n", "tmpfs", "named", &["noatime", "nodiratime", "nosymfollow"]),
            mount("/p", "tmpfs", "tmpfs", &["strictatime", "shared"]),
            mount("/b", "bind", "/tmp", &["rbind", "ro", "rslave"]),
        ]);
    });
    let line = |at: &str| text.lines().find(|line| line.starts_with(at)).unwrap_or_default();
    assert!(text.starts_with("touch: /t/x: Read-only file system"), "{text}");
    assert!(line("/t ").starts_with("/t ro,nosuid,nodev,noexec,relatime"), "{text}");
    assert!(line("/t ").contains("size=64k,mode=711"), "{text}");
    assert!(line("/n ").starts_with("/n rw,noatime,nodiratime,nosymfollow"), "{text}");
    assert!(line("/n ").contains("- tmpfs named"), "{text}");
    assert!(line("/p ").starts_with("/p rw shared:"), "{text}");
    assert!(line("/b ").starts_with("/b ro,"), "{text}");
}

#[test]
fn a_tree_is_read_only_when_all_of_it_is_to_be() {
    let mut guest = guest();
    let client = guest.client();
    // /dev has /dev/pts below it.
    let script = "while read -r id parent device root at options rest; do case $at in /d|/d/*) echo $at $options;; esac; done < /proc/self/mountinfo";
    let of = |options: &[&str]| {
        prints(&client, script, |spec| spec.mounts.push(mount("/d", "bind", "/dev", options)))
    };
    let (one, tree) = (of(&["rbind", "ro"]), of(&["rbind", "rro", "rnosuid"]));
    let writable = |text: &str| text.lines().filter(|line| line.contains(" rw")).count();
    assert!(one.lines().count() > 1 && one.starts_with("/d ro"), "{one}");
    assert_eq!(writable(&one), one.lines().count() - 1, "{one}");
    assert_eq!((writable(&tree), tree.matches("nosuid").count()), (0, tree.lines().count()), "{tree}");
}

#[test]
fn the_root_is_read_only_and_propagates_as_asked() {
    let mut guest = guest();
    let client = guest.client();
    let script = "touch /x 2>&1 || true; while read -r id parent device root at options rest; do case $at in /) echo $options $rest;; esac; done < /proc/self/mountinfo";
    let text = prints(&client, script, |spec| {
        spec.root.as_mut().expect("a root").readonly = true;
        linux(spec).rootfs_propagation = "shared".to_owned();
    });
    assert!(text.starts_with("touch: /x: Read-only file system\nro"), "{text}");
    assert!(text.contains(" shared:"), "{text}");
    let bad = |spec: &mut Spec| linux(spec).rootfs_propagation = "sideways".to_owned();
    assert!(refused(&client, bad).1.contains("sideways"));
}

#[test]
fn masked_and_read_only_paths() {
    let mut guest = guest();
    let script =
        "wc -c < /proc/version; ls /proc/sys | wc -l; { echo x > /etc/motd; } 2>/dev/null || echo kept";
    let text = prints(&guest.client(), script, |spec| {
        let linux = linux(spec);
        linux.masked_paths = strings(&["/proc/version", "/proc/sys", "/no/such/path"]);
        linux.readonly_paths = strings(&["/etc", "/no/such/path"]);
    });
    assert_eq!(text, "0\n0\nkept\n");
}

#[test]
fn kernel_parameters() {
    let mut guest = guest();
    let client = guest.client();
    let script = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/msgmax";
    let text = prints(&client, script, |spec| {
        let set = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        linux(spec).sysctl =
            [set(("kernel.shm_rmid_forced", "1")), set(("kernel.msgmax", "4096"))].into_iter().collect();
    });
    assert_eq!(text, "1\n4096\n");
    let bad = |spec: &mut Spec| {
        linux(spec).sysctl = [("kernel.../x".to_owned(), "1".to_owned())].into_iter().collect()
    };
    assert!(refused(&client, bad).1.contains("kernel.../x"));
}

fn rule(allow: bool, kind: &str, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
    LinuxDeviceCgroup { allow, r#type: kind.to_owned(), major, minor, access: access.to_owned() }
}

#[test]
fn device_nodes_and_rules() {
    let mut guest = guest();
    let client = guest.client();
    let device = LinuxDevice {
        path: "/dev/mine/null".to_owned(),
        r#type: "c".to_owned(),
        major: 1,
        minor: 3,
        file_mode: 0o640,
        uid: 7,
        gid: 8,
    };
    let script = "stat -c '%F %a %u %g %t:%T' /dev/mine/null; echo x > /dev/mine/null; \
                  disk=$(cat /sys/block/vda/dev); mknod /tmp/disk b ${disk%:*} ${disk#*:}; \
                  head -c 1 /tmp/disk > /dev/null 2>&1 && echo read || echo denied";
    let open = prints(&client, script, |spec| linux(spec).devices.push(device.clone()));
    assert_eq!(open, "character special file 640 7 8 1:3\nread\n");
    let barred = prints(&client, script, |spec| {
        let linux = linux(spec);
        linux.devices.push(device.clone());
        let resources = linux.resources.get_or_insert_default();
        resources.devices =
            vec![rule(false, "a", -1, -1, "rwm"), rule(true, "c", -1, -1, "m"), rule(true, "b", -1, -1, "m")];
    });
    assert_eq!(barred, "character special file 640 7 8 1:3\ndenied\n");
    // The rules of a running container are replaced.
    let id = running_as(&client, &container(&fresh("rules"), &["sleep", "1000"], |_| {}));
    let tries = [
        "sh",
        "-c",
        "disk=$(cat /sys/block/vda/dev); test -e /tmp/disk || mknod /tmp/disk b ${disk%:*} ${disk#*:}; \
         head -c 1 /tmp/disk >/dev/null 2>&1 && echo read || echo denied",
    ];
    assert_eq!(output(&client, &id, &tries).1, "read\n");
    for (rules, expected) in
        [(vec![rule(false, "b", -1, -1, "r")], "denied\n"), (vec![rule(true, "b", -1, -1, "r")], "read\n")]
    {
        let resources = LinuxResources { devices: rules, ..Default::default() };
        update(&client, &id, resources).unwrap();
        assert_eq!(output(&client, &id, &tries).1, expected);
    }
    client.remove_container(&id, LONG).unwrap();
    let bad = |spec: &mut Spec| {
        linux(spec).resources.get_or_insert_default().devices = vec![rule(true, "z", 1, 1, "r")];
    };
    assert_eq!(refused(&client, bad).0, Code::InvalidArgument);
}

#[test]
fn devices_of_the_guest_are_passed_on() {
    let mut guest = guest();
    let client = guest.client();
    let change = |spec: &mut Spec| {
        let linux = linux(spec);
        let (path, kind) = ("/dev/given".to_owned(), "b".to_owned());
        // What the client calls it, the guest does not have.
        linux.devices.push(LinuxDevice {
            path,
            r#type: kind.clone(),
            major: 8,
            minor: 16,
            ..Default::default()
        });
        linux.resources.get_or_insert_default().devices = vec![
            rule(false, "a", -1, -1, "rwm"),
            rule(true, "c", -1, -1, "rwm"),
            rule(true, &kind, -1, -1, "m"),
            rule(true, &kind, 8, 16, "r"),
        ];
    };
    let script = "printf '%x:%x\\n' $(tr : ' ' < /sys/block/vda/dev); stat -c %t:%T /dev/given; head -c 1 /dev/given > /dev/null; \
                  mknod /tmp/other b 8 16; head -c 1 /tmp/other 2> /dev/null || echo denied";
    let container = container(&fresh("given"), &["sh", "-ec", script], change);
    let mut request = create_request(&container);
    let (vm_path, container_path) = ("/dev/vda".to_owned(), "/dev/given".to_owned());
    request.devices = vec![Device { vm_path, container_path, ..Default::default() }];
    client.create_container(&request).unwrap();
    client.start_container(&container.id).unwrap();
    let text = read_all(&client, OutputStream::Stdout, &container.id, &container.id);
    let text = String::from_utf8(text).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[2]), (3, lines[1], "denied"), "{text}");
    assert_eq!(wait(&client, &container.id, &container.id).unwrap(), 0);
    client.remove_container(&container.id, LONG).unwrap();
    request.devices[0].container_path = "/dev/another".to_owned();
    assert_eq!(code(&client.create_container(&request)), Code::InvalidArgument);
}

/// The device whose numbers are the last line, as the kernel writes them and one by one.
pub fn last_device(text: &str) -> (&str, i64, i64) {
    let device = text.lines().last().expect("a device's numbers");
    let (major, minor) = device.split_once(':').expect("two numbers");
    (device, major.parse().unwrap(), minor.parse().unwrap())
}

#[test]
fn resources_are_the_cgroup_s() {
    let mut guest = guest();
    let client = guest.client();
    let names = "memory.max memory.low memory.swap.max memory.high cpu.max cpu.weight cpuset.cpus pids.max hugetlb.2MB.max io.max io.weight";
    let script = format!(
        "cd /sys/fs/cgroup; for f in {names}; do echo $f $(cat $f 2>&1); done; grep '^kernel ' memory.stat; \
         cat /sys/block/vda/dev"
    );
    let text = prints(&client, &script, |spec| {
        annotate(spec, "linux.resources.unified.memory.high", "50331648");
        linux(spec).resources = Some(LinuxResources {
            memory: Some(LinuxMemory {
                limit: 64 << 20,
                reservation: 32 << 20,
                swap: 96 << 20,
                ..Default::default()
            }),
            cpu: Some(LinuxCpu {
                shares: 1024,
                quota: 50_000,
                period: 100_000,
                cpus: "0".to_owned(),
                ..Default::default()
            }),
            pids: Some(LinuxPids { limit: 44 }),
            hugepage_limits: vec![LinuxHugepageLimit { pagesize: "2MB".to_owned(), limit: 4 << 20 }],
            ..Default::default()
        });
    });
    for line in [
        "memory.max 67108864",
        "memory.low 33554432",
        "memory.swap.max 33554432",
        "memory.high 50331648",
        "cpu.max 50000 100000",
        "cpu.weight 39",
        "cpuset.cpus 0",
        "pids.max 44",
        "hugetlb.2MB.max 4194304",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}: {text}");
    }
    // What the kernel holds for it counts, since it has a limit.
    let kernels = text.lines().find_map(|line| line.strip_prefix("kernel ")).expect("memory.stat");
    assert!(kernels.parse::<u64>().is_ok_and(|bytes| bytes > 0), "{text}");
    let (disk, major, minor) = last_device(&text);
    let limited = prints(&client, &script, |spec| {
        let rate = |rate| vec![LinuxThrottleDevice { major, minor, rate }];
        let io = LinuxBlockIo {
            weight: 500,
            throttle_read_bps_device: rate(1 << 20),
            throttle_write_iops_device: rate(50),
            ..Default::default()
        };
        linux(spec).resources = Some(LinuxResources { block_io: Some(io), ..Default::default() });
    });
    assert!(
        limited.contains(&format!("io.max {disk} rbps=1048576 wbps=max riops=max wiops=50")),
        "{limited}"
    );
    assert!(limited.contains("io.weight default 4950"), "{limited}");
}

#[test]
fn limits_that_cgroup_v2_has_not_are_refused() {
    let mut guest = guest();
    let client = guest.client();
    let with = |resources: LinuxResources| refused(&client, |spec| linux(spec).resources = Some(resources)).0;
    let memory = |memory| LinuxResources { memory: Some(memory), ..Default::default() };
    assert_eq!(with(memory(LinuxMemory { swappiness: 10, ..Default::default() })), Code::Unimplemented);
    assert_eq!(
        with(memory(LinuxMemory { disable_oom_killer: true, ..Default::default() })),
        Code::Unimplemented
    );
    let cpu = LinuxCpu { realtime_runtime: 1000, ..Default::default() };
    assert_eq!(with(LinuxResources { cpu: Some(cpu), ..Default::default() }), Code::Unimplemented);
    let network = LinuxNetwork { class_id: 1, ..Default::default() };
    assert_eq!(with(LinuxResources { network: Some(network), ..Default::default() }), Code::Unimplemented);
    // Values that the kernel refuses, and files that are none.
    let cpus = LinuxCpu { cpus: "9999".to_owned(), ..Default::default() };
    assert_eq!(with(LinuxResources { cpu: Some(cpus), ..Default::default() }), Code::Internal);
    let away = |spec: &mut Spec| annotate(spec, "linux.resources.unified.../../x", "1");
    assert_eq!(refused(&client, away).0, Code::InvalidArgument);
    let rdma = |spec: &mut Spec| annotate(spec, "linux.resources.rdma.none0", "hcaHandles=1");
    assert!(refused(&client, rdma).1.contains("rdma.max"));
}

#[test]
fn the_cgroup_is_where_it_is_asked_for() {
    let mut guest = guest();
    let text = prints(&guest.client(), "cat /proc/self/cgroup", |spec| {
        let linux = linux(spec);
        linux.cgroups_path = "/pods/one".to_owned();
        linux.namespaces.retain(|namespace| namespace.r#type != "cgroup");
    });
    assert_eq!(text, "0::/pods/one\n");
}

#[test]
fn system_calls_are_filtered() {
    let mut guest = guest();
    let client = guest.client();
    let rule = |names: &[&str], action: &str, args: Vec<LinuxSeccompArg>| LinuxSyscall {
        names: strings(names),
        action: action.to_owned(),
        errno_ret: Some(28),
        args,
    };
    let script = "mkdir /tmp/d 2>&1 || true; grep Seccomp: /proc/self/status; echo fine";
    let text = prints(&client, script, |spec| {
        linux(spec).seccomp = Some(LinuxSeccomp {
            default_action: "SCMP_ACT_ALLOW".to_owned(),
            architectures: strings(&["SCMP_ARCH_X86_64"]),
            flags: strings(&["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
            syscalls: vec![rule(&["mkdir", "mkdirat"], "SCMP_ACT_ERRNO", vec![])],
        });
    });
    assert_eq!(text, "mkdir: can't create directory '/tmp/d': No space left on device\nSeccomp:\t2\nfine\n");
    let notify = |spec: &mut Spec| {
        let seccomp = LinuxSeccomp { default_action: "SCMP_ACT_NOTIFY".to_owned(), ..Default::default() };
        linux(spec).seccomp = Some(seccomp);
    };
    assert_eq!(refused(&client, notify).0, Code::Unimplemented);
}

#[test]
fn an_annotation_makes_a_process_process_1() {
    let mut guest = guest();
    let client = guest.client();
    let number = |value: &str| {
        prints(&client, "echo $$", |spec| {
            spec.annotations.insert("io.ferry.pid1".to_owned(), value.to_owned());
        })
    };
    assert_eq!((number("true"), number("false")), ("1\n".to_owned(), "2\n".to_owned()));
}

#[test]
fn what_this_guest_has_not_is_refused() {
    let mut guest = guest();
    let client = guest.client();
    let hooks = Hooks {
        prestart: vec![Hook { path: "/bin/true".to_owned(), ..Default::default() }],
        ..Default::default()
    };
    assert_eq!(refused(&client, |spec| spec.hooks = Some(hooks)).0, Code::Unimplemented);
    let rdt = LinuxIntelRdt { l3_cache_schema: "L3:0=f".to_owned() };
    assert_eq!(refused(&client, |spec| linux(spec).intel_rdt = Some(rdt)).0, Code::Unimplemented);
    let unknown = |spec: &mut Spec| spec.mounts.push(mount("/x", "no-such-fs", "x", &[]));
    assert!(refused(&client, unknown).1.contains("/x"));
    let capability = |spec: &mut Spec| {
        process(spec).capabilities.get_or_insert_default().bounding = strings(&["CAP_FLY"]);
    };
    assert!(refused(&client, capability).1.contains("CAP_FLY"));
    let user = |spec: &mut Spec| {
        process(spec).user = Some(User { username: "nobody-here".to_owned(), ..Default::default() });
    };
    assert!(refused(&client, user).1.contains("nobody-here"));
}
