//! `check` of a service or a server: what is asked, how often, and what makes a server up and down.

use super::diagnostic::{Diagnostic, Located, Log};
use super::reader::{Section, Value};
use std::ops::RangeInclusive;
use std::time::Duration;

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A connection.
    Tcp,
    /// A GET.
    Http {
        /// Begins with a slash.
        path: String,
        /// The name of the site; by default the address.
        host: Option<String>,
        /// The answers that count as alive.
        status: Vec<RangeInclusive<u16>>,
    },
    /// A datagram. A port that is refused is a failure.
    Udp {
        /// What is sent; it may be empty.
        payload: Vec<u8>,
        /// Whether silence is a failure too.
        reply: bool,
    },
    /// A question to a name server, by UDP. Any answer without an error will do.
    Dns {
        /// The question's name, as in [`domain`].
        name: String,
        /// The question's type.
        record: Record,
    },
    /// A greeting, HELO and QUIT.
    Smtp {
        /// The name that is given with HELO: visible ASCII.
        helo: String,
    },
}

/// A type of DNS records (RFC 1035 3.2.2, RFC 3596), with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[expect(missing_docs, reason = "the names are DNS's")]
pub enum Record {
    A = 1,
    Ns = 2,
    Cname = 5,
    Soa = 6,
    Mx = 15,
    Txt = 16,
    Aaaa = 28,
}

/// By their names.
pub(super) const RECORDS: [(&str, Record); 7] = [
    ("A", Record::A),
    ("NS", Record::Ns),
    ("CNAME", Record::Cname),
    ("SOA", Record::Soa),
    ("MX", Record::Mx),
    ("TXT", Record::Txt),
    ("AAAA", Record::Aaaa),
];

/// How a server is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// Between two questions.
    pub interval: Duration,
    /// The same, while the answers contradict what is seen. Not above `interval`.
    pub again: Duration,
    /// No answer after this is a failure; not above `interval`.
    pub timeout: Duration,
    /// Failures in a row that make it down, 1 to 100.
    pub fall: u8,
    /// Successes in a row that make it up, 1 to 100.
    pub rise: u8,
}

/// Reads `check` of a service or a server.
pub(super) fn read(parent: &Section<'_>, log: &Log) -> Option<Check> {
    let section = parent.get("check").and_then(Value::table)?;
    let asked = [
        section.get("tcp").and_then(Value::table).map(|tcp| {
            tcp.close();
            Some(Probe::Tcp)
        }),
        section.get("http").and_then(Value::table).map(|http| read_http(http, log)),
        section.get("udp").and_then(Value::table).map(|udp| read_udp(udp, log)),
        section.get("dns").and_then(Value::table).map(|dns| read_dns(dns, log)),
        section.get("smtp").and_then(Value::table).map(|smtp| read_smtp(smtp, log)),
    ];
    let mut asked = asked.into_iter().flatten();
    let seconds = |key, default| {
        section.get(key).and_then(Value::duration).map_or(Duration::from_secs(default), |value| value.value)
    };
    let (interval, timeout) = (seconds("interval", 2), seconds("timeout", 1));
    let again = section.get("again").and_then(Value::duration).map_or(interval, |value| value.value);
    let times = |key, default| section.get(key).and_then(|v| v.integer(1..=100)).map_or(default, |v| v.value);
    let (fall, rise) = (times("fall", 3), times("rise", 2));
    if timeout.is_zero() || timeout > interval {
        let error = Diagnostic::error(section.place(), "a check's timeout must be above 0 and not above its interval");
        log.add(error);
    }
    if again.is_zero() || again > interval {
        let message = "a check's `again` must be above 0 and not above its interval";
        log.add(Diagnostic::error(section.place(), message));
    }
    let probe = match (asked.next(), asked.next()) {
        (Some(probe), None) => probe,
        (None | Some(_), _) => {
            let message = "a check needs one of `tcp`, `http`, `udp`, `dns` and `smtp`";
            log.add(Diagnostic::error(section.place(), message));
            None
        }
    };
    section.close();
    Some(Check { probe: probe?, interval, again, timeout, fall, rise })
}

