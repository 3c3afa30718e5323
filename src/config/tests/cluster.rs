//! cluster.toml: what is wrong with a lease, a group or a service, and what a right one becomes.

use super::*;

fn cluster_faults(text: &str) -> String {
    faults(&[("cluster.toml", text)])
}

/// The faults of the group `web` with these lines in place of the ones with the same keys, or added.
fn group_faults(lines: &str) -> String {
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let replaced: Vec<_> = lines.lines().map(key).collect();
    let kept = WEB.lines().filter(|line| !replaced.contains(&key(line)));
    cluster_faults(&format!("{}\n{lines}\n", kept.collect::<Vec<_>>().join("\n")))
}

#[test]
fn what_is_wrong_with_a_lease() {
    let lease = |lines: &str| cluster_faults(&format!("[lease]\n{lines}\n"));
    assert_eq!(lease("ttl = \"1s\"\ndamping = \"0s\""), "");
    assert_eq!(lease("damping = \"17m\""), "cluster.toml:2:11: `damping` is longer than 1000s\n");
    assert_eq!(
        lease("ttl = \"120ms\""),
        "cluster.toml:2:7: a lease of 120ms is too short / a gate that shuts before its end needs its margins: use 125ms or \
         more\n"
    );
    assert_eq!(
        lease("ttl = \"61s\""),
        "cluster.toml:2:7: a lease of 61s is too long / after a crash the addresses are dark for as long; the longest is 60s\n"
    );
    assert_eq!(
        lease("profile = \"vm\"\nttl = \"2s\""),
        "cluster.toml:3:7: `lease.profile` and `lease.ttl` exclude each other\n"
    );
    assert_eq!(
        lease("ttl = \"1000\""),
        "cluster.toml:2:7: `lease.ttl` is not a duration: it has no unit / write \"1s\", \"200ms\", \"1.5s\" or \"2m\"\n"
    );
    assert_eq!(lease("ttl = 1"), "cluster.toml:2:7: `lease.ttl` must be a duration such as \"1s\" or \"200ms\"\n");
    assert_eq!(lease("ttk = \"1s\""), "cluster.toml:2:1: unknown key `lease.ttk` / did you mean `ttl`?\n");
}

