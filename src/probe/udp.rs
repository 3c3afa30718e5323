//! A datagram, and what comes of it.

use super::socket::datagrams;
use super::{Trouble, words};
use crate::config::check::{Reply, Way};
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

/// Sends `payload` and waits for an answer, or for word that nobody listens. Without either it never ends.
pub(super) async fn exchange(
    address: SocketAddr,
    way: &Way,
    payload: Option<&[u8]>,
    reply: Option<&Reply>,
) -> Result<(), Trouble> {
    let socket = datagrams(address, way).await?;
    let random: [u8; 32] = std::array::from_fn(|_| fastrand::u8(..));
    socket.send(payload.unwrap_or(&random)).await.map_err(refused)?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    let length = socket.recv(&mut answer).await.map_err(refused)?;
    match reply {
        Some(reply) if !is(reply, &answer[..length]) => Err(format!("another answer, of {length} bytes").into()),
        Some(_) | None => Ok(()),
    }
}

fn is(reply: &Reply, answer: &[u8]) -> bool {
    let digits = answer.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
    let expected = reply.begins.chars().map(|digit| digit.to_digit(16));
    let fits = u16::try_from(answer.len()).is_ok_and(|length| reply.length.contains(&length));
    fits && answer.len() * 2 >= reply.begins.len()
        && expected.zip(digits).all(|(digit, is)| digit.is_none_or(|digit| digit == u32::from(is)))
}

/// In words for people.
pub(super) fn refused(error: Error) -> Trouble {
    let refused = error.kind() == ErrorKind::ConnectionRefused;
    Trouble::There(if refused { "port unreachable".to_owned() } else { words(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_begins_as_it_must_and_has_its_length() {
        let reply = |begins: &str, length| Reply { begins: begins.to_owned(), length };
        assert!(is(&reply("", 0..=255), b""));
        assert!(is(&reply("706FX7", 0..=255), b"poggle"));
        assert!(!is(&reply("706FX8", 0..=255), b"poggle"));
        assert!(!is(&reply("706F", 0..=255), b"p"));
        assert!(
            !is(&reply("70", 4..=5), b"pon") && is(&reply("70", 4..=5), b"pong") && !is(&reply("70", 4..=5), b"ponggg")
        );
    }
}
