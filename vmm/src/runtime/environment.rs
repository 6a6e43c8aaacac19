//! The environment of the container's process, put together as Docker does it: defaults, then the user's variables, then
//! what the image adds; a later value of a name replaces the earlier, and a name without a value takes it away.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use thiserror::Error;

/// Docker's default `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A variable that could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EnvError {
    /// `-e =value`.
    #[error("invalid environment variable: '{0}' has no name before the '='")]
    NoName(String),
    /// A name with a blank in it.
    #[error("invalid environment variable: the name '{0}' contains a blank")]
    BlankInName(String),
    /// A NUL byte cannot be in an environment.
    #[error("invalid environment variable: '{0}' contains a NUL byte")]
    Nul(String),
    /// A value from the host that is no UTF-8 cannot be told to the guest.
    #[error("the host's environment variable {0} is not UTF-8")]
    NotUtf8(String),
}

/// How a host's variable is looked up; `std::env::var_os` outside tests.
pub type Lookup<'a> = &'a dyn Fn(&OsStr) -> Option<OsString>;

/// One `-e` option: `NAME=VALUE` stands, `NAME` takes the host's value, and stays bare (taking the variable away) where
/// the host has none.
pub fn from_option(option: &str, host: Lookup<'_>) -> Result<String, EnvError> {
    check(option)?;
    if option.contains('=') {
        return Ok(option.to_owned());
    }
    Ok(host_value(option, host)?.unwrap_or_else(|| option.to_owned()))
}

/// The lines of a file for options that say something: empty ones, and comments that begin with `#`, are left out.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(str::trim_start);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The variables of an `--env-file`: one a line, `#` starts a comment line, a bare name takes the host's value and is left
/// out where the host has none.
pub fn from_file(text: &str, host: Lookup<'_>) -> Result<Vec<String>, EnvError> {
    let mut variables = Vec::new();
    for line in lines(text) {
        check(line)?;
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.contains(char::is_whitespace) {
            return Err(EnvError::BlankInName(name.to_owned()));
        }
        if line.contains('=') {
            variables.push(line.to_owned());
        } else {
            variables.extend(host_value(line, host)?);
        }
    }
    Ok(variables)
}

/// The whole environment: `PATH`, `HOSTNAME`, with a terminal `TERM`, then `user`, then those of `image` that the user does
/// not name.
pub fn assemble(hostname: &str, terminal: Option<&str>, image: &[String], user: &[String]) -> Vec<String> {
    let mut environment = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    environment.extend(terminal.map(|term| format!("TERM={term}")));
    let named = |variable: &String| user.iter().any(|u| name(u) == name(variable));
    for variable in user.iter().chain(image.iter().filter(|v| !named(v))) {
        let place = environment.iter().position(|known| name(known) == name(variable));
        match (place, variable.contains('=')) {
            (Some(at), true) => environment[at] = variable.clone(),
            (Some(at), false) => drop(environment.remove(at)),
            (None, true) => environment.push(variable.clone()),
            (None, false) => {}
        }
    }
    environment
}

fn name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

fn check(variable: &str) -> Result<(), EnvError> {
    if variable.contains('\0') {
        return Err(EnvError::Nul(variable.replace('\0', "\\0")));
    }
    if name(variable).is_empty() {
        return Err(EnvError::NoName(variable.to_owned()));
    }
    Ok(())
}

fn host_value(name: &str, host: Lookup<'_>) -> Result<Option<String>, EnvError> {
    let Some(value) = host(OsStr::new(name)) else { return Ok(None) };
    let value = String::from_utf8(value.into_vec()).map_err(|_| EnvError::NotUtf8(name.to_owned()))?;
    Ok(Some(format!("{name}={value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &OsStr) -> Option<OsString> {
        match name.to_str() {
            Some("HOME") => Some("/home/me".into()),
            Some("BAD") => Some(OsString::from_vec(vec![0xff])),
            _ => None,
        }
    }

    fn list(variables: &[&str]) -> Vec<String> {
        variables.iter().map(|v| (*v).to_owned()).collect()
    }

    #[test]
    fn an_option_without_a_value_takes_the_hosts() {
        assert_eq!(from_option("A=1", &host), Ok("A=1".into()));
        assert_eq!(from_option("A=", &host), Ok("A=".into()));
        assert_eq!(from_option("A=b=c", &host), Ok("A=b=c".into()));
        assert_eq!(from_option("HOME", &host), Ok("HOME=/home/me".into()));
        assert_eq!(from_option("NOWHERE", &host), Ok("NOWHERE".into()));
        assert_eq!(from_option("BAD", &host), Err(EnvError::NotUtf8("BAD".into())));
        assert!(matches!(from_option("=x", &host), Err(EnvError::NoName(_))));
        assert!(matches!(from_option("", &host), Err(EnvError::NoName(_))));
        assert!(matches!(from_option("A=\0", &host), Err(EnvError::Nul(_))));
    }

    #[test]
    fn a_file_has_one_variable_a_line() {
        let text = "\u{feff}# comment\n\nA=1\n  B=two words \r\nHOME\nNOWHERE\n#C=3\n";
        assert_eq!(from_file(text, &host), Ok(list(&["A=1", "B=two words ", "HOME=/home/me"])));
        assert_eq!(from_file("A B=1", &host), Err(EnvError::BlankInName("A B".into())));
        assert!(matches!(from_file("=1", &host), Err(EnvError::NoName(_))));
    }

    #[test]
    fn order_and_replacement_are_dockers() {
        let image = list(&["PATH=/app/bin", "LANG=C.UTF-8", "MODE=image"]);
        let user = list(&["FOO=bar", "MODE=user"]);
        assert_eq!(
            assemble("box", Some("xterm"), &image, &user),
            list(&["PATH=/app/bin", "HOSTNAME=box", "TERM=xterm", "FOO=bar", "MODE=user", "LANG=C.UTF-8"])
        );
    }

    #[test]
    fn a_bare_name_takes_a_variable_away() {
        let image = list(&["LANG=C.UTF-8", "MODE=image"]);
        let user = list(&["MODE", "HOSTNAME", "UNKNOWN"]);
        assert_eq!(
            assemble("box", None, &image, &user),
            list(&[&format!("PATH={DEFAULT_PATH}"), "LANG=C.UTF-8"])
        );
    }

    #[test]
    fn the_last_of_two_values_stands() {
        assert_eq!(assemble("box", None, &[], &list(&["A=1", "B=2", "A=3"]))[2..], list(&["A=3", "B=2"]));
    }
}
