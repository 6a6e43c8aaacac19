//! Which image of a source a person means by a name.

use super::Error;
use crate::digest::shortened;
use crate::reference::Name;

/// The entries that go by `wanted`: by exactly that name if there are any, else by the registry reference that it is
/// short for, else by the tag alone. It is an error if there are none.
pub(super) fn called<'a, T>(
    entries: &'a [T],
    wanted: &str,
    names: impl Fn(&'a T) -> Vec<&'a str>,
) -> Result<Vec<&'a T>, Error> {
    let complete = wanted.parse::<Name>().ok();
    let exactly = |name: &str| name == wanted;
    let completed = |name: &str| complete.is_some() && name.parse::<Name>().ok() == complete;
    let by_tag = |name: &str| name.parse::<Name>().is_ok_and(|name| name.tag.as_deref() == Some(wanted));
    let ways: [&dyn Fn(&str) -> bool; 3] = [&exactly, &completed, &by_tag];
    for way in ways {
        let found: Vec<_> = entries.iter().filter(|entry| names(entry).into_iter().any(way)).collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let there = entries.iter().flat_map(names).map(shortened).collect();
    Err(Error::NoName { wanted: shortened(wanted), there })
}
