//! The gate in the kernel. Needs root: every test makes its own network namespaces and fails without.

mod lab;

use super::*;
use hamesh_raft::command::Family;
use lab::*;
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use rustix::time::ClockId;
use std::io::BufRead;
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

const ID: GateId = GateId(0x1234_5678_9abc_def0);
const WEB: u8 = 51;
const API: u8 = 52;
const S: Duration = Duration::from_secs(1);

fn group(vrid: u8, address: Ipv4Addr) -> Definition {
    Definition { family: Family::V4, vrid, addresses: vec![address.into()] }
}

fn groups() -> Vec<Definition> {
    vec![group(WEB, VIP), group(API, OTHER_VIP)]
}

fn interfaces() -> Vec<String> {
    vec!["eth0".into()]
}

fn install() -> Gate {
    Gate::acquire().unwrap().install(ID, &groups(), &interfaces()).unwrap()
}

/// A gate on the director that is used from the test's thread.
fn installed(lan: &Lan) -> Gate {
    lan.director.run(install)
}

fn web() -> Vec<Definition> {
    vec![group(WEB, VIP)]
}

/// A VRRPv3 advert, or with an authentication header before it.
fn advert(vrid: u8, priority: u8) -> Vec<u8> {
    [&[0x31, vrid, priority, 1, 0, 100, 0, 0], &VIP.octets()[..]].concat()
}

fn authenticated(vrid: u8, priority: u8) -> Vec<u8> {
    let header = [&[112, 4, 0, 0][..], &DIRECTOR.octets(), &[0, 0, 0, 1], &[7; 12]].concat();
    [header, advert(vrid, priority)].concat()
}

/// Which (VRID, priority) of these adverts reach the client: first by a raw socket, then by a packet socket.
fn adverts_that_pass(lan: &Lan) -> (Vec<(u8, u8)>, Vec<(u8, u8)>) {
    let wire = lan.client.wire("p0", ALL);
    let raw = lan.director.run(|| {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(112))).unwrap();
        socket.bind_device(Some(b"eth0")).unwrap();
        socket
    });
    let packet = lan.director.wire("eth0", ALL);
    let read = |frames: Vec<Frame>| {
        let of = |frame: &Frame| match frame.bytes.get(23) {
            Some(112) => Some((frame.bytes[35], frame.bytes[36])),
            Some(51) => Some((frame.bytes[34 + 25], frame.bytes[34 + 26])),
            _ => None,
        };
        frames.iter().filter(|frame| is_ip_from(frame, DIRECTOR)).filter_map(of).collect::<Vec<_>>()
    };
    let router = socket2::SockAddr::from(std::net::SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 18), 0));
    for (vrid, priority) in [(WEB, 150), (WEB, 0), (API, 150)] {
        // A shut gate refuses with EPERM: that is what is tested.
        drop(raw.send_to(&advert(vrid, priority), &router));
    }
    let by_raw = read(wire.frames_within(S / 20));
    for (vrid, priority) in [(WEB, 150), (WEB, 0), (API, 150)] {
        for payload in [(112, advert(vrid, priority)), (51, authenticated(vrid, priority))] {
            packet.send(&ip_frame(packet.mac, DIRECTOR, payload.0, &payload.1));
        }
    }
    (by_raw, read(wire.frames_within(S / 20)))
}

#[test]
fn a_shut_gate_lets_no_vip_answer_on_either_interface() {
    let lan = Lan::new();
    assert_eq!(lan.answers(VIP), 3, "without a gate the VIP answers, or this test shows nothing");
    assert!(lan.echoes(VIP));
    let gate = installed(&lan);
    assert_eq!(lan.answers(VIP), 0);
    assert!(!lan.echoes(VIP));
    assert_eq!(lan.answers(DIRECTOR), 3, "the director's own address is not guarded");
    assert!(lan.echoes(DIRECTOR));
    lan.director.ip("link set eth0 down");
    lan.director.ip("addr add 10.9.0.2/24 dev eth1");
    assert_eq!(lan.answers(VIP), 0, "nor by the other interface");
    drop(gate);
}

