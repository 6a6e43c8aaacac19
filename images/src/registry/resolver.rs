//! Host names to addresses without the C library: `/etc/hosts`, then the servers of `/etc/resolv.conf`, over UDP and, where
//! an answer does not fit, over TCP (RFC 1035, RFC 6761 for `localhost`).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use resolv_conf::Config;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver as Resolve};
use ureq::unversioned::transport::NextTimeout;

/// `/etc/hosts` and `/etc/resolv.conf` are not read beyond this.
const MAX_FILE: u64 = 1 << 20;

/// Aliases (CNAME) that are followed within one answer.
const MAX_ALIASES: usize = 16;

/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 16;

/// How an error says that no server could tell an address. They were asked as often as makes sense.
pub(super) const UNKNOWN: io::ErrorKind = io::ErrorKind::AddrNotAvailable;

/// The resolver of this host's files.
#[derive(Debug)]
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or_else(|| ureq::Error::BadUri("no host".into()))?;
        let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(default);
        let patience = (*timeout.after).min(Duration::from_secs(60));
        let found = look_up(host, &Files::of_this_host(), Instant::now() + patience);
        let found = found.map_err(|error| io::Error::new(UNKNOWN, format!("{host}: {error}")))?;
        let mut addresses = self.empty();
        for address in found.into_iter().take(MAX_ADDRESSES) {
            addresses.push(SocketAddr::new(address, port));
        }
        match addresses.is_empty() {
            true => Err(ureq::Error::HostNotFound),
            false => Ok(addresses),
        }
    }
}

/// What this host says about names.
#[derive(Debug)]
struct Files {
    hosts: String,
    config: Config,
    /// The servers' port, which tests change.
    port: u16,
}

impl Files {
    fn of_this_host() -> Self {
        let read = |path| {
            let mut bytes = Vec::new();
            // A host without the file says nothing.
            let _ = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
            bytes
        };
        let hosts = String::from_utf8_lossy(&read("/etc/hosts")).into_owned();
        // A line that is wrong does not spoil the others, as in the C library.
        let (config, _) = Config::parse_with_errors(&read("/etc/resolv.conf"));
        Self { hosts, config, port: 53 }
    }

    /// The addresses that `/etc/hosts` gives a name.
    fn in_hosts(&self, host: &str) -> Vec<IpAddr> {
        let lines = self.hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
        let named = lines.filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(host)).then_some(address)
        });
        named.collect()
    }

    /// The complete names that `host` may be short for, in the order to try.
    fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(complete) = host.strip_suffix('.') {
            return vec![complete.to_owned()];
        }
        let searched =
            self.config.get_last_search_or_domain().take(8).map(|domain| format!("{host}.{domain}"));
        let dots = host.matches('.').count() as u32;
        let mut names: Vec<String> = searched.collect();
        let at = if dots >= self.config.ndots { 0 } else { names.len() };
        names.insert(at, host.to_owned());
        names
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let given = self.config.nameservers.iter().take(3).map(IpAddr::from);
        let servers: Vec<_> = given.map(|address| SocketAddr::new(address, self.port)).collect();
        match servers.is_empty() {
            true => vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.port)],
            false => servers,
        }
    }
}

fn look_up(host: &str, files: &Files, end: Instant) -> io::Result<Vec<IpAddr>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Ok(vec![address]);
    }
    let known = files.in_hosts(host);
    if !known.is_empty() {
        return Ok(known);
    }
    if host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    for name in files.candidates(host) {
        // Whichever is there; an error counts only if neither is.
        let answers = [TYPE::A, TYPE::AAAA].map(|kind| ask(&name, kind, files, end));
        let mut found = Vec::new();
        let mut fault = None;
        for answer in answers {
            match answer {
                Ok(addresses) => found.extend(addresses),
                Err(error) => fault = Some(error),
            }
        }
        match fault {
            _ if !found.is_empty() => return Ok(found),
            Some(error) => return Err(error),
            None => {}
        }
    }
    Ok(Vec::new())
}

