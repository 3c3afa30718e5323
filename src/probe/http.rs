//! HTTP/1.1: one GET, and its status.

use super::connect;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

/// The longest head of an answer. The body is not read.
const HEAD: usize = 16 << 10;

pub(super) async fn get(
    address: SocketAddr,
    path: &str,
    host: Option<&str>,
    status: &[RangeInclusive<u16>],
) -> Result<(), String> {
    let stream = connect(address).await?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header(HOST, host.map_or_else(|| address.to_string(), str::to_owned))
        .header(USER_AGENT, "hamesh")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("no request can be made for {path}: {error}"))?;
    // The connection is driven here, not in a task of its own: it ends with the question.
    let answer = async {
        let answer = sender.send_request(request);
        tokio::pin!(answer, connection);
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error),
            },
        }
    };
    let answer =
        answer.await.map_err(|error| if error.is_parse() { "no HTTP".to_owned() } else { error.to_string() })?;
    let code = answer.status().as_u16();
    if status.iter().any(|range| range.contains(&code)) { Ok(()) } else { Err(format!("HTTP status {code}")) }
}