#[test]
fn an_open_gate_lets_exactly_what_is_held_answer() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert_eq!(lan.answers(VIP), 0, "armed, and nothing is held");
    gate.hold(&web()).unwrap();
    assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (3, 0));
    assert_eq!((lan.echoes(VIP), lan.echoes(OTHER_VIP)), (true, false));
    gate.shut().unwrap();
    assert_eq!((lan.answers(VIP), lan.echoes(VIP)), (0, false));
    gate.hold(&web()).unwrap();
    assert_eq!(lan.answers(VIP), 0, "held, and no session");
}

#[test]
fn shutting_one_group_of_two_leaves_the_other_open() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&groups()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (3, 3));
    gate.drop_hold(&web()).unwrap();
    assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (0, 3));
    assert_eq!(adverts_that_pass(&lan).0, [(WEB, 0), (API, 150)]);
}

#[test]
fn two_groups_of_one_vrid_are_silent_only_when_both_are_dropped() {
    let lan = Lan::new();
    let both = vec![group(WEB, VIP), group(WEB, OTHER_VIP)];
    let mut gate = lan.director.run({
        let both = both.clone();
        move || Gate::acquire().unwrap().install(ID, &both, &interfaces()).unwrap()
    });
    gate.hold(&both).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    gate.drop_hold(&both[..1]).unwrap();
    assert!(adverts_that_pass(&lan).0.contains(&(WEB, 150)));
    gate.drop_hold(&both[1..]).unwrap();
    assert!(!adverts_that_pass(&lan).0.contains(&(WEB, 150)));
}

#[test]
fn a_shut_gate_stops_adverts_with_a_priority_and_passes_those_without() {
    let lan = Lan::new();
    let all = vec![(WEB, 150), (WEB, 0), (API, 150)];
    let twice: Vec<_> = all.iter().flat_map(|advert| [*advert; 2]).collect();
    assert_eq!(adverts_that_pass(&lan), (all, twice));
    let mut gate = installed(&lan);
    assert_eq!(adverts_that_pass(&lan), (vec![(WEB, 0)], vec![(WEB, 0); 2]));
    gate.hold(&web()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert_eq!(adverts_that_pass(&lan), (vec![(WEB, 150), (WEB, 0)], [[(WEB, 150); 2], [(WEB, 0); 2]].concat()));
}

#[test]
fn a_shut_gate_stops_announcements_of_packet_sockets() {
    let lan = Lan::new();
    let (client, director) = (lan.client.wire("p0", ALL), lan.director.wire("eth0", ARP));
    let ip = lan.director.wire("eth0", 0x0800);
    let announce = || {
        director.send(&arp(1, director.mac, VIP, VIP));
        director.send(&arp(1, director.mac, DIRECTOR, VIP));
        ip.send(&ip_frame(ip.mac, VIP, 17, &[0; 8]));
        let frames = client.frames_within(S / 20);
        [
            frames.iter().any(|frame| is_arp_from(frame, VIP)),
            frames.iter().any(|frame| is_arp_from(frame, DIRECTOR)),
            frames.iter().any(|frame| is_ip_from(frame, VIP)),
        ]
    };
    assert_eq!(announce(), [true, true, true]);
    let mut gate = installed(&lan);
    assert!(gate.sees_packet_sockets());
    assert_eq!(announce(), [false, true, false], "a probe from the own address passes");
    gate.set_interfaces(&[]).unwrap();
    assert_eq!(announce(), [true, true, true], "no interface, no egress");
    gate.set_interfaces(&["eth1".into(), "eth0".into()]).unwrap();
    assert_eq!(announce(), [false, true, false]);
}

#[test]
fn a_backup_reaches_the_master_and_hears_it() {
    let lan = Lan::new();
    let _gate = installed(&lan);
    // The client is the MASTER of both, and this host a BACKUP.
    for vip in [VIP, OTHER_VIP] {
        lan.director.ip(&format!("addr del {vip}/24 dev eth0"));
        lan.client.ip(&format!("addr add {vip}/24 dev br0"));
    }
    let server = lan.client.run(|| UdpSocketOf::bind((VIP, 9)));
    let answer = lan.director.run(|| {
        let socket = std::net::UdpSocket::bind((DIRECTOR, 9)).unwrap();
        socket.set_read_timeout(Some(S)).unwrap();
        socket.send_to(b"to a VIP", (VIP, 9)).unwrap();
        socket
    });
    server.echo_once();
    assert!(answer.recv_from(&mut [0; 16]).is_ok(), "out to a VIP, in from a VIP");
    // An announcement, by which it learns where the MASTER is.
    let wire = lan.client.wire("br0", ARP);
    let new = [2, 0, 0, 0, 0, 9];
    let mut announcement = arp(1, new, VIP, VIP);
    announcement[6..12].copy_from_slice(&wire.mac);
    wire.send(&announcement);
    thread::sleep(S / 20);
    let neighbours = String::from_utf8(lan.director.command("ip", "neigh show 10.9.0.10").stdout).unwrap();
    assert!(neighbours.contains("02:00:00:00:00:09"), "the announcement was not heard: {neighbours}");
}

/// A UDP server of a test.
struct UdpSocketOf(std::net::UdpSocket);

impl UdpSocketOf {
    fn bind(address: (Ipv4Addr, u16)) -> Self {
        let socket = std::net::UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(S)).unwrap();
        Self(socket)
    }

    fn echo_once(&self) {
        let mut bytes = [0; 16];
        let (length, from) = self.0.recv_from(&mut bytes).unwrap();
        self.0.send_to(&bytes[..length], from).unwrap();
    }
}

