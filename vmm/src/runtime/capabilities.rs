//! The capabilities a container's process gets: Docker's default set, all of them when privileged, and `--cap-add` and
//! `--cap-drop` on top (`ALL` in either; names with or without `CAP_`, in either case).

use thiserror::Error;

/// Docker's default set.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability of Linux 6.12, in the order of `linux/capability.h`.
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A name that is no capability.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "'{0}' is not a capability: capabilities(7) lists them, for example NET_ADMIN; ALL stands for every one"
)]
pub struct UnknownCapability(String);

/// The capability set of a process.
pub fn capabilities(
    privileged: bool,
    add: &[String],
    drop: &[String],
) -> Result<Vec<String>, UnknownCapability> {
    let add = names(add)?;
    let drop = names(drop)?;
    let wanted = |name: &&str| {
        if add.contains(name) {
            return true;
        }
        let by_default =
            privileged || add.contains(&"ALL") || (DEFAULT.contains(name) && !drop.contains(&"ALL"));
        by_default && !drop.contains(name)
    };
    Ok(ALL.iter().copied().filter(wanted).map(str::to_owned).collect())
}

fn names(given: &[String]) -> Result<Vec<&'static str>, UnknownCapability> {
    given
        .iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            if upper == "ALL" {
                return Ok("ALL");
            }
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            let known = ALL.iter().find(|known| known.strip_prefix("CAP_") == Some(bare));
            known.copied().ok_or_else(|| UnknownCapability(name.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn sorted(mut names: Vec<String>) -> Vec<String> {
        names.sort();
        names
    }

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(sorted(capabilities(false, &[], &[]).unwrap()), sorted(list(&DEFAULT)));
    }

    #[test]
    fn privileged_has_every_one() {
        assert_eq!(capabilities(true, &[], &[]).unwrap().len(), ALL.len());
    }

    #[test]
    fn adds_and_drops_by_any_spelling() {
        let set =
            capabilities(false, &list(&["net_admin", "CAP_SYS_TIME"]), &list(&["Cap_Net_Raw"])).unwrap();
        assert!(set.contains(&"CAP_NET_ADMIN".into()) && set.contains(&"CAP_SYS_TIME".into()));
        assert!(!set.contains(&"CAP_NET_RAW".into()));
        assert_eq!(set.len(), DEFAULT.len() + 1);
    }

    #[test]
    fn all_may_be_dropped_and_some_kept() {
        assert_eq!(capabilities(false, &list(&["KILL"]), &list(&["ALL"])).unwrap(), list(&["CAP_KILL"]));
        let most = capabilities(false, &list(&["ALL"]), &list(&["SYS_ADMIN"])).unwrap();
        assert_eq!(most.len(), ALL.len() - 1);
    }

    #[test]
    fn names_an_unknown_one() {
        assert_eq!(capabilities(false, &list(&["FLY"]), &[]), Err(UnknownCapability("FLY".into())));
    }
}
