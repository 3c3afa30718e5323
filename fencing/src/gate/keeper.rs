//! The way to a gate: the lock first, then what an earlier run left.

use super::batch::{Failure, Kernel, Request};
use super::local::Local;
use super::lock::Lock;
use super::rules::{self, Abilities, Table};
use super::sets::{Contents, Pair};
use super::survey::Found;
use super::wall::WallClock;
use super::{Devices, Gate, GateError, refusal, unread};
use hamesh_raft::command::{Definition, GateId};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// The right to the gate of this network namespace, before it is decided what becomes of the one that may be there.
pub struct Keeper {
    kernel: Kernel,
    lock: Lock,
    found: Option<(GateId, Found)>,
}

impl Keeper {
    pub(super) fn acquire() -> Result<Self, GateError> {
        let lock = Lock::take()?;
        let found = Kernel::find();
        let found = found.map_err(|source| GateError::Io { what: "open a netlink socket for nftables", source })?;
        let mut kernel = found.ok_or(GateError::NoRules)?;
        let mut found = Vec::new();
        let mut whole = true;
        for table in Table::ALL {
            let there = kernel.table(table).map_err(unread)?;
            if let Some(port) = there.and_then(|found| found.owner) {
                return Err(GateError::Owned(port));
            }
            whole &= kernel.lease_is_whole(table).map_err(unread)?;
            found.push(there.and_then(|found| found.id.map(|id| (id, found))));
        }
        let one = |found: &[Option<(GateId, Found)>]| match found {
            [Some(first), rest @ ..] => rest.iter().flatten().filter(|other| other.0 == first.0).count() == rest.len(),
            _ => false,
        };
        let found = if whole && one(&found) { found.into_iter().flatten().next() } else { None };
        Ok(Self { kernel, lock, found })
    }

    /// The gate that an earlier run left here, if it is whole. What it holds is open until its session ends.
    pub fn found(&self) -> Option<GateId> {
        self.found.map(|(id, _)| id)
    }

