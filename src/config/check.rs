//! `check` of a service or a server: what is asked, how often, and what makes a server up and down.

mod http;
mod tls;

pub use http::{Http, HttpVersion, Pattern};
pub use tls::{Files, Tls};

use super::bfd::{self, Sessions};
use super::diagnostic::{Diagnostic, Located, Log};
use super::reader::{Section, Value};
use super::track;
pub(super) use http::{VERSIONS, check_path, digest, pattern, status_range};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// What is asked of a server, or about it.
#[expect(clippy::large_enum_variant, reason = "most are of the large kind")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A connection.
    Tcp,
    /// A GET.
    Http(Http),
    /// A datagram. A port that is refused is a failure.
    Udp {
        /// What is sent; it may be empty. `None` is 32 random bytes.
        payload: Option<Vec<u8>>,
        /// What must come back; `None`: silence will do.
        reply: Option<Reply>,
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
    /// An echo request (RFC 792, RFC 4443).
    Ping,
    /// A program run here; exit status 0 is up.
    Script {
        /// An absolute path and its arguments; there is no shell.
        command: Vec<String>,
        /// Whom it runs as; `None`: as hamesh does.
        user: Option<String>,
        /// Exit status 2 to 255 is up too, with a weight of the status less 2.
        dynamic: bool,
    },
    /// A number in a file here, 0 when there is none.
    File {
        /// Which file.
        path: PathBuf,
        /// With 0 the server is down while the number is not 0; else the number times this is added to its weight.
        weight: i32,
    },
    /// A process of this name that runs here.
    Process(String),
    /// `[bfd.NAME]` is up on the director. What it says is heard at once, whatever the interval.
    Bfd(String),
}

/// What a datagram in answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How it begins: hexadecimal digits, with `X` for any.
    pub begins: String,
    /// Its length in bytes.
    pub length: RangeInclusive<u16>,
}

/// A type of DNS records (RFC 1035 3.2.2, RFC 3596, RFC 4034), with its number.
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
    Rrsig = 46,
    Dnskey = 48,
}

/// By their names.
pub(super) const RECORDS: [(&str, Record); 9] = [
    ("A", Record::A),
    ("NS", Record::Ns),
    ("CNAME", Record::Cname),
    ("SOA", Record::Soa),
    ("MX", Record::Mx),
    ("TXT", Record::Txt),
    ("AAAA", Record::Aaaa),
    ("RRSIG", Record::Rrsig),
    ("DNSKEY", Record::Dnskey),
];

/// How a question gets to a server, where it is not simply sent to the server's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Who is asked instead of the server's own address.
    pub address: Option<IpAddr>,
    /// The port that is asked instead of the server's.
    pub port: Option<u16>,
    /// The address that asks.
    pub source: Option<IpAddr>,
    /// The port that asks; 0 is any. A check that begins before the last one's port is free again has not been asked.
    pub source_port: u16,
    /// The interface that it leaves by.
    pub interface: Option<String>,
    /// The firewall mark of its packets.
    pub mark: Option<NonZeroU32>,
    /// A connection that does not stand after this is a failure; `None`: it has the whole [`Check::timeout`].
    pub connect: Option<Duration>,
}

/// How a server is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// How it gets there.
    pub way: Way,
    /// Between two questions.
    pub interval: Duration,
    /// The same, while the answers contradict what is seen. Not above `interval`.
    pub again: Duration,
    /// No answer after this is a failure. Where it is above `interval` the next question waits for it.
    pub timeout: Duration,
    /// First questions are spread over this time, unless the VIP is held.
    pub warmup: Duration,
    /// Failures in a row that make it down, 1 to 100.
    pub fall: u8,
    /// Successes in a row that make it up, 1 to 100.
    pub rise: u8,
    /// Answers that take too long.
    pub slow: Option<Slow>,
    /// Too many failures among the last answers make it down too.
    pub loss: Option<Loss>,
}

/// Which answers take too long, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Those that take longer than this.
    pub after: Duration,
    /// They leave a server so many percent of its weight, 1 to 99: after [`Check::fall`] of them in a row, until
    /// [`Check::rise`] were quick. With 0 they are failures.
    pub percent: u8,
}

