//! Volumes in a temporary directory, by several processes at once, and by ones that are killed.

use super::*;
use crate::runtime::fake_guest::request;
use crate::runtime::record;
use crate::runtime::state::{Containers, Error as StateError, Force};
use crate::runtime::volume::Kept;
use ferry_images::source::{Access, Keep, Pull, resolve};
use ferry_images::{Grammar, Progress, Reference, Registries, Store};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where a process that is started by a test works, and what it does there.
const WORK: &str = "FERRY_TEST_VOLUMES";

fn volume(name: &str) -> Volume {
    let kept = Kept { name: name.to_owned(), anonymous: name.is_empty(), copies: false };
    Volume { target: "/data".to_owned(), kept: Some(kept), ..Volume::default() }
}

fn containers() -> (tempfile::TempDir, Containers) {
    let root = tempfile::tempdir().unwrap();
    let containers = Containers::open(root.path());
    (root, containers)
}

/// An image in which there is this directory.
fn image(place: &Path, root: &Path) -> Ready {
    let store = Store::open(&place.join("store")).unwrap();
    let reference = Reference::parse(&format!("dir:{}", root.display()), Grammar::Registry).unwrap();
    let registries = Registries::new(BTreeMap::new());
    let access = Access { registries: &registries, pull: Pull::Missing, keep: Keep::Converted };
    let image = resolve(&store, &reference, &access, &() as &dyn Progress).unwrap();
    let segments = image.disk(&store).unwrap().segments;
    Ready { name: "image".to_owned(), image, segments }
}

/// What is in a directory: names, types, permissions, owners, times and contents, by path.
fn told(directory: &Path) -> BTreeMap<PathBuf, String> {
    let (mut all, mut left) = (BTreeMap::new(), vec![directory.to_owned()]);
    while let Some(path) = left.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let content = match found.file_type() {
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            kind if kind.is_file() => fs::read_to_string(&path).unwrap(),
            kind if kind.is_dir() => {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            _ => "else".to_owned(),
        };
        let (uid, gid) = (found.uid(), found.gid());
        let said = format!("{:o} {uid}:{gid} {} {content}", found.mode(), found.mtime());
        all.insert(path.strip_prefix(directory).unwrap().to_owned(), said);
    }
    all
}

#[test]
fn names_that_lead_elsewhere_are_none() {
    let (root, containers) = containers();
    let volumes = containers.volumes();
    for name in
        ["", ".", "..", "../x", "a/b", "/a", ".hidden", "a\0b", "a\nb", "é", "-x", "x", &"n".repeat(300)]
    {
        let made = volumes.create(name, BTreeMap::new(), false);
        assert!(matches!(made, Err(Error::InvalidName(_))), "{name:?}");
        assert!(volumes.find(name).is_err() && containers.remove_volume(name).is_err(), "{name:?}");
        let text = made.unwrap_err().to_string();
        assert!(!text.contains(['\0', '\n']), "{text:?}");
    }
    assert!(!root.path().join("volumes").exists(), "nothing was made for them");
}

#[test]
fn a_volume_is_made_once_private_and_stays_until_it_is_removed() {
    let (_root, containers) = containers();
    let volumes = containers.volumes();
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let (made, is_new) = volumes.create("data", labels.clone(), false).unwrap();
    assert!(is_new && made.record.labels == labels && made.data().is_dir());
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&made.directory), mode(made.directory.parent().unwrap())), (0o700, 0o700));
    fs::write(made.data().join("file"), "kept").unwrap();
    let (again, is_new) = volumes.create("data", BTreeMap::new(), true).unwrap();
    assert!(!is_new && again.record == made.record);
    volumes.create("another", BTreeMap::new(), false).unwrap();
    volumes.create("lock", BTreeMap::new(), false).unwrap();
    containers.remove_volume("lock").unwrap();
    let names: Vec<_> = volumes.list().unwrap().into_iter().map(|one| one.record.name).collect();
    assert_eq!(names, ["another", "data"]);
    containers.remove_volume("data").unwrap();
    assert!(matches!(volumes.find("data"), Err(Error::NotFound(_))));
    assert!(containers.remove_volume("data").unwrap_err().is_no_volume());
    let left: Vec<_> = fs::read_dir(&volumes.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.len() == 2 && left.iter().all(|name| name == ".lock" || name == "another"), "{left:?}");
}

