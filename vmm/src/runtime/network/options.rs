//! The value of `--network`.

use super::{Link, TapOptions};
use crate::backends::net::rate::Rates;
use crate::devices::virtio::net::{MAX_MTU, MAX_PAIRS, MIN_MTU};
use crate::runtime::size::parse_size;
use std::net::IpAddr;
use std::str::FromStr;

/// Reads the value of `--network`.
pub fn parse_network(text: &str) -> Result<Link, String> {
    let (kind, rest) = text.split_once(',').unwrap_or((text, ""));
    match (kind, kind.strip_prefix("tap="), rest) {
        ("none", _, "") => Ok(Link::Nothing),
        ("user", _, rest) => user(rest).map(Link::User),
        (_, Some(name), rest) => tap(name, rest).map(Link::Tap),
        _ => Err(
            "it is user, none or tap=NAME[,ip=ADDRESS/PREFIX][,gateway=ADDRESS][,dns=ADDRESS][,mtu=BYTES][,queues=N]; \
             the first and the last take rates, as in rx-rate=10m"
                .to_owned(),
        ),
    }
}

/// The words `KEY=VALUE` of a list.
fn pairs(list: &str) -> impl Iterator<Item = Result<(&str, &str), String>> {
    let words = list.split(',').filter(|word| !word.is_empty());
    words.map(|word| word.split_once('=').ok_or_else(|| format!("'{word}' has no value")))
}

fn user(rest: &str) -> Result<Rates, String> {
    let mut rates = Rates::default();
    for pair in pairs(rest) {
        let (key, value) = pair?;
        if !rate(&mut rates, key, value)? {
            return Err(format!("user has no {key}: it has {RATES}"));
        }
    }
    complete(rates)
}

/// What limits a card, as `rx-rate`: `rx` is to the guest and `tx` from it; `rate` and `burst` are bytes, a second and at
/// once, `packets` are frames a second.
const RATES: &str = "rx-rate, rx-burst, rx-packets, tx-rate, tx-burst and tx-packets";

/// Takes a limit; false if it is none.
fn rate(rates: &mut Rates, key: &str, value: &str) -> Result<bool, String> {
    let (rate, what) = match key.split_once('-') {
        Some(("rx", what)) => (&mut rates.receive, what),
        Some(("tx", what)) => (&mut rates.transmit, what),
        _ => return Ok(false),
    };
    let limit = match what {
        "rate" => &mut rate.bytes,
        "burst" => &mut rate.burst,
        "packets" => &mut rate.packets,
        _ => return Ok(false),
    };
    let value = match what {
        "packets" => parse("a number of packets", value)?,
        _ => parse_size(value).map_err(|error| error.to_string())?,
    };
    if value == 0 {
        return Err(format!("{key}=0 lets nothing pass: leave it out, or use --network none"));
    }
    *limit = Some(value);
    Ok(true)
}

fn complete(rates: Rates) -> Result<Rates, String> {
    for (name, rate) in [("rx", rates.receive), ("tx", rates.transmit)] {
        if rate.burst.is_some() && rate.bytes.is_none() {
            return Err(format!("{name}-burst needs {name}-rate, the rate that it goes beyond"));
        }
    }
    Ok(rates)
}

