//! Where a `virtual_server` is reached: an address, marked packets, or a `virtual_server_group` of both.

use super::super::{service, sync};
use super::checks::Elsewhere;
use super::lvs::endpoint;
use super::syntax::{Statement, Word};
use super::{argument, block, check_leaf};
use crate::config::diagnostic::{Diagnostic, Located, Log, Place, nearest};
use crate::config::group;
use hamesh_raft::command::Family;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

/// What a `virtual_server` takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Entrances {
    pub listen: Vec<Located<SocketAddr>>,
    pub mark: Vec<Located<service::Mark>>,
}

/// The VIP group with the addresses: hamesh balances only what it holds. Marked packets go with the one group there is, or with one
/// of those that move together.
pub(super) fn behind(
    entrances: &Entrances,
    place: &Place,
    groups: &[group::Draft],
    syncs: &[sync::Draft],
    log: &Log,
) -> Option<Located<String>> {
    let with = |ip: IpAddr| groups.iter().find(|group| group.all().any(|address| address.value.0 == ip));
    let Some(first) = entrances.listen.first() else {
        let named =
            |sync: &sync::Draft, group: &group::Draft| sync.vips.iter().any(|vip| vip.value == group.name.value);
        let together = |sync: &sync::Draft| groups.iter().all(|group| named(sync, group));
        let Some(one) = groups.first().filter(|_| groups.len() == 1 || syncs.iter().any(together)) else {
            let names: Vec<_> = groups.iter().map(|group| format!("`{}`", group.name.value)).collect();
            let message = match names.as_slice() {
                [] => "there is no vrrp_instance that marked packets could go with".to_owned(),
                names => format!("which vrrp_instance marked packets go with is not clear: {}", names.join(" or ")),
            };
            let help = "say it in cluster.toml, with `mark` and `vip` of a service; instances that are all in one \
                        vrrp_sync_group move together, and then it does not matter";
            log.add(Diagnostic::error(place, message).help(help));
            return None;
        };
        return Some(one.name.clone());
    };
    let group = with(first.value.ip());
    for at in &entrances.listen {
        match with(at.value.ip()) {
            None => {
                let message = format!("`{}` is no virtual_ipaddress of a vrrp_instance", at.value.ip());
                log.add(Diagnostic::error(&at.place, message).help(home_for(at.value.ip(), groups)));
            }
            Some(other) if group.is_some_and(|group| group.name.value != other.name.value) => {
                let message = format!("`{}` and `{}` move apart", first.value.ip(), at.value.ip());
                let help = "give the addresses of one virtual server to one vrrp_instance";
                log.add(Diagnostic::error(&at.place, message).help(help));
            }
            Some(_) => {}
        }
    }
    group.map(|group| group.name.clone())
}

/// keepalived serves such an address on every director, whoever has it.
fn home_for(ip: IpAddr, groups: &[group::Draft]) -> String {
    let alike = |group: &&group::Draft| group.all().any(|address| address.value.0.is_ipv4() == ip.is_ipv4());
    let help = "hamesh balances only behind an address that it holds";
    match groups.iter().find(alike).or(groups.first()) {
        Some(group) => format!(
            "{help}: add `{ip}` to `virtual_ipaddress_excluded` of `{}`, whose adverts stay the same",
            group.name.value
        ),
        None => format!("{help}: give it to a vrrp_instance"),
    }
}

