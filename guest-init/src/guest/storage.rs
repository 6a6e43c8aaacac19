//! Storages: the filesystems that the guest mounts for containers, before any container sees them.

use super::verity::Devices;
use crate::agent::Mounted;
use crate::api::agent::{Storage, UpdateEphemeralMountsRequest};
use crate::prelude::*;
use crate::spec::environment::value;
use crate::spec::mount_options::Options;
use crate::sys::file::{CWD, O_DIRECTORY, O_NOFOLLOW, O_PATH, O_RDONLY};
use crate::sys::{file, mount as m};

/// Most block devices looked at in search of one.
const DISK_LIMIT: usize = 1024;

/// The storage drivers that there are.
pub const DRIVERS: [&str; 8] =
    ["mmioblk", "blk", "nvdimm", "ephemeral", "local", "overlayfs", "bind", "virtio-fs"];

/// Mounts a storage at its mount point, which is made.
pub fn mount(storage: &Storage, disks: &mut Disks) -> Result<Mounted> {
    refuse_if!(storage.fs_group.is_some(), Unimplemented, "a storage's fs_group is not supported");
    if !storage.mount_point.starts_with('/') || storage.mount_point.split('/').any(|part| part == "..") {
        return Err(fault!(InvalidArgument, "mount point `{}` is not an absolute path", storage.mount_point));
    }
    let mut options = Options::parse(&storage.options);
    let mut verified = Devices::default();
    let source = match storage.driver.as_str() {
        driver if is_on_disk(driver) => match open_disks(storage, disks, &mut options, &mut verified)? {
            Some(disk) => disk,
            None => return Ok(Mounted::NotYet),
        },
        "overlayfs" => {
            prepare_overlay(&options)?;
            storage.source.clone()
        }
        "local" => return make_local(storage, &options).map(|()| Mounted::Yes),
        "ephemeral" | "virtio-fs" => storage.source.clone(),
        "bind" => {
            let below = if options.bind == Some(m::Recursion::Tree) { m::MS_REC } else { 0 };
            options.superblock |= m::MS_BIND | below;
            storage.source.clone()
        }
        other => return Err(fault!(Unimplemented, "no storage driver `{other}`")),
    };
    make_directories(&storage.mount_point).context(format_args!("make {}", storage.mount_point))?;
    let (flags, data) = (options.legacy_flags() | m::MS_SILENT, options.legacy_data());
    let result = m::mount(&source, &storage.mount_point, &storage.fstype, flags, &data);
    let doing =
        format_args!("mount storage {} ({}) on {}", storage.source, storage.fstype, storage.mount_point);
    if result == Err(Errno::EIO) && verified.check(&storage.driver_options)? != 0 {
        return Err(fault!(DataLoss, "{doing}: its data do not match its root hash"));
    }
    result.context(doing)?;
    Ok(Mounted::Yes)
}

/// Whether a driver's sources are disks or partitions.
pub fn is_on_disk(driver: &str) -> bool {
    matches!(driver, "mmioblk" | "blk" | "nvdimm")
}

/// Finds a storage's disk, and those that its options name; `None` while one of them is not there.
fn open_disks(
    storage: &Storage,
    disks: &mut Disks,
    options: &mut Options,
    verified: &mut Devices,
) -> Result<Option<String>> {
    let mut open = |source: &str| match disks.find(source)? {
        Some(disk) => verified.open(source, disk, &storage.driver_options).map(Some),
        None => Ok(None),
    };
    // The devices that further data of an EROFS are on.
    for word in options.data.iter_mut().filter(|_| storage.fstype == "erofs") {
        let Some(device) = word.strip_prefix("device=") else { continue };
        match open(device)? {
            Some(disk) => *word = format!("device={disk}"),
            None => return Ok(None),
        }
    }
    let disk = open(&storage.source)?;
    // A disk that is to be verified is never read as it is.
    verified.check(&storage.driver_options)?;
    Ok(disk)
}

/// A directory of the guest's own, for containers to share or keep. It stays when they go.
fn make_local(storage: &Storage, options: &Options) -> Result {
    let doing = format_args!("make {}", storage.mount_point);
    if file::stat_at(CWD, &storage.mount_point).is_ok() {
        return Ok(());
    }
    make_directories(&storage.mount_point).context(doing)?;
    match value(&options.data, "mode").map(|mode| u32::from_str_radix(mode, 8)) {
        Some(Ok(mode)) => file::chmod(CWD, &storage.mount_point, mode).context(doing),
        Some(Err(_)) => Err(fault!(InvalidArgument, "{doing}: no such mode")),
        None => Ok(()),
    }
}

