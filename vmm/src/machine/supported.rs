//! Which CPUID leaves this host's KVM supports, kept from one start to the next.
//!
//! To tell them, KVM asks the processor for each, and on a host that is a virtual machine itself each of these is an exit:
//! together they take a quarter of a machine's start. What KVM supports it has found out itself when it was loaded, so the answer
//! is kept in a file for as long as that lasts: until KVM is loaded again, the host boots again, or its processor becomes
//! another one under it. What is no such file of this user's counts for nothing and is replaced; where none can be written there is
//! none.

use super::{Error, probe};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What such a file begins with. Its last digit is the format's version.
const MAGIC: &[u8; 8] = b"FERRYCP1";
/// The file's name in its directory. One that is being written has the writer's process id behind it.
const NAME: &str = "cpuid";
/// A number that is another one for each boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// What `/dev/kvm` is in sysfs. It is made when KVM is loaded, and has a number then that nothing before it had.
const DEVICE: &str = "/sys/devices/virtual/misc/kvm";
/// Numbers of 32 bits that an entry is written as.
const NUMBERS: usize = 7;
/// The longest file there can be.
const LONGEST: u64 = (MAGIC.len() + KEY + 4 + KVM_MAX_CPUID_ENTRIES * NUMBERS * 4) as u64;
/// Bytes of a [`Key`].
const KEY: usize = 36 + 8 + 9 * 4;

/// The directory for it: ferry's own below the user's `$XDG_RUNTIME_DIR`, which is gone when the host boots again; root's, where
/// there is none. It need not be there yet.
pub fn usual_place() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    // SAFETY: takes nothing.
    let is_root = || unsafe { libc::geteuid() } == 0;
    runtime.or_else(|| is_root().then(|| PathBuf::from("/run"))).map(|place| place.join("ferry"))
}

/// The leaves, as `kept` says in its directory, or as KVM says: then they are kept there.
pub(super) fn leaves(kvm: &Kvm, kept: Option<&Path>) -> Result<CpuId, Error> {
    let place = kept.and_then(|place| Some((place, Key::of_host()?)));
    if let Some(leaves) = place.as_ref().and_then(|(place, key)| read(place, key)) {
        return Ok(leaves);
    }
    let leaves =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("tell the supported features"))?;
    if let Some((place, key)) = place {
        // The next start asks KVM again.
        let _ = write(place, &key, &leaves);
    }
    Ok(leaves)
}

/// What must be the same for an answer to hold: boot, load of KVM, processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key([u8; KEY]);

impl Key {
    /// This host's, unless it does not say.
    fn of_host() -> Option<Self> {
        let mut boot = [0; 36];
        File::open(BOOT).ok()?.read_exact(&mut boot).ok()?;
        Some(Self::new(&boot, number_in_sysfs(Path::new(DEVICE))?, probe::processor()))
    }

    fn new(boot: &[u8; 36], device: u64, processor: [u32; 9]) -> Self {
        let mut key = [0; KEY];
        let bytes = boot.iter().copied().chain(device.to_le_bytes());
        let bytes = bytes.chain(processor.into_iter().flat_map(u32::to_le_bytes));
        key.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Self(key)
    }
}

/// The number of something in sysfs; none if this path is not there, or is somebody's imitation.
fn number_in_sysfs(path: &Path) -> Option<u64> {
    /// `SYSFS_MAGIC` (linux/magic.h).
    const SYSFS: libc::c_long = 0x6265_6572;
    let found = File::options().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
    // SAFETY: an all-zero structure is a valid one, and the call fills it in.
    let (told, system) = unsafe {
        let mut system: libc::statfs = std::mem::zeroed();
        (libc::fstatfs(found.as_raw_fd(), &mut system), system)
    };
    (told == 0 && system.f_type == SYSFS).then_some(())?;
    found.metadata().ok().map(|data| data.ino())
}

/// Whether this is the user's of this process, and nobody else may change it.
fn is_own(data: &fs::Metadata) -> bool {
    // SAFETY: takes nothing.
    data.uid() == unsafe { libc::geteuid() } && data.mode() & 0o077 == 0
}

