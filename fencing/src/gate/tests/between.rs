//! The gate between processes.

use super::*;
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use std::sync::mpsc;
use std::time::Instant;

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
    let (asleep_too, raw) = Moment::now().both();
    assert_eq!(first.tell(&format!("arm {} {}", (asleep_too + 5 * S).as_nanos(), (raw + 5 * S).as_nanos())), "done");
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
        let keeper = acquire();
        assert_eq!(keeper.found(), Some(ID));
        keeper.adopt(&groups(), &devices()).unwrap()
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
fn a_new_gate_takes_the_place_of_an_old_one_without_a_moment_between() {
    let lan = Lan::new();
    let mut gate = Some(installed(&lan));
    let (stop, stopped) = mpsc::channel::<()>();
    let wire = lan.client.wire("br0", ARP);
    let asking = thread::spawn(move || {
        let mut answers = 0;
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            wire.send(&arp(1, wire.mac, CLIENT, VIP));
            let frames = wire.frames_within(Duration::from_micros(100));
            answers += frames.iter().filter(|frame| is_answer(frame, VIP)).count();
        }
        answers
    });
    for _ in 0..50 {
        drop(gate.take());
        gate = Some(installed(&lan));
    }
    stop.send(()).unwrap();
    assert_eq!(asking.join().unwrap(), 0);
    lan.director.run(move || gate.take().unwrap().remove().unwrap());
    assert_eq!(lan.answers(VIP), 3, "without a gate it answers, or this test shows nothing");
}

#[test]
fn a_group_that_is_no_longer_configured_is_not_taken_over() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&groups()).unwrap();
    gate.arm(Moment::now() + 30 * S).unwrap();
    drop(gate);
    let adopt = || acquire().adopt(&[group(WEB, VIP), group(53, OTHER_VIP)], &devices()).unwrap();
    let gate = lan.director.run(adopt);
    assert_eq!(gate.held(), web());
    assert_eq!((lan.answers(VIP), lan.answers(OTHER_VIP)), (3, 0));
}

#[test]
fn an_address_that_left_the_configuration_is_named_before_nothing_guards_it() {
    let lan = Lan::new();
    lan.director.run(|| {
        let mut gate = install();
        gate.hold(&web()).unwrap();
        drop(gate);
        let mut keeper = acquire();
        assert_eq!(keeper.strays(&groups()).unwrap(), Vec::<IpAddr>::new());
        assert_eq!(keeper.strays(&web()).unwrap(), [IpAddr::from(OTHER_VIP)]);
        assert!(keeper.holds_only(&web(), &devices()).unwrap());
        assert!(!keeper.holds_only(&[group(WEB, OTHER_VIP)], &devices()).unwrap(), "another list");
        assert!(!keeper.holds_only(&[group(API, VIP)], &devices()).unwrap(), "another router");
        assert!(!keeper.holds_only(&[], &devices()).unwrap());
    });
}

#[test]
fn a_gate_that_is_not_whole_is_not_found() {
    let lan = Lan::new();
    let found = || acquire().found();
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
    let install = || acquire().install(ID, &groups(), &Devices::default()).unwrap();
    let gate = here.run(install);
    assert!(matches!(here.run(|| Gate::acquire().err()), Some(GateError::Locked)));
    drop(there.run(install));
    drop(gate);
    drop(here.run(install));
}

#[test]
fn tables_that_somebody_else_owns_are_told() {
    let host = Host::new();
    let mut gate = host.run(|| acquire().install(ID, &[], &Devices::default()).unwrap());
    // The lock alone is lost.
    let lock = std::mem::replace(&mut gate._lock, Host::new().run(|| Lock::take().unwrap()));
    drop(lock);
    assert!(matches!(
        host.run(|| acquire_unless(|error| matches!(error, GateError::Locked)).err()),
        Some(GateError::Owned(_))
    ));
}

#[test]
fn without_ownership_a_flushed_gate_is_noticed_and_put_back_as_it_was() {
    let lan = Lan::new();
    // As on a kernel before 6.9.
    let mut gate = lan.director.run(|| {
        let guarded = Contents::of(&groups(), &devices());
        let whole =
            move |abilities, names: &[String]| rules::whole(ID, abilities, names, &guarded, &Contents::default());
        acquire().write(ID, false, &groups(), &devices(), Vec::new(), whole).unwrap()
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
fn a_kernel_is_asked_for_less_only_when_it_lacks_what_was_asked() {
    use super::super::keeper::weaker;
    use rustix::io::Errno;
    let all = Abilities::best(true);
    let requests = rules::whole(ID, all, &devices().names(), &Contents::default(), &Contents::default());
    let place = |found: &dyn Fn(&str) -> bool| {
        let requests: Vec<_> = requests.iter().map(ToString::to_string).collect();
        requests.iter().position(|request| found(request)).unwrap()
    };
    let table = place(&|request| request.starts_with("NewTable"));
    let egress = requests.len() - requests.iter().rev().position(|request| request.table == Table::Netdev).unwrap();
    let egress = (0..egress).rev().find(|i| requests[*i].to_string().starts_with("NewChain")).unwrap();
    let rule = place(&|request| request.starts_with("NewRule") && request.contains("Inet"));
    let less =
        |place, errno| weaker(all, &requests, &Failure::Refused(vec![(requests.len(), Errno::NOENT), (place, errno)]));
    assert_eq!(less(table, Errno::OPNOTSUPP), Some(Abilities { persistent: false, ..all }));
    assert_eq!(less(table, Errno::INVAL), Some(Abilities { persistent: false, ..all }));
    assert_eq!(less(egress, Errno::OPNOTSUPP), Some(Abilities { egress: false, ..all }));
    assert_eq!(less(egress, Errno::NOENT), Some(Abilities { absent: false, ..all }));
    assert_eq!(less(rule, Errno::NOENT), Some(Abilities { fib: false, ..all }));
    for (place, errno) in [(table, Errno::PERM), (egress, Errno::NOMEM), (rule, Errno::NOMEM)] {
        assert_eq!(less(place, errno), None);
    }
}
