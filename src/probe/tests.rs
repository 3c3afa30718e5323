//! Against servers on loopback, well-meaning and not.

use super::*;
use crate::config::check::{Files, Http, HttpVersion, Pattern, Record, Reply, Tls, Way};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

const PATIENCE: Duration = Duration::from_millis(500);

fn get() -> Http {
    let (path, status, version) = ("/healthz".to_owned(), vec![200..=299], HttpVersion::New);
    Http { path, host: None, version, status, digest: None, regex: None, no_regex: None, tls: None }
}

fn http() -> Probe {
    Probe::Http(get())
}

/// What comes of it, in the words for people.
async fn ask(address: SocketAddr, probe: &Probe, timeout: Duration) -> Result<(), String> {
    ask_by(address, probe, &Way::default(), timeout).await
}

async fn ask_by(address: SocketAddr, probe: &Probe, way: &Way, timeout: Duration) -> Result<(), String> {
    let interval = Duration::from_secs(10);
    let (probe, way, again, warmup) = (probe.clone(), way.clone(), interval, interval);
    let check = Check { probe, way, interval, again, timeout, warmup, fall: 1, rise: 1, slow: None, loss: None };
    match super::ask(address, &check).await.said {
        Said::Up(_) => Ok(()),
        Said::Down(why) => Err(why),
        Said::Unasked(why) => Err(format!("unasked: {why}")),
    }
}

/// A server whose queue is full drops what comes, as a machine does that is gone.
#[tokio::test]
async fn a_connection_may_have_less_time_than_the_answer() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut full = Vec::new();
    while let Ok(Ok(stream)) = timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await {
        full.push(stream);
    }
    let way = Way { connect: Some(Duration::from_millis(100)), ..Way::default() };
    let (began, patience) = (Instant::now(), Duration::from_secs(60));
    assert_eq!(ask_by(address, &http(), &way, patience).await, Err("no connection within 100ms".to_owned()));
    assert!(began.elapsed() < patience / 2, "{:?}", began.elapsed());
    // One that is there takes its time to answer.
    let slow = server(b"", b"x").await;
    assert_eq!(ask_by(slow, &Probe::Tcp, &way, patience).await, Ok(()));
    let why = ask_by(slow, &http(), &way, PATIENCE).await;
    assert_ne!(why, Err("no connection within 100ms".to_owned()));
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
                // A handshake is no request.
                if read > 0 && request[0] != 0x16 {
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
    let any = Reply { begins: String::new(), length: 0..=65_507 };
    let udp = |reply: bool| Probe::Udp { payload: Some(b"ping".to_vec()), reply: reply.then(|| any.clone()) };
    let echo = datagrams(|asked| vec![asked.to_vec()]).await;
    assert_eq!(ask(echo, &udp(true), PATIENCE).await, Ok(()));
    let silent = datagrams(|_| Vec::new()).await;
    assert_eq!(ask(silent, &udp(false), PATIENCE).await, Ok(()));
    assert_eq!(ask(silent, &udp(true), PATIENCE).await, Err("no answer within 500ms".to_owned()));
    let huge = datagrams(|_| vec![vec![0; 60_000]]).await;
    assert_eq!(ask(huge, &udp(true), PATIENCE).await, Ok(()));
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    assert_eq!(ask(nobody, &udp(false), PATIENCE).await, Err("port unreachable".to_owned()));
    let pong =
        |begins: &str| Probe::Udp { payload: None, reply: Some(Reply { begins: begins.to_owned(), length: 0..=255 }) };
    let ours = datagrams(|asked| vec![[b"pong", asked].concat()]).await;
    assert_eq!(ask(ours, &pong("706F6EXX"), PATIENCE).await, Ok(()));
    assert_eq!(ask(ours, &pong("706F6F"), PATIENCE).await, Err("another answer, of 36 bytes".to_owned()));
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

#[tokio::test]
async fn a_body_has_its_digest_and_its_pattern() {
    let page = server(b"HTTP/1.0 200 OK\r\n\r\nall is well\n", b"").await;
    let digest = md5::compute(b"all is well\n").0;
    let with = async |http: Http| ask(page, &Probe::Http(http), PATIENCE).await;
    assert_eq!(with(Http { digest: Some(digest), ..get() }).await, Ok(()));
    let why = with(Http { digest: Some([0; 16]), ..get() }).await.unwrap_err();
    assert_eq!(why, format!("the digest is {:032x}", u128::from_be_bytes(digest)));
    let pattern = |text: &str| Some(Pattern::new(text).unwrap());
    assert_eq!(with(Http { regex: pattern("is +well"), ..get() }).await, Ok(()));
    assert_eq!(with(Http { regex: pattern("^is"), ..get() }).await, Err("the body does not match".to_owned()));
    assert_eq!(with(Http { no_regex: pattern("ill"), ..get() }).await, Ok(()));
    let not = with(Http { no_regex: pattern("well"), digest: Some(digest), ..get() }).await;
    assert_eq!(not, Err("the body matches what it must not".to_owned()));
}

#[tokio::test]
async fn an_endless_body_is_read_to_its_bound() {
    let endless = server(b"HTTP/1.1 200 OK\r\n\r\nwell", &[b'b'; 4096]).await;
    let pattern = |text: &str| Some(Pattern::new(text).unwrap());
    let patience = Duration::from_secs(20);
    let (yes, no) = (Http { regex: pattern("well"), ..get() }, Http { regex: pattern("ill"), ..get() });
    assert_eq!(ask(endless, &Probe::Http(yes), patience).await, Ok(()));
    assert_eq!(ask(endless, &Probe::Http(no), patience).await, Err("the body does not match".to_owned()));
    let digest = Http { digest: Some([0; 16]), ..get() };
    assert_eq!(ask(endless, &Probe::Http(digest), PATIENCE).await, Err("no answer within 500ms".to_owned()));
    // It ends before the length that it has promised.
    let short = server(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nwell", b"").await;
    let yes = Http { regex: pattern("well"), ..get() };
    assert!(ask(short, &Probe::Http(yes), PATIENCE).await.is_err());
}

#[tokio::test]
async fn a_reset_is_said() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            let mut asked = [0; 1024];
            assert!(stream.read(&mut asked).await.unwrap_or(0) <= asked.len());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nwe").await.ok();
        }
    });
    let well = Http { regex: Some(Pattern::new("well").unwrap()), ..get() };
    for probe in [Probe::Http(well), Probe::Smtp { helo: "lb".to_owned() }] {
        assert!(ask(address, &probe, PATIENCE).await.is_err(), "{probe:?}");
    }
}

