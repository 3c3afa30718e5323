//! `virtual_server` and `real_server`, with keepalived's defaults: each is a service behind the VIP group that has its address.
//!
//! A check that fails is repeated `retry` times, `delay_before_retry` apart, and one that succeeds makes a server up:
//! `fall` is `retry` + 1, `rise` is 1. Two things differ: keepalived counts the time between two checks from the end of the
//! first, and takes a server out at the first failure after its own start. And an answer is not waited for beyond the next check.

use super::super::check::{self, Check, Probe, Record};
use super::super::duration;
use super::super::service::{self, Server};
use super::syntax::{Statement, Word};
use super::{argument, block, check_leaf, unknown};
use crate::config::diagnostic::{Diagnostic, Located, Log, Place, nearest};
use crate::config::group;
use crate::ipvs::{Checksum, Forwarding, Protocol, SCHEDULERS, Tunnel};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What keepalived persists for where a service asks for it without a time.
const PERSISTENCE: Duration = Duration::from_secs(360);

/// The times of checks, which servers and checks inherit.
#[derive(Clone, Copy)]
struct Times {
    delay_loop: Duration,
    retry: Option<u8>,
    before_retry: Option<Duration>,
    connect: Duration,
}

const TIMES: [&str; 5] = ["delay_loop", "retry", "delay_before_retry", "connect_timeout", "warmup"];

impl Times {
    const DEFAULT: Self =
        Self { delay_loop: Duration::from_secs(60), retry: None, before_retry: None, connect: Duration::from_secs(5) };

    /// Takes a line, if it is about times.
    fn read(&mut self, line: &Statement, log: &Log) -> bool {
        match line.keyword.text.as_str() {
            "delay_loop" => self.delay_loop = positive(line, log).unwrap_or(self.delay_loop),
            "retry" => self.retry = count(line, 99, log).and_then(|retry| u8::try_from(retry).ok()),
            "delay_before_retry" => self.before_retry = seconds(line, log),
            "connect_timeout" => self.connect = positive(line, log).unwrap_or(self.connect),
            // First checks are spread over the interval in any case.
            "warmup" => drop(seconds(line, log)),
            _ => return false,
        }
        true
    }

    fn check(&self, probe: Probe, before_retry: Duration, place: &Place, log: &Log) -> Check {
        if self.connect > self.delay_loop {
            let (asked, used) = (duration::show(self.connect), duration::show(self.delay_loop));
            let message = format!("a check every {used} does not wait {asked} for an answer: {used} is its timeout");
            log.add(Diagnostic::warning(place, message));
        }
        let again = self.before_retry.unwrap_or(before_retry).min(self.delay_loop);
        Check {
            probe,
            interval: self.delay_loop,
            again: if again.is_zero() { Duration::from_millis(10).min(self.delay_loop) } else { again },
            timeout: self.connect.min(self.delay_loop),
            fall: self.retry.unwrap_or(1) + 1,
            rise: 1,
        }
    }
}

/// Reads `virtual_server IP PORT { ... }`; `None` when it has no name.
pub(super) fn virtual_server(statement: &Statement, groups: &[group::Draft], log: &Log) -> Option<service::Draft> {
    const KNOWN: [&str; 13] = [
        "protocol",
        "lvs_sched",
        "lb_algo",
        "lvs_method",
        "lb_kind",
        "persistence_timeout",
        "quorum",
        "hysteresis",
        "sorry_server",
        "inhibit_on_failure",
        "virtualhost",
        "ip_family",
        "real_server",
    ];
    let listen = endpoint(statement, log)?;
    // The historic default; UDP services are few, so it is said.
    let (mut protocol, mut scheduler, mut forwarding) = (None, "wlc", Forwarding::Nat);
    let (mut persistence, mut quorum, mut hysteresis, mut sorry) = (None, 1, 0, None);
    let (mut inhibit, mut host, mut times) = (false, None, Times::DEFAULT);
    let lines = block(statement, log);
    for line in lines.iter().filter(|line| line.keyword.text != "real_server") {
        match line.keyword.text.as_str() {
            "protocol" => protocol = choice(line, &PROTOCOLS, log),
            "lvs_sched" | "lb_algo" => {
                scheduler = choice(line, &SCHEDULERS.map(|name| (name, name)), log).unwrap_or(scheduler);
            }
            "lvs_method" | "lb_kind" => forwarding = method(line, log).unwrap_or(forwarding),
            "persistence_timeout" if line.arguments.is_empty() => persistence = Some(PERSISTENCE),
            "persistence_timeout" => persistence = whole(line, log),
            "quorum" => quorum = count(line, 1_000_000_000, log).unwrap_or(quorum),
            "hysteresis" => hysteresis = count(line, 1_000_000_000, log).unwrap_or(hysteresis),
            "sorry_server" => sorry = endpoint(line, log),
            "inhibit_on_failure" => inhibit = true,
            "virtualhost" => host = argument(line, log).map(|host| host.value),
            "ip_family" => drop(choice(line, &[("inet", ()), ("inet6", ())], log)),
            _ if times.read(line, log) => {}
            _ => unknown(&line.keyword, &[KNOWN.as_slice(), TIMES.as_slice()].concat(), log),
        }
        check_leaf(line, &KNOWN, log);
    }
    let protocol = protocol.unwrap_or_else(|| {
        let message = "without `protocol` this is a UDP service, as in keepalived";
        log.add(Diagnostic::warning(&statement.keyword.place, message));
        Protocol::Udp
    });
    let inherited = Inherited { forwarding, inhibit, host, times };
    let servers = lines.iter().filter(|line| line.keyword.text == "real_server");
    let servers: Vec<_> = servers.filter_map(|line| real_server(line, &inherited, log)).collect();
    let vip = behind(&listen, groups, log);
    Some(service::Draft {
        name: Located {
            value: format!("{}/{}", listen.value, protocol.to_string().to_lowercase()),
            place: listen.place.clone(),
        },
        vip,
        listen: Some(listen),
        protocol,
        scheduler,
        servers: service::distinct(servers.into_iter(), log),
        persistence,
        sorry_server: sorry.map(|sorry| (sorry.value, forwarding)),
        quorum,
        hysteresis,
        min_up: 0,
    })
}