#[test]
fn what_is_on_its_way_through_passes_and_what_was_translated_here_does_not() {
    let lan = Lan::new();
    // A host behind the director, which is its router.
    let behind = Host::new();
    behind.ip(&format!("link add eth0 type veth peer name eth2 netns {}", lan.director.task()));
    behind.ip("link set eth0 up");
    behind.ip("addr add 10.8.0.2/24 dev eth0");
    behind.ip("route add default via 10.8.0.1");
    lan.director.ip("link set eth2 up");
    lan.director.ip("addr add 10.8.0.1/24 dev eth2");
    lan.director.command("sysctl", "-w net.ipv4.ip_forward=1");
    lan.client.ip("route add 10.8.0.0/24 via 10.9.0.1");
    let _gate = installed(&lan);

    let passes = |source: Ipv4Addr| {
        let server = lan.client.run(|| UdpSocketOf::bind((CLIENT, 9)));
        let socket = behind.run(move || std::net::UdpSocket::bind((source, 9)).unwrap());
        socket.send_to(b"through", (CLIENT, 9)).unwrap();
        server.0.set_read_timeout(Some(S / 5)).unwrap();
        server.0.recv_from(&mut [0; 16]).is_ok()
    };
    assert!(passes(Ipv4Addr::new(10, 8, 0, 2)));
    // As a NAT gateway on the VIP: the source becomes the VIP here, as with the answers that IPVS translates.
    let nat = "add table ip t; add chain ip t p { type nat hook postrouting priority 100; }; \
               add rule ip t p ip saddr 10.8.0.2 snat to 10.9.0.10";
    let translate = lan.director.run(move || std::process::Command::new("nft").arg(nat).status().unwrap());
    assert!(translate.success());
    assert!(!passes(Ipv4Addr::new(10, 8, 0, 2)), "translated to a VIP behind a shut gate");
    // The host behind is the MASTER: its answers from the VIP are on their way through this BACKUP.
    lan.director.ip("addr del 10.9.0.10/24 dev eth0");
    behind.ip("addr add 10.9.0.10/32 dev lo");
    lan.director.ip("route add 10.9.0.10/32 via 10.8.0.2");
    lan.director.ip("route flush cache");
    assert!(passes(VIP), "from a VIP that is elsewhere");
}

#[test]
fn a_frozen_process_ends_its_claim_by_its_deadline() {
    for (span, name) in [(Duration::from_millis(300), "300 ms"), (S, "1 s")] {
        let lan = Lan::new();
        let mut process = Process::start(&lan.director);
        assert_eq!(process.tell("install"), "done");
        assert_eq!(process.tell("hold"), "done");
        let mut early = Vec::new();
        for _ in 0..10 {
            let (last, deadline) = last_answer(&lan, &mut process, span);
            assert!(last < deadline, "L = {name}: an answer {:?} after the deadline", last - deadline);
            early.push((deadline - last).as_millis());
        }
        eprintln!("L = {name}: the last answer left so many ms before the deadline: {early:?}");
        let expected = span.as_millis() * 11 / 100 + 20;
        assert!(early.iter().all(|early| *early < expected + 100), "the gate closes far too early");
    }
}

