//! The configuration fragment, and the check that Kconfig kept every line of it.
//!
//! Kconfig drops what it does not know or whose dependencies are not met without a word, so a hardening option could
//! vanish with a new source. Here that is an error which names the option.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// What a fragment asks for: option name (`CONFIG_…`) to value; `n` is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    options: BTreeMap<String, String>,
}

impl Fragment {
    /// Reads `CONFIG_NAME=VALUE` lines; empty lines and `#` comments are for people. An option twice is a mistake.
    pub fn parse(text: &str) -> Result<Fragment> {
        let mut options = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let (line, number) = (line.trim(), number + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((name, value)) = line.split_once('=').filter(|(name, _)| is_option(name)) else {
                bail!("line {number}: `{line}` is not CONFIG_NAME=VALUE");
            };
            if value.is_empty() || value.contains(char::is_whitespace) && !value.starts_with('"') {
                bail!("line {number}: `{value}` is not a value for {name}");
            }
            if value == "m" {
                bail!("line {number}: {name}=m, but this kernel has no modules");
            }
            if options.insert(name.to_owned(), value.to_owned()).is_some() {
                bail!("line {number}: {name} is here a second time");
            }
        }
        Ok(Fragment { options })
    }

    /// Options whose value in `dot_config` (a finished `.config`) is another one, as sentences.
    pub fn lost(&self, dot_config: &str) -> Vec<String> {
        let is: BTreeMap<&str, &str> = dot_config
            .lines()
            .filter(|line| line.starts_with("CONFIG_"))
            .filter_map(|line| line.split_once('='))
            .collect();
        let lost = self.options.iter().filter_map(|(name, wanted)| {
            // An option that is off has no line, or a comment.
            let is = is.get(name.as_str()).copied().unwrap_or("n");
            (is != wanted).then(|| format!("{name}={wanted} became {is}"))
        });
        lost.collect()
    }
}

fn is_option(name: &str) -> bool {
    name.strip_prefix("CONFIG_")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_for_people() {
        let fragment = Fragment::parse("# a group\n\nCONFIG_SMP=y\n  # more\nCONFIG_LSM=\"a b\"\n").unwrap();
        assert_eq!(fragment.options.len(), 2);
        assert_eq!(fragment.options["CONFIG_LSM"], "\"a b\"");
    }

    #[test]
    fn what_is_no_option_is_refused_with_its_line_number() {
        for (text, line) in [
            ("CONFIG_A=y\nSMP=y", "line 2"),
            ("# CONFIG_A is not set\nCONFIG_A", "line 2"),
            ("CONFIG_A=", "line 1"),
            ("CONFIG_A=y # why", "line 1"),
            ("CONFIG_=y", "line 1"),
            ("\n\nCONFIG_A=m", "line 3"),
            ("CONFIG_A=y\nCONFIG_A=n", "line 2"),
        ] {
            let error = Fragment::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(line), "{text:?}: {error}");
        }
    }

    #[test]
    fn an_option_that_kconfig_dropped_or_changed_is_named() {
        let fragment =
            Fragment::parse("CONFIG_SMP=y\nCONFIG_NR_CPUS=64\nCONFIG_VMAP_STACK=y\nCONFIG_PCI=n\n").unwrap();
        let kept = "CONFIG_SMP=y\nCONFIG_NR_CPUS=64\nCONFIG_VMAP_STACK=y\n# CONFIG_PCI is not set\n";
        assert_eq!(fragment.lost(kept), Vec::<String>::new());
        let changed = "CONFIG_SMP=y\nCONFIG_NR_CPUS=8\n# CONFIG_VMAP_STACK is not set\nCONFIG_PCI=y\n";
        assert_eq!(
            fragment.lost(changed),
            ["CONFIG_NR_CPUS=64 became 8", "CONFIG_PCI=n became y", "CONFIG_VMAP_STACK=y became n"]
        );
    }

    #[test]
    fn a_longer_name_is_not_taken_for_the_option() {
        let fragment = Fragment::parse("CONFIG_NET=y").unwrap();
        assert_eq!(fragment.lost("CONFIG_NET_NS=y\n"), ["CONFIG_NET=y became n"]);
    }

    #[test]
    fn the_fragment_in_the_tree_is_well_formed() {
        let text = include_str!("../../../images/kernel/vm.config");
        let fragment = Fragment::parse(text).unwrap();
        for hardening in ["STACKPROTECTOR_STRONG", "STRICT_KERNEL_RWX", "VMAP_STACK", "HARDENED_USERCOPY"] {
            assert_eq!(fragment.options[&format!("CONFIG_{hardening}")], "y");
        }
    }
}
