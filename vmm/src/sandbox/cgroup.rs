//! A cgroup of its own for each VM that root starts, below the one that ferry is in: so the VM is accounted for, limited
//! with its parent, and its threads cannot multiply. Hierarchies of version 1 and 2 (the kernel's cgroup-v1 and cgroup-v2
//! documents), each where it is mounted.
//!
//! The VM's process [enters](enter) it; whoever started that process [removes](remove) it afterwards.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The directory in ferry's own cgroup that holds those of its VMs.
const PARENT: &str = "ferry";
/// The controllers of version 1 whose hierarchies are used.
const CONTROLLERS: [&str; 3] = ["pids", "memory", "cpu"];
/// How long a group that is about to be empty is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Enters a cgroup of its own in every hierarchy that lets it, with at most `tasks` processes and threads. Returns how many
/// those are.
pub fn enter(tasks: u32) -> usize {
    let places = places();
    places.iter().filter(|place| enter_in(place, std::process::id(), tasks).is_ok()).count()
}

/// Removes the cgroups of the process `pid`, which has ended. What it has left running in them is killed, where the system
/// knows how to.
pub fn remove(pid: u32) {
    for place in places() {
        let group = group(&place, pid);
        if group.exists() {
            let _ = fs::write(group.join("cgroup.kill"), "1");
            remove_in_time(&group);
        }
    }
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

fn enter_in(place: &Path, pid: u32, tasks: u32) -> io::Result<()> {
    let parent = place.join(PARENT);
    fs::create_dir_all(&parent)?;
    // In version 2, what the parent has it passes on only if told; in version 1 there is no such file.
    let subtree = parent.join("cgroup.subtree_control");
    if subtree.exists() {
        for controller in CONTROLLERS {
            let _ = fs::write(&subtree, format!("+{controller}"));
        }
    }
    sweep(&parent);
    let group = group(place, pid);
    let mut result = Ok(());
    // One that was made just now may have been taken for a forgotten one.
    for _ in 0..3 {
        if !group.exists() {
            fs::create_dir(&group)?;
        }
        let most = group.join("pids.max");
        if most.exists() {
            let _ = fs::write(most, tasks.to_string());
        }
        result = fs::write(group.join("cgroup.procs"), "0");
        if !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    if result.is_err() {
        let _ = fs::remove_dir(&group);
    }
    result
}

/// Removes groups that a killed ferry has left: only what is empty can be removed.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("vm-") {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The directories of this process's own cgroups.
fn places() -> Vec<PathBuf> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    own_groups(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
}

/// The directories of the cgroups that a `/proc/PID/cgroup` names, by the mounts that a `/proc/PID/mountinfo` lists.
fn own_groups(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::parse).collect();
    let mut places = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let has = |name: &str| names.split(',').any(|own| own == name);
        let mount = match number {
            "0" => mounts.iter().find(|mount| mount.kind == "cgroup2"),
            _ => CONTROLLERS.iter().find(|name| has(name)).and_then(|name| {
                mounts
                    .iter()
                    .find(|mount| mount.kind == "cgroup" && mount.options.split(',').any(|own| own == *name))
            }),
        };
        if let Some(place) = mount.and_then(|mount| mount.directory_of(path)) {
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

    /// Enters a group and tells which it is in; in a process of its own.
    #[test]
    #[ignore = "run by the other test"]
    fn part() {
        if std::env::var_os("FERRY_CGROUP_PART").is_none() {
            return;
        }
        println!("entered: {}", enter(300));
        let place = places().into_iter().next().unwrap();
        println!("in {}", place.display());
        println!("most {}", fs::read_to_string(place.join("pids.max")).unwrap_or_default());
    }

    #[test]
    fn a_process_has_a_group_of_its_own_until_it_ends() {
        // SAFETY: takes nothing.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: only root's VMs have cgroups");
            return;
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sandbox::cgroup::tests::part", "--ignored", "--nocapture"])
            .env("FERRY_CGROUP_PART", "1")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        if !text.contains("entered: ") || text.contains("entered: 0") {
            println!("skipped: this host has no cgroups for root: {text}");
            return;
        }
        assert!(text.contains(&format!("/{PARENT}/vm-{pid}")), "{text}");
        let groups: Vec<_> =
            places().iter().map(|place| group(place, pid)).filter(|group| group.exists()).collect();
        assert!(!groups.is_empty());
        remove(pid);
        assert!(groups.iter().all(|group| !group.exists()));
    }
}
