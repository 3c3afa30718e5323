//! Accept mode off: a VIP that is held, told of and routed by, and that takes nothing.

use super::*;

#[test]
fn what_is_sent_to_it_is_dropped_and_it_is_told_where_it_is() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&groups()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    assert!(lan.echoes(VIP) && lan.echoes(OTHER_VIP));
    gate.refuse(&[VIP.into()]).unwrap();
    assert_eq!((lan.answers(VIP), lan.echoes(VIP)), (3, false));
    assert_eq!((lan.answers(OTHER_VIP), lan.echoes(OTHER_VIP)), (3, true), "that one takes what is sent to it");
    gate.put_back().unwrap();
    assert_eq!((lan.answers(VIP), lan.echoes(VIP)), (3, false), "in a gate that is written anew too");
    drop(gate);
    let mut gate = lan.director.run(|| acquire().adopt(&groups(), &devices()).unwrap());
    assert_eq!((lan.answers(VIP), lan.echoes(VIP)), (3, false), "and in one that is taken over");
    gate.refuse(&[]).unwrap();
    assert!(lan.echoes(VIP));
    gate.refuse(&[VIP.into()]).unwrap();
    gate.shut().unwrap();
    assert_eq!((lan.answers(VIP), lan.echoes(VIP)), (0, false), "it is shut as any other");
}

#[test]
fn hosts_route_by_it() {
    let lan = Lan::new();
    lan.director.command("sysctl", "-w net.ipv4.ip_forward=1");
    lan.director.ip("link add eth9 type veth peer name eth9x");
    lan.director.ip("link set eth9 up");
    lan.director.ip("link set eth9x up");
    lan.director.ip("addr add 10.8.0.1/24 dev eth9");
    lan.director.ip("neigh add 10.8.0.2 lladdr 02:00:00:00:00:02 dev eth9");
    lan.client.ip(&format!("route add 10.8.0.0/24 via {VIP}"));
    let mut gate = installed(&lan);
    gate.hold(&web()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    gate.refuse(&[VIP.into()]).unwrap();
    let far = lan.director.wire("eth9x", ALL);
    lan.client.run(|| UdpSocket::bind((CLIENT, 0)).unwrap().send_to(b"through", ("10.8.0.2", 9)).unwrap());
    assert!(far.frames_within(S / 5).iter().any(|frame| is_ip_from(frame, CLIENT)));
}
