//! VRRP over IPv4: one raw socket for each interface and IP protocol.

use super::sys;
use crate::kernel::address::Interface;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use tokio::io::unix::AsyncFd;

/// All VRRP routers of a LAN (RFC 9568 section 5.1.1.2).
pub const ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Adverts must have this TTL: then no router has passed them on (RFC 9568 section 5.1.1.3).
const TTL: u32 = 255;
/// Internetwork control (CS6), as keepalived sends.
const TOS: u32 = 0xc0;
/// `TC_PRIO_CONTROL`: before all else in our own queues.
const PRIORITY: u32 = 7;

/// What the IP header says that our packets carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// VRRP itself.
    Vrrp,
    /// An authentication header, and behind it VRRP (RFC 2338 section 5.3.6.3).
    Authenticated,
}

impl Carries {
    fn protocol(self) -> i32 {
        match self {
            Self::Vrrp => 112,
            Self::Authenticated => 51,
        }
    }
}

/// A packet that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// The whole IP header: an authentication header covers it.
    pub header: &'a [u8],
    /// What is behind the IP header.
    pub payload: &'a [u8],
    /// The sender.
    pub source: Ipv4Addr,
    /// [`ROUTERS`], or this host for an advert by unicast.
    pub destination: Ipv4Addr,
    /// What is left of the TTL.
    pub ttl: u8,
    /// The index of the interface.
    pub interface: u32,
}

/// A raw socket on one interface. Receives what is sent to [`ROUTERS`] and to this host, not what this host sends.
#[derive(Debug)]
pub struct VrrpSocket {
    socket: AsyncFd<Socket>,
    interface: u32,
}

impl VrrpSocket {
    /// Opens a socket, in a tokio runtime.
    ///
    /// # Errors
    /// Without CAP_NET_RAW and CAP_NET_ADMIN; when the interface is gone.
    pub fn open(interface: &Interface, carries: Carries) -> io::Result<Self> {
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::from(carries.protocol())))?;
        socket.bind_device(Some(interface.name.as_bytes()))?;
        socket.join_multicast_v4_n(&ROUTERS, &InterfaceIndexOrAddress::Index(interface.index))?;
        socket.set_multicast_all_v4(false)?;
        socket.set_multicast_loop_v4(false)?;
        socket.set_multicast_ttl_v4(TTL)?;
        socket.set_ttl_v4(TTL)?;
        // The priority is last: setting the TOS changes it.
        socket.set_tos_v4(TOS)?;
        socket.set_priority(PRIORITY)?;
        // No DF bit, as keepalived: then an advert with many VIPs can be fragmented.
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
        Ok(Self { socket: sys::register(socket)?, interface: interface.index })
    }

    /// Sends at once, or not at all.
    ///
    /// # Errors
    /// `PermissionDenied` when the gate is shut for the advert's virtual router; `WouldBlock` when the queue is full;
    /// the interface is down or gone.
    pub fn send(&self, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> io::Result<()> {
        let information = libc::in_pktinfo {
            ipi_ifindex: i32::try_from(self.interface).map_err(io::Error::other)?,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let control = [ControlMessage::Ipv4PacketInfo(&information)];
        let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
        let bytes = [IoSlice::new(payload)];
        sendmsg(self.socket.get_ref().as_raw_fd(), &bytes, &control, MsgFlags::empty(), Some(&to))?;
        Ok(())
    }

    /// The next packet. A buffer of 65,535 bytes holds every packet.
    ///
    /// # Errors
    /// The socket's: the interface is down or gone.
    pub async fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Received<'a>> {
        let (length, destination, source, header, ttl) = loop {
            let mut ready = self.socket.readable().await?;
            let Ok(result) =
                ready.try_io(|socket| rustix::io::read(socket.get_ref(), &mut *buffer).map_err(Into::into))
            else {
                continue;
            };
            let length = result?;
            // The kernel gives whole, checked headers; what is not one is none of ours.
            if let [first, _, _, _, _, _, _, _, ttl, _, _, _, s0, s1, s2, s3, d0, d1, d2, d3, ..] = buffer[..length]
                && usize::from(first & 0xf) * 4 <= length
            {
                let header = usize::from(first & 0xf) * 4;
                break (length, Ipv4Addr::new(d0, d1, d2, d3), Ipv4Addr::new(s0, s1, s2, s3), header, ttl);
            }
        };
        let (header, payload) = buffer[..length].split_at(header);
        Ok(Received { header, payload, source, destination, ttl, interface: self.interface })
    }
}
