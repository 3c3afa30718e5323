use super::*;
use crate::config::VipGroup;
use crate::config::track::{Arguments, Delays};
use crate::vrrp::{Auth, LegacyPeers, Version};
use hamesh_raft::command::Family;
use proptest::prelude::*;
use std::net::IpAddr;

fn group(priority: u8, track: Vec<Track>) -> BTreeMap<GroupName, VipGroup> {
    let group = VipGroup {
        localnode: false,
        interface: "eth0".to_owned(),
        family: Family::V4,
        vrid: 1,
        virtual_mac: None,
        plain_adverts: false,
        needs_interface: true,
        version: Version::V3,
        interval: Duration::from_secs(1),
        addresses: vec![(IpAddr::from([192, 0, 2, 1]), 24)],
        excluded: Vec::new(),
        placings: BTreeMap::new(),
        priority: Some(priority),
        accept: true,
        nopreempt: false,
        auth: Auth::None,
        hmac: None,
        checksum: crate::vrrp::checksum::Form::Pseudo,
        legacy_peers: LegacyPeers::Any,
        source: None,
        unicast: None,
        multicast: None,
        timing: crate::vrrp::timing::Timing::default(),
        pace: None,
        track,
        notify: crate::config::notify::Notify::default(),
        routing: crate::kernel::routing::Routing::default(),
        sync: None,
        quorum_loss: None,
    };
    BTreeMap::from([("web".to_owned(), group)])
}

fn script(rise: u8, fall: u8, init_fail: bool) -> BTreeMap<String, Script> {
    let script = Script {
        command: vec!["/bin/true".to_owned()],
        user: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        rise,
        fall,
        init_fail,
    };
    BTreeMap::from([("check".to_owned(), script)])
}

fn tracked(what: Tracked, weight: i16, reverse: bool) -> Track {
    Track { what, weight, reverse }
}

fn the_script(weight: i16) -> Track {
    tracked(Tracked::Script("check".to_owned()), weight, false)
}

fn ended(well: bool) -> Event {
    let result = if well { Ok(()) } else { Err("exit status: 1".to_owned()) };
    Event::Ran("check".to_owned(), result)
}

/// What the group is told, of all the actions.
fn told(actions: &[Action]) -> Option<Effect> {
    let told = |action: &Action| match action {
        Action::Tell(_, effect) => Some(*effect),
        Action::Run(..) | Action::Read(_) | Action::Count(_) => None,
    };
    actions.iter().find_map(told)
}

fn start() -> Moment {
    Moment::default()
}

/// keepalived 2.2.7, vrrp_track.c: weight, reverse, and what an up and a down thing add (`None`: FAULT).
#[test]
fn weights_are_keepaliveds() {
    let table = [
        (0, false, Some(0), None),
        (0, true, None, Some(0)),
        (20, false, Some(20), Some(0)),
        (20, true, Some(-20), Some(0)),
        (-20, false, Some(0), Some(-20)),
        (-20, true, Some(0), Some(20)),
    ];
    for (weight, reverse, up, down) in table {
        let track = tracked(Tracked::Interface("eth1".to_owned()), weight, reverse);
        assert_eq!((track.weigh(1), track.weigh(0)), (up, down), "weight {weight}, reverse {reverse}");
        let session = tracked(Tracked::Bfd("peer".to_owned()), weight, reverse);
        assert_eq!((session.weigh(1), session.weigh(0)), (up, down), "bfd, weight {weight}, reverse {reverse}");
    }
}

#[test]
fn a_file_holds_a_number() {
    let table = [
        (0, false, 0, Some(0)),
        (0, false, 5, None),
        (0, true, 0, None),
        (0, true, 5, Some(0)),
        (1, false, -30, Some(-30)),
        (2, false, 30, Some(60)),
        (2, true, 30, Some(-60)),
        (1, false, -253, Some(-253)),
        (1, false, -254, None),
        (1, false, 1000, Some(253)),
        (-1, false, i64::MIN, Some(253)),
        (1, false, i64::MIN, None),
    ];
    for (weight, reverse, number, adds) in table {
        let track = tracked(Tracked::File("/run/x".into()), weight, reverse);
        assert_eq!(track.weigh(number), adds, "weight {weight}, reverse {reverse}, number {number}");
    }
}

