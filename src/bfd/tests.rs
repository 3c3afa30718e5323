use super::packet::Diagnostic;
use super::*;
use proptest::prelude::*;
use std::time::Duration;

const ENDS: [&str; 2] = ["10.0.0.1", "10.0.0.2"];

fn ip(end: usize) -> IpAddr {
    ENDS[end].parse().unwrap()
}

fn settings(neighbour: usize, interval: Duration, multiplier: u8) -> Settings {
    Settings {
        neighbour: ip(neighbour),
        interface: None,
        source: None,
        min_tx: interval,
        min_rx: interval,
        idle_tx: Duration::from_secs(1),
        multiplier,
        passive: false,
        ttl: 255,
        max_hops: 0,
        multihop: false,
    }
}

fn at(time: Duration) -> Moment {
    Moment::at(time, time)
}

fn one(settings: Settings) -> Sessions {
    Sessions::new(at(Duration::ZERO), &BTreeMap::from([("peer".to_owned(), settings)]), 7)
}

fn datagram(source: usize, payload: &[u8]) -> Datagram<'_> {
    Datagram { multihop: false, source: ip(source), interface: None, destination: ip(1 - source), ttl: 255, payload }
}

/// Two ends and the link between them, which delays by a millisecond.
struct Link {
    ends: [Sessions; 2],
    now: Duration,
    /// From which end, when it arrives, and what.
    flying: Vec<(usize, Duration, [u8; LENGTH])>,
    /// What each end sends does not arrive.
    cut: [bool; 2],
    /// What each has sent, and when.
    sent: [Vec<(Duration, Packet)>; 2],
}

impl Link {
    fn new(first: Settings, second: Settings) -> Self {
        let ends = [one(first), Sessions::new(at(Duration::ZERO), &BTreeMap::from([("peer".to_owned(), second)]), 8)];
        Self { ends, now: Duration::ZERO, flying: Vec::new(), cut: [false; 2], sent: [Vec::new(), Vec::new()] }
    }

    fn send(&mut self, end: usize, packets: Vec<Send>) {
        for (_, packet) in packets {
            self.sent[end].push((self.now, Packet::parse(&packet).unwrap()));
            if !self.cut[end] {
                self.flying.push((end, self.now + Duration::from_millis(1), packet));
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now += Duration::from_micros(100);
            let (arrived, flying) = self.flying.drain(..).partition(|(_, when, _)| *when <= self.now);
            self.flying = flying;
            for (from, _, packet) in arrived {
                let packets = self.ends[1 - from].receive(at(self.now), &datagram(from, &packet)).unwrap();
                self.send(1 - from, packets);
            }
            for end in 0..2 {
                let packets = self.ends[end].tick(at(self.now));
                self.send(end, packets);
            }
        }
    }

    fn up(&self) -> [Option<bool>; 2] {
        [0, 1].map(|end| self.ends[end].status()[0].up)
    }

    /// Between the packets that one end has sent since then.
    fn gaps(&self, end: usize, since: Duration) -> Vec<Duration> {
        let times: Vec<Duration> = self.sent[end].iter().map(|(when, _)| *when).filter(|when| *when >= since).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

/// RFC 5880 section 6.2, in the words of the reception rules of 6.8.6.
#[test]
fn the_state_machine() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown]),
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
    ];
    for (own, then) in table {
        for (remote, then) in [AdminDown, Down, Init, Up].into_iter().zip(then) {
            assert_eq!(session::next(own, remote), then, "{own:?} hears {remote:?}");
        }
    }
}

#[test]
fn two_ends_find_each_other_and_agree_on_the_slower_interval() {
    let (fast, slow) = (Duration::from_millis(10), Duration::from_millis(50));
    let mut link = Link::new(settings(1, fast, 3), settings(0, slow, 5));
    link.run(Duration::from_millis(1500));
    assert_eq!(link.up(), [Some(true); 2]);
    for end in 0..2 {
        for gap in link.gaps(end, Duration::from_secs(1)) {
            assert!((slow * 3 / 4..=slow + Duration::from_micros(200)).contains(&gap), "{end}: {gap:?}");
        }
        let (_, last) = link.sent[end].last().unwrap();
        assert!(!last.poll, "the poll sequence has ended");
        assert!(link.sent[end].iter().any(|(_, packet)| packet.poll) && link.sent[end].iter().any(|(_, p)| p.is_final));
        assert!(link.sent[end].iter().all(|(_, packet)| !(packet.poll && packet.is_final)));
    }
    // The other's multiplier, and the slower of both.
    assert_eq!([0, 1].map(|end| link.ends[end].status()[0].detection_ms), [250.0, 150.0]);
}

