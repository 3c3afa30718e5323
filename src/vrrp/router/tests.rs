//! Every row of the table, the timers with times worked out by hand, and what no sequence of events may cause.

mod waiting;

use super::super::checksum::Form;
use super::Action::{Announce, Refuse, Resign, SendAdvert, Want, Yield};
use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

const US: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 12));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 200));
const LEGACY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 201));
const BELOW: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
const SECOND: Duration = Duration::from_secs(1);

fn at(millis: u64) -> Moment {
    Moment::default() + Duration::from_millis(millis)
}

fn parameters() -> Parameters {
    let legacy_peers = LegacyPeers::Any;
    Parameters {
        version: Version::V3,
        priority: 100,
        interval: SECOND,
        preempt: true,
        legacy_peers,
        source: US,
        timing: Timing::default(),
    }
}

fn heard(priority: u8, source: IpAddr, member: bool) -> Event {
    let addresses = vec![IpAddr::from([10, 77, 0, 100])];
    let advert = Advert { priority, interval: SECOND, addresses, checksum: Form::Pseudo };
    Event::Heard { advert, source, member }
}

fn heard_every(interval: Duration) -> Event {
    let advert = Advert { priority: 200, interval, addresses: vec![], checksum: Form::Pseudo };
    Event::Heard { advert, source: PEER, member: false }
}

/// A router brought into a state by events only, at 10 s; its next deadline is at 13.609 s, or 11 s for a MASTER.
fn router(state: &str, parameters: Parameters) -> Router {
    let mut parameters = parameters;
    if state == "waiting" {
        parameters.timing.startup_delay = 5 * SECOND;
    }
    let mut router = Router::new(parameters);
    let mut play = |events: &[Event]| {
        for event in events {
            router.handle(at(10_000), event.clone());
        }
    };
    let started = Event::Start { resumed: true };
    match state {
        "init" => {}
        "waiting" | "listening" => play(&[Event::Start { resumed: false }]),
        "following" => play(&[started, heard(200, LEGACY, false)]),
        "standby" => play(&[started, heard(1, PEER, true)]),
        "claiming" => play(&[started]),
        "master" => play(&[started, Event::Granted]),
        "falling" => play(&[started, Event::Granted, Event::LinkDown]),
        "fault" => play(&[started, Event::LinkDown]),
        other => panic!("no state {other}"),
    }
    assert_eq!(name(&router), state);
    router
}

fn name(router: &Router) -> &'static str {
    match router.state {
        State::Init => "init",
        State::Backup { stance: Stance::Waiting, .. } => "waiting",
        State::Backup { stance: Stance::Listening, .. } => "listening",
        State::Backup { stance: Stance::Following(_), .. } => "following",
        State::Backup { stance: Stance::Candidate, .. } => "standby",
        State::Claiming => "claiming",
        State::Master(_) => "master",
        State::Fault { resigns: true } => "falling",
        State::Fault { resigns: false } => "fault",
    }
}

fn event(name: &str) -> Event {
    match name {
        "start" => Event::Start { resumed: false },
        "resume" => Event::Start { resumed: true },
        "tick early" | "tick due" => Event::Tick,
        "granted" => Event::Granted,
        "revoked" => Event::Revoked,
        "link down" => Event::LinkDown,
        "link up" => Event::LinkUp,
        "stop" => Event::Stop,
        "announce" => Event::Announce,
        "member" => heard(1, PEER, true),
        "member higher" => heard(255, PEER, true),
        "member resigns" => heard(0, PEER, true),
        "higher" => heard(101, BELOW, false),
        "equal, above" => heard(100, PEER, false),
        "equal, below" => heard(100, BELOW, false),
        "lower" => heard(99, PEER, false),
        "resigns" => heard(0, PEER, false),
        "our address" => heard(255, US, false),
        other => panic!("no event {other}"),
    }
}

