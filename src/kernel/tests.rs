//! Needs root: every test makes its own network namespaces and fails without.

use super::address::{Addresses, Interface, Label, Look, Vip};
use super::link::{Change, Links, Watch, connect};
use super::routing::{Fate, Hop, MAIN, Prefix, Route, Routes, Routing, Rule};
use super::sysctl::promote_secondaries;
use hamesh_raft::command::Family;
use nix::sched::{CloneFlags, setns, unshare};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Two hosts on one cable: `here`, with `eth0` at 10.9.0.1/24, and `there`, with `eth0` at 10.9.0.2/24.
pub(crate) struct Cable {
    here: File,
    there: File,
}

impl Cable {
    /// What is opened or run in `action` is there, and stays there.
    pub(crate) fn there<T>(&self, action: impl FnOnce() -> T) -> T {
        setns(&self.there, CloneFlags::CLONE_NEWNET).unwrap();
        let result = action();
        setns(&self.here, CloneFlags::CLONE_NEWNET).unwrap();
        result
    }
}

/// Runs a test on a thread that is `here`, with a tokio runtime of its own. The namespaces have no names and end with it.
pub(crate) fn on_a_cable(test: impl AsyncFnOnce(Cable) + Send + 'static) {
    let namespace = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
        ip("link set lo up");
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    let run = move || {
        let (there, here) = (namespace(), namespace());
        let cable = Cable { here, there };
        let (process, descriptor) = (std::process::id(), cable.there.as_raw_fd());
        ip(&format!("link add eth0 type veth peer name eth0 netns /proc/{process}/fd/{descriptor}"));
        let number = |last: u8| {
            ip("link set eth0 up");
            ip(&format!("addr add 10.9.0.{last}/24 dev eth0"));
        };
        number(1);
        cable.there(|| number(2));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test(cable)).await.unwrap() });
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

fn vip(last: u8) -> Vip {
    Vip::plain(Ipv4Addr::new(10, 9, 0, last).into(), 24)
}

async fn eth0() -> (Links, Addresses, Interface) {
    let (links, addresses) = connect().unwrap();
    let interface = links.get("eth0", &[]).await.unwrap().unwrap().interface;
    (links, addresses, interface)
}

async fn present(addresses: &Addresses, interface: &Interface) -> Vec<Vip> {
    addresses.list(interface).await.unwrap().iter().filter(|is| is.vip.address.is_ipv4()).map(|is| is.vip).collect()
}

#[test]
fn what_hamesh_put_on_any_interface_is_found_by_its_address_and_nothing_else_goes() {
    on_a_cable(async |_| {
        let (links, addresses) = connect().unwrap();
        let eth0 = links.get("eth0", &[]).await.unwrap().unwrap().interface;
        let lo = links.get("lo", &[]).await.unwrap().unwrap().interface;
        let vip = |last| Vip::plain(IpAddr::V4(Ipv4Addr::new(10, 9, 0, last)), 24);
        addresses.set(&eth0, &[vip(10), vip(11)], Duration::from_secs(9)).await.unwrap();
        addresses.set(&lo, &[vip(12)], Duration::from_secs(9)).await.unwrap();
        addresses.remove_everywhere(&[vip(1).address, vip(11).address, vip(12).address]).await.unwrap();
        let left = async |on, last| addresses.list(on).await.unwrap().iter().any(|p| p.vip == vip(last));
        assert!(left(&eth0, 1).await, "it is the host's own");
        assert!(left(&eth0, 10).await, "not asked for");
        assert!(!left(&eth0, 11).await && !left(&lo, 12).await);
    });
}

/// What a gate without nf_tables rests on (`hamesh_fencing::gate::Lifetimes`): 1.1 s, and what this test itself may be late.
const LOOK: Duration = Duration::from_millis(1100 + 100);

