//! Network without privileges: `passt` in a process of its own, at the other end of a socket.
//!
//! It ends with the socket. It maps no address to the host's loopback, and answers no DHCP: the guest is told its addresses.

use super::{Network, NetworkError, Protocol, Published};
use crate::devices::virtio::net::MAX_MTU;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The guest's address, in a network that it is alone in.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const PREFIX: u8 = 24;
/// The way out.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The same for IPv6, in a network of unique local addresses (RFC 4193) whose 40 bits were drawn by lot.
const ADDRESS_SIX: Ipv6Addr = Ipv6Addr::new(0xfd14, 0x28f4, 0xd800, 0, 0, 0, 0, 0x15);
const PREFIX_SIX: u8 = 64;
const GATEWAY_SIX: Ipv6Addr = Ipv6Addr::new(0xfd14, 0x28f4, 0xd800, 0, 0, 0, 0, 2);
/// What is asked here is asked of the host's name server.
const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// How much of what passt has written may wait to be read. passt writes as much of a connection at once as the guest's window
/// takes, which is megabytes, and older versions forget what does not fit: the guest gets it again after two seconds.
const WAITING: libc::c_int = 4 << 20;

/// The program's path, if it is installed.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join("passt"))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

/// Whether there is such a network here.
pub fn is_installed() -> bool {
    program().is_some()
}

/// Whether this host has a way out by IPv6: asked of its routes, nothing is sent.
pub(super) fn host_has_ipv6() -> bool {
    /// The lowest global unicast address (RFC 4291).
    const SOMEWHERE: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1);
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok_and(|socket| socket.connect((SOMEWHERE, 9)).is_ok())
}

/// What the guest is told; with `six` of IPv6 too.
pub(super) fn network(six: bool) -> Network {
    let (mut addresses, mut gateways) = (vec![(ADDRESS.into(), PREFIX)], vec![GATEWAY.into()]);
    if six {
        addresses.push((ADDRESS_SIX.into(), PREFIX_SIX));
        gateways.push(GATEWAY_SIX.into());
    }
    Network { addresses, gateways, dns: vec![DNS.into()], mtu: MAX_MTU }
}

/// The two ends of its socket: the card's, and its own.
pub(super) fn ends() -> Result<(UnixStream, UnixStream), NetworkError> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| fault("no socket", error))?;
    let_wait(theirs.as_raw_fd(), WAITING);
    Ok((ours, theirs))
}

fn fault(what: &str, error: std::io::Error) -> NetworkError {
    NetworkError::Passt(format!("{what}: {error}"))
}

/// Starts it and waits until it serves; the socket is its.
pub(super) fn start(socket: UnixStream, published: &[Published], six: bool) -> Result<(), NetworkError> {
    let program = program().ok_or(NetworkError::NoPasst)?;
    let mut command = Command::new(program);
    command
        .args(arguments(socket.as_raw_fd(), published, six))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Keys that interrupt ferry are for the container.
        .process_group(0);
    // It is to have this one. What is done between fork and exec would have this process copied for it. Another thread's child that is
    // started meanwhile has it too, which hides from the guest that passt is gone, and no more.
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty())
        .map_err(|error| fault("its socket", error.into()))?;
    // It goes into the background when it serves, and this process of it ends.
    let output = command.output().map_err(|error| fault("it cannot be run", error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(NetworkError::Passt(last_line(&output.stderr))),
    }
}

/// Lets what is written to a socket wait to be read: so much of it, or as much as the host allows ordinary users
/// (`net.core.wmem_max`).
fn let_wait(socket: i32, bytes: libc::c_int) {
    let set = |option| {
        let (value, length) = (std::ptr::from_ref(&bytes).cast(), size_of_val(&bytes) as libc::socklen_t);
        // SAFETY: the value is an integer of the length said.
        unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, option, value, length) == 0 }
    };
    // Where neither is taken, it is slower.
    let _ = set(libc::SO_SNDBUFFORCE) || set(libc::SO_SNDBUF);
}

