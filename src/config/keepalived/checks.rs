//! The checkers of a `real_server`, with keepalived's defaults.
//!
//! A check that fails is repeated `retry` times, `delay_before_retry` apart, and one that succeeds makes a server up:
//! `fall` is `retry` + 1, `rise` is 1. Each `url` is a check of its own. Some things differ: keepalived counts the time between two
//! checks from the end of the first, asks one `url` at a time, and takes a server out at the first failure after its own start. And
//! `connect_timeout` is, with keepalived, of the connection and of each step after it: here of the connection, and all steps
//! together have the sum.

mod http;

use super::super::check::{self, Check, Probe, Record, Reply, Way};
use super::entrances::Entrances;
use super::lvs::{choice, count, number, positive, seconds};
use super::notify::Mails;
use super::syntax::{Statement, Word};
use super::{argument, bfd, block, check_leaf, track, unknown};
use crate::config::diagnostic::{Diagnostic, Log};
use http::http_get;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

/// The checkers, by their keywords.
pub(super) const CHECKERS: [&str; 10] = [
    "TCP_CHECK",
    "HTTP_GET",
    "SSL_GET",
    "SMTP_CHECK",
    "DNS_CHECK",
    "MISC_CHECK",
    "UDP_CHECK",
    "PING_CHECK",
    "FILE_CHECK",
    "BFD_CHECK",
];

/// What checkers take from elsewhere in the file.
pub(super) struct Elsewhere<'a> {
    /// `script_user`.
    pub user: Option<&'a str>,
    /// What is mailed of services and of servers that say nothing themselves.
    pub mail: Mails,
    /// `SSL`: a certificate of our own, and its key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// `track_file NAME`: the file and its weight.
    pub files: BTreeMap<String, (PathBuf, i32)>,
    /// `bfd_instance NAME`.
    pub bfd: BTreeMap<String, bfd::Known>,
    /// `virtual_server_group NAME`.
    pub ranges: BTreeMap<String, Entrances>,
}

/// When and which way is asked: servers inherit it from their service, and checks from their server.
#[derive(Clone)]
pub(super) struct Asking {
    delay_loop: Duration,
    retry: Option<u8>,
    before_retry: Option<Duration>,
    connect: Duration,
    warmup: Option<Duration>,
    way: Way,
}

/// Of a service, a server and a check.
pub(super) const TIMES: [&str; 5] = ["delay_loop", "retry", "delay_before_retry", "connect_timeout", "warmup"];
/// Of a check alone.
const WAYS: [&str; 9] = [
    "alpha",
    "connect_ip",
    "connect_port",
    "bindto",
    "bind_if",
    "bind_port",
    "fwmark",
    "nb_get_retry",
    "log_all_failures",
];

impl Asking {
    pub(super) fn new() -> Self {
        Self {
            delay_loop: Duration::from_secs(60),
            retry: None,
            before_retry: None,
            connect: Duration::from_secs(5),
            warmup: None,
            way: Way::default(),
        }
    }

    /// Takes a line, if it is about times.
    pub(super) fn read(&mut self, line: &Statement, log: &Log) -> bool {
        match line.keyword.text.as_str() {
            "delay_loop" => self.delay_loop = positive(line, log).unwrap_or(self.delay_loop),
            "retry" => self.retry = count(line, 99, log).and_then(|retry| u8::try_from(retry).ok()),
            "delay_before_retry" => self.before_retry = seconds(line, log),
            "connect_timeout" => self.connect = positive(line, log).unwrap_or(self.connect),
            "warmup" => self.warmup = seconds(line, log),
            _ => return false,
        }
        true
    }

