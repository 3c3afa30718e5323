//! From the present table to the wanted one.

use super::{Endpoint, Server, Service, ServiceKey, Settings, Table};
use hamesh_raft::command::Family;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

/// One command to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new service, without servers.
    AddService(ServiceKey, Settings),
    /// Another way to balance; servers and connections stay.
    SetService(ServiceKey, Settings),
    /// A service goes, and its servers with it.
    RemoveService(ServiceKey),
    /// A new server of a service.
    AddServer(ServiceKey, Endpoint, Server),
    /// Another weight, threshold or forwarding; connections stay.
    SetServer(ServiceKey, Endpoint, Server),
    /// A server goes. Its connections are not forwarded any more.
    RemoveServer(ServiceKey, Endpoint),
}

impl Change {
    /// The service that it is about.
    pub fn key(&self) -> &ServiceKey {
        match self {
            Self::AddService(key, _)
            | Self::SetService(key, _)
            | Self::RemoveService(key)
            | Self::AddServer(key, ..)
            | Self::SetServer(key, ..)
            | Self::RemoveServer(key, _) => key,
        }
    }

    /// Does to a table what the kernel does to its own; what it would refuse changes nothing.
    pub fn make(&self, table: &mut Table) {
        match self {
            Self::AddService(key, settings) => {
                let new = Service { settings: settings.clone(), servers: BTreeMap::new() };
                table.entry(*key).or_insert(new);
            }
            Self::SetService(key, settings) => {
                table.entry(*key).and_modify(|service| service.settings.clone_from(settings));
            }
            Self::RemoveService(key) => drop(table.remove(key)),
            Self::AddServer(key, at, server) | Self::SetServer(key, at, server) => {
                if let Some(service) = table.get_mut(key) {
                    service.servers.insert(*at, *server);
                }
            }
            Self::RemoveServer(key, at) => {
                if let Some(service) = table.get_mut(key) {
                    service.servers.remove(at);
                }
            }
        }
    }
}

/// The services that are ours to put right. All others belong to somebody else and are left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Every service on these addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The services of these marks.
    pub marks: BTreeSet<(NonZeroU32, Family)>,
}

impl Scope {
    /// Whether a service is ours.
    pub fn contains(&self, key: &ServiceKey) -> bool {
        match key {
            ServiceKey::Address(_, endpoint) => self.addresses.contains(&endpoint.ip),
            ServiceKey::Mark(mark, family) => self.marks.contains(&(*mark, *family)),
        }
    }

    /// What is in this one or in `other`.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self { addresses: &self.addresses | &other.addresses, marks: &self.marks | &other.marks }
    }
}

/// The fewest changes that make `present` into `wanted`.
///
/// In their order no moment is worse than both ends: what is not wanted goes first, so that it does not take packets of
/// what comes; a service exists before its servers; of its servers the new come before the old go, and are changed in
/// between, so that a service which has a server before and after always has one.
pub fn plan(present: &Table, wanted: &Table) -> Vec<Change> {
    let unwanted = present.keys().filter(|key| !wanted.contains_key(key));
    let mut changes: Vec<Change> = unwanted.map(|key| Change::RemoveService(*key)).collect();
    for (key, service) in wanted {
        match present.get(key) {
            Some(present) => adjust(*key, present, service, &mut changes),
            None => {
                changes.push(Change::AddService(*key, service.settings.clone()));
                changes.extend(service.servers.iter().map(|(at, server)| Change::AddServer(*key, *at, *server)));
            }
        }
    }
    changes
}

fn adjust(key: ServiceKey, present: &Service, wanted: &Service, changes: &mut Vec<Change>) {
    if present.settings != wanted.settings {
        changes.push(Change::SetService(key, wanted.settings.clone()));
    }
    let new = wanted.servers.iter().filter(|(at, _)| !present.servers.contains_key(at));
    changes.extend(new.map(|(at, server)| Change::AddServer(key, *at, *server)));
    let other = wanted.servers.iter().filter(|(at, server)| present.servers.get(at).is_some_and(|is| is != *server));
    changes.extend(other.map(|(at, server)| Change::SetServer(key, *at, *server)));
    let old = present.servers.keys().filter(|at| !wanted.servers.contains_key(at));
    changes.extend(old.map(|at| Change::RemoveServer(key, *at)));
}

/// For an error: what was tried.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddService(key, settings) => write!(f, "add service {key} with scheduler {}", settings.scheduler),
            Self::SetService(key, settings) => write!(f, "change service {key} to scheduler {}", settings.scheduler),
            Self::RemoveService(key) => write!(f, "remove service {key}"),
            Self::AddServer(key, at, server) => write!(f, "add server {at} to {key} with weight {}", server.weight),
            Self::SetServer(key, at, server) => write!(f, "change server {at} of {key} to weight {}", server.weight),
            Self::RemoveServer(key, at) => write!(f, "remove server {at} of {key}"),
        }
    }
}
