//! Delays: after a start and a boot, before preempting, and the silence that a takeover takes.

use super::*;

#[test]
fn for_its_startup_delay_a_router_neither_wants_nor_listens() {
    let mut waiting = router("waiting", parameters());
    for ms in (10_100..15_000).step_by(100) {
        for said in [heard(200, PEER, false), heard(0, PEER, false), heard(50, BELOW, true), Event::Tick] {
            assert_eq!(waiting.handle(at(ms), said), []);
        }
    }
    assert_eq!(waiting.next_deadline(), Some(at(15_000)));
    assert_eq!(waiting.handle(at(15_000), Event::Tick), []);
    assert_eq!(waiting.handle(at(18_609), Event::Tick), []);
    assert_eq!(waiting.handle(at(18_610), Event::Tick), [Want], "after a whole time of silence");
    // A link that comes up meanwhile changes nothing, and one that comes later is not waited for.
    let mut down = router("waiting", parameters());
    down.handle(at(11_000), Event::LinkDown);
    down.handle(at(12_000), Event::LinkUp);
    assert_eq!((name(&down), down.next_deadline()), ("waiting", Some(at(15_000))));
    down.handle(at(16_000), Event::LinkDown);
    down.handle(at(17_000), Event::LinkUp);
    assert_eq!(name(&down), "listening");
    let owner = Parameters { priority: 255, ..timed(|timing| timing.startup_delay = SECOND) };
    let mut owner = Router::new(owner);
    assert_eq!(owner.handle(at(0), Event::Start { resumed: false }), []);
    assert_eq!(owner.handle(at(1_000), Event::Tick), [Want]);
}

#[test]
fn a_router_waits_until_the_machine_has_run_for_long_enough() {
    let started = |boot: u64, ms: u64| {
        let mut router = Router::new(timed(|timing| {
            timing.delay_after_boot = Duration::from_secs(boot);
            timing.startup_delay = 5 * SECOND;
        }));
        router.handle(at(ms), Event::Start { resumed: false });
        router.next_deadline().unwrap()
    };
    assert_eq!(started(60, 20_000), at(60_000));
    assert_eq!(started(60, 58_000), at(63_000), "the startup delay is longer");
    assert_eq!(started(60, 600_000), at(605_000), "it has run for long");
}

/// keepalived: the delay counts from the first advert of a lower priority, and ends with one that is not lower.
#[test]
fn a_lower_master_outside_the_mesh_is_left_alone_for_the_preempt_delay() {
    let mut router = router("listening", timed(|timing| timing.preempt_delay = 10 * SECOND));
    for ms in (11_000..21_000).step_by(1_000) {
        assert_eq!(router.handle(at(ms), heard(99, PEER, false)), [], "at {ms} ms");
        assert_eq!(name(&router), "following");
    }
    assert_eq!(router.handle(at(21_000), Event::Tick), []);
    for ms in [21_100, 22_100, 23_100] {
        assert_eq!(router.handle(at(ms), heard(99, PEER, false)), [], "not waited for any more");
    }
    assert_eq!(router.handle(at(23_610), Event::Tick), [Want]);
}

#[test]
fn a_higher_master_begins_the_preempt_delay_anew() {
    let mut router = router("listening", timed(|timing| timing.preempt_delay = 10 * SECOND));
    router.handle(at(11_000), heard(99, PEER, false));
    router.handle(at(20_000), heard(101, PEER, false));
    for ms in (20_500..30_500).step_by(500) {
        assert_eq!(router.handle(at(ms), heard(99, PEER, false)), []);
        router.handle(at(ms), Event::Tick);
        assert_eq!(name(&router), "following", "at {ms} ms");
    }
}

#[test]
fn a_lower_member_is_left_alone_for_the_preempt_delay_and_followed_at_once_if_it_dies() {
    let slow = timed(|timing| timing.preempt_delay = 10 * SECOND);
    let mut router = router("listening", slow);
    assert_eq!(router.handle(at(11_000), heard(50, PEER, true)), [Want]);
    assert!(!router.status().preempts, "a candidate that waits for the lease to be free");
    for ms in (12_000..21_000).step_by(1_000) {
        assert_eq!(router.handle(at(ms), heard(50, PEER, true)), []);
    }
    let mut dies = router.clone();
    assert_eq!(dies.handle(at(23_610), Event::Tick), [Want]);
    assert!(dies.status().preempts);
    assert_eq!(router.next_deadline(), Some(at(21_000)));
    assert_eq!(router.handle(at(21_000), Event::Tick), [Want], "told again, with the wish to preempt");
    assert!(router.status().preempts);
    assert_eq!(router.handle(at(21_500), heard(150, PEER, true)), [Want], "and without it");
    assert!(!router.status().preempts);
}

#[test]
fn without_preempt_no_delay_ends_it() {
    let mut slow = timed(|timing| timing.preempt_delay = SECOND);
    slow.preempt = false;
    let mut router = router("listening", slow);
    for ms in (11_000..60_000).step_by(1_000) {
        assert_eq!(router.handle(at(ms), heard(99, PEER, false)), []);
        assert_eq!(router.handle(at(ms), Event::Tick), []);
    }
    assert_eq!(name(&router), "following");
}

#[test]
fn the_adverts_that_a_silence_takes_can_be_more() {
    assert_eq!(down_after(timed(|timing| timing.down_timer_adverts = 10)), Duration::from_micros(10_609_375));
    assert_eq!(down_after(timed(|timing| timing.down_timer_adverts = 1)), Duration::from_micros(1_609_375));
}

#[test]
fn a_master_says_a_last_word_and_does_not_answer_where_it_is_told_to() {
    let mut last_word = router("master", timed(|timing| timing.higher_prio_send_advert = true));
    assert_eq!(last_word.handle(at(10_500), heard(101, PEER, false)), [SendAdvert, Refuse, Yield]);
    let mut silent = router("master", timed(|timing| timing.lower_prio_no_advert = true));
    assert_eq!(silent.handle(at(10_500), heard(99, PEER, false)), [Announce(5)], "keepalived announces all the same");
    assert_eq!(silent.handle(at(11_000), Event::Tick), [SendAdvert], "as ever");
    let quiet = timed(|timing| (timing.garp.lower_prio_repeat, timing.garp.repeat) = (0, 2));
    let mut quiet = router("master", quiet);
    assert_eq!(quiet.handle(at(10_500), heard(99, PEER, false)), [SendAdvert]);
    assert_eq!(quiet.handle(at(10_800), Event::Announce), [SendAdvert, Announce(2)]);
}
