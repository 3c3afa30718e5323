//! The part of the file that a guard reads: keepalived serves it, all of it, so what a lease and an announcement do not
//! depend on is keepalived's alone.

use super::group::Draft;
use super::syntax::{Statement, Word};
use super::{timing, unicast};
use hamesh_raft::command::Family;

/// Of `global_defs`, beside its defaults for announcements.
const GLOBAL: [&str; 8] = [
    "vrrp_strict",
    "vrrp_mcast_group4",
    "vrrp_mcast_group6",
    "vrrp_version",
    "v3_checksum_as_v2",
    "vrrp_check_unicast_src",
    "vmac_prefix",
    // What would have it elsewhere than we look: it is refused.
    "net_namespace",
];

/// Of `vrrp_instance`, beside its announcements and its unicast.
const INSTANCE: [&str; 19] = [
    "strict_mode",
    "dont_track_primary",
    "use_vmac",
    "state",
    "interface",
    "virtual_router_id",
    "priority",
    "advert_int",
    "version",
    "vrrp_version",
    "authentication",
    "virtual_ipaddress",
    "virtual_ipaddress_excluded",
    "preempt",
    "nopreempt",
    "v3_checksum_as_v2",
    // As above.
    "no_virtual_ipaddress",
    "use_vmac_addr",
    "use_ipvlan",
];

/// What of the file there is to read.
pub(super) fn part(file: Vec<Statement>) -> Vec<Statement> {
    let of = |mut statement: Statement| {
        let (known, more): (&[&str], &[&[&str]]) = match statement.keyword.text.as_str() {
            "global_defs" => (&GLOBAL, &[&timing::GLOBAL]),
            "vrrp_instance" => (&INSTANCE, &[&timing::INSTANCE, &unicast::KNOWN]),
            "garp_group" => return Some(statement),
            "vrrp_sync_group" => (&["group"], &[]),
            _ => return None,
        };
        if let Some(block) = &mut statement.block {
            block.retain(|line| {
                known.iter().chain(more.iter().copied().flatten()).any(|word| *word == line.keyword.text)
            });
            let lists = block.iter_mut().filter(|line| line.keyword.text.starts_with("virtual_ipaddress"));
            for address in lists.filter_map(|list| list.block.as_mut()).flatten() {
                address.arguments = place(std::mem::take(&mut address.arguments));
            }
        }
        Some(statement)
    };
    file.into_iter().filter_map(of).collect()
}

/// Where an address is, and whether keepalived needs that interface; what else it is given is for keepalived's eyes.
fn place(arguments: Vec<Word>) -> Vec<Word> {
    let mut kept = Vec::new();
    let mut words = arguments.into_iter();
    while let Some(word) = words.next() {
        match word.text.as_str() {
            "dev" => kept.extend([word].into_iter().chain(words.next())),
            "no_track" => kept.push(word),
            _ => {}
        }
    }
    kept
}

/// Gives devices with virtual MACs the names that keepalived does: the first that is free of `vrrp.VRID`, for IPv6
/// `vrrp6.VRID`, then `vrrp1.VRID` and on; `prefix` is `vrrp`, or what the file has for it.
pub(super) fn name_devices(groups: &mut [Draft], prefix: &str) {
    let given = groups.iter().filter_map(|group| Some(group.virtual_mac.as_ref()?.value.clone()));
    let mut taken: Vec<String> = given.filter(|name| !name.is_empty()).collect();
    for group in groups {
        let six = group.family() == Some(Family::V6);
        let (Some(device), Some(vrid)) = (&mut group.virtual_mac, &group.vrid) else { continue };
        if device.value.is_empty() {
            let numbers = [0].into_iter().chain(six.then_some(6)).chain((1..=u8::MAX).filter(|number| *number != 6));
            let name = |number: u8| if number == 0 { String::new() } else { number.to_string() };
            let mut names = numbers.map(|number| format!("{prefix}{}.{}", name(number), vrid.value));
            device.value = names.find(|name| !taken.contains(name)).unwrap_or_default();
            taken.push(device.value.clone());
        }
    }
}
