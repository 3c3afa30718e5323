//! `[static.NODE]`, and `static_ipaddress`.

use super::*;

#[test]
fn a_node_takes_what_is_its_own() {
    let text = format!(
        "{WEB}[static.lb2]\naddresses = [\"10.5.0.2/24 dev eth1\"]\n[static.lb1]\naddresses = [\"10.5.0.1/24 dev eth1\", \"10.5.1.1 dev eth1\"]\n\
         routes = [\"10.6.0.0/16 via 10.5.0.254\"]\nrules = [\"from 10.5.0.0/24 lookup 100 priority 500\"]\n"
    );
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &text)]);
    let shown: Vec<String> = config.fixed.addresses["eth1"].iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.5.0.1/24", "10.5.1.1/32"]);
    assert_eq!((config.fixed.routing.routes.len(), config.fixed.routing.rules.len()), (1, 1));
}

#[test]
fn what_is_wrong_with_what_is_static() {
    let cases = [
        ("addresses = [\"10.5.0.1/24\"]", "`10.5.0.1/24` needs an interface / for example `10.0.5.1/24 dev eth1`"),
        ("addresses = [\"10.5.0.1/24 dev\"]", "`dev` needs a value"),
        (
            "addresses = [\"10.5.0.1/24 dev eth1 peer 10.5.0.9\"]",
            "`peer` of an address is not supported by this version",
        ),
        ("addresses = [\"10.5.0/24 dev eth1\"]", "`10.5.0/24` is not an address"),
        ("adresses = []", "unknown key `static.lb1.adresses`"),
    ];
    for (line, fault) in cases {
        let found = faults(&[("cluster.toml", &format!("{WEB}[static.lb1]\n{line}\n"))]);
        assert!(found.contains(fault), "{line}: {found}");
    }
    let text = "static_ipaddress {\n10.0.0.1/24 brd + peer 10.0.0.9\n}\nstatic_ipaddress {\n10.0.0.2 dev eth1\n}\n\
                vrrp_instance v {\ninterface eth0\nvirtual_router_id 1\nvirtual_ipaddress {\n10.0.0.2/24\n}\n}\n";
    let found = faults(&[("k.conf", text)]);
    assert!(found.contains("k.conf:2:19: `peer` of an address is not supported by this version"), "{found}");
    assert!(found.contains("k.conf:11:1: `10.0.0.2` is a static address, and cannot be a VIP as well"), "{found}");
}
