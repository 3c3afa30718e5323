//! VRRP: one raw socket for each interface, family and IP protocol.

use super::arrived::{Arrived, receive_v6};
use super::sys;
use crate::kernel::address::Interface;
use crate::vrrp::{PROTOCOL, ROUTERS_V4, ROUTERS_V6, TTL};
use hamesh_raft::command::Family;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, sendmsg, setsockopt, sockopt};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use tokio::io::unix::AsyncFd;

/// Internetwork control (CS6), as keepalived sends.
const CLASS: u32 = 0xc0;
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
    fn protocol(self) -> Protocol {
        match self {
            Self::Vrrp => Protocol::from(i32::from(PROTOCOL)),
            Self::Authenticated => Protocol::from(51),
        }
    }
}

/// A packet that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// The whole IPv4 header: an authentication header covers it. Empty for IPv6, whose header the kernel keeps.
    pub header: &'a [u8],
    /// What is behind the IP header.
    pub payload: &'a [u8],
    /// The sender.
    pub source: IpAddr,
    /// All routers, or this host for an advert by unicast.
    pub destination: IpAddr,
    /// What is left of the TTL or hop limit.
    pub ttl: u8,
    /// The index of the interface.
    pub interface: u32,
}

/// A raw socket on one interface. Receives what is sent to all VRRP routers and to this host, not what this host sends.
#[derive(Debug)]
pub struct VrrpSocket {
    socket: AsyncFd<Socket>,
    family: Family,
    interface: u32,
}

impl VrrpSocket {
    /// Opens a socket, in a tokio runtime.
    ///
    /// # Errors
    /// Without CAP_NET_RAW and CAP_NET_ADMIN; when the interface is gone; when the kernel has no such family.
    pub fn open(interface: &Interface, family: Family, carries: Carries) -> io::Result<Self> {
        let socket = raw(interface, family, carries)?;
        match family {
            Family::V4 => {
                socket.join_multicast_v4_n(&ROUTERS_V4, &InterfaceIndexOrAddress::Index(interface.index))?;
                socket.set_multicast_all_v4(false)?;
                sends_v4(&socket)?;
                // An authentication header covers the IP header: who makes the one makes the other.
                socket.set_header_included_v4(carries == Carries::Authenticated)?;
            }
            Family::V6 => {
                socket.join_multicast_v6(&ROUTERS_V6, interface.index)?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
                sends_v6(&socket)?;
            }
        }
        // The last: setting the TOS changes it.
        socket.set_priority(PRIORITY)?;
        Ok(Self { socket: sys::register(socket)?, family, interface: interface.index })
    }