#[test]
fn who_uses_a_volume_keeps_it_and_is_named() {
    let (root, containers) = containers();
    let volumes = containers.volumes();
    let mut seen = [volume("data")];
    let in_use = volumes.attach(&mut seen, &request().image).unwrap();
    assert!(seen[0].source.ends_with("data/data"));
    assert!(containers.remove_volume("data").unwrap_err().to_string().contains("try again"));
    let made = record::Made { volumes: seen.to_vec(), ..record::Made::default() };
    let entry = containers.create(record::Record::new(&name::id(), "web", made)).unwrap();
    let error = containers.remove_volume("data").unwrap_err().to_string();
    assert_eq!(error, "volume data is in use by container web: remove that first (ferry rm web)");
    drop((entry, in_use));
    // One that has ended has it still.
    assert!(containers.remove_volume("data").unwrap_err().to_string().contains("container web"));
    containers.remove(&containers.find("web").unwrap(), Force::No).unwrap();
    containers.remove_volume("data").unwrap();
    drop(root);
}

#[test]
fn anonymous_volumes_go_with_their_container_unless_another_has_them() {
    let (_root, containers) = containers();
    let volumes = containers.volumes();
    let container = |name: &str, volumes: &[Volume]| {
        let made = record::Made { volumes: volumes.to_vec(), auto_remove: true, ..record::Made::default() };
        containers.create(record::Record::new(&name::id(), name, made)).unwrap()
    };
    let mut seen = [volume(""), volume(""), volume("named")];
    drop(volumes.attach(&mut seen, &request().image).unwrap());
    let names: Vec<String> = seen.iter().map(|one| one.name().unwrap().to_owned()).collect();
    assert_eq!(volumes.list().unwrap().len(), 3);
    let first = container("first", &seen);
    let mut by_name = volume(&names[1]);
    by_name.target = "/other".to_owned();
    let second = container("second", &[by_name]);
    first.remove();
    containers.drop_volumes(&seen);
    let left: Vec<_> = volumes.list().unwrap().into_iter().map(|one| one.record.name).collect();
    assert!(left.len() == 2 && !left.contains(&names[0]), "{left:?}");
    // The ferry of the second is killed: whoever looks next sees to what it leaves.
    drop(second);
    assert!(containers.list().unwrap().is_empty());
    let left: Vec<_> = volumes.list().unwrap().into_iter().map(|one| one.record.name).collect();
    assert_eq!(left, [names[1].clone(), "named".to_owned()]);
    assert!(matches!(containers.remove_volume("nothing"), Err(StateError::Volumes(Error::NotFound(_)))));
}

#[test]
fn an_empty_volume_gets_what_the_image_has_there_once() {
    let here = tempfile::tempdir().unwrap();
    let root = here.path().join("root");
    fs::create_dir_all(root.join("srv/data/deep/er")).unwrap();
    fs::write(root.join("srv/data/deep/er/file"), "text").unwrap();
    fs::hard_link(root.join("srv/data/deep/er/file"), root.join("srv/data/again")).unwrap();
    fs::set_permissions(root.join("srv/data/deep/er/file"), Permissions::from_mode(0o640)).unwrap();
    fs::write(here.path().join("secret"), "outside").unwrap();
    symlink(here.path().join("secret"), root.join("srv/data/out")).unwrap();
    symlink("../../../..", root.join("srv/data/up")).unwrap();
    symlink("srv/data", root.join("data")).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(root.join("srv/data/again"), Some(999), Some(998)).unwrap();
        std::os::unix::fs::chown(root.join("srv/data/deep/er"), Some(999), None).unwrap();
        std::os::unix::fs::lchown(root.join("srv/data/up"), Some(999), Some(998)).unwrap();
    }
    // Nobody may write where the copy has to be made.
    fs::set_permissions(root.join("srv/data/deep"), Permissions::from_mode(0o511)).unwrap();
    let image = image(here.path(), &root);
    let volumes = Volumes::open(&here.path().join("volumes"));
    let fill = |name: &str, place: &str| volumes.hold(name, false, Some((&image, place))).unwrap().0.data();
    let filled = fill("whole", "/data");
    assert_eq!(told(&filled), told(&root.join("srv/data")));
    let number = |name: &str| fs::metadata(filled.join(name)).unwrap().ino();
    assert_eq!(number("again"), number("deep/er/file"));
    fs::remove_file(filled.join("again")).unwrap();
    fill("whole", "/data");
    assert!(!filled.join("again").exists(), "it was not empty");
    for place in ["/nothing", "/srv/data/again", "/srv/data/out"] {
        assert_eq!(fs::read_dir(fill("empty", place)).unwrap().count(), 0, "{place}");
    }
    // Somebody uses it already, and sees what is there change by its own hand alone.
    let (stored, _user) = volumes.hold("used", false, None).unwrap();
    fill("used", "/data");
    assert_eq!(fs::read_dir(stored.data()).unwrap().count(), 0);
}

