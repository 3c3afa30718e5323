//! An echo request, and the reply to it: ICMP (RFC 792) and ICMPv6 (RFC 4443).

use super::socket::{go, here, source};
use super::{Trouble, words};
use crate::config::check::Way;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io::Error;
use std::net::{IpAddr, SocketAddr};
use tokio::net::UdpSocket;

/// Of the ICMP header.
const HEADER: usize = 8;
/// What comes back in the reply, and tells ours from others'.
const PAYLOAD: usize = 16;

/// A raw socket, because the kernel's own kind for pings is shut by default (`net.ipv4.ping_group_range`). Connected, it hears
/// `address` only.
pub(super) async fn echo(address: IpAddr, way: &Way) -> Result<(), Trouble> {
    // What can be connected, sent and received is the same for every kind of datagram.
    let socket = open(address, way).and_then(|socket| UdpSocket::from_std(socket.into())).map_err(here)?;
    socket.connect(SocketAddr::new(address, 0)).await.map_err(words)?;
    let (request, reply) = match address {
        IpAddr::V4(_) => (8, 0),
        IpAddr::V6(_) => (128, 129),
    };
    let mut message = [0; HEADER + PAYLOAD];
    message[4..].fill_with(|| fastrand::u8(..));
    message[0] = request;
    if address.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    socket.send(&message).await.map_err(words)?;
    loop {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).await.map_err(words)?;
        let packet = &buffer[..length];
        // Over IPv4 the kernel leaves the packet's own header, of four bytes times its low half byte, before it.
        let skip = match address {
            IpAddr::V4(_) => packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4),
            IpAddr::V6(_) => 0,
        };
        let Some(answer) = packet.get(skip..) else { continue };
        if answer.first() == Some(&reply) && answer.get(4..) == Some(&message[4..]) {
            return Ok(());
        }
    }
}

fn open(address: IpAddr, way: &Way) -> Result<Socket, Error> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    go(SockRef::from(&socket), way)?;
    if way.source.is_some() {
        socket.bind(&SocketAddr::new(source(address, way).ip(), 0).into())?;
    }
    Ok(socket)
}

/// The Internet checksum (RFC 1071). For ICMPv6 the kernel makes it.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    // Twelve words: a second fold leaves 16 bits.
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::{Check, Probe};
    use crate::health::Said;
    use std::time::Duration;

    /// Needs root, for the raw socket.
    #[tokio::test]
    async fn this_machine_answers_itself_and_an_address_of_nobody_does_not() {
        let interval = Duration::from_secs(1);
        let (way, timeout) = (Way::default(), Duration::from_millis(500));
        let check = Check {
            probe: Probe::Ping,
            way,
            interval,
            again: interval,
            timeout,
            warmup: interval,
            fall: 1,
            rise: 1,
            slow: None,
            loss: None,
        };
        let ask = async |ip: &str| super::super::ask(SocketAddr::new(ip.parse().unwrap(), 0), &check).await.said;
        for own in ["127.0.0.1", "127.9.9.9", "::1"] {
            assert!(matches!(ask(own).await, Said::Up(_)), "{own}");
        }
        let elsewhere =
            Check { way: Way { interface: Some("no-such-if".to_owned()), ..check.way.clone() }, ..check.clone() };
        let asked = super::super::ask(SocketAddr::new("127.0.0.1".parse().unwrap(), 0), &elsewhere).await.said;
        assert!(matches!(asked, Said::Unasked(_)), "{asked:?}");
        // It never leaves loopback, where nobody has the address.
        let nobody = Check { way: Way { interface: Some("lo".to_owned()), ..check.way.clone() }, ..check.clone() };
        let asked = super::super::ask(SocketAddr::new("192.0.2.1".parse().unwrap(), 0), &nobody).await.said;
        assert_eq!(asked, Said::Down("no answer within 500ms".to_owned()));
    }
}
