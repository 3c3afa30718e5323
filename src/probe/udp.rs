//! A datagram, and what comes of it.

use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;

/// Sends `payload` and waits for any answer, or for word that nobody listens. Without either it never ends.
pub(super) async fn exchange(address: SocketAddr, payload: &[u8]) -> Result<(), String> {
    let socket = connect(address).await?;
    socket.send(payload).await.map_err(refused)?;
    // What does not fit is cut off by the kernel.
    socket.recv(&mut [0; 512]).await.map_err(refused)?;
    Ok(())
}

/// A socket that hears `address` only.
pub(super) async fn connect(address: SocketAddr) -> Result<UdpSocket, String> {
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await.map_err(|error| format!("no socket: {error}"))?;
    socket.connect(address).await.map_err(refused)?;
    Ok(socket)
}

/// In words for people.
pub(super) fn refused(error: Error) -> String {
    if error.kind() == ErrorKind::ConnectionRefused { "port unreachable".to_owned() } else { super::words(error) }
}
