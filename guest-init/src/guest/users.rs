//! User namespaces: which users and groups of the guest a container's are.

use crate::api::oci::{Linux, LinuxIdMapping};
use crate::prelude::*;
use crate::sys::file::{CWD, read, write_all, write_control};
use crate::sys::process::{set_gid, set_groups, set_uid};

/// Most ranges that the kernel takes.
const RANGES: usize = 340;

/// Checks the mappings; they are there if there is a user namespace, and have the container's root.
pub fn check(linux: Option<&Linux>) -> Result {
    let Some(linux) = linux else { return Ok(()) };
    let has_users = linux.namespaces.iter().any(|namespace| namespace.r#type == "user");
    for (what, mappings) in [("uid", &linux.uid_mappings), ("gid", &linux.gid_mappings)] {
        let has_root = mappings.iter().any(|mapping| mapping.container_id == 0 && mapping.size > 0);
        let is_bad = has_users && (!has_root || mappings.len() > RANGES);
        refuse_if!(is_bad, InvalidArgument, "a user namespace: 1 to {RANGES} {what} mappings, one of id 0");
        let is_needless = !has_users && !mappings.is_empty();
        refuse_if!(is_needless, InvalidArgument, "{what} mappings without a user namespace");
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

/// Who in the guest is the root of a container with a user namespace: user and group.
pub fn root(linux: Option<&Linux>) -> Option<(u32, u32)> {
    let of = |mappings: &[LinuxIdMapping]| Some(mappings.iter().find(|one| one.container_id == 0)?.host_id);
    let linux = linux?;
    of(&linux.uid_mappings).zip(of(&linux.gid_mappings))
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

/// In the child: waits at the gate, then becomes the namespace's root.
pub fn wait(gate: &Fd) -> Result {
    match read(gate.raw(), &mut [0]) {
        Ok(1) => become_root(),
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
    fn a_line_says_inside_outside_and_how_many() {
        let mapping = LinuxIdMapping { host_id: 100_000, container_id: 0, size: 65_536 };
        assert_eq!(lines(&[mapping.clone(), mapping]), "0 100000 65536\n0 100000 65536\n");
    }
}
