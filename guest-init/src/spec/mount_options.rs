//! Mount options: mount(8)'s words, sorted into what the kernel wants to know separately.

use super::words::{place, words};
use crate::prelude::*;
use crate::sys::mount as m;

/// What a list of options says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Attributes to set (`MOUNT_ATTR_*`).
    pub set: u32,
    /// Attributes to clear.
    pub clear: u32,
    /// Attributes of the whole tree to set (`rro` and the like).
    pub set_tree: u32,
    /// Attributes of the whole tree to clear.
    pub clear_tree: u32,
    /// Flags of the filesystem itself (`MS_SYNCHRONOUS`, `MS_DIRSYNC`, `MS_LAZYTIME`).
    pub superblock: u32,
    /// Propagation (`MS_PRIVATE`, …), 0 when nothing is said.
    pub propagation: u32,
    /// Whether the propagation is for the whole tree.
    pub propagate_tree: bool,
    /// What a bind mount takes along; `None` when none is asked for.
    pub bind: Option<m::Recursion>,
    /// Options of the filesystem, in order: `NAME` or `NAME=VALUE` each.
    pub data: Vec<String>,
}

/// The words: those that set an attribute and those that clear it, in the attributes' order; propagations; `bind`; those about
/// the filesystem itself; and those that say what is so anyway, or what mount(8) keeps for itself.
const WORDS: &[u8] = words!(
    "ro nosuid nodev noexec nodiratime nosymfollow noatime strictatime relatime rw suid dev exec diratime symfollow \
     atime nostrictatime norelatime private shared slave unbindable bind sync dirsync lazytime defaults async \
     nolazytime silent loud remount mand nomand iversion noiversion"
);
const CLEARING: u32 = 9;
const PROPAGATION: u32 = 18;
const BIND: u32 = 22;
const OF_FILESYSTEM: u32 = 23;
const IGNORED: u32 = 26;

/// The attributes; those of the three ways to keep access times come last.
const ATTRIBUTES: [(u32, u32); 9] = [
    (m::MOUNT_ATTR_RDONLY, m::MS_RDONLY),
    (m::MOUNT_ATTR_NOSUID, m::MS_NOSUID),
    (m::MOUNT_ATTR_NODEV, m::MS_NODEV),
    (m::MOUNT_ATTR_NOEXEC, m::MS_NOEXEC),
    (m::MOUNT_ATTR_NODIRATIME, m::MS_NODIRATIME),
    (m::MOUNT_ATTR_NOSYMFOLLOW, m::MS_NOSYMFOLLOW),
    (m::MOUNT_ATTR_NOATIME, m::MS_NOATIME),
    (m::MOUNT_ATTR_STRICTATIME, m::MS_STRICTATIME),
    (m::MOUNT_ATTR_RELATIME, m::MS_RELATIME),
];

/// Words about the filesystem itself, and what they set.
pub const FILESYSTEM: [(&str, u32); 3] =
    [("sync", m::MS_SYNCHRONOUS), ("dirsync", m::MS_DIRSYNC), ("lazytime", m::MS_LAZYTIME)];

const PROPAGATION_FLAGS: [u32; 4] = [m::MS_PRIVATE, m::MS_SHARED, m::MS_SLAVE, m::MS_UNBINDABLE];

/// The ways to keep access times are one field: setting one takes another back, and clearing one clears the field.
fn field_of(bits: u32) -> u32 {
    if bits & !m::MOUNT_ATTR__ATIME == 0 { m::MOUNT_ATTR__ATIME } else { bits }
}

impl Options {
    /// Sorts a list of options; a word that is none of the known ones belongs to the filesystem.
    pub fn parse(options: &[String]) -> Options {
        let mut parsed = Options::default();
        for word in options.iter().flat_map(|option| option.split(',')).filter(|word| !word.is_empty()) {
            parsed.take(word);
        }
        parsed
    }

