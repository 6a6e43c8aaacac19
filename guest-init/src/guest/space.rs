//! The space that a container's processes live in: its namespaces, its root, its cgroup.
//!
//! **Who is process 1 of a container.** The namespaces are made and held by a process of ours, the holder: it
//! sets everything up, reports, and from then on does nothing but let orphans go and pass signals that were
//! sent to process 1 on to the container's process, which is process 2 and, like every later one, a child of
//! the guest's PID 1. So the exit status comes straight from the kernel, and the container's process is an
//! ordinary one: the kernel protects a namespace's process 1 from signals that it has no handler for, even its
//! own `kill -9 $$`, and makes the reaping of orphans its duty, which most programs do not know. (Docker has
//! the same behind `--init`.) When the container's process ends, the holder is killed, and the kernel ends
//! whatever is left in the namespace.
//!
//! A program that is an init itself wants to be process 1, and is: when its name is one of [`INITS`] or the
//! annotation [`PID1_ANNOTATION`] says so. Then there is no holder; set-up and program are one process.
//!
//! **What is joined.** Who joins another's mount namespace has the root and the mounts that are there: what its own
//! specification says of either would change them under the other, and is not done. A joined user namespace owns all
//! namespaces that are made with it, as a new one does, so it is joined before them.

use super::cgroup::Cgroup;
use super::{devices, mounts, users};
use crate::agent::Sandbox;
use crate::api::oci::{Hooks, Linux, LinuxNamespace, Spec};
use crate::fault::REPORT_LIMIT;
use crate::prelude::*;
use crate::spec::annotation::Further;
use crate::spec::words::{place, words};
use crate::sys::file;
use crate::sys::file::*;
use crate::sys::process::*;

/// `true` or `false`: whether the container's process is process 1 of its pid namespace.
pub const PID1_ANNOTATION: &str = "io.ferry.pid1";

/// Where Kubernetes has a container say its last words.
const LAST_WORDS_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";

/// Programs that are process 1 unless [`PID1_ANNOTATION`] says no, by the last part of their path.
const INITS: &[u8] =
    words!("init systemd tini tini-static dumb-init catatonit docker-init s6-svscan runit-init openrc-init");

/// The container's process, as the holder sees it: the first that the namespace gets after process 1.
const FIRST_PROCESS: i32 = 2;

/// What the guest keeps of a container.
pub struct Space {
    pub(super) id: String,
    /// A process in the namespaces, once there is one.
    pub(super) inhabitant: Option<(i32, Fd)>,
    pub(super) cgroup: Option<Cgroup>,
    /// The namespaces that are its own or joined (`CLONE_NEW*`); all but the mount namespace may be missing.
    pub(super) kinds: u32,
    /// Who in the guest is its root, where it has a user namespace: user and group.
    pub(super) root_user: Option<(u32, u32)>,
    /// The namespaces that are made for it.
    new: u32,
    /// Those that it joins, by their files.
    join: Vec<(u32, String)>,
    /// Whether the container's process makes the namespaces itself.
    pub(super) is_init: bool,
    pub(super) dns: Vec<String>,
    /// Where its root is in the guest.
    root: String,
    /// The file with what it has said last: in it, or, where one of the guest's is mounted there and so outlives its
    /// processes, in the guest.
    pub(super) last_words: String,
    pub(super) words_in_guest: bool,
    /// In the child that makes it: opens when its user namespace has users.
    gate: Option<Fd>,
    /// In that child: what it joins.
    joined: Vec<(u32, Fd)>,
}

/// Which namespaces a specification makes, and which it joins.
#[derive(Debug, Default, PartialEq, Eq)]
struct Namespaces<'a> {
    new: u32,
    join: Vec<(u32, &'a str)>,
}

/// The specification's names of namespaces, their flags, and their files' names in /proc/PID/ns.
const NAMES: &[u8] = words!("mount pid ipc uts cgroup network time user");
const KINDS: [u32; 8] = [
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWIPC,
    CLONE_NEWUTS,
    CLONE_NEWCGROUP,
    CLONE_NEWNET,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
];
const FILES: &str = "mnt pid ipc uts cgroup net time user";