#[test]
fn before_it_is_up_a_packet_a_second_is_sent_and_less_of_it_is_asked_for() {
    let mut alone = Link::new(settings(1, Duration::from_millis(10), 3), settings(0, Duration::from_millis(10), 3));
    alone.cut = [true, true];
    alone.run(Duration::from_secs(30));
    let gaps = alone.gaps(0, Duration::ZERO);
    assert!(gaps.len() >= 29, "{gaps:?}");
    assert!(
        gaps.iter().all(|gap| (Duration::from_millis(750)..=Duration::from_millis(1001)).contains(gap)),
        "{gaps:?}"
    );
    assert!(
        gaps.iter().any(|gap| *gap < Duration::from_millis(850))
            && gaps.iter().any(|gap| *gap > Duration::from_millis(900))
    );
    assert!(
        alone.sent[0].iter().all(|(_, packet)| packet.min_tx == Duration::from_secs(1) && packet.state == State::Down)
    );
    assert_eq!(alone.up(), [Some(false); 2], "known after a while");
}

#[test]
fn with_a_multiplier_of_one_a_packet_is_never_late() {
    let interval = Duration::from_millis(100);
    let mut link = Link::new(settings(1, interval, 1), settings(0, interval, 1));
    link.run(Duration::from_secs(20));
    assert_eq!(link.up(), [Some(true); 2]);
    for gap in link.gaps(0, Duration::from_secs(2)) {
        assert!((interval * 3 / 4..=interval * 9 / 10 + Duration::from_micros(200)).contains(&gap), "{gap:?}");
    }
}

#[test]
fn a_cut_in_either_way_is_seen_by_both_ends() {
    for broken in [[true, true], [true, false], [false, true]] {
        let mut link = Link::new(settings(1, Duration::from_millis(20), 3), settings(0, Duration::from_millis(20), 3));
        link.run(Duration::from_secs(3));
        assert_eq!(link.up(), [Some(true); 2]);
        link.cut = broken;
        link.run(Duration::from_millis(65));
        assert_eq!(link.up(), [Some(false); 2], "{broken:?}");
        let diagnostics = [0, 1].map(|end| link.sent[end].last().unwrap().1.diagnostic);
        assert!(diagnostics.contains(&Diagnostic::EXPIRED));
        let silent = if broken[1] { 0 } else { 1 };
        let why = link.ends[silent].status()[0].why.clone();
        assert_eq!(why.as_deref(), Some("control detection time expired"));
        if broken[0] != broken[1] {
            assert_eq!(diagnostics[1 - silent], Diagnostic::NEIGHBOUR_SAID_SO);
        }
        link.cut = [false; 2];
        link.run(Duration::from_secs(3));
        assert_eq!(link.up(), [Some(true); 2], "and back");
        assert_eq!(link.ends[0].status()[0].why, None);
    }
}

#[test]
fn who_waits_says_nothing_before_the_other_does() {
    let passive = |neighbour| Settings { passive: true, ..settings(neighbour, Duration::from_millis(50), 3) };
    let mut both = Link::new(passive(1), passive(0));
    both.run(Duration::from_secs(5));
    assert!(both.sent.iter().all(Vec::is_empty), "nobody begins");
    let mut one = Link::new(passive(1), settings(0, Duration::from_millis(50), 3));
    one.run(Duration::from_secs(3));
    assert_eq!(one.up(), [Some(true); 2]);
    one.cut = [true; 2];
    one.run(Duration::from_millis(200));
    let sent = one.sent[0].len();
    one.run(Duration::from_secs(5));
    assert!(one.sent[0].len() <= sent + 1, "and waits again");
}

