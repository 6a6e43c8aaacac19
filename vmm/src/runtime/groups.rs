//! Groups by their names, as `--group-add` takes them. The guest's agent is given numbers, as an OCI runtime is: the names are
//! looked up in the image's `/etc/group` before there is a guest.

use super::run::Ready;
use ferry_images::source::contents::Contents;

/// The most bytes of an `/etc/group` that is read.
const LONGEST: u64 = 4 << 20;

/// The longest name: more than any group database takes.
const LONGEST_NAME: usize = 255;

/// A value of `--group-add`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// A number, which need not be in the image.
    Id(u32),
    /// A name, which has to be.
    Name(String),
}

/// Reads the value of `--group-add`: a group's number or name.
pub fn parse_group(text: &str) -> Result<Group, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // The last number is none: it asks the kernel to change nothing.
        let id = text.parse().ok().filter(|id| *id != u32::MAX);
        return id.map(Group::Id).ok_or_else(|| format!("{text} is more than a group's number can be"));
    }
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || ":,".contains(c);
    if text.is_empty() || text.len() > LONGEST_NAME || text.contains(is_odd) {
        return Err("it is a group's number, or its name in the image".to_owned());
    }
    Ok(Group::Name(text.to_owned()))
}

/// The numbers of these groups of the image.
pub(super) fn numbers(groups: &[Group], image: &Ready) -> Result<Vec<u32>, String> {
    if groups.iter().all(|group| matches!(group, Group::Id(_))) {
        return look_up(groups, b"");
    }
    let file = Contents::open(&image.segments).and_then(|contents| {
        let found = contents.find(b"/etc/group").map(|id| contents.tree().node(id));
        found.map(|node| contents.read(&node, LONGEST)).transpose()
    });
    let file =
        file.map_err(|error| format!("--group-add: the image's /etc/group cannot be read: {error}"))?;
    look_up(groups, &file.unwrap_or_default())
}

/// The same by a file of groups, in which lines that make no sense are passed over.
fn look_up(groups: &[Group], file: &[u8]) -> Result<Vec<u32>, String> {
    let number = |group: &Group| match group {
        Group::Id(id) => Ok(*id),
        Group::Name(name) => {
            let mut lines = file.split(|byte| *byte == b'\n');
            lines.find_map(|line| id_in(line, name)).ok_or_else(|| {
                format!(
                    "--group-add: there is no group {name} in the image's /etc/group: give its number, or add it there"
                )
            })
        }
    };
    groups.iter().map(number).collect()
}

/// The number in a line (`NAME:PASSWORD:NUMBER:MEMBERS`), if that is the group's.
fn id_in(line: &[u8], wanted: &str) -> Option<u32> {
    let mut fields = line.strip_suffix(b"\r").unwrap_or(line).split(|byte| *byte == b':');
    let (name, id) = (fields.next()?, fields.nth(1)?);
    if name != wanted.as_bytes() || !id.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(id).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_numbers_or_names_of_the_image() {
        let file =
            b"root:x:0:\nbroken\nvideo:x:y:\nvideo::44:me,you\r\nvideo:x:45:\nlast:x:4294967295:\n\xff:x:1:\nend:x:7";
        let groups = |texts: &[&str]| texts.iter().map(|text| parse_group(text).unwrap()).collect::<Vec<_>>();
        assert_eq!(look_up(&groups(&["33", "video", "end", "root"]), file), Ok(vec![33, 44, 7, 0]));
        for name in ["vide", "last", "broken", "me", "+5", "-1"] {
            let error = look_up(&groups(&[name]), file).unwrap_err();
            assert!(error.contains(&format!("no group {name} in the image")), "{error}");
        }
        for text in ["", "a:b", "a b", "a,b", "a\n", "a\0", "4294967295", "99999999999", &"x".repeat(256)] {
            assert!(parse_group(text).is_err(), "{text}");
        }
    }
}
