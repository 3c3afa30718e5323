//! One question to a name server (RFC 1035 4.1), by UDP and without EDNS; what it answers is not looked into.

use super::Trouble;
use super::socket::datagrams;
use super::udp::refused;
use crate::config::check::{Record, Way};
use std::net::SocketAddr;

const HEADER: usize = 12;

pub(super) async fn ask(address: SocketAddr, way: &Way, name: &str, record: Record) -> Result<(), Trouble> {
    let id = fastrand::u16(..);
    let socket = datagrams(address, way).await?;
    socket.send(&question(id, name, record)).await.map_err(refused)?;
    loop {
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).await.map_err(refused)?;
        // Anything else may be late, from somebody's earlier question.
        if length >= HEADER && answer[..2] == id.to_be_bytes() && answer[2] & 0x80 != 0 {
            let trouble = match answer[3] & 0x0f {
                0 => return Ok(()),
                2 => "DNS says SERVFAIL".to_owned(),
                3 => "DNS says NXDOMAIN".to_owned(),
                5 => "DNS says REFUSED".to_owned(),
                code => format!("DNS says error {code}"),
            };
            return Err(trouble.into());
        }
    }
}

/// Recursion desired, one question, class IN.
fn question(id: u16, name: &str, record: Record) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        // The configuration takes no label above 63 bytes.
        bytes.extend(u8::try_from(label.len()));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend((record as u16).to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_as_the_rfc_has_it() {
        let root = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x06\x00\x01";
        assert_eq!(question(0x1234, ".", Record::Soa), root);
        let name = question(0, "example.org.", Record::Aaaa);
        assert_eq!(name[HEADER..], *b"\x07example\x03org\x00\x00\x1c\x00\x01");
    }
}
