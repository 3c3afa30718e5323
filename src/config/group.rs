//! A VIP group as configured, whichever file it came from, and the rules that hold between groups.

mod check;

use super::address::Placing;
use super::diagnostic::{Located, Place};
use super::notify::Notify;
use super::track::Track;
use crate::kernel::address::Vip;
use crate::kernel::routing::Routing;
use crate::vrrp::advert::Format;
use crate::vrrp::checksum::Form;
use crate::vrrp::hmac;
use crate::vrrp::router::Parameters;
use crate::vrrp::timing::Timing;
use crate::vrrp::unicast::Unicast;
use crate::vrrp::{Auth, LegacyPeers, Version};
use hamesh_raft::command::{Definition, Family, GroupName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

pub(super) use check::{NAME_HELP, check, check_mail, is_group_name, is_interface_name};

/// The priority of whose own addresses the VIPs are (RFC 9568 section 6.1).
pub(super) const OWNER: u8 = 255;
/// When none is given.
pub(super) const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// When none is given; keepalived's.
pub(super) const DEFAULT_PRIORITY: u8 = 100;

/// A valid VIP group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipGroup {
    /// The LAN it is on.
    pub interface: String,
    /// Of all its addresses.
    pub family: Family,
    /// The virtual router's id, 1 to 255; one group per interface and family has it.
    pub vrid: u8,
    /// The device that is made for the virtual router's own MAC and has the VIPs (RFC 9568 section 7.3); without one they are
    /// on `interface` and answer with its MAC.
    pub virtual_mac: Option<String>,
    /// Its adverts come from `interface` all the same, with that one's MAC.
    pub plain_adverts: bool,
    /// Whether it is in FAULT while `interface` is down.
    pub needs_interface: bool,
    /// Of VRRP.
    pub version: Version,
    /// Between two adverts. Version 2: whole seconds, 1 to 255. Version 3: 10 ms to 40.95 s in steps of 10 ms.
    pub interval: Duration,
    /// The VIPs with their prefix lengths, in the order they are advertised: at most 255, and none where scripts move what
    /// stands for the group.
    pub addresses: Vec<(IpAddr, u8)>,
    /// What moves along and is not advertised, of either family, with prefix lengths.
    pub excluded: Vec<(IpAddr, u8)>,
    /// What is said of some of them beside.
    pub placings: BTreeMap<IpAddr, Placing>,
    /// This node's, 1 to 255. A node without one is never a candidate.
    pub priority: Option<u8>,
    /// Whether packets to its addresses are taken; an owner, priority 255, takes them anyway.
    pub accept: bool,
    /// Whether a living MASTER of lower priority is left alone.
    pub nopreempt: bool,
    /// Version 2 only.
    pub auth: Auth,
    /// The trailer that adverts have, of either version.
    pub hmac: Option<hmac::Settings>,
    /// What we send; version 3 only.
    pub checksum: Form,
    /// Who outside the mesh is obeyed.
    pub legacy_peers: LegacyPeers,
    /// Directors that do not hold it are real servers of its services all the same, by direct forwarding.
    pub localnode: bool,
    /// Where its adverts come from, instead of the interface's first address.
    pub source: Option<IpAddr>,
    /// To whom, instead of all VRRP routers of the LAN.
    pub unicast: Option<Unicast>,
    /// Which routers of the LAN, where not those of RFC 9568.
    pub multicast: Option<IpAddr>,
    /// Its delays, and its bursts of announcements.
    pub timing: Timing,
    /// Groups with the same announce themselves one after the other, whatever their interfaces are.
    pub pace: Option<String>,
    /// What its priority depends on.
    pub track: Vec<Track>,
    /// Who is told of its states.
    pub notify: Notify,
    /// Routes and rules that are where it is MASTER.
    pub routing: Routing,
    /// The sync group that it is in: it moves with that one's lease, and not alone.
    pub sync: Option<GroupName>,
    /// After so long without any member it is served by VRRP alone, and two directors may own it. `None`: without a quorum
    /// it is dark.
    pub quorum_loss: Option<Duration>,
}

impl VipGroup {
    /// The name of the lease that it moves with, where this is the group `name`.
    pub fn lease<'a>(&'a self, name: &'a str) -> &'a str {
        self.sync.as_deref().unwrap_or(name)
    }

    /// Every address that moves with the group, advertised or not.
    pub fn all(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.addresses.iter().chain(&self.excluded).copied()
    }

