//! SMTP (RFC 5321): the greeting, HELO and QUIT.

use super::socket::connect;
use super::{Trouble, words};
use crate::config::check::Way;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest reply, all its lines together.
const REPLY: usize = 4096;

pub(super) async fn greet(address: SocketAddr, way: &Way, helo: &str) -> Result<(), Trouble> {
    let mut stream = connect(address, way).await?;
    expect(&mut stream, "the greeting", 220).await?;
    stream.write_all(format!("HELO {helo}\r\n").as_bytes()).await.map_err(words)?;
    expect(&mut stream, "HELO", 250).await?;
    stream.write_all(b"QUIT\r\n").await.map_err(words)?;
    Ok(expect(&mut stream, "QUIT", 221).await?)
}

async fn expect(stream: &mut TcpStream, after: &str, code: u16) -> Result<(), String> {
    let mut reply = Vec::new();
    loop {
        let mut more = [0; 512];
        let length = stream.read(&mut more).await.map_err(words)?;
        if length == 0 {
            return Err(format!("connection closed at {after}"));
        }
        reply.extend_from_slice(&more[..length]);
        match end(&reply) {
            Some(Some(said)) if said == code => return Ok(()),
            Some(Some(said)) => return Err(format!("SMTP code {said} at {after}")),
            Some(None) => return Err("no SMTP".to_owned()),
            None if reply.len() > REPLY => return Err(format!("an endless reply at {after}")),
            None => {}
        }
    }
}

/// The code of the last line, where no hyphen follows it; an inner `None` when a line has no code (RFC 5321 4.2.1).
fn end(reply: &[u8]) -> Option<Option<u16>> {
    for line in reply.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let code = line.get(..3).filter(|code| code.iter().all(u8::is_ascii_digit));
        let code = code.and_then(|code| str::from_utf8(code).ok()?.parse().ok());
        if code.is_none() || line.get(3) != Some(&b'-') {
            return Some(code);
        }
    }
    None
}
