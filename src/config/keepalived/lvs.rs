//! `virtual_server` and `real_server`, with keepalived's defaults: each is a service behind the VIP group that has its address.

use super::super::service::{self, Server};
use super::checks::{self, Asking, CHECKERS, Elsewhere, TIMES};
use super::entrances::{behind, entrances};
use super::notify::command;
use super::syntax::Statement;
use super::{argument, block, check_leaf, flag, unknown};
use crate::config::diagnostic::{Diagnostic, Located, Log, Place, nearest};
use crate::config::duration;
use crate::config::{group, sync};
use crate::ipvs::{Checksum, Forwarding, Protocol, SCHEDULERS, SchedulerFlags, Tunnel};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// What keepalived persists for where a service asks for it without a time.
const PERSISTENCE: Duration = Duration::from_secs(360);

/// Reads `virtual_server IP PORT { ... }`; `None` when it has no name.
pub(super) fn virtual_server(
    statement: &Statement,
    (groups, syncs): (&[group::Draft], &[sync::Draft]),
    elsewhere: &Elsewhere<'_>,
    log: &Log,
) -> Option<service::Draft> {
    const KNOWN: [&str; 25] = [
        "weight",
        "smtp_alert",
        "alpha",
        "omega",
        "ha_suspend",
        "sorry_server_inhibit",
        "ops",
        "persistence_granularity",
        "persistence_engine",
        "quorum_up",
        "quorum_down",
        "sorry_server_lvs_method",
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
    let (name, mut entrances) = entrances(statement, elsewhere, log)?;
    // The historic default; UDP services are few, so it is said.
    let (mut protocol, mut scheduler, mut forwarding) = (None, "wlc", Forwarding::Nat);
    let (mut persistence, mut sorry) = (None, None);
    let unsaid = |value| Located { value, place: statement.keyword.place.clone() };
    let (mut quorum, mut hysteresis) = (unsaid(1), unsaid(0));
    let (mut inhibit, mut host, mut asking) = (false, None, Asking::new());
    let (mut flags, mut one_packet, mut granularity, mut engine) = (SchedulerFlags::default(), None, None, None);
    let (mut six, mut weight) = (None, 1);
    let (mut alpha, mut quorum_up, mut quorum_down, mut sorry_method) = (false, None, None, None);
    let (mut omega, mut ha_suspend, mut sorry_server_inhibit) = (false, false, false);
    let mut mail = elsewhere.mail.services;
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
            "weight" => weight = count(line, 65_535, log).unwrap_or(weight),
            "quorum" => quorum = weights(line, log).unwrap_or(quorum),
            "hysteresis" => hysteresis = weights(line, log).unwrap_or(hysteresis),
            "sorry_server" => sorry = endpoint(line, log),
            "sorry_server_lvs_method" => sorry_method = method(line, log),
            "sorry_server_inhibit" => sorry_server_inhibit = true,
            "alpha" => alpha = checks::truth(line, log),
            "omega" => omega = checks::truth(line, log),
            "ha_suspend" => ha_suspend = true,
            "ops" => one_packet = Some(&line.keyword.place),
            "persistence_granularity" => {
                granularity = argument(line, log).and_then(|text| service::granularity(&text, log));
            }
            "persistence_engine" => engine = choice(line, &service::ENGINES, log),
            "quorum_up" => quorum_up = command(line, elsewhere.user, log),
            "quorum_down" => quorum_down = command(line, elsewhere.user, log),
            "smtp_alert" => mail = flag(line, log),
            flag if service::FLAGS.iter().any(|(name, _)| *name == flag) => {
                service::FLAGS.iter().filter(|(name, _)| *name == flag).for_each(|(_, set)| set(&mut flags));
            }
            "inhibit_on_failure" => inhibit = true,
            "virtualhost" => host = argument(line, log).map(|host| host.value),
            "ip_family" => six = choice(line, &service::FAMILIES, log),
            _ if asking.read(line, log) => {}
            _ => unknown(&line.keyword, &[KNOWN.as_slice(), TIMES.as_slice()].concat(), log),
        }
        check_leaf(line, &KNOWN, log);
    }
    let protocol = match protocol {
        // Marked packets are of any, and only those of UDP are balanced one by one.
        _ if entrances.listen.is_empty() && one_packet.is_some() => Protocol::Udp,
        None if entrances.listen.is_empty() => Protocol::Tcp,
        None => {
            let message = "without `protocol` this is a UDP service, as in keepalived";
            log.add(Diagnostic::warning(&statement.keyword.place, message));
            Protocol::Udp
        }
        Some(protocol) => protocol,
    };
    let port = service::one_port(&entrances.listen, &entrances.mark);
    let inherited = Inherited { port, weight, forwarding, inhibit, alpha, host, asking };
    let servers = lines.iter().filter(|line| line.keyword.text == "real_server");
    let servers: Vec<_> = servers.filter_map(|line| real_server(line, &inherited, elsewhere, log)).collect();
    if granularity.is_some() || entrances.listen.iter().any(|at| at.value.port() == 0) {
        persistence = persistence.or(Some(PERSISTENCE));
    }
    if let (Some(six), true) = (six, entrances.listen.is_empty()) {
        entrances.mark.iter_mut().for_each(|mark| mark.value.1 = Some(six));
    }
    let twice = |place: &Place, it: String| Diagnostic::warning(place, it + ": the first counts, as with keepalived");
    let servers = service::distinct(servers.into_iter(), twice, log);
    let (quorum, hysteresis) = within_reach(&quorum, &hysteresis, &servers, log);
    if let Some(place) = one_packet.filter(|_| protocol != Protocol::Udp) {
        log.add(Diagnostic::warning(place, "`ops` is for UDP: it is ignored, as by keepalived"));
        one_packet = None;
    }
    let vip = behind(&entrances, &name.place, groups, syncs, log);
    Some(service::Draft {
        name: Located {
            value: match entrances.mark.is_empty() {
                true => format!("{}/{}", name.value, protocol.to_string().to_lowercase()),
                false => name.value,
            },
            place: name.place,
        },
        vip,
        listen: entrances.listen,
        mark: entrances.mark,
        protocol,
        scheduler,
        flags,
        one_packet: one_packet.is_some(),
        servers,
        persistence,
        granularity,
        engine,
        drain: None,
        slow_start: Duration::ZERO,
        quorum_up,
        quorum_down,
        mail,
        sorry_server: sorry.map(|sorry| {
            let method = sorry_method.unwrap_or(forwarding);
            with_port(sorry, method, port, log).map(|at| (at, method))
        }),
        sorry_server_inhibit,
        omega,
        ha_suspend,
        quorum,
        hysteresis,
        min_up: 0,
    })
}