    /// The addresses that the gate found here guards and `groups` do not have. Whatever replaces that gate lets them
    /// answer: they must be off every interface before.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn strays(&mut self, groups: &[Definition]) -> Result<Vec<IpAddr>, GateError> {
        if self.found.is_none() {
            return Ok(Vec::new());
        }
        let strays =
            self.kernel.contents(Pair::Guarded).map_err(unread)?.without(&Contents::of(groups, &Devices::default()));
        Ok(strays.addresses.into_iter().collect())
    }

    /// The devices with a virtual MAC that the gate found here guards and `devices` do not have. They must go as the addresses.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn stray_devices(&mut self, devices: &Devices) -> Result<Vec<String>, GateError> {
        if self.found.is_none() {
            return Ok(Vec::new());
        }
        let guarded = self.kernel.contents(Pair::Guarded).map_err(unread)?.devices;
        let kept = |name: &String| devices.virtual_macs.iter().any(|(_, device)| device == name);
        Ok(guarded.into_iter().filter(|name| !kept(name)).collect())
    }

    /// Whether the gate found here holds nothing that is not in `groups`, as they are defined now, on these devices.
    ///
    /// # Errors
    /// As [`Keeper::strays`].
    pub fn holds_only(&mut self, groups: &[Definition], devices: &Devices) -> Result<bool, GateError> {
        Ok(self.found.is_some()
            && Contents::of(groups, devices).contains(&self.kernel.contents(Pair::Held).map_err(unread)?))
    }

    /// Takes over the gate that was found, with its id, without a moment in which it is less or more shut than it was.
    /// Its session goes on; what it holds stays held as far as it is in `groups`. Arm it before that session ends.
    ///
    /// # Errors
    /// [`GateError::NotFound`]; the kernel's own. Then acquire again and [`Keeper::install`].
    pub fn adopt(mut self, groups: &[Definition], devices: &Devices) -> Result<Gate, GateError> {
        let (id, found) = self.found.ok_or(GateError::NotFound)?;
        let guarded = Contents::of(groups, devices);
        let there = self.kernel.contents(Pair::Held).map_err(unread)?;
        let is_held = |group: &&Definition| there.contains(&Contents::of(std::slice::from_ref(*group), devices));
        let held: Vec<_> = groups.iter().filter(is_held).cloned().collect();
        let kept = Contents::of(&held, devices);
        let first = self.kernel.clearing_egress().map_err(unread)?;
        let persistent = found.persistent;
        // A transaction of its own: in one that changes a table's owner the kernel changes no chain of it. The rules
        // are in force all the time.
        let abilities = Abilities::best(persistent);
        let owned = Table::ALL.map(|table| rules::table(table, id, abilities));
        self.kernel.commit(&owned).map_err(|failure| refusal(&owned, failure))?;
        self.write(id, persistent, groups, devices, held, |abilities, names| {
            let rest = rules::taken_over(abilities, names, &guarded, &kept);
            first.iter().cloned().chain(rest).collect()
        })
    }

    /// Makes a gate that is shut, in place of whatever is there of ours, in one transaction.
    ///
    /// # Errors
    /// The kernel's own, which names what it refused.
    pub fn install(mut self, id: GateId, groups: &[Definition], devices: &Devices) -> Result<Gate, GateError> {
        let guarded = Contents::of(groups, devices);
        let first = self.kernel.clearing().map_err(unread)?;
        self.write(id, true, groups, devices, Vec::new(), |abilities, names| {
            let rest = rules::whole(id, abilities, names, &guarded, &Contents::default());
            first.iter().cloned().chain(rest).collect()
        })
    }

    /// Commits what `requests` gives for the devices of egress, with as many abilities as this kernel has.
    pub(super) fn write(
        mut self,
        id: GateId,
        persistent: bool,
        groups: &[Definition],
        devices: &Devices,
        held: Vec<Definition>,
        requests: impl Fn(Abilities, &[String]) -> Vec<Request>,
    ) -> Result<Gate, GateError> {
        let wall = WallClock::watch()?;
        let mut abilities = Abilities::best(persistent);
        loop {
            let generation = self.kernel.generation().map_err(unread)?;
            let requests = requests(abilities, &self.kernel.egress(devices, abilities));
            match self.kernel.commit(&requests) {
                Ok(()) => {
                    return Ok(Gate {
                        kernel: self.kernel,
                        _lock: self.lock,
                        wall,
                        id,
                        abilities,
                        groups: groups.to_vec(),
                        devices: devices.clone(),
                        held,
                        local: Local::default(),
                        deaf: BTreeSet::new(),
                        deadline: None,
                        generation: generation.checked_add(1).unwrap_or(1),
                    });
                }
                Err(failure) => match weaker(abilities, &requests, &failure) {
                    Some(less) => abilities = less,
                    None => return Err(refusal(&requests, failure)),
                },
            }
        }
    }
}

/// What is left to try when the kernel refused something that older ones do not have.
pub(super) fn weaker(abilities: Abilities, requests: &[Request], failure: &Failure) -> Option<Abilities> {
    let Failure::Refused(refused) = failure else { return None };
    let (place, errno) = refused.iter().min_by_key(|(place, _)| *place)?;
    let request = requests.get(*place)?;
    let unknown = matches!(*errno, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOENT);
    let message = &request.message;
    if matches!(message, NfTablesMessage::NewTable(_)) && unknown && abilities.persistent {
        return Some(Abilities { persistent: false, ..abilities });
    }
    if matches!(message, NfTablesMessage::NewChain(_)) && request.table == Table::Netdev && abilities.egress {
        if *errno == Errno::NOENT && abilities.absent {
            return Some(Abilities { absent: false, ..abilities });
        }
        return (*errno == Errno::OPNOTSUPP).then_some(Abilities { egress: false, ..abilities });
    }
    if matches!(message, NfTablesMessage::NewRule(_)) && request.table == Table::Inet && unknown && abilities.fib {
        return Some(Abilities { fib: false, ..abilities });
    }
    None
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("found", &self.found()).finish_non_exhaustive()
    }
}