#[test]
fn what_is_wrong_with_a_group() {
    assert_eq!(
        cluster_faults("[vip.web]\n"),
        "cluster.toml:1:6: `vip.web` needs `interface`\n\
         cluster.toml:1:6: `vip.web` needs `vrid`\n\
         cluster.toml:1:6: `vip.web` needs `addresses`\n"
    );
    let name = WEB.replace("web", "\"we b\"");
    assert_eq!(
        cluster_faults(&name),
        "cluster.toml:1:6: `we b` cannot be the name of a VIP group / use up to 64 letters, digits, `-`, `_` and `.`\n"
    );
    let cases = [
        ("vrid = 0", "8: `vip.web.vrid` must be between 1 and 255"),
        ("vrid = \"51\"", "8: `vip.web.vrid` must be a whole number"),
        ("interface = \"averylonginterface\"", "13: `averylonginterface` cannot be the name of an interface"),
        ("interface = \"eth0:1\"", "13: `eth0:1` cannot be the name of an interface"),
        ("version = 4", "11: `vip.web.version` must be between 2 and 3"),
        ("priority = 0", "12: `vip.web.priority` must be between 1 and 255"),
        ("priority = { lb1 = 256 }", "20: `vip.web.priority.lb1` must be between 1 and 255"),
        ("nopreempt = \"yes\"", "13: `vip.web.nopreempt` must be true or false"),
        ("addresses = \"203.0.113.10\"", "13: `vip.web.addresses` must be a list"),
        ("addresses = [5]", "14: `vip.web.addresses[0]` must be a string"),
        ("addresses = [\"203.0.113.300\"]", "14: `203.0.113.300` is not an address / for example \"203.0.113.10/24\""),
        (
            "addresses = [\"203.0.113.1/33\"]",
            "14: prefix length `33` is not between 1 and 32 / for example \"203.0.113.10/24\"",
        ),
        (
            "addresses = [\"224.0.0.18\"]",
            "14: `224.0.0.18` cannot be a virtual address / for example \"203.0.113.10/24\"",
        ),
        ("addresses = [\"203.0.113.1\", \"203.0.113.1/24\"]", "29: `203.0.113.1` is listed twice"),
        (
            "advertisement_interval = \"5ms\"",
            "26: an advertisement interval of 5ms cannot be sent / VRRP version 3 takes 10ms to 40.95s in steps of 10ms",
        ),
        (
            "advertisement_interval = \"41s\"",
            "26: an advertisement interval of 41s cannot be sent / VRRP version 3 takes 10ms to 40.95s in steps of 10ms",
        ),
        (
            "advertisement_interval = \"15ms\"",
            "26: an advertisement interval of 15ms cannot be sent / VRRP version 3 takes 10ms to 40.95s in steps of 10ms",
        ),
        ("checksum = \"plian\"", "12: `vip.web.checksum` cannot be \"plian\" / did you mean `plain`?"),
        ("legacy_peers = [\"lb9\"]", "17: `vip.web.legacy_peers[0]` is not an address / for example \"10.0.0.12\""),
        ("prioriti = 3", "1: unknown key `vip.web.prioriti` / did you mean `priority`?"),
    ];
    for (line, expected) in cases {
        let faults = group_faults(line);
        let at = faults.split_once(':').and_then(|(_, rest)| rest.split_once(':')).map(|(_, rest)| rest);
        assert_eq!(at, Some(format!("{expected}\n").as_str()), "{line}");
    }
    let many: Vec<_> = (0..=255).map(|host| format!("\"10.1.1.{host}\"")).collect();
    let faults = group_faults(&format!("addresses = [{}]", many.join(", ")));
    assert!(faults.ends_with("an advert holds at most 255 addresses\n"), "{faults}");
}

#[test]
fn delays_and_bursts_of_a_group() {
    use crate::vrrp::timing::{Garp, Timing};
    let second = Duration::from_secs(1);
    let lines = "down_timer_adverts = 5\nstartup_delay = \"10s\"\ndelay_after_boot = \"2m\"\npreempt_delay = \"1m\"\nhigher_prio_send_advert = true\n\
         lower_prio_no_advert = true\ngarp = { delay = \"1s\", repeat = 2, refresh = \"0s\", interval = \"5ms\" }\n";
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &format!("{WEB}{lines}"))]);
    let garp = Garp { delay: second, repeat: 2, refresh: Duration::ZERO, lower_prio_delay: second, ..Garp::default() };
    let expected = Timing {
        down_timer_adverts: 5,
        startup_delay: 10 * second,
        delay_after_boot: 120 * second,
        preempt_delay: 60 * second,
        higher_prio_send_advert: true,
        lower_prio_no_advert: true,
        garp: Garp { lower_prio_repeat: 2, interval: Duration::from_millis(5), ..garp },
    };
    assert_eq!(config.groups["web"].timing, expected);
    assert_eq!(
        group_faults(
            "nopreempt = true\npreempt_delay = \"1s\"\nstartup_delay = \"1001s\"\ngarp = { repeat = 0, dely = \"1s\" }"
        ),
        "cluster.toml:6:17: `preempt_delay` has no effect with `nopreempt` / remove one of them\n\
         cluster.toml:7:17: `startup_delay` is longer than 1000s\n\
         cluster.toml:8:19: `vip.web.garp.repeat` must be between 1 and 255\n\
         cluster.toml:8:22: unknown key `vip.web.garp.dely` / did you mean `delay`?\n"
    );
}