/// The VIP group with the address: hamesh balances only what it holds.
fn behind(listen: &Located<SocketAddr>, groups: &[group::Draft], log: &Log) -> Option<Located<String>> {
    let has = |group: &&group::Draft| group.addresses.iter().any(|address| address.value.0 == listen.value.ip());
    let group = groups.iter().find(has);
    if group.is_none() {
        let message = format!("`{}` is no virtual_ipaddress of a vrrp_instance", listen.value.ip());
        let help = "hamesh balances only behind an address that it holds: give it to a vrrp_instance";
        log.add(Diagnostic::error(&listen.place, message).help(help));
    }
    group.map(|group| group.name.clone())
}

/// What servers have from their service.
struct Inherited {
    forwarding: Forwarding,
    inhibit: bool,
    host: Option<String>,
    times: Times,
}

fn real_server(statement: &Statement, inherited: &Inherited, log: &Log) -> Option<Located<Server>> {
    const KNOWN: [&str; 11] = [
        "weight",
        "inhibit_on_failure",
        "uthreshold",
        "lthreshold",
        "lvs_method",
        "lb_kind",
        "virtualhost",
        "TCP_CHECK",
        "HTTP_GET",
        "SMTP_CHECK",
        "DNS_CHECK",
    ];
    let address = endpoint(statement, log)?;
    let Inherited { mut forwarding, mut inhibit, mut host, mut times } =
        Inherited { host: inherited.host.clone(), ..*inherited };
    let (mut weight, mut upper, mut lower) = (1, 0, 0);
    let mut checks = Vec::new();
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "weight" => weight = count(line, 65_535, log).unwrap_or(weight),
            "inhibit_on_failure" => inhibit = true,
            "uthreshold" => upper = count(line, 1_000_000_000, log).unwrap_or(upper),
            "lthreshold" => lower = count(line, 1_000_000_000, log).unwrap_or(lower),
            "lvs_method" | "lb_kind" => forwarding = method(line, log).unwrap_or(forwarding),
            "virtualhost" => host = argument(line, log).map(|host| host.value),
            "TCP_CHECK" | "HTTP_GET" | "SMTP_CHECK" | "DNS_CHECK" => {
                checks.push(line);
                continue;
            }
            _ if times.read(line, log) => {}
            _ => unknown(&line.keyword, &[KNOWN.as_slice(), TIMES.as_slice()].concat(), log),
        }
        check_leaf(line, &KNOWN, log);
    }
    if let [_, second, ..] = checks.as_slice() {
        let message = "a second check of one server is not supported by this version";
        log.add(Diagnostic::error(&second.keyword.place, message));
    }
    let check = checks.first().and_then(|line| match line.keyword.text.as_str() {
        "TCP_CHECK" => tcp_check(line, times, log),
        "SMTP_CHECK" => smtp_check(line, times, log),
        "DNS_CHECK" => dns_check(line, times, log),
        _ => http_get(line, times, host, log),
    });
    let server = Server {
        address: address.value,
        weight,
        forwarding,
        check,
        inhibit_on_failure: inhibit,
        upper,
        lower: lower.min(upper),
    };
    Some(Located { value: server, place: address.place })
}