#[test]
fn what_a_guest_has_made_impassable_or_deep_is_removed() {
    let (_root, containers) = containers();
    let (made, _) = containers.volumes().create("deep", BTreeMap::new(), false).unwrap();
    let closed = made.data().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("file"), "").unwrap();
    symlink("/", closed.join("link")).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    // Deeper than a path is long, made from within as a guest does.
    let mut at = rustix::fs::open(made.data(), rustix::fs::OFlags::DIRECTORY, 0.into()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "dd", 0o700.into()).unwrap();
        at = rustix::fs::openat(&at, "dd", rustix::fs::OFlags::DIRECTORY, 0.into()).unwrap();
    }
    containers.remove_volume("deep").unwrap();
    assert!(containers.volumes().list().unwrap().is_empty() && !made.directory.exists());
    assert_eq!(fs::read_dir(&containers.volumes().root).unwrap().count(), 1, "the lock alone is left");
    assert!(Path::new("/").exists());
}

/// What the processes of the tests below do: they make, fill, use and remove the same volumes, over and over.
#[test]
fn work_of_other_processes() {
    let Some(place) = std::env::var_os(WORK).map(PathBuf::from) else { return };
    let image = image(&place, &place.join("root"));
    let containers = Containers::open(&place.join("state"));
    loop {
        for name in ["one", "two"] {
            let (stored, _lock) = containers.volumes().hold(name, false, Some((&image, "/data"))).unwrap();
            // Filled, and nobody takes it away while it is used.
            assert_eq!(fs::read_dir(stored.data()).unwrap().count(), FILES, "{name}");
            assert!(stored.directory.join(RECORD).exists());
        }
        match containers.remove_volume("one") {
            Ok(()) => {}
            Err(error) => assert!(error.is_of_volumes_use(), "{error}"),
        }
        let done = place.join(format!("done.{}", std::process::id()));
        let rounds = fs::read_to_string(&done).map_or(0, |text| text.len());
        fs::write(done, "x".repeat(rounds + 1)).unwrap();
    }
}

/// How many files the image of these processes has.
const FILES: usize = 60;

fn work(place: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture", "runtime::volumes::tests::work_of_other_processes"])
        .env(WORK, place);
    command.stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn processes_at_once_and_killed_ones_leave_volumes_whole() {
    let here = tempfile::tempdir().unwrap();
    let place = here.path();
    fs::create_dir_all(place.join("root/data")).unwrap();
    for number in 0..FILES {
        fs::write(place.join(format!("root/data/{number}")), "x".repeat(number)).unwrap();
    }
    let image = image(place, &place.join("root"));
    let until = Instant::now() + Duration::from_secs(120);
    let mut others = [work(place), work(place), work(place)];
    let rounds =
        |child: &Child| fs::metadata(place.join(format!("done.{}", child.id()))).map_or(0, |file| file.len());
    // Killed wherever they are, again and again; the rest go on.
    for round in 0..12_usize {
        let victim = &mut others[round % 3];
        while rounds(victim) < 2 {
            assert!(Instant::now() < until, "no progress");
            assert!(victim.try_wait().unwrap().is_none(), "a process has failed");
            std::thread::sleep(Duration::from_millis(3 + round as u64));
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        *victim = work(place);
    }
    for other in &mut others {
        assert!(other.try_wait().unwrap().is_none(), "a process has failed");
        other.kill().unwrap();
        other.wait().unwrap();
    }
    let containers = Containers::open(&place.join("state"));
    for name in ["one", "two"] {
        let (stored, _lock) = containers.volumes().hold(name, false, Some((&image, "/data"))).unwrap();
        assert_eq!(told(&stored.data()), told(&place.join("root/data")), "{name}");
    }
    for name in ["one", "two"] {
        containers.remove_volume(name).unwrap();
    }
    let left: Vec<_> =
        fs::read_dir(&containers.volumes().root).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"], "nothing of what the killed ones have left");
}