/// How many failures are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Of so many last answers, 2 to 100. Before there are as many nothing is judged.
    pub of: u8,
    /// More than so many failures make it down, 1 to `of` - 1.
    pub most: u8,
}

const KINDS: &str = "`tcp`, `http`, `https`, `udp`, `dns`, `smtp`, `ping`, `script`, `file`, `process` and `bfd`";

/// Reads `check` of a service or a server: one, or a list of which all must pass.
pub(super) fn read(parent: &Section<'_>, sessions: &Sessions, log: &Log) -> Option<Vec<Check>> {
    let value = parent.get("check")?;
    if value.is_table() {
        return Some(read_one(value.table()?, sessions, log).into_iter().collect());
    }
    if !value.is_list() {
        return value.expected("a table, or a list of tables");
    }
    let one = |item: Value<'_>| read_one(item.table()?, sessions, log);
    Some(value.list()?.into_iter().filter_map(one).collect())
}

fn read_one(section: Section<'_>, sessions: &Sessions, log: &Log) -> Option<Check> {
    let table = |key| section.get(key).and_then(Value::table);
    let bare = |key, probe: Probe| {
        table(key).map(|empty| {
            empty.close();
            Some(probe)
        })
    };
    let session = section.get("bfd").map(|value| {
        let name = value.string()?;
        bfd::is_known(&name, sessions, log);
        Some(Probe::Bfd(name.value))
    });
    // A session has its own patience.
    let (falls, rises) = if session.is_some() { (1, 1) } else { (3, 2) };
    let asked = [
        bare("tcp", Probe::Tcp),
        table("http").map(|http| http::read(http, false, log).map(Probe::Http)),
        table("https").map(|https| http::read(https, true, log).map(Probe::Http)),
        table("udp").map(|udp| read_udp(udp, log)),
        table("dns").map(|dns| read_dns(dns, log)),
        table("smtp").map(|smtp| read_smtp(smtp, log)),
        bare("ping", Probe::Ping),
        table("script").map(|script| read_script(script, log)),
        table("file").map(read_file),
        table("process").map(read_process),
        session,
    ];
    let mut asked = asked.into_iter().flatten();
    let time = |key| section.get(key).and_then(Value::duration).map(|value| value.value);
    let seconds = |key, default| time(key).unwrap_or(Duration::from_secs(default));
    let (interval, timeout) = (seconds("interval", 2), seconds("timeout", 1));
    let again = time("again").unwrap_or(interval);
    let warmup = time("warmup").unwrap_or(interval);
    let times = |key, default| section.get(key).and_then(|v| v.integer(1..=100)).map_or(default, |v| v.value);
    let (fall, rise) = (times("fall", falls), times("rise", rises));
    if timeout.is_zero() || interval.is_zero() {
        log.add(Diagnostic::error(section.place(), "a check's `interval` and `timeout` must be above 0"));
    }
    if again.is_zero() || again > interval {
        let message = "a check's `again` must be above 0 and not above its interval";
        log.add(Diagnostic::error(section.place(), message));
    }
    let probe = match (asked.next(), asked.next()) {
        (Some(probe), None) => probe,
        (None | Some(_), _) => {
            log.add(Diagnostic::error(section.place(), format!("a check needs one of {KINDS}")));
            None
        }
    };
    let way = read_way(&section);
    if way.connect.is_some_and(|connect| connect.is_zero() || connect > timeout) {
        let message = "a check's `connect_timeout` must be above 0 and not above its `timeout`";
        log.add(Diagnostic::error(section.place(), message));
    }
    let slow = section.get("slow").and_then(read_slow);
    let loss = section.get("loss").and_then(Value::table).and_then(|loss| read_loss(loss, log));
    section.close();
    Some(Check { probe: probe?, way, interval, again, timeout, warmup, fall, rise, slow, loss })
}