#[test]
fn the_kernel_takes_an_address_off_a_second_after_its_end_at_the_latest() {
    on_a_cable(async |_| {
        let (_, addresses, eth0) = eth0().await;
        let vip = |n: u8| match n % 2 {
            0 => vip(10 + n),
            _ => Vip { address: format!("fd00::{n}").parse().unwrap(), prefix: 64, look: Default::default() },
        };
        // So that the kernel has just looked when one of them ends.
        let mut set = Vec::new();
        for n in 0..8 {
            let asked = Instant::now();
            addresses.set(&eth0, &[vip(n)], Duration::ZERO).await.unwrap();
            set.push((vip(n), asked, Instant::now()));
            tokio::time::sleep(Duration::from_millis(130)).await;
        }
        let mut latest = Duration::ZERO;
        while !set.is_empty() {
            let there: Vec<Vip> = addresses.list(&eth0).await.unwrap().iter().map(|is| is.vip).collect();
            let now = Instant::now();
            for (vip, asked, done) in set.extract_if(.., |(vip, ..)| !there.iter().any(|is| is.is(vip))) {
                assert!(now - asked > Duration::from_millis(900), "{vip} lived for {:?}", now - asked);
                latest = latest.max(now - done);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("the last to go lived for {latest:?}");
        assert!(latest < Duration::from_secs(1) + LOOK, "one lived for {latest:?}");
    });
}

#[test]
fn a_vip_lives_for_its_lease_in_whole_seconds_and_one_more() {
    on_a_cable(async |_| {
        let (_, addresses, eth0) = eth0().await;
        let six = Vip::plain("fd00::10".parse().unwrap(), 64);
        let vips = [vip(10), Vip::plain("203.0.113.10".parse().unwrap(), 32), six];
        for (ttl, seconds) in
            [(Duration::from_millis(300), 2), (Duration::from_secs(1), 2), (Duration::from_millis(2100), 4)]
        {
            addresses.set(&eth0, &vips, ttl).await.unwrap();
            let all = addresses.list(&eth0).await.unwrap();
            for vip in vips {
                let is = all.iter().find(|is| is.vip == vip).unwrap();
                assert_eq!((is.ours, is.lifetime), (true, Some(Duration::from_secs(seconds))), "{vip} for {ttl:?}");
            }
            let own = all.iter().find(|is| is.vip == vip(1)).unwrap();
            assert_eq!((own.ours, own.lifetime), (false, None));
        }
        let shown = Command::new("ip").args(["-6", "addr", "show", "dev", "eth0", "to", "fd00::10"]).output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let held = shown.contains("nodad") && shown.contains("deprecated") && !shown.contains("tentative");
        assert!(held, "proven from the first moment, and no source that the kernel chooses: {shown}");
        addresses.remove(&eth0, &vips).await.unwrap();
        assert_eq!(present(&addresses, &eth0).await, [vip(1)]);
        addresses.remove(&eth0, &vips).await.unwrap();
    });
}

#[test]
fn what_is_said_of_an_address_beside_is_there_and_goes_with_it() {
    on_a_cable(async |_| {
        let (_, addresses, eth0) = eth0().await;
        let look = Look {
            label: Label::new("eth0:vip"),
            scope: 253,
            broadcast: Some([10, 9, 7, 255].into()),
            ..Look::default()
        };
        let four = Vip { look, ..Vip::plain("10.9.7.10".parse().unwrap(), 24) };
        let look = Look { flags: 0x200, preferred: Some(true), ..Look::default() };
        let six = Vip { look, ..Vip::plain("fd00::10".parse().unwrap(), 64) };
        let shown = || {
            String::from_utf8(Command::new("ip").args(["addr", "show", "dev", "eth0"]).output().unwrap().stdout)
                .unwrap()
        };
        for ttl in [9, 10] {
            addresses.set(&eth0, &[four, six], Duration::from_secs(ttl)).await.unwrap();
            assert!(shown().contains("10.9.7.10/24 brd 10.9.7.255 scope link"), "{}", shown());
            assert!(shown().contains("eth0:vip\n"), "{}", shown());
        }
        let line = shown().lines().find(|line| line.contains("fd00::10/64")).unwrap().to_owned();
        assert!(line.contains("noprefixroute") && !line.contains("deprecated"), "{line}");
        addresses.remove(&eth0, &[four, six]).await.unwrap();
        assert!(!shown().contains("10.9.7.10") && !shown().contains("fd00::10"), "{}", shown());
        addresses.keep(&eth0, &[four, six]).await.unwrap();
        assert!(shown().contains("eth0:vip\n") && shown().contains("fd00::10/64"), "{}", shown());
        addresses.release(&eth0, &[Vip::plain(four.address, 24), six]).await.unwrap();
        assert!(!shown().contains("10.9.7.10") && !shown().contains("fd00::10"), "{}", shown());
    });
}

#[test]
fn the_source_of_ipv6_adverts_is_a_proven_link_local_address_that_is_no_vip() {
    on_a_cable(async |_| {
        let (links, addresses, eth0) = eth0().await;
        ip("link set eth0 addrgenmode none");
        ip("addr flush dev eth0");
        let own = |link: super::link::Link| link.v6.map(|own| own.to_string());
        let router = Vip::plain("fe80::51".parse().unwrap(), 64);
        addresses.set(&eth0, &[router], Duration::from_secs(9)).await.unwrap();
        ip("addr add fe80::52/64 dev eth0 nodad");
        ip("addr add 2001:db8::1/64 dev eth0 nodad");
        let vips = [router.address, "fe80::52".parse().unwrap()];
        assert_eq!(own(links.get("eth0", &vips).await.unwrap().unwrap()), None);
        let mut watch = Watch::start().unwrap();
        ip("addr add fe80::1/64 dev eth0");
        assert_eq!(own(links.get("eth0", &vips).await.unwrap().unwrap()), None, "it may be a duplicate");
        while own(links.get("eth0", &vips).await.unwrap().unwrap()).as_deref() != Some("fe80::1") {
            watch.next().await.unwrap();
        }
    });
}

#[test]
fn a_vip_that_nobody_refreshes_is_removed_by_the_kernel() {
    on_a_cable(async |_| {
        let (_, addresses, eth0) = eth0().await;
        addresses.set(&eth0, &[vip(10)], Duration::ZERO).await.unwrap();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(600)).await;
            addresses.set(&eth0, &[vip(10)], Duration::ZERO).await.unwrap();
        }
        assert_eq!(present(&addresses, &eth0).await, [vip(1), vip(10)]);
        tokio::time::sleep(Duration::from_millis(2200)).await;
        assert_eq!(present(&addresses, &eth0).await, [vip(1)]);
    });
}

