//! HTTP: one GET, and its answer's status and body.

use super::socket::connect;
use super::{Trouble, words};
use crate::config::check::{Http, HttpVersion, Way};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response, Version};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

/// The longest head of an answer.
const HEAD: usize = 16 << 10;
/// How much of a body is looked at for a pattern.
const LOOKED_AT: usize = 64 << 10;
/// The longest body that a digest is made of. It is not kept.
const LONGEST: usize = 16 << 20;

pub(super) async fn get(address: SocketAddr, way: &Way, http: &Http) -> Result<(), Trouble> {
    let stream = connect(address, way).await?;
    let Some(tls) = &http.tls else { return ask(stream, address, http).await };
    // Without a name none is asked for: an address is not sent.
    let name = tls.name.clone().map_or(Ok(ServerName::from(address.ip())), ServerName::try_from);
    let name = name.map_err(|error| Trouble::Here(format!("not asked: {error}")))?;
    let secure = TlsConnector::from(tls.client()).connect(name, stream).await;
    ask(Lenient(secure.map_err(|error| format!("TLS: {}", words(error)))?), address, http).await
}

/// Many servers just end a connection, without TLS's word for it. What has a length is held to it all the same.
struct Lenient<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = std::task::ready!(Pin::new(&mut self.0).poll_read(cx, buffer));
        Poll::Ready(read.or_else(|error| match error.kind() == io::ErrorKind::UnexpectedEof {
            true => Ok(()),
            false => Err(error),
        }))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, address: SocketAddr, http: &Http) -> Result<(), Trouble> {
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(said)?;
    let host = http.host.clone().unwrap_or_else(|| address.to_string());
    let request = Request::get(&http.path).header(HOST, host).header(USER_AGENT, "hamesh");
    let request = match http.version {
        HttpVersion::Old => request.version(Version::HTTP_10),
        HttpVersion::OldClosing => request.version(Version::HTTP_10).header(CONNECTION, "close"),
        HttpVersion::New => request.header(CONNECTION, "close"),
    };
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Trouble::Here(format!("no request for {}: {error}", http.path)))?;
    let answer = async { judge(sender.send_request(request).await.map_err(said)?, http).await };
    // The connection is driven here, not in a task of its own: it ends with the question.
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(said(error)),
        },
    }
    .map_err(Trouble::There)
}

async fn judge(answer: Response<Incoming>, http: &Http) -> Result<(), String> {
    let code = answer.status().as_u16();
    if !http.status.iter().any(|range| range.contains(&code)) {
        return Err(format!("HTTP status {code}"));
    }
    let (digest, patterns) = (&http.digest, http.regex.is_some() || http.no_regex.is_some());
    if digest.is_none() && !patterns {
        return Ok(());
    }
    let (mut body, mut sum, mut length, mut beginning) = (answer.into_body(), md5::Context::new(), 0, Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(said)?;
        let Some(data) = frame.data_ref() else { continue };
        length += data.len();
        beginning.extend(data.iter().take(LOOKED_AT - beginning.len()));
        if digest.is_some() {
            sum.consume(data);
        } else if beginning.len() == LOOKED_AT {
            break;
        }
        if length > LONGEST {
            return Err(format!("a body of more than {} MiB", LONGEST >> 20));
        }
    }
    if let Some(digest) = digest {
        let is = sum.finalize();
        if is.0 != *digest {
            return Err(format!("the digest is {is:x}"));
        }
    }
    if http.regex.as_ref().is_some_and(|pattern| !pattern.is_match(&beginning)) {
        return Err("the body does not match".to_owned());
    }
    if http.no_regex.as_ref().is_some_and(|pattern| pattern.is_match(&beginning)) {
        return Err("the body matches what it must not".to_owned());
    }
    Ok(())
}

/// In words for people.
fn said(error: hyper::Error) -> String {
    if error.is_parse() || error.is_parse_too_large() {
        return "no HTTP".to_owned();
    }
    let cause = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
    match cause {
        Some(cause) => words(io::Error::from(cause.kind())),
        None => error.to_string(),
    }
}