#[test]
fn the_first_run_counts_at_once_and_then_rise_and_fall() {
    let mut tracks = Tracks::new(start(), &group(100, vec![the_script(0)]), &script(2, 3, false));
    let first = tracks.handle(start(), Event::Tick);
    assert!(matches!(first[..], [Action::Run(..)]), "nothing is said before the first run has ended: {first:?}");
    let fine = Some(Effect::Priority(100));
    let table = [
        (true, fine),
        (false, None),
        (false, None),
        (true, None), // in a row
        (false, None),
        (false, None),
        (false, Some(Effect::Fault)),
        (true, None),
        (false, None),
        (true, None),
        (true, fine),
    ];
    for (step, (well, expected)) in table.into_iter().enumerate() {
        assert_eq!(told(&tracks.handle(start(), ended(well))), expected, "step {step}");
    }
    let mut tracks = Tracks::new(start(), &group(100, vec![the_script(0)]), &script(2, 3, false));
    assert_eq!(told(&tracks.handle(start(), ended(false))), Some(Effect::Fault));
}

#[test]
fn with_init_fail_it_is_down_from_the_start() {
    let mut tracks = Tracks::new(start(), &group(100, vec![the_script(0)]), &script(2, 1, true));
    assert_eq!(told(&tracks.handle(start(), Event::Tick)), Some(Effect::Fault));
    assert_eq!(told(&tracks.handle(start(), ended(true))), None);
    assert_eq!(told(&tracks.handle(start(), ended(true))), Some(Effect::Priority(100)));
}

#[test]
fn a_script_that_still_runs_is_not_started_again() {
    let mut tracks = Tracks::new(start(), &group(100, vec![the_script(0)]), &script(1, 1, false));
    assert_eq!(tracks.handle(start(), Event::Tick).len(), 1);
    assert_eq!(tracks.next_deadline(), None);
    let late = start() + Duration::from_secs(10);
    assert_eq!(tracks.handle(late, Event::Tick), vec![]);
    let after = tracks.handle(late, ended(true));
    assert!(after.iter().any(|action| matches!(action, Action::Run(..))), "it is overdue: {after:?}");
    tracks.handle(late, ended(true));
    assert_eq!(tracks.next_deadline(), Some(late + Duration::from_secs(1)), "what was missed is not caught up");
}

#[test]
fn a_session_that_goes_down_is_fault_and_says_why() {
    let session = vec![tracked(Tracked::Bfd("peer".to_owned()), 0, false)];
    let mut tracks = Tracks::new(start(), &group(100, session), &script(1, 1, false));
    assert_eq!(told(&tracks.handle(start(), Event::Tick)), None, "not known yet");
    let session = |result| Event::Bfd("peer".to_owned(), result);
    assert_eq!(told(&tracks.handle(start(), session(Ok(())))), Some(Effect::Priority(100)));
    let down = session(Err("control detection time expired".to_owned()));
    assert_eq!(told(&tracks.handle(start(), down)), Some(Effect::Fault));
    let status = &tracks.status("web")[0];
    assert_eq!((status.what.as_str(), status.state.as_str(), status.fault), ("bfd peer", "down", true));
    assert_eq!(status.why.as_deref(), Some("control detection time expired"));
}