/// Asks the servers one after another, as often as the file says. No addresses if there is no such name.
fn ask(name: &str, kind: TYPE, files: &Files, end: Instant) -> io::Result<Vec<IpAddr>> {
    let mut fault = io::Error::other("no name server answers");
    for _ in 0..files.config.attempts.clamp(1, 5) {
        for server in files.servers() {
            let patience = Duration::from_secs(files.config.timeout.clamp(1, 30).into());
            let patience = patience.min(end.saturating_duration_since(Instant::now()));
            if patience.is_zero() {
                return Err(fault);
            }
            match exchange(name, kind, server, Instant::now() + patience) {
                Ok(addresses) => return Ok(addresses),
                Err(error) => fault = io::Error::new(error.kind(), format!("name server {server}: {error}")),
            }
        }
    }
    Err(fault)
}

fn exchange(name: &str, kind: TYPE, server: SocketAddr, end: Instant) -> io::Result<Vec<IpAddr>> {
    let id = random();
    let question = query(name, kind, id)?;
    let reply = over_udp(&question, id, server, end)?;
    match answer(&reply, name, kind, id)? {
        Answer::Addresses(addresses) => Ok(addresses),
        Answer::Truncated => {
            let reply = over_tcp(&question, server, end)?;
            match answer(&reply, name, kind, id)? {
                Answer::Addresses(addresses) => Ok(addresses),
                Answer::Truncated => Err(io::Error::other("an answer too long for TCP")),
            }
        }
    }
}

fn query(name: &str, kind: TYPE, id: u16) -> io::Result<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(|_| io::Error::other("no such name can be"))?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().map_err(io::Error::other)
}

/// Sends the question from a port of its own, and waits for what looks like its answer.
fn over_udp(question: &[u8], id: u16, server: SocketAddr, end: Instant) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server.is_ipv4() {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // From now on the kernel drops what comes from elsewhere.
    socket.connect(server)?;
    socket.send(question)?;
    let mut reply = vec![0; 4096];
    loop {
        socket.set_read_timeout(Some(left(end)?))?;
        let length = socket.recv(&mut reply)?;
        if reply[..length].starts_with(&id.to_be_bytes()) {
            reply.truncate(length);
            return Ok(reply);
        }
    }
}

/// The same over TCP, each message after its length.
fn over_tcp(question: &[u8], server: SocketAddr, end: Instant) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, left(end)?)?;
    stream.set_read_timeout(Some(left(end)?))?;
    stream.set_write_timeout(Some(left(end)?))?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

enum Answer {
    Addresses(Vec<IpAddr>),
    Truncated,
}

/// What a reply says about `name`, aliases followed.
fn answer(reply: &[u8], name: &str, kind: TYPE, id: u16) -> io::Result<Answer> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "an answer that makes no sense");
    let packet = Packet::parse(reply).map_err(|_| wrong())?;
    let asked = Name::new(name).map_err(|_| wrong())?;
    let same = |one: &Name<'_>, other: &Name<'_>| one.to_string().eq_ignore_ascii_case(&other.to_string());
    let ours = |question: &Question<'_>| same(&question.qname, &asked) && question.qtype == QTYPE::TYPE(kind);
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) || !packet.questions.iter().all(ours) {
        return Err(wrong());
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Ok(Answer::Truncated);
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Ok(Answer::Addresses(Vec::new())),
        other => return Err(io::Error::other(format!("it answers {other:?}"))),
    }
    let mut wanted = asked;
    for _ in 0..MAX_ALIASES {
        let about = || packet.answers.iter().filter(|record| same(&record.name, &wanted));
        let addresses: Vec<IpAddr> = about()
            .filter_map(|record| match &record.rdata {
                RData::A(a) => Some(Ipv4Addr::from(a.address).into()),
                RData::AAAA(aaaa) => Some(Ipv6Addr::from(aaaa.address).into()),
                _ => None,
            })
            .take(MAX_ADDRESSES)
            .collect();
        let alias = about().find_map(|record| match &record.rdata {
            RData::CNAME(alias) => Some(alias.0.clone()),
            _ => None,
        });
        match alias {
            Some(alias) if addresses.is_empty() => wanted = alias,
            _ => return Ok(Answer::Addresses(addresses)),
        }
    }
    Err(wrong())
}

