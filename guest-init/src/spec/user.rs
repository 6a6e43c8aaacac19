//! Whom a process runs as: an image's user string looked up in the container's passwd and group files.
//!
//! The string is Docker's `USER`: `user`, `user:group`, each a name or a number. A number need not be in the
//! files; a name must be. Both files come from the image, so lines that make no sense are skipped. The group
//! itself is among the supplementary ones, as Docker has it: without that a program could shed a group that
//! some file's permissions exclude.

use crate::prelude::*;

/// Most supplementary groups that Linux gives a process (NGROUPS_MAX), less the group itself.
const MAX_GROUPS: usize = 65535;

/// Whom a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    /// Home directory, if passwd has one.
    pub home: Option<String>,
}

/// A line of passwd or group: the name, the number, and the two fields behind it.
struct Entry<'a> {
    name: &'a [u8],
    id: u32,
    /// A user's group, or a group's members.
    next: &'a [u8],
    home: &'a [u8],
}

fn number(text: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(text).ok()?;
    // `+1` is no number here, and 2^32-1 means "leave as it is" to the kernel.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&number| number != u32::MAX)
}

fn entries(file: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    file.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.strip_suffix(b"\r").unwrap_or(line).split(|&byte| byte == b':');
        let (name, _password, id) = (fields.next()?, fields.next()?, number(fields.next()?)?);
        let (next, home) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        (!name.is_empty()).then_some(Entry { name, id, next, home })
    })
}

/// The users of passwd, and the groups that they are in.
fn users(passwd: &[u8]) -> impl Iterator<Item = (Entry<'_>, u32)> {
    entries(passwd).filter_map(|entry| number(entry.next).map(|gid| (entry, gid)))
}

fn unknown(kind: &str, name: &str) -> Fault {
    // Docker answers 125 for a user that is not there, so this is not the NOT_FOUND of an executable.
    fault!(InvalidArgument, "unable to find {kind} {name}: no such entry in the image")
}

