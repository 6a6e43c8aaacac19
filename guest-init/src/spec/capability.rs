//! Capability names (capabilities(7)).

use super::words::{place, words};
use crate::api::oci::LinuxCapabilities;
use crate::prelude::*;

/// Names without their `CAP_`, capability N at place N.
const NAMES: &[u8] = words!(
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
     NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT \
     SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE \
     AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ \
     PERFMON BPF CHECKPOINT_RESTORE"
);

/// How many capabilities there are.
pub const COUNT: u32 = 41;

/// A process's five sets, capability N at bit N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// See [`LinuxCapabilities`].
    pub bounding: u64,
    /// See [`LinuxCapabilities`].
    pub effective: u64,
    /// See [`LinuxCapabilities`].
    pub inheritable: u64,
    /// See [`LinuxCapabilities`].
    pub permitted: u64,
    /// See [`LinuxCapabilities`].
    pub ambient: u64,
}

impl Sets {
    /// From names; one that Linux does not have is refused.
    pub fn parse(names: &LinuxCapabilities) -> Result<Sets> {
        let bounding = bits(&names.bounding)?;
        // Most sets are the same.
        let of = |set: &Vec<String>| if *set == names.bounding { Ok(bounding) } else { bits(set) };
        Ok(Sets {
            bounding,
            effective: of(&names.effective)?,
            inheritable: of(&names.inheritable)?,
            permitted: of(&names.permitted)?,
            ambient: of(&names.ambient)?,
        })
    }
}

fn bits(names: &[String]) -> Result<u64> {
    names.iter().try_fold(0, |bits, name| {
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        place(NAMES, bare)
            .map(|number| bits | 1 << number)
            .ok_or_else(|| fault!(InvalidArgument, "unknown capability {name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        // Numbers of include/uapi/linux/capability.h.
        for (name, number) in [("CAP_CHOWN", 0), ("CAP_SETFCAP", 31), ("CAP_MAC_OVERRIDE", 32), ("BPF", 39)] {
            assert_eq!(bits(&[name.into()]), Ok(1 << number));
        }
        assert_eq!(bits(&["CAP_CHECKPOINT_RESTORE".into()]), Ok(1 << (COUNT - 1)));
    }

    #[test]
    fn unknown_names_are_refused() {
        let names = LinuxCapabilities { ambient: vec!["CAP_FLY".into()], ..Default::default() };
        assert!(Sets::parse(&names).unwrap_err().message.contains("CAP_FLY"));
    }
}
