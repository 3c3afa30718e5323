//! BFD's sockets: ears for all that comes, and a voice for each session.

use super::arrived::{Arrived, receive_v4, receive_v6};
use crate::bfd::{MULTIHOP_PORT, PORT};
use crate::config::bfd::Settings;
use hamesh_raft::command::Family;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use tokio::io::Interest;

/// Where packets come from (RFC 5881 section 4).
const SOURCES: RangeInclusive<u16> = 49_152..=65_535;
/// So many of them are tried.
const TRIES: usize = 64;
/// Internetwork control (CS6), as routers send.
const CLASS: u32 = 0xc0;

/// The socket at one of the ports, for one family.
#[derive(Debug)]
pub struct Ear {
    /// Whether it is [`MULTIHOP_PORT`].
    pub multihop: bool,
    socket: tokio::net::UdpSocket,
}

impl Ear {
    /// Takes the port on every address.
    ///
    /// # Errors
    /// Somebody else has it; the kernel has no such family.
    pub fn bind(family: Family, multihop: bool) -> io::Result<UdpSocket> {
        let (domain, any): (_, IpAddr) = match family {
            Family::V4 => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
            Family::V6 => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        match family {
            Family::V4 => {
                setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            }
            Family::V6 => {
                socket.set_only_v6(true)?;
                setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
        }
        let port = if multihop { MULTIHOP_PORT } else { PORT };
        socket.bind(&SocketAddr::new(any, port).into())?;
        Ok(socket.into())
    }

    /// Listens, in a tokio runtime.
    ///
    /// # Errors
    /// Outside of one.
    pub fn listen(socket: UdpSocket, multihop: bool) -> io::Result<Self> {
        Ok(Self { multihop, socket: tokio::net::UdpSocket::from_std(socket)? })
    }

    /// Waits until something may have come.
    pub async fn ready(&self) {
        // A socket with an error says it when it is read.
        self.socket.readable().await.ok();
    }

    /// What has come already. What is longer than the buffer is cut.
    ///
    /// # Errors
    /// `WouldBlock`: nothing more. The socket's.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Option<Arrived>> {
        let six = self.socket.local_addr()?.is_ipv6();
        self.socket.try_io(Interest::READABLE, || {
            if six { receive_v6(&self.socket, buffer) } else { receive_v4(&self.socket, buffer) }
        })
    }
}

/// What speaks for one session. Its port stays the same (RFC 5881 section 4).
#[derive(Debug)]
pub struct Voice {
    to: SocketAddr,
    /// Where a link-local neighbour is.
    interface: Option<String>,
    source: Option<IpAddr>,
    ttl: u8,
    socket: Option<UdpSocket>,
    /// The last packet was not sent: that is said once.
    failed: bool,
}

impl Voice {
    /// Of a session; it is opened when it is first needed, and again where that fails: an address or an interface may come
    /// later.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let port = if settings.multihop { MULTIHOP_PORT } else { PORT };
        let Settings { neighbour, source, ttl, .. } = *settings;
        let (to, interface) = (SocketAddr::new(neighbour, port), settings.interface.clone());
        Self { to, interface, source, ttl, socket: None, failed: false }
    }

    /// Sends at once, or not at all: the next packet is not far.
    pub fn send(&mut self, name: &str, packet: &[u8]) {
        let result = self.try_send(packet);
        if let Err(error) = &result {
            if !self.failed {
                tracing::warn!(session = name, %error, "a BFD packet could not be sent");
            }
            if self.interface.is_some() {
                // It may be made anew, and is another one then.
                self.socket = None;
            }
        }
        self.failed = result.is_err();
    }

    fn try_send(&mut self, packet: &[u8]) -> io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            closed => {
                if let (Some(name), SocketAddr::V6(to)) = (&self.interface, &mut self.to) {
                    to.set_scope_id(if_nametoindex(name.as_str())?);
                }
                closed.insert(open(self.to, self.source, self.ttl)?)
            }
        };
        socket.send_to(packet, self.to).map(drop)
    }
}

fn open(to: SocketAddr, source: Option<IpAddr>, ttl: u8) -> io::Result<UdpSocket> {
    let (domain, any): (_, IpAddr) = match to {
        SocketAddr::V4(_) => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if to.is_ipv4() {
        socket.set_ttl_v4(ttl.into())?;
        socket.set_tos_v4(CLASS)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_unicast_hops_v6(ttl.into())?;
        socket.set_tclass_v6(CLASS)?;
    }
    let mut tries = 1;
    loop {
        let mut from = SocketAddr::new(source.unwrap_or(any), fastrand::u16(SOURCES));
        if let (SocketAddr::V6(from), SocketAddr::V6(to)) = (&mut from, to) {
            from.set_scope_id(to.scope_id());
        }
        match socket.bind(&from.into()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries < TRIES => tries += 1,
            bound => break bound?,
        }
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn settings(neighbour: IpAddr, source: IpAddr) -> Settings {
        let second = Duration::from_secs(1);
        Settings {
            neighbour,
            interface: None,
            source: Some(source),
            min_tx: second,
            min_rx: second,
            idle_tx: second,
            multiplier: 3,
            passive: false,
            ttl: 255,
            max_hops: 0,
            multihop: true,
        }
    }

    /// Over loopback, at the port of several hops, which this machine has free.
    #[tokio::test]
    async fn what_is_said_is_heard_with_its_ends_and_its_ttl() {
        for (family, there, here) in [(Family::V4, "127.0.0.1", "127.0.0.7"), (Family::V6, "::1", "::1")] {
            let (there, here): (IpAddr, IpAddr) = (there.parse().unwrap(), here.parse().unwrap());
            let ear = Ear::listen(Ear::bind(family, true).unwrap(), true).unwrap();
            let mut voice = Voice::new(&settings(there, here));
            voice.send("test", b"twelve bytes");
            let mut buffer = [0; 64];
            let heard = loop {
                tokio::time::timeout(Duration::from_secs(20), ear.ready()).await.unwrap();
                match ear.try_receive(&mut buffer) {
                    Ok(heard) => break heard,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            };
            assert_eq!(heard, Some(Arrived { source: here, destination: there, ttl: 255, interface: 1, length: 12 }));
            let port = voice.socket.unwrap().local_addr().unwrap().port();
            assert!(SOURCES.contains(&port), "{port}");
            let taken = Ear::bind(family, true).unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn an_address_that_is_not_there_is_tried_again() {
        let mut voice = Voice::new(&settings([127, 0, 0, 1].into(), [192, 0, 2, 1].into()));
        voice.send("test", b"x");
        assert!(voice.failed && voice.socket.is_none());
        voice.source = None;
        voice.send("test", b"x");
        assert!(!voice.failed);
    }
}