/// `UpdateEphemeralMounts`: changes the options of mounted tmpfs, such as `size=`.
pub fn update_ephemeral(call: &UpdateEphemeralMountsRequest) -> Result {
    for storage in &call.storages {
        let doing = format_args!("change the mount on {}", storage.mount_point);
        let is_tmpfs = storage.driver == "ephemeral" && storage.fstype == "tmpfs";
        refuse_if!(!is_tmpfs, InvalidArgument, "{doing}: only ephemeral tmpfs can be changed");
        let options = Options::parse(&storage.options);
        let flags = options.legacy_flags() | m::MS_REMOUNT;
        m::mount("", &storage.mount_point, "", flags, &options.legacy_data()).context(doing)?;
    }
    Ok(())
}

/// Unmounts a storage, lazily when something still uses it, and removes its mount point.
pub fn unmount(mount_point: &str) {
    match m::unmount(mount_point) {
        // What is no mount is a directory that stays.
        Err(Errno::EINVAL) => return,
        Err(Errno::EBUSY) => drop(m::detach(mount_point)),
        _ => {}
    }
    let _ = file::rmdir(CWD, mount_point);
}

/// Makes a directory and those above it. Only the guest itself writes where this is used, so the path is
/// walked as it stands.
pub fn make_directories(path: &str) -> SysResult<()> {
    match (file::ensure_dir(CWD, path, 0o755), path.rsplit_once('/')) {
        // As deep as the kernel takes paths.
        (Err(Errno::ENOENT), Some((above, _))) if !above.is_empty() => {
            make_directories(above)?;
            file::ensure_dir(CWD, path, 0o755)
        }
        (other, _) => other,
    }
}

/// Where the kernel shows its disks and partitions.
const DISKS: &str = "/sys/class/block";

/// The disks that there are, and their serial numbers as far as somebody has looked at them. Disks come and go: it holds
/// until PID 1 waits again.
#[derive(Default)]
pub struct Disks(Vec<(String, Option<String>)>);

impl Disks {
    /// The device node of a disk: a path below /dev, the disk whose serial is the NAME of `serial=NAME`, the partition whose
    /// name in its GPT is the NAME of `partname=NAME`, or the virtio disk at `pci=SLOT/SLOT…`. `None` while there is no such
    /// disk.
    pub fn find(&mut self, source: &str) -> Result<Option<String>> {
        if source.starts_with("/dev/") {
            return Ok(file::stat_at(CWD, source).ok().map(|_| source.into()));
        }
        let (what, wanted) = source.split_once('=').unwrap_or_default();
        let is_known = ["serial", "partname", "pci"].contains(&what);
        refuse_if!(!is_known, InvalidArgument, "`{source}` is no /dev path, serial=, partname= or pci=");
        if self.0.is_empty() {
            let directory = file::open(CWD, DISKS, O_RDONLY | O_DIRECTORY, 0);
            let names = directory.and_then(|directory| file::list(directory.raw(), DISK_LIMIT));
            self.0 = names.context("list disks")?.into_iter().map(|name| (name, None)).collect();
        }
        let is_it = |(name, serial): &mut &mut (String, Option<String>)| match what {
            "serial" => serial.get_or_insert_with(|| property(name, "serial")).trim_ascii() == wanted,
            "pci" => has_place(DISKS, name, wanted),
            _ => property(name, "uevent").lines().any(|line| line.strip_prefix("PARTNAME=") == Some(wanted)),
        };
        let mut found = self.0.iter_mut().filter_map(|mut disk| is_it(&mut disk).then_some(&disk.0));
        match (found.next(), found.next()) {
            (Some(name), None) => Ok(Some(format!("/dev/{name}"))),
            (None, _) => Ok(None),
            (Some(one), Some(other)) => {
                Err(fault!(FailedPrecondition, "both {one} and {other} are {source}: which one is meant?"))
            }
        }
    }
}

/// A small file about a disk.
fn property(disk: &str, name: &str) -> String {
    file::read_control(CWD, &format!("{DISKS}/{disk}/{name}")).unwrap_or_default()
}

