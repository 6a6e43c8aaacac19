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

/// Makes a layer unless it is here.
fn add_layer(
    store: &Store,
    layer: &DiffId,
    write: impl FnOnce(&File) -> Result<(), Error>,
) -> Result<(), Error> {
    store.once(&store.layer_path(layer), Yard::Tmp, write).map(drop)
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
                add_layer(&store, &layer, |mut out| {
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
    let failed = add_layer(&store, &layer, |mut out| {
        out.write_all(b"half").unwrap();
        Err(Error::Damaged { path: "x".into() })
    });
    assert!(failed.is_err() && !store.has_layer(&layer));
    assert_eq!(left_over(&store), 0);
    add_layer(&store, &layer, |mut out| out.write_all(b"whole").map_err(Error::io("x"))).unwrap();
    assert_eq!(fs::read(store.layer(&layer).unwrap().path).unwrap(), b"whole");
}

#[test]
fn what_a_crash_left_is_removed_but_not_what_is_being_made() {
    let (_dir, store) = store();
    fs::write(store.root.join("tmp/crashed.erofs"), b"half").unwrap();
    let layer = diff_id("x");
    add_layer(&store, &layer, |mut out| {
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
    add_layer(&store, &layer, |mut out| out.write_all(b"whole").map_err(Error::io("x"))).unwrap();
    assert_eq!(fs::read(store.layer(&layer).unwrap().path).unwrap(), b"whole");
}

#[test]
fn another_name_leads_to_the_same_image_and_what_it_came_with() {
    let (_dir, store) = store();
    let [image, manifest, other] = ["image", "manifest", "other"].map(|text| Digest::of(text.as_bytes()));
    let name = |text: &str| text.parse::<Name>().unwrap();
    store.set_name(&name("redis:7"), image, Some(manifest), None).unwrap();
    let named = store.name(&name("redis:7")).unwrap().unwrap();
    store.tag(&name("localhost:5000/x"), &image, Some(&named)).unwrap();
    let tagged = store.name(&name("localhost:5000/x:latest")).unwrap().unwrap();
    assert_eq!((tagged.image, tagged.manifest), (image, Some(manifest)));
    // It is moved, and what another image came with is not this one's.
    store.tag(&name("localhost:5000/x"), &other, Some(&named)).unwrap();
    let moved = store.name(&name("localhost:5000/x")).unwrap().unwrap();
    assert_eq!((moved.image, moved.manifest), (other, None));
}

#[test]
fn images_are_what_their_digests_say() {
    let (_dir, store) = store();
    let (digest, _) = store.bring(b"{}", None).unwrap().finish().unwrap();
    assert_eq!(store.image(&digest).unwrap().unwrap().1, b"{}");
    assert!(store.image(&Digest::of(b"other")).unwrap().is_none());
    let path = store.image_path(&digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "{ }").unwrap();
    assert!(matches!(store.image(&digest), Err(Error::Damaged { .. })));
}

#[test]
fn names_move_and_digests_do_not() {
    let (_dir, store) = store();
    let [one, two, manifest, index] = [&b"1"[..], b"2", b"m", b"i"].map(Digest::of);
    let name: Name = "redis:7".parse().unwrap();
    assert_eq!(store.name(&name).unwrap(), None);
    store.set_name(&name, one, Some(manifest), Some(index)).unwrap();
    store.set_name(&"redis:8".parse().unwrap(), two, None, None).unwrap();
    assert_eq!(store.name(&name).unwrap().unwrap().image, one);
    let pinned = |digest: Digest| format!("redis@{digest}").parse::<Name>().unwrap();
    for digest in [manifest, index] {
        assert_eq!(store.name(&pinned(digest)).unwrap().unwrap().image, one);
    }
    assert_eq!(store.name(&pinned(two)).unwrap(), None);
    assert_eq!(store.name(&format!("red@{manifest}").parse().unwrap()).unwrap(), None);
    store.set_name(&name, two, None, None).unwrap();
    assert_eq!(store.name(&name).unwrap().unwrap().image, two);
    let names = || store.names().unwrap().into_iter().map(|named| named.name).collect::<Vec<_>>();
    assert_eq!(names(), ["docker.io/library/redis:7", "docker.io/library/redis:8"]);
    // A pinned name moves no tag, and cannot be taken by anything else.
    store.set_name(&pinned(manifest), one, Some(manifest), None).unwrap();
    store.set_name(&pinned(index), two, Some(manifest), None).unwrap();
    assert_eq!(names().len(), 3);
    assert_eq!(store.name(&pinned(manifest)).unwrap().unwrap().image, one);
    assert_eq!(store.name(&name).unwrap().unwrap().image, two);
}

/// A configuration with these layers, which are put into the store.
fn with_layers(store: &Store, names: &[&str]) -> Vec<u8> {
    let layers: Vec<DiffId> = names.iter().map(|name| diff_id(name)).collect();
    for layer in &layers {
        add_layer(store, layer, |mut out| out.write_all(b"layer").map_err(Error::io("x"))).unwrap();
    }
    let list: Vec<String> = layers.iter().map(|layer| format!("\"{layer}\"")).collect();
    let rootfs = format!("{{\"type\":\"layers\",\"diff_ids\":[{}]}}", list.join(","));
    format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{rootfs}}}").into_bytes()
}

/// An image of that name with these layers, one of them kept as it came.
fn named(store: &Store, name: &str, layers: &[&str]) -> (Digest, Held) {
    let configuration = with_layers(store, layers);
    let blob = Digest::of(name.as_bytes());
    let manifest = format!("{{\"layers\":[{{\"digest\":\"{blob}\"}}]}}");
    let incoming = store.bring(&configuration, Some(manifest.as_bytes())).unwrap();
    incoming.add_blob(&blob, |mut out| out.write_all(name.as_bytes()).map_err(Error::io("x"))).unwrap();
    let (digest, held) = incoming.finish().unwrap();
    store.set_name(&name.parse().unwrap(), digest, Some(Digest::of(manifest.as_bytes())), None).unwrap();
    (digest, held)
}

fn everything(store: &Store) -> usize {
    let directories = ["images", "manifests", "joins", "layers", "blobs", "names", "tmp", "partial"];
    directories.iter().map(|name| fs::read_dir(store.root.join(name)).unwrap().count()).sum()
}

#[test]
fn what_no_name_leads_to_is_swept() {
    let (_dir, store) = store();
    let (one, _) = named(&store, "one", &["a", "b"]);
    let (two, _) = named(&store, "two", &["b", "c"]);
    assert_eq!(store.sweep(&[]).unwrap(), Swept::default());
    store.remove(&["docker.io/library/one:latest".into()], &one, &[]).unwrap();
    assert!(!store.has_layer(&diff_id("a")), "nothing else has it");
    assert!(store.has_layer(&diff_id("b")) && store.has_layer(&diff_id("c")));
    assert!(
        store.blob(&Digest::of(b"one")).unwrap().is_none()
            && store.blob(&Digest::of(b"two")).unwrap().is_some()
    );
    // A container's image stays without a name.
    store.remove(&["docker.io/library/two:latest".into()], &two, &[two]).unwrap();
    assert!(store.has_layer(&diff_id("c")) && store.image(&two).unwrap().is_some());
    assert_eq!(store.sweep(&[]).unwrap().files, 3, "two layers and the configuration");
    assert_eq!(everything(&store), 0);
}

#[test]
fn removing_a_name_leaves_what_was_without_one_before() {
    let (_dir, store) = store();
    let (one, _) = named(&store, "one", &["a"]);
    let configuration = with_layers(&store, &["b"]);
    drop(store.bring(&configuration, None).unwrap().finish().unwrap());
    store.remove(&["docker.io/library/one:latest".into()], &one, &[]).unwrap();
    assert!(!store.has_layer(&diff_id("a")) && store.has_layer(&diff_id("b")));
}

#[test]
fn what_is_held_or_on_its_way_is_not_swept() {
    let (_dir, store) = store();
    let (digest, held) = named(&store, "one", &["a"]);
    let other = with_layers(&store, &["b"]);
    let manifest = format!("{{\"layers\":[{{\"digest\":\"{}\"}}]}}", Digest::of(b"packed"));
    let incoming = store.bring(&other, Some(manifest.as_bytes())).unwrap();
    incoming.add_blob(&Digest::of(b"packed"), |_| Ok::<_, Error>(())).unwrap();
    store.remove(&["docker.io/library/one:latest".into()], &digest, &[]).unwrap();
    store.sweep(&[]).unwrap();
    store.drop_blobs().unwrap();
    assert!(store.has_layer(&diff_id("a")) && store.has_layer(&diff_id("b")));
    assert!(store.blob(&Digest::of(b"packed")).unwrap().is_some());
    assert!(store.image(&digest).unwrap().is_some());
    drop((held, incoming));
    store.sweep(&[]).unwrap();
    assert_eq!(everything(&store), 0);
}

#[test]
fn of_an_image_that_is_none_nothing_is_kept_but_what_others_need() {
    let (_dir, store) = store();
    let (_, held) = named(&store, "one", &["a"]);
    let configuration = with_layers(&store, &["a"]);
    let other = String::from_utf8(configuration).unwrap().replace("linux\"", "linux\",\"author\":\"x\"");
    let incoming = store.bring(other.as_bytes(), None).unwrap();
    let add = |name| {
        incoming.add_layer(&diff_id(name), |mut out| out.write_all(b"x").map_err(Error::io("x"))).unwrap()
    };
    add("a");
    add("b");
    add("c");
    // Somebody else comes to need one of them.
    let (_, also_held) = named(&store, "two", &["c"]);
    incoming.forget();
    assert!(
        store.has_layer(&diff_id("a")) && store.has_layer(&diff_id("c")) && !store.has_layer(&diff_id("b"))
    );
    drop((held, also_held));
}

#[test]
fn half_a_download_is_gone_on_with_and_swept_with_the_rest() {
    let (_dir, store) = store();
    let digest = Digest::of(b"whole");
    let failed = store.bring(b"x", None).unwrap().add_blob(&digest, |mut file| {
        file.write_all(b"who").unwrap();
        Err(Error::Damaged { path: "x".into() })
    });
    assert!(failed.is_err() && store.blob(&digest).unwrap().is_none());
    // As the next process finds it.
    let store = Store::open(&store.root).unwrap();
    let incoming = store.bring(b"x", None).unwrap();
    incoming
        .add_blob(&digest, |mut file| {
            assert_eq!(file.metadata().unwrap().len(), 3);
            io::Seek::seek(&mut file, io::SeekFrom::End(0)).unwrap();
            file.write_all(b"le").map_err(Error::io("x"))
        })
        .unwrap();
    assert_eq!(fs::read(store.blob_path(&digest)).unwrap(), b"whole");
    drop(incoming);
    fs::write(store.root.join("partial/other"), b"half").unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 24 * 60 * 60);
    fs::write(store.root.join("partial/old"), b"half").unwrap();
    fs::File::options().write(true).open(store.root.join("partial/old")).unwrap().set_modified(old).unwrap();
    let store = Store::open(&store.root).unwrap();
    assert!(store.root.join("partial/other").exists() && !store.root.join("partial/old").exists());
    store.sweep(&[]).unwrap();
    assert_eq!(everything(&store), 0);
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
