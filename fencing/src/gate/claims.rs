//! What claims a VIP in what it says, whoever it says it comes from: adverts with a priority above 0, plain and behind an
//! authentication header (RFC 2402, as VRRPv2 uses it), and neighbour advertisements.
//!
//! Adverts are judged in chains of their own, where nothing says any more by which protocol they came there: nft 1.0.6 aborts
//! where it is to list a rule that looks behind the IP header after a match for a protocol that it has no words for, and with
//! that rule whatever else is on the host.

use super::batch::Request;
use super::expression::*;
use super::rules::{self, Addressed, Table, regular_chain, rule};
use hamesh_raft::command::Family;
use netlink_packet_netfilter::nftables::Expressions;

/// VRRP's protocol number.
pub(super) const VRRP: u8 = 112;
/// That of authentication headers.
pub(super) const AH: u8 = 51;
/// Bytes of one as VRRPv2 has it.
pub(super) const AH_LENGTH: u32 = 24;
/// Of neighbour discovery (RFC 4861 section 4.4).
const ADVERTISEMENT: u8 = 136;

/// Where adverts behind an authentication header are judged; VRRPv2 knows IPv4 only.
const SEALED: &str = "sealed";

/// Where plain adverts are judged.
fn plain(family: Family) -> &'static str {
    match family {
        Family::V4 => "advert4",
        Family::V6 => "advert6",
    }
}

/// The chains that judge adverts.
pub(super) fn chains(table: Table) -> Vec<Request> {
    /// In 32-bit words less two: 12 bytes of header and the 12 of HMAC-MD5-96.
    const AH_WORDS: [u8; 1] = [4];
    let mut requests = Vec::new();
    if table == Table::Arp {
        return requests;
    }
    for family in Family::ALL {
        let claims = [transport(2, 1), not_equal(&[0])];
        let (chain, router) = (plain(family), Addressed::Router(family));
        requests.push(regular_chain(table, chain));
        requests.extend(rules::gated(table, chain, &claims, &transport(1, 1), router));
    }
    let is_vrrp = [transport(0, 1), equal(&[VRRP]), transport(1, 1), equal(&AH_WORDS)];
    let claims = [transport(AH_LENGTH + 2, 1), not_equal(&[0])];
    let (claims, vrid) = ([&is_vrrp[..], &claims].concat(), transport(AH_LENGTH + 1, 1));
    requests.push(regular_chain(table, SEALED));
    requests.extend(rules::gated(table, SEALED, &claims, &vrid, Addressed::Router(Family::V4)));
    requests
}

/// The rules of a base chain for what this host says.
pub(super) fn gated(table: Table, chain: &'static str, family: Family, ours: &[Expressions]) -> Vec<Request> {
    let enter = |protocol, into| rule(table, chain, [ours, &carries(protocol), &[jump(into)]].concat());
    let mut rules = vec![enter(VRRP, plain(family))];
    match family {
        Family::V4 => rules.push(enter(AH, SEALED)),
        Family::V6 => {
            let told = [ours, &discovery(ADVERTISEMENT)].concat();
            let addressed = Addressed::Address(family);
            rules.extend(rules::gated(table, chain, &told, &discovery_target(), addressed));
        }
    }
    rules
}
