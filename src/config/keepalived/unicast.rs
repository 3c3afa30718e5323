//! Unicast, and the source of adverts: what `vrrp_instance` says of them.

use super::syntax::Statement;
use super::{argument, block, flag, unknown};
use crate::config::diagnostic::{Diagnostic, Located, Log, Place};
use crate::vrrp::TTL;
use crate::vrrp::unicast::{Peer, Unicast};
use std::net::IpAddr;

/// In an instance.
pub(super) const KNOWN: [&str; 8] = [
    "mcast_dst_ip",
    "unicast_src_ip",
    "mcast_src_ip",
    "track_src_ip",
    "unicast_peer",
    "unicast_ttl",
    "unicast_fault_no_peer",
    "check_unicast_src",
];

/// What was given.
#[derive(Default)]
pub(super) struct Given {
    pub source: Option<Located<IpAddr>>,
    pub multicast: Option<Located<IpAddr>>,
    peers: Vec<Peer>,
    /// Where the peers are, or what needs some.
    place: Option<Place>,
    /// Of `unicast_src_ip`, where there were no peers yet.
    alone: Option<Place>,
    fault_without: bool,
    bounded: bool,
    check: Option<bool>,
    ttl: Option<u8>,
}

impl Given {
    /// Reads a line whose keyword is one of these.
    pub fn read(&mut self, line: &Statement, log: &Log) {
        match line.keyword.text.as_str() {
            "unicast_peer" => {
                self.place = Some(line.keyword.place.clone());
                for peer in block(line, log) {
                    self.read_peer(peer, log);
                }
                return;
            }
            "unicast_src_ip" => {
                self.alone = Some(line.keyword.place.clone());
                self.source = address(line, log);
            }
            "mcast_dst_ip" => self.multicast = address(line, log),
            "mcast_src_ip" => self.source = address(line, log),
            "unicast_ttl" => self.ttl = super::number(line, log).map(|ttl| ttl.value),
            "unicast_fault_no_peer" => self.fault_without = true,
            "check_unicast_src" => self.check = Some(flag(line, log)),
            // A source that is not there is a fault here in any case.
            _ => {}
        }
        if line.block.is_some() {
            log.add(Diagnostic::error(&line.keyword.place, format!("`{}` has no block", line.keyword.text)));
        }
    }

    /// `IP [min_ttl N] [max_ttl N]`.
    fn read_peer(&mut self, line: &Statement, log: &Log) {
        let Ok(address) = line.keyword.text.parse::<IpAddr>() else {
            let message = format!("`{}` is not an address", line.keyword.text);
            log.add(Diagnostic::error(&line.keyword.place, message));
            return;
        };
        let mut peer = Peer::from(address);
        let mut words = line.arguments.iter();
        while let Some(option) = words.next() {
            let bound = match option.text.as_str() {
                "min_ttl" => &mut peer.min_ttl,
                "max_ttl" => &mut peer.max_ttl,
                _ => return unknown(option, &["min_ttl", "max_ttl"], log),
            };
            self.bounded = true;
            match words.next().map(|word| word.text.parse()) {
                Some(Ok(ttl)) => *bound = ttl,
                Some(Err(_)) | None => {
                    let message = format!("`{}` needs a number from 0 to 255", option.text);
                    log.add(Diagnostic::error(&option.place, message));
                }
            }
        }
        self.peers.push(peer);
    }

    /// The first of its routers that it names, which has its family.
    pub fn first(&self) -> Option<IpAddr> {
        let group = self.multicast.as_ref().map(|group| group.value);
        self.peers.first().map(|peer| peer.address).or(group)
    }

    /// Whether it has peers.
    pub fn is_unicast(&self) -> bool {
        !self.peers.is_empty()
    }

    /// An instance's. `check` is the file's `vrrp_check_unicast_src`.
    pub fn build(self, check: bool, log: &Log) -> Option<Located<Unicast>> {
        let Some(place) = self.place.filter(|_| !self.peers.is_empty()) else {
            if let Some(place) = self.alone {
                log.add(if self.fault_without {
                    Diagnostic::error(&place, "`unicast_fault_no_peer` forbids an instance without `unicast_peer`")
                } else {
                    Diagnostic::warning(
                        &place,
                        "without `unicast_peer` adverts go to the multicast group, as by keepalived",
                    )
                });
            }
            return None;
        };
        let check_source = self.bounded || self.check.unwrap_or(check);
        let unicast = Unicast { peers: self.peers, check_source, ttl: self.ttl.unwrap_or(TTL) };
        Some(Located { value: unicast, place })
    }
}

pub(super) fn address(line: &Statement, log: &Log) -> Option<Located<IpAddr>> {
    let word = argument(line, log)?;
    match word.value.parse() {
        Ok(value) => Some(Located { value, place: word.place }),
        Err(_) => {
            log.add(Diagnostic::error(&word.place, format!("`{}` is not an address", word.value)));
            None
        }
    }
}