/// `IP [PORT]`, `fwmark N` or `group NAME`, and what it is called.
pub(super) fn entrances(
    statement: &Statement,
    elsewhere: &Elsewhere<'_>,
    log: &Log,
) -> Option<(Located<String>, Entrances)> {
    let named = |value: String, place: &Place| Located { value, place: place.clone() };
    match statement.arguments.as_slice() {
        [kind, name] if kind.text == "group" => {
            let Some(found) = elsewhere.ranges.get(&name.text) else {
                let error = Diagnostic::error(&name.place, format!("there is no `virtual_server_group {}`", name.text));
                log.add(error.did_you_mean(nearest(&name.text, elsewhere.ranges.keys().map(String::as_str))));
                return None;
            };
            Some((named(name.text.clone(), &name.place), found.clone()))
        }
        [kind, number] if kind.text == "fwmark" => {
            let mark = mark(number, None, log)?;
            let name = named(format!("fwmark {}", mark.value.0), &number.place);
            Some((name, Entrances { listen: Vec::new(), mark: vec![mark] }))
        }
        _ => {
            let at = endpoint(statement, log)?;
            let name = named(at.value.to_string(), &at.place);
            Some((name, Entrances { listen: vec![at], mark: Vec::new() }))
        }
    }
}

fn mark(word: &Word, family: Option<Family>, log: &Log) -> Option<Located<service::Mark>> {
    let number = word.text.parse::<NonZeroU32>().ok();
    if number.is_none() {
        log.add(Diagnostic::error(&word.place, format!("`{}` is not a mark", word.text)));
    }
    Some(Located { value: (number?, family), place: word.place.clone() })
}

/// The most addresses of one range.
const LONGEST_RANGE: u128 = 4096;

/// All groups by their names. Of two with one name keepalived would take the first.
pub(super) fn server_groups<'a>(
    statements: impl Iterator<Item = &'a Statement>,
    log: &Log,
) -> BTreeMap<String, Entrances> {
    let mut groups = BTreeMap::new();
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for (Located { value: name, place }, entrances) in statements.filter_map(|statement| server_group(statement, log)) {
        if let Some(first) = places.get(&name) {
            let error = Diagnostic::error(&place, format!("there are two `virtual_server_group {name}`"));
            log.add(error.see(first, "the other one"));
        }
        places.insert(name.clone(), place);
        groups.insert(name, entrances);
    }
    groups
}

/// Reads `virtual_server_group NAME { ... }`: addresses, ranges of them, marks.
fn server_group(statement: &Statement, log: &Log) -> Option<(Located<String>, Entrances)> {
    let name = argument(statement, log)?;
    let mut all = Entrances::default();
    let lines = block(statement, log);
    if lines.is_empty() {
        log.add(Diagnostic::error(&name.place, format!("`virtual_server_group {}` is empty", name.value)));
    }
    for line in lines {
        let port = |word: Option<&Word>| word.map_or(Some(0), |word| word.text.parse::<u16>().ok());
        match (line.keyword.text.as_str(), line.arguments.as_slice()) {
            ("fwmark", [number]) => all.mark.extend(mark(number, None, log)),
            ("fwmark", [number, family]) => {
                let known = service::FAMILIES.iter().find(|(name, _)| *name == family.text).map(|(_, family)| *family);
                if known.is_none() {
                    log.add(Diagnostic::error(&family.place, "the family is inet or inet6"));
                }
                all.mark.extend(mark(number, known, log));
            }
            (range, arguments @ ([] | [_])) if port(arguments.first()).is_some() => {
                let port = port(arguments.first()).unwrap_or_default();
                match addresses(range) {
                    Some(found) => {
                        let at = |ip| Located { value: SocketAddr::new(ip, port), place: line.keyword.place.clone() };
                        all.listen.extend(found.into_iter().map(at));
                    }
                    None => {
                        let message =
                            format!("`{range}` is no address, and no range or network of up to {LONGEST_RANGE}");
                        let help = "for example 10.0.0.3-10, or 10.0.0.8/29, the network's own address";
                        log.add(Diagnostic::error(&line.keyword.place, message).help(help));
                    }
                }
            }
            _ => log.add(Diagnostic::error(
                &line.keyword.place,
                "a line is `IP[-LAST] [PORT]`, `NETWORK/LENGTH [PORT]` or `fwmark N [inet|inet6]`",
            )),
        }
        check_leaf(line, &[line.keyword.text.as_str()], log);
    }
    Some((name, all))
}

