//! Lists of names that stand for numbers: one piece of bytes, in the numbers' order, each name with its length before it.
//! That is a small part of the code that comparisons one by one are, and what is not looked for is stepped over.

/// A list of words, which are written with a blank between them: [`words!`] calls it with the room that they need.
pub const fn list<const ROOM: usize>(text: &str) -> [u8; ROOM] {
    let (mut list, mut word, mut at) = ([0; ROOM], 0, 0);
    while at < text.len() {
        at += 1;
        match text.as_bytes()[at - 1] {
            b' ' => word = at,
            byte => (list[at], list[word]) = (byte, list[word] + 1),
        }
    }
    list
}

/// A list of words, of text with a blank between them.
macro_rules! words {
    ($text:expr) => {{
        const TEXT: &str = $text;
        &$crate::spec::words::list::<{ TEXT.len() + 1 }>(TEXT)
    }};
}
pub(crate) use words;

/// The words of a list.
pub fn each(mut list: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (word, rest) = list.split_at_checked(1 + usize::from(*list.first()?))?;
        list = rest;
        word.get(1..)
    })
}

/// The place of a word in a list. A number without a name has an empty word there, which no word is.
#[inline(never)]
pub fn place(list: &[u8], word: &str) -> Option<u32> {
    let place = each(list).position(|known| known == word.as_bytes());
    place.filter(|_| !word.is_empty()).map(|place| place as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole() {
        let list = words!("NONE RT  IDLE");
        for (word, at) in [("NONE", Some(0)), ("RT", Some(1)), ("IDLE", Some(3)), ("", None), ("NON", None)] {
            assert_eq!(place(list, word), at);
        }
        assert_eq!(place(list, "NONE RT"), None);
        assert_eq!(each(list).count(), 4);
    }
}
