//! What passes of IPv6 and what does not.

use super::*;
use std::net::{Ipv6Addr, SocketAddrV6};

const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x10);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x11);
const DIRECTOR6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x100);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

fn six(vrid: u8, address: Ipv6Addr) -> Definition {
    Definition { family: Family::V6, vrid, addresses: vec![address.into()] }
}

fn sixes() -> Vec<Definition> {
    vec![six(WEB, VIP6), six(API, OTHER6)]
}

/// The two hosts of [`Lan`], which speak IPv6 too: the director has both VIPs, each with an echo server.
struct Lan6(Lan);

impl Lan6 {
    fn new() -> Self {
        let lan = Lan::new();
        for address in [DIRECTOR6, VIP6, OTHER6] {
            lan.director.ip(&format!("addr add {address}/64 dev eth0 nodad"));
            let echo = lan.director.run(move || UdpSocket::bind((address, ECHO)).unwrap());
            echo.set_read_timeout(Some(30 * S)).unwrap();
            thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok((length, from)) = echo.recv_from(&mut bytes) {
                    // A shut gate refuses with EPERM: that is what is tested.
                    drop(echo.send_to(&bytes[..length], from));
                }
            });
        }
        lan.client.ip(&format!("addr add {CLIENT6}/64 dev br0 nodad"));
        let lan = Self(lan);
        assert!((0..100).any(|_| lan.answers(DIRECTOR6) > 0), "the LAN does not come up");
        lan
    }

    fn gate(&self, groups: Vec<Definition>) -> Gate {
        self.0.director.run(move || acquire().install(ID, &groups, &devices()).unwrap())
    }

    /// How many of three solicitations from the client are answered, on any way.
    fn answers(&self, target: Ipv6Addr) -> usize {
        let wire = self.0.client.wire("br0", IPV6);
        let [.., a, b, c] = target.octets();
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
        let question = discovery(SOLICITATION, wire.mac, CLIENT6, group, target);
        (0..3)
            .filter(|_| {
                wire.send(&question);
                wire.frames_within(S / 50).iter().any(|frame| tells_of(frame, target))
            })
            .count()
    }

    /// Whether the client's UDP datagram to `target` comes back, with neighbour discovery out of the way.
    fn echoes(&self, target: Ipv6Addr) -> bool {
        let mac = self.0.director.wire("eth0", IPV6).mac.map(|byte| format!("{byte:02x}")).join(":");
        self.0.client.ip(&format!("neigh replace {target} lladdr {mac} dev br0 nud permanent"));
        let echoed = self.0.client.run(move || {
            let socket = UdpSocket::bind((CLIENT6, 0)).unwrap();
            socket.set_read_timeout(Some(S / 10)).unwrap();
            socket.send_to(b"hello", (target, ECHO)).unwrap();
            socket.recv_from(&mut [0; 64]).is_ok_and(|(_, from)| from.ip() == target)
        });
        self.0.client.ip(&format!("neigh del {target} dev br0"));
        echoed
    }
}

fn frame(from: [u8; 6], source: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let [.., a, b, c, d] = to.octets();
    let ethernet = [&[0x33, 0x33, a, b, c, d], &from[..], &IPV6.to_be_bytes()].concat();
    let header = [&[0x60, 0, 0, 0], &length[..], &[protocol, 255], &source.octets(), &to.octets()].concat();
    [ethernet, header, payload.to_vec()].concat()
}

/// A message of neighbour discovery, with the option that names the sender's hardware address.
fn discovery(kind: u8, from: [u8; 6], source: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let (flags, option) = if kind == ADVERTISEMENT { (0x20, 2) } else { (0, 1) };
    let mut message = [&[kind, 0, 0, 0, flags, 0, 0, 0], &target.octets()[..], &[option, 1], &from].concat();
    let length = u8::try_from(message.len()).unwrap();
    let covered = [&source.octets()[..], &to.octets(), &[0, 0, 0, length, 0, 0, 0, ICMPV6], &message].concat();
    let sum = covered.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame(from, source, to, ICMPV6, &message)
}

fn is_from(frame: &Frame, source: Ipv6Addr) -> bool {
    frame.bytes.len() >= 54 && frame.bytes[12..14] == IPV6.to_be_bytes() && frame.bytes[22..38] == source.octets()
}