/// A time, or a table of it and of what is left of the weight.
fn read_slow(value: Value<'_>) -> Option<Slow> {
    if !value.is_table() {
        return Some(Slow { after: value.duration()?.value, percent: 0 });
    }
    let section = value.table()?;
    let after = section.required("after").and_then(Value::duration);
    let percent = section.required("percent").and_then(|v| v.integer(1..=99u8));
    section.close();
    Some(Slow { after: after?.value, percent: percent?.value })
}

fn read_loss(section: Section<'_>, log: &Log) -> Option<Loss> {
    let number = |key| section.required(key).and_then(|v| v.integer(1..=100u8)).map(|v| v.value);
    let (of, most) = (number("of"), number("most"));
    let place = section.place().clone();
    section.close();
    let loss = Loss { of: of?, most: most? };
    if loss.most >= loss.of {
        log.add(Diagnostic::error(&place, format!("there are never more than {} failures of {}", loss.most, loss.of)));
    }
    Some(loss)
}

fn read_way(section: &Section<'_>) -> Way {
    let address = |key| {
        let value = section.get(key)?.parsed::<IpAddr>("an address", "10.0.5.11")?;
        Some(value.value)
    };
    Way {
        address: address("address"),
        port: section.get("port").and_then(|v| v.integer(1..=65_535)).map(|v| v.value),
        source: address("source"),
        source_port: section.get("source_port").and_then(|v| v.integer(1..=65_535)).map_or(0, |v| v.value),
        interface: section.get("interface").and_then(Value::string).map(|name| name.value),
        mark: section.get("mark").and_then(|v| v.integer(1..=u32::MAX)).and_then(|mark| NonZeroU32::new(mark.value)),
        connect: section.get("connect_timeout").and_then(Value::duration).map(|value| value.value),
    }
}

fn read_udp(section: Section<'_>, log: &Log) -> Option<Probe> {
    let payload = section.get("payload").map(|value| match value.string()? {
        random if random.value == "random" => Some(None),
        text => hex(&text, log).map(Some),
    });
    let reply = match section.get("reply") {
        None => None,
        Some(value) if value.is_boolean() => value.boolean()?.value.then(String::new),
        Some(value) => Some(reply_pattern(&value.string()?, log)?),
    };
    let length = |key| section.get(key).and_then(|v| v.integer(0..=65_507u16)).map(|v| v.value);
    let (least, most) = (length("reply_min").unwrap_or(0), length("reply_max").unwrap_or(65_507));
    section.close();
    let reply = reply.map(|begins| Reply { begins, length: least..=most });
    Some(Probe::Udp { payload: payload.unwrap_or(Some(Some(Vec::new())))?, reply })
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

fn read_script(section: Section<'_>, log: &Log) -> Option<Probe> {
    let command = section.required("command").and_then(|value| track::read_command(value, log));
    let user = section.get("user").and_then(Value::string).map(|user| user.value);
    let dynamic = section.get("dynamic").and_then(Value::boolean).is_some_and(|dynamic| dynamic.value);
    section.close();
    Some(Probe::Script { command: command?, user, dynamic })
}

fn read_file(section: Section<'_>) -> Option<Probe> {
    let path = section.required("path").and_then(Value::string);
    let weight = section.get("weight").and_then(|v| v.integer(-65_535..=65_535)).map_or(0, |v| v.value);
    section.close();
    let path = path?;
    Some(Probe::File { path: path.place.source.resolve(&path.value), weight })
}

fn read_process(section: Section<'_>) -> Option<Probe> {
    let name = section.required("name").and_then(Value::string);
    section.close();
    Some(Probe::Process(name?.value))
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

/// Two digits for each of at most 512 bytes, or `X` for a digit that may be any.
pub(super) fn reply_pattern(text: &Located<String>, log: &Log) -> Option<String> {
    let pattern = text.value.to_ascii_uppercase();
    let known = pattern.bytes().all(|digit| digit == b'X' || digit.is_ascii_hexdigit());
    if !known || !pattern.len().is_multiple_of(2) || pattern.len() > 1024 {
        let message = "a reply is up to 512 bytes of two hexadecimal digits each, with X for any digit";
        log.add(Diagnostic::error(&text.place, message).help("for example \"706f6e67XXXX\""));
        return None;
    }
    Some(pattern)
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
