//! Shared directories as a guest's programs see them: the locked-in helper process serves Linux's own client, which is the same
//! in a guest, through /dev/fuse of this machine. Where that cannot be mounted, the tests say so and pass.

use ferry_vmm::backends::fs::MAX_MESSAGE;
use ferry_vmm::backends::fs::frame::{HEAD, Head};
use rustix::fs::{
    CWD, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags, fallocate, flock,
    mknodat, openat, renameat_with, seek,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// As many descriptors as a helper here may have: few, so that they do run out.
const DESCRIPTORS: u64 = 232;

/// What is to be shared, and how.
#[derive(Clone, Default)]
struct Wanted {
    read_only: bool,
    /// A file, instead of a fresh directory.
    file: Option<PathBuf>,
    /// Whom the helper runs as, instead of as root.
    user: Option<u32>,
}

/// A mounted share: what the guest sees is below `guest`, what the host has below `host`.
struct Mounted {
    guest: PathBuf,
    host: PathBuf,
    _directories: [tempfile::TempDir; 2],
    helper: Child,
    pumps: Vec<JoinHandle<()>>,
}

impl Mounted {
    /// Shares and mounts; none where this machine does not allow it.
    fn new(wanted: Wanted) -> Option<Self> {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [host, guest] = [0, 1].map(|at: usize| directories[at].path().to_owned());
        let device = mount(&guest)?;
        let (helper, socket) = start(&wanted, &host);
        let (kernel, far) = (device.try_clone().unwrap(), socket.try_clone().unwrap());
        let pumps = vec![
            std::thread::spawn(move || to_helper(kernel, far)),
            std::thread::spawn(move || to_kernel(socket, device)),
        ];
        Some(Self { guest, host, _directories: directories, helper, pumps })
    }

    /// A fresh directory that everything may be done with.
    fn writable() -> Option<Self> {
        Self::new(Wanted::default())
    }

    fn guest(&self, name: &str) -> PathBuf {
        self.guest.join(name)
    }

    fn host(&self, name: &str) -> PathBuf {
        self.host.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let target = CString::new(self.guest.to_str().unwrap()).unwrap();
        // SAFETY: the path outlives the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        // One that its lock has stopped has ended by itself.
        let ended = self.helper.try_wait().unwrap();
        let _ = self.helper.kill();
        let _ = self.helper.wait();
        for pump in self.pumps.drain(..) {
            let _ = pump.join();
        }
        assert!(ended.is_none() || std::thread::panicking(), "the helper has ended: {ended:?}");
    }
}

fn mount(target: &Path) -> Option<File> {
    let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
        println!("skipped: /dev/fuse does not open");
        return None;
    };
    let fd = device.as_raw_fd();
    let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other");
    let (target, options) = (CString::new(target.to_str().unwrap()).unwrap(), CString::new(options).unwrap());
    // SAFETY: all of these are strings that outlive the call.
    let mounted = unsafe {
        let (kind, data) = (c"fuse".as_ptr(), options.as_ptr().cast());
        libc::mount(c"ferry".as_ptr(), target.as_ptr(), kind, libc::MS_NOSUID | libc::MS_NODEV, data)
    };
    if mounted != 0 {
        println!("skipped: mounting is not allowed: {}", std::io::Error::last_os_error());
        return None;
    }
    Some(device)
}

/// Starts the helper as ferry does.
fn start(wanted: &Wanted, host: &Path) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let share = serde_json::json!({
        "tag": "volume0", "source": wanted.file.as_deref().unwrap_or(host), "read_only": wanted.read_only,
    });
    let task = serde_json::json!({ "share": share, "empty": empty.path(), "sandboxed": true });
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
    if let Some(user) = wanted.user {
        let own = host.join("ferry");
        fs::copy(env!("CARGO_BIN_EXE_ferry"), &own).unwrap();
        for path in [host, empty.path()] {
            chown(path, Some(user), Some(user)).unwrap();
        }
        command = Command::new(own);
        command.uid(user).gid(user);
    }
    command.arg0("ferry-share").arg(task.to_string()).stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    // SAFETY: between fork and exec only this one system call is made.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: DESCRIPTORS, rlim_max: DESCRIPTORS };
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            Ok(())
        })
    };
    let helper = command.spawn().unwrap();
    let mut said = String::new();
    BufReader::with_capacity(1, &ours).read_line(&mut said).unwrap();
    assert!(said.starts_with("{\"Ok\""), "{said}");
    if wanted.user.is_some() {
        fs::remove_file(host.join("ferry")).unwrap();
    }
    (helper, ours)
}

