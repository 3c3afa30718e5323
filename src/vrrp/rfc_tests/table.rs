//! Every demand of RFC 9568 and RFC 3768 that is one of a router's, by section, with the test that shows it.
//!
//! Where we differ from RFC 3768 its successor does too: a MASTER answers a lower priority at once (RFC 9568 section 6.4.3), and
//! another list of addresses is logged and not a reason to discard (section 7.1). Where we differ from both: an owner is MASTER
//! when it has the lease and not before, and nobody is while there is none; over IPv4 the checksum that is sent is keepalived's unless
//! `checksum = "plain"`, and both are taken. Router advertisements (section 8.2.3) are not hamesh's: it sends none.

use std::fs;
use std::path::Path;

/// The section of RFC 9568, that of RFC 3768, the demand, and where it is shown.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip] // a table: the columns are the point
const TABLE: &[Row] = &[
    ("5.1.1.1", "5.2.1", "adverts come from the primary IPv4 address of the interface", "src/net/lan_tests.rs", "an_advert_goes_out_as_keepalived_sends_it"),
    ("5.1.1.2", "5.2.2", "they go to 224.0.0.18", "src/net/lan_tests.rs", "an_advert_goes_out_as_keepalived_sends_it"),
    ("5.1.1.3", "5.2.3", "with the TTL 255; others are discarded", "src/vrrp/rfc_tests.rs", "a_ttl_other_than_255_is_discarded"),
    ("5.1.1.4", "5.2.4", "as IP protocol 112", "src/net/lan_tests.rs", "an_advert_goes_out_as_keepalived_sends_it"),
    ("5.1.2.1", "-", "over IPv6 they come from a link-local address", "src/kernel/tests.rs", "the_source_of_ipv6_adverts_is_a_proven_link_local_address_that_is_no_vip"),
    ("5.1.2.2", "-", "and go to ff02::12", "src/net/lan_tests.rs", "an_advert_over_ipv6_goes_out_as_keepalived_sends_it"),
    ("5.1.2.3", "-", "with the hop limit 255; others are discarded", "src/vrrp/rfc_tests.rs", "a_hop_limit_other_than_255_is_discarded"),
    ("5.2.1", "5.3.1", "another version is discarded", "src/vrrp/rfc_tests.rs", "another_version_is_discarded"),
    ("5.2.2", "5.3.2", "an unknown type is discarded", "src/vrrp/rfc_tests.rs", "an_unknown_type_is_discarded"),
    ("5.2.3", "5.3.3", "the VRID is 1 to 255", "src/config/tests/cluster.rs", "what_is_wrong_with_a_group"),
    ("5.2.4", "5.3.4", "the owner has the priority 255, backups 1 to 254", "src/config/tests/keepalived.rs", "what_is_wrong_with_a_value_is_said_at_the_value"),
    ("5.2.5", "-", "an advert without addresses is ignored", "src/vrrp/rfc_tests.rs", "an_advert_without_addresses_is_ignored"),
    ("5.2.6", "-", "reserved bits are sent as zero and ignored", "src/vrrp/rfc_tests.rs", "the_reserved_bits_are_sent_as_zero_and_ignored"),
    ("5.2.8", "5.3.8", "over IPv4 the checksum is that of the message; another is discarded", "src/vrrp/rfc_tests.rs", "the_checksum_of_ipv4_covers_the_message_alone"),
    ("5.2.8", "-", "over IPv6 it covers a pseudo-header", "src/vrrp/rfc_tests.rs", "the_checksum_of_ipv6_covers_a_pseudo_header"),
    ("5.2.9", "-", "over IPv6 the first address is the link-local one: said, and left to the operator", "src/config/tests/cluster.rs", "what_is_wrong_with_a_group_of_ipv6"),
    ("-", "5.3.6", "another authentication type is discarded", "src/vrrp/rfc_tests.rs", "another_authentication_type_is_discarded"),
    ("-", "5.3.10", "authentication data is sent as zero and ignored", "src/vrrp/rfc_tests.rs", "authentication_data_is_sent_as_zero_and_ignored"),
    ("6.1", "6.1", "the skew and the master-down interval", "src/vrrp/router/tests.rs", "rfc_section_6_1_master_down_interval"),
    ("6.4.1", "6.4.1", "an owner is MASTER from the start", "src/vrrp/rfc_tests.rs", "the_owner_is_master_from_the_start"),
    ("6.4.1", "6.4.1", "others begin as BACKUP", "src/vrrp/rfc_tests.rs", "others_start_as_backup_and_wait"),
    ("6.4.2", "6.4.2", "a BACKUP answers neither ARP nor packets to an address", "fencing/src/gate/tests/traffic.rs", "a_shut_gate_lets_no_vip_answer"),
    ("6.4.2", "-", "nor neighbour solicitations", "fencing/src/gate/tests/ipv6.rs", "a_shut_gate_lets_no_vip_answer_and_an_open_one_exactly_what_is_held"),
    ("6.4.2", "6.4.2", "nor takes frames to the virtual MAC", "fencing/src/gate/tests/device.rs", "nothing_enters_a_virtual_mac_while_its_group_is_shut"),
    ("6.4.2", "6.4.2", "it is MASTER when its timer fires: an advert, and announcements", "src/vrrp/rfc_tests.rs", "a_backup_takes_over_after_its_timer"),
    ("6.4.2", "6.4.2", "priority 0 sets its timer to the skew", "src/vrrp/rfc_tests.rs", "priority_zero_sets_a_backups_timer_to_the_skew"),
    ("6.4.2", "6.4.2", "its own priority and above start its timer anew", "src/vrrp/rfc_tests.rs", "a_backup_waits_behind_its_own_priority_and_above"),
    ("6.4.2", "-", "with the interval of the other", "src/vrrp/rfc_tests.rs", "another_interval_of_version_3_is_adopted"),
    ("6.4.2", "6.4.2", "lower ones are discarded", "src/vrrp/rfc_tests.rs", "a_backup_discards_a_lower_priority"),
    ("6.4.2", "6.4.2", "unless it does not preempt", "src/vrrp/rfc_tests.rs", "a_backup_that_does_not_preempt_waits_behind_any_priority"),
    ("6.4.2", "6.4.2", "one that stops is silent", "src/vrrp/rfc_tests.rs", "a_backup_that_stops_is_silent"),
    ("6.4.3", "6.4.3", "a MASTER answers for the addresses", "fencing/src/gate/tests/traffic.rs", "an_open_gate_lets_exactly_what_is_held_answer"),
    ("6.4.3", "6.4.3", "and advertises at its interval", "src/vrrp/rfc_tests.rs", "a_master_advertises_at_its_interval"),
    ("6.4.3", "6.4.3", "one that stops sends priority 0", "src/vrrp/rfc_tests.rs", "a_master_that_stops_says_so_with_priority_zero"),
    ("6.4.3", "6.4.3", "it answers priority 0 at once", "src/vrrp/rfc_tests.rs", "a_master_answers_priority_zero_at_once"),
    ("6.4.3", "6.4.3", "yields to a higher priority", "src/vrrp/rfc_tests.rs", "a_master_yields_to_a_higher_priority"),
    ("6.4.3", "6.4.3", "and to its own from a higher address", "src/vrrp/rfc_tests.rs", "a_master_yields_to_its_own_priority_from_a_higher_address"),
    ("6.4.3", "-", "and waits by the interval of the other", "src/vrrp/rfc_tests.rs", "a_master_that_yields_waits_by_the_interval_of_the_other"),
    ("6.4.3", "-", "it answers a lower priority at once", "src/vrrp/rfc_tests.rs", "a_master_answers_a_lower_priority_at_once"),
    ("6.4.3", "-", "and its own from a lower address", "src/vrrp/rfc_tests.rs", "a_master_answers_its_own_priority_from_a_lower_address"),
    ("7.1", "7.1", "an incomplete advert is discarded", "src/vrrp/rfc_tests.rs", "an_incomplete_advert_is_discarded"),
    ("7.1", "7.1", "a wrong checksum is", "src/vrrp/rfc_tests.rs", "a_wrong_checksum_is_discarded"),
    ("7.1", "7.1", "another virtual router is", "src/vrrp/rfc_tests.rs", "another_virtual_router_is_not_ours"),
    ("7.1", "7.1", "what an owner hears changes nothing, but for another owner", "src/vrrp/rfc_tests.rs", "an_owner_stays_master_beside_every_other_priority"),
    ("-", "7.1", "another interval of version 2 is discarded", "src/vrrp/rfc_tests.rs", "another_interval_of_version_2_is_discarded"),
    ("7.1", "-", "another list of addresses is not", "src/vrrp/rfc_tests.rs", "another_list_of_addresses_is_no_reason_to_discard"),
    ("7.1", "7.1", "and what is discarded changes no state and no timer", "src/vrrp/router/tests.rs", "a_master_is_silenced_by_nothing_it_hears"),
    ("7.2", "7.2", "every field is filled in", "src/vrrp/rfc_tests.rs", "what_is_sent_has_every_field"),
    ("7.2", "7.2", "adverts have the virtual MAC: on the wire, where there is one", "tests/interop/main.rs", "no_flapping"),
    ("7.3", "7.3", "which is 00-00-5e-00-01-VRID, for IPv6 02", "src/config/tests/cluster.rs", "a_group_with_a_virtual_mac_has_a_device_for_it"),
    ("8.1.2", "8.2", "ARP is answered with the virtual MAC, not with the interface's", "src/kernel/tests.rs", "a_virtual_mac_is_made_once_silent_and_never_out_of_something_else"),
    ("8.1.2", "8.2", "announcements are gratuitous ARP", "src/net/lan_tests.rs", "an_announcement_is_that_of_keepalived"),
    ("8.2.2", "-", "and unsolicited neighbour advertisements", "src/net/lan_tests.rs", "an_announcement_is_that_of_keepalived"),
];

#[test]
fn every_demand_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The mutants are built of a copy that has this directory and little else.
    if !root.join("src/kernel").exists() {
        return;
    }
    for (new, old, demand, file, test) in TABLE {
        let text = fs::read_to_string(root.join(file)).unwrap_or_default();
        assert!(text.contains(&format!("fn {test}(")), "{new} / {old}, {demand}: no {test} in {file}");
    }
    // And the other way round: what is tested beside this is in the table.
    let here = fs::read_to_string(root.join("src/vrrp/rfc_tests.rs")).unwrap_or_default();
    let tests = here.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split('(').next());
    for test in tests {
        assert!(TABLE.iter().any(|row| row.4 == test), "{test} is in no row");
    }
}
