//! Neighbour discovery over Ethernet (RFC 4861): announcements of IPv6 VIPs, probes of neighbours, and what the LAN says.

use super::arp::Mac;
use super::neighbour::Heard;
use crate::vrrp::checksum;
use std::net::{IpAddr, Ipv6Addr};

/// `ETH_P_IPV6`.
pub(super) const ETHERTYPE: u16 = 0x86dd;
/// Of both messages with one option: Ethernet, IPv6, and the 32 bytes that follow.
pub(super) const FRAME: usize = 86;
/// ICMPv6.
pub(super) const PROTOCOL: u8 = 58;
pub(super) const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;
/// Anything less was forwarded (RFC 4861 section 7.1).
const HOPS: u8 = 255;
/// Where the ICMPv6 message starts, behind a header without extensions.
const MESSAGE: usize = 54;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const OVERRIDE: u8 = 0x20;
const ROUTER: u8 = 0x80;
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;

/// The unsolicited announcement of a VIP, byte for byte as keepalived sends it. A `router` says that it is one: a host
/// that has this VIP as its default router would drop it otherwise (RFC 4861 section 7.2.5).
pub fn announcement(mac: Mac, vip: Ipv6Addr, router: bool) -> [u8; FRAME] {
    let flags = if router { OVERRIDE | ROUTER } else { OVERRIDE };
    frame(mac, vip, ALL_NODES, [ADVERTISEMENT, flags], vip, TARGET_LINK)
}

/// Asks whether `neighbour` is there, from an address of our own that is no VIP: it passes a shut gate.
pub fn probe(mac: Mac, own: Ipv6Addr, neighbour: Ipv6Addr) -> [u8; FRAME] {
    let [.., a, b, c] = neighbour.octets();
    // The solicited-node group of RFC 4291 section 2.7.1.
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    frame(mac, own, group, [SOLICITATION, 0], neighbour, SOURCE_LINK)
}

fn frame(
    mac: Mac,
    source: Ipv6Addr,
    group: Ipv6Addr,
    [kind, flags]: [u8; 2],
    target: Ipv6Addr,
    option: u8,
) -> [u8; FRAME] {
    let mut message = [0; FRAME - MESSAGE];
    (message[0], message[4]) = (kind, flags);
    message[8..24].copy_from_slice(&target.octets());
    // In units of eight bytes.
    (message[24], message[25]) = (option, 1);
    message[26..].copy_from_slice(&mac);
    let sum = checksum::with_pseudo_header(PROTOCOL, &message, source.into(), group.into());
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let [.., a, b, c, d] = group.octets();
    let mut frame = [0; FRAME];
    frame[..12].copy_from_slice(&[[0x33, 0x33, a, b, c, d], mac].concat());
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 32, PROTOCOL, HOPS]);
    frame[22..38].copy_from_slice(&source.octets());
    frame[38..MESSAGE].copy_from_slice(&group.octets());
    frame[MESSAGE..].copy_from_slice(&message);
    frame
}

/// Reads the sender out of a frame, if it is a solicitation or an advertisement that no router has forwarded. What asks
/// for a duplicate has no sender.
pub fn parse(frame: &[u8]) -> Option<Heard> {
    let whole = frame.get(..MESSAGE + 24)?;
    let is_discovery = whole[12..14] == ETHERTYPE.to_be_bytes()
        && whole[14] >> 4 == 6
        && (whole[20], whole[21]) == (PROTOCOL, HOPS)
        && matches!(whole[MESSAGE], SOLICITATION | ADVERTISEMENT);
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&whole[22..38]).ok()?);
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(&whole[MESSAGE + 8..]).ok()?);
    let claimed = IpAddr::V6(if whole[MESSAGE] == ADVERTISEMENT { target } else { source });
    let mac = whole[6..12].try_into().ok()?;
    let to = Ipv6Addr::from(<[u8; 16]>::try_from(&whole[38..54]).ok()?);
    let answers = (whole[MESSAGE] == ADVERTISEMENT && !to.is_multicast()).then_some(IpAddr::V6(to));
    (is_discovery && !source.is_unspecified()).then_some(Heard { ip: IpAddr::V6(source), claimed, mac, answers })
}
