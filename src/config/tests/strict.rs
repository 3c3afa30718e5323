//! `vrrp_strict` and `strict_mode`, `accept` and `owner_ignore_adverts` of keepalived.conf.

use super::*;
use crate::vrrp::timing::Timing;

const NODE: &str = "[node]\nname = \"lb1\"\nlisten = \"10.0.0.11:7112\"\nkeepalived_config = \"k.conf\"\n";

fn instance(lines: &str, address: &str) -> String {
    format!(
        "vrrp_instance v {{\ninterface eth0\nvirtual_router_id 1\n{lines}\nvirtual_ipaddress {{\n{address}\n}}\n}}\n"
    )
}

/// The group, and the warnings.
fn read(globals: &str, lines: &str, address: &str) -> (VipGroup, Vec<String>) {
    let text = format!("global_defs {{\n{globals}\n}}\n{}", instance(lines, address));
    let config = loaded(&[("hamesh.toml", NODE), ("k.conf", &text)]);
    (config.groups["v"].clone(), config.warnings.iter().map(|warning| warning.message.clone()).collect())
}

#[test]
fn a_strict_instance_does_what_the_rfc_says_whatever_the_file_has() {
    let globals = "vrrp_strict\nvrrp_garp_lower_prio_repeat 3\nvrrp_higher_prio_send_advert\nvrrp_down_timer_adverts 5";
    let lines = "state MASTER\npriority 200\nnopreempt\npreempt_delay 9\nauthentication {\nauth_type PASS\nauth_pass x\n}\n\
                 use_vmac\nvmac_xmit_base";
    let (strict, warnings) = read(globals, lines, "10.0.0.1");
    assert!(!strict.accept && strict.nopreempt && !strict.plain_adverts, "{strict:?}");
    assert_eq!((strict.auth, strict.legacy_peers), (Auth::None, LegacyPeers::Any));
    let mut timing = Timing { lower_prio_no_advert: true, ..Timing::default() };
    (timing.garp.lower_prio_repeat, timing.garp.lower_prio_delay) = (0, Duration::ZERO);
    assert_eq!(strict.timing, timing);
    assert_eq!(
        warnings,
        [
            "`v` is strict: its `state` is that of its priority, as in keepalived",
            "`v` is strict: its `authentication` is ignored, as in keepalived",
            "`v` is strict: its adverts come from the virtual MAC, as in keepalived",
            "`preempt_delay` has no effect in strict mode, as in keepalived",
        ]
    );
    let (loose, _) = read(globals, "strict_mode no\npriority 200", "10.0.0.1");
    assert!(loose.accept && loose.timing.higher_prio_send_advert, "an instance may be none: {loose:?}");
}

#[test]
fn who_takes_what_is_sent_to_the_addresses() {
    for (globals, lines, takes) in [
        ("", "", true),
        ("", "no_accept", false),
        ("vrrp_strict", "", false),
        ("vrrp_strict", "accept\nversion 3", true),
        ("vrrp_strict", "accept\nversion 2", false),
        ("vrrp_strict", "priority 255", true),
        ("", "no_accept\npriority 255", true),
        ("", "strict_mode", false),
    ] {
        assert_eq!(read(globals, lines, "10.0.0.1").0.accepts(), takes, "{globals}, {lines}");
    }
    let toml = |lines: &str| {
        let text = format!("{WEB}{lines}");
        loaded(&[("hamesh.toml", super::NODE), ("cluster.toml", &text)]).groups["web"].accepts()
    };
    assert!(toml("") && !toml("accept = false\n") && toml("accept = false\npriority = 255\n"));
}

#[test]
fn services_behind_addresses_that_take_nothing_are_pointed_out() {
    let server = "virtual_server 10.0.0.1 80 {\nprotocol TCP\nreal_server 10.1.0.1 80 {\n}\n}\n";
    let found = faults(&[("k.conf", &(instance("no_accept", "10.0.0.1") + server))]);
    assert!(found.contains("what is sent to the VIPs of `v` is dropped, and never balanced"), "{found}");
}

#[test]
fn an_owner_may_obey_nobody() {
    let obeys = |globals, lines| read(globals, lines, "10.0.0.1").0.legacy_peers;
    for (globals, lines, nobody) in [
        ("vrrp_owner_ignore_adverts", "priority 255", true),
        ("", "priority 255\nowner_ignore_adverts", true),
        ("vrrp_strict", "priority 255", true),
        ("", "priority 255", false),
        ("vrrp_owner_ignore_adverts", "priority 254", false),
        ("", "priority 254\nowner_ignore_adverts", false),
    ] {
        let expected = if nobody { LegacyPeers::Only(Vec::new()) } else { LegacyPeers::Any };
        assert_eq!(obeys(globals, lines), expected, "{globals}, {lines}");
    }
}

#[test]
fn what_strict_mode_refuses_and_bends_over_ipv6() {
    let found = faults(&[("k.conf", &instance("strict_mode\nunicast_peer {\n10.0.0.2\n}", "10.0.0.1"))]);
    assert!(found.contains("`v` is strict, and has peers by unicast"), "{found}");
    let (six, warnings) = read("", "strict_mode\nversion 2", "2001:db8::1");
    assert_eq!(six.version, Version::V3);
    assert_eq!(
        warnings,
        [
            "`v` is strict: over IPv6 it speaks version 3, as in keepalived",
            "`v` is strict: its first address should be link-local, as in keepalived"
        ]
    );
    assert_eq!(read("", "strict_mode", "fe80::1/64").1, [] as [&str; 0]);
}
