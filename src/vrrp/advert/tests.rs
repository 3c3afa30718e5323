//! Adverts captured from keepalived 2.2.7 on the wire, both ways, and each reason to discard.

use super::super::unicast::Peer;
use super::super::{Password, group};
use super::*;
use proptest::prelude::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 11));
const ROUTERS: IpAddr = group(Family::V4);
const HEADER: Header = Header { source: HERE, destination: ROUTERS, ttl: 255 };

fn vips(count: u8) -> Vec<IpAddr> {
    (100..100 + count).map(|host| IpAddr::from([10, 77, 0, host])).collect()
}

fn v2(auth: Auth) -> Format {
    let interval = Duration::from_secs(1);
    let family = Family::V4;
    Format {
        family,
        version: Version::V2,
        vrid: 51,
        interval,
        auth,
        checksum: Form::Pseudo,
        addresses: vips(1),
        unicast: None,
    }
}

fn v3(interval_ms: u64) -> Format {
    Format { version: Version::V3, interval: Duration::from_millis(interval_ms), ..v2(Auth::None) }
}

fn pass(text: &str) -> Auth {
    Auth::Pass(Password::cut(text))
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// (what, format, priority, VRRP message): sent to the group from 10.77.0.11.
fn golden() -> Vec<(&'static str, Format, u8, String)> {
    let zeros = "0000000000000000";
    let ten = "0a4d00640a4d00650a4d00660a4d00670a4d00680a4d00690a4d006a0a4d006b0a4d006c0a4d006d";
    let (v2_ten, v2_ten_stop) = (format!("2133960a0001dda9{ten}{zeros}"), format!("2133000a000173aa{ten}{zeros}"));
    let (v3_ten, v3_ten_stop) = (format!("3133960a0064e23b{ten}"), format!("3133000a0064783c{ten}"));
    let many = |format: Format| Format { addresses: vips(10), ..format };
    vec![
        ("v2 none", v2(Auth::None), 150, "2133960100013e190a4d00640000000000000000".into()),
        ("v2 none, stop", v2(Auth::None), 0, "213300010001d4190a4d00640000000000000000".into()),
        ("v2 pass", v2(pass("hunter22")), 150, "213396010101ce8a0a4d006468756e7465723232".into()),
        ("v2 pass, stop", v2(pass("hunter22")), 0, "213300010101648b0a4d006468756e7465723232".into()),
        ("v2 short pass", v2(pass("abc")), 150, "21339601010178b60a4d00646162630000000000".into()),
        ("v2 short pass, stop", v2(pass("abc")), 0, "2133000101010eb70a4d00646162630000000000".into()),
        ("v2 long pass", v2(pass("averylongpassword")), 150, "2133960101018d550a4d006461766572796c6f6e".into()),
        ("v2 long pass, stop", v2(pass("averylongpassword")), 0, "21330001010123560a4d006461766572796c6f6e".into()),
        ("v2 ten VIPs", many(v2(Auth::None)), 150, v2_ten),
        ("v2 ten VIPs, stop", many(v2(Auth::None)), 0, v2_ten_stop),
        ("v3", v3(1000), 150, "31339601006442cf0a4d0064".into()),
        ("v3, stop", v3(1000), 0, "313300010064d8cf0a4d0064".into()),
        ("v3 ten VIPs", many(v3(1000)), 150, v3_ten),
        ("v3 ten VIPs, stop", many(v3(1000)), 0, v3_ten_stop),
        ("v3 10 ms", v3(10), 150, "31339601000143320a4d0064".into()),
        ("v3 10 ms, stop", v3(10), 0, "313300010001d9320a4d0064".into()),
        ("v3 40.95 s", v3(40_950), 255, "3133ff010fffca330a4d0064".into()),
        ("v3 40.95 s, stop", v3(40_950), 0, "313300010fffc9340a4d0064".into()),
    ]
}

#[test]
fn we_send_what_keepalived_sends_and_read_what_it_sends() {
    for (what, format, priority, hex) in golden() {
        let captured = bytes(&hex);
        assert_eq!(format.encode(priority, HERE, ROUTERS), captured, "{what}");
        let advert = format.decode(&captured, &HEADER).unwrap();
        assert_eq!((advert.priority, advert.interval), (priority, format.interval), "{what}");
        assert_eq!(advert.addresses, format.addresses, "{what}");
        assert!(format.lists_the_same(&advert), "{what}");
    }
}

fn v6(addresses: &[&str]) -> Format {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Format { family: Family::V6, addresses, ..v3(1000) }
}

/// As [`golden`], sent to the group from fe80::ff:fe00:1.
#[test]
fn over_ipv6_we_send_what_keepalived_sends_and_read_what_it_sends() {
    let source: IpAddr = "fe80::ff:fe00:1".parse().unwrap();
    let header = Header { source, destination: group(Family::V6), ttl: 255 };
    let (one, two) = (v6(&["fd77::100"]), v6(&["fe80::100", "fd77::100"]));
    let link = "fe800000000000000000000000000100";
    let global = "fd770000000000000000000000000100";
    let captures = [
        (&one, 150, format!("3133960100643cd0{global}")),
        (&one, 0, format!("313300010064d2d0{global}")),
        (&two, 150, format!("3133960200643d3e{link}{global}")),
        (&two, 0, format!("313300020064d33e{link}{global}")),
    ];
    for (format, priority, hex) in captures {
        let captured = bytes(&hex);
        assert_eq!(format.encode(priority, source, group(Family::V6)), captured);
        let advert = format.decode(&captured, &header).unwrap();
        assert_eq!((advert.priority, &advert.addresses), (priority, &format.addresses));
        let plain = Format { checksum: Form::Plain, ..format.clone() };
        assert_eq!(plain.encode(priority, source, group(Family::V6)), captured, "there is one form");
        assert_eq!(format.decode(&captured, &Header { ttl: 64, ..header }), Err(Discard::Ttl(64)));
        assert_eq!(
            format.decode(&captured[..captured.len() - 4], &header),
            Err(Discard::Length { expected: captured.len(), actual: captured.len() - 4 })
        );
    }
    let mut plain = one.encode(150, source, group(Family::V6));
    plain[6..8].fill(0);
    let sum = checksum::of(Form::Plain, &plain, source, group(Family::V6));
    plain[6..8].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(one.decode(&plain, &header), Err(Discard::Checksum), "without the pseudo-header");
}

#[test]
fn the_plain_form_of_version_3_is_sent_when_configured_and_always_accepted() {
    // keepalived 2.4 with v3_checksum_as_v2: VRID 51, priority 100, 500 ms, 192.0.2.100.
    let addresses = vec![IpAddr::from([192, 0, 2, 100])];
    let format = Format { checksum: Form::Plain, addresses, ..v3(500) };
    let captured = bytes("313364010032a834c0000264");
    assert_eq!(format.encode(100, HERE, ROUTERS), captured);
    let by_default = Format { checksum: Form::Pseudo, ..format };
    assert_eq!(by_default.decode(&captured, &HEADER).unwrap().checksum, Form::Plain);
}

#[test]
fn a_unicast_advert_has_its_real_destination_in_the_pseudo_header() {
    let peer = IpAddr::from([10, 77, 0, 12]);
    let captured = bytes("31339601006418890a4d0064");
    assert_eq!(v3(1000).encode(150, HERE, peer), captured);
    assert_eq!(v3(1000).decode(&captured, &HEADER), Err(Discard::Checksum), "not to the group");
    let to_us = Header { destination: peer, ttl: 64, ..HEADER };
    let unicast = Format { unicast: Some(Unicast::to([Peer::from(HERE)])), ..v3(1000) };
    assert_eq!(unicast.decode(&captured, &to_us).unwrap().priority, 150);
    assert_eq!(unicast.decode(&captured, &HEADER), Err(Discard::Destination));
    assert_eq!(unicast.decode(&captured, &Header { source: peer, ..to_us }), Err(Discard::Source));
    assert_eq!(v3(1000).decode(&captured, &Header { ttl: 255, ..to_us }), Err(Discard::Destination));
}

#[test]
fn a_router_without_addresses_hears_one_without() {
    let none = Format { addresses: Vec::new(), ..v3(1000) };
    let advert = none.encode(150, HERE, ROUTERS);
    assert_eq!(none.decode(&advert, &HEADER).unwrap().addresses, [] as [IpAddr; 0]);
    assert_eq!(v3(1000).decode(&advert, &HEADER), Err(Discard::Empty), "RFC 9568 section 5.2.5");
}

/// The right sum over a changed message, so that later checks are reached.
fn resealed(mut message: Vec<u8>) -> Vec<u8> {
    message[6..8].fill(0);
    let sum = checksum::of(Form::Plain, &message, HERE, ROUTERS);
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    message
}

fn changed(format: &Format, at: usize, to: u8) -> Vec<u8> {
    let mut message = format.encode(150, HERE, ROUTERS);
    message[at] = to;
    resealed(message)
}

#[test]
fn every_reason_to_discard_is_told_apart() {
    let (two, three, secret) = (v2(Auth::None), v3(1000), v2(pass("hunter22")));
    let far = Header { ttl: 254, ..HEADER };
    assert_eq!(three.decode(&three.encode(150, HERE, ROUTERS), &far), Err(Discard::Ttl(254)));
    assert_eq!(three.decode(&[0x31; 7], &HEADER), Err(Discard::Short(7)));
    assert_eq!(three.decode(&changed(&three, 0, 0x21), &HEADER), Err(Discard::Version(2)));
    assert_eq!(two.decode(&three.encode(150, HERE, ROUTERS), &HEADER), Err(Discard::Version(3)));
    assert_eq!(three.decode(&changed(&three, 0, 0x32), &HEADER), Err(Discard::Type(2)));
    assert_eq!(three.decode(&changed(&three, 1, 52), &HEADER), Err(Discard::Vrid(52)));
    assert_eq!(
        three.decode(&changed(&three, 3, 2), &HEADER),
        Err(Discard::Length { expected: 16, actual: 12 }),
        "a count without its address"
    );
    let mut trailer = three.encode(150, HERE, ROUTERS);
    trailer.extend([0; 28]);
    assert_eq!(three.decode(&trailer, &HEADER), Err(Discard::Length { expected: 12, actual: 40 }));
    let mut torn = secret.encode(150, HERE, ROUTERS);
    torn[19] ^= 1;
    assert_eq!(secret.decode(&torn, &HEADER), Err(Discard::Checksum), "damage is no wrong password");
    let mut torn = three.encode(150, HERE, ROUTERS);
    torn[2] = 255;
    assert_eq!(three.decode(&torn, &HEADER), Err(Discard::Checksum));
    assert_eq!(two.decode(&secret.encode(150, HERE, ROUTERS), &HEADER), Err(Discard::AuthType(1)));
    assert_eq!(secret.decode(&two.encode(150, HERE, ROUTERS), &HEADER), Err(Discard::AuthType(0)));
    let other = v2(pass("hunter23"));
    assert_eq!(secret.decode(&other.encode(150, HERE, ROUTERS), &HEADER), Err(Discard::Password));
    assert_eq!(two.decode(&changed(&two, 5, 2), &HEADER), Err(Discard::Interval(Duration::from_secs(2))));
    assert_eq!(three.decode(&changed(&three, 5, 0), &HEADER), Err(Discard::Interval(Duration::ZERO)));
}

#[test]
fn what_the_rfcs_ignore_on_receipt_is_ignored() {
    let (two, three) = (v2(Auth::None), v3(1000));
    assert!(two.decode(&changed(&two, 19, 7), &HEADER).is_ok(), "authentication data without authentication");
    assert!(three.decode(&changed(&three, 4, 0xf0), &HEADER).is_ok(), "the reserved bits");
}

#[test]
fn another_list_in_another_order_is_told_apart() {
    let format = Format { addresses: vips(3), ..v3(1000) };
    let mut turned = format.clone();
    turned.addresses.reverse();
    let advert = format.decode(&turned.encode(1, HERE, ROUTERS), &HEADER).unwrap();
    assert!(format.lists_the_same(&advert));
    assert!(!Format { addresses: vips(2), ..format }.lists_the_same(&advert));
}

#[test]
fn a_password_is_not_printed() {
    assert_eq!(format!("{:?}", pass("hunter22")), "Pass(Password(..))");
}

fn any_format() -> impl Strategy<Value = Format> {
    let auth = prop_oneof![Just(Auth::None), "[a-z]{1,12}".prop_map(|text| pass(&text))];
    let form = prop_oneof![Just(Form::Pseudo), Just(Form::Plain)];
    let addresses = prop::collection::vec(any::<[u8; 16]>(), 1..=MAX_ADDRESSES);
    (any::<bool>(), any::<bool>(), any::<u8>(), 1..=4095u64, auth, form, addresses).prop_map(
        |(new, six, vrid, step, auth, checksum, addresses)| {
            let family = if new && six { Family::V6 } else { Family::V4 };
            let address = |octets: [u8; 16]| match family {
                Family::V4 => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
                Family::V6 => IpAddr::from(octets),
            };
            let addresses = addresses.into_iter().map(address).collect();
            let (version, interval, auth) = if new {
                (Version::V3, Duration::from_millis(10 * step), Auth::None)
            } else {
                (Version::V2, Duration::from_secs(step % 255 + 1), auth)
            };
            Format { family, version, vrid, interval, auth, checksum, addresses, unicast: None }
        },
    )
}

/// An advert and the header it comes with.
fn sent(format: &Format, priority: u8) -> (Header, Vec<u8>) {
    let source = match format.family {
        Family::V4 => HERE,
        Family::V6 => "fe80::1".parse().unwrap(),
    };
    let header = Header { source, destination: group(format.family), ttl: 255 };
    (header, format.encode(priority, source, header.destination))
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(format in any_format(), priority: u8) {
        let (header, message) = sent(&format, priority);
        let advert = format.decode(&message, &header).unwrap();
        prop_assert_eq!(advert.priority, priority);
        prop_assert_eq!(advert.interval, format.interval);
        prop_assert_eq!(&advert.addresses, &format.addresses);
    }

    #[test]
    fn no_flipped_byte_passes_the_checksum(format in any_format(), at: prop::sample::Index, flip in 1..=255u8) {
        let (header, mut message) = sent(&format, 100);
        let at = at.index(message.len());
        message[at] ^= flip;
        prop_assert!(format.decode(&message, &header).is_err());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(format in any_format(), bytes: Vec<u8>, cut: prop::sample::Index) {
        prop_assert_eq!(vrid(&bytes), bytes.get(1).copied());
        let (header, whole) = sent(&format, 100);
        prop_assert!(format.decode(&bytes, &header).is_err() || bytes.len() >= FIXED);
        let part = &whole[..cut.index(whole.len())];
        prop_assert!(format.decode(part, &header).is_err());
    }
}