/// "." is the same state and no action; otherwise the next state ("." again for the same) and the actions.
const TABLE: &str = "
event          | init          | waiting   | listening     | following     | standby          | claiming         | master                    | fault     | falling
start          | listening     | .         | .             | .             | .                | .                | .                         | .         | .
resume         | claiming Want | .         | .             | .             | .                | .                | .                         | .         | .
tick early     | .             | .         | .             | .             | .                | .                | .                         | .         | .
tick due       | .             | listening | claiming Want | claiming Want | claiming Want    | .                | . SendAdvert Announce     | .         | .
granted        | . Yield       | . Yield   | . Yield       | . Yield       | master SendAdvert Announce | master SendAdvert Announce | . | . Yield   | . Yield
revoked        | .             | .         | .             | .             | .                | .                | standby Resign            | .         | fault Resign
link down      | .             | fault     | fault         | fault         | fault Refuse     | fault Refuse     | falling Refuse Yield      | .         | .
link up        | .             | .         | .             | .             | .                | .                | .                         | listening | listening
stop           | .             | init      | init          | init          | init Refuse      | init Refuse      | init Refuse Yield Resign  | init      | init
announce       | .             | .         | .             | .             | .                | .                | . SendAdvert Announce     | .         | .
member         | .             | .         | standby Want  | .             | .                | standby          | .                         | .         | .
member higher  | .             | .         | standby Want  | .             | .                | standby          | .                         | .         | .
member resigns | .             | .         | standby Want  | .             | .                | .                | .                         | .         | .
higher         | .             | .         | following     | .             | following Refuse | following Refuse | following Refuse Yield    | .         | .
equal, above   | .             | .         | following     | .             | following Refuse | following Refuse | following Refuse Yield    | .         | .
equal, below   | .             | .         | following     | .             | following Refuse | following Refuse | . SendAdvert Announce     | .         | .
lower          | .             | .         | .             | .             | .                | .                | . SendAdvert Announce     | .         | .
resigns        | .             | .         | .             | .             | .                | .                | . SendAdvert              | .         | .
our address    | .             | .         | .             | .             | .                | .                | .                         | .         | .
";

/// The rows that differ under nopreempt.
const NOPREEMPT: &str = "
event          | init          | listening     | following     | standby          | claiming         | master                    | fault     | falling
lower          | .             | following     | .             | following Refuse | following Refuse | . SendAdvert Announce     | .         | .
";

fn walk(table: &str, parameters: &Parameters) -> usize {
    let mut lines = table.trim().lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let states = lines.next().unwrap();
    let mut rows = 0;
    for row in lines {
        for (state, cell) in states.iter().zip(&row).skip(1) {
            let mut router = router(state, parameters.clone());
            // Past the gap behind an answer; only "tick due" is past a deadline too.
            let now = if row[0] == "tick due" { at(20_000) } else { at(10_500) };
            let actions = router.handle(now, event(row[0]));
            let (next, expected) = cell.split_once(' ').unwrap_or((cell, ""));
            let next = if next == "." { state } else { next };
            let word = |action: &Action| format!("{action:?}").replace("Announce(5)", "Announce");
            let actions: Vec<_> = actions.iter().map(word).collect();
            assert_eq!((name(&router), actions.join(" ").as_str()), (next, expected), "{} in {state}", row[0]);
            rows += 1;
        }
    }
    rows
}

#[test]
fn every_state_meets_every_event() {
    assert_eq!(walk(TABLE, &parameters()), 19 * 9);
    walk(NOPREEMPT, &Parameters { preempt: false, ..parameters() });
}

#[test]
fn with_members_only_a_foreign_claim_is_counted_and_moves_nothing() {
    let only = Parameters { legacy_peers: LegacyPeers::Only(vec![]), ..parameters() };
    for state in ["init", "standby", "claiming", "master", "fault"] {
        let mut router = router(state, only.clone());
        let (before, strangers) = (router.state, router.status().strangers);
        assert_eq!(router.handle(at(10_500), heard(255, PEER, false)), []);
        assert_eq!(router.handle(at(10_500), heard(0, PEER, false)), []);
        let status = router.status();
        assert_eq!((status.state, status.strangers), (before, strangers + 2));
        let foreign = Foreign { source: PEER, priority: 255, obeyed: false, heard_at: at(10_500) };
        assert_eq!(status.foreign, Some(foreign));
    }
}

#[test]
fn a_listed_peer_is_obeyed_and_another_is_not() {
    let listed = Parameters { legacy_peers: LegacyPeers::Only(vec![PEER]), ..parameters() };
    let mut router = router("master", listed);
    assert_eq!(router.handle(at(10_500), heard(255, BELOW, false)), []);
    assert_eq!(router.handle(at(10_500), heard(101, PEER, false)), [Refuse, Yield]);
}

#[test]
fn who_need_not_listen_wants_the_lease_at_once() {
    let start = Event::Start { resumed: false };
    let owner = Parameters { priority: 255, ..parameters() };
    assert_eq!(Router::new(owner).handle(at(0), start.clone()), [Want]);
    let only = Parameters { legacy_peers: LegacyPeers::Only(vec![]), ..parameters() };
    assert_eq!(Router::new(only).handle(at(0), start.clone()), [Want]);
    assert_eq!(Router::new(parameters()).handle(at(0), start), []);
}