#[test]
fn a_virtual_mac_is_made_once_silent_and_never_out_of_something_else() {
    on_a_cable(async |_| {
        let (links, addresses, eth0) = eth0().await;
        let mac = [0, 0, 0x5e, 0, 1, 51];
        let device = links.ensure_macvlan("vrrp.51", &eth0, mac).await.unwrap();
        assert_eq!(links.ensure_macvlan("vrrp.51", &eth0, mac).await.unwrap(), device);
        links.raise(&device).await.unwrap();
        let link = links.get("vrrp.51", &[]).await.unwrap().unwrap();
        assert_eq!((link.interface.index, link.mac, link.up), (device.index, Some(mac), true));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(addresses.list(&device).await.unwrap(), [], "it gives itself no address");
        let setting = |name| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/vrrp.51/{name}")).unwrap();
        assert_eq!((setting("arp_ignore").trim(), setting("rp_filter").trim()), ("1", "2"));
        for (name, other) in [("vrrp.51", [0, 0, 0x5e, 0, 1, 52]), ("lo", mac), ("eth0", mac)] {
            let error = links.ensure_macvlan(name, &eth0, other).await.unwrap_err().to_string();
            assert!(error.contains("there is another interface of that name"), "{error}");
        }
        ip("link add eth1 type veth peer name eth2");
        let eth1 = links.get("eth1", &[]).await.unwrap().unwrap().interface;
        let moved = links.ensure_macvlan("vrrp.51", &eth1, mac).await.unwrap();
        assert_ne!(
            moved.index, device.index,
            "its parent has another name now: it is made anew on the one that has it"
        );
        links.remove("vrrp.51").await.unwrap();
        links.remove("vrrp.51").await.unwrap();
        assert_eq!(links.get("vrrp.51", &[]).await.unwrap(), None);
    });
}

#[test]
fn an_error_names_the_address_and_the_interface() {
    on_a_cable(async |_| {
        let (_, addresses, _) = eth0().await;
        let gone = Interface { index: 99, name: "eth9".into() };
        let error = addresses.set(&gone, &[vip(10)], Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.starts_with("add 10.9.0.10/24 to eth9: "), "{error}");
        addresses.remove(&gone, &[vip(10)]).await.unwrap();
        let error = promote_secondaries("eth9").unwrap_err().to_string();
        assert!(error.contains("/proc/sys/net/ipv4/conf/eth9/promote_secondaries"), "{error}");
    });
}

#[test]
fn removing_one_vip_leaves_the_others_of_its_network() {
    on_a_cable(async |_| {
        let (_, addresses, eth0) = eth0().await;
        let vips = [20, 21].map(|last| Vip::plain(Ipv4Addr::new(203, 0, 113, last).into(), 24));
        let minute = Duration::from_secs(60);
        addresses.set(&eth0, &vips, minute).await.unwrap();
        addresses.remove(&eth0, &vips[..1]).await.unwrap();
        assert_eq!(present(&addresses, &eth0).await, [vip(1)], "both gone, or this test shows nothing");
        promote_secondaries("eth0").unwrap();
        promote_secondaries("eth0").unwrap();
        addresses.set(&eth0, &vips, minute).await.unwrap();
        addresses.remove(&eth0, &vips[..1]).await.unwrap();
        assert_eq!(present(&addresses, &eth0).await, [vip(1), vips[1]]);
    });
}

