//! The raw socket of VRRP over IPv4 multicast, one per interface.

use super::sys;
use crate::vrrp::advert::Header;
use crate::vrrp::{GROUP, TTL};
use nix::sys::socket::{MsgFlags, SockaddrIn, recvmsg};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use tokio::io::unix::AsyncFd;

/// VRRP's IP protocol number.
const PROTOCOL: i32 = 112;
/// CS6, as keepalived sends.
const TOS: u32 = 0xc0;
/// 255 addresses and every header fit.
const LARGEST: usize = 2048;

/// Sends and receives the adverts of one interface.
pub struct VrrpSocket {
    socket: AsyncFd<Socket>,
}

impl VrrpSocket {
    /// Opens the socket and joins the group on `interface`.
    ///
    /// # Errors
    /// No such interface, or no CAP_NET_RAW.
    pub fn open(interface: &str, ifindex: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(PROTOCOL)))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(ifindex))?;
        socket.set_multicast_all_v4(false)?;
        socket.set_multicast_ttl_v4(u32::from(TTL))?;
        socket.set_multicast_loop_v4(false)?;
        socket.set_tos_v4(TOS)?;
        socket.set_priority(6)?;
        Ok(Self { socket: sys::register(socket)? })
    }

    /// Sends one advert. The kernel writes the IP header, from the interface's first address.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        let to = SockAddr::from(SocketAddrV4::new(GROUP, 0));
        self.socket.get_ref().send_to(payload, &to).map(|_| ())
    }

    /// The next packet: what its IP header says, and what is behind it. One with an IP header that makes no sense is
    /// passed over.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn receive(&self) -> io::Result<(Header, Vec<u8>)> {
        let mut buffer = [0; LARGEST];
        loop {
            let mut ready = self.socket.readable().await?;
            let received = ready.try_io(|socket| {
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty())?;
                Ok(message.bytes)
            });
            match received {
                Ok(Ok(length)) => {
                    if let Some(packet) = buffer.get(..length).and_then(split) {
                        return Ok(packet);
                    }
                }
                // The interface went down: its socket says so once and goes on.
                Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkDown => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

/// Takes the IPv4 header off.
fn split(packet: &[u8]) -> Option<(Header, Vec<u8>)> {
    let at = |index: usize| packet.get(index).copied();
    let address = |from: usize| Some(Ipv4Addr::new(at(from)?, at(from + 1)?, at(from + 2)?, at(from + 3)?));
    let header_length = usize::from(at(0)? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([at(2)?, at(3)?]));
    let header = Header { source: address(12)?, destination: address(16)?, ttl: at(8)? };
    // Ethernet pads short frames; the IP length says where the advert ends.
    let payload = packet.get(header_length..total)?;
    (header_length >= 20).then(|| (header, payload.to_vec()))
}
