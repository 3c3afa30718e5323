//! `vrrp_instance`: a VIP group of its name.

use super::super::address::{self, Placing};
use super::super::group::{self, DEFAULT_INTERVAL, DEFAULT_PRIORITY, OWNER};
use super::super::notify::Notify;
use super::super::track::Track;
use super::syntax::{Statement, Word};
use super::{Globals, argument, block, check_leaf, checksum, flag, keywords, located, number, unknown, version};
use super::{authentication, duration, notify, routing, timing, track, unicast};
use crate::config::diagnostic::{Diagnostic, Located, Log, Place, nearest};
use crate::kernel::routing::Routing;
use crate::vrrp::advert::MAX_ADDRESSES;
use crate::vrrp::checksum::Form;
use crate::vrrp::{Auth, LegacyPeers, Version};
use hamesh_raft::command::Family;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// IPv6 addresses that an advert has room for in an Ethernet frame of 1500 bytes.
const MOST_IN_A_FRAME: usize = 89;

/// The statements of one `vrrp_instance`, before defaults.
#[derive(Default)]
pub(super) struct Instance {
    pub(super) master: bool,
    /// Whether it has a `state` at all.
    pub(super) stated: bool,
    pub(super) interface: Option<Located<String>>,
    pub(super) vrid: Option<Located<u8>>,
    pub(super) priority: Option<u8>,
    pub(super) interval: Option<Located<Duration>>,
    pub(super) version: Option<Version>,
    pub(super) auth: Option<Located<Auth>>,
    pub(super) hmac: Option<Located<authentication::Hmac>>,
    pub(super) checksum: Option<Form>,
    pub(super) nopreempt: Option<Place>,
    pub(super) strict: Option<bool>,
    pub(super) accept: Option<bool>,
    pub(super) owner_ignores: Option<Located<bool>>,
    pub(super) addresses: Vec<Located<(IpAddr, u8)>>,
    /// It may have none of these.
    pub(super) bare: bool,
    /// There is one that is no address.
    pub(super) misread: bool,
    pub(super) excluded: Vec<Located<(IpAddr, u8)>>,
    pub(super) placings: BTreeMap<IpAddr, Placing>,
    pub(super) virtual_mac: Option<Located<String>>,
    pub(super) plain_adverts: Option<Place>,
    pub(super) ignores_interface: bool,
    pub(super) unicast: unicast::Given,
    pub(super) timing: timing::Given,
    pub(super) track: Vec<Track>,
    pub(super) notify: Notify,
    pub(super) routing: Routing,
}

impl Instance {
    /// Blocks that add up.
    const LISTS: [&str; 9] = [
        "virtual_ipaddress",
        "virtual_ipaddress_excluded",
        "track_interface",
        "track_script",
        "track_file",
        "track_process",
        "track_bfd",
        "virtual_routes",
        "virtual_rules",
    ];
    const KNOWN: [&str; 21] = [
        "no_virtual_ipaddress",
        "strict_mode",
        "accept",
        "no_accept",
        "owner_ignore_adverts",
        "vmac_xmit_base",
        "dont_track_primary",
        "auth_hmac",
        "use_vmac",
        "state",
        "interface",
        "virtual_router_id",
        "priority",
        "advert_int",
        "version",
        "vrrp_version",
        "authentication",
        "preempt",
        "nopreempt",
        "v3_checksum_as_v2",
        "skip_check_adv_addr",
    ];

