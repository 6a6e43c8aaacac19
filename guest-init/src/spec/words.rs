//! Lists of names that stand for numbers: one piece of text, words with a blank between them, in the numbers' order. That is
//! a small part of the code that comparisons one by one are.

/// The place of a word in a list. A number without a name has an empty word there, which no word is.
#[inline(never)]
pub fn place(list: &str, word: &str) -> Option<u32> {
    if word.is_empty() || word.as_bytes().contains(&b' ') {
        return None;
    }
    let mut rest = list.as_bytes();
    for place in 0.. {
        // Few words begin with the same letter.
        if rest.first() == word.as_bytes().first()
            && let Some(behind) = rest.strip_prefix(word.as_bytes())
            && matches!(behind, [] | [b' ', ..])
        {
            return Some(place);
        }
        let blank = rest.iter().position(|&byte| byte == b' ')?;
        rest = &rest[blank + 1..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole() {
        let list = "NONE RT  IDLE";
        for (word, at) in [("NONE", Some(0)), ("RT", Some(1)), ("IDLE", Some(3)), ("", None), ("NON", None)] {
            assert_eq!(place(list, word), at);
        }
        assert_eq!(place(list, "NONE RT"), None);
    }
}
