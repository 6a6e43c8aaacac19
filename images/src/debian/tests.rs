//! Everything here works without a network; what needs a mirror is proven where the build runs for real.

use super::*;

fn package(bytes: &[u8]) -> Package {
    Package {
        name: "sample".into(),
        version: "1:2.0-1+b1~deb13u1".into(),
        arch: "amd64".into(),
        filename: "pool/main/s/sample/sample_2.0-1+b1~deb13u1_amd64.deb".into(),
        size: bytes.len() as u64,
        sha256: Digest::of(bytes).hex(),
    }
}

/// A machine whose mirror is a directory.
fn machine() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (etc, mirror) = (dir.path().join("etc"), dir.path().join("debian"));
    fs::create_dir_all(&etc).unwrap();
    fs::create_dir_all(mirror.join("pool/main/s/sample")).unwrap();
    fs::write(etc.join("sources.list"), format!("deb file:{} trixie main\n", mirror.display())).unwrap();
    (dir, mirror)
}

fn apt_is_installed() -> bool {
    Path::new("/usr/bin/apt-config").exists() && Path::new("/usr/lib/apt/apt-helper").exists()
}

#[test]
fn refuses_what_cannot_be_a_package() {
    let good = package(b"x");
    assert!(good.check().is_ok());
    for broken in [
        Package { name: "-oDir=/".into(), ..good.clone() },
        Package { name: "a b".into(), ..good.clone() },
        Package { version: "1\n2".into(), ..good.clone() },
        Package { filename: "pool/../../etc/passwd".into(), ..good.clone() },
        Package { filename: "/etc/passwd".into(), ..good.clone() },
        Package { sha256: "../x".into(), ..good.clone() },
    ] {
        assert!(matches!(broken.check(), Err(Error::Malformed(_))), "{broken:?}");
    }
}

#[test]
fn fetches_from_the_mirror_once_and_mends_a_damaged_cache() {
    if !apt_is_installed() {
        return;
    }
    let (dir, mirror) = machine();
    let sample = package(b"content");
    let pool = mirror.join(&sample.filename);
    fs::write(&pool, b"content").unwrap();
    let packages = Packages::open_with(&dir.path().join("cache"), &dir.path().join("etc")).unwrap();

    let paths = packages.fetch(std::slice::from_ref(&sample), &()).unwrap();
    assert_eq!(fs::read(&paths[0]).unwrap(), b"content");
    fs::write(&paths[0], b"damaged").unwrap();
    packages.fetch(std::slice::from_ref(&sample), &()).unwrap();
    assert_eq!(fs::read(&paths[0]).unwrap(), b"content");
    fs::remove_file(&pool).unwrap();
    packages.fetch(&[sample], &()).unwrap();
}

#[test]
fn does_not_hand_out_other_bytes_than_the_lock_names() {
    if !apt_is_installed() {
        return;
    }
    let (dir, mirror) = machine();
    let sample = package(b"content");
    fs::write(mirror.join(&sample.filename), b"another").unwrap();
    let packages = Packages::open_with(&dir.path().join("cache"), &dir.path().join("etc")).unwrap();
    assert!(packages.fetch(&[sample], &()).is_err());
}

#[test]
fn says_that_there_is_no_mirror() {
    let dir = tempfile::tempdir().unwrap();
    let error = Packages::open_with(&dir.path().join("cache"), dir.path()).unwrap_err();
    assert!(matches!(error, Error::NoMirror(_)), "{error}");
}
