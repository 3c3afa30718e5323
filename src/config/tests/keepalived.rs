//! keepalived.conf: what is taken over, and what is refused.

use super::*;
use crate::config::address::Placing;
use crate::kernel::address::{Label, Look};

const NODE: &str = "[node]\nname = \"lb1\"\nlisten = \"10.0.0.11:7112\"\nkeepalived_config = \"k.conf\"\n";

const INSTANCE: &str = "vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    virtual_ipaddress {
        10.0.0.100
    }
";

fn read(text: &str) -> Config {
    loaded(&[("hamesh.toml", NODE), ("k.conf", text)])
}

/// One group, and the warnings.
fn group(lines: &str) -> (VipGroup, Vec<String>) {
    let config = read(&format!("{INSTANCE}{lines}\n}}\n"));
    (config.groups["VI_1"].clone(), config.warnings.iter().map(|w| w.message.clone()).collect())
}

/// Without the reasons why keywords are not served.
fn refused(text: &str) -> String {
    let faults = faults(&[("k.conf", text)]);
    let cut = |line: &str| {
        let end = line
            .find("` is not supported by this version / ")
            .map(|at| at + "` is not supported by this version".len());
        line[..end.unwrap_or(line.len())].to_owned() + "\n"
    };
    faults.lines().map(cut).collect()
}

#[test]
fn a_plain_configuration_is_taken_over_with_keepaliveds_meaning() {
    let config = read(
        r#"! Configuration File for keepalived
global_defs {
   router_id "LVS_DEVEL"   # a comment
   vrrp_skip_check_adv_addr
}

vrrp_instance VI_1
{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority 150
    advert_int 2
    nopreempt
    authentication { auth_type PASS
        auth_pass 1111
    }
    virtual_ipaddress {
        192.168.200.17/24 dev eth0 label "eth0:1" ! the first
        192.168.200.16 scope global
    }
}
vrrp_instance VI_2 {
    version 3
    interface "eth1"
    virtual_router_id 51
    advert_int 0.5
    v3_checksum_as_v2 yes
    virtual_ipaddress { 192.168.201.1/24 }
}"#,
    );
    let look = Look { label: Label::new("eth0:1"), ..Look::default() };
    let first = VipGroup {
        localnode: false,
        interface: "eth0".into(),
        family: Family::V4,
        vrid: 51,
        virtual_mac: None,
        plain_adverts: false,
        needs_interface: true,
        version: Version::V2,
        interval: Duration::from_secs(2),
        addresses: vec![(IpAddr::from([192, 168, 200, 17]), 24), (IpAddr::from([192, 168, 200, 16]), 32)],
        excluded: Vec::new(),
        placings: BTreeMap::from([([192, 168, 200, 17].into(), Placing { look, ..Placing::default() })]),
        priority: Some(150),
        accept: true,
        nopreempt: true,
        auth: Auth::Pass(Password::cut("1111")),
        hmac: None,
        checksum: Form::Pseudo,
        legacy_peers: LegacyPeers::Any,
        source: None,
        unicast: None,
        multicast: None,
        timing: crate::vrrp::timing::Timing::default(),
        pace: None,
        track: Vec::new(),
        notify: crate::config::notify::Notify::default(),
        routing: crate::kernel::routing::Routing::default(),
        sync: None,
        quorum_loss: None,
    };
    let second = VipGroup {
        interface: "eth1".into(),
        version: Version::V3,
        interval: Duration::from_millis(500),
        addresses: vec![(IpAddr::from([192, 168, 201, 1]), 24)],
        placings: BTreeMap::new(),
        priority: Some(100),
        nopreempt: false,
        auth: Auth::None,
        hmac: None,
        checksum: Form::Plain,
        ..first.clone()
    };
    assert_eq!(config.groups, BTreeMap::from([("VI_1".to_owned(), first), ("VI_2".to_owned(), second)]));
    assert_eq!(config.warnings, []);
}

#[test]
fn without_a_priority_the_state_decides_it() {
    assert_eq!(group("").0.priority, Some(100));
    assert_eq!(group("state BACKUP").0.priority, Some(100));
    assert_eq!(group("state MASTER").0.priority, Some(255));
    assert_eq!(group("state MASTER\npriority 120").0.priority, Some(120));
}

#[test]
fn globals_hold_for_every_instance_wherever_they_stand() {
    let globals = "global_defs {\nvrrp_version 3\nv3_checksum_as_v2\n}\n";
    let config = read(&format!("{INSTANCE}}}\n{globals}"));
    let group = &config.groups["VI_1"];
    assert_eq!((group.version, group.checksum), (Version::V3, Form::Plain));
    let config = read(&format!("{INSTANCE}version 2\n}}\n{globals}"));
    assert_eq!(config.groups["VI_1"].version, Version::V2);
}

