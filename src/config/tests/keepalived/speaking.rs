//! Delays and bursts, unicast, and how adverts are authenticated.

use super::*;

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
