//! `track_group` and `garp_group` of keepalived.conf.

use super::*;
use crate::config::track::Tracked;

const NODE: &str = "[node]\nname = \"lb1\"\nlisten = \"10.0.0.11:7112\"\nkeepalived_config = \"k.conf\"\n";
const GROUPS: &str = "track_group near {\ngroup {\na\nb\n}\n}\ntrack_group far {\ngroup {\nb\n}\n}\n\
    vrrp_instance a {\ninterface eth0\nvirtual_router_id 1\ntrack_interface {\neth2 weight 5\n}\nvirtual_ipaddress {\n10.0.0.1/24\n}\n}\n\
    vrrp_instance b {\ninterface eth1\nvirtual_router_id 1\nvirtual_ipaddress {\n10.1.0.1/24\n}\n}\n";

#[test]
fn instances_need_the_interfaces_of_what_is_static() {
    let text = format!(
        "{GROUPS}static_ipaddress {{\n10.2.0.1/24 dev eth2 track_group near\n10.1.0.9/24 track_group near dev eth1\n}}\n\
         static_routes {{\n10.5.0.0/16 via 10.3.0.2 dev eth3 track_group far\n}}\nstatic_rules {{\nfrom 10.5.0.0/16 iif eth4 lookup 5 priority 9 track_group far\n}}\n"
    );
    let config = loaded(&[("hamesh.toml", NODE), ("k.conf", &text)]);
    let tracked = |name: &str| {
        let interface = |track: &crate::config::track::Track| {
            let Tracked::Interface(name) = &track.what else { return format!("{:?}", track.what) };
            format!("{name} {}", track.weight)
        };
        config.groups[name].track.iter().map(interface).collect::<Vec<_>>()
    };
    assert_eq!(tracked("a"), ["eth2 0", "eth1 0"], "what had a weight goes by the interface alone");
    assert_eq!(tracked("b"), ["eth2 0", "eth3 0", "eth4 0"], "its own it needs anyway");
    assert_eq!((config.fixed.addresses.len(), config.fixed.routing.routes.len()), (2, 1));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn what_is_wrong_with_them() {
    for (more, fault) in [
        (
            "static_ipaddress {\n10.2.0.1/24 dev eth2 track_group neer\n}\n",
            "there is no `track_group neer` / did you mean `near`?",
        ),
        ("static_ipaddress {\n10.2.0.1/24 dev eth2 track_group\n}\n", "`track_group` needs a value"),
        ("static_routes {\n10.5.0.0/16 via 10.3.0.2 track_group near\n}\n", "warning: this has no interface to track"),
        ("track_group none {\n}\n", "`track_group none` has no instances"),
        ("track_group x {\ngroup {\nc\n}\n}\n", "there is no `vrrp_instance c`"),
        ("track_group x {\ngruop {\na\n}\n}\n", "unknown keyword `gruop` / did you mean `group`?"),
    ] {
        let found = faults(&[("k.conf", &format!("{GROUPS}{more}"))]);
        assert!(found.contains(fault), "{more}: {found}");
    }
}

#[test]
fn interfaces_of_one_garp_group_share_a_pace() {
    let text = format!(
        "{GROUPS}global_defs {{\nvrrp_garp_interval 0.5\n}}\ngarp_group {{\ngarp_interval 0.1\ninterfaces {{\neth0\neth1\n}}\n}}\n"
    );
    let config = loaded(&[("hamesh.toml", NODE), ("k.conf", &text)]);
    for name in ["a", "b"] {
        let group = &config.groups[name];
        assert_eq!(
            (group.timing.garp.interval, group.pace.as_deref()),
            (Duration::from_millis(100), Some("eth0+eth1"))
        );
    }
    let text = text.replace("garp_interval 0.1\ninterfaces {\neth0\neth1\n}", "gna_interval 0.1\ninterface eth0");
    let config = loaded(&[("hamesh.toml", NODE), ("k.conf", &text)]);
    let pace = |name: &str| (config.groups[name].timing.garp.interval, config.groups[name].pace.clone());
    assert_eq!(pace("a"), (Duration::ZERO, None), "its group has none for IPv4");
    assert_eq!(pace("b"), (Duration::from_millis(500), None), "that of `global_defs`");
    for (block, fault) in [
        ("interface eth0", "`garp_group` needs `garp_interval` or `gna_interval`"),
        ("garp_interval 1", "`garp_group` has no interfaces"),
        ("garp_interval 1\ninterface eth0\ninterface eth0", "`eth0` is in two of them"),
    ] {
        let found = faults(&[("k.conf", &format!("{GROUPS}garp_group {{\n{block}\n}}\n"))]);
        assert!(found.contains(fault), "{block}: {found}");
    }
}
