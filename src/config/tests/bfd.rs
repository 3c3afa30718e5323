//! `[bfd.NAME]`, and `bfd_instance`.

use super::*;
use crate::config::bfd::Settings;
use crate::config::check::Probe;
use crate::config::track::{Track, Tracked};

const SERVICE: &str = "[service.web]\nvip = \"web\"\nlisten = \"203.0.113.10:80\"\nforwarding = \"nat\"\nserver = [{ address = \"10.0.5.11:80\" }]\n";

#[test]
fn a_session_has_what_routers_have() {
    let text = format!(
        "{WEB}track = [{{ bfd = \"up\", weight = -20 }}]\n[bfd.up]\nneighbour = \"10.0.0.254\"\nsource = {{ lb1 = \"10.0.0.11\", lb2 = \"10.0.0.12\" }}\n\
         [bfd.far]\nneighbour = \"2001:db8::1\"\nmultihop = true\nmin_tx = \"50ms\"\nmultiplier = 5\n{SERVICE}check = {{ bfd = \"far\" }}\n"
    );
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &text)]);
    let interval = Duration::from_millis(300);
    let up = Settings {
        neighbour: [10, 0, 0, 254].into(),
        interface: None,
        source: Some([10, 0, 0, 11].into()),
        min_tx: interval,
        min_rx: interval,
        idle_tx: Duration::from_secs(1),
        multiplier: 3,
        passive: false,
        ttl: 255,
        max_hops: 0,
        multihop: false,
    };
    assert_eq!(config.bfd["up"], up);
    let far = Settings {
        neighbour: "2001:db8::1".parse().unwrap(),
        source: None,
        min_tx: Duration::from_millis(50),
        multiplier: 5,
        max_hops: 255,
        multihop: true,
        ..up
    };
    assert_eq!(config.bfd["far"], far);
    assert_eq!(
        config.groups["web"].track,
        [Track { what: Tracked::Bfd("up".to_owned()), weight: -20, reverse: false }]
    );
    let check = &config.services["web"].servers[0].checks[0];
    assert_eq!((&check.probe, check.fall, check.rise), (&Probe::Bfd("far".to_owned()), 1, 1));
}

#[test]
fn a_link_local_neighbour_has_its_interface() {
    let text = format!("{WEB}[bfd.up]\nneighbour = \"fe80::1%eth1\"\n[bfd.there]\nneighbour = \"fe80::1%eth2\"\n");
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &text)]);
    let ends = |name: &str| (config.bfd[name].neighbour.to_string(), config.bfd[name].interface.clone());
    assert_eq!(ends("up"), ("fe80::1".to_owned(), Some("eth1".to_owned())));
    assert_eq!(ends("there"), ("fe80::1".to_owned(), Some("eth2".to_owned())));
}

#[test]
fn what_is_wrong_with_a_session() {
    let one = "[bfd.up]\nneighbour = \"10.0.0.254\"\n";
    let cases = [
        ("[bfd.up]\n".to_owned(), "`bfd.up` needs `neighbour`"),
        (format!("{one}min_tx = \"900us\"\n"), "`bfd.up.min_tx` is not a duration"),
        (format!("{one}min_rx = \"0.5ms\"\n"), "`min_rx` must be between 1ms and 4294s"),
        (format!("{one}idle_tx = \"999ms\"\n"), "`idle_tx` must be between 1s and 4294s"),
        (format!("{one}multiplier = 0\n"), "`bfd.up.multiplier` must be between 1 and 255"),
        (format!("{one}ttl = 0\n"), "`bfd.up.ttl` must be between 1 and 255"),
        (format!("{one}ttl = 9\nmax_hops = 10\n"), "lets packets come over more hops than its ttl has"),
        (format!("{one}source = \"2001:db8::9\"\n"), "a source of another family than its neighbour"),
        (format!("{one}[bfd.twin]\nneighbour = \"10.0.0.254\"\n"), "`twin` and `up` are the same session"),
        (format!("{one}echo = true\n"), "unknown key `bfd.up.echo`"),
        ("[bfd.up]\nneighbour = \"fe80::1\"\n".to_owned(), "say on which interface, as in `fe80::1%eth0`"),
        ("[bfd.up]\nneighbour = \"10.0.0.1%eth0\"\n".to_owned(), "leave out `%eth0`"),
        ("[bfd.up]\nneighbour = \"fe80::1%\"\n".to_owned(), "`` is no name of an interface"),
        ("[bfd.up]\nneighbour = \"fe80::1%eth0\"\nmultihop = true\n".to_owned(), "not several hops away"),
        ("[bfd.up]\nneighbour = \"2001:db8::1\"\nsource = \"fe80::2\"\n".to_owned(), "and no link-local neighbour"),
        (format!("{one}{SERVICE}check = {{ bfd = \"pu\" }}\n"), "there is no section [bfd.pu] / did you mean `up`?"),
    ];
    for (text, fault) in cases {
        let found = faults(&[("cluster.toml", &format!("{WEB}{text}"))]);
        assert!(found.contains(fault), "{text}: {found}");
    }
    let found = faults(&[("cluster.toml", &format!("{WEB}track = [{{ bfd = \"x\" }}]\n"))]);
    assert!(found.contains("there is no section [bfd.x]"), "{found}");
}