#[test]
fn a_service_may_stand_behind_an_excluded_address() {
    let lines = "excluded_addresses = [\"203.0.113.11/24\", \"2001:db8::11/64\"]\n";
    let service = "[service.dns]\nvip = \"web\"\nlisten = \"[2001:db8::11]:53\"\nprotocol = \"udp\"\nforwarding = \"nat\"\n\
         server = [{ address = \"[2001:db8::5]:53\" }]\n";
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &format!("{WEB}{lines}{service}"))]);
    let web = &config.groups["web"];
    assert_eq!((web.excluded.len(), web.format().addresses.len(), web.definition().addresses.len()), (2, 1, 3));
    assert!(group_faults("excluded_addresses = [\"203.0.113.10/24\"]").contains("`203.0.113.10` is listed twice"));
}

#[test]
fn unicast_and_the_source_of_a_group() {
    use crate::vrrp::unicast::{Peer, Unicast};
    let ip = |last| IpAddr::from([10, 0, 0, last]);
    let lines = "source = { lb1 = \"10.0.0.1\", lb2 = \"10.0.0.2\" }\n\
         unicast = { peers = [\"10.0.0.1\", { address = \"10.0.0.2\", min_ttl = 254 }] }\n";
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &format!("{WEB}{lines}"))]);
    let peers = [Peer::from(ip(1)), Peer { min_ttl: 254, ..Peer::from(ip(2)) }];
    let expected = Unicast { peers: peers.to_vec(), check_source: true, ttl: 255 };
    assert_eq!((config.groups["web"].source, &config.groups["web"].unicast), (Some(ip(1)), &Some(expected)));
    let lines = lines.replace("lb1", "lb3").replace("] }", "], check_source = false, ttl = 9 }");
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &format!("{WEB}{lines}"))]);
    let unicast = config.groups["web"].unicast.clone().unwrap();
    assert_eq!((config.groups["web"].source, unicast.check_source, unicast.ttl), (None, false, 9));
    assert_eq!(
        group_faults(
            "source = \"fe80::1\"\nunicast = { peers = [\"203.0.113.10\", { adress = \"10.0.0.2\" }], tll = 1 }"
        ),
        "cluster.toml:5:10: `fe80::1` is of another family than the group's addresses\n\
         cluster.toml:6:11: `203.0.113.10` is an address of the group itself / name the routers' own addresses\n\
         cluster.toml:6:38: `vip.web.unicast.peers[1]` needs `address`\n\
         cluster.toml:6:40: unknown key `vip.web.unicast.peers[1].adress` / did you mean `address`?\n\
         cluster.toml:6:64: unknown key `vip.web.unicast.tll` / did you mean `ttl`?\n"
    );
}

#[test]
fn what_version_two_cannot_do_is_said() {
    let interval = "version = 2\nadvertisement_interval = \"1.5s\"";
    assert_eq!(
        group_faults(interval),
        "cluster.toml:6:26: an advertisement interval of 1.5s cannot be sent / VRRP version 2 takes whole seconds \
         from 1s to 255s\n"
    );
    assert_eq!(
        group_faults("version = 2\nchecksum = \"plain\""),
        "cluster.toml:6:12: VRRP version 2 has one form of checksum / remove `checksum`\n"
    );
}

#[test]
fn a_password_comes_out_of_a_file_of_its_own() {
    let group = format!("{WEB}version = 2\nauthentication = {{ pass_file = \"pass\" }}\n");
    let with = |pass: &str| faults(&[("cluster.toml", group.as_str()), ("pass", pass)]);
    assert_eq!(with("hunter22\n"), "");
    assert_eq!(with("\n"), "cluster.toml:6:32: the password is empty\n");
    assert_eq!(with("hunter222"), "cluster.toml:6:32: the password has 9 bytes and VRRP sends only 8\n");
    assert_eq!(
        faults(&[("cluster.toml", group.as_str())]),
        "cluster.toml:6:32: cannot read the password: No such file or directory (os error 2)\n"
    );
    let inline = format!("{WEB}version = 2\nauthentication = {{ pass = \"hunter22\" }}\n");
    assert_eq!(
        cluster_faults(&inline),
        "cluster.toml:6:18: `authentication` needs either `pass_file`, `ah_file` or `hmac_files`\n\
         cluster.toml:6:20: unknown key `vip.web.authentication.pass`\n"
    );
    let new = group.replace("version = 2", "version = 3");
    assert_eq!(
        faults(&[("cluster.toml", new.as_str()), ("pass", "x")]),
        "cluster.toml:6:18: VRRP version 3 has no authentication (RFC 9568 section 9) / \
         remove `authentication`, set version = 2, or use `hmac_files`\n"
    );
}

