//! Against servers on loopback, well-meaning and not.

use super::*;
use crate::config::check::Record;
use std::net::Ipv4Addr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

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

/// A server that makes of a datagram what `answers` says, one after the other.
async fn datagrams(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut asked = [0; 1024];
        while let Ok((length, client)) = socket.recv_from(&mut asked).await {
            for answer in answers(&asked[..length]) {
                socket.send_to(&answer, client).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn a_datagram_is_answered_or_not_refused() {
    let udp = |reply| Probe::Udp { payload: b"ping".to_vec(), reply };
    let echo = datagrams(|asked| vec![asked.to_vec()]).await;
    assert_eq!(ask(echo, &udp(true), PATIENCE).await, Ok(()));
    let silent = datagrams(|_| Vec::new()).await;
    assert_eq!(ask(silent, &udp(false), PATIENCE).await, Ok(()));
    assert_eq!(ask(silent, &udp(true), PATIENCE).await, Err("no answer within 500ms".to_owned()));
    let huge = datagrams(|_| vec![vec![0; 60_000]]).await;
    assert_eq!(ask(huge, &udp(true), PATIENCE).await, Ok(()));
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    assert_eq!(ask(nobody, &udp(false), PATIENCE).await, Err("port unreachable".to_owned()));
}

#[tokio::test]
async fn a_name_server_answers_its_own_question_without_an_error() {
    let dns = Probe::Dns { name: "example.org".to_owned(), record: Record::A };
    let reply = |asked: &[u8], flags: [u8; 2]| [&asked[..2], &flags, &asked[4..]].concat();
    let good = datagrams(move |asked| vec![reply(asked, [0x81, 0x80])]).await;
    assert_eq!(ask(good, &dns, PATIENCE).await, Ok(()));
    let refuses = datagrams(move |asked| vec![reply(asked, [0x81, 0x85])]).await;
    assert_eq!(ask(refuses, &dns, PATIENCE).await, Err("DNS says REFUSED".to_owned()));
    // Short, another's, and its own question: no answer at all.
    let garbage = datagrams(|asked| {
        vec![asked[..2].to_vec(), [&[!asked[0], asked[1], 0x81, 0x80], &asked[4..]].concat(), asked.to_vec()]
    })
    .await;
    assert_eq!(ask(garbage, &dns, PATIENCE).await, Err("no answer within 500ms".to_owned()));
}

/// A mail server that says `greeting`, then `helo` and `quit` to what it is told.
async fn mail(greeting: &'static str, helo: &'static str, quit: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(greeting.as_bytes()).await.unwrap();
        for (told, answer) in [("HELO lb.example.org\r\n", helo), ("QUIT\r\n", quit)] {
            let mut line = vec![0; told.len()];
            if stream.read_exact(&mut line).await.is_err() {
                return;
            }
            assert_eq!(str::from_utf8(&line).unwrap(), told);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_mail_server_says_hello_and_goodbye() {
    let smtp = Probe::Smtp { helo: "lb.example.org".to_owned() };
    let good = mail("220-one moment\r\n220 mx ESMTP\r\n", "250 mx\r\n", "221 bye\r\n").await;
    assert_eq!(ask(good, &smtp, PATIENCE).await, Ok(()));
    let busy = mail("421 busy\r\n", "", "").await;
    assert_eq!(ask(busy, &smtp, PATIENCE).await, Err("SMTP code 421 at the greeting".to_owned()));
    let strict = mail("220 mx\r\n", "550 who?\r\n", "").await;
    assert_eq!(ask(strict, &smtp, PATIENCE).await, Err("SMTP code 550 at HELO".to_owned()));
    let other = mail("SSH-2.0-x\r\n", "", "").await;
    assert_eq!(ask(other, &smtp, PATIENCE).await, Err("no SMTP".to_owned()));
    let slow = mail("220 m", "", "").await;
    assert_eq!(ask(slow, &smtp, PATIENCE).await, Err("no answer within 500ms".to_owned()));
    let chatty = mail(Box::leak("220-more\r\n".repeat(1000).into_boxed_str()), "", "").await;
    assert_eq!(ask(chatty, &smtp, PATIENCE).await, Err("an endless reply at the greeting".to_owned()));
}
