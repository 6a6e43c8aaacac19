use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("ferry")).unwrap();
    (dir, store)
}

fn diff_id(text: &str) -> DiffId {
    DiffId(Digest::of(text.as_bytes()))
}

fn left_over(store: &Store) -> usize {
    fs::read_dir(store.root.join("tmp")).unwrap().count()
}

#[test]
fn a_layer_is_made_once_however_many_want_it() {
    let (_dir, store) = store();
    let (layer, made) = (diff_id("x"), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                store.add_layer(&layer, |mut out| {
                    made.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    out.write_all(&[7; 4096]).map_err(Error::io("x"))
                })
            });
        }
    });
    assert_eq!(made.load(Ordering::Relaxed), 1);
    assert_eq!(store.layer(&layer).unwrap().bytes, 4096);
    assert_eq!(left_over(&store), 0);
}

#[test]
fn nothing_is_kept_of_a_layer_that_failed() {
    let (_dir, store) = store();
    let layer = diff_id("x");
    let failed = store.add_layer(&layer, |mut out| {
        out.write_all(b"half").unwrap();
        Err(Error::Damaged { path: "x".into() })
    });
    assert!(failed.is_err() && !store.has_layer(&layer));
    assert_eq!(left_over(&store), 0);
    store.add_layer(&layer, |mut out| out.write_all(b"whole").map_err(Error::io("x"))).unwrap();
    assert_eq!(fs::read(store.layer(&layer).unwrap().path).unwrap(), b"whole");
}

#[test]
fn what_a_crash_left_is_removed_but_not_what_is_being_made() {
    let (_dir, store) = store();
    fs::write(store.root.join("tmp/crashed.erofs"), b"half").unwrap();
    let layer = diff_id("x");
    store
        .add_layer(&layer, |mut out| {
            Store::open(&store.root)?;
            assert_eq!(left_over(&store), 1, "only the one being made is left");
            out.write_all(b"whole").map_err(Error::io("x"))
        })
        .unwrap();
    assert!(store.has_layer(&layer));
}

#[test]
fn starts_over_with_what_a_crash_left() {
    let (_dir, store) = store();
    let layer = diff_id("x");
    fs::write(store.root.join("tmp").join(store.layer_path(&layer).file_name().unwrap()), b"a longer half")
        .unwrap();
    store.add_layer(&layer, |mut out| out.write_all(b"whole").map_err(Error::io("x"))).unwrap();
    assert_eq!(fs::read(store.layer(&layer).unwrap().path).unwrap(), b"whole");
}

#[test]
fn images_are_what_their_digests_say() {
    let (_dir, store) = store();
    let digest = store.add_image(b"{}").unwrap();
    assert_eq!(store.image(&digest).unwrap().as_deref(), Some(&b"{}"[..]));
    assert_eq!(store.image(&Digest::of(b"other")).unwrap(), None);
    let path = store.root.join("images").join(format!("{}.json", digest.hex()));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "{ }").unwrap();
    assert!(matches!(store.image(&digest), Err(Error::Damaged { .. })));
}

#[test]
fn names_move_and_digests_do_not() {
    let (_dir, store) = store();
    let (one, two, manifest) = (Digest::of(b"1"), Digest::of(b"2"), Digest::of(b"m"));
    let name: Name = "redis:7".parse().unwrap();
    assert_eq!(store.name(&name).unwrap(), None);
    store.set_name(&name, one, Some(manifest)).unwrap();
    store.set_name(&"redis:8".parse().unwrap(), two, None).unwrap();
    assert_eq!(store.name(&name).unwrap().unwrap().image, one);
    let pinned = |digest: Digest| format!("redis@{digest}").parse::<Name>().unwrap();
    assert_eq!(store.name(&pinned(manifest)).unwrap().unwrap().image, one);
    assert_eq!(store.name(&pinned(two)).unwrap(), None);
    store.set_name(&name, two, None).unwrap();
    assert_eq!(store.name(&name).unwrap().unwrap().image, two);
    let names: Vec<_> = store.names().unwrap().into_iter().map(|named| named.name).collect();
    assert_eq!(names, ["docker.io/library/redis:7", "docker.io/library/redis:8"]);
}

#[test]
fn is_nobody_elses_business() {
    let (dir, _store) = store();
    let mode = fs::metadata(dir.path().join("ferry")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn leaves_a_store_of_another_format_alone() {
    let (dir, store) = store();
    fs::remove_file(store.root.join("version")).unwrap();
    fs::write(store.root.join("version"), "2\n").unwrap();
    let message = Store::open(&dir.path().join("ferry")).unwrap_err().to_string();
    assert!(message.contains("has format 2, this version knows 1"), "{message}");
}