fn tap(name: &str, rest: &str) -> Result<TapOptions, String> {
    let mut options = TapOptions {
        name: name.to_owned(),
        address: None,
        gateway: None,
        dns: Vec::new(),
        mtu: 1500,
        queues: 1,
        rates: Rates::default(),
    };
    for pair in pairs(rest) {
        let (key, value) = pair?;
        match key {
            "ip" => {
                let (address, prefix) =
                    value.split_once('/').ok_or_else(|| format!("ip={value} has no /PREFIX"))?;
                let address: IpAddr = parse("an address", address)?;
                let most = if address.is_ipv4() { 32 } else { 128 };
                let prefix: u8 = parse("the length of a prefix", prefix)?;
                options.address =
                    Some((address, within("the length of a prefix", prefix.into(), 0, most)? as u8));
            }
            "gateway" => options.gateway = Some(parse("an address", value)?),
            "dns" => options.dns.push(parse("an address", value)?),
            "mtu" => {
                let mtu: u16 = parse("an MTU", value)?;
                options.mtu = within("an MTU", mtu.into(), MIN_MTU.into(), MAX_MTU.into())? as u16;
            }
            "queues" => {
                let queues: u8 = parse("a number of queues", value)?;
                options.queues = within("a number of queues", queues.into(), 1, MAX_PAIRS)?;
            }
            _ if rate(&mut options.rates, key, value)? => {}
            _ => {
                let has = "ip, gateway, dns, mtu, queues";
                return Err(format!("a tap has no {key}: it has {has}, {RATES}"));
            }
        }
    }
    options.rates = complete(options.rates)?;
    if let (Some(gateway), Some((address, _))) = (options.gateway, options.address)
        && gateway.is_ipv4() != address.is_ipv4()
    {
        return Err("the gateway and the address are of different families".to_owned());
    }
    if options.gateway.is_some() && options.address.is_none() {
        return Err("a gateway needs an address to be reached from: add ip=ADDRESS/PREFIX".to_owned());
    }
    Ok(options)
}

pub(super) fn parse<T: FromStr>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("'{text}' is not {what}"))
}

fn within(what: &str, value: usize, least: usize, most: usize) -> Result<usize, String> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(format!("{value} is not {what}: it is from {least} to {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_what_they_say() {
        assert_eq!(parse_network("none"), Ok(Link::Nothing));
        assert_eq!(parse_network("user"), Ok(Link::User(Rates::default())));
        let Ok(Link::Tap(tap)) =
            parse_network("tap=vm0,ip=2001:db8::2/64,gateway=2001:db8::1,mtu=9000,queues=2")
        else {
            panic!()
        };
        assert_eq!((tap.name.as_str(), tap.mtu, tap.queues), ("vm0", 9000, 2));
        assert_eq!(tap.address, Some(("2001:db8::2".parse().unwrap(), 64)));
    }

    #[test]
    fn rates_are_limits_of_one_direction() {
        let Ok(Link::User(rates)) = parse_network("user,rx-rate=10m,rx-burst=64k,tx-packets=1000") else {
            panic!()
        };
        assert_eq!((rates.receive.bytes, rates.receive.burst), (Some(10 << 20), Some(64 << 10)));
        assert_eq!((rates.receive.packets, rates.transmit.packets), (None, Some(1000)));
        let Ok(Link::Tap(tap)) = parse_network("tap=vm0,tx-rate=1g") else { panic!() };
        assert_eq!(tap.rates.transmit.bytes, Some(1 << 30));
    }

    #[test]
    fn networks_that_make_no_sense_are_refused_in_words() {
        for (text, words) in [
            ("host", "it is user, none or tap=NAME"),
            ("none,mtu=9000", "it is user"),
            ("tap=a,ip=10.0.0.1", "has no /PREFIX"),
            ("tap=a,ip=10.0.0.1/33", "from 0 to 32"),
            ("tap=a,ip=10.0.0.1/24,gateway=::1", "different families"),
            ("tap=a,gateway=10.0.0.1", "add ip="),
            ("tap=a,mtu=60", "from 68 to 65520"),
            ("tap=a,queues=9", "from 1 to 8"),
            ("tap=a,mac=1", "a tap has no mac"),
            ("tap=a,dns", "has no value"),
            ("user,mtu=9000", "user has no mtu"),
            ("user,rx-rate", "has no value"),
            ("user,rx-rate=fast", "'fast' is not a size"),
            ("user,tx-packets=1k", "'1k' is not a number of packets"),
            ("user,rx-rate=0", "lets nothing pass"),
            ("user,rx-burst=1m", "rx-burst needs rx-rate"),
            ("tap=a,xx-rate=1m", "a tap has no xx-rate"),
            ("tap=a,tx-delay=1", "a tap has no tx-delay"),
        ] {
            let error = parse_network(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
