//! What `global_defs` says of IPVS.

use super::check_leaf;
use super::checks::truth;
use super::syntax::Statement;
use crate::config::diagnostic::{Diagnostic, Log};
use crate::config::group;
use crate::config::ipvs::{Ipvs, Sync, Timeouts};
use std::time::Duration;

/// Of `global_defs`.
pub(super) const KNOWN: [&str; 4] = ["lvs_sync_daemon", "lvs_timeouts", "lvs_flush", "lvs_flush_on_stop"];

/// What `global_defs` says of IPVS.
#[derive(Default)]
pub(super) struct Globals {
    ipvs: Ipvs,
    /// Of `lvs_sync_daemon`, if it says one.
    id: Option<u8>,
}

impl Globals {
    pub fn read(&mut self, line: &Statement, log: &Log) {
        check_leaf(line, &KNOWN, log);
        match line.keyword.text.as_str() {
            "lvs_flush" => self.ipvs.flush = truth(line, log),
            "lvs_timeouts" => self.ipvs.timeouts = timeouts(line, log),
            "lvs_sync_daemon" => {
                if let Some((sync, id)) = sync_daemon(line, log) {
                    (self.ipvs.sync, self.id) = (Some(sync), id);
                }
            }
            // What is ours is removed at a stop in any case, and nothing of anybody else.
            _ => {}
        }
    }

    /// Without an id connections are told with that of the instance whose holder tells.
    pub fn build(self, groups: &[group::Draft]) -> Ipvs {
        let Self { mut ipvs, id } = self;
        if let Some(sync) = &mut ipvs.sync {
            let teller = groups.iter().find(|group| sync.vip.as_ref() == Some(&group.name.value));
            let vrid = teller.and_then(|group| group.vrid.as_ref()).map(|vrid| vrid.value);
            sync.id = id.or(vrid).unwrap_or(0);
        }
        ipvs
    }
}

/// `[tcp N] [tcpfin N] [udp N]`.
fn timeouts(line: &Statement, log: &Log) -> Timeouts {
    let mut timeouts = Timeouts::default();
    for pair in line.arguments.chunks(2) {
        let time = pair.get(1).and_then(|word| word.text.parse().ok()).map(Duration::from_secs);
        match (pair[0].text.as_str(), time) {
            ("tcp", Some(time)) => timeouts.tcp = time,
            ("tcpfin", Some(time)) => timeouts.tcp_fin = time,
            ("udp", Some(time)) => timeouts.udp = time,
            _ => log.add(Diagnostic::error(&pair[0].place, "a timeout is `tcp`, `tcpfin` or `udp`, and whole seconds")),
        }
    }
    timeouts
}

/// `INTERFACE [[inst] INSTANCE] [[id] N] [maxlen N] [port N] [ttl N] [group IP]`, and the id, if there is one.
fn sync_daemon(line: &Statement, log: &Log) -> Option<(Sync, Option<u8>)> {
    const KEYS: [&str; 6] = ["inst", "id", "maxlen", "port", "ttl", "group"];
    let Some((interface, words)) = line.arguments.split_first() else {
        log.add(Diagnostic::error(&line.keyword.place, "`lvs_sync_daemon` needs an interface"));
        return None;
    };
    let (interface, vip) = (interface.text.clone(), None);
    let mut sync = Sync { interface, vip, id: 0, longest: None, group: None, port: None, ttl: None };
    let mut id = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (key, value) = match word.text.as_str() {
            key if KEYS.contains(&key) => (key, words.next().map_or("", |value| value.text.as_str())),
            // As it was once said.
            value => (if sync.vip.is_none() { "inst" } else { "id" }, value),
        };
        let whole = match key {
            "inst" => {
                sync.vip = Some(value.to_owned()).filter(|name| !name.is_empty());
                sync.vip.is_some()
            }
            "id" => value.parse().map(|number| id = Some(number)).is_ok(),
            "maxlen" => value.parse().map(|longest| sync.longest = Some(longest)).is_ok(),
            "port" => value.parse().map(|port| sync.port = Some(port)).is_ok(),
            "ttl" => value.parse().map(|ttl| sync.ttl = Some(ttl)).is_ok(),
            _ => value.parse().map(|group| sync.group = Some(group)).is_ok(),
        };
        if !whole {
            log.add(Diagnostic::error(&word.place, format!("`{key}` has no value that fits")));
        }
    }
    Some((sync, id))
}
