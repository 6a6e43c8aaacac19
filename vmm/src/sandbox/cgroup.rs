//! A cgroup of its own for each VM that root starts, below the one that ferry is in, or the nearest above that can hold it to its
//! memory: so the VM is accounted for, limited with its parent, and its threads cannot multiply. Hierarchies of version 1 and 2 (the kernel's cgroup-v1 and cgroup-v2
//! documents), each where it is mounted.
//!
//! Whoever starts the VM's process has it [enter](Places::enter), and [removes](Places::remove) the cgroup afterwards.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The directory in ferry's own cgroup that holds those of its VMs.
const PARENT: &str = "ferry";
/// The controllers of version 1 whose hierarchies are used.
const CONTROLLERS: [&str; 3] = ["pids", "memory", "cpu"];
/// Where a group's limit of memory is written, in version 2 and 1, and where it says that it was met.
const MEMORY_LIMITS: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];
const MEMORY_EVENTS: [&str; 2] = ["memory.events", "memory.oom_control"];
/// Where ferry's own processes go in a group of version 2 that was delegated to them: controllers are passed on by groups
/// without processes alone.
const OWN: &str = "ferry-host";
/// How long a group that is about to be empty is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a VM is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most processes and threads.
    pub tasks: u32,
    /// The most memory of the host in bytes, what the kernel keeps for it included.
    pub memory: Option<u64>,
}

/// What has come of entering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// In how many hierarchies there is a group now.
    pub groups: usize,
    /// Whether one of them holds the process to its memory.
    pub holds_memory: bool,
}

/// The cgroups below which those of VMs are: the directories of the group that ferry itself is in, one a hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(Vec<PathBuf>);

impl Places {
    /// This process's own.
    pub fn own() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mut places = own_groups(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        // Next to the room that was made for ferry's own processes, and not in it.
        for place in &mut places {
            if place.ends_with(OWN) {
                place.pop();
            }
        }
        Self(places)
    }

    /// Has the process `pid`, this one or a child of it, enter a cgroup of its own in every hierarchy that lets it.
    pub fn enter(&self, pid: u32, limits: Limits) -> Entered {
        enter_below(&self.0, pid, limits)
    }

    /// Whether the kernel has killed something in the groups of the process `pid` because they had no more memory.
    pub fn ran_out_of_memory(&self, pid: u32) -> bool {
        self.groups(pid).iter().any(|group| {
            MEMORY_EVENTS.iter().any(|name| {
                let text = fs::read_to_string(group.join(name)).unwrap_or_default();
                kills(&text) > 0
            })
        })
    }

    /// Removes the cgroups of the process `pid`, which has ended. What it has left running in them is killed, where the system
    /// knows how to. Groups that a killed ferry has left go with them.
    pub fn remove(&self, pid: u32) {
        for group in self.groups(pid) {
            if group.exists() {
                let _ = tell(&group.join("cgroup.kill"), "1");
                remove_in_time(&group);
                group.parent().into_iter().for_each(sweep);
            }
        }
    }

    /// The groups that the process `pid` may have entered.
    fn groups(&self, pid: u32) -> Vec<PathBuf> {
        let all = self.0.iter().flat_map(|place| std::iter::once(place.as_path()).chain(above(place)));
        all.map(|place| group(place, pid)).collect()
    }
}

/// Enters the cgroups of the process `pid` below these.
fn enter_below(places: &[PathBuf], pid: u32, limits: Limits) -> Entered {
    let mut entered = Entered::default();
    for place in places {
        if let Ok(holds_memory) = enter_in(place, pid, limits) {
            entered.groups += 1;
            entered.holds_memory |= holds_memory;
        }
    }
    // A group of version 2 with processes of others cannot pass the controller on, as that of a login. One above it can.
    if limits.memory.is_some() && !entered.holds_memory {
        let mut above = places.iter().flat_map(|place| above(place));
        entered.holds_memory = above.any(|place| enter_in(place, pid, limits).is_ok_and(|holds| holds));
    }
    entered
}

/// The groups above one of version 2, the nearest first; none of one of version 1, where every group can have every controller.
fn above(place: &Path) -> impl Iterator<Item = &Path> {
    let is_group = |place: &&Path| place.join("cgroup.controllers").exists();
    place.ancestors().take_while(is_group).skip(1)
}

/// How often it has, by what a group says of its memory.
fn kills(events: &str) -> u64 {
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    events.lines().find_map(count).unwrap_or(0)
}