/// The other end by hand: a session with it that is up.
fn up() -> (Sessions, Packet) {
    let mut sessions = one(settings(1, Duration::from_millis(100), 3));
    let first = Packet::parse(&sessions.tick(at(Duration::ZERO))[0].1).unwrap();
    let mut other = Packet { state: State::Init, mine: 99, yours: first.mine, ..first };
    other.min_rx = Duration::from_millis(100);
    let answer = heard(&mut sessions, 1, other);
    assert_eq!((answer[0].state, answer[0].yours, answer[0].poll), (State::Up, 99, true));
    (sessions, Packet { state: State::Up, min_tx: Duration::from_millis(100), ..other })
}

fn heard(sessions: &mut Sessions, millis: u64, packet: Packet) -> Vec<Packet> {
    let sent = sessions.receive(at(Duration::from_millis(millis)), &datagram(1, &packet.to_bytes())).unwrap();
    sent.iter().map(|(_, packet)| Packet::parse(packet).unwrap()).collect()
}

#[test]
fn a_poll_is_answered_at_once_and_ends_with_its_answer() {
    let (mut sessions, other) = up();
    let answer = heard(&mut sessions, 2, Packet { poll: true, ..other });
    assert_eq!(answer.len(), 1);
    assert!(answer[0].is_final && !answer[0].poll);
    let periodic = |sessions: &mut Sessions, millis| {
        let sent = sessions.tick(at(Duration::from_millis(millis)));
        Packet::parse(&sent[0].1).unwrap()
    };
    assert!(periodic(&mut sessions, 110).poll, "not yet answered");
    assert!(heard(&mut sessions, 111, Packet { is_final: true, ..other }).is_empty());
    assert!(!periodic(&mut sessions, 220).poll);
}

/// RFC 5882 section 3.2, and keepalived: the end of a session by order is no failure of the path.
#[test]
fn a_neighbour_that_ends_its_session_by_order_is_not_down() {
    let (mut sessions, other) = up();
    let sent = heard(&mut sessions, 2, Packet { state: State::AdminDown, ..other });
    assert_eq!((sent[0].state, sent[0].diagnostic), (State::Down, Diagnostic::NEIGHBOUR_SAID_SO), "said at once");
    let status = |sessions: &Sessions| sessions.status()[0].clone();
    assert_eq!((status(&sessions).up, status(&sessions).state.as_str()), (Some(true), "Down"));
    sessions.tick(at(Duration::from_secs(60)));
    assert_eq!(status(&sessions).up, Some(true));
    assert_eq!(status(&sessions).why.as_deref(), Some("its neighbour has ended it by order"));
    heard(&mut sessions, 60_001, Packet { state: State::Down, ..other });
    assert_eq!(status(&sessions).up, Some(false), "it is back, and not yet up");
}

#[test]
fn who_asks_for_nothing_gets_nothing_but_answers() {
    for silenced in
        [|p: Packet| Packet { min_rx: Duration::ZERO, ..p }, |p: Packet| Packet { demand: true, is_final: true, ..p }]
    {
        let (mut sessions, other) = up();
        heard(&mut sessions, 2, silenced(other));
        assert!(sessions.tick(at(Duration::from_millis(250))).is_empty());
        assert_eq!(heard(&mut sessions, 251, silenced(Packet { poll: true, ..other })).len(), 1);
        let down: Vec<_> = sessions.tick(at(Duration::from_secs(2)));
        assert_eq!(sessions.status()[0].up, Some(false), "{down:?}");
    }
}

#[test]
fn a_shorter_interval_counts_for_the_packet_that_waits() {
    let (mut sessions, other) = up();
    heard(&mut sessions, 2, Packet { is_final: true, min_rx: Duration::from_secs(10), ..other });
    sessions.tick(at(Duration::from_millis(102)));
    heard(&mut sessions, 200, Packet { min_rx: Duration::from_millis(100), ..other });
    assert_eq!(sessions.tick(at(Duration::from_millis(301))).len(), 1);
}

