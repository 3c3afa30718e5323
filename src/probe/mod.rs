//! Asks a server whether it serves. One question is one future: it ends by its deadline whatever the server does, reads
//! no more than a bounded number of bytes, and follows nobody elsewhere.

mod dns;
mod http;
pub(crate) mod local;
mod ping;
pub mod script;
pub(crate) mod smtp;
mod socket;
mod udp;

use crate::config::check::{Check, Probe};
use crate::health::{Answer, Said, Share};
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;
use tokio::time::timeout;

/// Why there is no good answer.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// The server's, or that of the path to it.
    There(String),
    /// This machine's: nothing was asked.
    Here(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::There(why)
    }
}

/// Asks `address`, in the way of the check.
pub async fn ask(address: SocketAddr, check: &Check) -> Answer {
    let began = Instant::now();
    let Check { probe, way, timeout: patience, .. } = check;
    let asked = async {
        match probe {
            Probe::Tcp => socket::connect(address, way).await.map(drop)?,
            Probe::Http(http) => http::get(address, way, http).await?,
            Probe::Udp { payload, reply } => udp::exchange(address, way, payload.as_deref(), reply.as_ref()).await?,
            Probe::Dns { name, record } => dns::ask(address, way, name, *record).await?,
            Probe::Smtp { helo } => smtp::greet(address, way, helo).await?,
            Probe::Ping => ping::echo(address.ip(), way).await?,
            Probe::Script { command, user, dynamic } => {
                return local::script(command, user.as_deref(), *patience, *dynamic).await;
            }
            Probe::File { path, weight } => return local::file(path, *weight).await,
            Probe::Process(name) => local::process(name).await?,
            Probe::Bfd(_) => return Err(Trouble::Here("a session is not asked, it tells".to_owned())),
        }
        Ok(Share::Configured)
    };
    // A script ends itself with all that it has started.
    let grace = if matches!(probe, Probe::Script { .. }) { 3 * *patience } else { *patience };
    let said = match (timeout(grace, asked).await, probe) {
        (Ok(Ok(share)), _) => Said::Up(share),
        (Ok(Err(Trouble::There(why))), _) => Said::Down(why),
        (Ok(Err(Trouble::Here(why))), _) => Said::Unasked(why),
        // Nobody said that nobody listens, and no more was asked for.
        (Err(_), Probe::Udp { reply: None, .. }) => Said::Up(Share::Configured),
        (Err(_), _) => Said::Down(format!("no answer within {patience:?}")),
    };
    Answer { said, took: began.elapsed() }
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
