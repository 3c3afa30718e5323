//! What the kernel says of a packet beside its payload, where it is asked to.

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, recvmsg};
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// What came, beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The sender.
    pub source: IpAddr,
    /// Where it was sent.
    pub destination: IpAddr,
    /// What is left of the TTL or hop limit.
    pub ttl: u8,
    /// The index of the interface.
    pub interface: u32,
    /// How many bytes.
    pub length: usize,
}

/// What has come already, of a socket that asks for the TTL and for the packet's information; nothing where the kernel does not
/// say all of it. What is longer than the buffer is cut.
///
/// # Errors
/// `WouldBlock`: nothing more. The socket's.
pub fn receive_v4(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Option<Arrived>> {
    let mut space = nix::cmsg_space!(libc::in_pktinfo, libc::c_int);
    let mut into = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::empty())?;
    let (mut to, mut ttl) = (None, None);
    for control in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4PacketInfo(information) = control {
            let index = u32::try_from(information.ipi_ifindex).unwrap_or_default();
            to = Some((IpAddr::from(information.ipi_addr.s_addr.to_ne_bytes()), index));
        } else if let ControlMessageOwned::Ipv4Ttl(left) = control {
            ttl = u8::try_from(left).ok();
        }
    }
    Ok(arrived(message.address.map(|source| IpAddr::V4(source.ip())), to, ttl, message.bytes))
}

/// As [`receive_v4`], with the hop limit.
///
/// # Errors
/// As [`receive_v4`].
pub fn receive_v6(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Option<Arrived>> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
    let mut into = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::empty())?;
    let (mut to, mut ttl) = (None, None);
    for control in message.cmsgs()? {
        if let ControlMessageOwned::Ipv6PacketInfo(information) = control {
            to = Some((IpAddr::from(information.ipi6_addr.s6_addr), information.ipi6_ifindex));
        } else if let ControlMessageOwned::Ipv6HopLimit(left) = control {
            ttl = u8::try_from(left).ok();
        }
    }
    Ok(arrived(message.address.map(|source| IpAddr::V6(source.ip())), to, ttl, message.bytes))
}

fn arrived(source: Option<IpAddr>, to: Option<(IpAddr, u32)>, ttl: Option<u8>, length: usize) -> Option<Arrived> {
    let (destination, interface) = to?;
    Some(Arrived { source: source?, destination, ttl: ttl?, interface, length })
}
