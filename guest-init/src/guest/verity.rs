//! dm-verity: a disk or partition read through a tree of hashes that lies behind its data. What does not match the
//! tree is an I/O error for whoever reads it, and a line in the kernel's log.
//!
//! The format is the one of veritysetup(8), type 1, SHA-256 over blocks of 4096 bytes. Where tree and data are is said by
//! whoever knows the root hash; a superblock on the disk is not believed.

use crate::prelude::*;
use crate::sys::mapper::{Mapper, Target};

/// What driver options about verity begin with.
const PREFIX: &str = "verity=";

/// Sectors of 512 bytes in a block.
const SECTORS: u64 = 8;

/// The verified devices of a storage, which stand until a mount has taken them over.
#[derive(Default)]
pub struct Devices(Vec<String>);

impl Devices {
    /// The device through which a source, found as `disk`, is read: the disk itself, or what the storage's driver option
    /// `verity=SOURCE,ROOT,BLOCKS,START[,SALT]` makes of it.
    pub fn open(&mut self, source: &str, disk: String, options: &[String]) -> Result<String> {
        let words = options
            .iter()
            .find_map(|option| option.strip_prefix(PREFIX)?.strip_prefix(source)?.strip_prefix(','));
        let Some(words) = words else { return Ok(disk) };
        let (root, sectors, table) = table(&disk, words)
            .ok_or_else(|| fault!(InvalidArgument, "{PREFIX}{source},{words} makes no sense"))?;
        // One device serves every mount of the same data.
        let name = format!("{}-{root}", disk.strip_prefix("/dev/").unwrap_or_default());
        (|| {
            let mapper = Mapper::open()?;
            let target = Target { sectors, kind: "verity", parameters: &table };
            mapper.create(&name, &target).despite(Errno::EBUSY)?;
            let minor = mapper.minor(&name);
            self.0.push(name);
            Ok(format!("/dev/dm-{}", minor?))
        })()
        .context(format_args!("verify {source}"))
    }

    /// How many sources are verified. A storage that says more of them says it of something else.
    pub fn check(&self, options: &[String]) -> Result<usize> {
        let said = options.iter().filter(|option| option.starts_with(PREFIX)).count();
        refuse_if!(said != self.0.len(), InvalidArgument, "a {PREFIX} option names no source of its storage");
        Ok(said)
    }
}

/// The root hash, the size of the data in sectors, and the target's parameters. Their values are the kernel's to judge.
fn table<'a>(disk: &str, words: &'a str) -> Option<(&'a str, u64, String)> {
    let mut words = words.split(',').filter(|word| !word.contains(' '));
    let (root, blocks, start) = (words.next()?, words.next()?, words.next()?);
    let salt = words.next().unwrap_or("-");
    let sectors = blocks.parse::<u64>().ok()?.checked_mul(SECTORS)?;
    let table = format!("1 {disk} {disk} 4096 4096 {blocks} {start} sha256 {root} {salt}");
    words.next().is_none().then_some((root, sectors, table))
}

impl Drop for Devices {
    /// The devices go with the last mount that uses them, or now.
    fn drop(&mut self) {
        self.0.iter().for_each(|name| Mapper::open().iter().for_each(|mapper| mapper.remove(name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_says_all_or_is_refused() {
        let table = |words: &'static str| table("/dev/vda3", words);
        let expected = "1 /dev/vda3 /dev/vda3 4096 4096 10 11 sha256 abcd 00ff";
        assert_eq!(table("abcd,10,11,00ff"), Some(("abcd", 80, expected.into())));
        assert!(table("abcd,10,11").unwrap().2.ends_with(" sha256 abcd -"));
        for bad in [
            "",
            "abcd",
            "abcd,10",
            "abcd,x,11",
            "abcd,10,11,00,00",
            "ab cd,10,11",
            "abcd,99999999999999999999,10",
        ] {
            assert_eq!(table(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_to_be_verified_is_never_read_unverified() {
        let options = ["verity=serial=other,abcd,10,11".into()];
        let mut devices = Devices::default();
        assert_eq!(devices.open("serial=x", "/dev/vda".into(), &options).unwrap(), "/dev/vda");
        assert!(devices.check(&options).is_err());
        assert_eq!(devices.check(&["other=option".into()]).unwrap(), 0);
        let other = "/dev/vdb".into();
        assert!(devices.open("serial=other", other, &["verity=serial=other,abcd".into()]).is_err());
    }
}