/// keepalived's counts as down from the start, and its group is in no FAULT for it.
#[test]
fn a_session_with_a_weight_is_down_until_it_is_known() {
    for (weight, reverse, early, up) in [(-20, false, 80, 100), (20, false, 100, 120), (20, true, 100, 80)] {
        let session = vec![tracked(Tracked::Bfd("peer".to_owned()), weight, reverse)];
        let mut tracks = Tracks::new(start(), &group(100, session), &script(1, 1, false));
        assert_eq!(told(&tracks.handle(start(), Event::Tick)), Some(Effect::Provisional(early)));
        assert_eq!(tracks.status("web")[0].state, "unknown");
        let comes = Event::Bfd("peer".to_owned(), Ok(()));
        assert_eq!(told(&tracks.handle(start(), comes)), Some(Effect::Priority(up)));
    }
    let both =
        [("peer", -20), ("other", 0)].map(|(name, weight)| tracked(Tracked::Bfd(name.to_owned()), weight, false));
    let mut tracks = Tracks::new(start(), &group(100, both.to_vec()), &script(1, 1, false));
    assert_eq!(told(&tracks.handle(start(), Event::Tick)), None, "one without a weight is waited for");
}

#[test]
fn processes_are_to_be_as_many_as_they_are_to_be_and_for_long_enough() {
    let delays = Delays { down: Duration::from_secs(2), up: Duration::ZERO };
    let (command, arguments) = (vec!["haproxy".to_owned()], Arguments::Any);
    let process = Process { command, arguments, least: 2, most: Some(3), delays };
    let track = vec![tracked(Tracked::Process(process.clone()), -50, false)];
    let mut tracks = Tracks::new(start(), &group(100, track), &BTreeMap::new());
    let actions = tracks.handle(start(), Event::Tick);
    assert_eq!(actions, [Action::Count(process.clone())]);
    let mut at = |second, count| {
        let actions = tracks.handle(start() + Duration::from_secs(second), Event::Counted(process.clone(), count));
        (told(&actions), tracks.status("web")[0].why.clone())
    };
    assert_eq!(at(0, Ok(2)), (Some(Effect::Priority(100)), None));
    assert_eq!(at(1, Ok(1)), (None, None), "not for long enough");
    assert_eq!(at(2, Err("no /proc".to_owned())), (None, Some("no /proc".to_owned())));
    assert_eq!(at(3, Ok(0)), (Some(Effect::Priority(50)), Some("0 run: 2 at least, 3 at most".to_owned())));
    assert_eq!(at(4, Ok(3)).0, Some(Effect::Priority(100)));
    at(5, Ok(4));
    assert_eq!(at(7, Ok(4)).0, Some(Effect::Priority(50)));
}

#[test]
fn everything_is_looked_at_before_anything_is_said() {
    let tracks = vec![the_script(-10), tracked(Tracked::Interface("eth1".to_owned()), 30, false)];
    let mut tracks = Tracks::new(start(), &group(100, tracks), &script(1, 1, false));
    assert_eq!(told(&tracks.handle(start(), ended(false))), None);
    let up = |up| Event::Interface("eth1".to_owned(), up);
    assert_eq!(told(&tracks.handle(start(), up(true))), Some(Effect::Priority(120)));
    assert_eq!(told(&tracks.handle(start(), up(true))), None, "what has not changed is not said again");
    assert_eq!(told(&tracks.handle(start(), up(false))), Some(Effect::Priority(90)));
    let status = tracks.status("web");
    let script = &status[0];
    assert_eq!((script.what.as_str(), script.state.as_str(), script.adds), ("script check", "down", -10));
    assert_eq!(script.why.as_deref(), Some("exit status: 1"));
}

#[test]
fn a_script_with_a_weight_changes_nothing_until_it_has_run() {
    for (weight, failed, succeeded) in [(-20, 80, 100), (20, 100, 120)] {
        let mut tracks = Tracks::new(start(), &group(100, vec![the_script(weight)]), &script(1, 1, false));
        assert_eq!(told(&tracks.handle(start(), Event::Tick)), Some(Effect::Provisional(100)));
        assert_eq!(told(&tracks.handle(start(), ended(false))), Some(Effect::Priority(failed)));
        let mut tracks = Tracks::new(start(), &group(100, vec![the_script(weight)]), &script(1, 1, false));
        assert_eq!(told(&tracks.handle(start(), ended(true))), Some(Effect::Priority(succeeded)));
    }
}

