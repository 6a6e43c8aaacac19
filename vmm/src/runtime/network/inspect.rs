//! A container's network as `inspect` shows it, in Docker's words.

use super::{Network, Plan, Way};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

impl Plan {
    /// The network in a word or two, as `--network` takes it.
    pub fn mode(&self) -> String {
        match &self.way {
            Way::User { .. } => "user".to_owned(),
            Way::Tap(options) => format!("tap={}", options.name),
        }
    }

    /// Which ports of the host lead to which of the guest's.
    pub fn inspect_ports(&self) -> Map<String, Value> {
        let mut ports = Map::new();
        for port in self.published() {
            let address = port.address.map(|address| address.to_string()).unwrap_or_default();
            let of_guest = ports.entry(port.inside()).or_insert_with(|| json!([]));
            if let Value::Array(of_host) = of_guest {
                of_host.push(json!({ "HostIp": address, "HostPort": port.host.to_string() }));
            }
        }
        ports
    }

    /// Addresses, and everything else.
    pub fn inspect(&self) -> Value {
        let Network { addresses, gateways, mtu, .. } = self.network();
        let address = |wanted: fn(&IpAddr) -> bool| addresses.iter().find(|(address, _)| wanted(address));
        let gateway = |wanted: fn(&IpAddr) -> bool| {
            gateways.iter().find(|gateway| wanted(gateway)).map(IpAddr::to_string).unwrap_or_default()
        };
        let text =
            |found: Option<&(IpAddr, u8)>| found.map(|(address, _)| address.to_string()).unwrap_or_default();
        let prefix = |found: Option<&(IpAddr, u8)>| found.map_or(0, |(_, prefix)| *prefix);
        let (four, six) = (address(IpAddr::is_ipv4), address(IpAddr::is_ipv6));
        let one = json!({
            "MacAddress": self.mac.map(|byte| format!("{byte:02x}")).join(":"),
            "IPAddress": text(four),
            "IPPrefixLen": prefix(four),
            "Gateway": gateway(IpAddr::is_ipv4),
            "GlobalIPv6Address": text(six),
            "GlobalIPv6PrefixLen": prefix(six),
            "IPv6Gateway": gateway(IpAddr::is_ipv6),
            "Mtu": mtu,
        });
        let mut all = one.clone();
        all["Ports"] = self.inspect_ports().into();
        all["Networks"] = json!({ self.mode(): one });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Rates, parse_published, published};
    use super::*;

    #[test]
    fn published_ports_are_listed_by_the_guests() {
        let published = ["8080:80", "127.0.0.1:8081:80", "[::1]:53:5353/udp"];
        let wanted: Vec<_> = published.iter().map(|text| parse_published(text).unwrap()).collect();
        let published = published::choose(&wanted).unwrap();
        let plan = Plan { mac: [2; 6], way: Way::User { published, rates: Rates::default(), six: true } };
        let shown = plan.inspect();
        assert_eq!(
            shown["Ports"],
            json!({
                "80/tcp": [{ "HostIp": "", "HostPort": "8080" }, { "HostIp": "127.0.0.1", "HostPort": "8081" }],
                "5353/udp": [{ "HostIp": "::1", "HostPort": "53" }],
            })
        );
        assert_eq!((&shown["IPAddress"], &shown["IPPrefixLen"]), (&json!("10.0.2.15"), &json!(24)));
        assert!(shown["GlobalIPv6Address"].as_str().unwrap().starts_with("fd"));
        assert_eq!(shown["Networks"]["user"]["MacAddress"], "02:02:02:02:02:02");
        assert_eq!(plan.mode(), "user");
    }
}