fn group(place: &Path, pid: u32) -> PathBuf {
    place.join(PARENT).join(format!("vm-{pid}"))
}

fn remove_in_time(group: &Path) {
    let until = Instant::now() + PATIENCE;
    while fs::remove_dir(group).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
        && Instant::now() < until
    {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether it holds the process to its memory there.
fn enter_in(place: &Path, pid: u32, limits: Limits) -> io::Result<bool> {
    if limits.memory.is_some() {
        pass_memory_on(place);
    }
    let group = group(place, pid);
    let (mut result, mut holds_memory) = (Ok(()), false);
    // One that was made just now may have been taken for a forgotten one.
    for _ in 0..3 {
        make(place, &group)?;
        hold(place, &group, "pids", "pids.max", limits.tasks.into());
        if let Some(memory) = limits.memory {
            let held = |file| hold(place, &group, "memory", file, memory);
            holds_memory = MEMORY_LIMITS.into_iter().any(held);
        }
        result = tell(&group.join("cgroup.procs"), &pid.to_string());
        if !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    if result.is_err() {
        let _ = fs::remove_dir(&group);
    }
    result.map(|()| holds_memory)
}

/// Makes a group, and where it is the first of its kind there the one that holds them all. What is there already is not looked
/// at, since this is a part of each VM's start.
fn make(place: &Path, group: &Path) -> io::Result<()> {
    let made = || match fs::create_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    };
    match made() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let parent = place.join(PARENT);
    fs::create_dir_all(&parent)?;
    for controller in CONTROLLERS {
        let _ = pass_on(&parent, controller);
    }
    made()
}

/// Writes a limit to a group's file, which a hierarchy without the controller does not have. In version 2 the group that holds all
/// VMs' may not have passed the controller on yet.
fn hold(place: &Path, group: &Path, controller: &str, file: &str, limit: u64) -> bool {
    let told = || tell(&group.join(file), &limit.to_string()).is_ok();
    told() || pass_on(&place.join(PARENT), controller).is_ok() && told()
}

/// Has a group of version 2 give its children a controller; in version 1 there is no such file.
fn pass_on(group: &Path, controller: &str) -> io::Result<()> {
    tell(&group.join("cgroup.subtree_control"), &format!("+{controller}"))
}

/// Writes to a file of a group, which is there or is none of this group's: it is not made.
fn tell(file: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

/// Has a group of version 2 give its children the memory controller. One that was delegated to ferry, and has no processes but
/// ferry's, is emptied for that.
fn pass_memory_on(place: &Path) {
    if !pass_on(place, "memory").is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) {
        return;
    }
    let text = fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
    if text.is_empty() {
        return;
    }
    let program =
        |pid: &str| fs::metadata(format!("/proc/{pid}/exe")).map(|file| (file.dev(), file.ino())).ok();
    let own = program("self");
    if own.is_none() || text.lines().any(|pid| program(pid) != own) {
        return;
    }
    let room = place.join(OWN);
    if fs::create_dir_all(&room).is_ok() {
        for pid in text.lines() {
            // One that has ended meanwhile is out of the way as well.
            let _ = fs::write(room.join("cgroup.procs"), pid);
        }
        let _ = pass_on(place, "memory");
    }
}

/// Removes groups that a killed ferry has left: only what is empty can be removed.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("vm-") {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The directories of the cgroups that a `/proc/PID/cgroup` names, by the mounts that a `/proc/PID/mountinfo` lists. Where all
/// controllers are version 1's, the hierarchy of version 2 has nothing to hold a VM with, and is left out.
fn own_groups(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::parse).collect();
    let (mut places, mut old) = (Vec::new(), 0);
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let has = |name: &str| names.split(',').any(|own| own == name);
        let mount = match number {
            "0" if old == CONTROLLERS.len() => None,
            "0" => mounts.iter().find(|mount| mount.kind == "cgroup2"),
            _ => CONTROLLERS.iter().find(|name| has(name)).and_then(|name| {
                mounts
                    .iter()
                    .find(|mount| mount.kind == "cgroup" && mount.options.split(',').any(|own| own == *name))
            }),
        };
        if let Some(place) = mount.and_then(|mount| mount.directory_of(path)) {
            // The line of version 2 is the last one.
            old += CONTROLLERS.iter().filter(|name| has(name)).count();
            places.push(place);
        }
    }
    places
}