#[test]
fn the_keys_of_a_trailer_come_out_of_files_too() {
    let with = |more: &str| {
        let group = format!("{WEB}authentication = {{ hmac_files = {{ 1 = \"a.key\", 2 = \"b.key\" }}, {more} }}\n");
        let (plain, hex) = ("k".repeat(64), format!("hex:{}\n", "0f".repeat(32)));
        let files = [("hamesh.toml", NODE), ("cluster.toml", &group), ("a.key", &plain), ("b.key", &hex)];
        let (result, _) = within(&files, |dir| load(&dir.join("hamesh.toml")));
        let hmac = result.map(|config| config.groups["web"].hmac.clone().unwrap());
        hmac.map_err(|errors| errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; "))
    };
    let plain = with("active = 2").unwrap();
    assert_eq!((plain.active, plain.mode, plain.window), (2, Mode::Enforce, Some(Duration::from_secs(5))));
    assert_eq!(plain.keys[&2].0, [0x0f; 32]);
    let other = with("active = 1, mode = \"receive-only\", window = \"0s\"").unwrap();
    assert_eq!((other.mode, other.window), (Mode::ReceiveOnly, None));
    for (more, fault) in [
        ("active = 3", "there is no key 3"),
        ("active = 1, window = \"1.5s\"", "`window` is 1s to 300s, in whole seconds, or 0s: the clocks do not matter"),
        ("mode = \"enforce\"", "`vip.web.authentication` needs `active`"),
    ] {
        assert_eq!(with(more).unwrap_err(), fault);
    }
    let short = format!("{WEB}authentication = {{ hmac_files = {{ 0 = \"a\", 1 = \"a\", 2 = \"b\" }}, active = 1 }}\n");
    let found = faults(&[("cluster.toml", &short), ("a", "short"), ("b", "hex:0")]);
    for fault in
        ["a key is 1 to 255", "the key has 5 bytes: 32 to 64", "pairs of hexadecimal digits", "there is no key 1"]
    {
        assert!(found.contains(fault), "{fault}: {found}");
    }
}

#[test]
fn two_groups_share_neither_a_virtual_router_nor_an_address() {
    let mail = WEB.replace("web", "mail");
    assert_eq!(
        cluster_faults(&format!("{WEB}{mail}")),
        "cluster.toml:7:8: virtual router 51 is on `eth0` twice\n\
         cluster.toml:8:14: `203.0.113.10` is in two VIP groups\n"
    );
    let elsewhere = mail.replace("eth0", "eth1").replace(".10/", ".11/");
    assert_eq!(cluster_faults(&format!("{WEB}{elsewhere}")), "");
    let instance =
        "vrrp_instance web {\n interface eth1\n virtual_router_id 51\n virtual_ipaddress {\n 203.0.113.11\n }\n}\n";
    let node = format!("{NODE}keepalived_config = \"keepalived.conf\"\n");
    let files = [("hamesh.toml", node.as_str()), ("cluster.toml", WEB), ("keepalived.conf", instance)];
    assert_eq!(faults(&files), "keepalived.conf:1:15: there are two VIP groups `web`\n");
    let renamed = instance.replace("web", "VI_1");
    let config = loaded(&[files[0], files[1], ("keepalived.conf", &renamed)]);
    assert_eq!(config.groups.keys().collect::<Vec<_>>(), ["VI_1", "web"]);
}

#[test]
fn priorities_are_looked_up_by_node() {
    let load = |node: &str, priority: &str| {
        let cluster = format!("{WEB}{priority}\n");
        let config = loaded(&[("hamesh.toml", node), ("cluster.toml", &cluster)]);
        (config.groups["web"].priority, config.warnings.iter().map(|w| w.message.clone()).collect::<Vec<_>>())
    };
    assert_eq!(load(NODE, "priority = { lb1 = 200, lb2 = 150 }"), (Some(200), vec![]));
    assert_eq!(load(NODE, "priority = 150"), (Some(150), vec![]));
    assert_eq!(load(NODE, ""), (Some(100), vec![]));
    let warning = "this node, `lb1`, has no priority for `web` and will never hold it".to_owned();
    assert_eq!(load(NODE, "priority = { lb2 = 150 }"), (None, vec![warning]));
    let witness = format!("{NODE}role = \"witness\"\n");
    assert_eq!(load(&witness, "priority = 150"), (None, vec![]));
}

#[test]
fn a_rack_adds_to_the_priorities_of_the_directors_in_it() {
    let priority = |lines: &str| {
        let node = NODE.replace("name = \"lb1\"", "name = \"lb1\"\nrack = \"r1\"");
        let cluster = format!("{WEB}{lines}\n");
        let (loaded, dir) =
            within(&[("hamesh.toml", &node), ("cluster.toml", &cluster)], |dir| load(&dir.join("hamesh.toml")));
        loaded.map(|config| config.groups["web"].priority).map_err(|errors| errors.to_string().replace(&dir, ""))
    };
    for (weights, sum) in [("r1 = 50, r2 = -20", 150), ("r1 = -99", 1), ("r1 = 155", 255), ("r2 = 20", 100), ("", 100)]
    {
        assert_eq!(priority(&format!("priority = 100\nrack_weight = {{ {weights} }}")), Ok(Some(sum)), "{weights}");
    }
    assert_eq!(priority("priority = { lb2 = 100 }\nrack_weight = { r1 = 50 }"), Ok(None), "never a candidate");
    for (weight, sum) in [(156, 256), (-100, 0)] {
        let error = priority(&format!("priority = 100\nrack_weight = {{ r1 = {weight} }}")).unwrap_err();
        assert!(error.contains(&format!("with the weight of rack `r1` this node's priority is {sum}")), "{error}");
    }
    let error = group_faults("rack_weight = { r1 = 300 }");
    assert!(error.ends_with("`vip.web.rack_weight.r1` must be between -254 and 254\n"), "{error}");
}

#[test]
fn without_a_quorum_a_group_is_dark_unless_it_says_otherwise() {
    let after = |lines: &str| {
        let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &format!("{WEB}{lines}\n"))]);
        config.groups["web"].quorum_loss
    };
    assert_eq!(after(""), None);
    assert_eq!(after("quorum_loss = \"release\""), None);
    assert_eq!(after("quorum_loss = \"vrrp\""), Some(Duration::from_secs(10)));
    assert_eq!(after("quorum_loss = \"vrrp\"\nquorum_loss_after = \"3s\""), Some(Duration::from_secs(3)));
    let cases = [
        (
            "quorum_loss = \"vrrp\"\nquorum_loss_after = \"2.9s\"",
            "the lease may still be another's / use quorum_loss_after = \"3s\"",
        ),
        ("quorum_loss = \"vrrp\"\nquorum_loss_after = \"17m\"", "`quorum_loss_after` is longer than 1000s"),
        ("quorum_loss_after = \"5s\"", "has no effect without a `quorum_loss` / say quorum_loss = \"vrrp\""),
        ("quorum_loss = \"vrrq\"", "`vip.web.quorum_loss` cannot be \"vrrq\""),
    ];
    for (lines, expected) in cases {
        let said = group_faults(lines);
        assert!(said.contains(expected), "{lines}: {said}");
    }
    let synced = cluster_faults(&format!("{WEB}quorum_loss = \"vrrp\"\n[sync.edge]\nvips = [\"web\"]\n"));
    assert!(synced.contains("only a group by itself can go by VRRP alone"), "{synced}");
}

