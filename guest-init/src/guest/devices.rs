//! The device nodes and links that every container has, and those that its specification adds.

use super::inside::{Kind, reach, reach_parent};
use super::storage::Disks;
use crate::api::agent::Device;
use crate::api::oci::{LinuxDevice, Spec};
use crate::prelude::*;
use crate::sys::file;
use crate::sys::file::{CWD, S_IFBLK, S_IFCHR, S_IFIFO, chown, mknod, symlink};
use crate::sys::mount::{Recursion, attach, clone_tree};

/// Nodes that the OCI specification wants in every container: name, major, minor.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links: target, name.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Gives nodes of a specification, and the rules for them, the numbers that devices of the guest have. What is not there
/// yet, if something is not: then nothing has changed.
pub fn pass(passed: &[Device], spec: &mut Spec, disks: &mut Disks) -> Result<Option<String>> {
    let Some(linux) = &mut spec.linux else { return Ok(None) };
    // Which node, the numbers that it had, and those that it gets.
    let mut found = Vec::new();
    for Device { vm_path, container_path, .. } in passed.iter().filter(|one| !one.container_path.is_empty()) {
        let Some(path) = disks.find(vm_path)? else { return Ok(Some(vm_path.clone())) };
        let (major, minor) = file::device_numbers(file::stat_at(CWD, &path).context(path)?.st_rdev);
        let Some(at) = linux.devices.iter().position(|node| node.path == *container_path) else {
            return Err(fault!(InvalidArgument, "the specification has no device {container_path}"));
        };
        let node = &linux.devices[at];
        found.push((at, (node.major, node.minor), (major.into(), minor.into())));
    }
    for (at, _, numbers) in &found {
        (linux.devices[*at].major, linux.devices[*at].minor) = *numbers;
    }
    // A rule is for the numbers that its device had where the specification comes from.
    for rule in linux.resources.iter_mut().flat_map(|resources| &mut resources.devices) {
        let had = (rule.major, rule.minor);
        for (at, old, numbers) in &found {
            if *old == had && linux.devices[*at].r#type == rule.r#type {
                (rule.major, rule.minor) = *numbers;
            }
        }
    }
    Ok(None)
}

/// Takes hold of the guest's own nodes, to be shown in a container.
pub fn hold() -> Result<Vec<Fd>> {
    let node = |(name, ..): &(&str, u32, u32)| clone_tree(CWD, &format!("/dev/{name}"), Recursion::One);
    NODES.iter().map(node).collect::<Result<_, _>>().context("hold device nodes")
}

/// Fills /dev of the root that this process is in. A /dev that was bound from elsewhere is left as it is, and
/// one that cannot be written (a read-only root without a tmpfs there) has what the image has.
/// `held` are the nodes to be shown there where none can be made, in the order of [`hold`].
pub fn make(spec: &Spec, held: &[Fd]) -> Result {
    let is_bound = |mount: &crate::api::oci::Mount| {
        mount.destination.trim_end_matches('/') == "/dev"
            && (mount.r#type == "bind"
                || mount.options.iter().any(|option| option == "bind" || option == "rbind"))
    };
    if spec.mounts.iter().any(is_bound) {
        return Ok(());
    }
    let dev = match reach(CWD, "/dev", Kind::Directory, 0o755) {
        Err(Errno::EROFS) => return Ok(()),
        other => other.context("make /dev")?,
    };
    for (at, (name, major, minor)) in NODES.into_iter().enumerate() {
        let made = match held.get(at) {
            Some(node) => {
                reach(dev.raw(), name, Kind::File, 0o666).and_then(|file| attach(node, file.raw(), ""))
            }
            None => {
                mknod(dev.raw(), name, S_IFCHR | 0o666, file::device(major, minor)).despite(Errno::EEXIST)
            }
        };
        match made {
            Err(Errno::EROFS) => return Ok(()),
            other => other.context(format_args!("make /dev/{name}"))?,
        }
    }
    for (target, name) in LINKS {
        symlink(target.as_bytes(), dev.raw(), name).despite(Errno::EEXIST).context("link in /dev")?;
    }
    spec.linux.iter().flat_map(|linux| &linux.devices).try_for_each(make_one)
}