fn down_after(parameters: Parameters) -> Duration {
    let mut router = Router::new(parameters);
    router.handle(at(0), Event::Start { resumed: false });
    at(0).until(router.next_deadline().unwrap())
}

#[test]
fn rfc_section_6_1_master_down_interval() {
    // 3 x 1 s + (256 - 100) / 256 x 1 s
    assert_eq!(down_after(parameters()), Duration::from_micros(3_609_375));
    // 3 x 0.5 s + 156 / 256 x 0.5 s
    let half = Parameters { interval: SECOND / 2, ..parameters() };
    assert_eq!(down_after(half), Duration::from_nanos(1_804_687_500));
    // Version 2: the skew is of a second, whatever the interval: 3 x 4 s + 156 / 256 s
    let v2 = Parameters { version: Version::V2, interval: 4 * SECOND, ..parameters() };
    assert_eq!(down_after(v2), Duration::from_micros(12_609_375));
    let first = Parameters { priority: 254, ..parameters() };
    assert_eq!(down_after(first), Duration::from_nanos(3_007_812_500));
}

#[test]
fn rfc_section_6_4_2_priority_zero_sets_the_skew_time() {
    for resigned in [heard(0, PEER, false), heard(0, PEER, true)] {
        let mut router = router("standby", parameters());
        router.handle(at(11_000), resigned.clone());
        assert_eq!(at(11_000).until(router.next_deadline().unwrap()), Duration::from_micros(609_375));
        // Of the interval that was the MASTER's.
        let Event::Heard { mut advert, source, member } = resigned else { panic!("{resigned:?}") };
        advert.interval = Duration::from_millis(100);
        router.handle(at(11_001), Event::Heard { advert, source, member });
        assert_eq!(at(11_001).until(router.next_deadline().unwrap()), Duration::from_nanos(60_937_500));
    }
}

#[test]
fn the_interval_of_the_master_is_adopted_up_to_three_of_our_own() {
    for (theirs, waited_ms) in [(100, 360), (2_000, 7_218), (3_000, 10_828), (40_950, 10_828)] {
        let mut router = router("standby", parameters());
        assert_eq!(router.handle(at(0), heard_every(Duration::from_millis(theirs))), [Refuse]);
        assert_eq!(at(0).until(router.next_deadline().unwrap()).as_millis(), waited_ms, "every {theirs} ms");
    }
}

#[test]
fn a_discarded_lower_advert_does_not_put_off_the_takeover() {
    let mut router = router("listening", parameters());
    let before = router.next_deadline();
    for ms in (10_100..13_600).step_by(100) {
        assert_eq!(router.handle(at(ms), heard(99, PEER, false)), []);
    }
    assert_eq!(router.next_deadline(), before);
    assert_eq!(router.handle(at(13_610), Event::Tick), [Want]);
}

#[test]
fn a_foreign_master_is_left_alone_until_its_silence_whatever_members_say() {
    let mut router = router("standby", parameters());
    assert_eq!(router.handle(at(11_000), heard(200, PEER, false)), [Refuse]);
    assert_eq!(router.handle(at(12_000), heard(200, PEER, false)), [], "refused once");
    for ms in [12_500, 13_500, 14_500, 15_500] {
        assert_eq!(router.handle(at(ms), heard(50, BELOW, true)), []);
    }
    assert_eq!(router.handle(at(15_609), Event::Tick), []);
    assert_eq!(router.handle(at(15_610), Event::Tick), [Want]);
    assert_eq!(router.handle(at(15_700), heard(50, BELOW, true)), []);
    assert_eq!(name(&router), "standby", "behind a member, and a candidate");
}

#[test]
fn a_member_that_starts_beside_a_master_of_the_mesh_wants_the_lease_at_once() {
    for priority in [50, 0] {
        let mut router = router("listening", parameters());
        assert_eq!(router.handle(at(10_100), heard(priority, BELOW, true)), [Want]);
        assert_eq!(router.handle(at(10_200), Event::Granted), [SendAdvert, Announce(5)]);
    }
}

#[test]
fn what_was_followed_and_turns_out_to_be_a_member_is_one() {
    for priority in [50, 0] {
        let mut router = router("following", parameters());
        assert_eq!(router.handle(at(10_100), heard(50, PEER, true)), [], "another member");
        assert_eq!(router.handle(at(10_200), heard(priority, LEGACY, true)), [Want]);
    }
}

fn timed(change: impl FnOnce(&mut Timing)) -> Parameters {
    let mut parameters = parameters();
    change(&mut parameters.timing);
    parameters
}