#[test]
fn absent_and_empty_legacy_peers_differ() {
    let load = |peers: &str| {
        let cluster = format!("{WEB}{peers}\n");
        loaded(&[("hamesh.toml", NODE), ("cluster.toml", &cluster)]).groups["web"].legacy_peers.clone()
    };
    assert_eq!(load(""), LegacyPeers::Any);
    assert_eq!(load("legacy_peers = []"), LegacyPeers::Only(vec![]));
}

#[test]
fn a_group_becomes_what_raft_and_vrrp_need() {
    let cluster = WEB.replace("[\"203.0.113.10/24\"]", "[\"203.0.113.12/24\", \"203.0.113.10\"]");
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &format!("{cluster}nopreempt = true\n"))]);
    let web = &config.groups["web"];
    let [low, high] = [IpAddr::from([203, 0, 113, 10]), IpAddr::from([203, 0, 113, 12])];
    assert_eq!(web.addresses, [(high, 24), (low, 32)]);
    assert_eq!(web.definition().addresses, [low, high], "sorted");
    assert_eq!(web.format().addresses, [high, low], "as configured");
    let parameters = web.parameters(IpAddr::from([10, 0, 0, 11])).unwrap();
    assert_eq!((parameters.priority, parameters.preempt), (100, false));
}

