//! User namespaces: which users and groups of the guest a container's are.

use crate::api::oci::{Linux, LinuxIdMapping};
use crate::prelude::*;
use crate::sys::file::{CWD, read, read_file, write_all, write_control};
use crate::sys::process::{set_gid, set_groups, set_uid};

/// Most ranges that the kernel takes, and a limit for what it says of them, in bytes.
const RANGES: usize = 340;
const MAP_LIMIT: usize = 64 * RANGES;

/// Checks the mappings; they are there if there is a new user namespace, and have the container's root.
pub fn check(linux: Option<&Linux>) -> Result {
    let Some(linux) = linux else { return Ok(()) };
    let has_users = linux.namespaces.iter().any(|one| one.r#type == "user" && one.path.is_empty());
    for (what, mappings) in [("uid", &linux.uid_mappings), ("gid", &linux.gid_mappings)] {
        let has_root = mappings.iter().any(|mapping| mapping.container_id == 0 && mapping.size > 0);
        let is_bad = has_users && (!has_root || mappings.len() > RANGES);
        refuse_if!(is_bad, InvalidArgument, "a user namespace: 1 to {RANGES} {what} mappings, one of id 0");
        let is_needless = !has_users && !mappings.is_empty();
        refuse_if!(is_needless, InvalidArgument, "{what} mappings without a new user namespace");
    }
    Ok(())
}

/// Lines of uid_map and gid_map: first id inside, first id outside, how many.
fn lines(mappings: &[LinuxIdMapping]) -> String {
    let mut text = String::new();
    for LinuxIdMapping { host_id, container_id, size } in mappings {
        text.push_str(&format!("{container_id} {host_id} {size}\n"));
    }
    text
}

/// Who in the guest is the root of a container with a user namespace of its own: user and group.
pub fn root(linux: Option<&Linux>) -> Option<(u32, u32)> {
    let of = |mappings: &[LinuxIdMapping]| Some(mappings.iter().find(|one| one.container_id == 0)?.host_id);
    let linux = linux?;
    of(&linux.uid_mappings).zip(of(&linux.gid_mappings))
}

/// Who is the root of a user namespace that is joined: its maps lie beside its file.
pub fn root_of(path: &str) -> Result<(u32, u32)> {
    let process = path.strip_suffix("/ns/user");
    let process = process.ok_or_else(|| {
        fault!(InvalidArgument, "a user namespace is joined by /proc/PID/ns/user, not {path}")
    })?;
    let root = |file| {
        let path = format!("{process}/{file}");
        let map = read_file(CWD, &path, MAP_LIMIT).context(format_args!("read {path}"))?;
        mapped_root(&String::from_utf8_lossy(&map)).ok_or_else(|| {
            fault!(FailedPrecondition, "the user namespace to be joined has no root in {path}")
        })
    };
    Ok((root("uid_map")?, root("gid_map")?))
}

/// Which id of the guest a map's lines (see [`lines`]) have for id 0.
fn mapped_root(map: &str) -> Option<u32> {
    let outside = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("0")).then(|| words.next()?.parse().ok()).flatten()
    };
    map.lines().find_map(outside)
}

/// Gives the namespace of a child its users and groups, and opens its gate.
pub fn map(pid: i32, linux: Option<&Linux>, gate: Fd) -> Result {
    let Some(linux) = linux else { return Ok(()) };
    for (file, mappings) in [("uid_map", &linux.uid_mappings), ("gid_map", &linux.gid_mappings)] {
        write_control(CWD, &format!("/proc/{pid}/{file}"), lines(mappings).as_bytes())
            .context(format_args!("write {file}"))?;
    }
    write_all(gate.raw(), &[1]).context("start the container")
}

/// In the child: waits at the gate.
pub fn wait(gate: &Fd) -> Result {
    match read(gate.raw(), &mut [0]) {
        Ok(1) => Ok(()),
        Ok(_) => Err(fault!(Internal, "no users were mapped")),
        Err(errno) => Err(Fault::system(&"wait for the mapping of users", errno)),
    }
}

/// Who comes into a user namespace is nobody there, and can make no file.
pub fn become_root() -> Result {
    let result: Result<(), Errno> = set_groups(&[]).and_then(|()| set_gid(0)).and_then(|()| set_uid(0));
    result.context("become root in the user namespace")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::oci::LinuxNamespace;

    #[test]
    fn mappings_belong_to_a_user_namespace_and_have_its_root() {
        let mapping = |container_id| vec![LinuxIdMapping { host_id: 1000, container_id, size: 10 }];
        let user = vec![LinuxNamespace { r#type: "user".into(), path: String::new() }];
        let linux = |namespaces: &[LinuxNamespace], uids: Vec<_>, gids: Vec<_>| Linux {
            namespaces: namespaces.to_vec(),
            uid_mappings: uids,
            gid_mappings: gids,
            ..Default::default()
        };
        assert_eq!(check(Some(&linux(&user, mapping(0), mapping(0)))), Ok(()));
        assert_eq!(check(Some(&linux(&[], vec![], vec![]))), Ok(()));
        for bad in [
            linux(&user, mapping(1), mapping(0)),
            linux(&user, mapping(0), vec![]),
            linux(&[], mapping(0), vec![]),
            linux(&user, vec![mapping(0).remove(0); 341], mapping(0)),
        ] {
            assert!(check(Some(&bad)).is_err());
        }
    }

    #[test]
    fn the_root_of_a_map_is_found_wherever_its_line_is() {
        let map = "       1000       1000          1\n         0     100000      65536\n";
        assert_eq!(mapped_root(map), Some(100_000));
        assert_eq!(mapped_root("1 100000 65536\n"), None);
        assert_eq!(mapped_root("0\n0 x 1\n"), None);
        assert_eq!(root_of("/proc/9/ns/mnt").unwrap_err().code, crate::api::ttrpc::Code::InvalidArgument);
    }

    #[test]
    fn a_line_says_inside_outside_and_how_many() {
        let mapping = LinuxIdMapping { host_id: 100_000, container_id: 0, size: 65_536 };
        assert_eq!(lines(&[mapping.clone(), mapping]), "0 100000 65536\n0 100000 65536\n");
    }
}
