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
    lan.route_by_the_vip();
    let mut gate = installed(&lan);
    gate.hold(&web()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    gate.refuse(&[VIP.into()]).unwrap();
    assert!(lan.passes(S / 5));
}
