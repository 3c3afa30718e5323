//! `cluster.toml`: what is the same on every node.

use super::address::{self, Placing};
use super::bfd;
use super::diagnostic::{Diagnostic, Located, Log, Source};
use super::duration;
use super::fixed::{self, Fixed};
use super::group::{self, DEFAULT_INTERVAL, DEFAULT_PRIORITY};
use super::ipvs;
use super::notify::{self, Notifications};
use super::profile::{LONGEST_TTL, LeaseProfile, PROFILES};
use super::reader::{Section, Value, parse};
use super::route;
use super::service;
use super::sync;
use super::timing;
use super::track::{self, Script, Things};
use crate::kernel::routing::Routing;
use crate::vrrp::checksum::Form;
use crate::vrrp::hmac;
use crate::vrrp::unicast::{Peer, Unicast};
use crate::vrrp::{Auth, LegacyPeers, Password, Version};
use hamesh_raft::command::Family;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// This node, where it may hold VIPs.
#[derive(Clone, Copy)]
pub(super) struct Director<'a> {
    pub name: &'a str,
    pub rack: &'a str,
}

/// The file as read.
pub(super) struct Cluster {
    pub lease: LeaseProfile,
    pub groups: Vec<group::Draft>,
    pub services: Vec<service::Draft>,
    pub health: service::HealthMesh,
    pub ipvs: ipvs::Ipvs,
    pub scripts: BTreeMap<String, Script>,
    pub bfd: BTreeMap<String, bfd::Settings>,
    /// Of this node.
    pub fixed: Fixed,
    pub delays: BTreeMap<String, track::Delays>,
    pub notify: Notifications,
    pub syncs: Vec<sync::Draft>,
}

/// Reads the file; `None` after syntax errors. `director` is this node, if it may hold VIPs.
pub(super) fn read(source: &Arc<Source>, director: Option<Director<'_>>, log: &Log) -> Option<Cluster> {
    let table = parse(source, log)?;
    let root = Section::root(&table, source, log);
    let lease = root.section("lease").map_or_else(LeaseProfile::default, |section| read_lease(section, log));
    let sections = |key| root.section(key).map(|section| section.sections()).unwrap_or_default();
    let script = |(name, section): (Located<String>, _)| Some((name.value, track::read_script(section, log)?));
    let scripts = sections("track_script").into_iter().filter_map(script).collect();
    let session = |(name, section)| bfd::read(name, section, director, log);
    let things = Things { scripts, bfd: bfd::collect(sections("bfd").into_iter().filter_map(session), log) };
    let group = |(name, section)| read_group(name, section, director, lease, &things, log);
    let groups = sections("vip").into_iter().map(group).collect();
    let sync = |(name, section)| sync::read(name, section, &things, log);
    let syncs = sections("sync").into_iter().map(sync).collect();
    let service = |(name, section)| service::read(name, section, &things.bfd, log);
    let services = sections("service").into_iter().map(service).collect();
    let health = root.section("health").map(|section| service::read_mesh(section, log)).unwrap_or_default();
    let notify = root.section("notify").map(|section| notify::read(section, log)).unwrap_or_default();
    let ipvs = root.section("ipvs").map(|section| ipvs::read(section, log)).unwrap_or_default();
    let delays = sections("interface").into_iter();
    let delays = delays.filter_map(|(name, section)| Some((name.value, track::read_delays(section, log)?))).collect();
    let fixed = sections("static").into_iter().map(|(node, section)| (node.value, fixed::read(section, log)));
    let fixed =
        fixed.collect::<Vec<_>>().into_iter().find(|(node, _)| director.is_some_and(|director| director.name == node));
    let fixed = fixed.map(|(_, fixed)| fixed).unwrap_or_default();
    root.close();
    let Things { scripts, bfd } = things;
    Some(Cluster { lease, groups, services, health, ipvs, scripts, bfd, fixed, delays, notify, syncs })
}

