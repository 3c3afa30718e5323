//! When the gate shuts by itself.

use super::*;
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use rustix::time::ClockId;
use std::time::Instant;

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
    let (asleep_too, raw) = Moment::now().both();
    let deadline = clock(ClockId::Realtime) + span;
    let order = format!("arm {} {}", (asleep_too + span).as_nanos(), (raw + span).as_nanos());
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
    let contents = Contents::of(&[crowd], &devices());
    let slow = everywhere(|table| sets::add(table, Pair::Guarded, &contents));
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
        move || acquire().install(ID, &many, &devices()).unwrap()
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
fn a_hand_that_was_frozen_before_it_sent_opens_nothing() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    gate.hold(&web()).unwrap();
    let end = WallClock::now() + S / 2;
    let computed = everywhere(|table| rules::arm(table, S / 2, end));
    thread::sleep(S / 2);
    gate.commit(&computed).unwrap();
    assert_eq!(lan.answers(VIP), 0, "the element lives, and its deadline is over");
}

#[test]
fn the_wall_clock_watch_is_silent_until_the_clock_steps() {
    let mut gate = Host::new().run(|| acquire().install(ID, &groups(), &Devices::default()).unwrap());
    gate.arm(Moment::now() + S).unwrap();
    assert!(!gate.wall.stepped().unwrap());
    gate.rearm_wall_clock().unwrap();
}
