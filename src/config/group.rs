//! A VIP group as configured, whichever file it came from, and the rules that hold between groups.

use super::address::Placing;
use super::diagnostic::{Diagnostic, Located, Log, Place};
use super::duration;
use super::notify::{Notifications, Notify};
use super::track::Track;
use crate::kernel::address::Vip;
use crate::kernel::routing::Routing;
use crate::vrrp::advert::{Format, MAX_ADDRESSES};
use crate::vrrp::checksum::Form;
use crate::vrrp::hmac;
use crate::vrrp::router::Parameters;
use crate::vrrp::timing::Timing;
use crate::vrrp::unicast::Unicast;
use crate::vrrp::{Auth, LegacyPeers, Version};
use hamesh_raft::command::{Definition, Family, GroupName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The longest name of an interface (IFNAMSIZ less the closing zero).
const INTERFACE_NAME: usize = 15;

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
        let vip = |(address, prefix)| {
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

    /// That of the first address; [`check`] sees to the others. Without any, that of the routers.
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

/// The rules within each group and between them. `listen` is where this node's mesh listens.
pub(super) fn check(drafts: &[Draft], listen: Option<&Located<SocketAddr>>, log: &Log) {
    for (i, draft) in drafts.iter().enumerate() {
        let earlier = &drafts[..i];
        check_name(draft, earlier, log);
        check_interface(draft, earlier, log);
        check_virtual_mac(draft, drafts, earlier, log);
        check_interval(draft, log);
        check_family(draft, log);
        check_unicast(draft, log);
        check_multicast(draft, log);
        check_addresses(draft, earlier, listen, log);
        if let (Some(after), Some(sync)) = (&draft.quorum_loss, &draft.sync) {
            let message =
                format!("`{}` is in `{sync}`, and only a group by itself can go by VRRP alone", draft.name.value);
            log.add(
                Diagnostic::error(&after.place, message).help("remove `quorum_loss`, or take it out of the sync group"),
            );
        }
    }
}

/// What a name may be.
pub(super) const NAME_HELP: &str = "use up to 64 letters, digits, `-`, `_` and `.`";

/// Whether a VIP group, or a sync group, can be called so.
pub(super) fn is_group_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 64 && name.chars().all(allowed)
}

fn check_name(draft: &Draft, earlier: &[Draft], log: &Log) {
    let Located { value: name, place } = &draft.name;
    if !is_group_name(name) {
        let error = Diagnostic::error(place, format!("`{name}` cannot be the name of a VIP group"));
        log.add(error.help(NAME_HELP));
    }
    if let Some(twin) = earlier.iter().find(|other| other.name.value == *name) {
        let error = Diagnostic::error(place, format!("there are two VIP groups `{name}`"));
        log.add(error.see(&twin.name.place, "the other one"));
    }
}

fn check_interface(draft: &Draft, earlier: &[Draft], log: &Log) {
    let Some(interface) = &draft.interface else { return };
    let Located { value: name, place } = interface;
    if !is_interface_name(name) {
        log.add(Diagnostic::error(place, format!("`{name}` cannot be the name of an interface")));
    }
    let Some(vrid) = &draft.vrid else { return };
    let same = |other: &&Draft| {
        other.interface.as_ref().is_some_and(|i| i.value == *name)
            && other.vrid.as_ref().is_some_and(|v| v.value == vrid.value)
            && other.family() == draft.family()
    };
    if let Some(other) = earlier.iter().find(same)
        && let Some(theirs) = &other.vrid
    {
        let message = format!("virtual router {} is on `{name}` twice", vrid.value);
        let first = format!("first used by `{}`", other.name.value);
        log.add(Diagnostic::error(&vrid.place, message).see(&theirs.place, first));
    }
}

fn check_virtual_mac(draft: &Draft, all: &[Draft], earlier: &[Draft], log: &Log) {
    if let (None, Some(place)) = (&draft.virtual_mac, &draft.plain_adverts) {
        log.add(Diagnostic::warning(place, "without a virtual MAC adverts come from the interface anyway"));
    }
    let (Some(given), Some(device)) = (&draft.virtual_mac, draft.device()) else { return };
    if !is_interface_name(&device) {
        log.add(Diagnostic::error(&given.place, format!("`{device}` cannot be the name of an interface")));
    }
    let help = "give it another name: virtual_mac = \"NAME\"";
    if let Some(other) = earlier.iter().find(|other| other.device().as_ref() == Some(&device)) {
        let error = Diagnostic::error(&given.place, format!("two virtual MACs are called `{device}`"));
        log.add(error.see(&other.name.place, format!("the other is that of `{}`", other.name.value)).help(help));
    }
    let elsewhere = all.iter().flat_map(|other| other.all().map(move |address| (other.device_of(address.value.0), address)));
    let elsewhere = elsewhere.filter(|(on, _)| *on == Some(&device)).map(|(_, address)| &address.place);
    let parents = all.iter().filter_map(|other| other.interface.as_ref()).filter(|i| i.value == device);
    if let Some(place) = parents.map(|parent| &parent.place).chain(elsewhere).next() {
        let error = Diagnostic::error(&given.place, format!("`{device}` is an interface already"));
        log.add(error.see(place, "here").help(help));
    }
}

pub(super) fn is_interface_name(name: &str) -> bool {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    !(name.is_empty() || name.len() > INTERFACE_NAME || name == "." || name == ".." || name.contains(forbidden))
}

fn check_interval(draft: &Draft, log: &Log) {
    let Located { value: interval, place } = &draft.interval;
    let (allowed, fits) = match draft.version {
        Version::V2 => (
            "VRRP version 2 takes whole seconds from 1s to 255s",
            interval.subsec_nanos() == 0 && (1..=255).contains(&interval.as_secs()),
        ),
        Version::V3 => (
            "VRRP version 3 takes 10ms to 40.95s in steps of 10ms",
            interval.as_nanos().is_multiple_of(10_000_000) && (10..=40_950).contains(&interval.as_millis()),
        ),
    };
    if !fits {
        let message = format!("an advertisement interval of {} cannot be sent", duration::show(*interval));
        log.add(Diagnostic::error(place, message).help(allowed));
    }
}

/// A group is one virtual router, and that has one family (RFC 9568 section 1.2).
fn check_family(draft: &Draft, log: &Log) {
    if draft.family() == Some(Family::V6) && draft.version == Version::V2 {
        let place = draft.addresses.first().map_or(&draft.name.place, |first| &first.place);
        let error = Diagnostic::error(place, "VRRP version 2 has no IPv6");
        log.add(error.help("version 3 has: set it for this group"));
    }
    let [first, others @ ..] = &draft.addresses[..] else { return };
    let of = Family::of(first.value.0);
    for Located { value: (ip, _), place } in others.iter().filter(|other| Family::of(other.value.0) != of) {
        let error = Diagnostic::error(place, format!("`{ip}` is of another family than the group's first address"));
        let help = "make a group of its own for each family; both may have the same vrid";
        log.add(error.see(&first.place, "the first").help(help));
    }
    if of == Family::V4 {
        return;
    }
    let is_link_local = |(ip, _): (IpAddr, u8)| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let late = others.iter().find(|other| is_link_local(other.value)).filter(|_| !is_link_local(first.value));
    if let Some(late) = late {
        let message = format!("the link-local address `{}` is not the group's first address", late.value.0);
        let warning = Diagnostic::warning(&late.place, message);
        log.add(warning.help("RFC 9568 section 5.2.9 wants it first, in the same place on every router"));
    }
}

/// Routers have the family of their group and addresses of their own.
fn check_unicast(draft: &Draft, log: &Log) {
    let of = draft.family();
    let foreign = |ip: IpAddr| of.is_some_and(|of| Family::of(ip) != of);
    let virtual_one = |ip: IpAddr| draft.all().any(|vip| vip.value.0 == ip);
    let peers =
        draft.unicast.iter().flat_map(|unicast| unicast.value.peers.iter().map(|peer| (peer.address, &unicast.place)));
    for (ip, place) in peers.chain(draft.source.iter().map(|source| (source.value, &source.place))) {
        if foreign(ip) {
            log.add(Diagnostic::error(place, format!("`{ip}` is of another family than the group's addresses")));
        } else if virtual_one(ip) {
            let error = Diagnostic::error(place, format!("`{ip}` is an address of the group itself"));
            log.add(error.help("name the routers' own addresses"));
        }
    }
}

/// What goes to it does not leave the LAN: over IPv6 its scope says so, over IPv4 nothing does that could be checked.
fn check_multicast(draft: &Draft, log: &Log) {
    let Some(Located { value: group, place }) = &draft.multicast else { return };
    let stays = match group {
        IpAddr::V4(group) => group.is_multicast(),
        IpAddr::V6(group) => group.is_multicast() && group.octets()[1] & 0x0f == 2,
    };
    if draft.family().is_some_and(|family| family != Family::of(*group)) {
        let message = format!("`{group}` is of another family than the group's addresses");
        log.add(Diagnostic::error(place, message));
    } else if !stays {
        let error = Diagnostic::error(place, format!("`{group}` is no multicast group of a LAN"));
        log.add(error.help("for example 224.0.0.77, or over IPv6 ff02::77"));
    }
    if draft.unicast.is_some() {
        log.add(Diagnostic::warning(place, "adverts go by unicast: the multicast group has no effect"));
    }
}

fn check_addresses(draft: &Draft, earlier: &[Draft], listen: Option<&Located<SocketAddr>>, log: &Log) {
    for (i, Located { value: (ip, _), place }) in draft.all().enumerate() {
        let is_twin = |other: &&Located<(IpAddr, u8)>| other.value.0 == *ip;
        if draft.placings.get(ip).is_some_and(|placing| placing.untracked) && draft.device_of(*ip).is_none() {
            let warning = Diagnostic::warning(place, format!("`no_track` of `{ip}` changes nothing"));
            log.add(warning.help("what others remove is put back; it says that the group goes on without the interface after `dev`"));
        }
        if let Some(twin) = draft.all().take(i).find(is_twin) {
            let error = Diagnostic::error(place, format!("`{ip}` is listed twice"));
            log.add(error.see(&twin.place, "here already"));
            continue;
        }
        let found = earlier.iter().find_map(|group| Some((group, group.all().find(is_twin)?)));
        if let Some((group, twin)) = found {
            let error = Diagnostic::error(place, format!("`{ip}` is in two VIP groups"));
            log.add(error.see(&twin.place, format!("`{}` has it already", group.name.value)));
        }
        // The gate would shut the mesh out of this node, so no lease would ever open it again.
        if let Some(listen) = listen.filter(|listen| listen.value.ip() == *ip) {
            let error = Diagnostic::error(place, format!("`{ip}` is where this node's mesh listens"));
            let help = "let the mesh listen on an address that stays with the node";
            log.add(error.see(&listen.place, "the mesh").help(help));
        }
    }
    if let Some(beyond) = draft.addresses.get(MAX_ADDRESSES) {
        log.add(Diagnostic::error(&beyond.place, format!("an advert holds at most {MAX_ADDRESSES} addresses")));
    }
}

/// A group whose states are to be mailed, and nobody to mail them to.
pub(super) fn check_mail(drafts: &[Draft], notify: &Notifications, log: &Log) {
    for draft in drafts.iter().filter(|draft| draft.notify.mail && notify.mail.is_none()) {
        let name = &draft.name;
        let warning = Diagnostic::warning(&name.place, format!("the states of `{}` are mailed to nobody", name.value));
        log.add(warning.help("name somebody: `notify.mail`, in keepalived.conf `notification_email`"));
    }
}
