//! A short mail by SMTP (RFC 5321), as keepalived writes it: no encryption, no login, for the mail server of the house.

use crate::config::notify::Mail;
use crate::probe::smtp::expect;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// One line.
    pub subject: String,
    /// The text.
    pub body: String,
}

/// Sends a message from the node of this name.
///
/// # Errors
/// In words for people: who refused what, or that the time was over.
pub async fn send(mail: &Mail, node: &str, message: &Message) -> Result<(), String> {
    let dialogue = timeout(mail.timeout, converse(mail, node, message)).await;
    dialogue.unwrap_or_else(|_| Err(format!("{} took longer than {:?}", mail.server, mail.timeout)))
}

async fn converse(mail: &Mail, node: &str, message: &Message) -> Result<(), String> {
    let words = |error: std::io::Error| format!("{}: {error}", mail.server);
    let address = lookup_host(&mail.server).await.map_err(words)?.next();
    let address = address.ok_or_else(|| format!("{} has no address", mail.server))?;
    let mut stream = TcpStream::connect(address).await.map_err(words)?;
    let from = mail.from.clone().unwrap_or_else(|| format!("root@{node}"));
    expect(&mut stream, "the greeting", 220).await?;
    let mut lines = vec![(format!("HELO {}", mail.helo.as_deref().unwrap_or(node)), 250)];
    lines.push((format!("MAIL FROM:<{from}>"), 250));
    lines.extend(mail.to.iter().map(|to| (format!("RCPT TO:<{to}>"), 250)));
    lines.push(("DATA".to_owned(), 354));
    lines.push((text(&from, &mail.to, message, SystemTime::now()), 250));
    lines.push(("QUIT".to_owned(), 221));
    for (line, code) in lines {
        stream.write_all(format!("{line}\r\n").as_bytes()).await.map_err(words)?;
        let after = line.lines().next().unwrap_or_default();
        expect(&mut stream, after, code).await.map_err(|error| format!("{}: {error}", mail.server))?;
    }
    Ok(())
}

/// Headers (RFC 5322) and body, up to the final dot.
fn text(from: &str, to: &[String], message: &Message, at: SystemTime) -> String {
    let subject: String = message.subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = format!(
        "Date: {}\r\nFrom: {from}\r\nSubject: {subject}\r\nX-Mailer: hamesh\r\nTo: {}\r\n\r\n",
        date(at),
        to.join(", ")
    );
    for line in message.body.lines() {
        // A dot alone would end it.
        let dot = if line.starts_with('.') { "." } else { "" };
        text += &format!("{dot}{line}\r\n");
    }
    text + "."
}

/// `Sat, 28 Nov 2026 17:00:00 +0000`.
fn date(at: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [(&str, u64); 12] = [
        ("Jan", 31),
        ("Feb", 28),
        ("Mar", 31),
        ("Apr", 30),
        ("May", 31),
        ("Jun", 30),
        ("Jul", 31),
        ("Aug", 31),
        ("Sep", 30),
        ("Oct", 31),
        ("Nov", 30),
        ("Dec", 31),
    ];
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (mut day, clock) = (seconds / 86_400, seconds % 86_400);
    let weekday = usize::try_from(day % 7).ok().and_then(|day| DAYS.get(day)).unwrap_or(&"Thu");
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = "Dec";
    for (name, days) in MONTHS {
        let days = days + u64::from(name == "Feb" && is_leap(year));
        if day < days {
            month = name;
            break;
        }
        day -= days;
    }
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{weekday}, {:02} {month} {year} {hour:02}:{minute:02}:{second:02} +0000", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::TcpListener;

    #[test]
    fn dates_are_those_of_mail() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(at(951_827_696), "Tue, 29 Feb 2000 12:34:56 +0000");
        assert_eq!(at(1_795_885_199), "Sat, 28 Nov 2026 16:59:59 +0000");
        assert_eq!(at(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 +0000");
    }

    /// A server that answers as told, line by line; returns what it heard.
    async fn serve(listener: TcpListener, refuse: &str) -> Vec<String> {
        let (stream, _) = listener.accept().await.expect("a client");
        let (reading, mut writing) = stream.into_split();
        let mut lines = BufReader::new(reading).lines();
        writing.write_all(b"220 there\r\n").await.expect("sent");
        let (mut heard, mut data) = (Vec::new(), false);
        while let Ok(Some(line)) = lines.next_line().await {
            let answer = match line.as_str() {
                "." => "250 queued",
                "DATA" => "354 go on",
                "QUIT" => "221 bye",
                line if line.starts_with(refuse) => "550 no",
                _ => "250 well",
            };
            if !data || line == "." {
                writing.write_all(format!("{answer}\r\n").as_bytes()).await.expect("sent");
            }
            data = (data || line == "DATA") && line != ".";
            heard.push(line);
        }
        heard
    }

    async fn mailed(refuse: &'static str) -> (Result<(), String>, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut mail = Mail {
            name: None,
            server: listener.local_addr().expect("bound").to_string(),
            helo: None,
            from: None,
            to: vec!["a@x.org".to_owned(), "b@x.org".to_owned()],
            timeout: Duration::from_secs(20),
            faults: true,
        };
        mail.helo = Some("here".to_owned());
        let server = tokio::spawn(serve(listener, refuse));
        let message = Message { subject: "[lb1] s\r\nBcc: x".to_owned(), body: "one\n.\ntwo".to_owned() };
        let sent = send(&mail, "lb1", &message).await;
        (sent, server.await.expect("it ends"))
    }

    #[tokio::test]
    async fn a_mail_is_sent_and_nothing_in_it_ends_it_or_adds_a_header() {
        let (sent, mut heard) = mailed("nothing").await;
        assert_eq!(sent, Ok(()));
        heard.retain(|line| !line.starts_with("Date: "));
        let expected = [
            "HELO here",
            "MAIL FROM:<root@lb1>",
            "RCPT TO:<a@x.org>",
            "RCPT TO:<b@x.org>",
            "DATA",
            "From: root@lb1",
            "Subject: [lb1] s  Bcc: x",
            "X-Mailer: hamesh",
            "To: a@x.org, b@x.org",
            "",
            "one",
            "..",
            "two",
            ".",
            "QUIT",
        ];
        assert_eq!(heard, expected);
    }

    #[tokio::test]
    async fn a_refusal_is_said() {
        let (sent, heard) = mailed("RCPT TO:<b").await;
        let why = sent.expect_err("one recipient is refused");
        assert!(why.ends_with("SMTP code 550 at RCPT TO:<b@x.org>"), "{why}");
        assert_eq!(heard.last().map(String::as_str), Some("RCPT TO:<b@x.org>"));
    }
}