fn arguments(fd: i32, published: &[Published], six: bool) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["--quiet", "--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ra"].map(str::to_owned).to_vec();
    if !six {
        arguments.extend(["--ipv4-only", "--no-ndp"].map(str::to_owned));
    }
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    option("--fd", fd.to_string());
    option("--mtu", MAX_MTU.to_string());
    option("--address", ADDRESS.to_string());
    option("--netmask", PREFIX.to_string());
    option("--gateway", GATEWAY.to_string());
    if six {
        option("--address", ADDRESS_SIX.to_string());
        option("--gateway", GATEWAY_SIX.to_string());
    }
    option("--dns-forward", DNS.to_string());
    for (protocol, name) in [(Protocol::Tcp, "--tcp-ports"), (Protocol::Udp, "--udp-ports")] {
        let mut ports = published.iter().filter(|port| port.protocol == protocol).peekable();
        if ports.peek().is_none() {
            option(name, "none".to_owned());
        }
        for Published { address, host, guest, .. } in ports {
            let address = address.map(|address| format!("{address}/")).unwrap_or_default();
            option(name, format!("{address}{host}:{guest}"));
        }
    }
    arguments
}

/// Its reason: the last line that it wrote.
fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.ends_with("to syslog"));
    crate::agent::printable(line.unwrap_or("it does not say why"))
}

#[cfg(test)]
mod tests {
    use super::super::{parse_published, published};
    use super::*;

    fn chosen(texts: &[&str]) -> Vec<Published> {
        let wanted: Vec<_> = texts.iter().map(|text| parse_published(text).unwrap()).collect();
        published::choose(&wanted).unwrap()
    }

    #[test]
    fn only_what_is_published_is_let_in() {
        let words = |published: &[&str]| arguments(7, &chosen(published), false).join(" ");
        assert!(words(&[]).ends_with("--tcp-ports none --udp-ports none"));
        assert!(
            words(&["127.0.0.1:8080:80", "443:443", "53:5353/udp"])
                .ends_with("--tcp-ports 127.0.0.1/8080:80 --tcp-ports 443:443 --udp-ports 53:5353")
        );
        // A range is as many options: of a range as one, old versions only say whether they have any port of it.
        assert!(
            words(&["127.0.0.1:8000-8001:80-81"])
                .contains("--tcp-ports 127.0.0.1/8000:80 --tcp-ports 127.0.0.1/8001:81 ")
        );
        assert!(words(&[]).contains("--no-map-gw"), "the gateway is not the host's loopback");
    }

    #[test]
    fn what_passt_writes_may_wait() {
        use std::io::Write;
        let room = |socket: &mut UnixStream| {
            socket.set_nonblocking(true).unwrap();
            std::iter::from_fn(|| socket.write(&[0; 9000]).ok()).sum::<usize>()
        };
        let (mut ordinary, _far) = UnixStream::pair().unwrap();
        let (mut ours, _other) = UnixStream::pair().unwrap();
        let_wait(ours.as_raw_fd(), WAITING);
        let (before, after) = (room(&mut ordinary), room(&mut ours));
        assert!(after > before, "{after} bytes, and {before} without being told");
    }

    #[test]
    fn a_guest_has_ipv6_where_the_host_has() {
        let words = arguments(7, &chosen(&["[::1]:8080:80"]), true).join(" ");
        assert!(!words.contains("--ipv4-only") && !words.contains("--no-ndp"), "{words}");
        assert!(words.contains(&format!("--address {ADDRESS_SIX} --gateway {GATEWAY_SIX}")), "{words}");
        assert!(words.contains("--tcp-ports ::1/8080:80"), "{words}");
        assert!(arguments(7, &[], false).contains(&"--ipv4-only".to_owned()));
        assert_eq!((network(true).gateways.len(), network(false).gateways.len()), (2, 1));
    }

    #[test]
    fn a_reason_is_one_line() {
        assert_eq!(
            last_line(b"a\n Failed to bind port\nFailed to send 3 bytes to syslog\n\n"),
            "Failed to bind port"
        );
        assert_eq!(last_line(b""), "it does not say why");
    }
}