fn tcp_check(statement: &Statement, mut times: Times, log: &Log) -> Option<Check> {
    for line in block(statement, log) {
        if !times.read(line, log) {
            unknown(&line.keyword, &TIMES, log);
        }
    }
    Some(times.check(Probe::Tcp, Duration::from_secs(1), &statement.keyword.place, log))
}

fn smtp_check(statement: &Statement, mut times: Times, log: &Log) -> Option<Check> {
    let mut helo = Some("smtpchecker.keepalived.org".to_owned());
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "helo_name" => helo = argument(line, log).and_then(|name| check::helo_name(name, log)),
            _ if times.read(line, log) => {}
            _ => unknown(&line.keyword, &[["helo_name"].as_slice(), TIMES.as_slice()].concat(), log),
        }
    }
    Some(times.check(Probe::Smtp { helo: helo? }, Duration::from_secs(1), &statement.keyword.place, log))
}

/// Three retries, and none sooner than the next check would be.
fn dns_check(statement: &Statement, mut times: Times, log: &Log) -> Option<Check> {
    const KNOWN: [&str; 2] = ["type", "name"];
    let (mut name, mut record) = (Some(".".to_owned()), Record::Soa);
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "type" => record = choice(line, &check::RECORDS, log).unwrap_or(record),
            "name" => name = argument(line, log).and_then(|name| check::domain(name, log)),
            _ if times.read(line, log) => {}
            _ => unknown(&line.keyword, &[KNOWN.as_slice(), TIMES.as_slice()].concat(), log),
        }
    }
    times.retry = times.retry.or(Some(3));
    Some(times.check(Probe::Dns { name: name?, record }, times.delay_loop, &statement.keyword.place, log))
}

fn http_get(statement: &Statement, mut times: Times, mut host: Option<String>, log: &Log) -> Option<Check> {
    const KNOWN: [&str; 3] = ["url", "http_protocol", "virtualhost"];
    let mut urls = Vec::new();
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "url" => urls.push(line),
            // Ours is always 1.1, which every server that speaks 1.0 understands.
            "http_protocol" => drop(choice(line, &[("1.0", ()), ("1.0C", ()), ("1.1", ())], log)),
            "virtualhost" => host = argument(line, log).map(|host| host.value),
            _ if times.read(line, log) => {}
            _ => unknown(&line.keyword, &[KNOWN.as_slice(), TIMES.as_slice()].concat(), log),
        }
    }
    match urls.as_slice() {
        [] => {
            log.add(Diagnostic::error(&statement.keyword.place, "`HTTP_GET` needs a `url`"));
            None
        }
        [url] => {
            let probe = read_url(url, host, log)?;
            Some(times.check(probe, Duration::from_secs(3), &statement.keyword.place, log))
        }
        [_, second, ..] => {
            let message = "a second `url` of one check is not supported by this version";
            log.add(Diagnostic::error(&second.keyword.place, message));
            None
        }
    }
}

fn read_url(statement: &Statement, mut host: Option<String>, log: &Log) -> Option<Probe> {
    const KNOWN: [&str; 3] = ["path", "status_code", "virtualhost"];
    let (mut path, mut status) = (None, vec![200..=299]);
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "path" => path = argument(line, log),
            "virtualhost" => host = argument(line, log).map(|host| host.value),
            "status_code" => {
                let range = |word: &Word| {
                    let range = check::status_range(&word.text);
                    if range.is_none() {
                        let message = format!("`{}` is no range of HTTP status codes", word.text);
                        log.add(Diagnostic::error(&word.place, message).help("for example 200 or 200-299"));
                    }
                    range
                };
                status = line.arguments.iter().filter_map(range).collect();
                if line.arguments.is_empty() {
                    log.add(Diagnostic::error(&line.keyword.place, "`status_code` needs a value"));
                }
            }
            _ => unknown(&line.keyword, &KNOWN, log),
        }
        check_leaf(line, &KNOWN, log);
    }
    let Some(path) = path else {
        log.add(Diagnostic::error(&statement.keyword.place, "`url` needs a `path`"));
        return None;
    };
    if !path.value.starts_with('/') {
        log.add(Diagnostic::error(&path.place, "the path of an HTTP check begins with `/`"));
    }
    Some(Probe::Http { path: path.value, host, status })
}

const PROTOCOLS: [(&str, Protocol); 3] = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];