#[test]
fn an_owner_keeps_its_priority_and_can_fail() {
    let mut tracks = Tracks::new(start(), &group(255, vec![the_script(-100)]), &script(1, 1, false));
    assert_eq!(told(&tracks.handle(start(), ended(false))), Some(Effect::Priority(255)));
    let mut tracks = Tracks::new(start(), &group(255, vec![the_script(0)]), &script(1, 1, false));
    assert_eq!(told(&tracks.handle(start(), ended(false))), Some(Effect::Fault));
}

proptest! {
    #[test]
    fn a_priority_stays_in_its_range(
        base in 1..=254u8,
        weights in proptest::collection::vec((-253..=253i16, any::<bool>(), any::<bool>()), 1..20),
    ) {
        let interface = |i: usize| Tracked::Interface(format!("eth{i}"));
        let all = weights.iter().enumerate().map(|(i, (weight, reverse, _))| tracked(interface(i), *weight, *reverse));
        let mut tracks = Tracks::new(start(), &group(base, all.collect()), &BTreeMap::new());
        let mut last = None;
        for (i, (_, _, up)) in weights.iter().enumerate() {
            last = told(&tracks.handle(start(), Event::Interface(format!("eth{i}"), *up)));
        }
        let fails = |(weight, reverse, up): &(i16, bool, bool)| *weight == 0 && up == reverse;
        match last {
            None | Some(Effect::Provisional(_)) => prop_assert!(false, "everything was looked at"),
            Some(Effect::Fault) => prop_assert!(weights.iter().any(fails)),
            Some(Effect::Priority(priority)) => {
                prop_assert!(!weights.iter().any(fails));
                let sum: i64 = weights.iter().map(|(weight, reverse, up)| {
                    let counts = if *weight > 0 { *up } else { !*up };
                    if counts { i64::from(*weight) * if *reverse { -1 } else { 1 } } else { 0 }
                }).sum();
                prop_assert_eq!(i64::from(priority), (i64::from(base) + sum).clamp(1, 254));
            }
        }
    }
}

#[test]
fn a_reload_keeps_what_is_known_and_tells_what_follows_from_it() {
    let scripts = script(1, 1, false);
    let mut tracks = Tracks::new(start(), &group(100, vec![the_script(-20)]), &scripts);
    tracks.handle(start(), Event::Tick);
    assert_eq!(told(&tracks.handle(start(), ended(false))), Some(Effect::Priority(80)));
    let actions = tracks.adopt(start(), &group(150, vec![the_script(-30)]), &scripts);
    assert_eq!(told(&actions), Some(Effect::Priority(120)), "the script is as it was");
    assert!(!actions.iter().any(|action| matches!(action, Action::Run(..))), "and not due yet: {actions:?}");
    // Another interface is not known yet, and what was said of it before it was tracked does not count.
    tracks.handle(start(), Event::Interface("eth7".to_owned(), false));
    let both = vec![the_script(-30), tracked(Tracked::Interface("eth7".to_owned()), 0, false)];
    assert_eq!(told(&tracks.adopt(start(), &group(150, both), &scripts)), None);
    assert_eq!(tracks.interfaces(), ["eth7".to_owned()].into());
    let seen = tracks.handle(start(), Event::Interface("eth7".to_owned(), true));
    assert_eq!(told(&seen), Some(Effect::Priority(120)));
    // Another script of the same name runs at once; until then the old one's word counts.
    let actions = tracks.adopt(start(), &group(150, vec![the_script(-30)]), &script(2, 2, false));
    assert_eq!(told(&actions), Some(Effect::Priority(120)));
    assert!(actions.iter().any(|action| matches!(action, Action::Run(..))), "{actions:?}");
    assert_eq!(told(&tracks.adopt(start(), &BTreeMap::new(), &BTreeMap::new())), None);
}
