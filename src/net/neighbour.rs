//! What tells hosts where an address is: ARP for IPv4, neighbour discovery for IPv6, on a packet socket of one interface.

use super::arp::Mac;
use super::{arp, ndp, sys};
use hamesh_raft::command::Family;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, SockaddrStorage, bind};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use tokio::io::unix::AsyncFd;

/// Who spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The sender's address, as it says. Zero in ARP that asks for a duplicate (RFC 5227).
    pub ip: IpAddr,
    /// The address that it says is at `mac`: its own, or the one that it advertises.
    pub claimed: IpAddr,
    /// The sender's hardware address, as it says.
    pub mac: Mac,
    /// Whose question it answers, if it does.
    pub answers: Option<IpAddr>,
}

/// Sends and hears the neighbour protocol of one family on one interface, except what this host sends.
#[derive(Debug)]
pub struct NeighbourSocket {
    socket: AsyncFd<Socket>,
    family: Family,
}

impl NeighbourSocket {
    /// Opens a socket, in a tokio runtime.
    ///
    /// # Errors
    /// Without CAP_NET_RAW; `NotFound` when there is no such interface.
    pub fn open(interface: &str, family: Family) -> io::Result<Self> {
        let ethertype = match family {
            Family::V4 => arp::ETHERTYPE,
            Family::V6 => ndp::ETHERTYPE,
        };
        let protocol = Protocol::from(i32::from(ethertype.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        match family {
            Family::V4 => {}
            Family::V6 => socket.attach_filter(&only_discovery())?,
        }
        // The address of a packet socket as the kernel itself gives it. Without a protocol, which keeps the socket's.
        let address = link_address(interface)?.ok_or(io::ErrorKind::NotFound)?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self { socket: sys::register(socket)?, family })
    }

    /// Announces that `vip` is at `mac`. A `router` says that it forwards IPv6.
    ///
    /// # Errors
    /// `ENOBUFS` when the gate is shut for the VIP, or the queue is full; the interface is down or gone; `InvalidInput`
    /// for an address of the other family.
    pub fn announce(&self, mac: Mac, vip: IpAddr, router: bool) -> io::Result<()> {
        match (self.family, vip) {
            (Family::V4, IpAddr::V4(vip)) => self.send(&arp::gratuitous(mac, vip)),
            (Family::V6, IpAddr::V6(vip)) => self.send(&ndp::announcement(mac, vip, router)),
            (Family::V4 | Family::V6, _) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Asks whether `neighbour` is there, from `own`.
    ///
    /// # Errors
    /// As [`NeighbourSocket::announce`].
    pub fn probe(&self, mac: Mac, own: IpAddr, neighbour: IpAddr) -> io::Result<()> {
        match (self.family, own, neighbour) {
            (Family::V4, IpAddr::V4(own), IpAddr::V4(neighbour)) => self.send(&arp::probe(mac, own, neighbour)),
            (Family::V6, IpAddr::V6(own), IpAddr::V6(neighbour)) => self.send(&ndp::probe(mac, own, neighbour)),
            (Family::V4 | Family::V6, _, _) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Sends at once, or not at all.
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send(frame).map(drop)
    }

    /// The sender of the next packet.
    ///
    /// # Errors
    /// The socket's: the interface is down or gone.
    pub async fn heard(&self) -> io::Result<Heard> {
        let mut frame = [0; 128];
        loop {
            let mut ready = self.socket.readable().await?;
            let read = ready.try_io(|socket| rustix::io::read(socket.get_ref(), &mut frame[..]).map_err(Into::into));
            let Ok(length) = read else { continue };
            let frame = &frame[..length?];
            let heard = match self.family {
                Family::V4 => arp::parse(frame),
                Family::V6 => ndp::parse(frame),
            };
            if let Some(heard) = heard {
                return Ok(heard);
            }
        }
    }
}

/// In the kernel, so that other IPv6 wakes nobody: a load balancer's is heavy.
fn only_discovery() -> [SockFilter; 7] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NEXT_HEADER: u32 = 20;
    const KIND: u32 = 54;
    let step = SockFilter::new;
    [
        step(LOAD_BYTE, 0, 0, NEXT_HEADER),
        step(JUMP_IF_EQUAL, 0, 4, ndp::PROTOCOL.into()),
        step(LOAD_BYTE, 0, 0, KIND),
        step(JUMP_IF_EQUAL, 1, 0, ndp::SOLICITATION.into()),
        step(JUMP_IF_EQUAL, 0, 1, ndp::ADVERTISEMENT.into()),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ]
}

/// Whether an interface of this host has the address.
///
/// # Errors
/// The kernel does not list them.
pub fn is_own(mac: Mac) -> io::Result<bool> {
    let of = |address: Option<&LinkAddr>| address.and_then(LinkAddr::addr) == Some(mac);
    Ok(getifaddrs()?.any(|interface| of(interface.address.as_ref().and_then(SockaddrStorage::as_link_addr))))
}

/// As people write it.
pub fn written(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn link_address(interface: &str) -> io::Result<Option<LinkAddr>> {
    let mut all = getifaddrs()?.filter(|of| of.interface_name == interface);
    Ok(all.find_map(|of| of.address?.as_link_addr().copied()))
}
