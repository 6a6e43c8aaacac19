//! Network without privileges: `passt` in a process of its own, at the other end of a socket.
//!
//! It ends with the socket. It maps no address to the host's loopback, and answers no DHCP: the guest is told its addresses.

use super::{NetworkError, Protocol, Published};
use crate::devices::virtio::net::MAX_MTU;
use std::net::{IpAddr, Ipv4Addr};
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
/// What is asked here is asked of the host's name server.
const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

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

/// What the guest is told: addresses with their prefixes, gateway, name servers, MTU.
#[allow(clippy::type_complexity, reason = "taken apart at once")]
pub(super) fn addresses() -> (Vec<(IpAddr, u8)>, Option<IpAddr>, Vec<IpAddr>, u16) {
    (vec![(ADDRESS.into(), PREFIX)], Some(GATEWAY.into()), vec![DNS.into()], MAX_MTU)
}

/// Starts it and waits until it serves; the socket is its.
pub(super) fn start(published: &[Published]) -> Result<UnixStream, NetworkError> {
    let fault = |what: &str, error: std::io::Error| NetworkError::Passt(format!("{what}: {error}"));
    let program = program().ok_or(NetworkError::NoPasst)?;
    let (ours, theirs) = UnixStream::pair().map_err(|error| fault("no socket", error))?;
    let fd = theirs.as_raw_fd();
    let mut command = Command::new(program);
    command.args(arguments(fd, published)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: between fork and exec this only clears a flag of one descriptor.
    unsafe {
        command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    // It goes into the background when it serves, and this process of it ends.
    let output = command.output().map_err(|error| fault("it cannot be run", error))?;
    if !output.status.success() {
        return Err(NetworkError::Passt(last_line(&output.stderr)));
    }
    Ok(ours)
}

fn arguments(fd: i32, published: &[Published]) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["--quiet", "--ipv4-only", "--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra"]
            .map(str::to_owned)
            .to_vec();
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    option("--fd", fd.to_string());
    option("--mtu", MAX_MTU.to_string());
    option("--address", ADDRESS.to_string());
    option("--netmask", PREFIX.to_string());
    option("--gateway", GATEWAY.to_string());
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
    use super::super::parse_published;
    use super::*;

    #[test]
    fn only_what_is_published_is_let_in() {
        let words = |published: &[&str]| {
            let published: Vec<_> = published.iter().map(|text| parse_published(text).unwrap()).collect();
            arguments(7, &published).join(" ")
        };
        assert!(words(&[]).ends_with("--tcp-ports none --udp-ports none"));
        assert!(
            words(&["127.0.0.1:8080:80", "443:443", "53:5353/udp"])
                .ends_with("--tcp-ports 127.0.0.1/8080:80 --tcp-ports 443:443 --udp-ports 53:5353")
        );
        assert!(words(&[]).contains("--no-map-gw"), "the gateway is not the host's loopback");
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