    /// The interface that an address of the group is on.
    pub fn interface_of(&self, address: IpAddr) -> &str {
        self.placings.get(&address).and_then(|placing| placing.device.as_deref()).unwrap_or(&self.interface)
    }

    /// What of its addresses is on an interface; those on its own are on its device, where it has one.
    pub fn on<'a>(&'a self, interface: &'a str) -> impl Iterator<Item = Vip> + 'a {
        let vip = move |(address, prefix)| {
            let look = self.placings.get(&address).map(|placing| placing.look).unwrap_or_default();
            Vip { address, prefix, look }
        };
        self.all().map(vip).filter(move |vip| self.interface_of(vip.address) == interface)
    }

    /// The interfaces beside its own that have some of its addresses.
    pub fn elsewhere(&self) -> BTreeSet<&str> {
        self.placings.values().filter_map(|placing| placing.device.as_deref()).collect()
    }

    /// Whether packets to its addresses are taken here.
    pub fn accepts(&self) -> bool {
        self.accept || self.priority == Some(OWNER)
    }

    /// The routers that its adverts go to by multicast.
    pub fn routers(&self) -> IpAddr {
        self.multicast.unwrap_or(crate::vrrp::group(self.family))
    }

    /// Whether it goes on while an interface beside its own is down.
    pub fn does_without(&self, interface: &str) -> bool {
        let untracked = |vip: Vip| self.placings.get(&vip.address).is_some_and(|placing| placing.untracked);
        self.on(interface).all(untracked)
    }

    /// The group as the cluster compares it: every node's must be the same.
    pub fn definition(&self) -> Definition {
        let mut addresses: Vec<IpAddr> = self.all().map(|(address, _)| address).collect();
        addresses.sort_unstable();
        Definition { family: self.family, vrid: self.vrid, addresses }
    }

    /// The device with the virtual MAC, and that MAC: 00-00-5e-00-01-VRID, or 00-00-5e-00-02-VRID for IPv6.
    pub fn virtual_mac(&self) -> Option<(&str, [u8; 6])> {
        let family = match self.family {
            Family::V4 => 1,
            Family::V6 => 2,
        };
        self.virtual_mac.as_deref().map(|device| (device, [0, 0, 0x5e, 0, family, self.vrid]))
    }

    /// The group's form on the wire.
    pub fn format(&self) -> Format {
        let Self { family, version, vrid, interval, auth, checksum, .. } = *self;
        let addresses = self.addresses.iter().map(|(address, _)| *address).collect();
        Format { family, version, vrid, interval, auth, checksum, addresses, unicast: self.unicast.clone() }
    }

    /// What the virtual router is run with, sending from `source`; `None` where this node is no candidate.
    pub fn parameters(&self, source: IpAddr) -> Option<Parameters> {
        Some(Parameters {
            version: self.version,
            priority: self.priority?,
            interval: self.interval,
            preempt: !self.nopreempt,
            legacy_peers: self.legacy_peers.clone(),
            source,
            timing: self.timing,
        })
    }
}

/// A group as read, perhaps with holes where something was wrong.
pub(super) struct Draft {
    pub name: Located<String>,
    pub interface: Option<Located<String>>,
    pub vrid: Option<Located<u8>>,
    /// An empty name is that of keepalived.
    pub virtual_mac: Option<Located<String>>,
    pub plain_adverts: Option<Place>,
    pub needs_interface: bool,
    pub version: Version,
    pub interval: Located<Duration>,
    pub addresses: Vec<Located<(IpAddr, u8)>>,
    pub excluded: Vec<Located<(IpAddr, u8)>>,
    /// With those that say nothing, or that it is where it is anyway.
    pub placings: BTreeMap<IpAddr, Placing>,
    pub priority: Option<u8>,
    pub accept: bool,
    pub nopreempt: bool,
    pub auth: Auth,
    pub hmac: Option<hmac::Settings>,
    pub checksum: Form,
    pub legacy_peers: LegacyPeers,
    pub localnode: bool,
    pub source: Option<Located<IpAddr>>,
    pub unicast: Option<Located<Unicast>>,
    pub multicast: Option<Located<IpAddr>>,
    pub timing: Timing,
    pub pace: Option<String>,
    pub track: Vec<Track>,
    pub notify: Notify,
    pub routing: Routing,
    pub sync: Option<GroupName>,
    pub quorum_loss: Option<Located<Duration>>,
}

