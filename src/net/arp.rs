//! ARP over Ethernet (RFC 826): announcements of IPv4 VIPs, probes of neighbours, and what the LAN says.

use super::neighbour::Heard;
use std::net::{IpAddr, Ipv4Addr};

/// A hardware address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// `ETH_P_ARP`.
pub(super) const ETHERTYPE: u16 = 0x0806;
pub(super) const FRAME: usize = 42;
/// Ethernet, IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// The announcement of a VIP, in the form of a request from it for itself, byte for byte as keepalived sends.
pub fn gratuitous(mac: Mac, vip: Ipv4Addr) -> [u8; FRAME] {
    request(mac, vip, BROADCAST, vip)
}

/// Asks whether `neighbour` is there, from an address of our own that is no VIP: it passes a shut gate, and moves
/// nobody's cache.
pub fn probe(mac: Mac, own: Ipv4Addr, neighbour: Ipv4Addr) -> [u8; FRAME] {
    request(mac, own, [0; 6], neighbour)
}

fn request(mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let mut place = 0;
    let parts: [&[u8]; 9] = [
        &BROADCAST,
        &mac,
        &ETHERTYPE.to_be_bytes(),
        &KIND,
        &REQUEST,
        &mac,
        &sender.octets(),
        &target_mac,
        &target.octets(),
    ];
    for part in parts {
        frame[place..place + part.len()].copy_from_slice(part);
        place += part.len();
    }
    frame
}

/// Reads the sender out of a frame, if it is ARP for IPv4 over Ethernet. Longer frames are padded.
pub fn parse(frame: &[u8]) -> Option<Heard> {
    let frame = frame.get(..FRAME)?;
    let is_arp = frame[12..14] == ETHERTYPE.to_be_bytes() && frame[14..20] == KIND;
    let ip = <[u8; 4]>::try_from(&frame[28..32]).ok()?;
    let asked = <[u8; 4]>::try_from(&frame[38..42]).ok()?;
    // An announcement may be a reply to nobody, for the sender's own address.
    let answers = (frame[20..22] == REPLY && asked != ip).then(|| IpAddr::V4(asked.into()));
    let ip = IpAddr::V4(ip.into());
    is_arp.then_some(Heard { ip, claimed: ip, mac: frame[22..28].try_into().ok()?, answers })
}
