//! What of ours is in the kernel.

use super::Devices;
use super::batch::{Kernel, Request};
use super::expression::drop_it;
use super::rules::{self, Abilities, LEASE, NAME, Table};
use super::sets::{Contents, Pair, Set, device_name};
use hamesh_raft::command::{Family, GateId};
use netlink_packet_netfilter::nftables::*;
use std::io;
use std::net::IpAddr;

/// A table of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The gate that it belongs to, if it is laid out as we would.
    pub(super) id: Option<GateId>,
    pub(super) persistent: bool,
    /// The netlink port of a living owner.
    pub(super) owner: Option<u32>,
}

impl Kernel {
    /// Looks for a table of ours.
    pub(super) fn table(&mut self, table: Table) -> io::Result<Option<Found>> {
        let question = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
        for answer in self.dump(table.family(), &question)? {
            let NfTablesMessage::NewTable(TableMessage { attributes }) = answer else { continue };
            if !attributes.contains(&TableAttribute::Name(NAME.into())) {
                continue;
            }
            let mut found = Found { id: None, persistent: false, owner: None };
            for attribute in attributes {
                if let TableAttribute::UserData(bytes) = &attribute {
                    found.id = rules::gate_id(bytes);
                } else if let TableAttribute::Flags(flags) = attribute {
                    found.persistent = flags.contains(TableFlags::Persisent);
                } else if let TableAttribute::Owner(port) = attribute {
                    found.owner = Some(port);
                }
            }
            return Ok(Some(found));
        }
        Ok(None)
    }

    /// The requests that take away all of ours that is there.
    pub(super) fn clearing(&mut self) -> io::Result<Vec<Request>> {
        let mut requests = Vec::new();
        for table in Table::ALL {
            if self.table(table)?.is_some() {
                requests.push(rules::delete_table(table));
            }
        }
        Ok(requests)
    }

    /// The request that takes away the egress chain, if it is there: the kernel removes it with its last interface.
    pub(super) fn clearing_egress(&mut self) -> io::Result<Vec<Request>> {
        let question = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        let ours = [ChainAttribute::Table(NAME.into()), ChainAttribute::Name(rules::EGRESS.into())];
        let is_ours = |answer: &NfTablesMessage| matches!(answer, NfTablesMessage::NewChain(chain) if ours.iter().all(|a| chain.attributes.contains(a)));
        let there = self.dump(Table::Netdev.family(), &question)?.iter().any(is_ours);
        Ok(there.then(|| rules::delete_chain(Table::Netdev, rules::EGRESS)).into_iter().collect())
    }

    /// The devices that egress is to look at, as far as this kernel takes them.
    pub(super) fn egress(&self, devices: &Devices, abilities: Abilities) -> Vec<String> {
        let mut names = devices.names();
        names.retain(|name| abilities.absent || self.has_interface(name));
        names
    }

    /// Whether the `lease` chain of a table has the rules of an armed or of a shut gate: an empty one would let all
    /// that is held pass without end.
    pub(super) fn lease_is_whole(&mut self, table: Table) -> io::Result<bool> {
        let attributes = vec![RuleAttribute::Table(NAME.into()), RuleAttribute::Chain(LEASE.into())];
        let answers = self.dump(table.family(), &NfTablesMessage::GetRule(RuleMessage { attributes }))?;
        let drops = RuleAttribute::Expressions(vec![drop_it().into()]);
        let ends_so = |answer: &NfTablesMessage| matches!(answer, NfTablesMessage::NewRule(rule) if rule.attributes.contains(&drops));
        Ok(answers.len() <= 2 && answers.last().is_some_and(ends_so))
    }

    /// What is held, or guarded.
    pub(super) fn contents(&mut self, pair: Pair) -> io::Result<Contents> {
        let mut contents = Contents::default();
        for family in Family::ALL {
            let vrids = self.members(pair.vrids(family))?;
            contents.vrids.extend(vrids.iter().filter_map(|key| Some((family, *key.first()?))));
            let address = |key: &Vec<u8>| match family {
                Family::V4 => <[u8; 4]>::try_from(&key[..]).ok().map(IpAddr::from),
                Family::V6 => <[u8; 16]>::try_from(&key[..]).ok().map(IpAddr::from),
            };
            contents.addresses.extend(self.members(pair.addresses(family))?.iter().filter_map(address));
        }
        contents.devices = self.members(pair.devices())?.iter().filter_map(|key| device_name(key)).collect();
        Ok(contents)
    }

    /// The keys of a set.
    fn members(&mut self, set: Set) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.elements(set)?.iter().filter_map(|element| key(element).cloned()).collect())
    }

    /// The elements of a set, as the table `inet` has it.
    pub(super) fn elements(&mut self, set: Set) -> io::Result<Vec<Vec<SetElementAttribute>>> {
        let attributes = vec![SetElementList::Table(NAME.into()), SetElementList::Set(set.name().into())];
        let question = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        let mut all = Vec::new();
        for answer in self.dump(Table::Inet.family(), &question)? {
            let NfTablesMessage::NewSetElement(SetElementMessage { attributes }) = answer else { continue };
            for attribute in attributes {
                let SetElementList::Elements(elements) = attribute else { continue };
                all.extend(elements.into_iter().filter_map(|element| {
                    if let ListAttribute::Element(attributes) = element { Some(attributes) } else { None }
                }));
            }
        }
        Ok(all)
    }
}

/// An element's key.
pub(super) fn key(element: &[SetElementAttribute]) -> Option<&Vec<u8>> {
    element.iter().find_map(|attribute| {
        if let SetElementAttribute::Key(DataAttribute::Value(key)) = attribute { Some(key) } else { None }
    })
}
