//! Names of system calls.

use crate::prelude::*;
use syscalls::Sysno;

/// Where new numbers are given out; those between it and the last of the old ones never will be.
const NEW: usize = 424;
const OLD_END: usize = 337;

/// Every number's name, in order, each ended by a blank: a twentieth of the code that a search by comparisons is.
static NAMES: [u8; length()] = names();

const fn name(number: usize) -> &'static [u8] {
    match Sysno::new(number) {
        Some(call) => call.name().as_bytes(),
        None => b"",
    }
}

const fn next(number: usize) -> usize {
    if number + 1 == OLD_END { NEW } else { number + 1 }
}

const fn length() -> usize {
    let (mut number, mut length) = (0, 0);
    while number <= Sysno::last().id() as usize {
        length += name(number).len() + 1;
        number = next(number);
    }
    length
}

const fn names() -> [u8; length()] {
    let mut names = [b' '; length()];
    let (mut number, mut at) = (0, 0);
    while number <= Sysno::last().id() as usize {
        let name = name(number);
        let (place, _) = names.split_at_mut(at).1.split_at_mut(name.len());
        place.copy_from_slice(name);
        (number, at) = (next(number), at + name.len() + 1);
    }
    names
}

/// The number of a system call; `None` for one that x86-64 does not have, or that is newer than this list.
pub fn number(name: &String) -> Option<u32> {
    // A gap in the numbers has an empty name.
    let at =
        NAMES.split(|&byte| byte == b' ').position(|known| known == name.as_bytes() && !name.is_empty())?;
    Some((if at < OLD_END { at } else { at - OLD_END + NEW }) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_at_its_number() {
        assert!(Sysno::iter().count() > 350);
        for call in Sysno::iter() {
            assert_eq!(number(&call.name().into()), Some(call.id() as u32), "{}", call.name());
        }
        for none in ["", " ", "read write", "nothing", "READ"] {
            assert_eq!(number(&none.into()), None);
        }
    }
}
