//! Who owns a file, as the guest sees it and as the host has it.
//!
//! A helper that runs as root gives files to whoever the guest says. One that runs as an ordinary user cannot: there, that
//! user's files are root's in the guest, and whoever else the guest gives a file to is remembered in an extended attribute of
//! the file. The guest's kernel judges by what it is shown; the host goes on judging by what it has. Symbolic links and file
//! systems without extended attributes remember nothing: what is on them stays root's.

use super::nodes::{DIRECTORY, KIND, REGULAR};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Stat, Uid, XattrFlags, chownat, fstat, getxattr, open, removexattr, setxattr,
};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// What the extended attributes of ferry begin with. The guest sees none of them.
pub(super) const OWN_XATTRS: &[u8] = b"user.ferry.";
/// Where an owner is remembered: `UID:GID`.
const OWNER: &str = "user.ferry.owner";
/// Whom files of ids that have no meaning in the guest belong to: Linux's overflow id.
const NOBODY: u32 = 65534;

/// An open place as a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links(&'static str);

impl Links {
    /// Paths by the proc file system at its usual place.
    pub const ABSOLUTE: Self = Self("/proc/self/fd/");
    /// Paths relative to the working directory, which is the proc file system's directory of this process's descriptors.
    pub const HERE: Self = Self("");

    /// The path of what a descriptor stands for, whatever has become of its name.
    pub fn path(self, fd: &impl AsFd) -> String {
        format!("{}{}", self.0, fd.as_fd().as_raw_fd())
    }
}

/// How ids of the guest and of the host belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owners {
    /// They are the same.
    Same,
    /// This user and group of the host are the guest's root.
    Own {
        /// The user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

impl Owners {
    /// As it is for this process.
    pub fn of_this_process() -> Self {
        match (rustix::process::geteuid(), rustix::process::getegid()) {
            (uid, _) if uid.is_root() => Self::Same,
            (uid, gid) => Self::Own { uid: uid.as_raw(), gid: gid.as_raw() },
        }
    }

    /// The owner that the guest is shown.
    pub fn shown(self, links: Links, fd: &impl AsFd, stat: &Stat) -> (u32, u32) {
        match self {
            Self::Same => (stat.st_uid, stat.st_gid),
            Self::Own { uid, gid } => remembered(links, fd, stat)
                .unwrap_or((in_guest(stat.st_uid, uid), in_guest(stat.st_gid, gid))),
        }
    }

    /// Gives a file to an owner of the guest's.
    pub fn give(
        self,
        links: Links,
        fd: &impl AsFd,
        stat: &Stat,
        user: Option<u32>,
        group: Option<u32>,
    ) -> Result<(), Errno> {
        if user.or(group).is_none() {
            return Ok(());
        }
        let Self::Own { .. } = self else {
            if user == Some(u32::MAX) || group == Some(u32::MAX) {
                return Err(Errno::INVAL);
            }
            let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
            return chownat(fd, "", user, group, AtFlags::EMPTY_PATH);
        };
        let (old_user, old_group) = self.shown(links, fd, stat);
        let owner = (user.unwrap_or(old_user), group.unwrap_or(old_group));
        if owner == (old_user, old_group) {
            return Ok(());
        }
        let path = links.path(fd);
        if owner == (0, 0) {
            return match removexattr(path.as_str(), OWNER) {
                Err(Errno::NODATA) => Err(Errno::PERM),
                result => result,
            };
        }
        let text = format!("{}:{}", owner.0, owner.1);
        match setxattr(path.as_str(), OWNER, text.as_bytes(), XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => Err(Errno::PERM),
            result => result,
        }
    }
}

/// Gives what is at `path` to an owner of guests, as one of them would; it is not followed if it is a symbolic link. Where an
/// owner cannot be remembered it stays root's, to guests.
pub fn give_to(path: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    let fd = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let (stat, owners) = (fstat(&fd)?, Owners::of_this_process());
    let remembers = matches!(stat.st_mode & KIND, DIRECTORY | REGULAR);
    if !remembers && owners != Owners::Same {
        return Ok(());
    }
    match owners.give(Links::ABSOLUTE, &fd, &stat, Some(uid), Some(gid)) {
        Err(Errno::PERM) if owners != Owners::Same => Ok(()),
        other => Ok(other?),
    }
}

fn in_guest(id: u32, own: u32) -> u32 {
    match id {
        id if id == own => 0,
        0 => NOBODY,
        id => id,
    }
}

fn remembered(links: Links, fd: &impl AsFd, stat: &Stat) -> Option<(u32, u32)> {
    if !matches!(stat.st_mode & KIND, DIRECTORY | REGULAR) {
        return None;
    }
    let mut text = [0u8; 32];
    let length = getxattr(links.path(fd).as_str(), OWNER, &mut text[..]).ok()?;
    let (uid, gid) = std::str::from_utf8(text.get(..length)?).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_users_files_are_roots_and_other_owners_are_remembered() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = file.as_file();
        let stat = fstat(file).unwrap();
        let owners = Owners::Own { uid: stat.st_uid, gid: stat.st_gid };
        let give = |user, group| owners.give(Links::ABSOLUTE, file, &stat, user, group);
        let shown = || owners.shown(Links::ABSOLUTE, file, &stat);
        assert_eq!(shown(), (0, 0));
        if give(Some(999), None) == Err(Errno::PERM) {
            println!("skipped: no extended attributes here");
            return;
        }
        assert_eq!(shown(), (999, 0));
        give(None, Some(50)).unwrap();
        assert_eq!(shown(), (999, 50));
        give(None, None).unwrap();
        give(Some(0), Some(0)).unwrap();
        assert_eq!(shown(), (0, 0));
        let (now, name) = (fstat(file).unwrap(), Links::ABSOLUTE.path(file));
        assert_eq!((now.st_uid, now.st_gid), (stat.st_uid, stat.st_gid), "the host's owner has not changed");
        setxattr(name.as_str(), OWNER, b"no owner", XattrFlags::empty()).unwrap();
        assert_eq!(shown(), (0, 0), "nonsense is not believed");
    }

    #[test]
    fn the_hosts_root_is_nobody_to_a_guest_of_an_ordinary_user() {
        assert_eq!((in_guest(1000, 1000), in_guest(0, 1000), in_guest(33, 1000)), (0, NOBODY, 33));
    }
}
