//! A director that is also a real server: what passes a shut gate there.
//!
//! IPVS on another director forwards packets for a VIP straight to the MAC of this one, which then answers the client
//! from the VIP itself. So for the addresses of such groups IP passes in from the MACs of members, and out from the VIP.
//! ARP and neighbour discovery do not: nobody is told that the VIP is here.

use super::batch::Request;
use super::expression::*;
use super::rules::{Table, rule};
use super::sets::{Set, keyed, replace};
use hamesh_raft::command::Family;
use netlink_packet_netfilter::nftables::Expressions;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What passes in spite of a shut gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Local {
    /// The VIPs that this host serves for other directors too.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// The other directors' MACs.
    pub(super) members: BTreeSet<[u8; 6]>,
}

/// The sets that a table has for it.
pub(super) fn sets(table: Table) -> &'static [Set] {
    use Family::{V4, V6};
    match table {
        Table::Arp => &[],
        Table::Inet => &[Set::Local(V4), Set::Local(V6), Set::Member],
        Table::Netdev => &[Set::Local(V4), Set::Local(V6)],
    }
}

/// Replaces what the sets have.
pub(super) fn fill(table: Table, local: &Local) -> Vec<Request> {
    let addresses = local.addresses.iter().map(|address| keyed(Set::Local, *address));
    let members = local.members.iter().map(|mac| (Set::Member, mac.to_vec()));
    let keys: Vec<_> = addresses.chain(members).collect();
    replace(table, sets(table), &keys)
}

/// Lets pass what a member has forwarded to a VIP.
pub(super) fn forwarded(table: Table, chain: &str, family: Family) -> Request {
    let to = vec![ip_destination(family), lookup(Set::Local(family).name(), Membership::Inside)];
    let from = vec![link_source(), lookup(Set::Member.name(), Membership::Inside), accept()];
    rule(table, chain, [is(family), to, from].concat())
}

/// Matches a source that may not leave here though the gate is shut.
pub(super) fn not_served(family: Family) -> Vec<Expressions> {
    vec![ip_source(family), lookup(Set::Local(family).name(), Membership::Outside)]
}
