//! Unix sockets: connecting without waiting, and who is at the other end.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Connects to the listener at `path`, or fails at once: where nobody listens, and where too many are waiting already.
/// The stream does not block either.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `socket` takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut address =
        libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    let name = path.as_os_str().as_bytes();
    if name.len() >= address.sun_path.len() || name.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for a Unix socket"));
    }
    for (byte, value) in address.sun_path.iter_mut().zip(name) {
        *byte = *value as libc::c_char;
    }
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the address is complete, its name ends in a zero, and its length is as said.
    match unsafe { libc::connect(fd, (&raw const address).cast(), length) } {
        0 => Ok(socket.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The user at the other end.
pub(crate) fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, at) = (stream.as_raw_fd(), (&raw mut peer).cast());
    // SAFETY: the structure is as long as said.
    match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, at, &mut length) } {
        0 => Ok(peer.uid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the other end is this process's own user, or root, who may do everything anyway.
#[cfg(feature = "cli")]
pub(crate) fn is_friend(stream: &UnixStream) -> bool {
    // SAFETY: takes nothing.
    let own = unsafe { libc::geteuid() };
    peer_uid(stream).is_ok_and(|uid| uid == own || uid == 0)
}

/// Connects as somebody else, which root alone can; none where this is not root.
#[cfg(test)]
pub(crate) fn connect_as_a_stranger(path: &Path) -> Option<UnixStream> {
    const SOMEBODY: libc::uid_t = 54321;
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root can be somebody else");
        return None;
    }
    let connected = std::thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            // SAFETY: takes numbers. Without the library in between it is this thread alone that changes.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, SOMEBODY, -1) }, 0);
            UnixStream::connect(path)
        });
        stranger.join()
    });
    Some(connected.expect("it becomes somebody else").expect("the socket is open to others"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn fails_at_once_where_nobody_listens() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(connect(&directory.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(connect(Path::new(&"x".repeat(200))).is_err());
    }

    #[test]
    fn tells_who_is_at_the_other_end() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        // SAFETY: takes nothing.
        assert_eq!(peer_uid(&ours).unwrap(), unsafe { libc::geteuid() });
    }

    #[cfg(feature = "cli")]
    #[test]
    fn somebody_else_is_no_friend() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        for (path, mode) in [(directory.path(), 0o755), (&path, 0o666)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let Some(_theirs) = connect_as_a_stranger(&path) else { return };
        assert!(!is_friend(&listener.accept().unwrap().0));
        let _ours = UnixStream::connect(&path).unwrap();
        assert!(is_friend(&listener.accept().unwrap().0));
    }

    #[test]
    fn fails_at_once_when_too_many_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // SAFETY: a second call of `listen` on an open descriptor shortens the queue.
        unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 1) };
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&path) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 10);
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