/// Arms, freezes, and gives the wall clock time of the last ARP answer and of the deadline.
fn last_answer(lan: &Lan, process: &mut Process, span: Duration) -> (Duration, Duration) {
    let wire = lan.client.wire("br0", ARP);
    let (boot, raw) = (clock(ClockId::Boottime), clock(ClockId::MonotonicRaw));
    let deadline = clock(ClockId::Realtime) + span;
    let order = format!("arm {} {}", (boot + span).as_nanos(), (raw + span).as_nanos());
    assert_eq!(process.tell(&order), "done");
    process.signal(SIGSTOP);
    let mut last = None;
    while clock(ClockId::Realtime) < deadline + S / 10 {
        wire.send(&arp(1, wire.mac, CLIENT, VIP));
        let frames = wire.frames_within(Duration::from_millis(1));
        last = frames.iter().rfind(|frame| is_answer(frame, VIP)).map(|frame| frame.at).or(last);
    }
    process.signal(SIGCONT);
    (last.expect("the VIP answers while armed, or this test shows nothing"), deadline)
}

#[test]
fn an_arm_that_comes_late_opens_nothing() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&web()).unwrap();
    assert!(matches!(gate.arm(Moment::now()), Err(GateError::Late)));
    assert!(matches!(gate.arm(Moment::now() + Duration::from_millis(22)), Err(GateError::Late)));
    assert_eq!(lan.answers(VIP), 0);
    // What is armed stays so when a later arm is refused before it reaches the kernel.
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert!(matches!(gate.arm(Moment::now()), Err(GateError::Late)));
    assert_eq!(lan.answers(VIP), 3);
}

#[test]
fn a_process_that_was_stopped_in_the_act_of_arming_shuts_at_once() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&web()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    // So large a batch in front takes the kernel longer than it may.
    let far: Vec<_> = (0..60_000u32).map(|i| IpAddr::from(Ipv4Addr::from(0x0b00_0000 + i))).collect();
    let crowd = Definition { family: Family::V4, vrid: 99, addresses: far };
    let contents = Contents::of(&[crowd]).unwrap();
    let slow = everywhere(|table| rules::add(table, Set::Vip4, Set::Vrid4, &contents));
    assert!(matches!(gate.timed(Moment::now() + 30 * S, slow), Err(GateError::Late)));
    assert_eq!(lan.answers(VIP), 0);
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert_eq!(lan.answers(VIP), 3);
}

#[test]
fn the_wall_clock_shuts_where_the_timeout_would_not() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&web()).unwrap();
    let end = WallClock::now() + S / 2;
    gate.commit(&everywhere(|table| rules::arm(table, 60 * S, end))).unwrap();
    assert_eq!(lan.answers(VIP), 3);
    thread::sleep(end.saturating_sub(WallClock::now()));
    assert_eq!(lan.answers(VIP), 0);
}

#[test]
fn the_timeout_shuts_where_the_wall_clock_would_not() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&web()).unwrap();
    let end = WallClock::now() + 60 * S;
    gate.commit(&everywhere(|table| rules::arm(table, S / 2, end))).unwrap();
    assert_eq!(lan.answers(VIP), 3);
    thread::sleep(S / 2);
    assert_eq!(lan.answers(VIP), 0);
}

#[test]
fn renewals_extend_the_session_and_one_just_after_its_end_too() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&web()).unwrap();
    let start = Instant::now();
    while start.elapsed() < 2 * S {
        gate.arm(Moment::now() + S / 2).unwrap();
        assert_eq!(lan.answers(VIP), 3);
    }
    for late in (0..8).map(|i| Duration::from_millis(58 + i)) {
        gate.arm(Moment::now() + S / 10).unwrap();
        thread::sleep(late);
    }
    gate.arm(Moment::now() + S).unwrap();
    assert_eq!(lan.answers(VIP), 3);
}

#[test]
fn a_renewal_takes_far_less_than_the_time_it_may_take() {
    let lan = Lan::new();
    let addresses = (0..1000u32).map(|i| IpAddr::from(Ipv4Addr::from(0x0a09_0100 + i))).collect();
    let many = vec![Definition { family: Family::V4, vrid: WEB, addresses }];
    let mut gate = lan.director.run({
        let many = many.clone();
        move || Gate::acquire().unwrap().install(ID, &many, &interfaces()).unwrap()
    });
    gate.hold(&many).unwrap();
    let mut times: Vec<_> = (0..50)
        .map(|_| {
            let start = Instant::now();
            drop(gate.arm(Moment::now() + S));
            start.elapsed()
        })
        .collect();
    times.sort();
    eprintln!("arming with 1000 VIPs: median {:?}, worst of 50 {:?}", times[25], times[49]);
    assert!(times[25] < SLOWEST / 2);
}