/// Whether the frame is an advertisement of this address.
fn tells_of(frame: &Frame, target: Ipv6Addr) -> bool {
    let bytes = &frame.bytes;
    bytes.len() >= 78
        && bytes[12..14] == IPV6.to_be_bytes()
        && (bytes[20], bytes[54]) == (ICMPV6, ADVERTISEMENT)
        && bytes[62..78] == target.octets()
}

#[test]
fn a_shut_gate_lets_no_vip_answer_and_an_open_one_exactly_what_is_held() {
    let lan = Lan6::new();
    assert_eq!(
        (lan.answers(VIP6), lan.answers(OTHER6)),
        (3, 3),
        "without a gate it answers, or this test shows nothing"
    );
    assert!(lan.echoes(VIP6) && lan.echoes(OTHER6));
    let mut gate = lan.gate(sixes());
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert_eq!((lan.answers(VIP6), lan.answers(OTHER6)), (0, 0), "armed, and nothing is held");
    assert!(!lan.echoes(VIP6));
    assert!(lan.answers(DIRECTOR6) == 3 && lan.echoes(DIRECTOR6), "the director's own address is not guarded");
    gate.hold(&[six(WEB, VIP6)]).unwrap();
    assert_eq!((lan.answers(VIP6), lan.answers(OTHER6)), (3, 0));
    assert_eq!((lan.echoes(VIP6), lan.echoes(OTHER6)), (true, false));
    gate.drop_hold(&[six(WEB, VIP6)]).unwrap();
    assert_eq!((lan.answers(VIP6), lan.echoes(VIP6)), (0, false));
    gate.hold(&[six(WEB, VIP6)]).unwrap();
    gate.arm(Moment::now() + S / 2).unwrap();
    assert_eq!(lan.answers(VIP6), 3);
    thread::sleep(S / 2);
    assert_eq!((lan.answers(VIP6), lan.echoes(VIP6)), (0, false), "the session is over");
}

#[test]
fn nor_does_it_by_another_interface_on_the_same_lan() {
    let lan = Lan6::new();
    // What IPv6 asks goes to a group that only the interface of the address has joined; unicast goes by either.
    let mac = lan.0.director.wire("eth1", IPV6).mac;
    let asks = |wire: &Wire| {
        let mut question = discovery(SOLICITATION, wire.mac, CLIENT6, VIP6, VIP6);
        question[..6].copy_from_slice(&mac);
        wire.send(&question);
        wire.frames_within(S / 20).iter().any(|frame| tells_of(frame, VIP6))
    };
    let wire = lan.0.client.wire("br0", IPV6);
    lan.0.client.ip("link set p0 down");
    lan.0.director.ip(&format!("addr add {VIP6}/64 dev eth1 nodad"));
    assert!((0..100).any(|_| asks(&wire)), "without a gate eth1 answers, or this test shows nothing");
    let _gate = lan.gate(sixes());
    assert!(!asks(&wire));
}

#[test]
fn families_do_not_open_each_other() {
    let lan = Lan6::new();
    let mut gate = lan.gate([groups(), sixes()].concat());
    gate.arm(Moment::now() + 30 * S).unwrap();
    gate.hold(&web()).unwrap();
    assert_eq!((lan.0.answers(VIP), lan.answers(VIP6)), (3, 0));
    assert_eq!(adverts_that_pass(&lan).0, [(WEB, 0)], "the virtual router of IPv4 has the same number");
    gate.hold(&[six(WEB, VIP6)]).unwrap();
    gate.drop_hold(&web()).unwrap();
    assert_eq!((lan.0.answers(VIP), lan.answers(VIP6)), (0, 3));
    assert_eq!(adverts_that_pass(&lan).0, [(WEB, 150), (WEB, 0)]);
}

#[test]
fn what_is_held_of_both_families_is_taken_over() {
    let lan = Lan6::new();
    let all = || [groups(), sixes()].concat();
    let mut gate = lan.gate(all());
    gate.hold(&[group(WEB, VIP), six(API, OTHER6)]).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    drop(gate);
    let gate = lan.0.director.run(move || {
        let mut keeper = acquire();
        assert_eq!(keeper.strays(&groups()).unwrap(), [IpAddr::from(VIP6), OTHER6.into()]);
        assert!(keeper.holds_only(&[group(WEB, VIP), six(API, OTHER6)], &devices()).unwrap());
        assert!(!keeper.holds_only(&[group(WEB, VIP), six(WEB, OTHER6)], &devices()).unwrap());
        keeper.adopt(&all(), &devices()).unwrap()
    });
    assert_eq!(gate.held(), [group(WEB, VIP), six(API, OTHER6)]);
    assert_eq!((lan.answers(VIP6), lan.answers(OTHER6)), (0, 3));
}