#[test]
fn a_group_of_ipv6_is_a_virtual_router_beside_that_of_ipv4() {
    let six = "[vip.web6]\ninterface = \"eth0\"\nvrid = 51\naddresses = [\"fe80::51/64\", \"2001:db8::10\"]\n\
               legacy_peers = [\"fe80::1\"]\n";
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &format!("{WEB}{six}"))]);
    let web = &config.groups["web6"];
    assert_eq!((web.family, web.version), (Family::V6, Version::V3));
    let [link, global] = ["fe80::51", "2001:db8::10"].map(|address| address.parse::<IpAddr>().unwrap());
    assert_eq!(web.addresses, [(link, 64), (global, 128)]);
    assert_eq!(web.definition(), Definition { family: Family::V6, vrid: 51, addresses: vec![global, link] });
    assert_eq!((web.format().family, web.format().addresses), (Family::V6, vec![link, global]));
    assert_eq!(config.groups["web"].family, Family::V4);
}

#[test]
fn a_group_with_a_virtual_mac_has_a_device_for_it() {
    let device = |lines: &str| {
        let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &format!("{WEB}{lines}"))]);
        config.groups["web"].virtual_mac().map(|(device, mac)| (device.to_owned(), mac))
    };
    assert_eq!(device(""), None);
    assert_eq!(device("virtual_mac = false\n"), None);
    assert_eq!(device("virtual_mac = true\n"), Some(("vrrp.51".to_owned(), [0, 0, 0x5e, 0, 1, 51])));
    assert_eq!(device("virtual_mac = \"web0\"\n"), Some(("web0".to_owned(), [0, 0, 0x5e, 0, 1, 51])));
    let six = "addresses = [\"2001:db8::10\"]\nvirtual_mac = true";
    assert_eq!(group_faults(six), "");
    let twice = "virtual_mac = \"vrrp.7\"\n[vip.b]\ninterface = \"eth1\"\nvrid = 7\naddresses = [\"10.0.7.1\"]\nvirtual_mac = true";
    assert!(group_faults(twice).contains("two virtual MACs are called `vrrp.7`"), "{}", group_faults(twice));
    let taken = group_faults("virtual_mac = \"eth0\"");
    assert!(taken.contains("`eth0` is an interface already"), "{taken}");
    let long = group_faults("virtual_mac = \"a-name-that-is-too-long\"");
    assert!(long.contains("cannot be the name of an interface"), "{long}");
}

