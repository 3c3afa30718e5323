//! A guard reads of keepalived.conf what a lease depends on, and leaves the rest to keepalived.

use super::*;
use crate::config::address::Placing;

const GUARD: &str = r#"[node]
name = "lb1"
listen = "10.0.0.11:7112"
guard = true
keepalived_config = "keepalived.conf"
"#;

const KEEPALIVED: &str = "global_defs {
    vrrp_version 3
    enable_snmp_vrrp
    no_such_keyword
}
vrrp_sync_group all {
    group {
        web
        api
    }
    track_process {
        anything
    }
}
vrrp_script nobody_may {
    script /tmp/anything
}
static_routes {
    198.51.100.0/24 via 203.0.113.1
}
vrrp_instance web {
    interface eth0
    virtual_router_id 51
    priority 150
    nopreempt
    use_vmac
    vmac_xmit_base
    track_bfd {
        peer
    }
    virtual_ipaddress {
        203.0.113.10/24 broadcast 203.0.113.255 dev eth0 label eth0:1
        203.0.113.11/24 label x:1 dev eth2 -nodad no_track
    }
    virtual_routes {
        0.0.0.0/0 via 203.0.113.1
    }
}
vrrp_instance api {
    interface eth1
    virtual_router_id 52
    virtual_ipaddress {
        192.0.2.10/24
    }
}
virtual_server 198.51.100.1 80 {
    real_server 10.0.5.11 80 {
        ANY_CHECK {
        }
    }
}
";

#[test]
fn what_is_keepaliveds_own_business_is_not_read() {
    let config = loaded(&[("hamesh.toml", GUARD), ("keepalived.conf", KEEPALIVED)]);
    assert!(config.node.guard && config.services.is_empty() && config.scripts.is_empty());
    let web = &config.groups["web"];
    assert_eq!((web.vrid, web.priority, web.nopreempt, web.version), (51, Some(150), true, Version::V3));
    assert_eq!(web.addresses, [10, 11].map(|last| (IpAddr::from([203, 0, 113, last]), 24)));
    let placing = Placing { device: Some("eth2".to_owned()), untracked: true, ..Placing::default() };
    assert_eq!(web.placings, BTreeMap::from([([203, 0, 113, 11].into(), placing)]));
    assert_eq!(web.virtual_mac(), Some(("vrrp.51", [0, 0, 0x5e, 0, 1, 51])));
    assert!(web.track.is_empty());
    assert_eq!((config.lease("web"), config.lease("api")), ("all", "all"));
    assert_eq!(config.warnings, []);
}

#[test]
fn what_would_be_guarded_wrongly_is_refused() {
    let with = |line: &str| KEEPALIVED.replace("    vmac_xmit_base\n", line);
    for (line, complaint) in [("    use_vmac_addr\n", "use_vmac_addr"), ("    advert_int never\n", "advert_int")] {
        let said = faults(&[("hamesh.toml", GUARD), ("keepalived.conf", &with(line))]);
        assert!(said.contains(complaint) && !said.contains("warning"), "{said}");
    }
    let elsewhere = KEEPALIVED.replace("    no_such_keyword\n", "    net_namespace blue\n");
    let said = faults(&[("hamesh.toml", GUARD), ("keepalived.conf", &elsewhere)]);
    assert!(said.contains("net_namespace"), "{said}");
}

#[test]
fn a_guard_has_a_keepalived_and_no_vips_of_its_own() {
    let said = faults(&[("hamesh.toml", &GUARD.replace("keepalived_config", "cluster")), ("keepalived.conf", WEB)]);
    assert!(said.contains("a guard is a director with a `keepalived_config`"), "{said}");
    let both = format!("{GUARD}cluster = \"cluster.toml\"\n");
    let files = [("hamesh.toml", both.as_str()), ("keepalived.conf", KEEPALIVED), ("cluster.toml", WEB)];
    let said = faults(&files);
    assert!(said.contains("a guard holds no VIP but those of its keepalived"), "{said}");
    let leases = [files[0], files[1], ("cluster.toml", "[lease]\nprofile = \"fast\"\n")];
    assert_eq!(loaded(&leases).lease.ttl, Duration::from_millis(125));
}

#[test]
fn devices_have_the_names_that_keepalived_gives_them() {
    let instance = |name: &str, interface: &str, vmac: &str, vip: &str| {
        format!(
            "vrrp_instance {name} {{
    interface {interface}
    virtual_router_id 51
    version 3
    use_vmac {vmac}
    virtual_ipaddress {{
        {vip}
    }}
}}
"
        )
    };
    let named = |instances: &[String]| {
        let config = loaded(&[("hamesh.toml", GUARD), ("keepalived.conf", &instances.concat())]);
        let devices = config.groups.values().filter_map(|group| group.virtual_mac.clone());
        devices.collect::<Vec<_>>()
    };
    let six = |name| instance(name, "eth0", "", "2001:db8::10");
    assert_eq!(named(&[six("a")]), ["vrrp.51"]);
    let four =
        |name, interface| instance(name, interface, "", &format!("203.0.113.1{name}").replace(['a', 'b', 'c'], "1"));
    assert_eq!(named(&[four("a", "eth0"), six("b")]), ["vrrp.51", "vrrp6.51"]);
    assert_eq!(named(&[six("a"), four("b", "eth0")]), ["vrrp.51", "vrrp1.51"]);
    let prefix = "global_defs {\nvmac_prefix vip\n}\n".to_owned();
    assert_eq!(named(&[prefix, four("a", "eth0"), six("b")]), ["vip.51", "vip6.51"]);
    let mine = instance("a", "eth0", "mine", "203.0.113.10");
    assert_eq!(named(&[mine, four("b", "eth1"), six("c")]), ["mine", "vrrp.51", "vrrp6.51"]);
}