#[test]
fn what_keepalived_bends_is_bent_with_a_warning() {
    let (half, warnings) = group("advert_int 2.5");
    assert_eq!(half.interval, Duration::from_secs(3));
    assert_eq!(warnings, ["an advert_int of 2.5s becomes 3s, as with keepalived"]);
    let (fine, warnings) = group("version 3\nadvert_int 0.015");
    assert_eq!(fine.interval, Duration::from_millis(20));
    assert_eq!(warnings, ["an advert_int of 15ms becomes 20ms, as with keepalived"]);
    for (text, milliseconds) in [
        ("advert_int 1.4", 1000),
        ("advert_int 0.3", 1000),
        ("version 3\nadvert_int 0.014", 10),
        ("version 3\nadvert_int 99", 40_950),
    ] {
        let (group, _) = group(text);
        assert_eq!(group.interval, Duration::from_millis(milliseconds), "{text}");
    }
    let many: String = (1..=90).map(|n| format!("fe80::{n:x}\n")).collect();
    let six =
        format!("vrrp_instance six {{\ninterface eth0\nvirtual_router_id 6\nvirtual_ipaddress {{\n{many}}}\n}}\n");
    let config = read(&six);
    let group_six = &config.groups["six"];
    assert_eq!((group_six.addresses.len(), group_six.excluded.len()), (89, 1));
    let (cut, warnings) = group("authentication {\nauth_type PASS\nauth_pass averylongpassword\n}");
    assert_eq!(cut.auth, Auth::Pass(Password::cut("averylon")));
    assert_eq!(warnings, ["only the first 8 bytes of `auth_pass` are used, as by keepalived"]);
    let (new, warnings) = group("version 3\nauthentication {\nauth_type PASS\nauth_pass x\n}");
    assert_eq!(new.auth, Auth::None);
    assert_eq!(warnings, ["VRRP version 3 has no authentication: it is ignored, as by keepalived"]);
    let (master, warnings) = group("state MASTER\nnopreempt\npriority 150");
    assert!(!master.nopreempt);
    assert_eq!(warnings, ["`nopreempt` has no effect with `state MASTER`, as in keepalived"]);
    let (owner, warnings) = group("nopreempt\npriority 255");
    assert!(!owner.nopreempt);
    assert_eq!(warnings, ["`nopreempt` has no effect with priority 255, as in keepalived"]);
    let (twice, warnings) = group("priority 10\npriority 20");
    assert_eq!(twice.priority, Some(20));
    assert_eq!(warnings, ["`priority` is given twice, the last one counts"]);
}

#[test]
fn what_this_version_cannot_do_is_refused_all_at_once_and_typos_get_a_suggestion() {
    let text = "global_defs {
    disable_local_igmp
    ruter_id x
}
track_file chk {
    file \"/bin/true\"
}
virtual_server_group 10.0.0.100 80 {
    real_server 10.0.0.1 80 {
    }
}
vrrp_instanc VI_0 {
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    priorty 3
    track_bfd {
        chk
    }
    virtual_ipaddress {
        10.0.0.100/24 dev eth1 brd + peer 10.0.0.9
        10.0.0.101/24 lable x
        fd00::1/64
    }
}
";
    assert_eq!(
        refused(text),
        "k.conf:2:5: `disable_local_igmp` is not supported by this version\n\
         k.conf:3:5: unknown keyword `ruter_id` / did you mean `router_id`?\n\
         k.conf:8:33: `virtual_server_group` takes one value\n\
         k.conf:12:1: unknown keyword `vrrp_instanc` / did you mean `vrrp_instance`?\n\
         k.conf:17:5: unknown keyword `priorty` / did you mean `priority`?\n\
         k.conf:19:9: there is no `bfd_instance chk`\n\
         k.conf:22:38: `peer` is not supported by this version\n\
         k.conf:23:23: unknown keyword `lable` / did you mean `label`?\n\
         k.conf:24:9: `fd00::1` is of another family than the group's first address / make a group of its own for each family; both may have the same vrid\n"
    );
}

#[test]
fn words_of_an_address_that_change_nothing_are_said_and_passed_over() {
    let (given, warnings) = group(
        "virtual_ipaddress_excluded {\n10.0.0.101/24 brd 10.0.0.255 no_track label eth0:1 -nodad scope global\n}",
    );
    assert_eq!(given.excluded, [([10, 0, 0, 101].into(), 24)]);
    assert_eq!(warnings, ["`no_track` of `10.0.0.101` changes nothing", "`-nodad` changes nothing"]);
}

#[test]
fn an_address_may_be_on_another_interface() {
    let (given, warnings) = group(
        "virtual_ipaddress_excluded {\n10.1.0.1/24 dev eth1 label eth1:9 brd + scope link\n10.1.0.2/32 brd 10.1.0.255 dev eth1 no_track\n\
         fd01::1/64 dev eth2 label x noprefixroute home preferred_lft forever no_track\n10.0.0.7/24 dev eth0\n}",
    );
    assert_eq!(warnings, ["an IPv6 address has no `label`: it is ignored, as by keepalived"]);
    assert_eq!(given.elsewhere().into_iter().collect::<Vec<_>>(), ["eth1", "eth2"]);
    let on = |name| given.on(name).map(|vip| format!("{vip}{}", vip.look)).collect::<Vec<_>>();
    assert_eq!(on("eth0"), ["10.0.0.100/32", "10.0.0.7/24"], "its own, said or not");
    assert_eq!(on("eth1"), ["10.1.0.1/24 brd 10.1.0.255 scope 253 label eth1:9", "10.1.0.2/32 brd 10.1.0.255"]);
    assert_eq!(on("eth2"), ["fd01::1/64 home noprefixroute preferred_lft forever"]);
    let untracked =
        given.placings.iter().filter(|(_, placing)| placing.untracked).map(|(address, _)| address.to_string());
    assert_eq!(untracked.collect::<Vec<_>>(), ["10.1.0.2", "fd01::1"]);
    for (line, fault) in [
        ("10.1.0.1/31 brd +", "`+` is no broadcast address of `10.1.0.1/31`"),
        ("10.1.0.1/24 dev eth/1", "`eth/1` cannot be the name of an interface"),
        ("10.1.0.1/24 label sixteen-letters-", "`sixteen-letters-` is longer than the 15 bytes of a label"),
        ("10.1.0.1/24 preferred_lft x", "`x` is no number of seconds, and not `forever`"),
        ("10.1.0.1/24 dev", "`dev` needs a value"),
    ] {
        let found = refused(&format!("{INSTANCE}virtual_ipaddress_excluded {{\n{line}\n}}\n}}\n"));
        assert!(found.contains(fault), "{line}: {found}");
    }
}

