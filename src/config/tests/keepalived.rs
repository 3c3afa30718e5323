//! keepalived.conf: what is taken over, and what is refused.

mod services;
mod speaking;

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