    /// Takes a line of a check, if it is about times or the way.
    fn read_own(&mut self, line: &Statement, log: &Log) -> bool {
        check_leaf(line, &WAYS, log);
        let way = &mut self.way;
        match line.keyword.text.as_str() {
            "connect_ip" => way.address = number(line, "an IP address", log),
            "connect_port" => way.port = number(line, "a port", log).filter(|port| *port > 0),
            "bindto" => way.source = number(line, "an IP address", log),
            "bind_port" => way.source_port = number(line, "a port", log).unwrap_or(0),
            "bind_if" => way.interface = argument(line, log).map(|name| name.value),
            "fwmark" => way.mark = number::<NonZeroU32>(line, "a mark", log),
            "nb_get_retry" => self.retry = count(line, 99, log).and_then(|retry| u8::try_from(retry).ok()),
            // Every failure is shown by `service show`; and `alpha` is the server's.
            "log_all_failures" | "alpha" => {}
            _ => return self.read(line, log),
        }
        true
    }

    fn check(&self, probe: Probe, before_retry: Duration) -> Check {
        // TLS and the answer; a greeting, HELO and QUIT.
        let steps = match &probe {
            Probe::Http(http) => 1 + u32::from(http.tls.is_some()),
            Probe::Smtp { .. } => 3,
            Probe::Tcp
            | Probe::Udp { .. }
            | Probe::Dns { .. }
            | Probe::Ping
            | Probe::Script { .. }
            | Probe::File { .. }
            | Probe::Process(_)
            | Probe::Bfd(_) => 0,
        };
        let connect = (steps > 0).then_some(self.connect);
        let again = self.before_retry.unwrap_or(before_retry).min(self.delay_loop);
        Check {
            probe,
            way: Way { connect, ..self.way.clone() },
            interval: self.delay_loop,
            again: if again.is_zero() { Duration::from_millis(10).min(self.delay_loop) } else { again },
            timeout: self.connect * (1 + steps),
            warmup: self.warmup.unwrap_or(self.delay_loop),
            fall: self.retry.unwrap_or(1) + 1,
            rise: 1,
            slow: None,
            loss: None,
        }
    }
}

/// What a checker asks: one check, or several that must all pass.
pub(super) fn read(
    statement: &Statement,
    asking: Asking,
    host: Option<&str>,
    elsewhere: &Elsewhere<'_>,
    log: &Log,
) -> Vec<Check> {
    let one = |check: Option<Check>| check.into_iter().collect();
    match statement.keyword.text.as_str() {
        "TCP_CHECK" => one(plain(statement, Probe::Tcp, asking, log)),
        "PING_CHECK" => one(plain(statement, Probe::Ping, asking, log)),
        "SMTP_CHECK" => smtp_check(statement, asking, log),
        "DNS_CHECK" => one(dns_check(statement, asking, log)),
        "UDP_CHECK" => one(udp_check(statement, asking, log)),
        "MISC_CHECK" => one(misc_check(statement, asking, elsewhere.user, log)),
        "BFD_CHECK" => {
            // The session says at once what it sees: nothing is repeated.
            let asking = Asking { retry: Some(0), connect: asking.delay_loop, way: Way::default(), ..asking };
            let name = bfd::check(statement, &elsewhere.bfd, log);
            one(name.map(|name| asking.check(Probe::Bfd(name), Duration::from_secs(1))))
        }
        "FILE_CHECK" => one(file_check(statement, asking, elsewhere, log)),
        _ => http_get(statement, asking, host, elsewhere, log),
    }
}

