//! How a container finds others by their names, where options say so: lines of its `/etc/resolv.conf` and `/etc/hosts`.

use ferry_init::api::guest::CopyFileRequest;
use ferry_init::api::oci::Spec;
use ferry_init::network_files;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The longest name of a host.
const LONGEST_NAME: usize = 253;

/// The word for the host's address.
const GATEWAY: &str = "host-gateway";

/// What is said of names; what nobody said is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resolver {
    /// Hosts besides the usual.
    pub hosts: Vec<HostEntry>,
    /// Name servers instead of the network's.
    pub servers: Vec<IpAddr>,
    /// Domains that names without dots are looked for in; `.` alone for none.
    pub search: Vec<String>,
    /// Options of resolv.conf.
    pub options: Vec<String>,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// The name.
    pub name: String,
    /// Its address; none: the host's, as the guest reaches it.
    pub address: Option<IpAddr>,
}

impl std::fmt::Display for HostEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}:{address}", self.name),
            None => write!(f, "{}:{GATEWAY}", self.name),
        }
    }
}

/// Reads the value of `--add-host`: `NAME:ADDRESS` or `NAME=ADDRESS`; the address may be `host-gateway`, and in brackets.
pub fn parse_host(text: &str) -> Result<HostEntry, String> {
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or("it is NAME:ADDRESS, as in db:192.0.2.7")?;
    let name = host_name(name)?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = match bare {
        GATEWAY => None,
        _ => Some(bare.parse().map_err(|_| format!("'{address}' is no IP address, nor host-gateway"))?),
    };
    Ok(HostEntry { name, address })
}

/// Reads the value of `--dns-search`.
pub fn parse_search(text: &str) -> Result<String, String> {
    if text == "." { Ok(text.to_owned()) } else { host_name(text) }
}

/// Reads the value of `--dns-option`.
pub fn parse_option(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains(|c: char| !c.is_ascii_graphic()) {
        true => Err("it is a word of resolv.conf's options, as in ndots:2".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// A name that breaks out of no line of a file.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let is_part = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > LONGEST_NAME || !text.chars().all(is_part) {
        return Err(format!("'{text}' is no name of a host"));
    }
    Ok(text.to_owned())
}

impl Resolver {
    /// What the guest's resolv.conf is made of, where its network has these name servers.
    pub fn lines(&self, of_network: &[String]) -> Vec<String> {
        let mut lines: Vec<String> = match self.servers.is_empty() {
            true => of_network.to_vec(),
            false => self.servers.iter().map(IpAddr::to_string).collect(),
        };
        let search: Vec<_> = self.search.iter().filter(|domain| *domain != ".").map(String::as_str).collect();
        lines.extend((!search.is_empty()).then(|| format!("search {}", search.join(" "))));
        lines.extend((!self.options.is_empty()).then(|| format!("options {}", self.options.join(" "))));
        lines
    }

    /// Lets a container have hosts of its own: the file that the guest is to have at `path` for it. `gateway` is the host as
    /// the guest reaches it.
    pub fn hosts_file(
        &self,
        spec: &mut Spec,
        path: String,
        gateway: Option<IpAddr>,
    ) -> Result<Option<CopyFileRequest>, String> {
        if self.hosts.is_empty() {
            return Ok(None);
        }
        let mut text = network_files::hosts(&spec.hostname);
        for HostEntry { name, address } in &self.hosts {
            let address = address.or(gateway).ok_or_else(|| {
                format!("--add-host {name}: the guest has no way to the host, so there is no host-gateway")
            })?;
            text.push_str(&format!("{address}\t{name}\n"));
        }
        for mount in spec.mounts.iter_mut().filter(|mount| mount.destination == "/etc/hosts") {
            mount.source.clone_from(&path);
        }
        Ok(Some(CopyFileRequest {
            path,
            file_size: text.len() as i64,
            file_mode: 0o100_644,
            dir_mode: 0o755,
            data: text.into_bytes(),
            ..Default::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_init::api::oci::Mount;

    fn host(text: &str) -> HostEntry {
        parse_host(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn hosts_are_written_as_in_docker() {
        let entry =
            |name: &str, address: &str| HostEntry { name: name.into(), address: address.parse().ok() };
        assert_eq!(host("db:192.0.2.7"), entry("db", "192.0.2.7"));
        assert_eq!(host("db=192.0.2.7"), entry("db", "192.0.2.7"));
        assert_eq!(host("db:2001:db8::1"), entry("db", "2001:db8::1"));
        assert_eq!(host("db=[2001:db8::1]"), entry("db", "2001:db8::1"));
        assert_eq!(host("me:host-gateway"), entry("me", ""));
        for text in ["db", ":192.0.2.7", "db:", "db:there", "a b:192.0.2.7", "a\n:192.0.2.7"] {
            assert!(parse_host(text).is_err(), "{text:?}");
        }
        assert!(parse_search("a\nnameserver x").is_err() && parse_option("a b").is_err());
    }

    #[test]
    fn name_servers_take_the_place_of_the_networks_and_the_rest_comes_besides() {
        let network = ["192.0.2.53".to_owned()];
        assert_eq!(Resolver::default().lines(&network), network);
        let search = vec!["a.example".to_owned(), "b.example".to_owned()];
        let options = vec!["ndots:2".to_owned()];
        let some = Resolver { search, options, ..Resolver::default() };
        assert_eq!(some.lines(&network), ["192.0.2.53", "search a.example b.example", "options ndots:2"]);
        let servers = vec!["2001:db8::53".parse().unwrap()];
        let own = Resolver { servers, search: vec![".".to_owned()], ..Resolver::default() };
        assert_eq!(own.lines(&network), ["2001:db8::53"]);
    }

    #[test]
    fn hosts_of_its_own_are_a_file_besides_the_usual_lines() {
        let usual = || Spec {
            hostname: "web".to_owned(),
            mounts: vec![Mount { destination: "/etc/hosts".into(), ..Default::default() }],
            ..Default::default()
        };
        let mut spec = usual();
        assert_eq!(Resolver::default().hosts_file(&mut spec, "/x".into(), None), Ok(None));
        assert!(spec == usual());
        let gateway = "192.0.2.1".parse().ok();
        let some =
            Resolver { hosts: vec![host("db:192.0.2.7"), host("me:host-gateway")], ..Resolver::default() };
        let file = some.hosts_file(&mut spec, "/x".into(), gateway).unwrap().unwrap();
        let text = String::from_utf8(file.data).unwrap();
        assert!(text.ends_with("127.0.0.1\tweb\n192.0.2.7\tdb\n192.0.2.1\tme\n"), "{text}");
        assert_eq!((file.path.as_str(), spec.mounts[0].source.as_str()), ("/x", "/x"));
        assert!(some.hosts_file(&mut spec, "/x".into(), None).unwrap_err().contains("host-gateway"));
    }
}