/// Looks up a user string. Supplementary groups come from group's member lists, unless the string names a
/// group of its own.
pub fn look_up(user: &str, passwd: &[u8], group: &[u8]) -> Result<Identity> {
    let (user, own_group) = user.split_once(':').unwrap_or((user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let as_number = number(user.as_bytes());
    // A name goes first, even one of digits, as in Docker.
    let entry = users(passwd)
        .find(|(entry, _)| entry.name == user.as_bytes())
        .or_else(|| users(passwd).find(|(entry, _)| Some(entry.id) == as_number));
    let mut identity = match (&entry, as_number) {
        (Some((entry, gid)), _) => {
            Identity { uid: entry.id, gid: *gid, groups: Vec::new(), home: home(entry) }
        }
        (None, Some(uid)) => Identity { uid, ..Default::default() },
        (None, None) => return Err(unknown("user", user)),
    };
    if !own_group.is_empty() {
        identity.gid = group_id(own_group, group)?;
    } else if let Some((entry, _)) = &entry {
        let has_user =
            |group: &Entry<'_>| group.next.split(|&byte| byte == b',').any(|name| name == entry.name);
        for group in entries(group).filter(has_user).take(MAX_GROUPS) {
            insert(&mut identity.groups, group.id);
        }
    }
    insert(&mut identity.groups, identity.gid);
    Ok(identity)
}

/// The number of a group given by name or number.
pub fn group_id(name: &str, group: &[u8]) -> Result<u32> {
    entries(group)
        .find(|entry| entry.name == name.as_bytes())
        .map(|entry| entry.id)
        .or_else(|| number(name.as_bytes()))
        .ok_or_else(|| unknown("group", name))
}

/// The home directory of a user id, if passwd has it.
pub fn home_of(uid: u32, passwd: &[u8]) -> Option<String> {
    users(passwd).find(|(entry, _)| entry.id == uid).and_then(|(entry, _)| home(&entry))
}

fn home(entry: &Entry<'_>) -> Option<String> {
    let home = core::str::from_utf8(entry.home).ok()?;
    (!home.is_empty()).then(|| home.into())
}

fn insert(groups: &mut Vec<u32>, gid: u32) {
    if let Err(at) = groups.binary_search(&gid) {
        groups.insert(at, gid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        redis:x:999:998:Redis:/data:/bin/false\r\n\
        broken line\nhalf:x:\n:x:5:5::/:\n\
        1234:x:77:78::/digits:\nnohome:x:6:6:::";
    const GROUP: &[u8] =
        b"root:x:0:\nredis:x:998:\nwheel:x:10:root,redis\nadm:x:4:redis\nwheel2:x:10:redis\nbad:x:y:redis";

    #[test]
    fn name_brings_its_groups_and_home() {
        let found = look_up("redis", PASSWD, GROUP).unwrap();
        assert_eq!(
            found,
            Identity { uid: 999, gid: 998, groups: vec![4, 10, 998], home: Some("/data".into()) }
        );
    }

    #[test]
    fn number_without_passwd_is_that_number_in_group_0() {
        let found = look_up("1000", b"", b"").unwrap();
        assert_eq!(found, Identity { uid: 1000, groups: vec![0], ..Default::default() });
        assert_eq!(look_up("1000:1001", b"", b"").unwrap().gid, 1001);
    }

    #[test]
    fn number_in_passwd_is_that_user() {
        let found = look_up("999", PASSWD, GROUP).unwrap();
        assert_eq!((found.gid, found.groups), (998, vec![4, 10, 998]));
    }

    #[test]
    fn a_user_whose_name_is_digits_goes_before_the_number() {
        assert_eq!(look_up("1234", PASSWD, GROUP).unwrap().uid, 77);
    }

    #[test]
    fn a_group_of_its_own_replaces_the_memberships() {
        let found = look_up("redis:wheel", PASSWD, GROUP).unwrap();
        assert_eq!((found.uid, found.gid, found.groups), (999, 10, vec![10]));
        assert_eq!(look_up(":4", PASSWD, GROUP).unwrap().gid, 4);
    }

    #[test]
    fn empty_is_root_and_missing_names_are_faults() {
        assert_eq!(look_up("", PASSWD, GROUP).unwrap().uid, 0);
        assert_eq!(look_up("", b"", b"").unwrap(), Identity { groups: vec![0], ..Default::default() });
        assert!(look_up("nobody", PASSWD, GROUP).unwrap_err().message.contains("user nobody"));
        assert!(look_up("root:nogroup", PASSWD, GROUP).unwrap_err().message.contains("group nogroup"));
        assert!(look_up("4294967295", b"", b"").is_err());
        assert!(look_up("+5", b"", b"").is_err());
    }

    #[test]
    fn empty_home_is_none() {
        assert_eq!(look_up("nohome", PASSWD, GROUP).unwrap().home, None);
        assert_eq!(home_of(999, PASSWD).as_deref(), Some("/data"));
        assert_eq!(home_of(1, PASSWD), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(user in ".{0,20}", passwd in proptest::collection::vec(any::<u8>(), 0..400),
                                  group in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = look_up(&user, &passwd, &group);
        }

        #[test]
        fn a_written_entry_is_found(name in "[a-z_][a-z0-9_-]{0,30}", uid in 0..u32::MAX, gid in 0..u32::MAX) {
            let passwd = format!("root:x:0:0::/:\n{name}x:x:1:1::/:\n{name}:x:{uid}:{gid}:,,,:/home/{name}:/bin/sh\n");
            prop_assume!(name != "root");
            let found = look_up(&name, passwd.as_bytes(), b"").unwrap();
            prop_assert_eq!((found.uid, found.gid, found.home), (uid, gid, Some(format!("/home/{name}"))));
        }
    }
}
