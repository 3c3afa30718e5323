//! A device with a virtual MAC, which is shut as a whole; and VIPs on a macvlan of its own.

use super::*;

const MAC: &str = "00:00:5e:00:01:33";
const VIRTUAL: [u8; 6] = [0, 0, 0x5e, 0, 1, 0x33];
const DEVICE: &str = "vrrp.51";

/// The VIP on a macvlan of the director's `eth0`, and nowhere else.
fn lan() -> Lan {
    let lan = Lan::new();
    // Linux answers for any address by any interface that is not told otherwise, with that one's MAC.
    lan.director.ip("link set eth1 down");
    lan.director.ip(&format!("addr del {VIP}/24 dev eth0"));
    lan.director.ip(&format!("link add link eth0 name {DEVICE} address {MAC} type macvlan mode bridge"));
    lan.director.ip(&format!("link set {DEVICE} up"));
    lan.director.ip(&format!("addr add {VIP}/32 dev {DEVICE}"));
    for device in ["eth0", DEVICE] {
        // A name may hold a dot, which sysctl takes for a slash.
        let name = device.replace('.', "/");
        lan.director.command("sysctl", &format!("-w net.ipv4.conf.{name}.arp_ignore=1"));
        lan.director.command("sysctl", &format!("-w net.ipv4.conf.{name}.rp_filter=2"));
    }
    lan
}

fn gate(lan: &Lan) -> Gate {
    let devices = Devices {
        vrrp: vec!["eth0".into()],
        virtual_macs: vec![(group(WEB, VIP), DEVICE.into())],
        ..Devices::default()
    };
    lan.director.run(move || acquire().install(ID, &groups(), &devices).unwrap())
}

/// Everything that comes from the virtual MAC in the time in which the host is made to say much there.
fn said(lan: &Lan) -> usize {
    let wire = lan.client.wire("p0", ALL);
    let packet = lan.director.wire(DEVICE, ALL);
    // An announcement from an address that is nobody's, an ordinary question, a packet; then what the kernel says of itself:
    // a question for a neighbour, and reports of a group that is joined.
    packet.send(&arp(1, packet.mac, DIRECTOR, CLIENT));
    packet.send(&arp(2, packet.mac, Ipv4Addr::new(10, 9, 0, 77), CLIENT));
    packet.send(&ip_frame(packet.mac, DIRECTOR, 17, &[0; 8]));
    lan.director.run(|| {
        let socket = socket2::Socket::from(UdpSocket::bind(("0.0.0.0", 0)).unwrap());
        let index = nix::net::if_::if_nametoindex(DEVICE).unwrap();
        let way = socket2::InterfaceIndexOrAddress::Index(index);
        socket.join_multicast_v4_n(&Ipv4Addr::new(224, 0, 0, 99), &way).unwrap();
        socket.bind_device(Some(DEVICE.as_bytes())).unwrap();
        let nobody = std::net::SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 99), 9);
        // A shut gate may refuse it: that is what is tested.
        drop(socket.send_to(b"?", &nobody.into()));
    });
    wire.frames_within(S / 5).iter().filter(|frame| frame.bytes[6..12] == VIRTUAL).count()
}

#[test]
fn nothing_leaves_a_virtual_mac_while_its_group_is_shut() {
    let lan = lan();
    assert!(said(&lan) > 4, "without a gate it says much, or this test shows nothing");
    let mut gate = gate(&lan);
    assert_eq!((said(&lan), lan.answers(VIP)), (0, 0));
    assert_eq!(lan.answers(DIRECTOR), 3, "its parent is a way of its own");
    gate.hold(&web()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert!(said(&lan) >= 3);
    assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (3, 0));
    let wire = lan.client.wire("br0", ARP);
    wire.send(&arp(1, wire.mac, CLIENT, VIP));
    let answers = wire.frames_within(S / 20);
    let answer = answers.iter().find(|frame| is_answer(frame, VIP)).expect("an answer");
    assert_eq!((&answer.bytes[6..12], &answer.bytes[22..28]), (&VIRTUAL[..], &VIRTUAL[..]));
    gate.arm(Moment::now() + S / 2).unwrap();
    thread::sleep(S / 2);
    assert_eq!((said(&lan), lan.answers(VIP)), (0, 0), "the session is over");
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert!(said(&lan) >= 3);
    gate.drop_hold(&web()).unwrap();
    assert_eq!((said(&lan), lan.answers(VIP)), (0, 0));
}

#[test]
fn nothing_enters_a_virtual_mac_while_its_group_is_shut() {
    let lan = lan();
    // As a router of the LAN: what a switch floods to all ports must not be forwarded by each of them.
    lan.route_by_the_vip();
    lan.client.ip(&format!("neigh replace {VIP} lladdr {MAC} dev br0 nud permanent"));
    let passes = || lan.passes(S / 20);
    assert!(passes(), "without a gate it forwards, or this test shows nothing");
    let mut gate = gate(&lan);
    assert!(!passes());
    gate.hold(&web()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert!(passes());
    // Its parent forwards all the time: that is the host's own MAC.
    gate.shut().unwrap();
    let own = lan.director.wire("eth0", ALL).mac.map(|byte| format!("{byte:02x}")).join(":");
    lan.client.ip(&format!("neigh replace {VIP} lladdr {own} dev br0 nud permanent"));
    assert!(passes());
}

#[test]
fn a_gate_with_a_device_is_taken_over_with_it() {
    let lan = lan();
    let mut first = gate(&lan);
    first.hold(&web()).unwrap();
    first.arm(Moment::now() + 30 * S).unwrap();
    drop(first);
    let with = || Devices {
        vrrp: vec!["eth0".into()],
        virtual_macs: vec![(group(WEB, VIP), DEVICE.into())],
        ..Devices::default()
    };
    let gate = lan.director.run(move || {
        let mut keeper = acquire();
        assert!(keeper.holds_only(&web(), &with()).unwrap());
        assert!(!keeper.holds_only(&web(), &devices()).unwrap(), "the device is no longer configured");
        keeper.adopt(&groups(), &with()).unwrap()
    });
    assert_eq!(gate.held(), web());
    assert_eq!(lan.answers(VIP), 3);
    assert!(said(&lan) >= 3);
}

#[test]
fn vips_on_a_macvlan_that_is_the_vrrp_interface_are_gated_like_any() {
    let lan = Lan::new();
    lan.director.ip(&format!("addr del {VIP}/24 dev eth0"));
    lan.director.ip("link add link eth0 name lan0 type macvlan mode bridge");
    lan.director.ip("link set lan0 up");
    lan.director.ip(&format!("addr add {VIP}/32 dev lan0"));
    assert!((0..100).any(|_| lan.answers(VIP) == 3));
    let mut gate = lan.director.run(|| {
        let devices = Devices { vrrp: vec!["lan0".into(), "eth0".into()], ..Devices::default() };
        acquire().install(ID, &groups(), &devices).unwrap()
    });
    let (client, director) = (lan.client.wire("p0", ALL), lan.director.wire("lan0", ARP));
    let announce = || {
        director.send(&arp(1, director.mac, VIP, VIP));
        client.frames_within(S / 20).iter().any(|frame| is_arp_from(frame, VIP))
    };
    assert_eq!((lan.answers(VIP), announce()), (0, false));
    gate.hold(&web()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert_eq!((lan.answers(VIP), announce()), (3, true));
}