#[test]
fn a_link_is_up_while_it_has_carrier_and_its_address_is_no_vip() {
    on_a_cable(async |cable| {
        let (links, addresses, eth0) = eth0().await;
        let mut watch = Watch::start().unwrap();
        ip("link set eth0 address 02:00:00:00:00:01");
        addresses.set(&eth0, &[vip(10)], Duration::from_secs(60)).await.unwrap();
        ip("addr add 203.0.113.9/32 dev eth0");
        let vips = [IpAddr::from([203, 0, 113, 9])];
        let link = links.get("eth0", &vips).await.unwrap().unwrap();
        assert_eq!((link.mac, link.up, link.v4), (Some([2, 0, 0, 0, 0, 1]), true, Some(OWN)));
        ip("addr del 10.9.0.1/24 dev eth0");
        assert_eq!(links.get("eth0", &vips).await.unwrap().unwrap().v4, None);
        cable.there(|| ip("link set eth0 down"));
        while watch.next().await.unwrap() != Change::Address(eth0.index) {}
        // Carrier is told with the delay of the kernel's link watch.
        while links.get("eth0", &vips).await.unwrap().unwrap().up {
            while watch.next().await.unwrap() != Change::Link(eth0.index) {}
        }
    });
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
}

fn route(to: &str, via: Option<&str>, table: u32) -> Route {
    let via = via.map(|via| via.parse().unwrap());
    let (to, device) = (prefix(to), Some("eth0".to_owned()));
    let (hops, metrics) = (Vec::new(), BTreeMap::new());
    let (source, metric, scope, preference) = (None, None, None, None);
    let (fate, tos, onlink) = (Fate::Forward, 0, false);
    Route { fate, to, tos, via, device, hops, source, table, metric, scope, onlink, metrics, preference }
}

fn hop(via: &str, weight: u16) -> Hop {
    Hop { via: Some(via.parse().unwrap()), device: Some("eth0".to_owned()), weight, onlink: false }
}

fn listed(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().replace("  ", " ")
}