/// Carries the kernel's requests to the helper.
fn to_helper(mut device: File, mut helper: UnixStream) {
    let mut request = vec![0; MAX_MESSAGE];
    loop {
        match device.read(&mut request) {
            Ok(0) => return,
            Ok(length) => {
                let head = Head { length: length as u32, tag: 0, room: MAX_MESSAGE as u32 };
                let message = [&head.to_bytes()[..], &request[..length]].concat();
                if helper.write_all(&message).is_err() {
                    return;
                }
            }
            // A request was taken back before it was read.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {}
            Err(_) => return,
        }
    }
}

/// Carries the helper's answers to the kernel.
fn to_kernel(mut helper: UnixStream, mut device: File) {
    let mut head = [0; HEAD];
    while helper.read_exact(&mut head).is_ok() {
        let mut reply = vec![0; Head::from_bytes(head).expect("a head").length as usize];
        if helper.read_exact(&mut reply).is_err() {
            return;
        }
        if !reply.is_empty() {
            // The kernel refuses one to whom nobody waits any more.
            let _ = device.write(&reply);
        }
    }
}

#[track_caller]
fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn files_and_directories_are_the_hosts() {
    let Some(share) = Mounted::writable() else { return };
    fs::write(share.host("from-host"), "hello").unwrap();
    assert_eq!(fs::read_to_string(share.guest("from-host")).unwrap(), "hello");
    fs::create_dir_all(share.guest("a/b/c")).unwrap();
    let long: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(share.guest("a/b/c/long"), &long).unwrap();
    assert!(fs::read(share.host("a/b/c/long")).unwrap() == long);
    assert!(fs::read(share.guest("a/b/c/long")).unwrap() == long);
    assert_eq!(errno(fs::remove_dir(share.guest("a"))), Some(libc::ENOTEMPTY));
    assert_eq!(errno(File::open(share.guest("missing"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::create_dir(share.guest("a"))), Some(libc::EEXIST));
    fs::remove_dir_all(share.guest("a")).unwrap();
    assert!(!share.host("a").exists());
    fs::set_permissions(share.guest("from-host"), fs::Permissions::from_mode(0o4750)).unwrap();
    assert_eq!(fs::metadata(share.host("from-host")).unwrap().mode() & 0o7777, 0o4750);
    let time = std::time::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123_456_789);
    File::options().write(true).open(share.guest("from-host")).unwrap().set_modified(time).unwrap();
    assert_eq!(fs::metadata(share.host("from-host")).unwrap().modified().unwrap(), time);
}

#[test]
fn more_files_than_descriptors_are_listed_and_read() {
    let Some(share) = Mounted::writable() else { return };
    for number in 0..600 {
        fs::write(share.host(&format!("file-{number}")), number.to_string()).unwrap();
    }
    let listed: BTreeSet<_> = fs::read_dir(&share.guest)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(listed, (0..600).map(|number| format!("file-{number}")).collect());
    for round in 0..2 {
        for number in 0..600 {
            let path = share.guest(&format!("file-{number}"));
            assert_eq!(fs::read_to_string(path).unwrap(), number.to_string(), "{round}");
        }
    }
    let open: Vec<_> = (0..600).map(|n| File::open(share.guest(&format!("file-{n}")))).collect();
    let refused = open.iter().filter_map(|file| file.as_ref().err()).map(|error| error.raw_os_error());
    let refused: Vec<_> = refused.collect();
    assert!(refused.len() >= 400 && refused.iter().all(|errno| *errno == Some(libc::ENFILE)), "{refused:?}");
    drop(open);
    let until = Instant::now() + Duration::from_secs(20);
    // The kernel tells of closed files in its own time.
    while File::open(share.guest("file-1")).is_err() {
        assert!(Instant::now() < until, "what is closed is free again");
    }
}

#[test]
fn renames_take_their_flags() {
    let Some(share) = Mounted::writable() else { return };
    let write = |name: &str| fs::write(share.guest(name), name).unwrap();
    let read = |name: &str| fs::read_to_string(share.guest(name)).unwrap();
    ["one", "two"].into_iter().for_each(write);
    fs::create_dir(share.guest("d")).unwrap();
    let rename = |from, to, flags| renameat_with(CWD, share.guest(from), CWD, share.guest(to), flags);
    assert_eq!(rename("one", "two", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("one", "two", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((read("one"), read("two")), ("two".into(), "one".into()));
    rename("one", "d/three", RenameFlags::NOREPLACE).unwrap();
    rename("two", "d/three", RenameFlags::empty()).unwrap();
    assert_eq!(read("d/three"), "one");
    assert_eq!(fs::read_dir(&share.host).unwrap().count(), 1);
    assert_eq!(rename("d/three", "x", RenameFlags::WHITEOUT), Err(Errno::INVAL));
    rename("d", "e", RenameFlags::empty()).unwrap();
    assert_eq!(fs::read_to_string(share.host("e/three")).unwrap(), "one");
}

#[test]
fn an_unlinked_file_lives_as_long_as_it_is_open() {
    let Some(share) = Mounted::writable() else { return };
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).open(share.guest("gone")).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(share.guest("gone")).unwrap();
    assert!(!share.host("gone").exists());
    file.write_all(b" and after").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 16);
    file.set_len(6).unwrap();
    let mut contents = [0; 6];
    file.read_exact_at(&mut contents, 0).unwrap();
    assert_eq!(&contents, b"before");
}

#[test]
fn links_of_both_kinds_are_kept() {
    let Some(share) = Mounted::writable() else { return };
    fs::write(share.guest("file"), "contents").unwrap();
    fs::hard_link(share.guest("file"), share.guest("other")).unwrap();
    let (file, other) =
        (fs::metadata(share.guest("file")).unwrap(), fs::metadata(share.guest("other")).unwrap());
    assert_eq!((file.ino(), file.nlink()), (other.ino(), 2));
    symlink("/etc/passwd", share.guest("out")).unwrap();
    symlink("file", share.guest("in")).unwrap();
    assert_eq!(fs::read_link(share.guest("out")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_to_string(share.guest("in")).unwrap(), "contents");
    fs::hard_link(share.guest("out"), share.guest("out2")).unwrap();
    assert!(fs::symlink_metadata(share.host("out2")).unwrap().file_type().is_symlink());
    fs::remove_file(share.guest("file")).unwrap();
    assert_eq!(fs::read_to_string(share.guest("other")).unwrap(), "contents");
}

#[test]
fn files_are_appended_to_truncated_allocated_and_searched_for_holes() {
    let Some(share) = Mounted::writable() else { return };
    let open = || OpenOptions::new().append(true).create(true).open(share.guest("log")).unwrap();
    let (mut one, mut two) = (open(), open());
    for round in 0..10 {
        writeln!(one, "one {round}").unwrap();
        // What somebody else appends on the host is not written over.
        writeln!(OpenOptions::new().append(true).open(share.host("log")).unwrap(), "host {round}").unwrap();
        writeln!(two, "two {round}").unwrap();
    }
    assert_eq!(fs::read_to_string(share.host("log")).unwrap().lines().count(), 30);
    fs::write(share.guest("log"), "short").unwrap();
    assert_eq!(fs::read(share.host("log")).unwrap(), b"short");

    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(share.guest("sparse"))
        .unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert_eq!(fs::metadata(share.host("sparse")).unwrap().len(), 1 << 20);
    file.write_all_at(&[7; 65536], 0).unwrap();
    file.write_all_at(&[7; 65536], 512 << 10).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 64 << 10, (512 - 64) << 10).unwrap();
    file.sync_all().unwrap();
    assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), 64 << 10);
    assert_eq!(seek(&file, SeekFrom::Data(100 << 10)).unwrap(), 512 << 10);
    let copy = File::create(share.guest("copy")).unwrap();
    std::io::copy(&mut File::open(share.guest("sparse")).unwrap(), &mut &copy).unwrap();
    assert!(fs::read(share.host("copy")).unwrap() == fs::read(share.host("sparse")).unwrap());
    let space = rustix::fs::statvfs(&share.guest).unwrap();
    assert!(space.f_blocks > 0 && space.f_namemax == 255);
}