#[test]
fn others_cannot_flush_the_gate_of_a_frozen_process() {
    let lan = Lan::new();
    let mut process = Process::start(&lan.director);
    assert_eq!(process.tell("install"), "done");
    process.signal(SIGSTOP);
    assert!(lan.director.command("nft", "flush ruleset").status.success());
    assert_eq!((lan.answers(VIP), lan.echoes(VIP)), (0, false));
    assert!(!lan.director.command("nft", "delete table inet hamesh").status.success());
    assert!(!lan.director.command("nft", "add element inet hamesh held4 { 10.9.0.10 }").status.success());
    process.signal(SIGCONT);
}

#[test]
fn the_next_process_takes_over_an_open_gate_without_losing_a_packet() {
    let lan = Lan::new();
    let mut first = Process::start(&lan.director);
    assert_eq!(first.tell("install"), "done");
    assert_eq!(first.tell("hold"), "done");
    let (boot, raw) = (clock(ClockId::Boottime), clock(ClockId::MonotonicRaw));
    assert_eq!(first.tell(&format!("arm {} {}", (boot + 5 * S).as_nanos(), (raw + 5 * S).as_nanos())), "done");
    // Asked all the time, from before the death until after the take-over.
    let (stop, stopped) = mpsc::channel::<()>();
    let wire = lan.client.wire("br0", ARP);
    let asking = thread::spawn(move || {
        let mut dark = 0;
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            for vip in [VIP, OTHER_VIP] {
                wire.send(&arp(1, wire.mac, CLIENT, vip));
            }
            let start = Instant::now();
            let mut frames = Vec::new();
            while start.elapsed() < S / 5 && !frames.iter().any(|frame| is_answer(frame, VIP)) {
                frames.extend(wire.frames_within(Duration::from_millis(1)));
            }
            dark += usize::from(!frames.iter().any(|frame| is_answer(frame, VIP)));
            assert!(!frames.iter().any(|frame| is_answer(frame, OTHER_VIP)), "a moment without a gate");
        }
        dark
    });
    drop(first);
    let adopt = || {
        let keeper = Gate::acquire().unwrap();
        assert_eq!(keeper.found(), Some(ID));
        keeper.adopt(&groups(), &interfaces()).unwrap()
    };
    for _ in 0..20 {
        let gate = lan.director.run(adopt);
        assert_eq!(gate.held(), web());
        assert!(gate.persistent());
        assert!(lan.director.command("nft", "flush ruleset").status.success());
    }
    let mut gate = lan.director.run(adopt);
    gate.arm(Moment::now() + 10 * S).unwrap();
    stop.send(()).unwrap();
    assert_eq!(asking.join().unwrap(), 0, "unanswered");
    assert_eq!(lan.answers(VIP), 3);
    gate.shut().unwrap();
    assert_eq!(lan.answers(VIP), 0);
}

#[test]
fn a_group_that_is_no_longer_configured_is_not_taken_over() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&groups()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    drop(gate);
    let adopt = || Gate::acquire().unwrap().adopt(&[group(WEB, VIP), group(53, OTHER_VIP)], &interfaces()).unwrap();
    let gate = lan.director.run(adopt);
    assert_eq!(gate.held(), web());
    assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (3, 0));
}

#[test]
fn a_gate_that_is_not_whole_is_not_found() {
    let lan = Lan::new();
    let found = || Gate::acquire().unwrap().found();
    assert_eq!(lan.director.run(found), None);
    drop(installed(&lan));
    assert_eq!(lan.director.run(found), Some(ID));
    assert!(lan.director.command("nft", "flush chain arp hamesh lease").status.success());
    assert_eq!(lan.director.run(found), None, "a lease chain without rules would never shut");
    drop(installed(&lan));
    assert!(lan.director.command("nft", "delete table netdev hamesh").status.success());
    assert_eq!(lan.director.run(found), None);
    let gate = installed(&lan);
    assert_eq!(lan.answers(VIP), 0);
    lan.director.run(move || gate.remove().unwrap());
    assert_eq!(lan.director.command("nft", "list tables").stdout, b"");
}