/// `NAT`, `DR`, or `TUN [type ipip|gue port N|gre] [nocsum|csum|remcsum]`.
fn method(statement: &Statement, log: &Log) -> Option<Forwarding> {
    let mut words = statement.arguments.iter();
    let kind = words.next();
    let fault = |message: &str| {
        let place = kind.map_or(&statement.keyword.place, |word| &word.place);
        log.add(Diagnostic::error(place, message));
        None
    };
    let forwarding = match kind.map(|word| word.text.as_str()) {
        Some("NAT") => Forwarding::Nat,
        Some("DR") => Forwarding::Direct,
        Some("TUN") => {
            let (mut tunnel, mut port, mut checksum) = ("ipip", None, Checksum::None);
            while let Some(word) = words.next() {
                match word.text.as_str() {
                    "type" => tunnel = words.next().map_or("", |word| word.text.as_str()),
                    "port" => port = words.next().and_then(|word| word.text.parse().ok()).filter(|port| *port > 0),
                    "nocsum" => checksum = Checksum::None,
                    "csum" => checksum = Checksum::Full,
                    "remcsum" => checksum = Checksum::Remote,
                    _ => return fault("a tunnel is `TUN [type ipip|gue port N|gre] [nocsum|csum|remcsum]`"),
                }
            }
            match (tunnel, port) {
                ("ipip", None) => Forwarding::Tunnel(Tunnel::Ipip),
                ("gue", Some(port)) => Forwarding::Tunnel(Tunnel::Gue { port, checksum }),
                ("gre", None) if checksum != Checksum::Remote => Forwarding::Tunnel(Tunnel::Gre { checksum }),
                _ => return fault("a tunnel is `TUN [type ipip|gue port N|gre] [nocsum|csum|remcsum]`"),
            }
        }
        Some(_) | None => return fault("the method is NAT, DR or TUN"),
    };
    if let Some(more) = words.next() {
        log.add(Diagnostic::error(&more.place, format!("`{}` takes no `{}` here", statement.keyword.text, more.text)));
    }
    Some(forwarding)
}

/// `IP PORT`.
fn endpoint(statement: &Statement, log: &Log) -> Option<Located<SocketAddr>> {
    let keyword = &statement.keyword;
    match statement.arguments.as_slice() {
        [kind, ..] if matches!(kind.text.as_str(), "fwmark" | "group") => {
            let message = format!("`{} {}` is not supported by this version", keyword.text, kind.text);
            log.add(Diagnostic::error(&kind.place, message));
            None
        }
        [ip, port] => match (ip.text.parse::<IpAddr>(), port.text.parse::<u16>()) {
            (Ok(address), Ok(port)) => Some(Located { value: (address, port).into(), place: ip.place.clone() }),
            (Err(_), _) => {
                log.add(Diagnostic::error(&ip.place, format!("`{}` is not an IP address", ip.text)));
                None
            }
            (Ok(_), Err(_)) => {
                log.add(Diagnostic::error(&port.place, format!("`{}` is not a port", port.text)));
                None
            }
        },
        _ => {
            log.add(Diagnostic::error(&keyword.place, format!("`{}` needs an address and a port", keyword.text)));
            None
        }
    }
}

fn choice<T: Copy>(statement: &Statement, among: &[(&'static str, T)], log: &Log) -> Option<T> {
    let word = argument(statement, log)?;
    let found = among.iter().find(|(name, _)| *name == word.value);
    if found.is_none() {
        let names: Vec<&str> = among.iter().map(|(name, _)| *name).collect();
        let message = format!("`{}` is one of {}", statement.keyword.text, names.join(", "));
        let meant = nearest(&word.value, among.iter().map(|(name, _)| *name));
        log.add(Diagnostic::error(&word.place, message).did_you_mean(meant));
    }
    found.map(|(_, value)| *value)
}

fn count(statement: &Statement, most: u32, log: &Log) -> Option<u32> {
    let word = argument(statement, log)?;
    let number = word.value.parse().ok().filter(|number| *number <= most);
    if number.is_none() {
        log.add(Diagnostic::error(&word.place, format!("`{}` must be between 0 and {most}", statement.keyword.text)));
    }
    number
}

fn seconds(statement: &Statement, log: &Log) -> Option<Duration> {
    let word = argument(statement, log)?;
    let seconds = duration::seconds(&word.value);
    if let Err(reason) = &seconds {
        let message = format!("`{}` is not a number of seconds: {reason}", statement.keyword.text);
        log.add(Diagnostic::error(&word.place, message));
    }
    seconds.ok()
}

/// IPVS keeps clients for whole seconds.
fn whole(statement: &Statement, log: &Log) -> Option<Duration> {
    let duration = positive(statement, log);
    if duration.is_some_and(|duration| duration.subsec_nanos() != 0) {
        let message = format!("`{}` must be whole seconds", statement.keyword.text);
        log.add(Diagnostic::error(&statement.keyword.place, message));
    }
    duration
}

fn positive(statement: &Statement, log: &Log) -> Option<Duration> {
    let seconds = seconds(statement, log);
    if seconds.is_some_and(|seconds| seconds.is_zero()) {
        let message = format!("`{}` must be above 0", statement.keyword.text);
        log.add(Diagnostic::error(&statement.keyword.place, message));
    }
    seconds.filter(|seconds| !seconds.is_zero())
}