    pub(super) fn read(
        statement: &Statement,
        globals: &Globals,
        things: &track::Things,
        log: &Log,
    ) -> Option<group::Draft> {
        let name = argument(statement, log)?;
        let mut instance = Self { notify: globals.notify.instance(), ..Self::default() };
        let user = globals.script_user.as_deref();
        let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
        for line in block(statement, log) {
            let keyword = line.keyword.text.as_str();
            if let Some(earlier) = seen.insert(keyword, &line.keyword.place).filter(|_| !Self::LISTS.contains(&keyword))
            {
                let warning = Diagnostic::warning(
                    &line.keyword.place,
                    format!("`{keyword}` is given twice, the last one counts"),
                );
                log.add(warning.see(earlier, "the first one"));
            }
            match keyword {
                "state" => (instance.master, instance.stated) = (state(line, log), true),
                "interface" => instance.interface = argument(line, log),
                "virtual_router_id" => instance.vrid = number(line, log),
                "priority" => instance.priority = number(line, log).map(|priority| priority.value),
                "advert_int" => instance.interval = interval(line, log),
                "version" | "vrrp_version" => instance.version = version(line, log),
                "authentication" => instance.auth = authentication::read(line, log),
                "auth_hmac" => instance.hmac = authentication::hmac(line, log),
                "virtual_ipaddress" | "virtual_ipaddress_excluded" => instance.read_addresses(line, log),
                "virtual_routes" | "virtual_rules" => {
                    routing::read(line, &globals.priorities, &mut instance.routing, log);
                }
                "nopreempt" => instance.nopreempt = Some(line.keyword.place.clone()),
                "preempt" => instance.nopreempt = None,
                "no_virtual_ipaddress" => instance.bare = true,
                "strict_mode" => instance.strict = Some(flag(line, log)),
                "accept" | "no_accept" => instance.accept = Some(keyword == "accept"),
                "owner_ignore_adverts" => {
                    let place = line.keyword.place.clone();
                    instance.owner_ignores = Some(Located { value: flag(line, log), place });
                }
                "v3_checksum_as_v2" => instance.checksum = Some(checksum(line, log)),
                "vmac_xmit_base" => instance.plain_adverts = Some(line.keyword.place.clone()),
                "dont_track_primary" => instance.ignores_interface = true,
                "use_vmac" => instance.virtual_mac = virtual_mac(line, log),
                "skip_check_adv_addr" => {}
                _ if track::LISTS.contains(&keyword) => track::list(line, things, &mut instance.track, log),
                _ if unicast::KNOWN.contains(&keyword) => instance.unicast.read(line, log),
                _ if timing::INSTANCE.contains(&keyword) => instance.timing.read(line, log),
                _ if notify::INSTANCE.contains(&keyword) => notify::read(line, &mut instance.notify, user, log),
                _ => {
                    let known = [&Self::KNOWN[..], &Self::LISTS, &unicast::KNOWN, &timing::INSTANCE, &notify::INSTANCE]
                        .concat();
                    unknown(&line.keyword, &known, log);
                }
            }
            check_leaf(line, &timing::INSTANCE, log);
            check_leaf(line, &notify::INSTANCE, log);
            if !["authentication", "auth_hmac"].contains(&keyword) && !Self::LISTS.contains(&keyword) {
                check_leaf(line, &Self::KNOWN, log);
            }
        }
        for (keyword, missing) in [
            ("interface", !seen.contains_key("interface")),
            ("virtual_router_id", !seen.contains_key("virtual_router_id")),
            ("virtual_ipaddress", instance.addresses.is_empty() && !instance.bare && !instance.misread),
        ] {
            if missing {
                let message = format!("`vrrp_instance {}` needs `{keyword}`", name.value);
                let error = Diagnostic::error(&name.place, message);
                let help = "say `no_virtual_ipaddress` where a script moves what stands for it";
                log.add(if keyword == "virtual_ipaddress" { error.help(help) } else { error });
            }
        }
        Some(instance.complete(name, globals, log))
    }