fn make_one(device: &LinuxDevice) -> Result {
    let kind = match device.r#type.as_str() {
        "c" | "u" => S_IFCHR,
        "b" => S_IFBLK,
        "p" => S_IFIFO,
        other => return Err(fault!(InvalidArgument, "device {}: no type `{other}`", device.path)),
    };
    let number = |number: i64| {
        u32::try_from(number).map_err(|_| fault!(InvalidArgument, "a device number is negative"))
    };
    let node = if kind == S_IFIFO { 0 } else { file::device(number(device.major)?, number(device.minor)?) };
    let mode = if device.file_mode == 0 { 0o666 } else { device.file_mode & 0o7777 };
    (|| {
        let (parent, name) = reach_parent(CWD, &device.path, 0o755)?;
        match mknod(parent.raw(), name, kind | mode, node) {
            // The default nodes and those of an image's own /dev give way.
            Err(Errno::EEXIST) => {
                file::unlink(parent.raw(), name)?;
                mknod(parent.raw(), name, kind | mode, node)?;
            }
            other => other?,
        }
        if (device.uid, device.gid) != (0, 0) {
            chown(parent.raw(), name, device.uid, device.gid)?;
        }
        Ok(())
    })()
    .context(format_args!("make device {}", device.path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::oci::{Linux, LinuxDeviceCgroup, LinuxResources};

    fn node(path: &str, major: i64, minor: i64) -> LinuxDevice {
        LinuxDevice { path: path.into(), r#type: "c".into(), major, minor, ..Default::default() }
    }

    fn rule(kind: &str, major: i64, minor: i64) -> LinuxDeviceCgroup {
        LinuxDeviceCgroup { r#type: kind.into(), major, minor, ..Default::default() }
    }

    fn passed(vm_path: &str, container_path: &str) -> Device {
        Device { vm_path: vm_path.into(), container_path: container_path.into(), ..Default::default() }
    }

    #[test]
    fn passed_devices_have_the_guest_s_numbers_and_so_have_their_rules() {
        // The numbers of the second are those that the first gets.
        let devices = vec![node("/dev/a", 9, 9), node("/dev/b", 1, 3), node("/dev/c", 9, 8)];
        let rules = vec![rule("c", 1, 3), rule("c", 9, 9), rule("b", 9, 9), rule("a", -1, -1)];
        let resources = Some(LinuxResources { devices: rules, ..Default::default() });
        let mut spec =
            Spec { linux: Some(Linux { devices, resources, ..Default::default() }), ..Default::default() };
        let before = spec.clone();
        let mut disks = Disks::default();
        let missing = [passed("/dev/null", "/dev/a"), passed("/dev/no-such-device", "/dev/b")];
        assert_eq!(pass(&missing, &mut spec, &mut disks), Ok(Some("/dev/no-such-device".into())));
        assert!(pass(&[passed("/dev/null", "/dev/x")], &mut spec, &mut disks).is_err());
        assert_eq!(spec, before);
        let all = [passed("/dev/null", "/dev/a"), passed("/dev/zero", "/dev/b"), passed("/dev/full", "")];
        assert_eq!(pass(&all, &mut spec, &mut disks), Ok(None));
        let linux = spec.linux.unwrap();
        let numbers = |node: &LinuxDevice| (node.major, node.minor);
        assert_eq!(linux.devices.iter().map(numbers).collect::<Vec<_>>(), [(1, 3), (1, 5), (9, 8)]);
        let rules = linux.resources.unwrap().devices;
        assert_eq!(rules, [rule("c", 1, 5), rule("c", 1, 3), rule("b", 9, 9), rule("a", -1, -1)]);
    }
}
