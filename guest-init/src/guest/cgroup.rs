//! A container's cgroup (cgroup v2, mounted on /sys/fs/cgroup).

use core::cell::RefCell;

use crate::agent::Frozen;
use crate::api::oci::{LinuxDeviceCgroup, LinuxResources};
use crate::prelude::*;
use crate::spec::cgroup::{path, set_limits};
use crate::spec::device_filter;
use crate::sys::file::*;
use crate::sys::{bpf, file};

const ROOT: &str = "/sys/fs/cgroup";

/// Controllers that every container has. Each costs its start some time, so the others come when a limit wants them.
const USUAL: &str = "cpu io memory pids";

/// Most bytes of one file read.
const PROCS_LIMIT: usize = 1 << 20;

/// How far down cgroups are looked at, and how many files and cgroups in one.
const DEPTH_LIMIT: usize = 16;
const LIST_LIMIT: usize = 4096;

/// A cgroup made for a container.
pub struct Cgroup {
    directory: Fd,
    path: String,
    /// The program that decides about devices, once there were rules about them.
    devices: RefCell<Option<Fd>>,
}

impl Cgroup {
    /// Makes the cgroup and sets its limits.
    pub fn make(cgroups_path: &str, name: &str, resources: Option<&LinuxResources>) -> Result<Cgroup> {
        let parts = path(cgroups_path, name)
            .ok_or_else(|| fault!(InvalidArgument, "cgroup path {cgroups_path} leaves the hierarchy"))?;
        let mut at = String::from(ROOT);
        for part in parts {
            enable(&at, USUAL).context(format_args!("enable controllers in {at}"))?;
            at = format!("{at}/{part}");
            file::ensure_dir(CWD, &at, 0o755).context(format_args!("make cgroup {at}"))?;
        }
        let directory =
            open(CWD, &at, O_RDONLY | O_DIRECTORY, 0).context(format_args!("open cgroup {at}"))?;
        let cgroup = Cgroup { directory, path: at, devices: RefCell::new(None) };
        if let Some(resources) = resources {
            cgroup.update(resources)?;
        }
        Ok(cgroup)
    }

    /// Its directory, for a fork into it.
    pub fn directory(&self) -> &Fd {
        &self.directory
    }

    /// Sets limits.
    pub fn update(&self, resources: &LinuxResources) -> Result {
        set_limits(resources, &mut |file, value| self.set(file, value))?;
        self.restrict_devices(&resources.devices)
    }

    /// Writes one of its files.
    pub fn set(&self, name: &str, value: &str) -> Result {
        refuse_if!(name.contains('/'), InvalidArgument, "`{name}` is no file of a cgroup");
        self.write(name, value)
            .or_else(|errno| match errno {
                Errno::ENOENT => {
                    self.enable(name.split('.').next().unwrap_or_default())?;
                    self.write(name, value)
                }
                errno => Err(errno),
            })
            .context(format_args!("set {name} to {value}"))
    }

    fn write(&self, name: &str, value: &str) -> SysResult<()> {
        write_control(self.directory.raw(), name, value.as_bytes())
    }

    /// Gives it a controller, which those above it must have to pass on.
    fn enable(&self, controller: &str) -> SysResult<()> {
        let ends = self.path.match_indices('/').map(|(end, _)| end).filter(|end| *end >= ROOT.len());
        for above in ends.filter_map(|end| self.path.get(..end)) {
            enable(above, controller)?;
        }
        Ok(())
    }

    fn restrict_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result {
        let Some(program) = device_filter::program(rules)? else { return Ok(()) };
        let mut devices = self.devices.borrow_mut();
        let new = bpf::load_device_filter(&program).context("restrict devices")?;
        bpf::attach_device_filter(&self.directory, &new, devices.as_ref()).context("restrict devices")?;
        *devices = Some(new);
        Ok(())
    }

    /// Kills every process in it.
    pub fn kill(&self) -> Result {
        self.write("cgroup.kill", "1").context("kill the cgroup")
    }

    /// Stops or resumes every process in it.
    pub fn freeze(&self, frozen: Frozen) -> Result {
        let value = if frozen == Frozen::Yes { "1" } else { "0" };
        self.write("cgroup.freeze", value).context("freeze the cgroup")
    }

    /// One of its files, empty when it is not there.
    pub fn read(&self, name: &str) -> Vec<u8> {
        read_file(self.directory.raw(), name, PROCS_LIMIT).unwrap_or_default()
    }

    /// The processes in it, and in those that they have made below it.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        collect_processes(&self.directory, DEPTH_LIMIT, &mut pids).context("list the cgroup's processes")?;
        Ok(pids)
    }
}

impl Drop for Cgroup {
    /// Removes it; one in which something still ends is left.
    fn drop(&mut self) {
        let _ = rmdir(CWD, &self.path);
    }
}

fn collect_processes(directory: &Fd, depth: usize, pids: &mut Vec<i32>) -> SysResult<()> {
    match read_file(directory.raw(), "cgroup.procs", PROCS_LIMIT) {
        // A cgroup of threads: its processes are listed above it.
        Err(Errno::EOPNOTSUPP) => {}
        text => pids.extend(numbers(&text?)),
    }
    let below = open(directory.raw(), ".", O_RDONLY | O_DIRECTORY, 0)?;
    // Their names are the container's to choose, and need not be text.
    let mut names: Vec<Vec<u8>> = Vec::new();
    while names.len() <= LIST_LIMIT && entries(below.raw(), |name, _| names.push(name.into()))? {}
    for name in names {
        // What cannot be opened is a file, or was removed meanwhile.
        let Ok(child) = open_inside(directory.raw(), &name, O_RDONLY | O_DIRECTORY, 0) else { continue };
        let depth = depth.checked_sub(1).ok_or(Errno::ELOOP)?;
        collect_processes(&child, depth, pids).despite(Errno::ENODEV).despite(Errno::ENOENT)?;
    }
    Ok(())
}

fn numbers(text: &[u8]) -> Vec<i32> {
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| core::str::from_utf8(line).ok()?.parse().ok())
        .filter(|&pid| pid > 1)
        .collect()
}

/// Lets children of a cgroup use those of these controllers that it has itself.
fn enable(directory: &str, wanted: &str) -> SysResult<()> {
    let file = format!("{directory}/cgroup.subtree_control");
    let write = |words: &str| write_control(CWD, &file, format!("+{}", words.replace(' ', " +")).as_bytes());
    match write(wanted) {
        // Nearly every kernel has all that is wanted, and takes once more what it was told before. Else one by one.
        Err(Errno::EINVAL | Errno::ENOENT) => {
            wanted.split(' ').try_for_each(|word| write(word).despite(Errno::EINVAL).despite(Errno::ENOENT))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_in_a_process_list_is_skipped() {
        // 0 is a process outside the reader's namespace; 1 is ourselves; neither may be signalled by mistake.
        assert_eq!(numbers(b"0\n12\n1\n-5\nx\n\n34"), [12, 34]);
    }
}
