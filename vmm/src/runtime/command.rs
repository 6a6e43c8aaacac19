//! What the container's process is: the image's entrypoint and command, overridden by the user's, by Docker's rules.

use thiserror::Error;

/// The user's `--entrypoint`, if any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Entrypoint {
    /// Not given: the image's own.
    #[default]
    Image,
    /// `--entrypoint ""`: none, and the image's command does not apply either.
    Cleared,
    /// `--entrypoint PROGRAM`: one word, and the image's command does not apply.
    Program(String),
}

impl Entrypoint {
    /// What an option's value stands for: the empty string clears.
    pub fn from_option(value: Option<&str>) -> Self {
        match value {
            None => Self::Image,
            Some("") => Self::Cleared,
            Some(program) => Self::Program(program.to_owned()),
        }
    }
}

/// Neither the user nor the image says what to run.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "no command specified: the image has no entrypoint or command that applies; give one after the image's name"
)]
pub struct NoCommand;

/// The argument vector of the container's process.
///
/// The user's command replaces the image's and follows the entrypoint; the user's entrypoint replaces the image's and
/// takes the image's command away with it.
pub fn resolve(
    image_entrypoint: &[String],
    image_command: &[String],
    entrypoint: &Entrypoint,
    command: &[String],
) -> Result<Vec<String>, NoCommand> {
    let (first, fallback) = match entrypoint {
        Entrypoint::Image => (image_entrypoint, image_command),
        Entrypoint::Cleared => (&[][..], &[][..]),
        Entrypoint::Program(program) => (std::slice::from_ref(program), &[][..]),
    };
    // An image may carry `[""]`, which Docker reads as no entrypoint.
    let first = if matches!(first, [only] if only.is_empty()) { &[][..] } else { first };
    let rest = if command.is_empty() { fallback } else { command };
    let argv: Vec<String> = first.iter().chain(rest).cloned().collect();
    if argv.is_empty() { Err(NoCommand) } else { Ok(argv) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn follows_dockers_table() {
        // (image entrypoint, image command, --entrypoint, command) → argv
        type Row = (&'static str, &'static str, Option<&'static str>, &'static str, Option<&'static str>);
        let table: [Row; 14] = [
            ("", "sh", None, "", Some("sh")),
            ("", "sh", None, "echo hi", Some("echo hi")),
            ("/entry.sh", "", None, "", Some("/entry.sh")),
            ("/entry.sh", "serve", None, "", Some("/entry.sh serve")),
            ("/entry.sh", "serve", None, "other -x", Some("/entry.sh other -x")),
            ("/entry.sh", "serve", Some("/bin/sh"), "", Some("/bin/sh")),
            ("/entry.sh", "serve", Some("/bin/sh"), "-c id", Some("/bin/sh -c id")),
            ("/entry.sh", "serve", Some(""), "id", Some("id")),
            ("/entry.sh", "serve", Some(""), "", None),
            ("", "sh", Some("/bin/ls"), "", Some("/bin/ls")),
            ("", "", None, "", None),
            ("", "", None, "id", Some("id")),
            ("", "", Some("id"), "", Some("id")),
            ("", "", Some(""), "", None),
        ];
        for (image_entrypoint, image_command, entrypoint, command, argv) in table {
            let got = resolve(
                &words(image_entrypoint),
                &words(image_command),
                &Entrypoint::from_option(entrypoint),
                &words(command),
            );
            assert_eq!(
                got,
                argv.map(words).ok_or(NoCommand),
                "{image_entrypoint} {image_command} {entrypoint:?} {command}"
            );
        }
    }

    #[test]
    fn an_images_empty_entrypoint_word_is_none() {
        assert_eq!(resolve(&[String::new()], &words("sh"), &Entrypoint::Image, &[]), Ok(words("sh")));
    }
}