#[test]
fn the_device_of_a_virtual_mac_is_no_other_interface() {
    let (given, warnings) =
        group("use_vmac\nvirtual_ipaddress_excluded {\n10.0.0.7/24 dev vrrp.51\n10.0.0.8/24 dev eth0\n}");
    assert!(given.placings.is_empty() && warnings.is_empty(), "{given:?}");
    let other =
        "vrrp_instance VI_2 {\ninterface eth1\nvirtual_router_id 1\nvirtual_ipaddress {\n10.0.0.8 dev vrrp.51\n}\n}\n";
    let found = refused(&format!("{INSTANCE}use_vmac\n}}\n{other}"));
    assert!(found.contains("`vrrp.51` is an interface already"), "{found}");
}

#[test]
fn the_devices_of_virtual_macs_have_the_prefix_of_the_file() {
    let instance = |name: &str, vmac: &str, vip: &str| {
        format!(
            "vrrp_instance {name} {{\ninterface eth0\nvirtual_router_id 51\nuse_vmac {vmac}\nvirtual_ipaddress {{\n{vip}\n}}\n}}\n"
        )
    };
    let all = instance("a", "", "10.0.0.1/24") + &instance("b", "", "2001:db8::1/64");
    let named = |text: &str| {
        let config = read(text);
        config.groups.values().filter_map(|group| group.virtual_mac.clone()).collect::<Vec<_>>()
    };
    assert_eq!(named(&all), ["vrrp.51", "vrrp6.51"]);
    let globals = "global_defs {\nvmac_prefix vip\n}\n";
    assert_eq!(named(&format!("{globals}{all}")), ["vip.51", "vip6.51"]);
    assert_eq!(named(&format!("{globals}{}", instance("a", "mine", "10.0.0.1/24"))), ["mine"]);
}

#[test]
fn what_is_wrong_with_a_value_is_said_at_the_value() {
    let instance = |lines: &str| refused(&format!("{INSTANCE}{lines}\n}}\n"));
    let cases = [
        ("state master", "7: `state` is MASTER or BACKUP / did you mean `MASTER`?"),
        ("priority 0", "10: `priority` must be between 1 and 255"),
        ("priority 300", "10: `priority` must be between 1 and 255"),
        ("priority", "1: `priority` needs a value"),
        ("priority 1 { x }", "1: `priority` has no block"),
        ("nopreempt { x }", "1: `nopreempt` has no block"),
        ("priority 1 2", "12: `priority` takes one value"),
        ("version 4", "9: `version` is 2 or 3"),
        ("advert_int 1s", "12: `advert_int` is not a number of seconds: it has no number"),
        (
            "advert_int 256",
            "12: an advertisement interval of 256s cannot be sent / VRRP version 2 takes whole seconds from 1s to 255s",
        ),
        ("authentication", "1: `authentication` needs a block in braces"),
        ("authentication { auth_type PASS }", "1: `authentication` needs `auth_type` and `auth_pass`"),
        ("v3_checksum_as_v2 maybe", "19: `v3_checksum_as_v2` is true or false"),
        ("virtual_ipaddress { 10.0.0.1 dev }", "30: `dev` needs a value"),
        ("virtual_ipaddress { 10.0.0.100 }", "21: `10.0.0.100` is listed twice"),
        ("interface \"eth0", "11: this quote is never closed"),
    ];
    for (line, expected) in cases {
        let faults = instance(line);
        assert!(faults.contains(&format!("k.conf:7:{expected}\n")), "{line}: {faults}");
    }
    let typo = instance("authentication {\nauth_type A\nauth_pass x\n}");
    assert_eq!(typo, "k.conf:8:11: `auth_type` is PASS or AH / did you mean `AH`?\n");
    assert_eq!(
        refused("vrrp_instance VI_1 {\n}\n"),
        "k.conf:1:15: `vrrp_instance VI_1` needs `interface`\n\
         k.conf:1:15: `vrrp_instance VI_1` needs `virtual_router_id`\n\
         k.conf:1:15: `vrrp_instance VI_1` needs `virtual_ipaddress` / say `no_virtual_ipaddress` where a script moves what stands for it\n"
    );
}

#[test]
fn braces_are_checked() {
    assert_eq!(refused("global_defs {\n"), "k.conf:1:13: this block is never closed\n");
    assert_eq!(refused("global_defs {\n}\n}\n"), "k.conf:3:1: nothing is open here to be closed\n");
    assert_eq!(refused("{\n}\n"), "k.conf:1:1: a block without a keyword\n");
    let deep = "a {\n".repeat(100_000);
    assert_eq!(refused(&format!("! x\n{deep}")), "k.conf:10:3: blocks are nested too deeply\n");
}

#[test]
fn definitions_and_conditions_make_up_instances_and_errors_point_through_them() {
    let text = r"$IF=eth0
        $VI= \
            vrrp_instance VI_${N} { \
                interface $IF \
                virtual_router_id ${N} \
                virtual_ipaddress { 10.0.0.${N} } \
            }
        ~SEQ(N, 51, 52) $VI
";
    let config = read(text);
    assert_eq!(config.groups.keys().collect::<Vec<_>>(), ["VI_51", "VI_52"]);
    assert_eq!(config.groups["VI_52"].addresses, [(IpAddr::from([10, 0, 0, 52]), 32)]);
    let wrong = refused(
        "$PRIO=300\nvrrp_instance VI_1 {\n  interface eth0\n  virtual_router_id 1\n  priority ${PRIO}\n  virtual_ipaddress { 10.0.0.1 }\n}\n",
    );
    assert_eq!(wrong, "k.conf:5:12: `priority` must be between 1 and 255\n");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_either_parser_panic(text in "([a-z_ ]|[{}\\[\\]=\"'#!$@~.,0-9\n]|vrrp_instance |virtual_ipaddress |\\[vip.a\\]\n|é){0,80}") {
        let log = Log::default();
        let source = Arc::new(Source { path: "x".into(), text });
        super::super::keepalived::read(
            &source,
            &super::super::keepalived::Setting { id: "lb1".to_owned(), guard: false },
            &log,
        );
        super::super::cluster::read(&source, Some(super::super::cluster::Director { name: "lb1", rack: "r1" }), &log);
        node::read(&source, &log);
        if let Err(errors) = log.finish(|_| None::<()>) {
            proptest::prop_assert!(errors.iter().all(|error| !error.to_string().is_empty()));
        }
    }
}