#[test]
fn a_shared_mapping_reaches_the_host() {
    let Some(share) = Mounted::writable() else { return };
    fs::write(share.guest("map"), [1; 8192]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(share.guest("map")).unwrap();
    // SAFETY: a fresh mapping of a file that keeps its length, used below and unmapped there.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let mapped =
            libc::mmap(std::ptr::null_mut(), 8192, protection, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(mapped, libc::MAP_FAILED);
        assert_eq!(*mapped.cast::<u8>().add(5000), 1);
        mapped.cast::<u8>().add(5000).write(9);
        assert_eq!(libc::msync(mapped, 8192, libc::MS_SYNC), 0);
        assert_eq!(fs::read(share.host("map")).unwrap()[5000], 9);
        mapped.cast::<u8>().write(8);
        libc::munmap(mapped, 8192);
    }
    drop(file);
    assert_eq!(fs::read(share.host("map")).unwrap()[0], 8);
}

#[test]
fn what_the_host_changes_is_seen_at_the_next_open() {
    let Some(share) = Mounted::writable() else { return };
    fs::write(share.host("config"), "old").unwrap();
    assert_eq!(fs::read_to_string(share.guest("config")).unwrap(), "old");
    fs::write(share.host("config"), "new").unwrap();
    let read = fs::read_to_string(share.guest("config")).unwrap();
    assert_eq!(read, "new");
    let until = Instant::now() + Duration::from_secs(20);
    // As editors do it: a new file takes the name. The old one may be believed in for a second.
    fs::write(share.host("next"), "renamed").unwrap();
    fs::rename(share.host("next"), share.host("config")).unwrap();
    while fs::read_to_string(share.guest("config")).unwrap() != "renamed" {
        assert!(Instant::now() < until, "the name goes on leading to the old file");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn locks_exclude_the_host_and_are_waited_for() {
    let Some(share) = Mounted::writable() else { return };
    fs::write(share.host("db"), "0123456789").unwrap();
    let open = |path: PathBuf| OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (guest, host) = (open(share.guest("db")), open(share.host("db")));
    flock(&guest, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(flock(&host, FlockOperation::NonBlockingLockShared), Err(Errno::AGAIN));
    flock(&guest, FlockOperation::Unlock).unwrap();
    flock(&host, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(flock(&guest, FlockOperation::NonBlockingLockShared), Err(Errno::AGAIN));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| flock(&guest, FlockOperation::LockExclusive));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        // Others are served meanwhile.
        assert_eq!(fs::read_to_string(share.guest("db")).unwrap(), "0123456789");
        flock(&host, FlockOperation::Unlock).unwrap();
        waiting.join().unwrap().unwrap();
    });

    let posix = |file: &File, kind: i32, start: i64| {
        let mut lock = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: start,
            l_len: 5,
            l_pid: 0,
        };
        // SAFETY: a complete structure that outlives the call.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw mut lock) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
        }
    };
    let on_host = |kind: i32, start: i64| {
        let mut lock = libc::flock { l_type: kind as i16, l_whence: 0, l_start: start, l_len: 5, l_pid: 0 };
        // SAFETY: as above.
        unsafe { libc::fcntl(host.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) == 0 }
    };
    posix(&guest, libc::F_WRLCK, 0).unwrap();
    assert!(!on_host(libc::F_RDLCK, 4) && on_host(libc::F_WRLCK, 5));
    assert_eq!(posix(&guest, libc::F_RDLCK, 5), Err(libc::EAGAIN));
    // Closing any descriptor of the file lets go of the process's locks on it.
    drop(open(share.guest("db")));
    assert!(on_host(libc::F_WRLCK, 0));
}

