//! ARP over Ethernet (RFC 826): announcements of VIPs, probes of neighbours, and what the LAN says.

use super::sys;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use tokio::io::unix::AsyncFd;

/// A hardware address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// `ETH_P_ARP`.
const ETHERTYPE: u16 = 0x0806;
const FRAME: usize = 42;
/// Ethernet, IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];

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

/// Who spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The sender's address, as it says. Zero in a probe for a duplicate (RFC 5227).
    pub ip: Ipv4Addr,
    /// The sender's hardware address, as it says.
    pub mac: Mac,
}

/// Reads the sender out of a frame, if it is ARP for IPv4 over Ethernet. Longer frames are padded.
pub fn parse(frame: &[u8]) -> Option<Heard> {
    let frame = frame.get(..FRAME)?;
    let is_arp = frame[12..14] == ETHERTYPE.to_be_bytes() && frame[14..20] == KIND;
    let ip = <[u8; 4]>::try_from(&frame[28..32]).ok()?;
    is_arp.then_some(Heard { ip: ip.into(), mac: frame[22..28].try_into().ok()? })
}

/// Sends ARP on one interface and hears all of it, except what this host sends.
#[derive(Debug)]
pub struct ArpSocket(AsyncFd<Socket>);

impl ArpSocket {
    /// Opens a socket, in a tokio runtime.
    ///
    /// # Errors
    /// Without CAP_NET_RAW; `NotFound` when there is no such interface.
    pub fn open(interface: &str) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(ETHERTYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        // The address of a packet socket as the kernel itself gives it. Without a protocol, which keeps the socket's.
        let address = link_address(interface)?.ok_or(io::ErrorKind::NotFound)?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self(sys::register(socket)?))
    }

    /// Sends a frame at once, or not at all.
    ///
    /// # Errors
    /// `ENOBUFS` when the gate is shut for its sender, or the queue is full; the interface is down or gone.
    pub fn send(&self, frame: &[u8; FRAME]) -> io::Result<()> {
        self.0.get_ref().send(frame).map(drop)
    }

    /// The sender of the next ARP packet.
    ///
    /// # Errors
    /// The socket's: the interface is down or gone.
    pub async fn heard(&self) -> io::Result<Heard> {
        let mut frame = [0; 64];
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|socket| rustix::io::read(socket.get_ref(), &mut frame[..]).map_err(Into::into));
            if let Ok(length) = read
                && let Some(heard) = parse(&frame[..length?])
            {
                return Ok(heard);
            }
        }
    }
}

fn link_address(interface: &str) -> io::Result<Option<LinkAddr>> {
    let mut all = getifaddrs()?.filter(|of| of.interface_name == interface);
    Ok(all.find_map(|of| of.address?.as_link_addr().copied()))
}