fn read_lease(section: Section<'_>, log: &Log) -> LeaseProfile {
    let profile = section.get("profile").and_then(|value| value.choice(&PROFILES));
    let ttl = section.get("ttl").and_then(Value::duration);
    let damping = section.get("damping").and_then(Value::duration).and_then(|d| timing::bounded(d, "damping", log));
    section.close();
    let lease = lease_of(profile, ttl, log);
    LeaseProfile { damping: damping.unwrap_or(lease.damping), ..lease }
}

fn lease_of(profile: Option<Located<LeaseProfile>>, ttl: Option<Located<Duration>>, log: &Log) -> LeaseProfile {
    match (profile, ttl) {
        (None, None) => LeaseProfile::default(),
        (Some(profile), None) => profile.value,
        (Some(profile), Some(ttl)) => {
            let error = Diagnostic::error(&ttl.place, "`lease.profile` and `lease.ttl` exclude each other");
            log.add(error.see(&profile.place, "this sets a ttl already"));
            profile.value
        }
        (None, Some(ttl)) => custom_lease(&ttl, log),
    }
}

fn custom_lease(ttl: &Located<Duration>, log: &Log) -> LeaseProfile {
    if ttl.value > LONGEST_TTL {
        let message = format!("a lease of {} is too long", duration::show(ttl.value));
        let help =
            format!("after a crash the addresses are dark for as long; the longest is {}", duration::show(LONGEST_TTL));
        log.add(Diagnostic::error(&ttl.place, message).help(help));
    }
    LeaseProfile::with_ttl(ttl.value).unwrap_or_else(|shortest| {
        let message = format!("a lease of {} is too short", duration::show(ttl.value));
        let help =
            format!("a gate that shuts before its end needs its margins: use {} or more", duration::show(shortest));
        log.add(Diagnostic::error(&ttl.place, message).help(help));
        LeaseProfile::default()
    })
}