    /// keepalived's defaults, and what it makes of statements that contradict each other.
    fn complete(mut self, name: Located<String>, globals: &Globals, log: &Log) -> group::Draft {
        // keepalived's globals are for IPv4.
        let first = self.addresses.first().map(|first| first.value.0).or(self.unicast.first());
        let six = first.is_some_and(|first| first.is_ipv6());
        let mut version = self.version.unwrap_or(if six { Version::V3 } else { globals.version });
        let priority = self.priority.unwrap_or(if self.master { OWNER } else { DEFAULT_PRIORITY });
        let strict = self.strict.unwrap_or(globals.strict);
        if strict {
            version = self.be_strict(&name, version, six, priority, log);
        }
        // What of others an owner hears.
        let ignores = match &self.owner_ignores {
            Some(given) if priority != OWNER => {
                let message = "`owner_ignore_adverts` is for priority 255: it has no effect, as in keepalived";
                log.add(Diagnostic::warning(&given.place, message));
                false
            }
            // Even where it says no.
            Some(_) => true,
            None => priority == OWNER && (strict || globals.owner_ignores),
        };
        let nopreempt = self.nopreempt.is_some() && !self.master && priority != OWNER;
        if let Some(place) = self.nopreempt.filter(|_| !nopreempt) {
            let why = if self.master { "`state MASTER`" } else { "priority 255" };
            log.add(Diagnostic::warning(&place, format!("`nopreempt` has no effect with {why}, as in keepalived")));
        }
        let auth = match self.auth {
            Some(auth) if self.hmac.is_some() => {
                let message = "`auth_hmac` is there too: this authentication is ignored, as by keepalived";
                log.add(Diagnostic::warning(&auth.place, message));
                Auth::None
            }
            Some(auth) if version == Version::V3 => {
                let message = "VRRP version 3 has no authentication: it is ignored, as by keepalived";
                log.add(Diagnostic::warning(&auth.place, message));
                Auth::None
            }
            Some(auth) => auth.value,
            None => Auth::None,
        };
        let interval = self.interval.unwrap_or_else(|| Located { value: DEFAULT_INTERVAL, place: name.place.clone() });
        let never = [(self.master, "`state MASTER`"), (nopreempt, "`nopreempt`"), (priority == OWNER, "priority 255")];
        let never = never.into_iter().find_map(|(is, why)| is.then_some(why));
        if priority == OWNER {
            let before = self.track.clone();
            self.track = self.track.drain(..).filter_map(|track| track.unweighted(true)).collect();
            if self.track != before {
                let message = "what is tracked changes no priority of 255: weights do not count, as with keepalived";
                log.add(Diagnostic::warning(&name.place, message));
            }
        }
        let family = if six { Family::V6 } else { Family::V4 };
        // keepalived's own peers compare how many there are.
        let most = if six { MOST_IN_A_FRAME } else { MAX_ADDRESSES };
        if let Some(beyond) = self.addresses.get(most) {
            let message =
                format!("an advert has room for {most} addresses: the rest is not advertised, as by keepalived");
            log.add(Diagnostic::warning(&beyond.place, message));
            self.excluded.extend(self.addresses.split_off(most));
        }
        group::Draft {
            interface: self.interface,
            vrid: self.vrid,
            virtual_mac: self.virtual_mac,
            plain_adverts: self.plain_adverts,
            needs_interface: !self.ignores_interface,
            version,
            interval: sendable(interval.clone(), version, log),
            addresses: self.addresses,
            excluded: self.excluded,
            placings: self.placings,
            priority: Some(priority),
            accept: self.accept.unwrap_or(!strict) || priority == OWNER,
            nopreempt,
            auth,
            hmac: self.hmac.and_then(|hmac| hmac.value.build(hmac.place, interval.value, log)),
            // The other versions have one form.
            checksum: if version == Version::V3 && !six {
                self.checksum.unwrap_or(globals.checksum)
            } else {
                Form::Pseudo
            },
            legacy_peers: if ignores { LegacyPeers::Only(Vec::new()) } else { LegacyPeers::Any },
            localnode: false,
            source: self.unicast.source.clone(),
            multicast: multicast(&self.unicast, globals, family),
            unicast: self.unicast.build(globals.check_source, log),
            timing: self.timing.build(&globals.timing, family, never, log),
            pace: None,
            track: self.track,
            notify: self.notify,
            routing: self.routing,
            sync: None,
            quorum_loss: None,
            name,
        }
    }