#[test]
fn a_master_yields_without_priority_zero_and_speaks_no_more() {
    let mut router = router("master", parameters());
    assert_eq!(router.handle(at(10_100), heard(101, PEER, false)), [Refuse, Yield]);
    assert_eq!(router.handle(at(10_101), Event::Revoked), []);
    assert_eq!(router.handle(at(11_100), Event::Tick), []);
}

#[test]
fn a_master_that_lost_its_lease_says_so_and_stays_a_candidate() {
    let mut router = router("master", parameters());
    assert_eq!(router.handle(at(10_100), Event::Revoked), [Resign]);
    assert!(router.status().candidate);
    assert_eq!(router.handle(at(10_200), Event::Granted), [SendAdvert, Announce(5)]);
}

#[test]
fn a_flood_of_lower_adverts_gets_four_answers_a_second() {
    let mut router = router("master", parameters());
    let mut sent = 0;
    let mut bursts = 0;
    for ms in 10_000..20_000 {
        let mut actions = router.handle(at(ms), heard(1, PEER, false));
        actions.extend(router.handle(at(ms), Event::Tick));
        sent += actions.iter().filter(|action| **action == SendAdvert).count();
        bursts += actions.iter().filter(|action| matches!(action, Announce(_))).count();
    }
    assert!((36..=44).contains(&sent), "{sent} adverts in 10 s");
    assert!((3..=7).contains(&bursts), "{bursts} bursts in 10 s");
    assert_eq!(router.status().heard, 10_000);
}

#[test]
fn a_master_is_silenced_by_nothing_it_hears() {
    let mut router = router("master", parameters());
    let mut last = 10_000;
    for ms in 10_001..30_000 {
        let kind = ["member", "member resigns", "resigns", "lower", "our address"][usize::try_from(ms).unwrap() % 5];
        let mut actions = router.handle(at(ms), event(kind));
        actions.extend(router.handle(at(ms), Event::Tick));
        if actions.contains(&SendAdvert) {
            last = ms;
        }
        assert!(ms - last <= 1_000, "silent from {last} to {ms}");
    }
}