fn read_group(
    name: Located<String>,
    section: Section<'_>,
    director: Option<Director<'_>>,
    lease: LeaseProfile,
    things: &Things,
    log: &Log,
) -> group::Draft {
    let version = section.get("version").and_then(|value| value.integer(2..=3u8));
    let version = if version.is_some_and(|v| v.value == 2) { Version::V2 } else { Version::V3 };
    let interval = section.get("advertisement_interval").and_then(Value::duration);
    let checksum = section.get("checksum").and_then(|value| value.choice(&CHECKSUMS));
    if let Some(checksum) = checksum.as_ref().filter(|_| version == Version::V2) {
        log.add(
            Diagnostic::error(&checksum.place, "VRRP version 2 has one form of checksum").help("remove `checksum`"),
        );
    }
    let interface = section.required("interface").and_then(Value::string);
    let vrid = section.required("vrid").and_then(|value| value.integer(1..=255));
    let mut placings = BTreeMap::new();
    let addresses =
        section.required("addresses").map(|value| read_addresses(value, &mut placings, log)).unwrap_or_default();
    let excluded = section.get("excluded_addresses");
    let excluded = excluded.map(|value| read_addresses(value, &mut placings, log)).unwrap_or_default();
    let family = addresses.first().map(|first| Family::of(first.value.0));
    let link_local = family.filter(|_| section.get("unicast").is_none());
    if let Some(checksum) = checksum.as_ref().filter(|_| family == Some(Family::V6)) {
        log.add(
            Diagnostic::error(&checksum.place, "over IPv6 VRRP has one form of checksum").help("remove `checksum`"),
        );
    }
    let interval = interval.unwrap_or_else(|| Located { value: DEFAULT_INTERVAL, place: name.place.clone() });
    let authentication = section.get("authentication");
    let (auth, hmac) =
        authentication.and_then(|value| read_auth(value, version, interval.value, log)).unwrap_or_default();
    let draft = group::Draft {
        interface,
        vrid,
        virtual_mac: section.get("virtual_mac").and_then(read_virtual_mac),
        plain_adverts: section
            .get("plain_adverts")
            .and_then(Value::boolean)
            .filter(|plain| plain.value)
            .map(|plain| plain.place),
        needs_interface: section.get("needs_interface").and_then(Value::boolean).is_none_or(|needs| needs.value),
        version,
        interval,
        addresses,
        excluded,
        placings,
        priority: read_rack_weight(&section, read_priority(&section, &name.value, director, log), director, log),
        accept: section.get("accept").and_then(Value::boolean).is_none_or(|accept| accept.value),
        nopreempt: section.get("nopreempt").and_then(Value::boolean).is_some_and(|value| value.value),
        auth,
        hmac,
        checksum: checksum.map(|form| form.value).unwrap_or_default(),
        legacy_peers: section
            .get("legacy_peers")
            .and_then(|value| read_peers(value, link_local, log))
            .map_or(LegacyPeers::Any, LegacyPeers::Only),
        localnode: section.get("localnode").and_then(Value::boolean).is_some_and(|value| value.value),
        source: section.get("source").and_then(|value| read_source(value, director)),
        unicast: section.get("unicast").and_then(read_unicast),
        multicast: section.get("multicast").and_then(|value| value.parsed("an address", "224.0.0.77")),
        timing: timing::read(&section, log),
        pace: section.get("pace").and_then(Value::string).map(|pace| pace.value),
        track: section.get("track").map(|value| track::read_list(value, things, log)).unwrap_or_default(),
        notify: section.get("notify").map(|value| notify::read_group(value, log)).unwrap_or_default(),
        routing: Routing {
            routes: section.get("routes").map(|value| route::read_list(value, route::route, log)).unwrap_or_default(),
            rules: section
                .get("rules")
                .map(|value| route::read_list(value, route::numbered_rule, log))
                .unwrap_or_default(),
        },
        sync: None,
        quorum_loss: read_quorum_loss(&section, lease, log),
        name,
    };
    section.close();
    draft
}

/// When none is given.
const DEFAULT_QUORUM_LOSS_AFTER: Duration = Duration::from_secs(10);

/// After how long without any member the group goes by VRRP alone, if it is to.
fn read_quorum_loss(section: &Section<'_>, lease: LeaseProfile, log: &Log) -> Option<Located<Duration>> {
    let policy = section.get("quorum_loss").and_then(|value| value.choice(&QUORUM_LOSS));
    let after = section.get("quorum_loss_after").and_then(Value::duration);
    let Some(policy) = policy.filter(|policy| policy.value) else {
        if let Some(after) = after {
            let error = Diagnostic::error(&after.place, "`quorum_loss_after` has no effect without a `quorum_loss`");
            log.add(error.help("say quorum_loss = \"vrrp\", or remove it"));
        }
        return None;
    };
    let after = after.unwrap_or(Located { value: DEFAULT_QUORUM_LOSS_AFTER, place: policy.place });
    // 2 Lg, and room for an election.
    let shortest = lease.ttl * 3;
    if after.value < shortest {
        let message =
            format!("after {} without a member the lease may still be another's", duration::show(after.value));
        let help = format!("use quorum_loss_after = \"{}\" or more: three leases", duration::show(shortest));
        log.add(Diagnostic::error(&after.place, message).help(help));
    }
    timing::bounded(after.clone(), "quorum_loss_after", log).map(|value| Located { value, place: after.place })
}

const QUORUM_LOSS: [(&str, bool); 2] = [("release", false), ("vrrp", true)];

const CHECKSUMS: [(&str, Form); 2] = [("pseudo", Form::Pseudo), ("plain", Form::Plain)];