const INSTANCE: &str = "vrrp_instance v {\ninterface eth0\nvirtual_router_id 1\nvirtual_ipaddress {\n10.0.0.1/24\n}\n";
const SERVER: &str = "virtual_server 10.0.0.1 80 {\nprotocol TCP\nreal_server 10.1.0.1 80 {\n";

#[test]
fn an_instance_has_keepaliveds_defaults() {
    let text = format!(
        "bfd_instance six {{\nneighbor_ip 2001:db8::1\n}}\nbfd_instance four {{\nneighbour_ip 10.0.0.254\nmin_rx 3.312\nweight 7 reverse\n}}\n\
         {INSTANCE}track_bfd {{\nfour\nsix\n}}\n}}\n{SERVER}BFD_CHECK {{\nname six\n}}\n}}\n}}\n"
    );
    let node = "[node]\nname = \"lb1\"\nlisten = \"10.9.9.9:7112\"\nkeepalived_config = \"k.conf\"\n";
    let config = loaded(&[("hamesh.toml", node), ("k.conf", &text)]);
    let interval = Duration::from_millis(10);
    let four = Settings {
        neighbour: [10, 0, 0, 254].into(),
        interface: None,
        source: None,
        min_tx: interval,
        min_rx: Duration::from_micros(3312),
        idle_tx: Duration::from_secs(1),
        multiplier: 5,
        passive: false,
        ttl: 255,
        max_hops: 0,
        multihop: false,
    };
    assert_eq!(config.bfd["four"], four);
    let six = Settings { neighbour: "2001:db8::1".parse().unwrap(), min_rx: interval, ttl: 64, ..four };
    assert_eq!(config.bfd["six"], six);
    let track = |name: &str, weight, reverse| Track { what: Tracked::Bfd(name.to_owned()), weight, reverse };
    assert_eq!(config.groups["v"].track, [track("four", 7, true), track("six", 0, false)]);
    let check = &config.services["10.0.0.1:80/tcp"].servers[0].checks[0];
    assert_eq!((&check.probe, check.fall, check.rise), (&Probe::Bfd("six".to_owned()), 1, 1));
}

#[test]
fn what_is_wrong_with_an_instance() {
    let with = |lines: &str| format!("bfd_instance b {{\nneighbor_ip 10.0.0.9\n{lines}\n}}\n");
    let cases = [
        ("bfd_instance b {\nmin_rx 10\n}\n".to_owned(), "k.conf:1:14: `bfd_instance b` needs `neighbor_ip`"),
        (with("min_rx 0.9"), "k.conf:3:8: `min_rx` must be between 1ms and 4294s"),
        (with("idle_tx 900"), "k.conf:3:9: `idle_tx` must be between 1s and 4294s"),
        (with("min_tx ten"), "k.conf:3:8: `min_tx` is not a number of milliseconds"),
        (with("multiplier 256"), "k.conf:3:12: `multiplier` must be between 1 and 255"),
        (with("max_hops 256"), "k.conf:3:10: `max_hops` must be between -1 and 255"),
        (with("weight 254"), "k.conf:3:8: `weight` must be between -253 and 253"),
        (with("minrx 10"), "k.conf:3:1: unknown keyword `minrx` / did you mean `min_rx`?"),
        (with("") + INSTANCE + "track_bfd {\nc\n}\n}\n", "there is no `bfd_instance c`"),
        (with("checker") + INSTANCE + "track_bfd {\nb\n}\n}\n", "`bfd_instance b` is for checkers only"),
        (
            with("vrrp") + INSTANCE + "}\n" + SERVER + "BFD_CHECK {\nname b\n}\n}\n}\n",
            "`bfd_instance b` is for VRRP only",
        ),
        (with("") + INSTANCE + "}\n" + SERVER + "BFD_CHECK {\nname bb\n}\n}\n}\n", "there is no `bfd_instance bb`"),
        (with("") + INSTANCE + "}\n" + SERVER + "BFD_CHECK {\nalpha\n}\n}\n}\n", "`BFD_CHECK` needs `name`"),
    ];
    for (text, fault) in cases {
        let found = faults(&[("k.conf", &format!("! keepalived\n{text}").replacen("! keepalived\n", "", 1))]);
        assert!(found.contains(fault), "{text}: {found}");
    }
}
