//! VIPs that this host takes no packets to while it holds them, accept mode being off (RFC 9568 section 6.1): hosts route by them and
//! learn where they are, and that is all.

use super::batch::Request;
use super::expression::*;
use super::rules::{Table, rule};
use super::sets::{Set, keyed, replace};
use hamesh_raft::command::Family;
use netlink_packet_netfilter::nftables::Expressions;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Of neighbour discovery: who asks, and who answers (RFC 4861 sections 4.3 and 4.4).
const DISCOVERY: [u8; 2] = [135, 136];

/// The sets that a table has for it.
pub(super) fn sets(table: Table) -> &'static [Set] {
    match table {
        Table::Inet => &[Set::Deaf(Family::V4), Set::Deaf(Family::V6)],
        Table::Arp | Table::Netdev => &[],
    }
}

/// Replaces what the sets have.
pub(super) fn fill(table: Table, addresses: &BTreeSet<IpAddr>) -> Vec<Request> {
    let keys: Vec<_> = addresses.iter().map(|address| keyed(Set::Deaf, *address)).collect();
    replace(table, sets(table), &keys)
}

/// The last rules of a chain: what the gate lets in.
pub(super) fn refused(table: Table, chain: &str) -> Vec<Request> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let to: Vec<Expressions> =
            [is(family), vec![ip_destination(family), lookup(Set::Deaf(family).name(), Membership::Inside)]].concat();
        if family == Family::V6 {
            for kind in DISCOVERY {
                rules.push(rule(table, chain, [is(family), discovery(kind), vec![give_back()]].concat()));
            }
        }
        rules.push(rule(table, chain, [to, vec![drop_it()]].concat()));
    }
    rules
}