fn read_addresses(value: Value<'_>, placings: &mut BTreeMap<IpAddr, Placing>, log: &Log) -> Vec<Located<(IpAddr, u8)>> {
    let unknown = |word: &Located<String>| {
        let error = Diagnostic::error(&word.place, format!("`{}` is nothing that an address can have", word.value));
        log.add(error.help("for example \"203.0.113.10/24\" or \"203.0.113.10/24 dev eth1 label eth1:1\""));
        false
    };
    let read = |words: &[Located<String>], log: &Log| address::read(words, unknown, log);
    let mut list = Vec::new();
    for (address, placing) in route::read_list(value, read, log) {
        placings.insert(address.value.0, placing);
        list.push(address);
    }
    list
}

/// True, or the name of the device.
fn read_virtual_mac(value: Value<'_>) -> Option<Located<String>> {
    if value.is_boolean() {
        return value.boolean().filter(|yes| yes.value).map(|yes| yes.map(|_| String::new()));
    }
    value.string()
}

/// Adverts come from the routers' own addresses, over IPv6 from link-local ones (RFC 9568 section 5.1.2.1).
fn read_peers(value: Value<'_>, group: Option<Family>, log: &Log) -> Option<Vec<IpAddr>> {
    let peers: Vec<Located<IpAddr>> =
        value.list()?.into_iter().filter_map(|item| item.parsed("an address", "10.0.0.12")).collect();
    for Located { value: peer, place } in &peers {
        let (fits, what) = match group {
            Some(Family::V4) => (peer.is_ipv4(), "an IPv4 address"),
            Some(Family::V6) => (
                matches!(peer, IpAddr::V6(peer) if peer.is_unicast_link_local()),
                "a link-local IPv6 address, fe80::/10",
            ),
            None => continue,
        };
        if !fits {
            log.add(
                Diagnostic::error(place, format!("adverts of this group never come from `{peer}`"))
                    .help(format!("name {what}: the one that the peer sends from")),
            );
        }
    }
    Some(peers.into_iter().map(|peer| peer.value).collect())
}

/// One address, or one for each node; a node without one takes the interface's.
pub(super) fn read_source(value: Value<'_>, director: Option<Director<'_>>) -> Option<Located<IpAddr>> {
    let address = |value: Value<'_>| value.parsed("an address", "10.0.0.11");
    if !value.is_table() {
        return address(value);
    }
    let nodes: Vec<_> =
        value.table()?.entries().into_iter().filter_map(|(node, value)| Some((node.value, address(value)?))).collect();
    nodes.into_iter().find(|(node, _)| director.is_some_and(|director| director.name == node)).map(|(_, source)| source)
}

/// `{ peers = ["10.0.0.11", { address = "10.1.0.12", min_ttl = 250 }] }`.
fn read_unicast(value: Value<'_>) -> Option<Located<Unicast>> {
    let place = value.place.clone();
    let section = value.table()?;
    let ttl =
        |section: &Section<'_>, key| section.get(key).and_then(|value| value.integer(0..=255)).map(|ttl| ttl.value);
    let peer = |item: Value<'_>| {
        if !item.is_table() {
            return item.parsed::<IpAddr>("an address", "10.0.0.12").map(|address| Peer::from(address.value));
        }
        let table = item.table()?;
        let address = table.required("address").and_then(|value| value.parsed("an address", "10.0.0.12"));
        let (least, most) = (ttl(&table, "min_ttl"), ttl(&table, "max_ttl"));
        table.close();
        Some(Peer { address: address?.value, min_ttl: least.unwrap_or(0), max_ttl: most.unwrap_or(u8::MAX) })
    };
    let peers = section.required("peers").and_then(Value::list)?.into_iter().filter_map(peer);
    let mut unicast = Unicast::to(peers);
    if let Some(check) = section.get("check_source").and_then(Value::boolean) {
        unicast.check_source = check.value;
    }
    unicast.ttl = ttl(&section, "ttl").unwrap_or(unicast.ttl);
    section.close();
    Some(Located { value: unicast, place })
}