const BALANCED: &str = "virtual_server 10.0.0.100 443 {
    delay_loop 6
    lvs_sched wrr
    lvs_method DR
    persistence_timeout 50
    protocol TCP
    quorum 2
    hysteresis 1
    sorry_server 10.0.5.9 443
    sorry_server_inhibit
    omega
    ha_suspend
    virtualhost www.example.org
    real_server 10.0.5.11 443 {
        weight 3
        inhibit_on_failure
        uthreshold 1000
        HTTP_GET {
            url { path /healthz
                status_code 200 204 300-302 }
            connect_timeout 3
            retry 2
        }
    }
    real_server 10.0.5.12 443 {
        lvs_method TUN type gue port 5555 csum
        TCP_CHECK { connect_timeout 1
            delay_before_retry 0.5 }
    }
    real_server 10.0.5.13 443 { weight 0 }
}
";

#[test]
fn a_virtual_server_is_a_service_behind_the_instance_with_its_address() {
    use crate::config::check::{Check, Http, HttpVersion, Probe, Way};
    use crate::ipvs::{Checksum, Forwarding, Protocol, Tunnel};
    let config = read(&format!("{BALANCED}{INSTANCE}}}\n"));
    assert_eq!(config.services.keys().collect::<Vec<_>>(), ["10.0.0.100:443/tcp"]);
    let service = &config.services["10.0.0.100:443/tcp"];
    assert_eq!((service.vip.as_str(), service.protocol, service.scheduler), ("VI_1", Protocol::Tcp, "wrr"));
    assert_eq!((service.quorum, service.hysteresis, service.persistence), (2, 1, Some(Duration::from_secs(50))));
    assert_eq!(service.sorry_server, Some((([10, 0, 5, 9], 443).into(), Forwarding::Direct)));
    assert!(service.sorry_server_inhibit && service.omega && service.ha_suspend);
    let [first, second, third] = service.servers.as_slice() else { panic!("{service:?}") };
    assert_eq!((first.weight, first.inhibit_on_failure, first.upper), (3, true, 1000));
    assert_eq!(first.forwarding, Forwarding::Direct);
    let probe = Probe::Http(Http {
        path: "/healthz".to_owned(),
        host: Some("www.example.org".to_owned()),
        version: HttpVersion::Old,
        status: vec![200..=200, 204..=204, 300..=302],
        digest: None,
        regex: None,
        no_regex: None,
        tls: None,
    });
    // The connection and the answer have 3 s each.
    let (interval, again, timeout) = (Duration::from_secs(6), Duration::from_secs(3), Duration::from_secs(6));
    let (way, warmup) = (Way::default(), interval);
    let connects = Way { connect: Some(Duration::from_secs(3)), ..Way::default() };
    let check =
        Check { probe, way: connects, interval, again, timeout, warmup, fall: 3, rise: 1, slow: None, loss: None };
    assert_eq!(first.checks, [check]);
    let tunnel = Forwarding::Tunnel(Tunnel::Gue { port: 5555, checksum: Checksum::Full });
    assert_eq!((second.weight, second.forwarding), (1, tunnel));
    let (again, timeout) = (Duration::from_millis(500), Duration::from_secs(1));
    let check =
        Check { probe: Probe::Tcp, way, interval, again, timeout, warmup, fall: 2, rise: 1, slow: None, loss: None };
    assert_eq!(second.checks, [check]);
    assert_eq!((third.weight, third.checks.len()), (0, 0), "not checked, as in keepalived");
    assert_eq!(config.warnings, []);
}

#[test]
fn an_answer_may_take_longer_than_the_time_between_two_checks_as_with_keepalived() {
    let servers = "virtual_server 10.0.0.100 80 {
    delay_loop 2
    protocol TCP
    real_server 10.0.5.11 80 { TCP_CHECK { connect_timeout 9 } }
    real_server 10.0.5.12 80 { MISC_CHECK { misc_path /bin/true
        misc_timeout 30 } }
    real_server 10.0.5.13 80 { MISC_CHECK { misc_path /bin/true } }
    real_server 10.0.5.14 80 { SSL_GET { url { path / } } }
}
";
    let config = read(&format!("{servers}{INSTANCE}}}\n"));
    let servers = &config.services["10.0.0.100:80/tcp"].servers;
    let times = servers.iter().map(|server| {
        let check = &server.checks[0];
        (check.interval.as_secs(), check.timeout.as_secs(), check.way.connect.map(|connect| connect.as_secs()))
    });
    assert_eq!(times.collect::<Vec<_>>(), [(2, 9, None), (2, 30, None), (2, 2, None), (2, 15, Some(5))]);
}

