//! How a pod's containers find others by their names: `hostAliases` and `dnsConfig`.

use super::super::fields::{DocumentError, Field, Fields};
use crate::runtime::resolver::{HostEntry, Resolver, host_name, parse_option, parse_search};
use std::net::IpAddr;

/// Reads both.
pub(super) fn resolver(spec: &mut Fields) -> Result<Resolver, DocumentError> {
    let mut resolver = Resolver::default();
    for alias in spec.list("hostAliases")? {
        let mut alias = alias.fields()?;
        let address = address(alias.need("ip")?)?;
        for name in alias.list("hostnames")? {
            let name = read(name, host_name)?;
            resolver.hosts.push(HostEntry { name, address: Some(address) });
        }
        alias.end()?;
    }
    let mut dns = spec.map("dnsConfig")?;
    resolver.servers = dns.list("nameservers")?.into_iter().map(address).collect::<Result<_, _>>()?;
    let domains = dns.list("searches")?.into_iter();
    resolver.search = domains.map(|field| read(field, parse_search)).collect::<Result<_, _>>()?;
    for option in dns.list("options")? {
        let mut option = option.fields()?;
        let name = read(option.need("name")?, parse_option)?;
        let value = option.take("value").map(|value| read(value, parse_option)).transpose()?;
        resolver.options.push(value.map_or(name.clone(), |value| format!("{name}:{value}")));
        option.end()?;
    }
    dns.end()?;
    Ok(resolver)
}

fn address(field: Field) -> Result<IpAddr, DocumentError> {
    read(field, |text| text.parse().map_err(|_| format!("'{text}' is no IP address")))
}

fn read<T>(field: Field, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, DocumentError> {
    let text = field.clone().text()?;
    parse(&text).map_err(|error| field.wrong(error))
}