#[test]
fn what_is_wrong_with_a_group_of_ipv6() {
    let cases = [
        (
            "addresses = [\"2001:db8::10/129\"]",
            "prefix length `129` is not between 1 and 128 / for example \"203.0.113.10/24\"",
        ),
        (
            "addresses = [\"::ffff:203.0.113.10\"]",
            "`::ffff:203.0.113.10` cannot be a virtual address / for example \"203.0.113.10/24\"",
        ),
        ("addresses = [\"ff02::12\"]", "`ff02::12` cannot be a virtual address / for example \"203.0.113.10/24\""),
        (
            "addresses = [\"2001:db8::10\", \"203.0.113.10\"]",
            "`203.0.113.10` is of another family than the group's first address / make a group of its own for each family; both may have the same vrid",
        ),
        (
            "addresses = [\"2001:db8::10\", \"fe80::1\"]",
            "warning: the link-local address `fe80::1` is not the group's first address / RFC 9568 section 5.2.9 wants it first, in the same place on every router",
        ),
        (
            "addresses = [\"2001:db8::10\"]\nversion = 2",
            "VRRP version 2 has no IPv6 / version 3 has: set it for this group",
        ),
        (
            "addresses = [\"2001:db8::10\"]\nchecksum = \"plain\"",
            "over IPv6 VRRP has one form of checksum / remove `checksum`",
        ),
        (
            "addresses = [\"2001:db8::10\"]\nlegacy_peers = [\"2001:db8::2\"]",
            "adverts of this group never come from `2001:db8::2` / name a link-local IPv6 address, fe80::/10: the one that the peer sends from",
        ),
        (
            "legacy_peers = [\"fe80::1\"]",
            "adverts of this group never come from `fe80::1` / name an IPv4 address: the one that the peer sends from",
        ),
    ];
    for (lines, expected) in cases {
        let faults = group_faults(lines);
        let said = faults.splitn(4, ':').nth(3).map(|said| said.trim());
        assert_eq!(said, Some(expected), "{lines}: {faults}");
    }
}