#[test]
fn routes_and_rules_come_and_go_and_those_of_others_stay() {
    on_a_cable(async |_| {
        let (links, _, _) = eth0().await;
        ip("addr add fd09::1/64 dev eth0 nodad");
        let routes = Routes::new(links);
        let rule = |family, from: &str, priority| {
            let (iif, mark) = (Some("eth0".to_owned()), Some((5, 7)));
            let (from, fate) = (Some(prefix(from)), Fate::Forward);
            Rule { from, mark, iif, fate, table: 1000, priority, ..Rule::about_all(family) }
        };
        let routing = Routing {
            routes: vec![
                route("10.20.0.0/16", None, MAIN),
                route("0.0.0.0/0", Some("10.9.0.2"), 1000),
                route("fd20::/16", Some("fd09::2"), MAIN),
                Route { fate: Fate::Blackhole, device: None, metric: Some(9), ..route("10.30.0.0/16", None, 7) },
                Route { fate: Fate::Throw, device: None, ..route("10.31.0.0/16", None, 7) },
                Route {
                    device: None,
                    hops: vec![hop("10.9.0.2", 1), hop("10.9.0.3", 3)],
                    metrics: [(0, 1400), (6, 9)].into(),
                    ..route("10.32.0.0/16", None, 8)
                },
                Route { preference: Some(1), tos: 0, ..route("fd21::/16", Some("fd09::2"), MAIN) },
            ],
            rules: vec![
                rule(Family::V4, "10.9.0.0/24", 500),
                rule(Family::V6, "fd09::/64", 501),
                Rule {
                    protocol: Some(6),
                    dports: Some((80, 90)),
                    users: Some((0, 9)),
                    suppress_length: Some(0),
                    tos: 16,
                    ..rule(Family::V4, "10.9.1.0/24", 502)
                },
                Rule { fate: Fate::Goto(600), table: 0, priority: 503, ..Rule::about_all(Family::V4) },
                Rule { l3mdev: true, priority: 600, ..Rule::about_all(Family::V4) },
            ],
        };
        ip("route add 10.40.0.0/16 dev eth0");
        ip("-6 route add fd40::/16 dev eth0");
        let before = ["route", "-6 route", "rule", "-6 rule"].map(listed);
        for _ in 0..2 {
            routes.set(&routing).await.unwrap();
        }
        assert_eq!(listed("route show 10.20.0.0/16"), "10.20.0.0/16 dev eth0 proto 112 scope link");
        assert_eq!(listed("route show table 1000"), "default via 10.9.0.2 dev eth0 proto 112");
        assert_eq!(
            listed("-6 route show fd20::/16"),
            "fd20::/16 via fd09::2 dev eth0 proto 112 metric 1024 pref medium"
        );
        assert_eq!(
            listed("route show table 7"),
            "blackhole 10.30.0.0/16 proto 112 metric 9 \nthrow 10.31.0.0/16 proto 112"
        );
        assert_eq!(
            listed("route show table 8"),
            "10.32.0.0/16 proto 112 mtu 1400 hoplimit 9 \n\tnexthop via 10.9.0.2 dev eth0 weight 1 \n\tnexthop via \
             10.9.0.3 dev eth0 weight 3"
        );
        assert!(listed("-6 route show fd21::/16").contains("proto 112 metric 1024 pref high"));
        let rule = listed("rule show priority 502");
        let words =
            "tos 0x10 fwmark 0x5/0x7 iif eth0 uidrange 0-9 ipproto tcp dport 80-90 lookup 1000 suppress_prefixlength 0";
        assert!(rule.contains(words), "{rule}");
        assert!(listed("rule show priority 503").contains("from all goto 600 proto 112"));
        assert!(listed("rule show priority 600").contains("from all lookup [l3mdev-table] proto 112"));
        let rule = listed("rule show priority 500");
        assert!(rule.contains("from 10.9.0.0/24 fwmark 0x5/0x7 iif eth0 lookup 1000 proto 112"), "{rule}");
        assert!(listed("-6 rule show priority 501").contains("from fd09::/64"));

        // Somebody else's route to the same network stays, behind ours; of IPv6 it is said.
        let taken = |to| Routing { routes: vec![route(to, None, MAIN)], rules: Vec::new() };
        for _ in 0..2 {
            routes.set(&taken("10.40.0.0/16")).await.unwrap();
        }
        let both = "10.40.0.0/16 dev eth0 proto 112 scope link \n10.40.0.0/16 dev eth0 scope link";
        assert_eq!(listed("route show 10.40.0.0/16"), both);
        routes.remove(&taken("10.40.0.0/16")).await.unwrap();
        assert_eq!(listed("route show 10.40.0.0/16"), "10.40.0.0/16 dev eth0 scope link");
        let error = routes.set(&taken("fd40::/16")).await.unwrap_err();
        assert!(error.to_string().starts_with("add the route unicast fd40::/16 dev eth0: File exists"), "{error}");
        routes.remove(&taken("fd40::/16")).await.unwrap();

        // What an earlier run left goes, but for what is kept.
        let kept = Routing { routes: routing.routes[..1].to_vec(), rules: routing.rules[..1].to_vec() };
        routes.clean(&kept).await.unwrap();
        assert_eq!(listed("route show table 1000") + &listed("-6 rule show priority 501"), "");
        assert!(listed("route").contains("10.20.0.0/16") && listed("rule").contains("lookup 1000"));
        for _ in 0..2 {
            routes.remove(&routing).await.unwrap();
        }
        assert_eq!(["route", "-6 route", "rule", "-6 rule"].map(listed), before);
    });
}

/// Kernels before 5.18 keep no mark: this one is newer.
#[test]
fn what_is_static_is_kept_and_of_it_only_our_own_is_taken_away() {
    on_a_cable(async |_cable| {
        let (links, addresses, interface) = eth0().await;
        ip("addr add 10.9.0.8/24 dev eth0");
        let wanted = [vip(7), vip(8)];
        for _ in 0..2 {
            addresses.keep(&interface, &wanted).await.unwrap();
        }
        assert!(present(&addresses, &interface).await.contains(&vip(7)));
        let own = links.get("eth0", &[]).await.unwrap().unwrap().own;
        assert!(own.contains(&vip(7).address), "it may be the interface's own: {own:?}");
        ip("addr del 10.9.0.7/24 dev eth0");
        addresses.keep(&interface, &wanted).await.unwrap();
        assert!(present(&addresses, &interface).await.contains(&vip(7)), "put back");
        addresses.release(&interface, &wanted).await.unwrap();
        let left = present(&addresses, &interface).await;
        assert!(left.contains(&vip(8)) && !left.contains(&vip(7)), "{left:?}");
    });
}
