//! Needs root: every test makes its own network namespaces and fails without.

use super::arp::{self, Mac};
use super::ndp;
use super::neighbour::{Heard, NeighbourSocket};
use super::vrrp::{Carries, Received, VrrpSocket};
use crate::kernel::address::Interface;
use crate::kernel::link::{Link, connect};
use crate::kernel::tests::{Cable, ip, on_a_cable};
use crate::vrrp::advert::Header;
use crate::vrrp::ah::Authentication;
use crate::vrrp::{Password, group};
use hamesh_raft::command::Family;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
const MAC: Mac = [2, 0, 0, 0, 0, 1];

async fn eth0() -> Link {
    connect().unwrap().0.get("eth0", &[]).await.unwrap().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_announcement_is_that_of_keepalived() {
    // Captured from keepalived 2.2.7, without and with a virtual MAC.
    let plain = "ffffffffffff020000000001080600010800060400010200000000010a4d0064ffffffffffff0a4d0064";
    let virtual_mac = "ffffffffffff00005e0001330806000108000604000100005e0001330a4d0064ffffffffffff0a4d0064";
    assert_eq!(hex(&arp::gratuitous(MAC, VIP)), plain);
    assert_eq!(hex(&arp::gratuitous([0, 0, 0x5e, 0, 1, 0x33], VIP)), virtual_mac);
    let all = "ff020000000000000000000000000001";
    let vip = "fd770000000000000000000000000100";
    let plain = format!("33330000000102000000000186dd6000000000203aff{vip}{all}880057af20000000{vip}0201020000000001");
    let virtual_mac =
        format!("33330000000100005e00023386dd6000000000203aff{vip}{all}8800f97c20000000{vip}020100005e000233");
    assert_eq!(hex(&ndp::announcement(MAC, VIP6, false)), plain);
    assert_eq!(hex(&ndp::announcement([0, 0, 0x5e, 0, 2, 0x33], VIP6, false)), virtual_mac);
    let router = ndp::announcement(MAC, VIP6, true);
    assert_eq!((hex(&router[54..56]), router[58]), ("8800".to_owned(), 0xa0));
}

#[test]
fn only_whole_arp_frames_of_ipv4_over_ethernet_are_read() {
    let frame = arp::gratuitous(MAC, VIP);
    let heard = Some(Heard { ip: IpAddr::V4(VIP), claimed: IpAddr::V4(VIP), mac: MAC, answers: None });
    assert_eq!(arp::parse(&frame), heard);
    assert_eq!(arp::parse(&[&frame[..], &[0; 18]].concat()), heard, "padded");
    let mut reply = frame;
    reply[21] = 2;
    assert_eq!(arp::parse(&reply), heard, "an announcement in the form of a reply answers nobody");
    reply[38..42].copy_from_slice(&HERE.octets());
    assert_eq!(arp::parse(&reply).and_then(|heard| heard.answers), Some(HERE.into()));
    for length in 0..frame.len() {
        assert_eq!(arp::parse(&frame[..length]), None);
    }
    for place in 12..20 {
        let mut other = frame;
        other[place] ^= 1;
        assert_eq!(arp::parse(&other), None, "byte {place} is of another protocol");
    }
}

#[test]
fn only_whole_neighbour_discovery_that_nobody_forwarded_is_read() {
    let own: Ipv6Addr = "fe80::1".parse().unwrap();
    for (frame, ip) in [(ndp::announcement(MAC, VIP6, true), VIP6), (ndp::probe(MAC, own, VIP6), own)] {
        assert_eq!(ndp::parse(&frame), Some(Heard { ip: ip.into(), claimed: ip.into(), mac: MAC, answers: None }));
        for length in 0..78 {
            assert_eq!(ndp::parse(&frame[..length]), None);
        }
        for (place, flip) in [(12, 1), (14, 0x10), (20, 1), (21, 1), (54, 0x10)] {
            let mut other = frame;
            other[place] ^= flip;
            assert_eq!(ndp::parse(&other), None, "byte {place} is of another protocol");
        }
    }
    assert_eq!(ndp::parse(&ndp::probe(MAC, Ipv6Addr::UNSPECIFIED, VIP6)), None, "the sender has no address yet");
    let mut thief = ndp::announcement(MAC, VIP6, false);
    thief[22..38].copy_from_slice(&own.octets());
    let heard = Heard { ip: own.into(), claimed: VIP6.into(), mac: MAC, answers: None };
    assert_eq!(ndp::parse(&thief), Some(heard), "what it advertises is not where it speaks from");
    thief[38..54].copy_from_slice(&own.octets());
    assert_eq!(ndp::parse(&thief).and_then(|heard| heard.answers), Some(own.into()));
}

#[test]
fn what_is_announced_and_asked_is_heard_on_the_other_side_and_not_on_this() {
    on_a_cable(async |cable| {
        ip("link set eth0 address 02:00:00:00:00:01");
        let here = NeighbourSocket::open("eth0", Family::V4).unwrap();
        let there = cable.there(|| NeighbourSocket::open("eth0", Family::V4)).unwrap();
        here.announce(MAC, VIP.into(), false).unwrap();
        here.probe(MAC, HERE.into(), THERE.into()).unwrap();
        assert_eq!(
            there.heard().await.unwrap(),
            Heard { ip: VIP.into(), claimed: VIP.into(), mac: MAC, answers: None }
        );
        assert_eq!(
            there.heard().await.unwrap(),
            Heard { ip: HERE.into(), claimed: HERE.into(), mac: MAC, answers: None }
        );
        assert_eq!(here.heard().await.unwrap().ip, THERE, "the neighbour's answer comes first: nothing own is heard");
        let error = NeighbourSocket::open("eth9", Family::V4).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    });
}

#[test]
fn over_ipv6_the_neighbour_is_heard_and_other_packets_are_not() {
    on_a_cable(async |cable| {
        let (own, neighbour) = link_local(&cable).await;
        let here = NeighbourSocket::open("eth0", Family::V6).unwrap();
        let there = cable.there(|| NeighbourSocket::open("eth0", Family::V6)).unwrap();
        // No neighbour discovery: to all nodes, so that nobody has to be asked for.
        let sender = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
        let everybody = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 9, 0, eth0().await.interface.index);
        sender.send_to(b"chatter", &everybody.into()).unwrap();
        let mac = eth0().await.mac.unwrap();
        here.announce(mac, VIP6.into(), false).unwrap();
        here.probe(mac, own.into(), neighbour.into()).unwrap();
        assert_eq!(there.heard().await.unwrap(), Heard { ip: VIP6.into(), claimed: VIP6.into(), mac, answers: None });
        assert_eq!(there.heard().await.unwrap(), Heard { ip: own.into(), claimed: own.into(), mac, answers: None });
        assert_eq!(
            here.heard().await.unwrap().ip,
            neighbour,
            "the neighbour's answer comes first: nothing own is heard"
        );
        let wrong = here.announce(mac, VIP.into(), false).unwrap_err();
        assert_eq!(wrong.kind(), std::io::ErrorKind::InvalidInput);
    });
}