impl Draft {
    /// Every address that moves with the group, advertised or not.
    pub fn all(&self) -> impl Iterator<Item = &Located<(IpAddr, u8)>> {
        self.addresses.iter().chain(&self.excluded)
    }

    /// That of the first address; [`check()`] sees to the others. Without any, that of the routers.
    pub fn family(&self) -> Option<Family> {
        let peer = || self.unicast.as_ref().and_then(|unicast| Some(unicast.value.peers.first()?.address));
        let router = || peer().or(self.multicast.as_ref().map(|group| group.value));
        let first = self.addresses.first().map(|first| first.value.0).or_else(router);
        Some(first.map_or(Family::V4, Family::of))
    }

    /// The name of the device with the virtual MAC, which keepalived calls so too.
    pub fn device(&self) -> Option<String> {
        self.device_with("vrrp")
    }

    /// The same, where one without a name has another prefix.
    pub fn device_with(&self, prefix: &str) -> Option<String> {
        let given = self.virtual_mac.as_ref()?;
        if !given.value.is_empty() {
            return Some(given.value.clone());
        }
        let six = match self.family()? {
            Family::V4 => "",
            Family::V6 => "6",
        };
        Some(format!("{prefix}{six}.{}", self.vrid.as_ref()?.value))
    }

    /// The other interface that an address is on.
    fn device_of(&self, address: IpAddr) -> Option<&String> {
        let device = self.placings.get(&address)?.device.as_ref()?;
        let own = self.interface.as_ref().is_some_and(|own| own.value == *device);
        (!own && self.device().as_ref() != Some(device)).then_some(device)
    }

    /// What is said of an address that is not so anyway.
    fn placing(&self, address: IpAddr, given: &Placing) -> Option<Placing> {
        let device = self.device_of(address).cloned();
        let placing = Placing { untracked: given.untracked && device.is_some(), device, look: given.look };
        (placing != Placing::default()).then_some(placing)
    }

    /// `None` when a part is missing, which was noted where it was missed.
    pub fn build(self) -> Option<(String, VipGroup)> {
        let placings = self.placings.iter();
        let placings = placings.filter_map(|(address, given)| Some((*address, self.placing(*address, given)?)));
        let placings = placings.collect();
        let group = VipGroup {
            placings,
            plain_adverts: self.plain_adverts.is_some(),
            needs_interface: self.needs_interface,
            virtual_mac: self.device(),
            family: self.family()?,
            interface: self.interface?.value,
            vrid: self.vrid?.value,
            version: self.version,
            interval: self.interval.value,
            addresses: self.addresses.into_iter().map(|address| address.value).collect(),
            excluded: self.excluded.into_iter().map(|address| address.value).collect(),
            priority: self.priority,
            accept: self.accept,
            nopreempt: self.nopreempt,
            auth: self.auth,
            hmac: self.hmac,
            checksum: self.checksum,
            legacy_peers: self.legacy_peers,
            localnode: self.localnode,
            source: self.source.map(|source| source.value),
            multicast: self.multicast.filter(|_| self.unicast.is_none()).map(|group| group.value),
            unicast: self.unicast.map(|unicast| unicast.value),
            timing: self.timing,
            pace: self.pace,
            track: self.track,
            notify: self.notify,
            routing: self.routing,
            sync: self.sync,
            quorum_loss: self.quorum_loss.map(|after| after.value),
        };
        Some((self.name.value, group))
    }
}

/// `203.0.113.10/24` or `2001:db8::10/64`; without a length, that of a host.
pub(super) fn address(text: &str) -> Result<(IpAddr, u8), String> {
    let (ip, length) = text.split_once('/').map_or((text, None), |(ip, length)| (ip, Some(length)));
    let ip: IpAddr = ip.parse().map_err(|_| format!("`{text}` is not an address"))?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => longest,
        Some(length) => match length.parse::<u8>() {
            Ok(bits) if (1..=longest).contains(&bits) => bits,
            Ok(_) | Err(_) => return Err(format!("prefix length `{length}` is not between 1 and {longest}")),
        },
    };
    let special = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        // No host has these: they are IPv4 addresses in the clothes of programs.
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
    };
    if special || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
        return Err(format!("`{ip}` cannot be a virtual address"));
    }
    Ok((ip, length))
}
