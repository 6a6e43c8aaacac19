//! The environment of a process, and where its program is looked for.

use crate::prelude::*;

/// The `PATH` of a process whose specification has none: Docker's.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The value of a variable; the last one counts.
pub fn value<'a>(environment: &'a [String], name: &str) -> Option<&'a str> {
    environment.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// The environment that a process gets: each name once with its last value, in the order of their first
/// appearance, and what is missing added: `PATH`, `HOME`, and `TERM` for a terminal of that kind.
pub fn complete(given: &[String], home: Option<&str>, terminal: Option<&str>) -> Vec<String> {
    let mut result: Vec<String> = Vec::with_capacity(given.len() + 3);
    for entry in given {
        // An entry without `=` or without a name sets nothing.
        let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            continue;
        };
        let same =
            result.iter_mut().find(|known| known.split_once('=').is_some_and(|(known, _)| known == name));
        match same {
            Some(known) => known.clone_from(entry),
            None => result.push(entry.clone()),
        }
    }
    let mut add = |name: &str, default: &str| {
        if value(&result, name).is_none() {
            result.push(format!("{name}={default}"));
        }
    };
    add("PATH", DEFAULT_PATH);
    add("HOME", home.unwrap_or("/"));
    if let Some(kind) = terminal {
        add("TERM", kind);
    }
    result
}

/// The paths at which a program may be: itself when it has a slash, otherwise one in each directory of `PATH`
/// (an empty one is the working directory).
pub fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return Vec::from([program.into()]);
    }
    if program.is_empty() {
        return Vec::new();
    }
    let directories = path.split(':').map(|directory| if directory.is_empty() { "." } else { directory });
    directories.map(|directory| format!("{directory}/{program}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|entry| String::from(*entry)).collect()
    }

    #[test]
    fn adds_what_is_missing_and_nothing_else() {
        assert_eq!(
            complete(&strings(&["A=1"]), Some("/root"), None),
            strings(&["A=1", &format!("PATH={DEFAULT_PATH}"), "HOME=/root"])
        );
        assert_eq!(
            complete(&strings(&["TERM=vt100", "HOME=/h", "PATH=/bin"]), Some("/root"), Some("xterm")),
            strings(&["TERM=vt100", "HOME=/h", "PATH=/bin"])
        );
        assert!(complete(&[], None, Some("xterm")).contains(&"TERM=xterm".into()));
    }

    #[test]
    fn the_last_value_wins_in_the_first_place() {
        let given = strings(&["A=1", "B=2", "A=3", "novalue", "=x", "C="]);
        assert_eq!(complete(&given, None, None)[..3], strings(&["A=3", "B=2", "C="]));
        assert_eq!(value(&given, "A"), Some("3"));
        assert_eq!(value(&given, "C"), Some(""));
        assert_eq!(value(&given, "AB"), None);
    }

    #[test]
    fn an_empty_path_entry_is_the_working_directory() {
        assert_eq!(candidates("sh", "/bin::/usr/bin"), strings(&["/bin/sh", "./sh", "/usr/bin/sh"]));
        assert_eq!(candidates("./sh", "/bin"), strings(&["./sh"]));
        assert!(candidates("", "/bin").is_empty());
    }

    proptest! {
        #[test]
        fn no_name_appears_twice(given in proptest::collection::vec("[A-C]{0,2}=?[a-c]{0,2}", 0..12)) {
            let result = complete(&given, None, Some("xterm"));
            let mut names: Vec<_> = result.iter().map(|entry| entry.split_once('=').unwrap().0).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            prop_assert_eq!(names.len(), count);
        }
    }
}
