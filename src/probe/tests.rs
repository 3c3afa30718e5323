//! Against servers on loopback, well-meaning and not.

use super::*;
use std::net::Ipv4Addr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_millis(500);

fn http() -> Probe {
    Probe::Http { path: "/healthz".to_owned(), host: None, status: vec![200..=299] }
}

/// A server that answers every connection with `said`, then `more` again and again until the other end has enough.
async fn server(said: &'static [u8], more: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap_or(0);
                if read > 0 {
                    assert!(
                        request.starts_with(b"GET /healthz HTTP/1.1\r\n"),
                        "{:?}",
                        str::from_utf8(&request[..read])
                    );
                }
                let mut sent = stream.write_all(said).await;
                while sent.is_ok() && !more.is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    sent = stream.write_all(more).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_status_in_the_range_is_up_and_another_is_said() {
    let good = server(b"HTTP/1.1 204 No Content\r\n\r\n", b"").await;
    assert_eq!(ask(good, &http(), PATIENCE).await, Ok(()));
    let old = server(b"HTTP/1.0 200 OK\r\n\r\nhello", b"").await;
    assert_eq!(ask(old, &http(), PATIENCE).await, Ok(()));
    let bad = server(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", b"").await;
    assert_eq!(ask(bad, &http(), PATIENCE).await, Err("HTTP status 503".to_owned()));
    let elsewhere = server(b"HTTP/1.1 301 Moved\r\nlocation: http://203.0.113.1/\r\n\r\n", b"").await;
    assert_eq!(ask(elsewhere, &http(), PATIENCE).await, Err("HTTP status 301".to_owned()));
}

#[tokio::test]
async fn a_closed_port_is_refused_and_an_open_one_is_up() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(ask(address, &Probe::Tcp, PATIENCE).await, Ok(()));
    drop(listener);
    for probe in [Probe::Tcp, http()] {
        assert_eq!(ask(address, &probe, PATIENCE).await, Err("connection refused".to_owned()));
    }
}

#[tokio::test]
async fn nothing_a_server_sends_holds_a_check_up_or_fills_the_memory() {
    let began = Instant::now();
    let silent = server(b"", b"").await;
    assert!(ask(silent, &http(), PATIENCE).await.is_err());
    let garbage = server(b"\xff\xfe\x00 this is no HTTP at all\r\n\r\n", b"").await;
    assert!(ask(garbage, &http(), PATIENCE).await.is_err());
    let drips = server(b"HTTP/1.1 200 OK\r\nx", b"y").await;
    assert!(ask(drips, &http(), PATIENCE).await.is_err());
    let endless_head =
        server(b"HTTP/1.1 200 OK\r\n", b"x-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").await;
    assert!(ask(endless_head, &http(), PATIENCE).await.is_err());
    assert!(began.elapsed() < PATIENCE * 6);
    // The body is nobody's business.
    let endless_body = server(b"HTTP/1.1 200 OK\r\n\r\n", b"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb").await;
    assert_eq!(ask(endless_body, &http(), PATIENCE).await, Ok(()));
}