/// Whether a virtio disk is at this place on the PCI bus: slots in hexadecimal, those of bridges first, as Kata writes them.
fn has_place(directory: &str, disk: &str, wanted: &str) -> bool {
    let link = file::open(CWD, &format!("{directory}/{disk}"), O_PATH | O_NOFOLLOW, 0);
    let link = link.and_then(|link| file::read_link(&link));
    let link = String::from_utf8_lossy(&link.unwrap_or_default()).into_owned();
    let way = link.split('/').skip_while(|part| *part != "pci0000:00").skip(1);
    let mut place = String::new();
    // Each is domain:bus:slot.function, where the bus is whatever the bridge has been given.
    for address in way.take_while(|part| !part.starts_with("virtio")) {
        place.push('/');
        place.push_str(address.get(8..10).unwrap_or_default());
    }
    place.get(1..) == Some(wanted)
}

/// Makes the upper and the work directory. The merged root shows the upper directory's own owner and mode, so
/// it gets those of the image's root.
fn prepare_overlay(options: &Options) -> Result {
    let (Some(upper), Some(work)) = (value(&options.data, "upperdir"), value(&options.data, "workdir"))
    else {
        return Ok(());
    };
    let lower = value(&options.data, "lowerdir").unwrap_or_default().split(':').next().unwrap_or_default();
    (|| {
        make_directories(upper)?;
        make_directories(work)?;
        let (has, wants) = (file::stat_at(CWD, upper)?, file::stat_at(CWD, lower)?);
        if (has.st_uid, has.st_gid) != (wants.st_uid, wants.st_gid) {
            file::chown(CWD, upper, wants.st_uid, wants.st_gid)?;
        }
        if has.st_mode != wants.st_mode {
            file::chmod(CWD, upper, wants.st_mode)?;
        }
        Ok(())
    })()
    .context("prepare the writable layer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_mount_points_that_make_no_sense_are_refused() {
        let storage = |driver: &str, source: &str, mount_point: &str| Storage {
            driver: driver.into(),
            source: source.into(),
            mount_point: mount_point.into(),
            ..Default::default()
        };
        for bad in [
            storage("mmioblk", "vda", "/run/x"),
            storage("mmioblk", "serial=x", "run/x"),
            storage("mmioblk", "serial=x", "/run/../etc"),
            storage("9p", "share", "/run/x"),
        ] {
            assert!(mount(&bad, &mut Disks::default()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_disk_that_is_not_there_may_come() {
        assert_eq!(Disks::default().find("/dev/no-such-disk"), Ok(None));
        assert_eq!(Disks::default().find("serial=no-such-serial"), Ok(None));
    }

    #[test]
    fn a_disk_is_known_by_its_place_on_the_pci_bus() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().to_str().unwrap();
        for (disk, leads) in [
            ("vda", "../../devices/pci0000:00/0000:00:1f.0/virtio3/block/vda"),
            ("vdb", "../../devices/pci0000:00/0000:00:02.0/0000:05:10.0/virtio7/block/vdb"),
            ("vdc", "../../devices/platform/feb00e00.virtio_mmio/virtio0/block/vdc"),
            ("sda", "../../devices/pci0000:00/0000:00:03.0/ata1/host0/block/sda"),
        ] {
            std::os::unix::fs::symlink(leads, dir.path().join(disk)).unwrap();
        }
        let at = |wanted: &str| -> Vec<&str> {
            ["vda", "vdb", "vdc", "sda", "no"]
                .into_iter()
                .filter(|disk| has_place(directory, disk, wanted))
                .collect()
        };
        assert_eq!((at("1f"), at("02/10")), (vec!["vda"], vec!["vdb"]));
        for nowhere in ["", "02", "10", "03", "02/10/01", "ffffffff"] {
            assert!(at(nowhere).is_empty(), "{nowhere}");
        }
    }

    #[test]
    fn directories_are_made_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        make_directories(path.to_str().unwrap()).unwrap();
        make_directories(path.to_str().unwrap()).unwrap();
        assert!(path.is_dir());
    }

    #[test]
    fn the_writable_layer_takes_the_mode_of_the_image_s_root() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        std::fs::create_dir(at("lower")).unwrap();
        std::fs::set_permissions(at("lower"), std::fs::Permissions::from_mode(0o711)).unwrap();
        let word = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("s/upper"), at("s/work"));
        prepare_overlay(&Options::parse(&[word])).unwrap();
        assert_eq!(std::fs::metadata(at("s/upper")).unwrap().permissions().mode() & 0o7777, 0o711);
        assert!(std::path::Path::new(&at("s/work")).is_dir());
    }
}