/// The link-local addresses of both hosts, when the kernel has found them to be no duplicates.
async fn link_local(cable: &Cable) -> (Ipv6Addr, Ipv6Addr) {
    let links = [connect().unwrap().0, cable.there(connect).unwrap().0];
    loop {
        if let [Some(here), Some(there)] =
            [links[0].get("eth0", &[]).await.unwrap().unwrap().v6, links[1].get("eth0", &[]).await.unwrap().unwrap().v6]
        {
            return (here, there);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn an_advert_over_ipv6_goes_out_as_keepalived_sends_it() {
    on_a_cable(async |cable| {
        let (here, there) = link_local(&cable).await;
        let (sender, receiver) = sockets(&cable, Family::V6, Carries::Vrrp).await;
        let wire = cable.there(|| {
            let all = socket2::Protocol::from(i32::from(3u16.to_be()));
            socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, Some(all)).unwrap()
        });
        wire.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let payload = [0x31, 0x33, 0x96, 1, 0, 100, 0x3c, 0xd0, 0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        let mut buffer = vec![0; 65_535];
        for destination in [group(Family::V6), there.into()] {
            sender.send(here.into(), destination, 255, &payload).unwrap();
            let advert = receiver.receive(&mut buffer).await.unwrap();
            assert_eq!((advert.source, advert.destination, advert.ttl), (here.into(), destination, 255));
            assert_eq!(advert.payload, payload);
        }
        let mut frame = [0; 256];
        let advert = loop {
            let length = std::io::Read::read(&mut &wire, &mut frame).unwrap();
            if length > 54 && frame[12..14] == [0x86, 0xdd] && frame[20] == 112 {
                break &frame[..length];
            }
        };
        // All VRRP routers; version 6, CS6; 24 bytes of VRRP, 255 hops. The flow label is the kernel's.
        assert_eq!(hex(&advert[..6]), "333300000012");
        assert_eq!((advert[14], advert[15] & 0xf0), (0x6c, 0));
        assert_eq!(hex(&advert[18..22]), "001870ff");
        let own = tokio::time::timeout(Duration::from_millis(50), sender.receive(&mut buffer)).await;
        assert!(own.is_err(), "what this host sends is not received here");
    });
}

#[test]
fn an_advert_goes_out_as_keepalived_sends_it() {
    on_a_cable(async |cable| {
        // The VIP comes first on the interface, and is not the source all the same.
        ip("addr del 10.9.0.1/24 dev eth0");
        ip("addr add 10.9.0.10/24 dev eth0");
        ip("addr add 10.9.0.1/24 dev eth0");
        let (here, there) = sockets(&cable, Family::V4, Carries::Vrrp).await;
        let payload = [0x31, 0x33, 0x96, 1, 0, 100, 0x42, 0xcf, 10, 0x4d, 0, 100];
        let mut buffer = vec![0; 65_535];
        for destination in [group(Family::V4), THERE.into()] {
            here.send(HERE.into(), destination, 255, &payload).unwrap();
            let advert = there.receive(&mut buffer).await.unwrap();
            assert_eq!((advert.source, advert.destination, advert.ttl), (HERE.into(), destination, 255));
            assert_eq!(advert.payload, payload);
            // No options, CS6, 32 bytes; no flags and no fragment; 255 hops, VRRP.
            assert_eq!(hex(&advert.header[..4]), "45c00020");
            assert_eq!(hex(&advert.header[6..10]), "0000ff70");
        }
        let own = tokio::time::timeout(Duration::from_millis(50), here.receive(&mut buffer)).await;
        assert!(own.is_err(), "what this host sends is not received here");
    });
}

#[test]
fn an_authenticated_advert_comes_by_a_socket_of_its_own() {
    on_a_cable(async |cable| {
        let (here, there) = sockets(&cable, Family::V4, Carries::Authenticated).await;
        let (_plain, other) = sockets(&cable, Family::V4, Carries::Vrrp).await;
        let mut ours = Authentication::new(Password::cut("key"), 6);
        let mut theirs = ours.clone();
        let mut buffer = [0; 128];
        for to in [crate::vrrp::ROUTERS_V4, THERE] {
            here.send_packet(to, &ours.seal(HERE, to, 255, b"an advert")).unwrap();
            let Received { header, payload, source, destination, ttl, .. } = there.receive(&mut buffer).await.unwrap();
            let told = Header { source, destination, ttl };
            assert_eq!(told, Header { source: HERE.into(), destination: to.into(), ttl: 255 });
            assert_eq!(theirs.open(header, payload, &told), Ok(&b"an advert"[..]), "as the kernel sent it");
        }
        assert!(tokio::time::timeout(Duration::from_millis(50), other.receive(&mut buffer)).await.is_err());
    });
}

/// One socket here and one there.
async fn sockets(cable: &Cable, family: Family, carries: Carries) -> (VrrpSocket, VrrpSocket) {
    let here = eth0().await.interface;
    let there = cable.there(connect).unwrap().0.get("eth0", &[]).await.unwrap().unwrap().interface;
    let open = |interface: &Interface| VrrpSocket::open(interface, family, carries).unwrap();
    (open(&here), cable.there(|| open(&there)))
}