    /// Hears what is sent to these routers of the LAN, too.
    ///
    /// # Errors
    /// `InvalidInput` for a group of the other family; the interface is gone.
    pub fn join(&self, group: IpAddr) -> io::Result<()> {
        let socket = self.socket.get_ref();
        let joined = match (self.family, group) {
            (Family::V4, IpAddr::V4(group)) => {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(self.interface))
            }
            (Family::V6, IpAddr::V6(group)) => socket.join_multicast_v6(&group, self.interface),
            (Family::V4 | Family::V6, _) => Err(io::ErrorKind::InvalidInput.into()),
        };
        // It is in that group already.
        joined.or_else(|error| if error.kind() == io::ErrorKind::AddrInUse { Ok(()) } else { Err(error) })
    }

    /// Opens a socket that only sends, on a device with a virtual MAC: from the addresses of its parent.
    ///
    /// # Errors
    /// As [`VrrpSocket::open`].
    pub fn outward(device: &Interface, family: Family) -> io::Result<Self> {
        let socket = raw(device, family, Carries::Vrrp)?;
        match family {
            Family::V4 => sends_v4(&socket)?,
            Family::V6 => {
                sends_v6(&socket)?;
                // A link-local address of another interface is otherwise refused as a source.
                socket.set_freebind_v6(true)?;
            }
        }
        // It is never read: what is sent to this host by unicast need not wait in it.
        socket.set_recv_buffer_size(0)?;
        socket.set_priority(PRIORITY)?;
        Ok(Self { socket: sys::register(socket)?, family, interface: device.index })
    }

    /// Sends at once, or not at all. `ttl` counts for unicast; all VRRP routers are sent 255.
    ///
    /// # Errors
    /// `PermissionDenied` when the gate is shut for the advert's virtual router; `WouldBlock` when the queue is full;
    /// the interface is down or gone; `InvalidInput` for an address of the other family.
    pub fn send(&self, source: IpAddr, destination: IpAddr, ttl: u8, payload: &[u8]) -> io::Result<()> {
        let bytes = [IoSlice::new(payload)];
        let socket = self.socket.get_ref().as_raw_fd();
        match (self.family, source, destination) {
            (Family::V4, IpAddr::V4(source), IpAddr::V4(destination)) => {
                let information = libc::in_pktinfo {
                    ipi_ifindex: i32::try_from(self.interface).map_err(io::Error::other)?,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let ttl = libc::c_int::from(ttl);
                let control = [ControlMessage::Ipv4PacketInfo(&information), ControlMessage::Ipv4Ttl(&ttl)];
                let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
                sendmsg(socket, &bytes, &control, MsgFlags::empty(), Some(&to))?;
            }
            (Family::V6, IpAddr::V6(source), IpAddr::V6(destination)) => {
                let information = libc::in6_pktinfo {
                    ipi6_ifindex: self.interface,
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                };
                let hops = libc::c_int::from(ttl);
                let control = [ControlMessage::Ipv6PacketInfo(&information), ControlMessage::Ipv6HopLimit(&hops)];
                let to = SockaddrIn6::from(SocketAddrV6::new(destination, 0, 0, self.interface));
                sendmsg(socket, &bytes, &control, MsgFlags::empty(), Some(&to))?;
            }
            (Family::V4 | Family::V6, _, _) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    /// Sends a whole IPv4 packet, of a socket for [`Carries::Authenticated`], at once or not at all.
    ///
    /// # Errors
    /// As [`VrrpSocket::send`].
    pub fn send_packet(&self, destination: Ipv4Addr, packet: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send_to(packet, &SocketAddrV4::new(destination, 0).into())?;
        Ok(())
    }

    /// The next packet. A buffer of 65,535 bytes holds every packet.
    ///
    /// # Errors
    /// The socket's: the interface is down or gone.
    pub async fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Received<'a>> {
        match self.family {
            Family::V4 => self.receive_v4(buffer).await,
            Family::V6 => self.receive_v6(buffer).await,
        }
    }

    async fn receive_v4<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Received<'a>> {
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
        let (source, destination) = (IpAddr::V4(source), IpAddr::V4(destination));
        Ok(Received { header, payload, source, destination, ttl, interface: self.interface })
    }

    /// The kernel gives no header of IPv6, and what of it is asked for beside the payload.
    async fn receive_v6<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Received<'a>> {
        loop {
            let mut ready = self.socket.readable().await?;
            let Ok(result) = ready.try_io(|socket| receive_v6(socket.get_ref(), buffer)) else { continue };
            if let Some(Arrived { source, destination, ttl, interface, length }) = result? {
                return Ok(Received { header: &[], payload: &buffer[..length], source, destination, ttl, interface });
            }
        }
    }
}

fn raw(interface: &Interface, family: Family, carries: Carries) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(carries.protocol()))?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    Ok(socket)
}

fn sends_v4(socket: &Socket) -> io::Result<()> {
    socket.set_multicast_loop_v4(false)?;
    socket.set_multicast_ttl_v4(TTL.into())?;
    socket.set_ttl_v4(TTL.into())?;
    socket.set_tos_v4(CLASS)?;
    // No DF bit, as keepalived: then an advert with many VIPs can be fragmented.
    Ok(set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?)
}

fn sends_v6(socket: &Socket) -> io::Result<()> {
    socket.set_multicast_loop_v6(false)?;
    socket.set_multicast_hops_v6(TTL.into())?;
    socket.set_unicast_hops_v6(TTL.into())?;
    socket.set_tclass_v6(CLASS)
}
