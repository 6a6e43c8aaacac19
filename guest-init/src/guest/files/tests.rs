use super::*;
use crate::fault::fault;
use crate::sys::file::{CWD, open};
use std::os::unix::fs::{PermissionsExt, symlink};

fn root() -> (tempfile::TempDir, Fd) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    let path = dir.path().join("root");
    let fd = open(CWD, path.to_str().unwrap(), O_PATH | O_DIRECTORY, 0).unwrap();
    (dir, fd)
}

fn read_call(path: &str, offset: u64, len: u32) -> ReadFileRequest {
    ReadFileRequest { path: path.into(), offset, len, ..Default::default() }
}

#[test]
fn a_path_in_a_container_is_told_from_one_of_the_guest() {
    assert_eq!(container_of("/run/kata-containers/web/rootfs/etc/x"), Some(("web", "/etc/x")));
    assert_eq!(container_of("/run/kata-containers/web/rootfs"), Some(("web", "")));
    for other in
        ["/run/kata-containers/web/rootfs2/x", "/run/kata-containers/web", "/run/kata-containersx/web/rootfs"]
    {
        assert_eq!(container_of(other), None, "{other}");
    }
}

#[test]
fn files_are_read_in_parts() {
    let (dir, root) = root();
    std::fs::write(dir.path().join("root/f"), b"0123456789").unwrap();
    assert_eq!(read(&root, &read_call("/f", 3, 4)).unwrap().data, b"3456");
    assert_eq!(read(&root, &read_call("f", 8, u32::MAX)).unwrap().data, b"89");
    assert_eq!(read(&root, &read_call("f", 10, 5)).unwrap().data, b"");
}

#[test]
fn a_pipe_or_a_directory_is_not_read() {
    let (_dir, root) = root();
    file::mknod(root.raw(), "pipe", file::S_IFIFO | 0o666, 0).unwrap();
    for path in ["pipe", "/"] {
        assert_eq!(read(&root, &read_call(path, 0, 1)), Err(fault!(InvalidArgument, "not a regular file")));
    }
}

#[test]
fn links_are_followed_inside_the_root_alone() {
    let (dir, root) = root();
    std::fs::write(dir.path().join("secret"), b"outside").unwrap();
    std::fs::write(dir.path().join("root/secret"), b"inside").unwrap();
    symlink("../secret", dir.path().join("root/link")).unwrap();
    assert_eq!(read(&root, &read_call("link", 0, 100)).unwrap().data, b"inside");
    let of = |follow| {
        stat(&root, &StatFileRequest { path: b"link".into(), follow, ..Default::default() }).unwrap()
    };
    assert_eq!((of(true).mode & S_IFMT, of(true).size), (S_IFREG, 6));
    assert_eq!((of(false).mode & S_IFMT, of(false).link_target), (S_IFLNK, b"../secret".to_vec()));
}

#[test]
fn a_directory_comes_in_pieces_without_gaps() {
    let (dir, root) = root();
    for n in 0..3000 {
        std::fs::write(dir.path().join(format!("root/a-file-{n}")), "").unwrap();
    }
    let (mut names, mut call) = (Vec::new(), ReadDirRequest::default());
    loop {
        let answer = list(&root, &call).unwrap();
        names.extend(answer.names);
        call.cursor = answer.next;
        if call.cursor == 0 {
            break;
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3000);
}

#[test]
fn what_stands_in_the_way_of_a_copy_is_replaced_and_never_followed() {
    let (dir, root) = root();
    let outside = dir.path().join("outside");
    std::fs::write(&outside, b"untouched").unwrap();
    symlink(&outside, dir.path().join("root/f")).unwrap();
    begin(&root, "f").unwrap();
    assert!(dir.path().join("root/f").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(&outside).unwrap(), b"untouched");
    std::fs::remove_file(dir.path().join("root/f")).unwrap();
    symlink(&outside, dir.path().join("root/f")).unwrap();
    assert!(go_on(&root, "f").is_err(), "a link put there between two parts");
    file::mknod(root.raw(), "pipe", file::S_IFIFO | 0o666, 0).unwrap();
    assert!(go_on(&root, "pipe").is_err());
}

#[test]
fn mode_bits_outlive_the_change_of_owner() {
    let (dir, root) = root();
    let file = begin(&root, "f").unwrap();
    give(&file, (u32::MAX, u32::MAX), 0o104755).unwrap();
    let mode = std::fs::metadata(dir.path().join("root/f")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o4755);
}