    fn take(&mut self, word: &str) {
        // A word with a value is the filesystem's, as most are.
        if word.bytes().any(|byte| byte == b'=') {
            return self.data.push(word.into());
        }
        // `r` before a word means the whole tree; some words begin with it.
        let (at, tree) = match (place(WORDS, word), word.strip_prefix('r')) {
            (None, Some(rest)) => (place(WORDS, rest), true),
            (at, _) => (at, false),
        };
        let (set, clear) = match tree {
            true => (&mut self.set_tree, &mut self.clear_tree),
            false => (&mut self.set, &mut self.clear),
        };
        match (at, tree) {
            (Some(at @ ..PROPAGATION), _) => {
                let (bits, _) = ATTRIBUTES[(at % CLEARING) as usize];
                let field = field_of(bits);
                (*set, *clear) = match at {
                    ..CLEARING => (*set & !field | bits, *clear & !bits | field & m::MOUNT_ATTR__ATIME),
                    _ => (*set & !field, *clear | field),
                };
            }
            (Some(at @ PROPAGATION..BIND), _) => {
                self.propagation = PROPAGATION_FLAGS[(at - PROPAGATION) as usize];
                self.propagate_tree |= tree;
            }
            (Some(BIND), false) => self.bind = self.bind.or(Some(m::Recursion::One)),
            (Some(BIND), true) => self.bind = Some(m::Recursion::Tree),
            (Some(at @ OF_FILESYSTEM..IGNORED), false) => {
                self.superblock |= FILESYSTEM[(at - OF_FILESYSTEM) as usize].1;
            }
            (Some(IGNORED..), false) => {}
            _ => self.data.push(word.into()),
        }
    }

    /// The flags that mount(2) takes for all of this.
    pub fn legacy_flags(&self) -> u32 {
        let set = ATTRIBUTES.iter().filter(|(attribute, _)| self.set & attribute != 0);
        set.fold(self.superblock, |all, (_, flag)| all | flag)
    }

    /// The options of the filesystem as mount(2) takes them.
    pub fn legacy_data(&self) -> String {
        self.data.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(options: &[&str]) -> Options {
        Options::parse(&options.iter().map(|option| String::from(*option)).collect::<Vec<_>>())
    }

    #[test]
    fn dockers_tmpfs_options() {
        let options = parse(&["nosuid", "strictatime", "mode=755", "size=65536k"]);
        assert_eq!(options.set, m::MOUNT_ATTR_NOSUID | m::MOUNT_ATTR_STRICTATIME);
        assert_eq!(options.legacy_data(), "mode=755,size=65536k");
        assert_eq!(options.legacy_flags(), m::MS_NOSUID | m::MS_STRICTATIME);
    }

    #[test]
    fn a_bind_mount_with_propagation_and_read_only_tree() {
        let options = parse(&["rbind", "rprivate", "rro"]);
        assert_eq!(options.bind, Some(m::Recursion::Tree));
        assert_eq!((options.propagation, options.propagate_tree), (m::MS_PRIVATE, true));
        assert_eq!((options.set, options.set_tree), (0, m::MOUNT_ATTR_RDONLY));
    }

    #[test]
    fn the_last_word_on_an_attribute_wins() {
        assert_eq!(parse(&["ro", "rw"]).set, 0);
        assert_eq!(parse(&["rw", "ro"]).set, m::MOUNT_ATTR_RDONLY);
        assert_eq!(parse(&["rw", "ro"]).clear & m::MOUNT_ATTR_RDONLY, 0);
        assert_eq!(parse(&["noatime", "strictatime"]).set, m::MOUNT_ATTR_STRICTATIME);
    }

    #[test]
    fn one_atime_mode_replaces_the_mount_s_own() {
        // mount_setattr(2) wants the whole field cleared whenever one mode is set.
        let options = parse(&["noatime"]);
        assert_eq!(options.clear & m::MOUNT_ATTR__ATIME, m::MOUNT_ATTR__ATIME);
    }

    #[test]
    fn words_that_merely_begin_with_r_are_data() {
        let options = parse(&["r", "redirect_dir=on", "rootmode=40000"]);
        assert_eq!(options.legacy_data(), "r,redirect_dir=on,rootmode=40000");
    }

    proptest! {
        #[test]
        fn nothing_is_both_set_and_cleared(words in proptest::collection::vec(
            prop::sample::select(&["ro", "rw", "suid", "nosuid", "noatime", "relatime", "strictatime", "atime",
                "exec", "noexec"][..]), 0..8)) {
            let options = parse(&words);
            let conflict = options.set & options.clear & !m::MOUNT_ATTR__ATIME;
            prop_assert_eq!(conflict, 0);
        }

        #[test]
        fn any_words_are_survived(words in proptest::collection::vec(".{0,12}", 0..6)) {
            let _ = Options::parse(&words).legacy_data();
        }
    }
}