#[test]
fn extended_attributes_of_users_are_kept_and_others_are_not() {
    let Some(share) = Mounted::writable() else { return };
    let path = share.guest("file");
    fs::write(&path, "").unwrap();
    match rustix::fs::setxattr(&path, "user.colour", b"blue", XattrFlags::CREATE) {
        Err(Errno::OPNOTSUPP) => return println!("skipped: no extended attributes here"),
        result => result.unwrap(),
    }
    let mut value = [0; 16];
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut value[..]).unwrap(), 4);
    let hidden = rustix::fs::setxattr(share.host("file"), "user.ferry.owner", b"1:1", XattrFlags::empty());
    hidden.unwrap();
    assert_eq!(rustix::fs::listxattr(&path, &mut value[..]).unwrap(), b"user.colour\0".len());
    for name in ["user.ferry.owner", "trusted.overlay.opaque", "security.selinux"] {
        assert_eq!(
            rustix::fs::setxattr(&path, name, b"x", XattrFlags::empty()),
            Err(Errno::OPNOTSUPP),
            "{name}"
        );
    }
    let again = rustix::fs::setxattr(&path, "user.colour", b"red", XattrFlags::CREATE);
    assert_eq!(again, Err(Errno::EXIST));
    rustix::fs::removexattr(&path, "user.colour").unwrap();
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut value[..]), Err(Errno::NODATA));
}