#[test]
fn name_and_mail_servers_are_checked_with_keepaliveds_defaults() {
    use crate::config::check::{Check, Probe, Record, Way};
    let servers = "virtual_server 10.0.0.100 53 {
    delay_loop 6
    protocol UDP
    real_server 10.0.5.11 53 { DNS_CHECK { type A
        name example.org } }
    real_server 10.0.5.12 53 { SMTP_CHECK { helo_name lb.example.org
        connect_timeout 2 } }
}
";
    let config = read(&format!("{servers}{INSTANCE}}}\n"));
    let servers = &config.services["10.0.0.100:53/udp"].servers;
    let interval = Duration::from_secs(6);
    let dns = Probe::Dns { name: "example.org".to_owned(), record: Record::A };
    let timeout = Duration::from_secs(5);
    let (way, warmup) = (Way::default(), interval);
    let check = Check {
        probe: dns,
        way: way.clone(),
        interval,
        again: interval,
        timeout,
        warmup,
        fall: 4,
        rise: 1,
        slow: None,
        loss: None,
    };
    assert_eq!(servers[0].checks, [check]);
    let smtp = Probe::Smtp { helo: "lb.example.org".to_owned() };
    // The connection, the greeting and two answers have 2 s each.
    let (again, timeout) = (Duration::from_secs(1), Duration::from_secs(8));
    let way = Way { connect: Some(Duration::from_secs(2)), ..way };
    assert_eq!(
        servers[1].checks,
        [Check { probe: smtp, way, interval, again, timeout, warmup, fall: 2, rise: 1, slow: None, loss: None }]
    );
}

#[test]
fn what_is_wrong_with_a_virtual_server() {
    let faults = |text: &str| refused(&format!("{INSTANCE}}}\n{text}"));
    assert_eq!(
        faults("virtual_server 10.0.0.101 80 {\n protocol TCP\n}\n"),
        "k.conf:8:16: `10.0.0.101` is no virtual_ipaddress of a vrrp_instance / \
         hamesh balances only behind an address that it holds: add `10.0.0.101` to `virtual_ipaddress_excluded` of `VI_1`, whose \
         adverts stay the same\n"
    );
    assert_eq!(
        refused("virtual_server 10.0.0.101 80 {\n protocol TCP\n}\nvirtual_server fwmark 7 {\n protocol TCP\n}\n"),
        "k.conf:1:16: `10.0.0.101` is no virtual_ipaddress of a vrrp_instance / \
         hamesh balances only behind an address that it holds: give it to a vrrp_instance\n\
         k.conf:4:23: there is no vrrp_instance that marked packets could go with / \
         say it in cluster.toml, with `mark` and `vip` of a service; instances that are all in one vrrp_sync_group move together, and \
         then it does not matter\n"
    );
    let other = INSTANCE.replace("VI_1", "VI_2").replace("virtual_router_id 51", "virtual_router_id 52");
    let two = format!("{INSTANCE}}}\n{}}}\n", other.replace("10.0.0.100", "10.0.0.110"));
    let marked = format!("{two}virtual_server fwmark 7 {{\n protocol TCP\n}}\n");
    let said = refused(&marked);
    assert!(said.contains("which vrrp_instance marked packets go with is not clear: `VI_1` or `VI_2`"), "{said}");
    let synced = read(&format!("{marked}vrrp_sync_group all {{\n group {{\n VI_1\n VI_2\n }}\n}}\n"));
    assert_eq!(synced.services["fwmark 7"].vip, "VI_1", "they move together");
    assert_eq!(
        faults(
            "virtual_server group x {\n}\nvirtual_server_group y {\n 10.0.0.9-3 80\n 10.0.0.9/29 80\n 10.0.0.0/19\n 10.0.0.0/33\n}\n"
        ),
        "k.conf:8:22: there is no `virtual_server_group x` / did you mean `y`?\n\
         k.conf:11:2: `10.0.0.9-3` is no address, and no range or network of up to 4096 / for example 10.0.0.3-10, or 10.0.0.8/29, the network's own address\n\
         k.conf:12:2: `10.0.0.9/29` is no address, and no range or network of up to 4096 / for example 10.0.0.3-10, or 10.0.0.8/29, the network's own address\n\
         k.conf:13:2: `10.0.0.0/19` is no address, and no range or network of up to 4096 / for example 10.0.0.3-10, or 10.0.0.8/29, the network's own address\n\
         k.conf:14:2: `10.0.0.0/33` is no address, and no range or network of up to 4096 / for example 10.0.0.3-10, or 10.0.0.8/29, the network's own address\n"
    );
    assert_eq!(
        faults(
            "virtual_server 10.0.0.100 80 {
 lb_algo wrrr
 lb_kind TUN type gue
 protokol TCP
 rs_init_notifies
 protocol TCP
 real_server 10.0.5.11 80 {
  weight -1
  SSL_GET { url { path / } }
  TCP_CHECK { connect_porc 81 }
 }
 real_server 10.0.5.11 80 {
  HTTP_GET { url { path /
   status_code 99 } }
 }
}
"
        ),
        "k.conf:9:10: `lb_algo` is one of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, mh, sed, nq, fo, ovf, twos / did you mean `wrr`?\n\
         k.conf:10:10: a tunnel is `TUN [type ipip|gue port N|gre] [nocsum|csum|remcsum]`\n\
         k.conf:11:2: unknown keyword `protokol` / did you mean `protocol`?\n\
         k.conf:12:2: `rs_init_notifies` is not supported by this version\n\
         k.conf:15:10: `weight` must be between 0 and 65535\n\
         k.conf:17:15: unknown keyword `connect_porc` / did you mean `connect_port`?\n\
         k.conf:21:16: `99` is no range of HTTP status codes / for example 200 or 200-299\n"
    );
}

#[test]
fn keepaliveds_own_defaults_of_a_virtual_server() {
    let config = read(&format!("{INSTANCE}}}\nvirtual_server 10.0.0.100 53 {{\n persistence_timeout\n}}\n"));
    let service = &config.services["10.0.0.100:53/udp"];
    assert_eq!((service.scheduler, service.persistence), ("wlc", Some(Duration::from_secs(360))));
    let warnings: Vec<&str> = config.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(warnings, ["without `protocol` this is a UDP service, as in keepalived"]);
}