/// `10.0.0.3`, `10.0.0.3-10`, `2001:db8::2-9`, two whole addresses, or a network, `10.0.0.8/29`, all of it.
fn addresses(range: &str) -> Option<Vec<IpAddr>> {
    let (first, last) = if let Some((first, length)) = range.split_once('/') {
        let first = first.parse().ok()?;
        (first, last_of_network(first, length.parse().ok()?)?)
    } else if let Some((first, last)) = range.split_once('-') {
        let first = first.parse().ok()?;
        (first, last.parse().ok().or_else(|| with_last_part(first, last))?)
    } else {
        let only = range.parse().ok()?;
        (only, only)
    };
    let fits = |first: u128, last: u128| (first..=last).contains(&last) && last - first < LONGEST_RANGE;
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (first.to_bits(), last.to_bits());
            fits(first.into(), last.into())
                .then(|| (first..=last).map(|bits| Ipv4Addr::from_bits(bits).into()).collect())
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let (first, last) = (first.to_bits(), last.to_bits());
            fits(first, last).then(|| (first..=last).map(|bits| Ipv6Addr::from_bits(bits).into()).collect())
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

/// Of an address that says nothing beyond the length, as keepalived wants it.
fn last_of_network(first: IpAddr, length: u32) -> Option<IpAddr> {
    Some(match first {
        IpAddr::V4(first) => {
            let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
            let whole = length <= u32::BITS && first.to_bits() & hosts == 0;
            Ipv4Addr::from_bits(whole.then_some(first.to_bits() | hosts)?).into()
        }
        IpAddr::V6(first) => {
            let hosts = u128::MAX.checked_shr(length).unwrap_or(0);
            let whole = length <= u128::BITS && first.to_bits() & hosts == 0;
            Ipv6Addr::from_bits(whole.then_some(first.to_bits() | hosts)?).into()
        }
    })
}

/// An address with another last part.
fn with_last_part(first: IpAddr, last: &str) -> Option<IpAddr> {
    Some(match first {
        IpAddr::V4(first) => {
            let [a, b, c, _] = first.octets();
            [a, b, c, last.parse().ok()?].into()
        }
        IpAddr::V6(first) => {
            let mut parts = first.segments();
            parts[7] = u16::from_str_radix(last, 16).ok()?;
            parts.into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_networks() {
        let ends = |range: &str| {
            let found = addresses(range)?;
            Some((found.first()?.to_string(), found.last()?.to_string(), found.len()))
        };
        let is = |first: &str, last: &str, count| Some((first.to_owned(), last.to_owned(), count));
        assert_eq!(ends("10.0.0.3"), is("10.0.0.3", "10.0.0.3", 1));
        assert_eq!(ends("10.0.0.3-10"), is("10.0.0.3", "10.0.0.10", 8));
        assert_eq!(ends("10.0.0.250-10.0.1.5"), is("10.0.0.250", "10.0.1.5", 12));
        assert_eq!(ends("192.168.202.8/29"), is("192.168.202.8", "192.168.202.15", 8));
        assert_eq!(ends("10.0.0.7/32"), is("10.0.0.7", "10.0.0.7", 1));
        assert_eq!(ends("10.0.0.0/20"), is("10.0.0.0", "10.0.15.255", 4096));
        assert_eq!(ends("2001:db8::2-9"), is("2001:db8::2", "2001:db8::9", 8));
        assert_eq!(ends("2001:db8::10/124"), is("2001:db8::10", "2001:db8::1f", 16));
        assert_eq!(ends("2001:db8::1/128"), is("2001:db8::1", "2001:db8::1", 1));
        for wrong in [
            "10.0.0.9-3",
            "10.0.0.9/29",
            "10.0.0.0/19",
            "10.0.0.0/33",
            "0.0.0.0/0",
            "2001:db8::/64",
            "::/129",
            "10.0.0.1-::2",
            "/24",
        ] {
            assert_eq!(ends(wrong), None, "{wrong}");
        }
    }
}