#[test]
fn one_director_per_network_namespace() {
    let (here, there) = (Host::new(), Host::new());
    let install = || Gate::acquire().unwrap().install(ID, &groups(), &[]).unwrap();
    let gate = here.run(install);
    assert!(matches!(here.run(|| Gate::acquire().err()), Some(GateError::Locked)));
    drop(there.run(install));
    drop(gate);
    drop(here.run(install));
}

#[test]
fn tables_that_somebody_else_owns_are_told() {
    let host = Host::new();
    let mut gate = host.run(|| Gate::acquire().unwrap().install(ID, &[], &[]).unwrap());
    // The lock alone is lost.
    let lock = std::mem::replace(&mut gate._lock, Host::new().run(|| Lock::take().unwrap()));
    drop(lock);
    assert!(matches!(host.run(|| Gate::acquire().err()), Some(GateError::Owned(_))));
}

#[test]
fn without_ownership_a_flushed_gate_is_noticed_and_put_back_as_it_was() {
    let lan = Lan::new();
    // As on a kernel before 6.9.
    let mut gate = lan.director.run(|| {
        let guarded = Contents::of(&groups()).unwrap();
        let whole = move |abilities| rules::whole(ID, abilities, &interfaces(), &guarded, &Contents::default());
        Gate::acquire().unwrap().write(ID, false, &groups(), &interfaces(), Vec::new(), whole).unwrap()
    });
    assert!(!gate.persistent());
    assert!(gate.check().unwrap());
    gate.hold(&web()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert!(gate.check().unwrap());
    for _ in 0..2 {
        assert!(lan.director.command("nft", "flush ruleset").status.success());
        assert_eq!(lan.answers(OTHER_VIP), 3, "flushed, or this test shows nothing");
        assert!(!gate.check().unwrap());
        gate.put_back().unwrap();
        assert!(gate.check().unwrap());
        assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (3, 0));
    }
    assert!(lan.director.command("nft", "flush ruleset").status.success());
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (3, 0), "the next renewal puts it back too");
    assert!(lan.director.command("nft", "flush ruleset").status.success());
    gate.drop_hold(&web()).unwrap();
    assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (0, 0));
}

#[test]
fn groups_change_while_the_gate_is_open() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&groups()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    gate.set_groups(&[group(WEB, VIP), group(54, OTHER_VIP)]).unwrap();
    assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (3, 0), "another VRID is another group");
    gate.set_groups(&web()).unwrap();
    assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (3, 3), "no VIP any more");
    assert!(matches!(gate.hold(&[group(API, OTHER_VIP)]), Err(GateError::Unguarded(_))));
    let six = Definition { family: Family::V6, vrid: 1, addresses: vec!["fd00::1".parse().unwrap()] };
    assert!(matches!(gate.set_groups(&[six]), Err(GateError::Ipv6(_))));
}

#[test]
fn the_wall_clock_watch_is_silent_until_the_clock_steps() {
    let mut gate = Host::new().run(|| Gate::acquire().unwrap().install(ID, &groups(), &[]).unwrap());
    gate.arm(Moment::now() + S).unwrap();
    assert!(!gate.wall.stepped().unwrap());
    gate.rearm_wall_clock().unwrap();
}

/// Not a test of its own: what [`Process`] runs.
#[test]
fn obedient() {
    if std::env::var_os(OBEDIENT).is_none() {
        return;
    }
    let mut gate = None;
    println!();
    for order in io::stdin().lock().lines() {
        let order = order.unwrap();
        let words: Vec<_> = order.split(' ').collect();
        match (&words[..], &mut gate) {
            (["install"], gate) => *gate = Some(install()),
            (["hold"], Some(gate)) => gate.hold(&web()).unwrap(),
            (["arm", boot, raw], Some(gate)) => {
                let nanos = |text: &str| Duration::from_nanos(text.parse().unwrap());
                gate.arm(Moment::at(nanos(boot), nanos(raw))).unwrap();
            }
            _ => panic!("not understood: {order}"),
        }
        println!("> done");
    }
}