const SCRIPT: &str = "vrrp_script chk {
    script \"/usr/bin/test -e '/run/a b'\"
    interval 2
    weight -20
    fall 3
}
";

fn tracking(script: &str, instance: &str) -> String {
    let vip = "interface eth0\nvirtual_router_id 51\nvirtual_ipaddress { 10.0.0.100 }";
    format!("{script}vrrp_instance VI_1 {{\n{vip}\n{instance}\n}}\n")
}

#[test]
fn scripts_and_interfaces_are_tracked_as_keepalived_does() {
    use crate::config::track::{Script, Track, Tracked};
    let text = tracking(
        &format!("global_defs {{\n enable_script_security\n script_user nobody\n}}\n{SCRIPT}"),
        "track_script {\nchk\n}\ntrack_interface {\neth1\neth2 weight 30 reverse\n}",
    );
    let node = NODE.replace("cluster = \"cluster.toml\"", "keepalived_config = \"k.conf\"");
    let config = loaded(&[("hamesh.toml", &node), ("k.conf", &text)]);
    let script = Script {
        command: ["/usr/bin/test", "-e", "/run/a b"].map(str::to_owned).to_vec(),
        user: Some("nobody".to_owned()),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(2),
        rise: 1,
        fall: 3,
        init_fail: false,
    };
    assert_eq!(config.scripts, BTreeMap::from([("chk".to_owned(), script)]));
    let track = |what, weight, reverse| Track { what, weight, reverse };
    let expected = [
        track(Tracked::Script("chk".to_owned()), -20, false),
        track(Tracked::Interface("eth1".to_owned()), 0, false),
        track(Tracked::Interface("eth2".to_owned()), 30, true),
    ];
    assert_eq!(config.groups["VI_1"].track, expected);
}

#[test]
fn what_is_wrong_with_tracking() {
    let cases = [
        (SCRIPT, "track_script {\nchek\n}", "there is no `vrrp_script chek` / did you mean `chk`?"),
        (SCRIPT, "track_script {\nchk weight 300\n}", "`weight` must be between -253 and 253"),
        (SCRIPT, "track_script {\nchk wieght 3\n}", "unknown keyword `wieght` / did you mean `weight`?"),
        (SCRIPT, "track_interface {\neth1\neth1\n}", "`eth1` is tracked twice"),
        ("vrrp_script x {\n}\n", "", "`vrrp_script x` needs `script`"),
        ("vrrp_script x {\nscript \"a | b\"\n}\n", "", "`|` needs a shell, and scripts are run without one"),
        ("vrrp_script x {\nscript \"/x\"\ninterval 0\n}\n", "", "`interval` is below 10 ms"),
    ];
    for (script, instance, fault) in cases {
        let found = faults(&[("k.conf", &tracking(script, instance))]);
        assert!(found.contains(fault), "{instance} with {script}: {found}");
    }
}

fn timing(instance: &str, globals: &str) -> (crate::vrrp::timing::Timing, Vec<String>) {
    let config = read(&format!("global_defs {{\n{globals}\n}}\n{INSTANCE}{instance}\n}}\n"));
    (config.groups["VI_1"].timing, config.warnings.iter().map(|w| w.message.clone()).collect())
}

#[test]
fn delays_and_bursts_are_keepaliveds() {
    use crate::vrrp::timing::{Garp, Timing};
    let second = Duration::from_secs(1);
    assert_eq!(timing("", ""), (Timing::default(), vec![]));
    let every = "garp_master_delay 7\ngarp_master_repeat 2\ngarp_master_refresh 30\ngarp_master_refresh_repeat 3\n\
         garp_lower_prio_delay 8\ngarp_lower_prio_repeat 0\ndown_timer_adverts 5\nlower_prio_no_advert\n\
         higher_prio_send_advert yes\npreempt_delay 2.5";
    let expected = Timing {
        down_timer_adverts: 5,
        startup_delay: Duration::ZERO,
        delay_after_boot: Duration::ZERO,
        preempt_delay: second * 5 / 2,
        higher_prio_send_advert: true,
        lower_prio_no_advert: true,
        garp: Garp {
            repeat: 2,
            delay: 7 * second,
            refresh: 30 * second,
            refresh_repeat: 3,
            lower_prio_repeat: 0,
            lower_prio_delay: 8 * second,
            interval: Duration::ZERO,
        },
    };
    assert_eq!(timing(every, ""), (expected, vec![]));
    let globals = "vrrp_garp_master_delay 1\nvrrp_garp_interval 0.001\nvrrp_gna_interval 1\nvrrp_startup_delay 10\nvrrp_delay_after_boot 90\n\
         vrrp_down_timer_adverts 4\nvrrp_lower_prio_no_advert true";
    let (global, _) = timing("garp_master_repeat 0\nlower_prio_no_advert off", globals);
    assert_eq!((global.startup_delay, global.down_timer_adverts), (10 * second, 4));
    assert_eq!(global.delay_after_boot, 90 * second);
    assert!(!global.lower_prio_no_advert, "the instance's own counts");
    let garp = Garp { repeat: 1, delay: second, lower_prio_repeat: 1, lower_prio_delay: second, ..Garp::default() };
    assert_eq!(global.garp, Garp { interval: Duration::from_millis(1), ..garp });
    let (least, _) = timing("", "vrrp_min_garp");
    assert_eq!((least.garp.repeat, least.garp.delay, least.garp.lower_prio_repeat), (1, Duration::ZERO, 1));
    for (with, why) in
        [("nopreempt", "`nopreempt`"), ("state MASTER", "`state MASTER`"), ("priority 255", "priority 255")]
    {
        let (without, warnings) = timing(&format!("preempt_delay 3\n{with}"), "");
        assert!(without.preempt_delay.is_zero());
        assert_eq!(warnings, [format!("`preempt_delay` has no effect with {why}, as in keepalived")]);
    }
    assert!(!group("nopreempt\npreempt").0.nopreempt);
}