/// Every line of a checker: what `own` does not take is about times and the way, or unknown.
fn lines<'a>(
    statement: &'a Statement,
    known: &[&'static str],
    asking: &mut Asking,
    log: &Log,
    mut own: impl FnMut(&'a Statement) -> bool,
) {
    for line in block(statement, log) {
        if !own(line) && !asking.read_own(line, log) {
            unknown(&line.keyword, &[known, &TIMES, &WAYS].concat(), log);
        }
    }
}

fn plain(statement: &Statement, probe: Probe, mut asking: Asking, log: &Log) -> Option<Check> {
    lines(statement, &[], &mut asking, log, |_| false);
    Some(asking.check(probe, Duration::from_secs(1)))
}

/// The old `host` blocks are a check each.
fn smtp_check(statement: &Statement, mut asking: Asking, log: &Log) -> Vec<Check> {
    let mut helo = Some("smtpchecker.keepalived.org".to_owned());
    let mut hosts = Vec::new();
    lines(statement, &["helo_name", "host"], &mut asking, log, |line| {
        match line.keyword.text.as_str() {
            "helo_name" => helo = argument(line, log).and_then(|name| check::helo_name(name, log)),
            "host" => hosts.push(line),
            _ => return false,
        }
        true
    });
    let Some(helo) = helo else { return Vec::new() };
    let each = |host: &Statement| {
        let mut asking = asking.clone();
        lines(host, &[], &mut asking, log, |_| false);
        asking
    };
    let ways: Vec<Asking> = if hosts.is_empty() { vec![asking] } else { hosts.into_iter().map(each).collect() };
    let check = |asking: &Asking| {
        let probe = Probe::Smtp { helo: helo.clone() };
        asking.check(probe, Duration::from_secs(1))
    };
    ways.iter().map(check).collect()
}

/// Three retries, and none sooner than the next check would be.
fn dns_check(statement: &Statement, mut asking: Asking, log: &Log) -> Option<Check> {
    let (mut name, mut record) = (Some(".".to_owned()), Record::Soa);
    lines(statement, &["type", "name"], &mut asking, log, |line| {
        match line.keyword.text.as_str() {
            "type" => record = choice(line, &check::RECORDS, log).unwrap_or(record),
            "name" => name = argument(line, log).and_then(|name| check::domain(name, log)),
            _ => return false,
        }
        true
    });
    asking.retry = asking.retry.or(Some(3));
    Some(asking.check(Probe::Dns { name: name?, record }, asking.delay_loop))
}

fn udp_check(statement: &Statement, mut asking: Asking, log: &Log) -> Option<Check> {
    const KNOWN: [&str; 4] = ["payload", "require_reply", "min_reply_length", "max_reply_length"];
    let (mut payload, mut begins, mut least, mut most) = (Some(None), Some(None), 0, 255);
    let length = |line, default| count(line, 65_507, log).and_then(|n| u16::try_from(n).ok()).unwrap_or(default);
    lines(statement, &KNOWN, &mut asking, log, |line| {
        match line.keyword.text.as_str() {
            "payload" => payload = argument(line, log).and_then(|text| check::hex(&text, log)).map(Some),
            "require_reply" if line.arguments.is_empty() => begins = Some(Some(String::new())),
            "require_reply" => begins = argument(line, log).and_then(|text| check::reply_pattern(&text, log)).map(Some),
            "min_reply_length" => least = length(line, least),
            "max_reply_length" => most = length(line, most),
            _ => return false,
        }
        true
    });
    let probe = Probe::Udp { payload: payload?, reply: begins?.map(|begins| Reply { begins, length: least..=most }) };
    Some(asking.check(probe, Duration::from_secs(1)))
}

/// No retries, and the time that keepalived gives it.
fn misc_check(statement: &Statement, mut asking: Asking, user: Option<&str>, log: &Log) -> Option<Check> {
    const KNOWN: [&str; 4] = ["misc_path", "misc_timeout", "misc_dynamic", "user"];
    let (mut command, mut patience, mut dynamic, mut user) = (None, None, false, user.map(str::to_owned));
    lines(statement, &KNOWN, &mut asking, log, |line| {
        match line.keyword.text.as_str() {
            "misc_path" => command = Some(track::read_command(line, log)),
            "misc_timeout" => patience = positive(line, log),
            "misc_dynamic" => dynamic = truth(line, log),
            "user" => user = track::read_user(line, log),
            _ => return false,
        }
        true
    });
    let Some(command) = command else {
        log.add(Diagnostic::error(&statement.keyword.place, "`MISC_CHECK` needs `misc_path`"));
        return None;
    };
    asking.retry = asking.retry.or(Some(0));
    asking.connect = patience.unwrap_or(asking.delay_loop);
    let probe = Probe::Script { command: command?, user, dynamic };
    Some(asking.check(probe, Duration::from_secs(1)))
}

/// keepalived hears of a change of the file; here it is read as often as servers are asked.
fn file_check(statement: &Statement, mut asking: Asking, elsewhere: &Elsewhere<'_>, log: &Log) -> Option<Check> {
    let (mut file, mut weight) = (None, None);
    lines(statement, &["track_file", "weight", "dynamic"], &mut asking, log, |line| {
        match line.keyword.text.as_str() {
            "track_file" => file = argument(line, log),
            "weight" => weight = file_weight(&line.keyword, &line.arguments, log),
            "dynamic" => {}
            _ => return false,
        }
        true
    });
    let Some(file) = file else {
        log.add(Diagnostic::error(&statement.keyword.place, "`FILE_CHECK` needs `track_file`"));
        return None;
    };
    let Some((path, own)) = elsewhere.files.get(&file.value) else {
        log.add(Diagnostic::error(&file.place, format!("there is no `track_file {}`", file.value)));
        return None;
    };
    asking.retry = asking.retry.or(Some(0));
    let probe = Probe::File { path: path.clone(), weight: weight.unwrap_or(*own) };
    Some(asking.check(probe, Duration::from_secs(1)))
}

/// `N [reverse|noreverse]`.
pub(super) fn file_weight(keyword: &Word, words: &[Word], log: &Log) -> Option<i32> {
    let number = |word: &Word| word.text.parse::<i32>().ok().filter(|n| n.unsigned_abs() <= 65_535);
    let weight = match words {
        [weight] => number(weight),
        [weight, word] if word.text == "reverse" => number(weight).map(|weight| -weight),
        [weight, word] if word.text == "noreverse" => number(weight),
        _ => None,
    };
    if weight.is_none() {
        log.add(Diagnostic::error(&keyword.place, "`weight` is a number from -65535 to 65535, and `reverse` or not"));
    }
    weight
}

/// Reads `SSL`: what we show a server that asks who we are. keepalived verifies nobody with its `ca`.
pub(super) fn ssl(statement: &Statement, log: &Log) -> Option<(PathBuf, PathBuf)> {
    const KNOWN: [&str; 3] = ["ca", "certificate", "key"];
    let (mut certificate, mut key) = (None, None);
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "ca" => {
                let message = "`ca` verifies nobody, as in keepalived";
                let help = "cluster.toml has `ca` for checks that verify the server's certificate";
                log.add(Diagnostic::warning(&line.keyword.place, message).help(help));
            }
            "certificate" => certificate = argument(line, log).map(|file| file.value.into()),
            "key" => key = argument(line, log).map(|file| file.value.into()),
            "password" => {
                let message = "a key with a password is not supported by this version";
                log.add(Diagnostic::error(&line.keyword.place, message).help("`openssl pkey` takes it off"));
            }
            _ => unknown(&line.keyword, &KNOWN, log),
        }
    }
    if let (Some(_), None) | (None, Some(_)) = (&certificate, &key) {
        let message = "`certificate` and `key` are shown together, or neither: give the other one too";
        log.add(Diagnostic::warning(&statement.keyword.place, message));
    }
    certificate.zip(key)
}

/// A flag, or a flag with a truth value.
pub(super) fn truth(line: &Statement, log: &Log) -> bool {
    match line.arguments.first().map_or("true", |word| word.text.as_str()) {
        "true" | "on" | "yes" => true,
        "false" | "off" | "no" => false,
        _ => {
            log.add(Diagnostic::error(&line.keyword.place, format!("`{}` is true or false", line.keyword.text)));
            false
        }
    }
}
