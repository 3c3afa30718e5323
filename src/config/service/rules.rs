//! The rules within a service, and between it, the VIP groups and who is told.

use super::{Draft, Mark, Service, one_port};
use crate::config::diagnostic::{Diagnostic, Located, Log, Place, nearest};
use crate::config::group;
use crate::config::notify::{Notifications, mailed_to_nobody};
use crate::ipvs::{Forwarding, Granularity, Protocol, ServiceKey};
use hamesh_raft::command::Family;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// All of them, by their names.
pub(in crate::config) fn build(
    drafts: Vec<Draft>,
    groups: &[group::Draft],
    notifications: &Notifications,
    log: &Log,
) -> BTreeMap<String, Service> {
    check_twins(&drafts, log);
    drafts.into_iter().filter_map(|draft| build_one(draft, groups, notifications, log)).collect()
}

/// Two services with one entrance would be one to IPVS, and with one name one to us.
fn check_twins(drafts: &[Draft], log: &Log) {
    let (mut names, mut entrances) = (BTreeMap::new(), BTreeMap::new());
    for (i, draft) in drafts.iter().enumerate() {
        let mut twins = 0;
        for Located { value: key, place } in keys(draft) {
            let (first, there) = entrances.entry(key).or_insert_with(|| (i, place.clone()));
            if *first != i {
                twins += 1;
                let error = Diagnostic::error(&place, format!("`{key}` is balanced by another service already"));
                log.add(error.see(there, "here").help("give all its servers to one of them"));
            }
        }
        let Located { value: name, place } = &draft.name;
        if let (Some(there), 0) = (names.insert(name, place), twins) {
            let error = Diagnostic::error(place, format!("there are two services `{name}`"));
            log.add(error.see(there, "the other one"));
        }
    }
}

/// What a service takes.
fn keys(draft: &Draft) -> Vec<Located<ServiceKey>> {
    let family = family(draft);
    let address = |at: SocketAddr| ServiceKey::Address(draft.protocol, at.into());
    let mark = |(mark, own): Mark| ServiceKey::Mark(mark, own.unwrap_or(family));
    let addresses = draft.listen.iter().map(|at| at.clone().map(address));
    addresses.chain(draft.mark.iter().map(|at| at.clone().map(mark))).collect()
}

/// Every server, the sorry server last, and the way there.
fn ways(draft: &Draft) -> impl Iterator<Item = (SocketAddr, Forwarding, &Place)> {
    let servers = draft.servers.iter().map(|server| (server.value.address, server.value.forwarding, &server.place));
    servers.chain(draft.sorry_server.iter().map(|sorry| (sorry.value.0, sorry.value.1, &sorry.place)))
}

/// That of marked packets, where nothing is said: their servers', of which only those behind a tunnel may have another.
fn family(draft: &Draft) -> Family {
    let plain = ways(draft).find(|(_, forwarding, _)| !matches!(forwarding, Forwarding::Tunnel(_)));
    let bound = plain.map(|(at, ..)| at).or_else(|| Some(draft.listen.first()?.value));
    let any_four = || ways(draft).any(|(at, ..)| at.is_ipv4());
    match bound {
        Some(at) => Family::of(at.ip()),
        None if any_four() || ways(draft).next().is_none() => Family::V4,
        None => Family::V6,
    }
}