#[test]
fn what_is_wrong_with_delays_and_bursts() {
    for (line, fault) in [
        ("preempt_delay 1001", "`preempt_delay` is longer than 1000s"),
        ("preempt_delay soon", "`preempt_delay` is not a number of seconds: it has no number"),
        ("down_timer_adverts 101", "`down_timer_adverts` must be between 1 and 100"),
        ("lower_prio_no_advert maybe", "`lower_prio_no_advert` is true or false"),
        ("garp_master_repeat 5 {\n}", "`garp_master_repeat` has no block"),
        ("garp_master_repeet 5", "unknown keyword `garp_master_repeet` / did you mean `garp_master_repeat`?"),
    ] {
        let found = refused(&format!("{INSTANCE}{line}\n}}\n"));
        assert!(found.contains(fault), "{line}: {found}");
    }
}

#[test]
fn unicast_and_the_source_of_adverts_are_keepaliveds() {
    use crate::vrrp::unicast::{Peer, Unicast};
    let ip = |last| IpAddr::from([10, 0, 0, last]);
    let (given, warnings) = group("unicast_src_ip 10.0.0.1\nunicast_peer {\n10.0.0.2\n10.0.0.3\n}");
    let peers = vec![Peer::from(ip(2)), Peer::from(ip(3))];
    let unicast = Unicast { peers, check_source: false, ttl: 255 };
    assert_eq!((given.source, given.unicast, warnings), (Some(ip(1)), Some(unicast.clone()), vec![]));
    let (bounded, _) = group("unicast_ttl 64\nunicast_peer {\n10.0.0.2 min_ttl 250 max_ttl 254\n}\ntrack_src_ip");
    let peers = vec![Peer { address: ip(2), min_ttl: 250, max_ttl: 254 }];
    assert_eq!(bounded.unicast, Some(Unicast { peers, check_source: true, ttl: 64 }), "bounds make it look at sources");
    assert_eq!(bounded.source, None);
    let checked = "unicast_peer {\n10.0.0.2\n10.0.0.3\n}\n";
    assert!(group(&format!("{checked}check_unicast_src")).0.unicast.unwrap().check_source);
    let globally = read(&format!("global_defs {{\nvrrp_check_unicast_src\n}}\n{INSTANCE}{checked}}}\n"));
    assert_eq!(globally.groups["VI_1"].unicast, Some(Unicast { check_source: true, ..unicast }));
    assert_eq!(group("mcast_src_ip 10.0.0.9").0.source, Some(ip(9)));
    let (alone, warnings) = group("unicast_src_ip 10.0.0.1");
    assert_eq!((alone.source, alone.unicast), (Some(ip(1)), None));
    assert_eq!(warnings, ["without `unicast_peer` adverts go to the multicast group, as by keepalived"]);
    for (line, fault) in [
        ("unicast_peer", "`unicast_peer` needs a block in braces"),
        ("unicast_peer { lb2 }", "`lb2` is not an address"),
        ("unicast_peer { 10.0.0.2 min_ttl x }", "`min_ttl` needs a number from 0 to 255"),
        ("unicast_peer { 10.0.0.2 min_tll 1 }", "unknown keyword `min_tll` / did you mean `min_ttl`?"),
        ("unicast_peer { fe80::1 }", "`fe80::1` is of another family than the group's addresses"),
        ("unicast_peer { 10.0.0.100 }", "`10.0.0.100` is an address of the group itself"),
        ("unicast_src_ip x", "`x` is not an address"),
        ("unicast_fault_no_peer\nunicast_src_ip 10.0.0.1", "`unicast_fault_no_peer` forbids an instance without"),
    ] {
        let found = refused(&format!("{INSTANCE}{line}\n}}\n"));
        assert!(found.contains(fault), "{line}: {found}");
    }
}

#[test]
fn an_authentication_header_has_the_password_for_its_key() {
    let (given, warnings) = group("authentication {\nauth_type AH\nauth_pass averylongpassword\n}");
    assert_eq!(given.auth, Auth::Ah(Password::cut("averylon")));
    assert_eq!(warnings, ["only the first 8 bytes of `auth_pass` are used, as by keepalived"]);
}