fn read_http(section: Section<'_>, log: &Log) -> Option<Probe> {
    let path = section.required("path").and_then(Value::string);
    let host = section.get("host").and_then(Value::string).map(|host| host.value);
    let status = section.get("status").and_then(Value::string);
    section.close();
    let status = match &status {
        None => Some(vec![200..=299]),
        Some(text) => {
            let ranges: Option<Vec<_>> = text.value.split(',').map(|text| status_range(text.trim())).collect();
            if ranges.is_none() {
                let error =
                    Diagnostic::error(&text.place, format!("`{}` is no range of HTTP status codes", text.value));
                log.add(error.help("for example \"200-299\" or \"200, 204\""));
            }
            ranges
        }
    };
    let path = path?;
    if !path.value.starts_with('/') {
        log.add(Diagnostic::error(&path.place, "the path of an HTTP check begins with `/`"));
    }
    Some(Probe::Http { path: path.value, host, status: status? })
}

/// `200` or `200-299`.
pub(super) fn status_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let range = code(first)?..=code(last)?;
    (!range.is_empty()).then_some(range)
}

fn read_udp(section: Section<'_>, log: &Log) -> Option<Probe> {
    let reply = section.get("reply").and_then(Value::boolean).is_some_and(|reply| reply.value);
    let payload = section.get("payload").map(|value| {
        let text = value.string()?;
        hex(&text, log)
    });
    section.close();
    Some(Probe::Udp { payload: payload.unwrap_or(Some(Vec::new()))?, reply })
}

fn read_dns(section: Section<'_>, log: &Log) -> Option<Probe> {
    let name = section.get("name").map(Value::string);
    let record =
        section.get("type").and_then(|value| value.choice(&RECORDS)).map_or(Record::Soa, |record| record.value);
    section.close();
    let name = match name {
        None => ".".to_owned(),
        Some(name) => domain(name?, log)?,
    };
    Some(Probe::Dns { name, record })
}

fn read_smtp(section: Section<'_>, log: &Log) -> Option<Probe> {
    let helo = section.get("helo").map(Value::string);
    section.close();
    let helo = match helo {
        None => "hamesh.invalid".to_owned(),
        Some(helo) => helo_name(helo?, log)?,
    };
    Some(Probe::Smtp { helo })
}

/// Two digits for each of at most 512 bytes.
pub(super) fn hex(text: &Located<String>, log: &Log) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.value.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let bytes = digits.filter(|digits| digits.len().is_multiple_of(2) && digits.len() <= 1024);
    if bytes.is_none() {
        let message = "a payload is up to 512 bytes of two hexadecimal digits each";
        log.add(Diagnostic::error(&text.place, message).help("for example \"70696e67\""));
    }
    Some(bytes?.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// A domain name that fits into a question: labels of 1 to 63 bytes, 253 in all (RFC 1035 2.3.4); `.` is the root.
pub(super) fn domain(text: Located<String>, log: &Log) -> Option<String> {
    let labels = text.value.strip_suffix('.').unwrap_or(&text.value);
    let fits = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic());
    if text.value != "." && (labels.len() > 253 || !labels.split('.').all(fits)) {
        let message = format!("`{}` is no domain name", text.value.escape_default());
        log.add(Diagnostic::error(&text.place, message).help("for example \"example.org\", or \".\" for the root"));
        return None;
    }
    Some(text.value)
}

/// A name that ends no line of the dialogue.
pub(super) fn helo_name(text: Located<String>, log: &Log) -> Option<String> {
    if !(1..=255).contains(&text.value.len()) || !text.value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("`{}` cannot be said with HELO", text.value.escape_default());
        log.add(Diagnostic::error(&text.place, message).help("for example \"lb.example.org\""));
        return None;
    }
    Some(text.value)
}