fn read(place: &Path, key: &Key) -> Option<CpuId> {
    let no_link = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(no_link).open(place.join(NAME)).ok()?;
    let data = file.metadata().ok()?;
    if !data.is_file() || !is_own(&data) || data.len() > LONGEST {
        return None;
    }
    let mut bytes = Vec::with_capacity(LONGEST as usize + 1);
    file.take(LONGEST + 1).read_to_end(&mut bytes).ok()?;
    parse(&bytes, key)
}

fn parse(bytes: &[u8], key: &Key) -> Option<CpuId> {
    let (count, entries) = bytes.strip_prefix(MAGIC)?.strip_prefix(&key.0)?.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<{ NUMBERS * 4 }>();
    let count = u32::from_le_bytes(*count) as usize;
    if !rest.is_empty() || count != entries.len() || !(1..=KVM_MAX_CPUID_ENTRIES).contains(&count) {
        return None;
    }
    let entry = |bytes: &[u8; NUMBERS * 4]| {
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at * 4], bytes[at * 4 + 1], bytes[at * 4 + 2], bytes[at * 4 + 3]])
        };
        kvm_cpuid_entry2 {
            function: number(0),
            index: number(1),
            flags: number(2),
            eax: number(3),
            ebx: number(4),
            ecx: number(5),
            edx: number(6),
            ..Default::default()
        }
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    CpuId::from_entries(&entries).ok()
}

