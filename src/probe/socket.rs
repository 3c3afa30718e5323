//! Sockets that go the way of a check.

use super::{Trouble, words};
use crate::config::check::Way;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

/// A connection that is closed by a reset: a check leaves no TIME_WAIT behind, here or at the server.
pub(super) async fn connect(address: SocketAddr, way: &Way) -> Result<TcpStream, Trouble> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(here)?;
    let prepare = || {
        socket.set_zero_linger()?;
        go(SockRef::from(&socket), way)?;
        if way.source.is_some() || way.source_port != 0 {
            socket.set_reuseaddr(true)?;
            socket.bind(source(address.ip(), way))?;
        }
        Ok(())
    };
    prepare().map_err(here)?;
    let connected = socket.connect(address);
    match way.connect {
        None => connected.await.map_err(failed),
        Some(patience) => match timeout(patience, connected).await {
            Ok(connected) => connected.map_err(failed),
            Err(_) => Err(Trouble::There(format!("no connection within {patience:?}"))),
        },
    }
}

/// A socket that hears `address` only.
pub(super) async fn datagrams(address: SocketAddr, way: &Way) -> Result<UdpSocket, Trouble> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), None)?;
        // First: an address that is of a link alone is bound on its interface only.
        go(SockRef::from(&socket), way)?;
        socket.bind(&source(address.ip(), way).into())?;
        UdpSocket::from_std(socket.into())
    };
    let socket = open().map_err(here)?;
    socket.connect(address).await.map_err(failed)?;
    Ok(socket)
}

/// The interface and the mark.
pub(super) fn go(socket: SockRef<'_>, way: &Way) -> Result<(), Error> {
    if let Some(interface) = &way.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    way.mark.map_or(Ok(()), |mark| socket.set_mark(mark.get()))
}

/// Wherefrom an address is asked.
pub(super) fn source(asked: IpAddr, way: &Way) -> SocketAddr {
    let any = match asked {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(way.source.unwrap_or(any), way.source_port)
}

/// This machine has no socket for it.
pub(super) fn here(error: Error) -> Trouble {
    Trouble::Here(format!("not asked: {error}"))
}

/// A connection that did not come about; the source address that is missing or in use is not the server's fault.
fn failed(error: Error) -> Trouble {
    if matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse) {
        here(error)
    } else {
        Trouble::There(words(error))
    }
}