fn weights(line: &Statement, log: &Log) -> Option<Located<u32>> {
    Some(Located { value: count(line, 1_000_000_000, log)?, place: line.keyword.place.clone() })
}

/// A quorum that the servers can reach, and a hysteresis that lets it be lost.
fn within_reach(
    quorum: &Located<u32>,
    hysteresis: &Located<u32>,
    servers: &[Located<Server>],
    log: &Log,
) -> (u32, u32) {
    let all: u32 = servers.iter().map(|server| server.value.weight).fold(0, u32::saturating_add);
    let reached = quorum.value.clamp(1, all.max(1));
    if reached != quorum.value {
        let message = format!("a quorum of {} cannot be: it is {reached}, as with keepalived", quorum.value);
        let help = format!("the weights of the servers are {all} together");
        log.add(Diagnostic::warning(&quorum.place, message).help(help));
    }
    let lost = hysteresis.value.min(reached - 1);
    if lost != hysteresis.value {
        let message = format!(
            "a hysteresis of {} does not let a quorum of {reached} be lost: it is {lost}, as with keepalived",
            hysteresis.value
        );
        log.add(Diagnostic::warning(&hysteresis.place, message));
    }
    (reached, lost)
}

/// What servers have from their service.
struct Inherited {
    port: Option<u16>,
    weight: u32,
    forwarding: Forwarding,
    inhibit: bool,
    alpha: bool,
    host: Option<String>,
    asking: Asking,
}

