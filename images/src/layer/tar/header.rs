//! One header block.

use super::{number, sparse};

/// Bytes in a block of the archive.
pub(super) const BLOCK: usize = 512;

type Result<T> = std::result::Result<T, &'static str>;

/// A header whose checksum is right.
pub(super) struct Header {
    block: [u8; BLOCK],
}

impl Header {
    pub fn new(block: [u8; BLOCK]) -> Result<Header> {
        let checksum = number::field(&block[148..156]).map_err(|_| "no header where one should be")?;
        // The checksum's own field counts as spaces. Some old writers summed signed characters.
        let counted = || block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]);
        let unsigned: i64 = counted().map(|byte| i64::from(*byte)).sum();
        if checksum != unsigned && checksum != counted().map(|byte| i64::from(*byte as i8)).sum::<i64>() {
            return Err("a header with a wrong checksum");
        }
        Ok(Header { block })
    }

    pub fn kind(&self) -> u8 {
        self.block[156]
    }

    /// The name, with ustar's prefix.
    pub fn path(&self) -> Vec<u8> {
        let name = text(&self.block[0..100]);
        // GNU's magic is "ustar  ": there other things are in the prefix's place.
        let prefix = if &self.block[257..263] == b"ustar\0" { text(&self.block[345..500]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    /// Permissions, set-id and sticky bits; some writers put the type's bits here too.
    pub fn permissions(&self) -> Result<u16> {
        Ok((number::field(&self.block[100..108])? & 0o7777) as u16)
    }

    pub fn uid(&self) -> Result<i64> {
        number::field(&self.block[108..116])
    }

    pub fn gid(&self) -> Result<i64> {
        number::field(&self.block[116..124])
    }

    pub fn size(&self) -> Result<u64> {
        let size = number::field(&self.block[124..136])?;
        u64::try_from(size).map_err(|_| "a file of negative size")
    }

    pub fn mtime(&self) -> Result<i64> {
        number::field(&self.block[136..148])
    }

    pub fn device(&self) -> Result<(u32, u32)> {
        let part = |field| {
            let number = number::field(field)?;
            u32::try_from(number).map_err(|_| "a device number of more than 32 bits")
        };
        Ok((part(&self.block[329..337])?, part(&self.block[337..345])?))
    }

    /// Old GNU sparse files: the size with holes.
    pub fn sparse_size(&self) -> Result<u64> {
        let size = number::field(&self.block[483..495])?;
        u64::try_from(size).map_err(|_| "a file of negative size")
    }

    /// Old GNU sparse files: the first segments; whether more follow.
    pub fn sparse_map(&self, map: &mut sparse::Map) -> Result<bool> {
        map.old_gnu(&self.block[386..482])?;
        Ok(self.block[482] != 0)
    }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}