#[test]
fn owners_and_groups_are_the_hosts_for_root() {
    let Some(share) = Mounted::writable() else { return };
    fs::write(share.guest("file"), "").unwrap();
    chown(share.guest("file"), Some(1234), Some(99)).unwrap();
    let stat = fs::metadata(share.host("file")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (1234, 99));
    fs::create_dir(share.guest("group")).unwrap();
    chown(share.guest("group"), None, Some(77)).unwrap();
    fs::set_permissions(share.guest("group"), fs::Permissions::from_mode(0o2775)).unwrap();
    fs::write(share.guest("group/new"), "").unwrap();
    assert_eq!(fs::metadata(share.host("group/new")).unwrap().gid(), 77);
    // Pipes and sockets are names only; devices are refused.
    mknodat(CWD, share.guest("pipe"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let device =
        mknodat(CWD, share.guest("null"), rustix::fs::FileType::CharacterDevice, Mode::empty(), 0x103);
    assert_eq!(device, Err(Errno::PERM));
}

#[test]
fn nothing_is_written_to_what_is_shared_for_reading() {
    let Some(share) = Mounted::new(Wanted { read_only: true, ..Wanted::default() }) else { return };
    fs::write(share.host("file"), "contents").unwrap();
    assert_eq!(fs::read_to_string(share.guest("file")).unwrap(), "contents");
    let read_only = Some(libc::EROFS);
    assert_eq!(errno(fs::write(share.guest("file"), "x")), read_only);
    assert_eq!(errno(fs::write(share.guest("new"), "x")), read_only);
    assert_eq!(errno(fs::remove_file(share.guest("file"))), read_only);
    assert_eq!(errno(fs::create_dir(share.guest("dir"))), read_only);
    assert_eq!(errno(fs::rename(share.guest("file"), share.guest("x"))), read_only);
    assert_eq!(errno(symlink("x", share.guest("link"))), read_only);
    assert_eq!(errno(fs::hard_link(share.guest("file"), share.guest("x"))), read_only);
    assert_eq!(errno(fs::set_permissions(share.guest("file"), fs::Permissions::from_mode(0o0))), read_only);
    let set = rustix::fs::setxattr(share.guest("file"), "user.x", b"x", XattrFlags::empty());
    assert_eq!(set, Err(Errno::ROFS));
    flock(File::open(share.guest("file")).unwrap(), FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(fs::read_to_string(share.host("file")).unwrap(), "contents");
    assert_eq!(fs::read_dir(&share.host).unwrap().count(), 1);
}

#[test]
fn a_file_alone_can_be_shared() {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("settings");
    fs::write(&path, "a").unwrap();
    fs::write(outside.path().join("secret"), "b").unwrap();
    let Some(share) = Mounted::new(Wanted { file: Some(path.clone()), ..Wanted::default() }) else { return };
    let names: Vec<_> = fs::read_dir(&share.guest).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["settings"]);
    assert_eq!(errno(File::open(share.guest("secret"))), Some(libc::ENOENT));
    fs::write(share.guest("settings"), "changed").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "changed");
    assert_eq!(errno(fs::write(share.guest("new"), "x")), Some(libc::EPERM));
    assert_eq!(errno(fs::remove_file(share.guest("settings"))), Some(libc::EPERM));
    let open = openat(CWD, share.guest("settings"), OFlags::RDONLY, Mode::empty()).unwrap();
    assert_eq!(rustix::fs::fstat(&open).unwrap().st_size, 7);
}

#[test]
fn an_ordinary_users_files_are_roots_in_the_guest_and_owners_are_remembered() {
    const USER: u32 = 4321;
    let Some(share) = Mounted::new(Wanted { user: Some(USER), ..Wanted::default() }) else { return };
    let owner = |path: &Path| {
        let stat = fs::symlink_metadata(path).unwrap();
        (stat.uid(), stat.gid())
    };
    assert_eq!(owner(&share.guest("")), (0, 0));
    fs::write(share.guest("made"), "x").unwrap();
    assert_eq!((owner(&share.guest("made")), owner(&share.host("made"))), ((0, 0), (USER, USER)));
    fs::write(share.host("roots"), "x").unwrap();
    assert_ne!(owner(&share.guest("roots")), (0, 0), "the host's root is somebody else");
    // What every database image does with its directory.
    fs::create_dir(share.guest("data")).unwrap();
    match chown(share.guest("data"), Some(999), Some(998)) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            println!("skipped: no extended attributes here")
        }
        result => {
            result.unwrap();
            assert_eq!((owner(&share.guest("data")), owner(&share.host("data"))), ((999, 998), (USER, USER)));
        }
    }
    symlink("made", share.guest("link")).unwrap();
    assert_eq!(owner(&share.host("link")), (USER, USER));
    fs::set_permissions(share.guest("made"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::write(share.guest("made"), "root writes what it may not").unwrap_or_else(|error| {
        println!("without a user namespace the host's permissions hold: {error}");
    });
}