/// Puts a whole file in the place of what is there.
fn write(place: &Path, key: &Key, leaves: &CpuId) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // What is done in it stays there, whatever the path leads to meanwhile.
    let only_this = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let directory = File::options().read(true).custom_flags(only_this).open(place)?;
    if !is_own(&directory.metadata()?) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let inside = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let entries = leaves.as_slice();
    let mut bytes = [&MAGIC[..], &key.0, &(entries.len() as u32).to_le_bytes()].concat();
    for entry in entries {
        let kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, .. } = *entry;
        bytes.extend([function, index, flags, eax, ebx, ecx, edx].into_iter().flat_map(u32::to_le_bytes));
    }
    // One that an earlier process of this id has left is in the way.
    let new = inside.join(format!("{NAME}.{}", std::process::id()));
    let _ = fs::remove_file(&new);
    let written = File::options().write(true).create_new(true).mode(0o600).open(&new);
    let written = written.and_then(|mut file| file.write_all(&bytes));
    let moved = written.and_then(|()| fs::rename(&new, inside.join(NAME)));
    if moved.is_err() {
        let _ = fs::remove_file(&new);
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    const BOOT_ID: &[u8; 36] = b"00000000-1111-2222-3333-444444444444";

    fn key() -> Key {
        Key::new(BOOT_ID, 7, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    }

    fn some_leaves() -> CpuId {
        let entry = |function| kvm_cpuid_entry2 {
            function,
            index: 1,
            flags: 1,
            eax: 0xffff_ffff,
            ebx: 3,
            ecx: 4,
            edx: 5,
            ..Default::default()
        };
        CpuId::from_entries(&[entry(0), entry(0x8000_0001)]).unwrap()
    }

    /// A place with such a file.
    fn kept() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("ferry");
        write(&place, &key(), &some_leaves()).unwrap();
        (home, place)
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let (_home, place) = kept();
        assert_eq!(read(&place, &key()), Some(some_leaves()));
        let modes = [&place, &place.join(NAME)].map(|path| fs::metadata(path).unwrap().mode() & 0o777);
        assert_eq!(modes, [0o700, 0o600]);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn it_holds_for_one_boot_one_load_of_kvm_and_one_processor() {
        let (_home, place) = kept();
        let processor = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let other_boot = Key::new(b"00000000-1111-2222-3333-444444444445", 7, processor);
        let other_load = Key::new(BOOT_ID, 8, processor);
        let other_processor = Key::new(BOOT_ID, 7, [1, 2, 3, 4, 5, 6, 7, 8, 10]);
        for other in [other_boot, other_load, other_processor] {
            assert_eq!(read(&place, &other), None);
        }
        // It is replaced by the next one.
        write(&place, &other_load, &some_leaves()).unwrap();
        assert_eq!((read(&place, &other_load), read(&place, &key())), (Some(some_leaves()), None));
    }

    #[test]
    fn a_file_that_is_cut_longer_or_of_another_format_counts_for_nothing() {
        let (_home, place) = kept();
        let file = place.join(NAME);
        let whole = fs::read(&file).unwrap();
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length], &key()), None, "{length} bytes");
        }
        let entries = MAGIC.len() + KEY + 4;
        let with_count =
            |count: u32| [&whole[..entries - 4], &count.to_le_bytes(), &whole[entries..]].concat();
        let too_many = KVM_MAX_CPUID_ENTRIES + 1;
        let full = [&with_count(too_many as u32)[..entries], &vec![0; too_many * NUMBERS * 4]].concat();
        let of_another_format = [b"FERRYCP0", &whole[8..]].concat();
        let none = with_count(0)[..entries].to_vec();
        for wrong in [[&whole[..], &[0]].concat(), with_count(3), full, of_another_format, none] {
            fs::write(&file, wrong).unwrap();
            assert_eq!(read(&place, &key()), None);
        }
        fs::write(&file, vec![0; LONGEST as usize + 1]).unwrap();
        assert_eq!(read(&place, &key()), None);
    }

    #[test]
    fn what_others_may_have_written_counts_for_nothing() {
        let (home, place) = kept();
        let file = place.join(NAME);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
        assert_eq!(read(&place, &key()), None);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let elsewhere = home.path().join("elsewhere");
        fs::rename(&file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert_eq!(read(&place, &key()), None);
        // A link is replaced, and what it leads to stays.
        write(&place, &key(), &some_leaves()).unwrap();
        assert!(read(&place, &key()).is_some() && elsewhere.exists());
        // SAFETY: takes nothing.
        if unsafe { libc::geteuid() } == 0 {
            std::os::unix::fs::chown(&file, Some(1), Some(1)).unwrap();
            assert_eq!(read(&place, &key()), None);
        }
    }

    #[test]
    fn nothing_is_written_where_others_may_write() {
        let (home, place) = kept();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(write(&place, &key(), &some_leaves()).is_err());
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&place, &link).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(write(&link, &key(), &some_leaves()).is_err());
        assert!(write(&home.path().join("no/such/place"), &key(), &some_leaves()).is_err());
    }

    #[test]
    fn a_place_that_is_taken_leaves_nothing_behind() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("ferry");
        DirBuilder::new().mode(0o700).create(&place).unwrap();
        fs::create_dir(place.join(NAME)).unwrap();
        assert!(write(&place, &key(), &some_leaves()).is_err());
        assert_eq!((read(&place, &key()), fs::read_dir(&place).unwrap().count()), (None, 1));
    }

    #[test]
    fn a_kvm_that_was_asked_once_is_not_asked_again() {
        let Ok(kvm) = probe::open() else { return };
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("ferry");
        let Some(key) = Key::of_host() else {
            println!("skipped: this host does not say which boot this is, or when KVM was loaded");
            return;
        };
        assert_eq!(key, Key::of_host().unwrap());
        let asked = leaves(&kvm, None).unwrap();
        assert_eq!(leaves(&kvm, Some(&place)).unwrap(), asked);
        assert_eq!(read(&place, &key), Some(asked));
        // What is there now is believed.
        write(&place, &key, &some_leaves()).unwrap();
        assert_eq!(leaves(&kvm, Some(&place)).unwrap(), some_leaves());
    }

    #[test]
    fn an_imitation_of_sysfs_has_no_number() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(number_in_sysfs(file.path()), None);
        assert_eq!(number_in_sysfs(Path::new("/no/such/thing")), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let after_the_key = [&MAGIC[..], &key().0, &bytes].concat();
            for bytes in [bytes, after_the_key] {
                if let Some(leaves) = parse(&bytes, &key()) {
                    prop_assert!(!leaves.as_slice().is_empty());
                }
            }
        }
    }
}
