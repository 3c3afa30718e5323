//! The sets of the gate: what it guards and what is held, as the kernel has it, and how that is changed.

use super::Devices;
use super::batch::Request;
use super::rules::{NAME, Table, request};
use hamesh_raft::command::{Definition, Family};
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::*;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A set of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// The addresses that this gate guards.
    Vip(Family),
    /// Those that this node holds.
    Held(Family),
    /// The virtual routers that this gate guards.
    Vrid(Family),
    /// Those that this node holds.
    VridHeld(Family),
    /// The devices with a virtual MAC.
    Device,
    /// Those of groups that this node holds.
    DeviceHeld,
    /// Holds one element, with a timeout, while the session lives.
    Session,
    /// What routers on this host advertise: see [`super::said`].
    Said(Family),
    /// The addresses that pass a shut gate where members forward to them.
    Local(Family),
    /// The MACs of members.
    Member,
    /// The addresses that nothing is delivered to.
    Deaf(Family),
}

impl Set {
    pub(super) fn name(self) -> &'static str {
        use Family::{V4, V6};
        match self {
            Self::Vip(V4) => "vip4",
            Self::Vip(V6) => "vip6",
            Self::Held(V4) => "held4",
            Self::Held(V6) => "held6",
            Self::Vrid(V4) => "vrid4",
            Self::Vrid(V6) => "vrid6",
            Self::VridHeld(V4) => "vrid4_held",
            Self::VridHeld(V6) => "vrid6_held",
            Self::Device => "device",
            Self::DeviceHeld => "device_held",
            Self::Session => "session",
            Self::Said(V4) => "said4",
            Self::Said(V6) => "said6",
            Self::Local(V4) => "local4",
            Self::Local(V6) => "local6",
            Self::Member => "member",
            Self::Deaf(V4) => "deaf4",
            Self::Deaf(V6) => "deaf6",
        }
    }

    /// Number in a transaction, key type in nft's own numbers (only `nft list` reads it), key length in bytes.
    fn shape(self) -> (u32, u32, u32) {
        const IPV4_ADDR: u32 = 7;
        const IPV6_ADDR: u32 = 8;
        const INTEGER: u32 = 4;
        const MARK: u32 = 19;
        const IFNAME: u32 = 41;
        /// Two bytes; each part of a concatenation is filled up to four.
        const IFNAME_AND_TWO: u32 = IFNAME << 6 | 13;
        const ETHER_ADDR: u32 = 9;
        use Family::{V4, V6};
        match self {
            Self::Vip(V4) => (1, IPV4_ADDR, 4),
            Self::Held(V4) => (2, IPV4_ADDR, 4),
            Self::Vrid(V4) => (3, INTEGER, 1),
            Self::VridHeld(V4) => (4, INTEGER, 1),
            Self::Session => (5, MARK, 4),
            Self::Vip(V6) => (6, IPV6_ADDR, 16),
            Self::Held(V6) => (7, IPV6_ADDR, 16),
            Self::Vrid(V6) => (8, INTEGER, 1),
            Self::VridHeld(V6) => (9, INTEGER, 1),
            Self::Device => (10, IFNAME, 16),
            Self::DeviceHeld => (11, IFNAME, 16),
            Self::Said(V4) => (15, IFNAME_AND_TWO, 20),
            Self::Said(V6) => (16, IFNAME_AND_TWO, 20),
            Self::Local(V4) => (12, IPV4_ADDR, 4),
            Self::Local(V6) => (13, IPV6_ADDR, 16),
            Self::Member => (14, ETHER_ADDR, 6),
            Self::Deaf(V4) => (17, IPV4_ADDR, 4),
            Self::Deaf(V6) => (18, IPV6_ADDR, 16),
        }
    }
}

/// What is guarded and what is held of the same kind: addresses, the virtual routers that advertise them, and devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pair {
    Guarded,
    Held,
}

