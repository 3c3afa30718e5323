//! The rules within each VIP group and between them.

use super::Draft;
use crate::config::diagnostic::{Diagnostic, Located, Log};
use crate::config::duration;
use crate::config::notify::{Notifications, mailed_to_nobody};
use crate::vrrp::Version;
use crate::vrrp::advert::MAX_ADDRESSES;
use hamesh_raft::command::Family;
use std::net::{IpAddr, SocketAddr};

/// The longest name of an interface (IFNAMSIZ less the closing zero).
const INTERFACE_NAME: usize = 15;

/// Checks all of them. `listen` is where this node's mesh listens.
pub(in crate::config) fn check(drafts: &[Draft], listen: Option<&Located<SocketAddr>>, log: &Log) {
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
pub(in crate::config) const NAME_HELP: &str = "use up to 64 letters, digits, `-`, `_` and `.`";

/// Whether a VIP group, or a sync group, can be called so.
pub(in crate::config) fn is_group_name(name: &str) -> bool {
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
    let elsewhere =
        all.iter().flat_map(|other| other.all().map(move |address| (other.device_of(address.value.0), address)));
    let elsewhere = elsewhere.filter(|(on, _)| *on == Some(&device)).map(|(_, address)| &address.place);
    let parents = all.iter().filter_map(|other| other.interface.as_ref()).filter(|i| i.value == device);
    if let Some(place) = parents.map(|parent| &parent.place).chain(elsewhere).next() {
        let error = Diagnostic::error(&given.place, format!("`{device}` is an interface already"));
        log.add(error.see(place, "here").help(help));
    }
}

pub(in crate::config) fn is_interface_name(name: &str) -> bool {
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
            log.add(warning.help(
                "what others remove is put back; it says that the group goes on without the interface after `dev`",
            ));
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
pub(in crate::config) fn check_mail(drafts: &[Draft], notify: &Notifications, log: &Log) {
    for draft in drafts.iter().filter(|draft| draft.notify.mail && notify.mail.is_none()) {
        log.add(mailed_to_nobody(&draft.name));
    }
}