fn namespaces(linux: Option<&Linux>) -> Result<Namespaces<'_>> {
    // A container has mounts of its own, asked for or not, unless it joins another's.
    let mut found = Namespaces { new: CLONE_NEWNS, ..Default::default() };
    let mut seen = 0;
    for LinuxNamespace { r#type, path } in linux.iter().flat_map(|linux| &linux.namespaces) {
        let kind = place(NAMES, r#type).and_then(|place| KINDS.get(place as usize).copied());
        let kind = kind.ok_or_else(|| fault!(InvalidArgument, "no namespace type `{}`", r#type))?;
        refuse_if!(seen & kind != 0, InvalidArgument, "two namespaces of type `{}`", r#type);
        seen |= kind;
        match (kind, path.is_empty()) {
            // The network is the sandbox's, as in a pod.
            (CLONE_NEWNET, true) => {}
            (_, true) => found.new |= kind,
            (_, false) => {
                found.new &= !kind;
                found.join.push((kind, path));
            }
        }
    }
    Ok(found)
}

/// The name of a namespace's file in /proc/PID/ns.
fn file_name(kind: u32) -> &'static str {
    let place = KINDS.iter().position(|known| *known == kind);
    place.and_then(|place| FILES.split(' ').nth(place)).unwrap_or_default()
}

/// Whether the container's process is to be process 1.
pub fn wants_pid1(spec: &Spec, program: Option<&String>) -> bool {
    match spec.annotations.get(PID1_ANNOTATION).map(String::as_str) {
        Some("true") => true,
        Some(_) => false,
        None => {
            let name = program.and_then(|program| program.rsplit('/').next()).unwrap_or_default();
            place(INITS, name).is_some()
        }
    }
}

impl Space {
    /// Checks the specification and makes the cgroup. A namespace's path may be `container:ID`, for the one of
    /// another container, a process of which `inhabitant` knows.
    pub fn new(
        id: &str,
        spec: &Spec,
        sandbox: &Sandbox,
        is_init: bool,
        inhabitant: impl Fn(&str) -> Option<i32>,
    ) -> Result<Space> {
        let root =
            spec.root.as_ref().ok_or_else(|| fault!(InvalidArgument, "the specification has no root"))?;
        refuse_if!(!root.path.starts_with('/'), InvalidArgument, "root path `{}` is not absolute", root.path);
        let linux = spec.linux.as_ref();
        if let Some(seccomp) = linux.and_then(|linux| linux.seccomp.as_ref()) {
            crate::spec::seccomp::filter(seccomp)?;
        }
        users::check(linux)?;
        let further = Further::parse(spec)?;
        let has_hooks = spec.hooks.as_ref().is_some_and(|hooks| *hooks != Hooks::default());
        refuse_if!(has_hooks, Unimplemented, "hooks are programs of a host; this guest runs none");
        let has_rdt = linux.is_some_and(|linux| linux.intel_rdt.is_some());
        refuse_if!(has_rdt, Unimplemented, "this guest has no cache allocation (Intel RDT)");
        let found = namespaces(linux)?;
        let is_astray = !further.time_offsets.is_empty() && found.new & CLONE_NEWTIME == 0;
        refuse_if!(is_astray, InvalidArgument, "offsets of clocks without a new time namespace");
        let mut root_user = users::root(linux);
        let mut join = Vec::new();
        for (kind, path) in found.join {
            let path = match path.strip_prefix("container:") {
                None => path.into(),
                Some(other) => {
                    let pid = inhabitant(other).ok_or_else(|| {
                        fault!(FailedPrecondition, "container {other}, to be joined, has no process")
                    })?;
                    format!("/proc/{pid}/ns/{}", file_name(kind))
                }
            };
            if kind == CLONE_NEWUSER {
                root_user = Some(users::root_of(&path)?);
            }
            join.push((kind, path));
        }
        let joined = join.iter().fold(0, |all, (kind, _)| all | kind);
        let resources = linux.and_then(|linux| linux.resources.as_ref());
        let path = linux.map_or("", |linux| linux.cgroups_path.as_str());
        let cgroup = match Cgroup::make(path, id, resources) {
            // A guest whose kernel has no cgroups runs containers without limits.
            Err(_) if resources.is_none() && stat_at(CWD, "/sys/fs/cgroup/cgroup.procs").is_err() => None,
            other => Some(other?),
        };
        let said = spec.annotations.get(LAST_WORDS_ANNOTATION).map_or("/dev/termination-log", String::as_str);
        let mounted = spec.mounts.iter().find(|mount| mount.destination == said);
        let space = Space {
            id: id.into(),
            inhabitant: None,
            cgroup,
            kinds: found.new | joined,
            root_user,
            new: found.new,
            join,
            is_init,
            dns: sandbox.dns.clone(),
            root: root.path.clone(),
            last_words: mounted.map_or(said, |mount| &mount.source).into(),
            words_in_guest: mounted.is_some(),
            gate: None,
            joined: Vec::new(),
        };
        further.cgroup.iter().try_for_each(|(file, value)| space.cgroup()?.set(file, value))?;
        Ok(space)
    }

    /// Its cgroup, for a call that needs one.
    pub(super) fn cgroup(&self) -> Result<&Cgroup> {
        self.cgroup.as_ref().ok_or_else(|| fault!(Unimplemented, "this guest has no cgroups"))
    }

    /// Whether the container has a pid namespace of its own, whose process 1 is ours to end.
    pub fn owns_pids(&self) -> bool {
        self.new & CLONE_NEWPID != 0
    }

    /// Whether its processes are in another pid namespace than the guest's.
    pub fn has_pids(&self) -> bool {
        self.kinds & CLONE_NEWPID != 0
    }

    /// Opens its root: as its processes have it with everything mounted there, or, when none of them is left, as
    /// the guest has it.
    pub(super) fn open_root(&self) -> Result<Fd> {
        let path = match &self.inhabitant {
            Some((pid, process)) => {
                let root = open(CWD, &format!("/proc/{pid}/root"), O_PATH, 0);
                // Its number is its own as long as it is not collected; before it has entered its root it has ours.
                root.ok().filter(|root| exists(process) && !is_ours(root))
            }
            None => None,
        };
        path.map_or_else(|| open(CWD, &self.root, O_PATH, 0).context("open the container's root"), Ok)
    }

    /// The number of the process that holds its namespaces, which is none of the container's own.
    pub(super) fn holder(&self) -> Option<i32> {
        self.inhabitant.as_ref().filter(|_| !self.is_init).map(|(pid, _)| *pid)
    }

    /// Forks into the namespaces that are made by the fork itself. The child goes on with [`set_up`](Self::set_up).
    pub(super) fn fork_new(&mut self, spec: &Spec) -> Result<Option<i32>> {
        if let Some((uid, gid)) = self.root_user {
            mounts::give_directory(&self.id, uid, gid)?;
        }
        // The cgroup namespace begins at the cgroup that its maker is in, so it is made after the fork.
        let flags = self.new & !CLONE_NEWCGROUP;
        let gate = if self.new & CLONE_NEWUSER != 0 { Some(pipe(0).context("make a pipe")?) } else { None };
        let further = Further::parse(spec)?;
        // Who is in another user namespace cannot open them. A path may be anything, a pipe to which nobody writes as well.
        let mut joined = Vec::new();
        for (kind, path) in &self.join {
            let namespace = open(CWD, path, O_RDONLY | O_NONBLOCK, 0);
            joined.push((*kind, namespace.context(format_args!("join the namespace {path}"))?));
        }
        let forked = if self.joins(CLONE_NEWPID | CLONE_NEWUSER) || !further.time_offsets.is_empty() {
            self.fork_ahead(flags, &joined, &further.time_offsets)
        } else {
            // SAFETY: PID 1 has one thread.
            unsafe { fork(flags, self.cgroup_directory()) }.context("fork a container")
        };
        match forked? {
            Forked::Child => {
                (self.gate, self.joined) = (gate.map(|(reader, _)| reader), joined);
                Ok(None)
            }
            Forked::Parent(pid) => {
                let end = |_: &Errno| kill(pid, SIGKILL).unwrap_or_default();
                self.inhabitant = Some((pid, process(pid).inspect_err(end).context("hold the container")?));
                if let Some((_, writer)) = gate
                    && let Err(fault) = users::map(pid, spec.linux.as_ref(), writer)
                {
                    // The gate closes unopened, and the child ends.
                    let _ = kill(pid, SIGKILL);
                    return Err(fault);
                }
                Ok(Some(pid))
            }
        }
    }

    fn joins(&self, kinds: u32) -> bool {
        self.kinds & !self.new & kinds != 0
    }

    fn cgroup_directory(&self) -> Option<&Fd> {
        self.cgroup.as_ref().map(Cgroup::directory)
    }

    /// The same where namespaces come first that PID 1 would have to leave again: a child enters them, and forks a
    /// child for PID 1.
    fn fork_ahead(&self, flags: u32, joined: &[(u32, Fd)], time_offsets: &str) -> Result<Forked> {
        let (reader, writer) = pipe(0).context("make a pipe")?;
        // SAFETY: PID 1 has one thread.
        if let Forked::Parent(_) = unsafe { fork(0, None) }.context("fork a container")? {
            drop(writer);
            let mut report = [0; REPORT_LIMIT];
            let length = read(reader.raw(), &mut report).context("hear of a container's process")?;
            return match report[..length] {
                [0, a, b, c, d] => Ok(Forked::Parent(i32::from_ne_bytes([a, b, c, d]))),
                _ => Err(Fault::decode(&report[..length])),
            };
        }
        let go = || {
            join(joined, CLONE_NEWPID)?;
            if !time_offsets.is_empty() {
                unshare(CLONE_NEWTIME)
                    .and_then(|()| write_control(CWD, "/proc/self/timens_offsets", time_offsets.as_bytes()))
                    .context("set the offsets of clocks")?;
            }
            join(joined, CLONE_NEWUSER)?;
            let flags = if time_offsets.is_empty() { flags } else { flags & !CLONE_NEWTIME };
            // SAFETY: a copy of PID 1 has one thread too. Whose the cgroup is, it still is.
            unsafe { fork(flags | CLONE_PARENT, self.cgroup_directory()) }.context("fork a container")
        };
        let report = match go() {
            Ok(Forked::Child) => return Ok(Forked::Child),
            Ok(Forked::Parent(pid)) => [&[0][..], &pid.to_ne_bytes()].concat(),
            Err(fault) => fault.encode(),
        };
        let _ = write_all(writer.raw(), &report);
        exit(0);
    }

    /// In the child: makes the container.
    pub(super) fn set_up(&self, spec: &Spec) -> Result {
        self.gate.as_ref().map_or(Ok(()), users::wait)?;
        self.root_user.map_or(Ok(()), |_| users::become_root())?;
        join(&self.joined, !(CLONE_NEWPID | CLONE_NEWUSER | CLONE_NEWNS))?;
        if self.new & CLONE_NEWCGROUP != 0 {
            unshare(CLONE_NEWCGROUP).context("make a cgroup namespace")?;
        }
        if self.new & CLONE_NEWUTS != 0 {
            if !spec.hostname.is_empty() {
                set_hostname(&spec.hostname).context("set the host name")?;
            }
            if let Some(name) = Further::parse(spec)?.domainname {
                set_domainname(name).context("set the domain name")?;
            }
        }
        if self.joins(CLONE_NEWNS) {
            spec.linux.as_ref().map_or(Ok(()), set_parameters)?;
            return join(&self.joined, CLONE_NEWNS);
        }
        umask(0);
        let prepared = mounts::prepare(&self.id, spec, &self.dns)?;
        // Nobody makes device nodes in a user namespace; the guest's own are shown there.
        let nodes = if self.root_user.is_some() { devices::hold()? } else { Vec::new() };
        let root = spec.root.as_ref().ok_or_else(|| fault!(InvalidArgument, "no root"))?;
        mounts::enter_root(&root.path)?;
        prepared.iter().try_for_each(mounts::mount)?;
        // Both ways on close what is open.
        core::mem::forget(prepared);
        devices::make(spec, &nodes)?;
        if let Some(linux) = &spec.linux {
            set_parameters(linux)?;
            mounts::make_read_only(&linux.readonly_paths)?;
            mounts::mask(&linux.masked_paths)?;
            if !linux.rootfs_propagation.is_empty() {
                mounts::set_root_propagation(&linux.rootfs_propagation)?;
            }
        }
        if root.readonly {
            mounts::make_root_read_only()?;
        }
        umask(0o022);
        Ok(())
    }
}

/// Whether a directory is the guest's own root.
fn is_ours(root: &Fd) -> bool {
    match (file::stat_at(root.raw(), ""), file::stat_at(CWD, "/")) {
        (Ok(root), Ok(ours)) => (root.st_dev, root.st_ino) == (ours.st_dev, ours.st_ino),
        _ => true,
    }
}

/// Joins those of `kinds`.
fn join(namespaces: &[(u32, Fd)], kinds: u32) -> Result {
    let mut wanted = namespaces.iter().filter(|(kind, _)| kind & kinds != 0);
    wanted.try_for_each(|(kind, namespace)| {
        enter(namespace, *kind).context(format_args!("join the {} namespace", file_name(*kind)))
    })
}

/// Writes kernel parameters of this process's namespaces.
fn set_parameters(linux: &Linux) -> Result {
    for (name, value) in linux.sysctl.iter() {
        // `net.ipv4.conf.eth0/1.x`: a slash in a name stands for a dot, as in sysctl(8).
        let exchanged = |letter| match letter {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        let path: String = name.chars().map(exchanged).collect();
        refuse_if!(path.split('/').any(|part| part == ".."), InvalidArgument, "no kernel parameter {name}");
        write_control(CWD, &format!("/proc/sys/{path}"), value.as_bytes())
            .context(format_args!("set {name} to {value}"))?;
    }
    Ok(())
}

/// The holder: sets the container up, says how that went, and stays.
pub(super) fn hold(space: &Space, spec: &Spec, report: Fd) -> ! {
    if let Err(fault) = space.set_up(spec) {
        let _ = write_all(report.raw(), &fault.encode());
        exit(1);
    }
    let is_ready = (|| {
        // Children that are gone are nobody's business; every other signal is held back, and taken below.
        ignore_children()?;
        set_blocked_signals(ALL_SIGNALS)?;
        write_all(report.raw(), &[0])
    })();
    drop(report);
    if is_ready.is_err() {
        exit(1);
    }
    close_from(0);
    loop {
        match take_signal(ALL_SIGNALS) {
            Ok(signal) if signal != SIGCHLD && space.owns_pids() => {
                let _ = kill(FIRST_PROCESS, signal);
            }
            _ => {}
        }
    }
}

/// Removes what the guest made for a container.
pub(super) fn clear(id: &str) {
    let directory = mounts::directory(id);
    for path in crate::network_files::PATHS {
        let name = path.rsplit('/').next().unwrap_or_default();
        let _ = file::unlink(CWD, &format!("{directory}/{name}"));
    }
    let _ = file::rmdir(CWD, &directory);
}

const _: () = assert!(REPORT_LIMIT <= 4096, "a report is written to a pipe in one piece");

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(kinds: &[(&str, &str)]) -> Linux {
        let namespaces = kinds
            .iter()
            .map(|(kind, path)| LinuxNamespace { r#type: (*kind).into(), path: (*path).into() })
            .collect();
        Linux { namespaces, ..Default::default() }
    }

    #[test]
    fn the_network_is_shared_and_mounts_never_are() {
        let linux = linux(&[("pid", ""), ("network", ""), ("ipc", "/proc/9/ns/ipc")]);
        let found = namespaces(Some(&linux)).unwrap();
        assert_eq!(found.new, CLONE_NEWNS | CLONE_NEWPID);
        assert_eq!(found.join, [(CLONE_NEWIPC, "/proc/9/ns/ipc")]);
        assert_eq!(namespaces(None).unwrap().new, CLONE_NEWNS);
    }

    #[test]
    fn what_is_not_supported_is_said() {
        assert!(namespaces(Some(&linux(&[("soul", "")]))).is_err());
        assert!(namespaces(Some(&linux(&[("uts", ""), ("uts", "/proc/9/ns/uts")]))).is_err());
    }

    #[test]
    fn inits_are_process_1_unless_told_otherwise() {
        let mut spec = Spec::default();
        assert!(wants_pid1(&spec, Some(&"/lib/systemd/systemd".into())));
        assert!(wants_pid1(&spec, Some(&"tini".into())));
        assert!(!wants_pid1(&spec, Some(&"/usr/bin/redis-server".into())));
        assert!(!wants_pid1(&spec, None));
        spec.annotations.insert(PID1_ANNOTATION.into(), "false".into());
        assert!(!wants_pid1(&spec, Some(&"/sbin/init".into())));
        spec.annotations.insert(PID1_ANNOTATION.into(), "true".into());
        assert!(wants_pid1(&spec, Some(&"redis-server".into())));
    }
}