impl Pair {
    pub(super) fn addresses(self, family: Family) -> Set {
        match self {
            Self::Guarded => Set::Vip(family),
            Self::Held => Set::Held(family),
        }
    }

    pub(super) fn vrids(self, family: Family) -> Set {
        match self {
            Self::Guarded => Set::Vrid(family),
            Self::Held => Set::VridHeld(family),
        }
    }

    pub(super) fn devices(self) -> Set {
        match self {
            Self::Guarded => Set::Device,
            Self::Held => Set::DeviceHeld,
        }
    }

    pub(super) fn sets(self, table: Table) -> impl Iterator<Item = Set> {
        let of_families =
            table.families().iter().flat_map(move |family| [self.addresses(*family), self.vrids(*family)]);
        of_families.chain([self.devices()])
    }
}

/// The addresses, virtual routers and devices of a set of groups, in the order in which the kernel gets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) vrids: BTreeSet<(Family, u8)>,
    pub(super) devices: BTreeSet<String>,
}

impl Contents {
    pub(super) fn of(groups: &[Definition], devices: &Devices) -> Self {
        let with_mac = devices.virtual_macs.iter().filter(|(group, _)| groups.contains(group));
        Self {
            devices: with_mac.map(|(_, device)| device.clone()).collect(),
            addresses: groups.iter().flat_map(|group| group.addresses.iter().copied()).collect(),
            vrids: groups.iter().map(|group| (group.family, group.vrid)).collect(),
        }
    }

    pub(super) fn without(&self, others: &Self) -> Self {
        Self {
            addresses: &self.addresses - &others.addresses,
            vrids: &self.vrids - &others.vrids,
            devices: &self.devices - &others.devices,
        }
    }

    pub(super) fn contains(&self, others: &Self) -> bool {
        self.addresses.is_superset(&others.addresses)
            && self.vrids.is_superset(&others.vrids)
            && self.devices.is_superset(&others.devices)
    }

    /// The elements of a family's sets: addresses, and virtual routers.
    fn keys(&self, family: Family) -> [Vec<Vec<u8>>; 2] {
        let octets = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let addresses = self.addresses.iter().filter(|address| Family::of(**address) == family).map(octets);
        let vrids = self.vrids.iter().filter(|(of, _)| *of == family).map(|(_, vrid)| vec![*vrid]);
        [addresses.collect(), vrids.collect()]
    }
}

/// The longest name of a device, with its closing zero, as the kernel compares it.
const IFNAMSIZ: usize = 16;

/// A device's name as an element of a set.
fn device_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(IFNAMSIZ, 0);
    key
}