/// `None` when a part is missing.
fn build_one(
    draft: Draft,
    groups: &[group::Draft],
    notifications: &Notifications,
    log: &Log,
) -> Option<(String, Service)> {
    let keys = keys(&draft);
    if notifications.mail.is_none() && (draft.mail || draft.servers.iter().any(|server| server.value.mail)) {
        log.add(mailed_to_nobody(&draft.name));
    }
    if draft.hysteresis >= draft.quorum && draft.hysteresis > 0 {
        let message = format!("a hysteresis of {} does not let a quorum of {} be lost", draft.hysteresis, draft.quorum);
        log.add(Diagnostic::error(&draft.name.place, message).help("it must be smaller than the quorum"));
    }
    let all: u64 = draft.servers.iter().map(|server| u64::from(server.value.weight)).sum();
    if draft.quorum > 1 && u64::from(draft.quorum) > all {
        let message = format!("the quorum is {}, and the weights of the servers are {all} together", draft.quorum);
        log.add(Diagnostic::warning(&draft.name.place, message));
    }
    check_ports(&draft, log);
    check_families(&draft, &keys, log);
    let vip = draft.vip?;
    let group = groups.iter().find(|group| group.name.value == vip.value);
    if keys.is_empty() {
        return None;
    }
    let persistent = draft.persistence.is_some();
    if let Some(at) = draft.listen.iter().find(|at| at.value.port() == 0 && !persistent) {
        log.add(Diagnostic::error(&at.place, "a service for every port needs `persistence`"));
    }
    if draft.one_packet && draft.protocol != Protocol::Udp {
        log.add(Diagnostic::error(&draft.name.place, "only UDP can be balanced packet by packet"));
    }
    match group {
        None => {
            let meant = nearest(&vip.value, groups.iter().map(|group| group.name.value.as_str()));
            let error = Diagnostic::error(&vip.place, format!("there is no VIP group `{}`", vip.value));
            log.add(error.did_you_mean(meant));
        }
        Some(group) => {
            if !group.accept {
                let message = format!("what is sent to the VIPs of `{}` is dropped, and never balanced", vip.value);
                let help =
                    "let it have `accept`: in strict mode of keepalived.conf a MASTER takes no packets otherwise";
                log.add(
                    Diagnostic::warning(&draft.name.place, message).see(&group.name.place, "this group").help(help),
                );
            }
            for listen in &draft.listen {
                let ip = listen.value.ip();
                if !group.all().any(|address| address.value.0 == ip) {
                    let message = format!("`{ip}` is not an address of VIP group `{}`", vip.value);
                    log.add(Diagnostic::error(&listen.place, message).see(&group.name.place, "this group"));
                }
            }
        }
    }
    let service = Service {
        vip: vip.value,
        listen: keys.into_iter().map(|key| key.value).collect(),
        protocol: draft.protocol,
        scheduler: draft.scheduler,
        flags: draft.flags,
        one_packet: draft.one_packet,
        servers: draft.servers.into_iter().map(|server| server.value).collect(),
        persistence: draft.persistence,
        granularity: draft.granularity,
        engine: draft.engine,
        drain: draft.drain,
        slow_start: draft.slow_start,
        quorum_up: draft.quorum_up,
        quorum_down: draft.quorum_down,
        mail: draft.mail,
        sorry_server: draft.sorry_server.map(|sorry| sorry.value),
        sorry_server_inhibit: draft.sorry_server_inhibit,
        omega: draft.omega,
        ha_suspend: draft.ha_suspend,
        quorum: draft.quorum,
        hysteresis: draft.hysteresis,
        min_up: draft.min_up,
    };
    Some((draft.name.value, service))
}

/// IPv4 and IPv6 in one service: the kernel takes it where nothing depends on it.
fn check_families(draft: &Draft, keys: &[Located<ServiceKey>], log: &Log) {
    let wanted = draft.granularity.map(|granularity| match granularity {
        Granularity::Netmask(_) => Family::V4,
        Granularity::Prefix(_) => Family::V6,
    });
    if keys.iter().any(|key| wanted.is_some_and(|wanted| wanted != key.value.family())) {
        let message = "persistence takes a netmask for IPv4, and the length of a prefix for IPv6";
        log.add(Diagnostic::error(&draft.name.place, message).help("make a service of its own for each family"));
    }
    for (at, forwarding, place) in ways(draft) {
        let other = keys.iter().find(|key| key.value.family() != Family::of(at.ip()));
        if let (Some(other), false) = (other, matches!(forwarding, Forwarding::Tunnel(_))) {
            let message = format!("`{at}` is of another family than `{}`: only a tunnel leads there", other.value);
            log.add(Diagnostic::error(place, message).see(&other.place, "this one"));
        }
    }
}

/// A packet that is not translated comes with the port that it had, whatever is said of the server.
fn check_ports(draft: &Draft, log: &Log) {
    let Some(port) = one_port(&draft.listen, &draft.mark) else { return };
    for (at, forwarding, place) in ways(draft) {
        if forwarding != Forwarding::Nat && at.port() != port {
            let message = format!("`{at}` gets packets for port {port}: only `nat` changes it");
            let meant = SocketAddr::new(at.ip(), port);
            log.add(Diagnostic::error(place, message).help(format!("write \"{meant}\"; a check has its own `port`")));
        }
    }
}
