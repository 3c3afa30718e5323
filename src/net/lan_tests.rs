//! Needs root: every test makes its own network namespaces and fails without.

use super::arp::{ArpSocket, Heard, Mac, gratuitous, parse, probe};
use super::vrrp::{Carries, ROUTERS, VrrpSocket};
use crate::kernel::address::Interface;
use crate::kernel::link::{Link, connect};
use crate::kernel::tests::{Cable, ip, on_a_cable};
use std::net::Ipv4Addr;
use std::time::Duration;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const MAC: Mac = [2, 0, 0, 0, 0, 1];

async fn eth0() -> Link {
    connect().unwrap().0.get("eth0", &[]).await.unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_announcement_is_that_of_keepalived() {
    // Captured from keepalived 2.2.7, without and with a virtual MAC.
    let plain = "ffffffffffff020000000001080600010800060400010200000000010a4d0064ffffffffffff0a4d0064";
    let virtual_mac = "ffffffffffff00005e0001330806000108000604000100005e0001330a4d0064ffffffffffff0a4d0064";
    assert_eq!(hex(&gratuitous(MAC, VIP)), plain);
    assert_eq!(hex(&gratuitous([0, 0, 0x5e, 0, 1, 0x33], VIP)), virtual_mac);
}

#[test]
fn only_whole_arp_frames_of_ipv4_over_ethernet_are_read() {
    let frame = gratuitous(MAC, VIP);
    assert_eq!(parse(&frame), Some(Heard { ip: VIP, mac: MAC }));
    assert_eq!(parse(&[&frame[..], &[0; 18]].concat()), Some(Heard { ip: VIP, mac: MAC }), "padded");
    for length in 0..frame.len() {
        assert_eq!(parse(&frame[..length]), None);
    }
    for place in 12..20 {
        let mut other = frame;
        other[place] ^= 1;
        assert_eq!(parse(&other), None, "byte {place} is of another protocol");
    }
}

#[test]
fn what_is_announced_and_asked_is_heard_on_the_other_side_and_not_on_this() {
    on_a_cable(async |cable| {
        ip("link set eth0 address 02:00:00:00:00:01");
        let here = ArpSocket::open("eth0").unwrap();
        let there = cable.there(|| ArpSocket::open("eth0")).unwrap();
        here.send(&gratuitous(MAC, VIP)).unwrap();
        here.send(&probe(MAC, HERE, THERE)).unwrap();
        assert_eq!(there.heard().await.unwrap(), Heard { ip: VIP, mac: MAC });
        assert_eq!(there.heard().await.unwrap(), Heard { ip: HERE, mac: MAC });
        assert_eq!(here.heard().await.unwrap().ip, THERE, "the neighbour's answer comes first: nothing own is heard");
        let error = ArpSocket::open("eth9").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    });
}

#[test]
fn an_advert_goes_out_as_keepalived_sends_it() {
    on_a_cable(async |cable| {
        // The VIP comes first on the interface, and is not the source all the same.
        ip("addr del 10.9.0.1/24 dev eth0");
        ip("addr add 10.9.0.10/24 dev eth0");
        ip("addr add 10.9.0.1/24 dev eth0");
        let (here, there) = sockets(&cable, Carries::Vrrp).await;
        let payload = [0x31, 0x33, 0x96, 1, 0, 100, 0x42, 0xcf, 10, 0x4d, 0, 100];
        let mut buffer = vec![0; 65_535];
        for destination in [ROUTERS, THERE] {
            here.send(HERE, destination, &payload).unwrap();
            let advert = there.receive(&mut buffer).await.unwrap();
            assert_eq!((advert.source, advert.destination, advert.ttl), (HERE, destination, 255));
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
        let (here, there) = sockets(&cable, Carries::Authenticated).await;
        let (_plain, other) = sockets(&cable, Carries::Vrrp).await;
        here.send(HERE, ROUTERS, &[112, 4, 0, 0]).unwrap();
        let mut buffer = [0; 128];
        assert_eq!(there.receive(&mut buffer).await.unwrap().payload, [112, 4, 0, 0]);
        assert!(tokio::time::timeout(Duration::from_millis(50), other.receive(&mut buffer)).await.is_err());
    });
}

/// One socket here and one there.
async fn sockets(cable: &Cable, carries: Carries) -> (VrrpSocket, VrrpSocket) {
    let here = eth0().await.interface;
    let there = cable.there(connect).unwrap().0.get("eth0", &[]).await.unwrap().interface;
    let open = |interface: &Interface| VrrpSocket::open(interface, carries).unwrap();
    (open(&here), cable.there(|| open(&there)))
}
