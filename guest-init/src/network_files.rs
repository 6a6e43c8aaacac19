//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, written as Docker writes them.

use crate::prelude::*;

/// The files that a container may get, by their path in it.
pub const PATHS: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// The text of one of [`PATHS`], for a container of this host name in a sandbox with these resolver lines.
pub fn text(path: &str, hostname: &str, dns: &[String]) -> Option<String> {
    match path {
        "/etc/hostname" => Some([hostname, "\n"].concat()),
        "/etc/hosts" => Some(hosts(hostname)),
        "/etc/resolv.conf" => Some(resolv_conf(dns)),
        _ => None,
    }
}

/// `/etc/hosts` of a container of this host name.
pub fn hosts(hostname: &str) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    // Docker gives the name the container's address on its network; without one it is the loopback's.
    if !hostname.is_empty() && hostname != "localhost" {
        text.push_str(&["127.0.0.1\t", hostname, "\n"].concat());
    }
    text
}

fn resolv_conf(dns: &[String]) -> String {
    let mut text = String::new();
    for line in dns {
        // A bare address is a name server; anything else is a line of its own.
        let bare = line.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:%".contains(&byte))
            && line.contains(['.', ':']);
        text.push_str(&[if bare { "nameserver " } else { "" }, line, "\n"].concat());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_its_own_is_in_hosts() {
        assert!(text("/etc/hosts", "web", &[]).unwrap().ends_with("127.0.0.1\tweb\n"));
        assert_eq!(text("/etc/hosts", "", &[]).unwrap().matches("127.0.0.1").count(), 1);
    }

    #[test]
    fn resolver_lines_and_addresses() {
        let dns = ["10.0.2.3".into(), "fd00::3".into(), "search example.org".into()];
        assert_eq!(
            text("/etc/resolv.conf", "", &dns).unwrap(),
            "nameserver 10.0.2.3\nnameserver fd00::3\nsearch example.org\n"
        );
    }

    #[test]
    fn other_files_are_not_ours() {
        assert_eq!(text("/etc/passwd", "web", &[]), None);
        assert!(PATHS.iter().all(|path| text(path, "web", &[]).is_some()));
    }
}
