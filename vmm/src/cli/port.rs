//! `ferry port`: which ports of the host lead to a container.

use super::target::find;
use super::{Fault, print};
use crate::runtime::network::{Plan, Protocol, Published, parse_published};
use clap::Args;

/// Operands of `ferry port`.
#[derive(Debug, Args)]
pub struct PortArgs {
    /// Name, id, or beginning of an id
    container: String,
    /// Only what leads to this port of the container: PORT or PORT/udp
    #[arg(value_name = "PORT[/PROTOCOL]", value_parser = parse_port)]
    port: Option<(u16, Protocol)>,
}

/// A port alone is what `-p` publishes at any port of the host.
fn parse_port(text: &str) -> Result<(u16, Protocol), String> {
    let published = parse_published(text).ok().filter(|port| port.host.is_none() && port.address.is_none());
    let port = published.and_then(|port| Some((port.guest.single()?, port.protocol)));
    port.ok_or_else(|| "it is PORT, PORT/tcp or PORT/udp".to_owned())
}

/// `ferry port`.
pub fn port(args: &PortArgs) -> Result<u8, Fault> {
    let record = find(&args.container)?.record;
    let published = record.made.network.as_ref().map(Plan::published).unwrap_or_default();
    match &args.port {
        None => print(
            &published
                .iter()
                .map(|port| format!("{} -> {}\n", port.inside(), port.outside()))
                .collect::<String>(),
        ),
        Some(wanted) => {
            let leads = |port: &&Published| (port.guest, port.protocol) == *wanted;
            let found: String =
                published.iter().filter(leads).map(|port| format!("{}\n", port.outside())).collect();
            match found.is_empty() {
                true => Err(Fault::new(format_args!(
                    "no port of the host leads to port {}/{} of container {}",
                    wanted.0,
                    wanted.1.word(),
                    record.name
                ))),
                false => print(&found),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_the_container_is_a_number_and_perhaps_a_protocol() {
        assert_eq!(parse_port("53/udp"), Ok((53, Protocol::Udp)));
        assert_eq!(parse_port("80"), Ok((80, Protocol::Tcp)));
        for text in ["", "x", "8080:80", "127.0.0.1::80", "80/sctp", "80-81"] {
            assert!(parse_port(text).is_err(), "{text}");
        }
    }
}