#[test]
fn what_is_wrong_with_a_service() {
    let service = |lines: &str| cluster_faults(&format!("{WEB}[service.s]\n{lines}\n"));
    let fine =
        "vip = \"web\"\nlisten = \"203.0.113.10:80\"\nforwarding = \"nat\"\nserver = [{ address = \"10.0.0.1:80\" }]\n";
    assert_eq!(service(fine), "");
    let wrong = r#"vip = "wbe"
listen = "203.0.113.10:80"
forwarding = "route"
scheduler = "wrrr"
protocol = "icmp"
server = [{ address = "10.0.0.1:80", weight = -1 }, { adress = "10.0.0.1:80" }]
check = { http = { path = "healthz", status = "600" }, timeout = "0s", fall = 0, connect_timeout = "2s" }"#;
    assert_eq!(
        service(wrong),
        "cluster.toml:6:7: there is no VIP group `wbe` / did you mean `web`?\n\
         cluster.toml:8:14: `service.s.forwarding` cannot be \"route\"\n\
         cluster.toml:9:13: `service.s.scheduler` cannot be \"wrrr\" / did you mean `wrr`?\n\
         cluster.toml:10:12: `service.s.protocol` cannot be \"icmp\"\n\
         cluster.toml:11:47: `service.s.server[0].weight` must be between 0 and 65535\n\
         cluster.toml:11:53: `service.s.server[1]` needs `address`\n\
         cluster.toml:11:55: unknown key `service.s.server[1].adress` / did you mean `address`?\n\
         cluster.toml:12:9: a check's `interval` and `timeout` must be above 0\n\
         cluster.toml:12:9: a check's `connect_timeout` must be above 0 and not above its `timeout`\n\
         cluster.toml:12:27: the path of an HTTP check begins with `/`\n\
         cluster.toml:12:47: `600` is no range of HTTP status codes / for example \"200-299\" or \"200, 204\"\n\
         cluster.toml:12:79: `service.s.check.fall` must be between 1 and 100\n"
    );
    let more = "hysteresis = 2\nquorum = 2\npersistence = \"1500ms\"\nsorry_server = \"10.0.0.9\"\nmin_up = -1\n";
    assert_eq!(
        service(&format!("{fine}{more}")),
        "cluster.toml:5:10: a hysteresis of 2 does not let a quorum of 2 be lost / it must be smaller than the quorum\n\
         cluster.toml:12:15: IPVS keeps clients for whole seconds, at least 1s\n\
         cluster.toml:13:16: `service.s.sorry_server` is not an address and port / for example \"10.0.5.99:80\"\n\
         cluster.toml:14:10: `service.s.min_up` must be between 0 and 65535\n"
    );
    let by = |way: &str| service(&fine.replace("\"nat\"", way));
    assert_eq!(by("{ gue = { port = 6080, checksum = \"remote\" } }"), "");
    assert_eq!(by("{ gre = {} }"), "");
    assert_eq!(by("{ gue = {} }"), "cluster.toml:8:22: `service.s.forwarding.gue` needs `port`\n");
    assert_eq!(
        by("{}"),
        "cluster.toml:8:14: a tunnel is one of `gue` and `gre` / for example { gue = { port = 6080 } }; IP in IP is \"tunnel\"\n"
    );
    assert_eq!(
        by("{ gre = { checksum = \"remote\", port = 1 } }"),
        "cluster.toml:8:35: `service.s.forwarding.gre.checksum` cannot be \"remote\"\n\
         cluster.toml:8:45: unknown key `service.s.forwarding.gre.port`\n"
    );
    let mesh = "[health]\nobservers = 1\nagree = 2\n";
    assert_eq!(cluster_faults(&format!("{WEB}{mesh}")), "cluster.toml:5:2: 2 of 1 observers cannot agree\n");
    let elsewhere = fine.replace("203.0.113.10:80", "203.0.113.11:80");
    assert_eq!(service(&elsewhere), "cluster.toml:7:10: `203.0.113.11` is not an address of VIP group `web`\n");
    let check = format!("{fine}check = {{ interval = \"2s\" }}");
    assert_eq!(
        service(&check),
        "cluster.toml:10:9: a check needs one of `tcp`, `http`, `https`, `udp`, `dns`, `smtp`, `ping`, `script`, `file`, `process` and `bfd`\n"
    );
    let asked = |asked: &str| service(&format!("{fine}check = {{ {asked} }}"));
    assert_eq!(asked("dns = { name = \"example.org\", type = \"AAAA\" }"), "");
    assert_eq!(asked("udp = { payload = \"00fF\", reply = true }"), "");
    assert_eq!(asked("smtp = {}"), "");
    assert_eq!(asked("tcp = {}, slow = \"300ms\""), "");
    assert_eq!(asked("tcp = {}, slow = { after = \"300ms\", percent = 50 }"), "");
    assert_eq!(
        asked("tcp = {}, slow = { after = \"300ms\", percent = 100 }"),
        "cluster.toml:10:57: `service.s.check.slow.percent` must be between 1 and 99\n"
    );
    assert_eq!(
        asked("udp = { payload = \"0g\" }"),
        "cluster.toml:10:29: a payload is up to 512 bytes of two hexadecimal digits each / for example \"70696e67\"\n"
    );
    assert_eq!(
        asked("dns = { name = \"a..b\", type = \"PTR\" }"),
        "cluster.toml:10:26: `a..b` is no domain name / for example \"example.org\", or \".\" for the root\n\
         cluster.toml:10:41: `service.s.check.dns.type` cannot be \"PTR\"\n"
    );
    assert_eq!(
        asked("smtp = { helo = \"lb\\r\\nRSET\" }"),
        "cluster.toml:10:27: `lb\\r\\nRSET` cannot be said with HELO / for example \"lb.example.org\"\n"
    );
    assert_eq!(
        asked("smtp = {}, tcp = {}"),
        "cluster.toml:10:9: a check needs one of `tcp`, `http`, `https`, `udp`, `dns`, `smtp`, `ping`, `script`, `file`, `process` and `bfd`\n"
    );
}
