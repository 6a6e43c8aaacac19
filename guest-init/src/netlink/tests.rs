use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    address::parse(text).unwrap()
}

fn body(request: Request) -> Vec<u8> {
    request.finish(1)[HEADER..].to_vec()
}

#[test]
fn a_route_that_is_asked_for_reads_back() {
    for (destination, gateway) in
        [(None, Some(ip("10.0.2.2"))), (Some(ip("192.168.0.0")), None), (None, Some(ip("fe80::2")))]
    {
        let any = destination.or(gateway).unwrap();
        let route = Route {
            family: address::family(&any),
            destination,
            prefix: if destination.is_some() { 16 } else { 0 },
            gateway,
            source: None,
            link: 2,
            metric: 1024,
            table: 300,
            protocol: 4,
            scope: 253,
            kind: 1,
            flags: 4,
        };
        assert_eq!(Route::parse(&body(Request::add_route(&route))), Some(route));
    }
}

#[test]
fn links_and_addresses_that_are_asked_for_read_back() {
    let link = Link::parse(&body(Request::set_link(7, 1, 1).with_name("eth0").with_mtu(1400))).unwrap();
    assert_eq!((link.index, link.flags, link.name.as_str(), link.mtu), (7, 1, "eth0", 1400));
    let address = Address { link: 7, address: ip("fd00::5"), prefix: 64 };
    assert_eq!(Address::parse(&body(Request::add_address(&address))), Some(address));
}

#[test]
fn only_answers_to_the_request_are_heard() {
    let mut bytes = Request::dump(kind!(RTM_GETLINK), &[0; 16]).finish(4);
    bytes.extend(Request::dump(kind!(RTM_GETLINK), &[0; 16]).finish(5));
    // struct nlmsgerr: the error, then the header of the request.
    let mut error = vec![20, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
    error.extend((-17i32).to_le_bytes());
    bytes.extend(&error);
    let found: Vec<Reply<'_>> = replies(&bytes, 5).collect();
    assert_eq!(found, [Reply::Message(kind!(RTM_GETLINK), &[0; 16]), Reply::Done(17)]);
}

#[test]
fn lengths_that_do_not_fit_end_the_reading() {
    for length in [0u32, 15, 17, u32::MAX] {
        let mut bytes = Request::dump(kind!(RTM_GETLINK), &[0; 16]).finish(1);
        bytes.truncate(HEADER);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(replies(&bytes, 1).count(), 0, "{length}");
    }
    let mut link = body(Request::set_link(1, 0, 0).with_name("eth0"));
    link[16] = 200;
    assert_eq!(Link::parse(&link).unwrap().name, "", "an attribute longer than its message");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..32, any::<u8>()], 0..200)) {
        for reply in replies(&bytes, 0).chain(replies(&bytes, 7)) {
            if let Reply::Message(_, body) = reply {
                let _ = (Link::parse(body), Address::parse(body), Route::parse(body));
            }
        }
        let _ = (Link::parse(&bytes), Address::parse(&bytes), Route::parse(&bytes));
    }
}