/// (VRID, priority) of adverts that reach the client: first those of a raw socket, then those of a packet socket.
fn adverts_that_pass(lan: &Lan6) -> (Adverts, Adverts) {
    let lan = &lan.0;
    let wire = lan.client.wire("p0", ALL);
    let index = lan.director.run(|| nix::net::if_::if_nametoindex("eth0").unwrap());
    let raw = lan.director.run(|| {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(112))).unwrap();
        socket.bind_device(Some(b"eth0")).unwrap();
        socket.bind(&SocketAddrV6::new(DIRECTOR6, 0, 0, 0).into()).unwrap();
        socket
    });
    let packet = lan.director.wire("eth0", IPV6);
    let read = |frames: Vec<Frame>| {
        let adverts = frames.into_iter().filter(|frame| is_from(frame, DIRECTOR6) && frame.bytes[20] == 112);
        adverts.map(|frame| (frame.bytes[55], frame.bytes[56])).collect::<Vec<_>>()
    };
    let adverts = [(WEB, 150), (WEB, 0), (API, 150)]
        .map(|(vrid, priority)| [&[0x31, vrid, priority, 1, 0, 100, 0, 0], &VIP6.octets()[..]].concat());
    for advert in &adverts {
        // A shut gate refuses with EPERM: that is what is tested.
        drop(raw.send_to(advert, &SocketAddrV6::new(ROUTERS, 0, 0, index).into()));
    }
    let by_raw = read(wire.frames_within(S / 20));
    for advert in &adverts {
        packet.send(&frame(packet.mac, DIRECTOR6, ROUTERS, 112, advert));
    }
    (by_raw, read(wire.frames_within(S / 20)))
}

#[test]
fn a_shut_gate_stops_adverts_with_a_priority_and_passes_those_without() {
    let lan = Lan6::new();
    let all = vec![(WEB, 150), (WEB, 0), (API, 150)];
    assert_eq!(adverts_that_pass(&lan), (all.clone(), all));
    let mut gate = lan.gate(sixes());
    assert_eq!(adverts_that_pass(&lan), (vec![(WEB, 0)], vec![(WEB, 0)]));
    gate.hold(&[six(WEB, VIP6)]).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    let open = vec![(WEB, 150), (WEB, 0)];
    assert_eq!(adverts_that_pass(&lan), (open.clone(), open));
}

#[test]
fn a_shut_gate_stops_announcements_of_packet_sockets_and_of_raw_ones() {
    let lan = Lan6::new();
    let (client, director) = (lan.0.client.wire("p0", ALL), lan.0.director.wire("eth0", IPV6));
    let index = lan.0.director.run(|| nix::net::if_::if_nametoindex("eth0").unwrap());
    let raw = lan.0.director.run(|| {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
        socket.bind(&SocketAddrV6::new(DIRECTOR6, 0, 0, 0).into()).unwrap();
        socket
    });
    // From the VIP; of the VIP, from another address; an ordinary question, which a BACKUP must be able to ask; any other
    // packet from the VIP; and of the VIP by a raw socket.
    let announce = || {
        director.send(&discovery(ADVERTISEMENT, director.mac, VIP6, ALL_NODES, VIP6));
        let of_it = client.frames_within(S / 20).iter().any(|frame| tells_of(frame, VIP6));
        director.send(&discovery(ADVERTISEMENT, director.mac, DIRECTOR6, ALL_NODES, VIP6));
        let by_another = client.frames_within(S / 20).iter().any(|frame| tells_of(frame, VIP6));
        director.send(&discovery(SOLICITATION, director.mac, DIRECTOR6, ALL_NODES, VIP6));
        let question = client.frames_within(S / 20).iter().any(|frame| is_from(frame, DIRECTOR6));
        director.send(&frame(director.mac, VIP6, ALL_NODES, 17, &[0; 8]));
        let packet = client.frames_within(S / 20).iter().any(|frame| is_from(frame, VIP6));
        let message = &discovery(ADVERTISEMENT, director.mac, DIRECTOR6, ALL_NODES, VIP6)[54..];
        drop(raw.send_to(message, &SocketAddrV6::new(ALL_NODES, 0, 0, index).into()));
        let by_raw = client.frames_within(S / 20).iter().any(|frame| tells_of(frame, VIP6));
        [of_it, by_another, question, packet, by_raw]
    };
    assert_eq!(announce(), [true; 5]);
    let mut gate = lan.gate(sixes());
    assert_eq!(announce(), [false, false, true, false, false]);
    gate.hold(&[six(WEB, VIP6)]).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert_eq!(announce(), [true; 5]);
}

