//! Asks a server whether it serves. One question is one future: it ends by its deadline whatever the server does, reads
//! no more than a bounded number of bytes, and follows nobody elsewhere.

mod dns;
mod http;
pub mod script;
mod smtp;
mod udp;

use crate::config::check::Probe;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Asks `address`.
///
/// # Errors
/// In words for people: what was wrong with the answer, or that there was none within `patience`.
pub async fn ask(address: SocketAddr, probe: &Probe, patience: Duration) -> Result<(), String> {
    let asked = async {
        match probe {
            Probe::Tcp => connect(address).await.map(drop),
            Probe::Http { path, host, status } => http::get(address, path, host.as_deref(), status).await,
            Probe::Udp { payload, .. } => udp::exchange(address, payload).await,
            Probe::Dns { name, record } => dns::ask(address, name, *record).await,
            Probe::Smtp { helo } => smtp::greet(address, helo).await,
        }
    };
    match (timeout(patience, asked).await, probe) {
        (Ok(answer), _) => answer,
        // Nobody said that nobody listens, and no more was asked for.
        (Err(_), Probe::Udp { reply: false, .. }) => Ok(()),
        (Err(_), _) => Err(format!("no answer within {patience:?}")),
    }
}

/// A connection that is closed by a reset: a check leaves no TIME_WAIT behind, here or at the server.
async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| format!("no socket: {error}"))?;
    socket.set_zero_linger().map_err(|error| format!("no socket: {error}"))?;
    socket.connect(address).await.map_err(words)
}

/// The words that operators know, without the number.
fn words(error: Error) -> String {
    let words = [
        (ErrorKind::ConnectionRefused, "connection refused"),
        (ErrorKind::ConnectionReset, "connection reset"),
        (ErrorKind::HostUnreachable, "host unreachable"),
        (ErrorKind::NetworkUnreachable, "network unreachable"),
    ];
    let known = words.into_iter().find(|(kind, _)| *kind == error.kind());
    known.map_or_else(|| error.to_string(), |(_, words)| words.to_owned())
}

#[cfg(test)]
mod tests;