#[test]
fn states_are_called_what_operators_call_them() {
    let names = ["init", "standby", "claiming", "master", "fault"].map(|s| router(s, parameters()).state.to_string());
    assert_eq!(names, ["INIT", "BACKUP", "CLAIMING", "MASTER", "FAULT"]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let source = prop_oneof![Just(US), Just(PEER), Just(BELOW)];
    let heard = (any::<u8>(), 1..=4095u64, source, any::<bool>()).prop_map(|(priority, step, source, member)| {
        let interval = Duration::from_millis(10 * step);
        Event::Heard { advert: Advert { priority, interval, addresses: vec![], checksum: Form::Plain }, source, member }
    });
    prop_oneof![
        4 => heard,
        4 => Just(Event::Tick),
        2 => Just(Event::Granted),
        1 => Just(Event::Revoked),
        1 => any::<bool>().prop_map(|resumed| Event::Start { resumed }),
        1 => prop_oneof![Just(Event::LinkDown), Just(Event::LinkUp), Just(Event::Stop), Just(Event::Announce)],
    ]
}

fn any_parameters() -> impl Strategy<Value = Parameters> {
    let peers =
        prop_oneof![Just(LegacyPeers::Any), Just(LegacyPeers::Only(vec![])), Just(LegacyPeers::Only(vec![PEER]))];
    let delays = (0..3u64, 0..3u64, any::<bool>(), any::<bool>());
    (any::<bool>(), 1..=255u8, 1..=255u64, any::<bool>(), peers, delays).prop_map(
        |(new, priority, step, preempt, peers, (startup, patience, last_word, no_answer))| {
            let timing = Timing {
                startup_delay: 10 * SECOND * u32::try_from(startup).unwrap(),
                preempt_delay: 10 * SECOND * u32::try_from(patience).unwrap(),
                higher_prio_send_advert: last_word,
                lower_prio_no_advert: no_answer,
                ..Timing::default()
            };
            let (version, interval) = if new {
                (Version::V3, Duration::from_millis(10 * step))
            } else {
                (Version::V2, Duration::from_secs(step))
            };
            Parameters { version, priority, interval, preempt, legacy_peers: peers, source: US, timing }
        },
    )
}

proptest! {
    #[test]
    fn whatever_happens_only_a_master_speaks(
        parameters in any_parameters(),
        events in prop::collection::vec((0..5_000u64, any_event()), 1..200),
    ) {
        let mut router = Router::new(parameters);
        let (mut now, mut wanted, mut held) = (0, false, false);
        for (passed, event) in events {
            now += passed;
            let before = router.status();
            // The caller's side: what it holds by the lease, after the kernel's steps.
            held = (held || event == Event::Granted) && event != Event::Revoked;
            let actions = router.handle(at(now), event);
            let after = router.status();
            let was_master = matches!(before.state, State::Master(_));
            let is_master = matches!(after.state, State::Master(_));
            for action in &actions {
                match action {
                    Want => wanted = true,
                    Refuse => wanted = false,
                    Yield => held = false,
                    // A last word is one before it lets go.
                    SendAdvert => prop_assert!((is_master || was_master) && held),
                    Announce(_) => prop_assert!(is_master && held),
                    Resign => {
                        let falls = before.state == State::Fault { resigns: true };
                        prop_assert!((was_master || falls) && !is_master && !held);
                    }
                }
            }
            prop_assert_eq!(wanted, after.candidate, "the caller's view of our candidacy is right");
            prop_assert!(held || !is_master, "MASTER without a lease");
            prop_assert!(is_master || !held, "a lease that nobody uses");
            if let Some(deadline) = router.next_deadline() {
                let longest = router.parameters.interval * 13;
                prop_assert!(at(now).until(deadline) <= longest.max(Duration::from_secs(60)), "a timer that never ends");
            }
        }
    }
}

#[test]
fn other_parameters_change_no_state_and_no_running_timer() {
    let faster = Parameters { priority: 210, interval: SECOND / 2, ..parameters() };
    for state in ["init", "listening", "claiming", "master"] {
        let mut router = router(state, parameters());
        let before = (router.status(), router.next_deadline());
        router.reconfigure(faster.clone());
        assert_eq!((router.status(), router.next_deadline()), before, "{state}");
    }
    let mut router = router("master", parameters());
    router.reconfigure(faster);
    assert_eq!(router.handle(at(11_000), Event::Tick), [SendAdvert]);
    assert_eq!(router.next_deadline(), Some(at(11_500)));
}

#[test]
fn without_a_lease_whoever_is_master_keeps_the_addresses() {
    // Nobody outside the mesh is obeyed: all are, whatever that list says.
    let nobody = LegacyPeers::Only(vec![]);
    for state in ["listening", "following", "standby", "claiming"] {
        let legacy_peers = if state == "listening" || state == "following" { LegacyPeers::Any } else { nobody.clone() };
        let mut router = router(state, Parameters { legacy_peers, ..parameters() });
        router.stand_alone(at(10_000), true);
        assert_eq!(router.next_deadline(), Some(at(13_000) + SECOND * 156 / 256), "{state}: it listens first");
        assert_eq!(router.handle(at(13_609), Event::Tick), []);
        assert_eq!(router.handle(at(13_610), Event::Tick), [Want]);
        assert_eq!(name(&router), "claiming");
    }
    let parameters = Parameters { legacy_peers: nobody, ..parameters() };
    let mut router = router("master", parameters.clone());
    router.stand_alone(at(10_000), true);
    assert_eq!(name(&router), "master");
    assert_eq!(router.handle(at(10_050), heard(255, US, false)), [], "an echo");
    assert_eq!(router.handle(at(10_100), heard(1, PEER, true)), [Refuse, Yield], "it may have a lease");
    assert_eq!(name(&router), "following");
    assert_eq!(router.status().foreign, None, "a member is nobody's stranger");
    for tick in 1..20 {
        router.handle(at(10_100 + tick * 1000), heard(1, if tick < 10 { PEER } else { LEGACY }, false));
        assert_eq!(
            router.handle(at(10_101 + tick * 1000), Event::Tick),
            [],
            "whoever it is, and for as long as it says so"
        );
    }
    assert_eq!(router.status().foreign.map(|foreign| foreign.source), Some(LEGACY));
    let mut router = self::router("following", Parameters { legacy_peers: LegacyPeers::Any, ..parameters.clone() });
    router.stand_alone(at(10_000), true);
    router.handle(at(10_100), heard(1, PEER, true));
    router.stand_alone(at(11_000), false);
    assert_eq!(router.handle(at(11_100), heard(1, PEER, true)), [Want], "one of the mesh again");
    assert_eq!(name(&router), "standby");
    for state in ["init", "waiting", "falling", "fault"] {
        let mut router = self::router(state, parameters.clone());
        router.stand_alone(at(10_000), true);
        assert_eq!(name(&router), state);
    }
}