fn real_server(
    statement: &Statement,
    inherited: &Inherited,
    elsewhere: &Elsewhere<'_>,
    log: &Log,
) -> Option<Located<Server>> {
    const KNOWN: [&str; 11] = [
        "smtp_alert",
        "alpha",
        "notify_up",
        "notify_down",
        "weight",
        "inhibit_on_failure",
        "uthreshold",
        "lthreshold",
        "lvs_method",
        "lb_kind",
        "virtualhost",
    ];
    let address = endpoint(statement, log)?;
    let Inherited { mut forwarding, mut inhibit, mut alpha, .. } = *inherited;
    let (mut notify_up, mut notify_down, mut mail) = (None, None, elsewhere.mail.servers);
    let (mut host, mut asking) = (inherited.host.clone(), inherited.asking.clone());
    let (mut weight, mut upper, mut lower) = (inherited.weight, 0, 0);
    let mut checks = Vec::new();
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "weight" => weight = count(line, 65_535, log).unwrap_or(weight),
            "inhibit_on_failure" => inhibit = true,
            "alpha" => alpha = checks::truth(line, log),
            "notify_up" => notify_up = command(line, elsewhere.user, log),
            "notify_down" => notify_down = command(line, elsewhere.user, log),
            "smtp_alert" => mail = flag(line, log),
            "uthreshold" => upper = count(line, 1_000_000_000, log).unwrap_or(upper),
            "lthreshold" => lower = count(line, 1_000_000_000, log).unwrap_or(lower),
            "lvs_method" | "lb_kind" => forwarding = method(line, log).unwrap_or(forwarding),
            "virtualhost" => host = argument(line, log).map(|host| host.value),
            checker if CHECKERS.contains(&checker) => {
                alpha |= line.block.iter().flatten().any(|line| line.keyword.text == "alpha");
                checks.push(line);
                continue;
            }
            _ if asking.read(line, log) => {}
            _ => unknown(&line.keyword, &[KNOWN.as_slice(), &TIMES, &CHECKERS].concat(), log),
        }
        check_leaf(line, &KNOWN, log);
    }
    let all = checks.iter().flat_map(|line| checks::read(line, asking.clone(), host.as_deref(), elsewhere, log));
    let checks = all.collect();
    let address = with_port(address, forwarding, inherited.port, log);
    let server = Server {
        address: address.value,
        weight,
        forwarding,
        checks,
        inhibit_on_failure: inhibit,
        upper,
        lower: lower.min(upper),
        alpha,
        notify_up,
        notify_down,
        mail,
    };
    Some(Located { value: server, place: address.place })
}

/// Without a port a server has its service's; and only NAT leads to another.
fn with_port(at: Located<SocketAddr>, forwarding: Forwarding, port: Option<u16>, log: &Log) -> Located<SocketAddr> {
    let own = at.value.port();
    let Some(port) = port.filter(|port| own != *port && (own == 0 || forwarding != Forwarding::Nat)) else { return at };
    if own > 0 {
        let message = format!("only NAT changes a port: that of `{}` is {port}, as with keepalived", at.value);
        log.add(Diagnostic::warning(&at.place, message).help("a check may have another: `connect_port`"));
    }
    at.map(|at| SocketAddr::new(at.ip(), port))
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

/// `IP [PORT]`.
pub(super) fn endpoint(statement: &Statement, log: &Log) -> Option<Located<SocketAddr>> {
    let keyword = &statement.keyword;
    match statement.arguments.as_slice() {
        // Every port of a persistent service, or that of the packet.
        [ip] => match ip.text.parse::<IpAddr>() {
            Ok(address) => Some(Located { value: (address, 0).into(), place: ip.place.clone() }),
            Err(_) => {
                log.add(Diagnostic::error(&ip.place, format!("`{}` is not an IP address", ip.text)));
                None
            }
        },
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

pub(super) fn choice<T: Copy>(statement: &Statement, among: &[(&'static str, T)], log: &Log) -> Option<T> {
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

pub(super) fn count(statement: &Statement, most: u32, log: &Log) -> Option<u32> {
    let word = argument(statement, log)?;
    let number = word.value.parse().ok().filter(|number| *number <= most);
    if number.is_none() {
        log.add(Diagnostic::error(&word.place, format!("`{}` must be between 0 and {most}", statement.keyword.text)));
    }
    number
}

/// An address, a port, or another thing that a word says.
pub(super) fn number<T: FromStr>(statement: &Statement, what: &str, log: &Log) -> Option<T> {
    let word = argument(statement, log)?;
    let value = word.value.parse().ok();
    if value.is_none() {
        log.add(Diagnostic::error(&word.place, format!("`{}` is not {what}", word.value)));
    }
    value
}

pub(super) fn seconds(statement: &Statement, log: &Log) -> Option<Duration> {
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

pub(super) fn positive(statement: &Statement, log: &Log) -> Option<Duration> {
    let seconds = seconds(statement, log);
    if seconds.is_some_and(|seconds| seconds.is_zero()) {
        let message = format!("`{}` must be above 0", statement.keyword.text);
        log.add(Diagnostic::error(&statement.keyword.place, message));
    }
    seconds.filter(|seconds| !seconds.is_zero())
}