#[test]
fn a_backup_reaches_the_master_and_hears_it() {
    let lan = Lan6::new();
    let _gate = lan.gate(sixes());
    // The client is the MASTER of both, and this host a BACKUP.
    for vip in [VIP6, OTHER6] {
        lan.0.director.ip(&format!("addr del {vip}/64 dev eth0"));
        lan.0.client.ip(&format!("addr add {vip}/64 dev br0 nodad"));
    }
    let server = lan.0.client.run(|| UdpSocket::bind((VIP6, 9)).unwrap());
    server.set_read_timeout(Some(S)).unwrap();
    let socket = lan.0.director.run(|| {
        let socket = UdpSocket::bind((DIRECTOR6, 9)).unwrap();
        socket.set_read_timeout(Some(S)).unwrap();
        socket.send_to(b"to a VIP", (VIP6, 9)).unwrap();
        socket
    });
    let mut bytes = [0; 16];
    let (length, from) = server.recv_from(&mut bytes).unwrap();
    server.send_to(&bytes[..length], from).unwrap();
    assert!(socket.recv_from(&mut bytes).is_ok(), "out to a VIP, in from a VIP");
    // An announcement, by which it learns where the MASTER is.
    let wire = lan.0.client.wire("br0", IPV6);
    let mut announcement = discovery(ADVERTISEMENT, [2, 0, 0, 0, 0, 9], VIP6, ALL_NODES, VIP6);
    announcement[6..12].copy_from_slice(&wire.mac);
    wire.send(&announcement);
    thread::sleep(S / 20);
    let neighbours = String::from_utf8(lan.0.director.command("ip", "neigh show fd09::10").stdout).unwrap();
    assert!(neighbours.contains("02:00:00:00:00:09"), "the announcement was not heard: {neighbours}");
}

#[test]
fn what_is_on_its_way_through_passes() {
    let lan = Lan6::new();
    let lan = &lan;
    // The MASTER is a host behind the director, which is its router and a BACKUP.
    let behind = Host::new();
    behind.ip(&format!("link add eth0 type veth peer name eth2 netns {}", lan.0.director.task()));
    behind.ip("link set eth0 up");
    behind.ip("addr add fd08::2/64 dev eth0 nodad");
    lan.0.director.ip("link set eth2 up");
    lan.0.director.ip("addr add fd08::1/64 dev eth2 nodad");
    behind.ip("route add default via fd08::1");
    lan.0.director.command("sysctl", "-w net.ipv6.conf.all.forwarding=1");
    lan.0.director.ip(&format!("addr del {VIP6}/64 dev eth0"));
    lan.0.director.ip(&format!("route add {VIP6}/128 via fd08::2"));
    behind.ip(&format!("addr add {VIP6}/128 dev eth0 nodad"));
    let _gate = lan.gate(sixes());
    let server = lan.0.client.run(|| UdpSocket::bind((CLIENT6, 9)).unwrap());
    server.set_read_timeout(Some(S)).unwrap();
    let socket = behind.run(|| UdpSocket::bind((VIP6, 9)).unwrap());
    // The first may wait for neighbours to be found.
    let passes = (0..20).any(|_| {
        socket.send_to(b"through", (CLIENT6, 9)).unwrap();
        server.recv_from(&mut [0; 16]).is_ok()
    });
    assert!(passes, "from a VIP that is elsewhere");
}

#[test]
fn neighbours_find_an_address_that_takes_nothing() {
    let lan = Lan6::new();
    let mut gate = lan.gate(sixes());
    gate.hold(&sixes()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    gate.refuse(&[VIP6.into()]).unwrap();
    assert_eq!((lan.answers(VIP6), lan.echoes(VIP6)), (3, false));
    assert_eq!((lan.answers(OTHER6), lan.echoes(OTHER6)), (3, true));
    // One that is known already is asked for by unicast.
    let wire = lan.0.client.wire("br0", IPV6);
    let mut question = discovery(SOLICITATION, wire.mac, CLIENT6, VIP6, VIP6);
    let director = lan.0.director.wire("eth0", IPV6).mac;
    question[..6].copy_from_slice(&director);
    wire.send(&question);
    assert!(wire.frames_within(S / 20).iter().any(|frame| tells_of(frame, VIP6)));
}
