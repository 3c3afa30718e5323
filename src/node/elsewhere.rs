//! What of a group is on another interface than its own: `203.0.113.10/24 dev eth1`. It comes and goes with the rest, and is announced
//! there. While that interface is down, or not there, the group is in FAULT, as with keepalived.

use super::announce::{Burst, Permit};
use super::lans::Lans;
use crate::config::VipGroup;
use crate::kernel::address::{Interface, Vip};
use crate::kernel::link::Link;
use crate::net::neighbour::NeighbourSocket;
use hamesh_raft::command::Family;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One such interface.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    /// As it is, or as it was.
    pub(crate) link: Link,
    vips: Vec<Vip>,
    /// Whether the group needs it.
    tracked: bool,
    /// What announces there, by family; nothing while it is not there.
    sockets: Vec<(Family, Arc<NeighbourSocket>)>,
}

impl Elsewhere {
    /// All that a group has, on those of the LANs that are open.
    pub(super) fn all(group: &VipGroup, lans: &Lans) -> Vec<Self> {
        let one = |name: &str| {
            let (vips, tracked) = (group.on(name).collect(), !group.does_without(name));
            let mut one = Self { link: Link::absent(name), vips, tracked, sockets: Vec::new() };
            one.open(lans);
            one
        };
        group.elsewhere().into_iter().map(one).collect()
    }

    /// It is there, as far as its LANs are open.
    pub(super) fn open(&mut self, lans: &Lans) {
        let name = &self.link.interface.name;
        let families: BTreeSet<Family> = self.vips.iter().map(|vip| Family::of(vip.address)).collect();
        let open = |family: Family| lans.get(&(name.clone(), family)).map(|lan| (family, lan));
        let open: Vec<_> = families.into_iter().filter_map(open).collect();
        self.sockets = open.iter().map(|(family, lan)| (*family, lan.neighbours.clone())).collect();
        if let Some((_, lan)) = open.first() {
            self.link = lan.link.clone();
        }
    }

    /// It is so now.
    pub(super) fn see(&mut self, link: &Link) {
        if self.is_there() {
            self.link = link.clone();
        }
    }

    /// It is not there any more, or is another one. Returns whether it was.
    pub(super) fn lose(&mut self) -> bool {
        self.link.up = false;
        !std::mem::take(&mut self.sockets).is_empty()
    }

    pub(super) fn name(&self) -> String {
        self.link.interface.name.clone()
    }

    /// The interface, and what is to be there.
    pub(super) fn placed(&self) -> (&Interface, &[Vip]) {
        (&self.link.interface, &self.vips)
    }

    /// Whether addresses can be put there.
    pub(crate) fn is_there(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// What tells the hosts there; of loopback there are none.
    pub(super) fn bursts(&self, rounds: u8, permit: Option<&Permit>) -> impl Iterator<Item = Burst> {
        let mac = self.link.mac.filter(|mac| *mac != [0; 6]);
        let of = move |(family, socket): &(Family, Arc<NeighbourSocket>)| {
            let addresses = self.vips.iter().map(|vip| vip.address).filter(|address| Family::of(*address) == *family);
            let (socket, addresses, router) = (socket.clone(), addresses.collect(), self.link.router);
            Some(Burst { socket, permit: permit.cloned(), mac: mac?, addresses, router, rounds })
        };
        self.sockets.iter().filter_map(of)
    }

    /// Whether the group can be claimed here, as far as this interface is concerned.
    pub(crate) fn is_well(&self) -> bool {
        !self.tracked || (self.is_there() && self.link.up)
    }
}