#[test]
fn a_trailer_has_keepaliveds_keys_and_window() {
    let key = "0123456789abcdef0123456789abcdef";
    let one = format!("key 7 {key}\nactive_key 7");
    let given = |lines: &str| {
        let (group, warnings) = group(&format!("version 3\nauth_hmac {{\n{lines}\n}}"));
        assert_eq!(warnings, Vec::<String>::new());
        group.hmac.unwrap()
    };
    let plain = given(&one);
    assert_eq!((plain.active, plain.mode, plain.window), (7, Mode::Enforce, Some(Duration::from_secs(5))));
    assert_eq!(plain.keys[&7].0, key.as_bytes());
    let all = given(&format!("key 1 hex:{}\n{one}\nmode receive-only\nanti_replay monotonic", "00ff".repeat(16)));
    assert_eq!(
        (all.keys.len(), &all.keys[&1].0[..2], all.mode, all.window),
        (2, &[0, 0xff][..], Mode::ReceiveOnly, None)
    );
    assert_eq!(given(&format!("{one}\ntime_window 300")).window, Some(Duration::from_secs(300)));
    let (both, warnings) =
        group(&format!("authentication {{\nauth_type PASS\nauth_pass x\n}}\nauth_hmac {{\n{one}\n}}"));
    assert_eq!((both.auth, both.hmac.is_some()), (Auth::None, true));
    assert_eq!(warnings, ["`auth_hmac` is there too: this authentication is ignored, as by keepalived"]);
    for (lines, fault) in [
        ("active_key 7".to_owned(), "there is no key 7"),
        (format!("key 7 {key}"), "`auth_hmac` needs `active_key`"),
        (format!("key 0 {key}"), "the number of a key is 1 to 255"),
        (format!("{one}\nkey 7 {key}"), "there are two keys 7"),
        ("key 7 short".to_owned(), "the key has 5 bytes: 32 to 64 are needed"),
        ("key 7 file:/no/such/key".to_owned(), "cannot read the key: No such file"),
        ("key 7".to_owned(), "`key` takes its number and its value"),
        (format!("{one}\ntime_window 301"), "`time_window` must be between 1 and 300"),
        (format!("{one}\nanti_replay never"), "`anti_replay` is time or monotonic"),
        (format!("{one}\nmode strict"), "`mode` is enforce, permissive or receive-only"),
        (format!("{one}\nkeys 1"), "unknown keyword `keys`"),
    ] {
        let found = refused(&format!("{INSTANCE}auth_hmac {{\n{lines}\n}}\n}}\n"));
        assert!(found.contains(fault), "{lines}: {found}");
    }
}

#[test]
fn excluded_addresses_move_along_and_are_not_advertised() {
    let (given, warnings) = group("virtual_ipaddress_excluded {\n10.0.0.101/24\n2001:db8::1/64 dev eth0\n}");
    assert_eq!((given.addresses.len(), given.excluded.len(), warnings), (1, 2, vec![]));
    assert_eq!(given.format().addresses, [IpAddr::from([10, 0, 0, 100])]);
    assert_eq!(given.definition().addresses.len(), 3, "all of them are guarded, and the cluster compares all");
    let twice = refused(&format!("{INSTANCE}virtual_ipaddress_excluded {{\n10.0.0.100\n}}\n}}\n"));
    assert!(twice.contains("`10.0.0.100` is listed twice"), "{twice}");
}

#[test]
fn an_instance_may_have_no_address() {
    let text = |line: &str| format!("vrrp_instance v {{\ninterface eth0\nvirtual_router_id 1\n{line}\n}}\n");
    let read = |line: &str| read(&text(line)).groups["v"].clone();
    let four = read("no_virtual_ipaddress");
    assert_eq!((four.family, four.version, four.addresses.len()), (Family::V4, Version::V2, 0));
    let six = read("no_virtual_ipaddress\nunicast_peer {\n2001:db8::2\n}");
    assert_eq!((six.family, six.version), (Family::V6, Version::V3));
    assert!(refused(&text("virtual_ipaddress {\n}")).contains("`vrrp_instance v` needs `virtual_ipaddress`"));
    assert!(
        refused(&text("no_virtual_ipaddress\nstrict_mode")).contains("`v` is strict, and needs `virtual_ipaddress`")
    );
}

#[test]
fn conditional_lines_go_by_the_id_that_keepalived_is_given() {
    let text = format!("{INSTANCE}@high priority 200\n@low priority 50\n}}\n");
    let node = format!("{NODE}keepalived_id = \"low\"\n");
    let files = [("hamesh.toml", node.as_str()), ("k.conf", &text)];
    assert_eq!(loaded(&files).groups["VI_1"].priority, Some(50));
}

#[test]
fn a_weight_of_its_own_keeps_the_direction_of_the_script() {
    let script = "vrrp_script s {\nscript /bin/true\nuser root\nweight 20 reverse\n}\n";
    for (line, weight, reverse) in
        [("s", 20, true), ("s weight 30", 30, true), ("s weight 30 noreverse", 30, false), ("s weight 0", 0, true)]
    {
        let config = read(&format!("{script}{INSTANCE}track_script {{\n{line}\n}}\n}}\n"));
        let [track] = &config.groups["VI_1"].track[..] else { panic!("{line}") };
        assert_eq!((track.weight, track.reverse), (weight, reverse), "{line}");
    }
}

#[test]
fn an_owner_tracks_what_means_fault_and_nothing_else() {
    let files = "track_file f {\nfile /f\n}\ntrack_file g {\nfile /g\nweight 2\n}\n";
    let lists = "priority 255\ntrack_interface {\neth1\neth2 weight 5\n}\ntrack_file {\nf\ng\n}\n";
    let config = read(&format!("{files}{INSTANCE}{lists}}}\n"));
    let shown: Vec<_> =
        config.groups["VI_1"].track.iter().map(|track| format!("{:?} {}", track.what, track.weight)).collect();
    assert_eq!(shown, ["Interface(\"eth1\") 0", "File(\"/f\") 0"]);
    assert!(config.warnings.iter().any(|said| said.message.starts_with("what is tracked changes no priority of 255")));
}

#[test]
fn an_empty_file_is_no_configuration() {
    let node = format!("{NODE}cluster = \"c.toml\"\n");
    let cluster =
        "[vip.web]\ninterface = \"eth0\"\nvrid = 1\naddresses = [\"10.0.0.9/24\"]\npriority = { lb1 = 100 }\n";
    for (text, is_wrong) in [("", true), ("\n \n", true), ("! nothing\n", false)] {
        let files = [("hamesh.toml", node.as_str()), ("c.toml", cluster), ("k.conf", text)];
        let (config, _) = within(&files, |dir| load(&dir.join("hamesh.toml")));
        let said = config.map_or_else(|errors| errors.to_string(), |_| String::new());
        assert_eq!(said.contains("the file is empty"), is_wrong, "{text:?}: {said}");
    }
}