#[tokio::test]
async fn a_check_goes_the_way_that_it_is_told() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let by =
        |source: [u8; 4]| Way { source: Some(source.into()), mark: std::num::NonZeroU32::new(7), ..Way::default() };
    assert_eq!(ask_by(address, &Probe::Tcp, &by([127, 0, 0, 9]), PATIENCE).await, Ok(()));
    assert_eq!(listener.accept().await.unwrap().1.ip(), Ipv4Addr::new(127, 0, 0, 9));
    let stranger = ask_by(address, &Probe::Tcp, &by([203, 0, 113, 77]), PATIENCE).await;
    assert!(stranger.unwrap_err().starts_with("unasked: "), "an address of somebody else");
    let out = Way { interface: Some("no-such-if".to_owned()), ..Way::default() };
    assert!(ask_by(address, &Probe::Tcp, &out, PATIENCE).await.unwrap_err().starts_with("unasked: "));
}

#[test]
fn a_datagram_leaves_from_an_address_of_its_link_alone() {
    crate::kernel::tests::on_a_cable(async |_| {
        crate::kernel::tests::ip("-6 addr add fe80::9/64 dev eth0 nodad");
        let link: std::net::IpAddr = "fe80::9".parse().unwrap();
        let way = Way { source: Some(link), interface: Some("eth0".to_owned()), ..Way::default() };
        for probe in [
            Probe::Udp { payload: None, reply: None },
            Probe::Dns { name: "example.org".to_owned(), record: Record::A },
        ] {
            let asked = ask_by(SocketAddr::new(link, 9), &probe, &way, PATIENCE).await;
            assert_eq!(asked, Err("port unreachable".to_owned()));
        }
    });
}

/// A server that does nothing but TLS handshakes, with a certificate of its own making for `lb.example.org`, and its PEM.
async fn secure(versions: &[&'static rustls::SupportedProtocolVersion]) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["lb.example.org".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let asked = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap_or(0) <= request.len());
                // Without a length, and without TLS's word for the end.
                stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\nfor {asked}").as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            });
        }
    });
    (address, made.cert.pem())
}

#[tokio::test]
async fn tls_takes_anybody_unless_it_is_to_verify() {
    let dir = tempfile::tempdir().unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (address, pem) = secure(&[version]).await;
        let (ca, other) = (dir.path().join("ca.pem"), dir.path().join("other.pem"));
        std::fs::write(&ca, pem).unwrap();
        std::fs::write(&other, secure(&[version]).await.1).unwrap();
        let with = async |name: Option<&str>, ca: Option<&std::path::Path>, answers: &str| {
            let files = Files { ca: ca.map(Into::into), own: None };
            let tls = Some(Tls::new(name.map(str::to_owned), files).unwrap());
            let regex = Some(Pattern::new(&format!("^for {answers}$")).unwrap());
            ask(address, &Probe::Http(Http { tls, regex, ..get() }), Duration::from_secs(5)).await
        };
        assert_eq!(with(None, None, "nobody").await, Ok(()));
        assert_eq!(with(Some("www.example.org"), None, "www.example.org").await, Ok(()), "another's certificate");
        assert_eq!(with(Some("lb.example.org"), Some(&ca), "lb.example.org").await, Ok(()));
        for (name, ca) in [(Some("www.example.org"), &ca), (None, &ca), (Some("lb.example.org"), &other)] {
            let why = with(name, Some(ca), "").await.unwrap_err();
            assert!(why.starts_with("TLS: invalid peer certificate"), "{why}");
        }
    }
    let plain = server(b"HTTP/1.1 200 OK\r\n\r\n", b"").await;
    let tls = Some(Tls::new(None, Files::default()).unwrap());
    assert!(ask(plain, &Probe::Http(Http { tls, ..get() }), PATIENCE).await.unwrap_err().starts_with("TLS: "));
}