#[test]
fn strangers_and_what_has_come_far_change_nothing() {
    let (mut sessions, other) = up();
    let before = (sessions.next_deadline(), sessions.status());
    let bytes = Packet { state: State::Down, ..other }.to_bytes();
    let base = datagram(1, &bytes);
    let mut refused = |datagram: Datagram<'_>, why: Discard| {
        assert_eq!(sessions.receive(at(Duration::from_millis(3)), &datagram), Err(why), "{datagram:?}");
        assert_eq!((sessions.next_deadline(), sessions.status()), before);
    };
    refused(Datagram { ttl: 254, ..base }, Discard::Far);
    refused(Datagram { multihop: true, ..base }, Discard::Stranger);
    refused(Datagram { payload: &bytes[..20], ..base }, Discard::Short);
    let wrong = Packet { yours: other.yours ^ 1, ..other }.to_bytes();
    refused(Datagram { payload: &wrong, ..base }, Discard::Stranger);
    let new = Packet { yours: 0, state: State::Down, ..other }.to_bytes();
    refused(Datagram { payload: &new, source: "10.0.0.3".parse().unwrap(), ..base }, Discard::Stranger);
    // The session's own name is enough, wherever it comes from (section 6.3).
    let moved = Datagram { source: "10.0.0.3".parse().unwrap(), ..base };
    assert!(sessions.receive(at(Duration::from_millis(3)), &moved).is_ok());
}

#[test]
fn hops_are_counted_as_keepalived_does() {
    for (ttl, max_hops, came, passes) in [
        (255, 0, 255, true),
        (255, 0, 254, false),
        (255, 3, 252, true),
        (255, 3, 251, false),
        (64, 0, 64, true),
        (64, 0, 255, true),
        (64, 2, 61, false),
        (255, ANY_HOPS, 1, true),
    ] {
        let mut sessions = one(Settings { ttl, max_hops, ..settings(1, Duration::from_millis(100), 3) });
        let first = Packet::parse(&sessions.tick(at(Duration::ZERO))[0].1).unwrap();
        let bytes = Packet { mine: 5, ..first }.to_bytes();
        let result = sessions.receive(at(Duration::from_millis(1)), &Datagram { ttl: came, ..datagram(1, &bytes) });
        assert_eq!(result.is_ok(), passes, "{ttl} {max_hops} {came}");
    }
}

#[test]
fn a_suspended_machine_does_not_spin_when_it_wakes() {
    let (mut sessions, _) = up();
    let hour = Duration::from_secs(3600);
    let woken = Moment::at(hour, Duration::from_millis(50));
    sessions.tick(woken);
    assert_eq!(sessions.status()[0].up, Some(false), "nothing was heard for an hour");
    assert!(!woken.until(sessions.next_deadline().unwrap()).is_zero());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever is lost, and whatever else comes: the ends are up again when the link is well, and nobody sends faster than agreed.
    #[test]
    fn after_any_trouble_it_is_up_again(
        millis in 10..200u64, multiplier in 1..6u8, passive in any::<bool>(),
        troubles in prop::collection::vec((any::<[bool; 2]>(), 1..900u64), 0..6),
        junk in prop::collection::vec((any::<bool>(), any::<[u8; LENGTH]>()), 0..6),
    ) {
        let interval = Duration::from_millis(millis);
        let first = Settings { passive, ..settings(1, interval, multiplier) };
        let mut link = Link::new(first, settings(0, interval, multiplier));
        for (number, (cut, span)) in troubles.into_iter().enumerate() {
            link.cut = cut;
            link.run(Duration::from_millis(span));
            if let Some((end, packet)) = junk.get(number) {
                let end = usize::from(*end);
                let mut packet = *packet;
                (packet[0], packet[3]) = (0x20, 24);
                let sent = link.ends[end].receive(at(link.now), &datagram(1 - end, &packet)).unwrap_or_default();
                link.send(end, sent);
            }
        }
        link.cut = [false; 2];
        link.run(Duration::from_secs(4));
        let well = link.now;
        link.run(Duration::from_secs(2));
        prop_assert_eq!(link.up(), [Some(true); 2]);
        for end in 0..2 {
            for gap in link.gaps(end, well) {
                prop_assert!(gap >= interval * 3 / 4, "{:?}", gap);
            }
        }
    }
}
