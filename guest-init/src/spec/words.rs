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

/// The place of a word in a list. A number without a name has an empty word there, which no word is.
#[inline(never)]
pub fn place(list: &[u8], word: &str) -> Option<u32> {
    let (mut rest, mut place) = (list, 0);
    while let Some((&length, words)) = rest.split_first() {
        let (known, others) = words.split_at_checked(length.into())?;
        if known.len() == word.len() && known == word.as_bytes() && !word.is_empty() {
            return Some(place);
        }
        (rest, place) = (others, place + 1);
    }
    None
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
    }
}
