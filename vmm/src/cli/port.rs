//! `ferry port`: which ports of the host lead to a container.

use super::target::find;
use super::{Fault, print};
use crate::runtime::network::{Plan, Published};
use clap::Args;

/// Operands of `ferry port`.
#[derive(Debug, Args)]
pub struct PortArgs {
    /// Name, id, or beginning of an id
    container: String,
    /// Only what leads to this port of the container: PORT or PORT/udp
    #[arg(value_name = "PORT[/PROTOCOL]", value_parser = parse_port)]
    port: Option<Published>,
}

/// A port alone is what `-p` publishes at any port of the host.
fn parse_port(text: &str) -> Result<Published, String> {
    match crate::runtime::network::parse_published(text) {
        Ok(port) if port.host == 0 && port.address.is_none() => Ok(port),
        _ => Err("it is PORT, PORT/tcp or PORT/udp".to_owned()),
    }
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
            let leads = |port: &&Published| port.inside() == wanted.inside();
            let found: String =
                published.iter().filter(leads).map(|port| format!("{}\n", port.outside())).collect();
            match found.is_empty() {
                true => Err(Fault::new(format_args!(
                    "no port of the host leads to port {} of container {}",
                    wanted.inside(),
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
        assert_eq!(parse_port("53/udp").unwrap().inside(), "53/udp");
        assert_eq!(parse_port("80").unwrap().inside(), "80/tcp");
        for text in ["", "x", "8080:80", "127.0.0.1::80", "80/sctp"] {
            assert!(parse_port(text).is_err(), "{text}");
        }
    }
}
