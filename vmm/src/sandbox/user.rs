//! A user of its own for each VM that root starts: one VM that breaks out is then as much a stranger to another's files and
//! processes as it is to everybody's.
//!
//! Which users are taken is told by locks on one file of the host, each on the byte at the user's number, where the file need not
//! have one: a lock lasts as long as the process.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The file that is locked, by every ferry of this host.
pub const LOCKS: &str = "/run/ferry/users";

/// User ids for VMs, each also a group's: first and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize, serde::Deserialize))]
pub struct UserRange {
    first: u32,
    last: u32,
}

impl UserRange {
    /// What root's VMs get where nobody says otherwise: ids that neither distributions nor container managers give out.
    pub const USUAL: Self = Self { first: 1_900_000_000, last: 1_900_065_535 };

    /// Reads `FIRST-LAST`. Root is none of them, nor what stands for no user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match numbers {
            Some((first @ 1.., last)) if first <= last && last < u32::MAX => Ok(Self { first, last }),
            Some(_) => Err(format!("{text}: the first is at least 1, and the last no less")),
            None => Err(format!("'{text}' is not FIRST-LAST, two user ids")),
        }
    }

    /// Whether this process can become every one of them, by what `/proc/self/uid_map` says; yes if that says nothing.
    pub fn is_mapped(self, map: &str) -> bool {
        let covers = |line: &str| {
            let mut numbers = line.split_whitespace().map(str::parse::<u64>);
            match (numbers.next(), numbers.nth(1)) {
                (Some(Ok(start)), Some(Ok(count))) => {
                    start <= self.first.into() && u64::from(self.last) < start.saturating_add(count)
                }
                _ => false,
            }
        };
        map.trim().is_empty() || map.lines().any(covers)
    }

    fn length(self) -> u32 {
        self.last - self.first + 1
    }
}

impl std::fmt::Display for UserRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A user that no other VM has, for as long as this is kept.
#[derive(Debug)]
pub struct Claim {
    /// The user's id, and its group's.
    pub id: u32,
    _lock: File,
}

/// Claims a user of `range` that no VM of this host has, by a lock on the file `locks`; none if all are taken.
pub fn claim(range: UserRange, locks: &Path) -> io::Result<Option<Claim>> {
    let lock = match open(locks) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = locks.parent().unwrap_or(Path::new("/"));
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            open(locks)?
        }
        opened => opened?,
    };
    // Beginning anywhere keeps two that start at once out of each other's way.
    let begin = std::process::id() % range.length();
    for step in 0..range.length() {
        let id = range.first + ((u64::from(begin) + u64::from(step)) % u64::from(range.length())) as u32;
        // SAFETY: an all-zero structure is a valid one.
        let mut wanted: libc::flock = unsafe { std::mem::zeroed() };
        wanted.l_type = libc::F_WRLCK as libc::c_short;
        wanted.l_whence = libc::SEEK_SET as libc::c_short;
        (wanted.l_start, wanted.l_len) = (id.into(), 1);
        // SAFETY: the structure is complete, and the descriptor open.
        if unsafe { libc::fcntl(lock.as_raw_fd(), libc::F_OFD_SETLK, &wanted) } == 0 {
            return Ok(Some(Claim { id, _lock: lock }));
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) {
            return Err(error);
        }
    }
    Ok(None)
}

/// Opens the file of the locks, and makes it where it is not yet.
fn open(locks: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(locks)
}

/// Becomes this user, for good, in its group alone. This process has one thread.
pub(super) fn become_user(id: u32) -> io::Result<()> {
    let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: an empty list is read nowhere; the others take numbers.
    unsafe {
        done(libc::setgroups(0, std::ptr::null()))?;
        done(libc::setresgid(id, id, id))?;
        done(libc::setresuid(id, id, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_two_ids_of_which_none_is_root() {
        let range = UserRange::parse("100000-165535").unwrap();
        assert_eq!((range.length(), range.to_string().as_str()), (65536, "100000-165535"));
        assert_eq!(UserRange::parse("7-7").unwrap().length(), 1);
        for text in ["", "7", "0-10", "9-8", "1-4294967295", "a-b", "-1-2", "1-2-3", "1-99999999999"] {
            assert!(UserRange::parse(text).is_err(), "{text}");
        }
        assert_eq!(UserRange::parse(&UserRange::USUAL.to_string()), Ok(UserRange::USUAL));
    }

    #[test]
    fn a_range_may_lie_outside_of_a_user_namespace() {
        let whole = "         0          0 4294967295\n";
        let part = "         0     100000      65536\n";
        assert!(UserRange::USUAL.is_mapped(whole) && UserRange::USUAL.is_mapped(""));
        assert!(!UserRange::USUAL.is_mapped(part));
        assert!(UserRange::parse("1000-65535").unwrap().is_mapped(part));
        assert!(!UserRange::parse("1000-65536").unwrap().is_mapped(part));
    }

    #[test]
    fn no_two_have_the_same_user_and_one_that_ends_gives_it_back() {
        let place = tempfile::tempdir().unwrap();
        let locks = place.path().join("run/users");
        let range = UserRange::parse("1000-1002").unwrap();
        let mut claims: Vec<_> = (0..3).map(|_| claim(range, &locks).unwrap().unwrap()).collect();
        let mut ids: Vec<_> = claims.iter().map(|claim| claim.id).collect();
        ids.sort();
        assert_eq!(ids, [1000, 1001, 1002]);
        assert!(claim(range, &locks).unwrap().is_none());
        let freed = claims.remove(1).id;
        assert_eq!(claim(range, &locks).unwrap().unwrap().id, freed);
    }
}
