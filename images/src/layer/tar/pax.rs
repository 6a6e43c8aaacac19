//! Extended headers: records of the form `LENGTH KEY=VALUE\n`, binary-safe because counted.

use std::collections::BTreeMap;

use super::number;
use super::sparse::{Map, Segment};
use crate::layer::Error;

type Result<T> = std::result::Result<T, &'static str>;

/// The records of one extended header, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Records {
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What global headers have said so far, as far as it means anything here.
#[derive(Debug, Default)]
pub(super) struct Globals {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// More than this is refused, in bytes: every entry has to look at all of it.
const LARGEST_GLOBALS: usize = 16 << 10;

/// What holds for one entry: its own records, and for what these do not mention the global ones. An empty
/// value takes a global one back.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub locals: &'a Records,
    pub globals: &'a Globals,
}

/// What extended headers say of a sparse file.
pub(super) struct Sparse {
    /// The file's name, where the entry has a substitute.
    pub name: Option<Vec<u8>>,
    /// Size with holes.
    pub size: u64,
    /// The map, unless it precedes the data.
    pub map: Option<Vec<Segment>>,
}

impl Records {
    /// The records of one extended header that ends at byte `offset` of the archive.
    pub fn parse(mut text: &[u8], offset: u64) -> std::result::Result<Records, Error> {
        let broken = |what| Error::Archive { what, offset };
        let mut records = Vec::new();
        while !text.is_empty() {
            let space = text.iter().take(21).position(|byte| *byte == b' ');
            let space = space.ok_or(broken("an extended header without its length"))?;
            let length = number::decimal(&text[..space]).map_err(broken)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= text.len());
            let length = length.ok_or(broken("an extended header longer than it is"))?;
            let record = text.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n"));
            let record = record.ok_or(broken("an extended header that does not end where it says"))?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let equals = equals.ok_or(broken("an extended header without a value"))?;
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            text = &text[length..];
        }
        Ok(Records { records })
    }
}

impl Globals {
    /// Adds the records of a later header, which win over earlier ones of the same name.
    pub fn update(&mut self, later: Records) -> Result<()> {
        const KEPT: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
        for (key, value) in later.records {
            let xattr = key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"LIBARCHIVE.xattr.");
            if xattr || KEPT.contains(&&*key) {
                self.records.insert(key, value);
            }
        }
        let bytes: usize = self.records.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > LARGEST_GLOBALS { Err("global headers of more than 16 KiB") } else { Ok(()) }
    }
}

impl View<'_> {
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let own = self.locals.records.iter().rev().find(|(name, _)| name == key);
        let found = own.map(|(_, value)| value).or_else(|| self.globals.records.get(key));
        found.map(|value| &**value).filter(|value| !value.is_empty())
    }

    /// A record's value.
    pub fn text(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.get(key).map(<[u8]>::to_vec)
    }

    /// A record that is a decimal number.
    pub fn number(&self, key: &[u8]) -> Result<Option<u64>> {
        self.get(key).map(number::decimal).transpose()
    }

    /// A record that is a time.
    pub fn time(&self, key: &[u8]) -> Result<Option<(i64, u32)>> {
        self.get(key).map(number::time).transpose()
    }

    /// Extended attributes: star's (raw) and libarchive's (the name in URL encoding, the value in base64).
    pub fn xattrs(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let globals = self.globals.records.iter();
        let locals = self.locals.records.iter().map(|(key, value)| (key, value));
        let (mut libarchive, mut star) = (Vec::new(), Vec::new());
        for (key, value) in globals.chain(locals) {
            if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                libarchive.push((url_decoded(name)?, base64_decoded(value)?));
            } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                star.push((name.to_vec(), value.clone()));
            }
        }
        // Writers that know both write both; star's come last, and so win.
        libarchive.append(&mut star);
        Ok(libarchive)
    }

    /// The description of a sparse file, if there is one.
    pub fn sparse(&self) -> Result<Option<Sparse>> {
        // The name of a substitute entry; global headers say nothing of sparse files.
        let name = self.text(b"GNU.sparse.name");
        if self.get(b"GNU.sparse.major").is_some_and(|major| major != b"0") {
            if self.get(b"GNU.sparse.major") != Some(b"1") || self.get(b"GNU.sparse.minor") != Some(b"0") {
                return Err("a sparse file of an unknown format");
            }
            let size = self.number(b"GNU.sparse.realsize")?.ok_or("a sparse file without its size")?;
            return Ok(Some(Sparse { name, size, map: None }));
        }
        let Some(size) = self.number(b"GNU.sparse.size")? else { return Ok(None) };
        let mut numbers = Vec::new();
        if let Some(map) = self.get(b"GNU.sparse.map") {
            for text in map.split(|byte| *byte == b',') {
                numbers.push(number::decimal(text)?);
            }
        } else {
            // Format 0.0: one record for each number, offsets and lengths in turn.
            for (key, value) in &self.locals.records {
                let wanted =
                    if numbers.len() % 2 == 0 { &b"GNU.sparse.offset"[..] } else { b"GNU.sparse.numbytes" };
                if key == wanted {
                    numbers.push(number::decimal(value)?);
                } else if key.starts_with(b"GNU.sparse.offset") || key.starts_with(b"GNU.sparse.numbytes") {
                    return Err("a sparse file whose map is out of order");
                }
            }
        }
        let (pairs, odd) = numbers.as_chunks::<2>();
        if !odd.is_empty() {
            return Err("a sparse file with half a segment");
        }
        let mut map = Map::default();
        for [offset, length] in pairs {
            map.push(*offset, *length)?;
        }
        Ok(Some(Sparse { name, size, map: Some(map.segments) }))
    }
}

fn url_decoded(text: &[u8]) -> Result<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%');
        decoded.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    Ok(decoded)
}

fn base64_decoded(text: &[u8]) -> Result<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.iter().filter(|byte| !b"=\r\n".contains(byte)) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err("an attribute that is not base64"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
        }
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_libarchive_encodes() {
        assert_eq!(url_decoded(b"user.a%3Db%25%zz").unwrap(), b"user.a=b%%zz");
        assert_eq!(base64_decoded(b"AAEC/w").unwrap(), [0, 1, 2, 255]);
        assert_eq!(base64_decoded(b"Zm8=").unwrap(), b"fo");
        assert!(base64_decoded(b"?").is_err());
    }

    #[test]
    fn refuses_records_that_lie_about_their_length() {
        for text in
            [&b"5 a=b\n"[..], b"99 a=b\n", b"6 a=b ", b"x a=b\n", b"6 abc\n", b"a=b\n", b"2 ", b"0 a=b\n"]
        {
            assert!(Records::parse(text, 0).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
        let locals = Records::parse(b"6 a=b\n", 0).unwrap();
        let view = View { locals: &locals, globals: &Globals::default() };
        assert_eq!(view.text(b"a").unwrap(), b"b");
    }
}