/// One number for every node, or one for each that may hold the group.
fn read_priority(section: &Section<'_>, group: &str, director: Option<Director<'_>>, log: &Log) -> Option<u8> {
    let Some(value) = section.get("priority") else {
        return director.map(|_| DEFAULT_PRIORITY);
    };
    if !value.is_table() {
        let number = value.integer(1..=255)?;
        return director.map(|_| number.value);
    }
    let place = value.place.clone();
    let entries = value.table()?.entries();
    let nodes: Vec<_> =
        entries.into_iter().filter_map(|(node, v)| Some((node.value, v.integer(1..=255)?.value))).collect();
    let director = director?.name;
    let mine = nodes.iter().find(|(node, _)| node == director).map(|(_, priority)| *priority);
    if mine.is_none() {
        let message = format!("this node, `{director}`, has no priority for `{group}` and will never hold it");
        log.add(Diagnostic::warning(&place, message));
    }
    mine
}

/// `{ r1 = 50, r2 = -20 }`: which racks the group prefers. Added to the priority of the directors that stand there.
fn read_rack_weight(
    section: &Section<'_>,
    priority: Option<u8>,
    director: Option<Director<'_>>,
    log: &Log,
) -> Option<u8> {
    let Some(value) = section.get("rack_weight") else { return priority };
    let entries = value.table()?.entries();
    let racks: Vec<_> =
        entries.into_iter().filter_map(|(rack, v)| Some((rack.value, v.integer(-254..=254)?))).collect();
    let rack = director?.rack;
    let (priority, Some((_, weight))) = (priority?, racks.into_iter().find(|(name, _)| name == rack)) else {
        return priority;
    };
    let sum = i16::from(priority) + weight.value;
    u8::try_from(sum).ok().filter(|sum| *sum > 0).or_else(|| {
        let message = format!("with the weight of rack `{rack}` this node's priority is {sum}");
        log.add(Diagnostic::error(&weight.place, message).help("a priority is 1 to 255: change one of the two"));
        None
    })
}

/// `{ pass_file = "..." }`, `{ ah_file = "..." }` or `{ hmac_files = { 1 = "..." }, active = 1 }`: the password itself never
/// stands in a configuration file.
fn read_auth(
    value: Value<'_>,
    version: Version,
    interval: Duration,
    log: &Log,
) -> Option<(Auth, Option<hmac::Settings>)> {
    let place = value.place.clone();
    let section = value.table()?;
    if section.get("hmac_files").is_some() {
        let settings = super::hmac::read(&section, &place, interval, log);
        section.close();
        return Some((Auth::None, Some(settings?)));
    }
    if version == Version::V3 {
        let error = Diagnostic::error(&place, "VRRP version 3 has no authentication (RFC 9568 section 9)");
        log.add(error.help("remove `authentication`, set version = 2, or use `hmac_files`"));
    }
    let (pass, ah) = (section.get("pass_file"), section.get("ah_file"));
    let authenticated = ah.is_some();
    if pass.is_some() == authenticated {
        let message = "`authentication` needs either `pass_file`, `ah_file` or `hmac_files`";
        log.add(Diagnostic::error(&place, message));
    }
    let file = pass.or(ah).and_then(Value::string);
    section.close();
    let file = file?;
    let path = place.source.resolve(&file.value);
    let fault = |message: String| {
        log.add(Diagnostic::error(&file.place, message));
        None
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return fault(format!("cannot read the password: {error}")),
    };
    match text.trim_end_matches(['\r', '\n']) {
        "" => fault("the password is empty".to_owned()),
        pass if pass.len() > Password::MAX => {
            fault(format!("the password has {} bytes and VRRP sends only {}", pass.len(), Password::MAX))
        }
        pass if authenticated => Some((Auth::Ah(Password::cut(pass)), None)),
        pass => Some((Auth::Pass(Password::cut(pass)), None)),
    }
}