    /// A line for each address, with what is said of it beside.
    fn read_addresses(&mut self, statement: &Statement, log: &Log) {
        const KNOWN: [&str; 11] = [
            "dev",
            "scope",
            "label",
            "brd",
            "broadcast",
            "no_track",
            "home",
            "mngtmpaddr",
            "noprefixroute",
            "autojoin",
            "preferred_lft",
        ];
        let lines = block(statement, log);
        let excluded = statement.keyword.text == "virtual_ipaddress_excluded";
        let list = if excluded { &mut self.excluded } else { &mut self.addresses };
        for line in lines {
            let other = |word: &Located<String>| {
                let word = Word { text: word.value.clone(), place: word.place.clone() };
                keywords::changes_nothing(&word, log) || {
                    unknown(&word, &KNOWN, log);
                    false
                }
            };
            match address::read(&located(line), other, log) {
                Some((address, placing)) => {
                    self.placings.insert(address.value.0, placing);
                    list.push(address);
                }
                None => self.misread = true,
            }
            if line.block.is_some() {
                log.add(Diagnostic::error(&line.keyword.place, "an address has no block"));
            }
        }
    }
}

/// That of the instance, or of the file; of those that speak by unicast only their own.
fn multicast(given: &unicast::Given, globals: &Globals, family: Family) -> Option<Located<IpAddr>> {
    let usual = || globals.multicast.get(&family).filter(|_| !given.is_unicast()).cloned();
    let group = given.multicast.clone().or_else(usual);
    group.filter(|group| group.value != crate::vrrp::group(family))
}

/// The nearest that the version can send.
fn sendable(interval: Located<Duration>, version: Version, log: &Log) -> Located<Duration> {
    let (step, most) = match version {
        Version::V2 => (Duration::from_secs(1), 255),
        Version::V3 => (Duration::from_millis(10), 4095),
    };
    // Beyond what any version takes; the check of the range reports it.
    if interval.value > Duration::from_secs(255) {
        return interval;
    }
    let steps = (interval.value + step / 2).as_nanos() / step.as_nanos();
    let rounded = step * u32::try_from(steps).map_or(most, |steps| steps.clamp(1, most));
    if rounded != interval.value {
        let (asked, sent) = (duration::show(interval.value), duration::show(rounded));
        let message = format!("an advert_int of {asked} becomes {sent}, as with keepalived");
        log.add(Diagnostic::warning(&interval.place, message));
    }
    interval.map(|_| rounded)
}

fn interval(statement: &Statement, log: &Log) -> Option<Located<Duration>> {
    let word = argument(statement, log)?;
    match duration::seconds(&word.value) {
        Ok(value) => Some(Located { value, place: word.place }),
        Err(reason) => {
            log.add(Diagnostic::error(&word.place, format!("`advert_int` is not a number of seconds: {reason}")));
            None
        }
    }
}

/// `use_vmac [NAME]`; without a name, keepalived's.
fn virtual_mac(statement: &Statement, log: &Log) -> Option<Located<String>> {
    let place = statement.keyword.place.clone();
    match statement.arguments.as_slice() {
        [] => Some(Located { value: String::new(), place }),
        [name] => Some(Located { value: name.text.clone(), place: name.place.clone() }),
        [_, more, ..] => {
            log.add(Diagnostic::error(
                &more.place,
                "a virtual MAC other than RFC 9568's is not supported by this version",
            ));
            None
        }
    }
}

/// Whether it says MASTER. Beyond defaults the state means nothing: keepalived waits its turn with either.
fn state(statement: &Statement, log: &Log) -> bool {
    let Some(word) = argument(statement, log) else { return false };
    if !["MASTER", "BACKUP"].contains(&word.value.as_str()) {
        let error = Diagnostic::error(&word.place, "`state` is MASTER or BACKUP");
        log.add(error.did_you_mean(nearest(&word.value, ["MASTER", "BACKUP"])));
    }
    word.value == "MASTER"
}
