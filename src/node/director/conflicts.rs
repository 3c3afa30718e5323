//! Strangers that answer for what this director is MASTER of.

use super::{Director, Happened};
use crate::net::arp::Mac;
use crate::net::neighbour;
use crate::node::served::Served;
use crate::vrrp::router::{self, State};
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::{Family, GroupName};
use std::net::IpAddr;

impl Director {
    /// Somebody says on a LAN that `address` is at `mac`. What is looked at is the last of it, at the next look: a flood has no
    /// more of our time.
    pub(super) fn claimed(&mut self, interface: &str, address: IpAddr, mac: Mac) {
        let there = |served: &&Served| served.config.interface == interface && is_master(served);
        let Some(served) = self.groups.values().filter(there).find(|served| has(served, address)) else { return };
        let virtual_mac = served.config.virtual_mac().map(|(_, mac)| mac);
        let known = Some(mac) == served.link.mac || Some(mac) == virtual_mac;
        if !known && !self.neighbours.macs(&served.name, self.me).any(|member| member == mac) {
            self.suspect = Some((served.name.clone(), address, mac));
        }
    }

    /// Asks for an address of its own, and looks at who else answered for one.
    pub(super) fn look_for_conflicts(&mut self, now: Moment) {
        let masters = self.groups.values().filter(|served| is_master(served));
        let held = masters
            .flat_map(|served| served.vips.iter().map(move |vip| (served, vip.address)))
            .filter(|(served, address)| Family::of(*address) == served.config.family);
        let turn = self.conflicts.ask(now, held.clone().count());
        if let Some((served, address)) = turn.and_then(|turn| held.clone().nth(turn)) {
            self.hands.probe(served, &[address]);
        }
        if let Some((group, address, mac)) = self.suspect.take() {
            // Linux answers for an address on every interface: one of ours on the same LAN is no stranger.
            self.conflict(now, group, address, mac);
        }
    }

    fn conflict(&mut self, now: Moment, group: GroupName, address: IpAddr, mac: Mac) {
        if neighbour::is_own(mac).unwrap_or(false) || !self.conflicts.heard(now, &group, address, mac) {
            return;
        }
        tracing::warn!(%group, %address, mac = %neighbour::written(mac), "another host answers for a VIP; announcing that it is here");
        self.queue.push_back(Happened::Router(group, router::Event::Announce));
    }
}

fn is_master(served: &Served) -> bool {
    matches!(served.router.status().state, State::Master(_))
}

fn has(served: &Served, address: IpAddr) -> bool {
    served.vips.iter().any(|vip| vip.address == address)
}
