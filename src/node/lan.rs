//! What directors tell each other, by gossip, of their places on the LANs.

use crate::net::arp::Mac;
use hamesh_fencing::grantor::Hearing;
use hamesh_raft::command::{GroupName, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The prefix of the gossip keys, before the group's name.
pub(crate) const FACT: &str = "lan/";

/// One director's place on one group's LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) interface: String,
    pub(crate) up: bool,
    pub(crate) address: Option<IpAddr>,
    #[serde(default)]
    pub(crate) mac: Option<Mac>,
    pub(crate) hears: Hears,
    /// The lease that the group moves with, where that is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<GroupName>,
}

/// [`Hearing`] in gossip's words; the holder itself hears for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Hears {
    /// The holder.
    Holder,
    /// Not the holder, but others.
    Others,
    /// Nobody.
    Nobody,
}

/// Every director's place, by group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Neighbours {
    pub(crate) places: BTreeMap<GroupName, BTreeMap<NodeId, Place>>,
}

impl From<Hearing> for Hears {
    fn from(hearing: Hearing) -> Self {
        match hearing {
            Hearing::Holder => Self::Holder,
            Hearing::OnlyOthers => Self::Others,
            Hearing::Nobody => Self::Nobody,
        }
    }
}

impl From<Hears> for Hearing {
    fn from(hears: Hears) -> Self {
        match hears {
            Hears::Holder => Self::Holder,
            Hears::Others => Self::OnlyOthers,
            Hears::Nobody => Self::Nobody,
        }
    }
}

impl Neighbours {
    /// From the facts of every living node.
    pub(crate) fn from_facts<'a>(facts: impl Iterator<Item = (NodeId, &'a BTreeMap<String, String>)>) -> Self {
        let mut places: BTreeMap<GroupName, BTreeMap<NodeId, Place>> = BTreeMap::new();
        for (node, values) in facts {
            for (key, value) in values {
                // A place that does not parse comes from another version; it says nothing to us.
                if let (Some(group), Ok(place)) = (key.strip_prefix(FACT), serde_json::from_str::<Place>(value)) {
                    places.entry(group.to_owned()).or_default().insert(node, place);
                }
            }
        }
        Self { places }
    }

    /// With the addresses that were known `before`: gossip forgets a node that dies or has just restarted, and its adverts
    /// must not be taken for a stranger's meanwhile.
    pub(crate) fn remembering(mut self, before: &Self) -> Self {
        for (group, old) in &before.places {
            let places = self.places.entry(group.clone()).or_default();
            for (node, place) in old {
                let silent = || Place { up: false, hears: Hears::Nobody, ..place.clone() };
                let known = places.entry(*node).or_insert_with(silent);
                known.address = known.address.or(place.address);
                known.mac = known.mac.or(place.mac);
            }
        }
        self
    }

    /// In the grantor's words, by lease. A director whose link is down hears nobody, and one that hears less on one LAN of
    /// several hears so much.
    pub(crate) fn hearing(&self) -> BTreeMap<GroupName, BTreeMap<NodeId, Hearing>> {
        let mut leases: BTreeMap<GroupName, BTreeMap<NodeId, Hearing>> = BTreeMap::new();
        for (group, places) in &self.places {
            for (node, place) in places {
                let hearing = if place.up { place.hears.into() } else { Hearing::Nobody };
                let nodes = leases.entry(place.lease.as_ref().unwrap_or(group).clone()).or_default();
                nodes.entry(*node).and_modify(|known| *known = lesser(*known, hearing)).or_insert(hearing);
            }
        }
        leases
    }

    /// The address of `node` on the LAN of `group`.
    pub(crate) fn address(&self, group: &str, node: NodeId) -> Option<IpAddr> {
        self.places.get(group)?.get(&node)?.address
    }

    /// The MACs of the other nodes on the LAN of `group`.
    pub(crate) fn macs(&self, group: &str, me: NodeId) -> impl Iterator<Item = Mac> {
        let places = self.places.get(group).into_iter().flatten();
        places.filter(move |(node, _)| **node != me).filter_map(|(_, place)| place.mac)
    }

    /// Every known address on the LAN of `group`, with its node.
    pub(crate) fn addresses(&self, group: &str) -> impl Iterator<Item = (NodeId, IpAddr)> {
        let places = self.places.get(group).into_iter().flatten();
        places.filter_map(|(node, place)| Some((*node, place.address?)))
    }
}

fn lesser(one: Hearing, other: Hearing) -> Hearing {
    match (one, other) {
        (Hearing::Nobody, _) | (_, Hearing::Nobody) => Hearing::Nobody,
        (Hearing::OnlyOthers, _) | (_, Hearing::OnlyOthers) => Hearing::OnlyOthers,
        (Hearing::Holder, Hearing::Holder) => Hearing::Holder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LB1: NodeId = NodeId(1);

    fn neighbours(address: Option<IpAddr>) -> Neighbours {
        let (hears, mac) = (Hears::Holder, None);
        let place = Place { interface: "eth0".to_owned(), up: true, address, mac, hears, lease: None };
        Neighbours { places: BTreeMap::from([("web".to_owned(), BTreeMap::from([(LB1, place)]))]) }
    }

    #[test]
    fn a_node_that_gossip_has_forgotten_keeps_its_address() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let known = neighbours(Some(address));
        let gone = Neighbours::default().remembering(&known);
        assert_eq!(gone.address("web", LB1), Some(address));
        assert_eq!(gone.hearing()["web"][&LB1], Hearing::Nobody);
        let restarted = neighbours(None).remembering(&gone);
        assert_eq!(restarted.address("web", LB1), Some(address));
        let moved = neighbours(Some(IpAddr::from([10, 0, 0, 9]))).remembering(&restarted);
        assert_eq!(moved.address("web", LB1), Some(IpAddr::from([10, 0, 0, 9])));
    }

    #[test]
    fn of_several_lans_under_one_lease_the_worst_counts() {
        let place = |hears, up| Place {
            interface: "eth0".to_owned(),
            up,
            address: None,
            mac: None,
            hears,
            lease: Some("edge".to_owned()),
        };
        let of = |one, two| {
            let places =
                [("in".to_owned(), BTreeMap::from([(LB1, one)])), ("out".to_owned(), BTreeMap::from([(LB1, two)]))];
            Neighbours { places: BTreeMap::from(places) }.hearing()["edge"][&LB1]
        };
        assert_eq!(of(place(Hears::Holder, true), place(Hears::Holder, true)), Hearing::Holder);
        assert_eq!(of(place(Hears::Others, true), place(Hears::Holder, true)), Hearing::OnlyOthers);
        assert_eq!(of(place(Hears::Holder, true), place(Hears::Others, true)), Hearing::OnlyOthers);
        assert_eq!(of(place(Hears::Others, true), place(Hears::Holder, false)), Hearing::Nobody);
    }
}
