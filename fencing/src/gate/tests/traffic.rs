//! What passes and what does not.

use super::*;

/// A VRRPv3 advert, or with an authentication header before it.
fn advert(vrid: u8, priority: u8) -> Vec<u8> {
    [&[0x31, vrid, priority, 1, 0, 100, 0, 0], &VIP.octets()[..]].concat()
}

fn authenticated(vrid: u8, priority: u8) -> Vec<u8> {
    let header = [&[112, 4, 0, 0][..], &DIRECTOR.octets(), &[0, 0, 0, 1], &[7; 12]].concat();
    [header, advert(vrid, priority)].concat()
}

/// Which adverts reach the client: first those of a raw socket, then those of a packet socket.
pub(super) fn adverts_that_pass(lan: &Lan) -> (Adverts, Adverts) {
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
fn a_shut_gate_lets_no_vip_answer() {
    let lan = Lan::new();
    assert_eq!(lan.answers(VIP), 3, "without a gate the VIP answers, or this test shows nothing");
    assert!(lan.echoes(VIP));
    let _gate = installed(&lan);
    assert_eq!(lan.answers(VIP), 0);
    assert!(!lan.echoes(VIP));
    assert_eq!(lan.answers(DIRECTOR), 3, "the director's own address is not guarded");
    assert!(lan.echoes(DIRECTOR));
}

#[test]
fn a_real_server_of_other_directors_takes_what_they_forward_and_nothing_else() {
    let lan = Lan::new();
    let member = lan.client.wire("br0", ALL).mac;
    let client = member.map(|byte| format!("{byte:02x}")).join(":");
    lan.director.ip(&format!("neigh replace {CLIENT} lladdr {client} dev eth0 nud permanent"));
    let mut gate = installed(&lan);
    gate.serve_locally(&[VIP.into()], &[member]).unwrap();
    assert_eq!((lan.echoes(VIP), lan.answers(VIP)), (true, 0), "IP passes, and nobody is told where it is");
    assert!(!lan.echoes(OTHER_VIP), "that one is not served here");
    gate.serve_locally(&[VIP.into()], &[[2, 0, 0, 0, 0, 1]]).unwrap();
    assert!(!lan.echoes(VIP), "from somebody who is no member");
    gate.serve_locally(&[], &[member]).unwrap();
    assert!(!lan.echoes(VIP));
}

#[test]
fn nor_does_it_by_another_interface_on_the_same_lan() {
    let lan = Lan::new();
    lan.client.ip("link set p0 down");
    assert!((0..100).any(|_| lan.answers(VIP) == 3), "without a gate eth1 answers for the address of eth0");
    let _gate = installed(&lan);
    assert_eq!(lan.answers(VIP), 0);
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
        move || acquire().install(ID, &both, &devices()).unwrap()
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

/// Since Linux 6.16 the kernel sees to it; before, whoever has the gate says that something has come.
#[test]
fn what_packet_sockets_send_on_an_interface_that_comes_later_is_gated() {
    for by_itself in [true, false] {
        let lan = Lan::new();
        let devices = || Devices { vrrp: vec!["eth0".into(), "late0".into()], ..Devices::default() };
        let mut gate = lan.director.run(move || {
            let guarded = Contents::of(&groups(), &devices());
            let whole = |mut abilities: Abilities, names: &[String]| {
                abilities.absent = by_itself;
                let names = if by_itself { names } else { &["eth0".to_owned()] };
                rules::whole(ID, abilities, names, &guarded, &Contents::default())
            };
            let mut gate = acquire().write(ID, true, &groups(), &devices(), Vec::new(), whole).unwrap();
            gate.abilities.absent = by_itself;
            gate
        });
        for _ in 0..2 {
            lan.director.ip(&format!("link add late0 type veth peer name far0 netns {}", lan.client.task()));
            lan.client.ip("link set far0 up");
            lan.director.ip("link set late0 up");
            let (client, director) = (lan.client.wire("far0", ALL), lan.director.wire("late0", ARP));
            let announce = || {
                director.send(&arp(1, director.mac, VIP, VIP));
                director.send(&arp(1, director.mac, DIRECTOR, VIP));
                let frames = client.frames_within(S / 20);
                [VIP, DIRECTOR].map(|sender| frames.iter().any(|frame| is_arp_from(frame, sender)))
            };
            assert!((0..100).any(|_| announce()[1]), "the cable does not come up");
            assert_eq!(announce(), [!by_itself, true]);
            gate.interfaces_changed().unwrap();
            assert_eq!(announce(), [false, true]);
            lan.director.ip("link del late0");
            gate.interfaces_changed().unwrap();
        }
    }
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
        let socket = UdpSocket::bind((DIRECTOR, 9)).unwrap();
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
struct UdpSocketOf(UdpSocket);

impl UdpSocketOf {
    fn bind(address: (Ipv4Addr, u16)) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
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
        let socket = behind.run(move || UdpSocket::bind((source, 9)).unwrap());
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
}