/// The name behind an element.
pub(super) fn device_name(key: &[u8]) -> Option<String> {
    let name = key.split(|byte| *byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

/// Makes a set.
pub(super) fn declare(table: Table, set: Set) -> Request {
    let (number, kind, length) = set.shape();
    let flags = match set {
        Set::Session => SetFlags::Timeout,
        Set::Said(_) => SetFlags::Timeout | SetFlags::Eval,
        Set::Vip(_)
        | Set::Held(_)
        | Set::Vrid(_)
        | Set::VridHeld(_)
        | Set::Device
        | Set::DeviceHeld
        | Set::Local(_)
        | Set::Deaf(_)
        | Set::Member => SetFlags::empty(),
    };
    let attributes = vec![
        SetAttribute::Table(NAME.into()),
        SetAttribute::Name(set.name().into()),
        SetAttribute::Flags(flags),
        SetAttribute::KeyType(kind),
        SetAttribute::KeyLen(length),
        SetAttribute::Id(number),
    ];
    request(table, NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE)
}

/// Replaces what a table guards and holds.
pub(super) fn fill(table: Table, guarded: &Contents, held: &Contents) -> Vec<Request> {
    let sets = Pair::Guarded.sets(table).chain(Pair::Held.sets(table));
    let mut requests: Vec<_> = sets.map(|set| flush(table, set)).collect();
    requests.extend(add(table, Pair::Guarded, guarded));
    requests.extend(add(table, Pair::Held, held));
    requests
}

/// Takes everything out of a set.
pub(super) fn flush(table: Table, set: Set) -> Request {
    let attributes = vec![SetElementList::Table(NAME.into()), SetElementList::Set(set.name().into())];
    request(table, NfTablesMessage::DeleteSetElement(SetElementMessage { attributes }), 0)
}

/// Empties a pair of sets.
pub(super) fn empty(table: Table, pair: Pair) -> Vec<Request> {
    pair.sets(table).map(|set| flush(table, set)).collect()
}

/// Puts contents into a pair of sets; what is in already stays.
pub(super) fn add(table: Table, pair: Pair, contents: &Contents) -> Vec<Request> {
    let message = |set, keys| request(table, NfTablesMessage::NewSetElement(elements(set, keys)), NLM_F_CREATE);
    changes(table, pair, contents, &message)
}

/// Replaces what `sets` have: each key belongs to one of them, or to one that the table has not.
pub(super) fn replace(table: Table, sets: &[Set], keys: &[(Set, Vec<u8>)]) -> Vec<Request> {
    let mut requests = Vec::new();
    for set in sets {
        let own: Vec<_> = keys.iter().filter(|(of, _)| of == set).map(|(_, key)| key.clone()).collect();
        requests.push(flush(table, *set));
        requests.extend(add_keys(table, *set, &own));
    }
    requests
}

/// An address as a key of that of its family.
pub(super) fn keyed(set: fn(Family) -> Set, address: IpAddr) -> (Set, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (set(Family::V4), address.octets().to_vec()),
        IpAddr::V6(address) => (set(Family::V6), address.octets().to_vec()),
    }
}

/// Puts keys into a set.
fn add_keys(table: Table, set: Set, keys: &[Vec<u8>]) -> Vec<Request> {
    let element = |key: &Vec<u8>| vec![SetElementAttribute::Key(DataAttribute::Value(key.clone()))];
    let message = |keys: &[Vec<u8>]| elements(set, keys.iter().map(element).collect());
    let messages = keys.chunks(PER_MESSAGE).map(message);
    messages.map(|message| request(table, NfTablesMessage::NewSetElement(message), NLM_F_CREATE)).collect()
}

/// Takes contents out of a pair of sets. The kernel refuses what is not in.
pub(super) fn remove(table: Table, pair: Pair, contents: &Contents) -> Vec<Request> {
    let message = |set, keys| request(table, NfTablesMessage::DeleteSetElement(elements(set, keys)), 0);
    changes(table, pair, contents, &message)
}

/// The length of an attribute is 16 bits wide, and an element takes 20 bytes, or 32 for IPv6.
const PER_MESSAGE: usize = 1024;

fn changes(
    table: Table,
    pair: Pair,
    contents: &Contents,
    message: &dyn Fn(Set, Vec<Vec<SetElementAttribute>>) -> Request,
) -> Vec<Request> {
    let element = |key: &Vec<u8>| vec![SetElementAttribute::Key(DataAttribute::Value(key.clone()))];
    let mut requests = Vec::new();
    for family in table.families() {
        let sets = [pair.addresses(*family), pair.vrids(*family)];
        for (set, keys) in sets.into_iter().zip(contents.keys(*family)) {
            requests.extend(keys.chunks(PER_MESSAGE).map(|keys| message(set, keys.iter().map(element).collect())));
        }
    }
    let devices: Vec<_> = contents.devices.iter().map(|name| device_key(name)).collect();
    let devices = devices.chunks(PER_MESSAGE);
    requests.extend(devices.map(|keys| message(pair.devices(), keys.iter().map(element).collect())));
    requests
}

pub(super) fn elements(set: Set, keys: Vec<Vec<SetElementAttribute>>) -> SetElementMessage {
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(NAME.into()),
            SetElementList::Set(set.name().into()),
            SetElementList::Elements(keys.into_iter().map(ListAttribute::Element).collect()),
        ],
    }
}