/// A number that nobody off the path can guess.
pub(super) fn random() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness from the kernel the port is still one of many.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u16::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, CNAME};

    fn files(hosts: &str, resolv: &str, port: u16) -> Files {
        Files { hosts: hosts.into(), config: Config::parse_with_errors(resolv.as_bytes()).0, port }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// A name server on loopback that knows `known.example`, and a name too long for UDP.
    fn server() -> u16 {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        let tcp = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut question) {
                // Somebody else's answer comes first.
                let mut other = reply(&question[..length], false);
                other[0] ^= 1;
                udp.send_to(&other, from).unwrap();
                udp.send_to(&reply(&question[..length], true), from).unwrap();
            }
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut question).unwrap();
                let reply = reply(&question, false);
                stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&reply).unwrap();
            }
        });
        port
    }

    fn reply(question: &[u8], udp: bool) -> Vec<u8> {
        let question = Packet::parse(question).unwrap();
        let mut reply = Packet::new_reply(question.id());
        let name = question.questions[0].qname.clone();
        let asked = name.to_string();
        let for_a = question.questions[0].qtype == QTYPE::TYPE(TYPE::A);
        reply.questions = question.questions.clone();
        let record = |name: &Name<'static>, data| ResourceRecord::new(name.clone(), CLASS::IN, 1, data);
        let target = Name::new("real.example").unwrap();
        match asked.as_str() {
            "known.example" if for_a => {
                reply.answers.push(record(&name.into_owned(), RData::CNAME(CNAME(target.clone()))));
                reply.answers.push(record(&target, RData::A(A { address: 0x0102_0304 })));
                let other = Name::new("other.example").unwrap();
                reply.answers.push(record(&other, RData::A(A { address: 0x0909_0909 })));
            }
            "known.example" => {}
            "long.example" if udp => reply.set_flags(PacketFlag::TRUNCATION),
            "long.example" if for_a => {
                reply.answers.push(record(&name.into_owned(), RData::A(A { address: 0x0506_0708 })));
            }
            "long.example" => {}
            "broken.example" => *reply.rcode_mut() = RCODE::ServerFailure,
            "circle.example" => {
                let name = name.into_owned();
                reply.answers.push(record(&name.clone(), RData::CNAME(CNAME(name))));
            }
            _ => *reply.rcode_mut() = RCODE::NameError,
        }
        reply.build_bytes_vec().unwrap()
    }

    #[test]
    fn addresses_and_known_hosts_need_no_server() {
        let files = files("10.0.0.1 box Box.example # known.example\nnonsense\n::2 six\n10.0.0.2 box", "", 9);
        let found = |host| look_up(host, &files, soon()).unwrap();
        let text = |host| found(host).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(text("192.0.2.7"), ["192.0.2.7"]);
        assert_eq!(text("[2001:db8::1]"), ["2001:db8::1"]);
        assert_eq!(text("box"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(text("BOX.EXAMPLE"), ["10.0.0.1"]);
        assert_eq!(text("six"), ["::2"]);
        assert_eq!(text("localhost"), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn servers_are_asked_and_aliases_followed() {
        let port = server();
        let files = files(
            "",
            "nameserver 127.0.0.1\nsearch nowhere.example example\noptions attempts:1 timeout:5",
            port,
        );
        let found = |host| {
            look_up(host, &files, soon()).map(|all| all.iter().map(IpAddr::to_string).collect::<Vec<_>>())
        };
        assert_eq!(found("known.example").unwrap(), ["1.2.3.4"]);
        assert_eq!(found("known").unwrap(), ["1.2.3.4"], "by the search list");
        assert_eq!(found("long.example").unwrap(), ["5.6.7.8"], "over TCP");
        assert_eq!(found("no.such.host.").unwrap(), [""; 0]);
        assert!(found("broken.example.").unwrap_err().to_string().contains("ServerFailure"));
        assert!(found("circle.example.").is_err());
        assert!(found("not a name.").is_ok_and(|found| found.is_empty()) || found("not a name.").is_err());
    }

    #[test]
    fn silence_ends() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let files = files("", "nameserver 127.0.0.1\noptions attempts:9 timeout:30", port);
        let began = Instant::now();
        assert!(look_up("known.example", &files, began + Duration::from_millis(300)).is_err());
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_is_trusted(reply in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = answer(&reply, "known.example", TYPE::A, 0);
        }
    }
}