/// A line of mountinfo (proc(5)).
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut system = system.split(' ');
        Some(Self {
            root: mount.next()?,
            point: mount.next()?,
            kind: system.next()?,
            options: system.nth(1)?,
        })
    }

    /// Where the group at `path` of the hierarchy is, if this mount shows it.
    fn directory_of(&self, path: &str) -> Option<PathBuf> {
        let inside = if self.root == "/" { path } else { path.strip_prefix(self.root)? };
        // A group outside of this process's cgroup namespace.
        if inside.split('/').any(|part| part == "..") {
            return None;
        }
        Some(Path::new(self.point).join(inside.trim_start_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "31 25 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                       32 31 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                       33 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                       34 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                       35 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";

    #[test]
    fn finds_its_own_groups_in_both_versions() {
        let groups = "9:cpuset:/\n5:memory:/a/b\n4:cpu,cpuacct:/\n1:name=systemd:/x\n0::/init.scope\n";
        let found = own_groups(groups, OLD);
        let wanted = ["memory/a/b", "cpu,cpuacct/", "unified/init.scope"];
        assert_eq!(found, wanted.map(|path| Path::new("/sys/fs/cgroup").join(path)));
        let new = "29 22 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let all = format!("{OLD}36 31 0:32 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n");
        let found = own_groups(&format!("6:pids:/\n{groups}"), &all);
        let wanted = ["pids/", "memory/a/b", "cpu,cpuacct/"];
        assert_eq!(found, wanted.map(|path| Path::new("/sys/fs/cgroup").join(path)));
        let session = "0::/user.slice/user-0.slice/session-1.scope\n";
        let found = own_groups(session, new);
        assert_eq!(found, [Path::new("/sys/fs/cgroup/user.slice/user-0.slice/session-1.scope")]);
    }

    #[test]
    fn groups_that_no_mount_shows_are_left_alone() {
        assert!(own_groups("0::/../outside\n", OLD).is_empty());
        assert!(own_groups("", "").is_empty());
        let part = "33 31 0:29 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(own_groups("5:memory:/docker/1/x\n", part), [Path::new("/sys/fs/cgroup/memory/x")]);
        assert!(own_groups("5:memory:/docker/2\n", part).is_empty());
        assert!(own_groups("nonsense\n0:\n", "nonsense\n1 2 3 - a\n").is_empty());
    }

    /// In a tree of plain files: what is written where, of which the kernel keeps what it can.
    #[test]
    fn a_group_of_version_2_gets_its_controllers_and_its_limits() {
        let tree = tempfile::tempdir().unwrap();
        let (place, own) = (tree.path(), group(tree.path(), 7));
        fs::create_dir_all(&own).unwrap();
        let passed_on = [place, &place.join(PARENT)].map(|group| group.join("cgroup.subtree_control"));
        let [tasks, memory, processes] =
            ["pids.max", "memory.max", "cgroup.procs"].map(|name| own.join(name));
        for file in passed_on.iter().chain([&tasks, &memory, &processes]) {
            fs::write(file, "").unwrap();
        }
        let limits = Limits { tasks: 9, memory: Some(1 << 20) };
        assert!(enter_in(place, 7, limits).unwrap());
        let read = |file| fs::read_to_string(file).unwrap();
        assert_eq!((read(&passed_on[0]).as_str(), read(&passed_on[1]).as_str()), ("+memory", ""));
        assert_eq!([read(&tasks), read(&memory), read(&processes)], ["9", "1048576", "7"]);
        // Without that controller nobody says that it holds.
        fs::remove_file(&memory).unwrap();
        assert!(!enter_in(place, 7, limits).unwrap());
        assert_eq!(read(&passed_on[1]), "+memory", "it is asked for");
        // One without a limit may be where nothing is passed on.
        fs::write(&passed_on[0], "").unwrap();
        assert!(!enter_in(place, 7, Limits { tasks: 9, memory: None }).unwrap());
        assert_eq!(read(&passed_on[0]), "");
        // The first one of a place, which cannot be entered here, since plain files do not come with a directory.
        assert!(enter_in(place, 8, limits).is_err());
        assert!(!group(place, 8).exists());
        fs::remove_dir_all(place.join(PARENT)).unwrap();
        assert!(enter_in(place, 8, limits).is_err());
        assert!(place.join(PARENT).is_dir());
    }

    #[test]
    fn what_a_login_cannot_pass_on_a_group_above_it_does() {
        let tree = tempfile::tempdir().unwrap();
        let [slice, login] = ["slice", "slice/login"].map(|name| tree.path().join(name));
        let [below_slice, below_login] = [&slice, &login].map(|place| group(place, 7));
        for group in [&below_slice, &below_login] {
            fs::create_dir_all(group).unwrap();
        }
        for place in [&slice, &login] {
            fs::write(place.join("cgroup.controllers"), "memory pids").unwrap();
        }
        for group in [&below_slice, &below_login] {
            fs::write(group.join("cgroup.procs"), "").unwrap();
        }
        let limits = Limits { tasks: 9, memory: Some(1 << 20) };
        assert!(!enter_below(std::slice::from_ref(&login), 7, limits).holds_memory, "nobody has it");
        fs::write(below_slice.join("memory.max"), "").unwrap();
        let without = Limits { memory: None, ..limits };
        assert!(!enter_below(std::slice::from_ref(&login), 7, without).holds_memory, "nobody asked for it");
        assert_eq!(fs::read_to_string(below_slice.join("memory.max")).unwrap(), "");
        assert!(enter_below(std::slice::from_ref(&login), 7, limits).holds_memory);
        assert_eq!(fs::read_to_string(below_slice.join("memory.max")).unwrap(), "1048576");
        // Above the slice there are no groups any more.
        assert_eq!(above(&login).collect::<Vec<_>>(), [&slice]);
        assert!(!tree.path().join(PARENT).exists());
    }

    /// Enters a group and tells which it is in; in a process of its own.
    #[test]
    #[ignore = "run by the other test"]
    fn part() {
        if std::env::var_os("FERRY_CGROUP_PART").is_none() {
            return;
        }
        let memory = std::env::var("FERRY_CGROUP_MEMORY").ok().map(|bytes| bytes.parse().unwrap());
        let places = Places::own();
        let entered = places.enter(std::process::id(), Limits { tasks: 300, memory });
        println!("entered: {}", entered.groups);
        println!("memory: {}", entered.holds_memory);
        let place = Places::own().0.into_iter().next().unwrap();
        println!("in {}", place.display());
        if let Some(bytes) = memory {
            std::hint::black_box(vec![1u8; 2 * bytes as usize]);
            println!("took more than there is");
        }
        println!("most {}", fs::read_to_string(place.join("pids.max")).unwrap_or_default());
    }

    #[test]
    fn kills_are_read_in_both_versions() {
        assert_eq!(kills("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(kills(""), 0);
        assert_eq!(kills("oom_kill many\n"), 0);
    }

    #[test]
    fn a_process_that_takes_more_memory_than_it_is_held_to_is_killed() {
        // SAFETY: takes nothing.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: only root has cgroups for certain");
            return;
        }
        let (pid, output) = part_with(&[("FERRY_CGROUP_MEMORY", "67108864")]);
        let text = String::from_utf8_lossy(&output.stdout);
        let places = Places::own();
        let killed = places.ran_out_of_memory(pid);
        places.remove(pid);
        if !text.contains("memory: true") {
            println!("skipped: this host has no memory controller for root: {text}");
            return;
        }
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&output.status),
            Some(libc::SIGKILL),
            "{text}"
        );
        assert!(killed && !text.contains("took more"), "{text}");
        assert!(!places.ran_out_of_memory(pid));
    }

    /// Runs the part in a process of its own, to its end.
    fn part_with(environment: &[(&str, &str)]) -> (u32, std::process::Output) {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sandbox::cgroup::tests::part", "--ignored", "--nocapture"])
            .env("FERRY_CGROUP_PART", "1")
            .envs(environment.iter().copied())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        (child.id(), child.wait_with_output().unwrap())
    }

    #[test]
    fn a_process_has_a_group_of_its_own_until_it_ends() {
        // SAFETY: takes nothing.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: only root's VMs have cgroups");
            return;
        }
        let (pid, output) = part_with(&[]);
        let text = String::from_utf8_lossy(&output.stdout);
        if !text.contains("entered: ") || text.contains("entered: 0") {
            println!("skipped: this host has no cgroups for root: {text}");
            return;
        }
        assert!(text.contains(&format!("/{PARENT}/vm-{pid}")), "{text}");
        let places = Places::own();
        let groups: Vec<_> = places.groups(pid).into_iter().filter(|group| group.exists()).collect();
        assert!(!groups.is_empty());
        places.remove(pid);
        assert!(groups.iter().all(|group| !group.exists()));
    }
}
