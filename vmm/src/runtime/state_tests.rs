//! Containers' state in a temporary directory.

use super::*;
use crate::runtime::record::Made;

fn record(name: &str) -> Record {
    let runtime_directory = PathBuf::from("/nonexistent/ferry-x");
    Record { runtime_directory, ..Record::new(&name::id(), name, Made::default()) }
}

fn containers() -> (tempfile::TempDir, Containers) {
    let root = tempfile::tempdir().unwrap();
    let containers = Containers::open(root.path());
    (root, containers)
}

#[test]
fn a_container_stays_until_it_is_removed() {
    let (_root, containers) = containers();
    assert!(containers.list().unwrap().is_empty());
    let mut entry = containers.create(record("web")).unwrap();
    entry.update(|record| record.status = Status::Running).unwrap();
    let seen = containers.find("web").unwrap();
    assert!(seen.alive);
    assert_eq!(seen.record.status, Status::Running);
    assert!(matches!(containers.remove(&seen, Force::No), Err(Error::Running(_))));
    entry
        .update(|record| {
            record.status = Status::Exited;
            record.exit_code = Some(7);
        })
        .unwrap();
    drop(entry);
    let seen = containers.find(&seen.record.id[..6]).unwrap();
    assert_eq!((seen.alive, seen.record.status, seen.record.exit_code), (false, Status::Exited, Some(7)));
    containers.remove(&seen, Force::No).unwrap();
    assert!(matches!(containers.find("web"), Err(Error::NotFound(_))));
}

#[test]
fn a_name_is_one_containers() {
    let (_root, containers) = containers();
    let _first = containers.create(record("web")).unwrap();
    let error = containers.create(record("web")).unwrap_err();
    assert!(error.to_string().contains("ferry rm web"), "{error}");
    assert!(matches!(containers.create(record("../x")), Err(Error::InvalidName(_))));
    let one = containers.create(record("")).unwrap();
    let other = containers.create(record("")).unwrap();
    assert!(name::is_valid(&one.record().name));
    assert_ne!(one.record().name, other.record().name);
}

#[test]
fn what_a_killed_ferry_leaves_is_dead_or_removed() {
    let (root, containers) = containers();
    let mut kept = containers.create(record("kept")).unwrap();
    kept.update(|record| record.status = Status::Running).unwrap();
    let mut thrown = record("thrown");
    thrown.made.auto_remove = true;
    let thrown = containers.create(thrown).unwrap();
    drop((kept, thrown));
    fs::create_dir(root.path().join("containers/half-made")).unwrap();
    let list = containers.list().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].record.status, list[0].record.reason.as_str()), (Status::Dead, "vmm-killed"));
    assert_eq!(fs::read_dir(root.path().join("containers")).unwrap().count(), 1);
}

#[test]
fn a_beginning_of_several_ids_is_refused() {
    let (_root, containers) = containers();
    let (mut one, mut other) = (record("one"), record("other"));
    one.id = format!("aa{}", &one.id[2..]);
    other.id = format!("aa{}", &other.id[2..]);
    let _entries = [containers.create(one).unwrap(), containers.create(other).unwrap()];
    assert!(matches!(containers.find("aa"), Err(Error::Ambiguous(_))));
    assert!(matches!(containers.find(""), Err(Error::NotFound(_))));
}

#[test]
fn records_of_another_format_are_left_alone() {
    let (root, containers) = containers();
    let entry = containers.create(record("web")).unwrap();
    let path = entry.directory().join("state.json");
    drop(entry);
    for text in ["{\"version\": 1}", "not json", "{\"version\": 2}"] {
        fs::write(&path, text).unwrap();
        assert!(containers.list().unwrap().is_empty());
        assert!(path.exists(), "{text}");
    }
    assert!(root.path().join("lock").exists());
}

#[test]
fn everything_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let (root, containers) = containers();
    let entry = containers.create(record("web")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(entry.directory()), 0o700);
    assert_eq!(mode(&root.path().join("containers")), 0o700);
    assert_eq!(mode(&entry.directory().join("state.json")), 0o600);
}
