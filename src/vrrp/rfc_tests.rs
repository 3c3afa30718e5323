//! What the RFCs demand with MUST of a receiver, a sender and the state machine, by section: one test each. [`table`] has every
//! demand with its test, here or elsewhere.

mod table;

use super::advert::{Advert, Discard, Format, Header};
use super::checksum::{self, Form};
use super::router::{Action, Event, Parameters, Router, State};
use super::timing::Timing;
use super::{Auth, LegacyPeers, Password, Version, group};
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::Family;
use std::net::IpAddr;
use std::time::Duration;

const S: Duration = Duration::from_secs(1);

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn at(ms: u64) -> Moment {
    Moment::default() + Duration::from_millis(ms)
}

fn format(version: Version) -> Format {
    let (auth, checksum, addresses) = (Auth::None, Form::Plain, vec![ip(100)]);
    Format { family: Family::V4, version, vrid: 51, interval: S, auth, checksum, addresses, unicast: None }
}

fn six() -> Format {
    let addresses = vec!["fe80::100".parse().unwrap()];
    Format { family: Family::V6, addresses, ..format(Version::V3) }
}

fn ends(format: &Format) -> (IpAddr, IpAddr) {
    match format.family {
        Family::V4 => (ip(1), group(Family::V4)),
        Family::V6 => ("fe80::1".parse().unwrap(), group(Family::V6)),
    }
}

/// An advert of priority 150 with some bytes changed and a checksum that is right again, and how it is judged.
fn judged(format: &Format, change: impl FnOnce(&mut Vec<u8>)) -> Result<Advert, Discard> {
    let (source, destination) = ends(format);
    let mut message = format.encode(150, source, destination);
    change(&mut message);
    message[6..8].fill(0);
    let form = if format.family == Family::V6 { Form::Pseudo } else { Form::Plain };
    let sum = checksum::of(form, &message, source, destination);
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    format.decode(&message, &Header { source, destination, ttl: 255 })
}

fn with_ttl(format: &Format, ttl: u8) -> Result<Advert, Discard> {
    let (source, destination) = ends(format);
    format.decode(&format.encode(150, source, destination), &Header { source, destination, ttl })
}

fn router(priority: u8, version: Version) -> Router {
    let (legacy_peers, timing) = (LegacyPeers::Any, Timing::default());
    let source = ip(50);
    let mut router =
        Router::new(Parameters { version, priority, interval: S, preempt: true, legacy_peers, source, timing });
    router.handle(at(0), Event::Start { resumed: false });
    router
}

fn master() -> Router {
    let mut router = router(100, Version::V3);
    router.handle(at(4_000), Event::Tick);
    router.handle(at(4_000), Event::Granted);
    assert!(matches!(router.status().state, State::Master(_)));
    router
}

fn heard(priority: u8, from: u8, interval: Duration) -> Event {
    let advert = Advert { priority, interval, addresses: vec![ip(100)], checksum: Form::Plain };
    Event::Heard { advert, source: ip(from), member: false }
}

/// RFC 9568 5.1.1.3, 7.1; RFC 3768 5.2.3, 7.1.
#[test]
fn a_ttl_other_than_255_is_discarded() {
    for ttl in [0, 1, 64, 254] {
        assert_eq!(with_ttl(&format(Version::V3), ttl), Err(Discard::Ttl(ttl)));
        assert_eq!(with_ttl(&format(Version::V2), ttl), Err(Discard::Ttl(ttl)));
    }
    assert!(with_ttl(&format(Version::V3), 255).is_ok() && with_ttl(&format(Version::V2), 255).is_ok());
}

/// RFC 9568 5.1.2.3.
#[test]
fn a_hop_limit_other_than_255_is_discarded() {
    assert_eq!(with_ttl(&six(), 254), Err(Discard::Ttl(254)));
    assert!(with_ttl(&six(), 255).is_ok());
}

/// RFC 9568 7.1; RFC 3768 7.1.
#[test]
fn another_version_is_discarded() {
    for (format, other) in [(format(Version::V3), 2), (format(Version::V2), 3), (six(), 4)] {
        assert_eq!(judged(&format, |message| message[0] = other << 4 | 1), Err(Discard::Version(other)));
    }
}

/// RFC 9568 5.2.2; RFC 3768 5.3.2.
#[test]
fn an_unknown_type_is_discarded() {
    for kind in (0..16).filter(|kind| *kind != 1) {
        assert_eq!(judged(&format(Version::V3), |message| message[0] = 0x30 | kind), Err(Discard::Type(kind)));
        assert_eq!(judged(&format(Version::V2), |message| message[0] = 0x20 | kind), Err(Discard::Type(kind)));
    }
}

/// RFC 9568 7.1; RFC 3768 7.1.
#[test]
fn another_virtual_router_is_not_ours() {
    assert_eq!(judged(&format(Version::V3), |message| message[1] = 52), Err(Discard::Vrid(52)));
}

/// RFC 9568 5.2.5.
#[test]
fn an_advert_without_addresses_is_ignored() {
    for format in [format(Version::V3), six()] {
        let empty = judged(&format, |message| {
            message.truncate(8);
            message[3] = 0;
        });
        assert_eq!(empty, Err(Discard::Empty));
    }
}

/// RFC 9568 7.1; RFC 3768 7.1.
#[test]
fn an_incomplete_advert_is_discarded() {
    for format in [format(Version::V3), format(Version::V2), six()] {
        let (source, destination) = ends(&format);
        let whole = format.encode(150, source, destination);
        for length in 0..whole.len() {
            let judged = format.decode(&whole[..length], &Header { source, destination, ttl: 255 });
            assert!(matches!(judged, Err(Discard::Short(_) | Discard::Length { .. })), "{length} bytes: {judged:?}");
        }
    }
}

/// RFC 9568 5.2.8, 7.1; RFC 3768 5.3.8, 7.1.
#[test]
fn a_wrong_checksum_is_discarded() {
    for format in [format(Version::V3), format(Version::V2), six()] {
        let (source, destination) = ends(&format);
        let right = format.encode(150, source, destination);
        for at in 2..right.len() {
            // Elsewhere a flip is another fault: the count's the length.
            if at != 3 {
                let mut wrong = right.clone();
                wrong[at] ^= 0x10;
                let judged = format.decode(&wrong, &Header { source, destination, ttl: 255 });
                assert_eq!(judged, Err(Discard::Checksum), "byte {at}");
            }
        }
    }
}

/// RFC 9568 5.2.6.
#[test]
fn the_reserved_bits_are_sent_as_zero_and_ignored() {
    let (source, destination) = ends(&format(Version::V3));
    let longest = Format { interval: Duration::from_millis(40_950), ..format(Version::V3) };
    assert_eq!(longest.encode(150, source, destination)[4..6], [0x0f, 0xff]);
    let reserved = judged(&format(Version::V3), |message| message[4] |= 0xf0).unwrap();
    assert_eq!(reserved.interval, S);
}

/// RFC 9568 5.2.8.
#[test]
fn the_checksum_of_ipv4_covers_the_message_alone() {
    let (source, destination) = ends(&format(Version::V3));
    assert!(checksum::is_plain(&format(Version::V3).encode(150, source, destination)));
}

/// RFC 9568 5.2.8.
#[test]
fn the_checksum_of_ipv6_covers_a_pseudo_header() {
    let (source, destination) = ends(&six());
    let message = six().encode(150, source, destination);
    assert!(!checksum::is_plain(&message));
    assert_eq!(checksum::verify(&message, source, destination), Some(Form::Pseudo));
}

/// RFC 3768 5.3.6, 7.1.
#[test]
fn another_authentication_type_is_discarded() {
    for kind in [1, 2, 255] {
        assert_eq!(judged(&format(Version::V2), |message| message[4] = kind), Err(Discard::AuthType(kind)));
    }
    let pass = Format { auth: Auth::Pass(Password::cut("x")), ..format(Version::V2) };
    assert_eq!(judged(&pass, |message| message[4] = 0), Err(Discard::AuthType(0)));
}

/// RFC 3768 5.3.10.
#[test]
fn authentication_data_is_sent_as_zero_and_ignored() {
    let (source, destination) = ends(&format(Version::V2));
    let message = format(Version::V2).encode(150, source, destination);
    assert_eq!((message.len(), &message[12..]), (20, &[0; 8][..]));
    assert!(judged(&format(Version::V2), |message| message[12..].fill(7)).is_ok());
}

/// RFC 9568 5.2, 7.2; RFC 3768 5.3, 7.2.
#[test]
fn what_is_sent_has_every_field() {
    let (source, destination) = ends(&format(Version::V3));
    let addresses = vec![ip(100), ip(7)];
    let three = Format { interval: S * 5 / 2, addresses: addresses.clone(), ..format(Version::V3) };
    let message = three.encode(150, source, destination);
    assert_eq!(message[..6], [0x31, 51, 150, 2, 0, 250], "version and type, router, priority, count, centiseconds");
    assert_eq!(message[8..], [192, 0, 2, 100, 192, 0, 2, 7], "in the order of the configuration");
    let two = Format { interval: S * 3, addresses, ..format(Version::V2) };
    let message = two.encode(255, source, destination);
    assert_eq!(
        message[..6],
        [0x21, 51, 255, 2, 0, 3],
        "version and type, router, priority, count, no authentication, seconds"
    );
    assert_eq!(message[8..16], [192, 0, 2, 100, 192, 0, 2, 7]);
    let (source, destination) = ends(&six());
    let message = six().encode(1, source, destination);
    assert_eq!((message[3], &message[8..10], message[23]), (1, &[0xfe, 0x80][..], 0));
}

/// RFC 3768 7.1.
#[test]
fn another_interval_of_version_2_is_discarded() {
    assert_eq!(judged(&format(Version::V2), |message| message[5] = 2), Err(Discard::Interval(2 * S)));
}

/// RFC 9568 6.4.2.
#[test]
fn another_interval_of_version_3_is_adopted() {
    let mut router = router(100, Version::V3);
    router.handle(at(1_000), heard(150, 1, 2 * S));
    assert_eq!(at(1_000).until(router.next_deadline().unwrap()), Duration::from_micros(7_218_750));
}

/// RFC 9568 7.1.
#[test]
fn another_list_of_addresses_is_no_reason_to_discard() {
    let other = judged(&format(Version::V3), |message| message[11] = 101).unwrap();
    assert!(!format(Version::V3).lists_the_same(&other));
}

/// A router with priority 255, at ip(50).
fn owner() -> Router {
    let (legacy_peers, timing) = (LegacyPeers::Any, Timing::default());
    Router::new(Parameters {
        version: Version::V3,
        priority: 255,
        interval: S,
        preempt: true,
        legacy_peers,
        source: ip(50),
        timing,
    })
}

/// RFC 9568 6.4.1; RFC 3768 6.4.1.
#[test]
fn the_owner_is_master_from_the_start() {
    let mut owner = owner();
    assert_eq!(owner.handle(at(0), Event::Start { resumed: false }), [Action::Want]);
    assert_eq!(owner.handle(at(0), Event::Granted), [Action::SendAdvert, Action::Announce(5)]);
}

/// RFC 9568 6.4.1; RFC 3768 6.4.1.
#[test]
fn others_start_as_backup_and_wait() {
    let router = router(100, Version::V3);
    assert!(matches!(router.status().state, State::Backup { .. }));
    assert_eq!(router.next_deadline(), Some(at(0) + Duration::from_micros(3_609_375)));
}

/// RFC 9568 6.4.2; RFC 3768 6.4.2.
#[test]
fn a_backup_takes_over_after_its_timer() {
    let mut router = router(100, Version::V3);
    assert_eq!(router.handle(at(3_609), Event::Tick), []);
    assert_eq!(router.handle(at(3_610), Event::Tick), [Action::Want]);
    assert_eq!(router.handle(at(3_610), Event::Granted), [Action::SendAdvert, Action::Announce(5)]);
}

/// RFC 9568 6.4.2; RFC 3768 6.4.2.
#[test]
fn priority_zero_sets_a_backups_timer_to_the_skew() {
    let mut router = router(100, Version::V3);
    router.handle(at(1_000), heard(0, 1, S));
    assert_eq!(at(1_000).until(router.next_deadline().unwrap()), Duration::from_micros(609_375));
}

/// RFC 9568 6.4.2; RFC 3768 6.4.2.
#[test]
fn a_backup_waits_behind_its_own_priority_and_above() {
    for (priority, from) in [(100, 1), (100, 99), (101, 1), (255, 99)] {
        let mut router = router(100, Version::V3);
        router.handle(at(3_000), heard(priority, from, S));
        assert_eq!(router.next_deadline(), Some(at(3_000) + Duration::from_micros(3_609_375)), "{priority}");
    }
}

/// RFC 9568 6.4.2; RFC 3768 6.4.2.
#[test]
fn a_backup_discards_a_lower_priority() {
    let mut router = router(100, Version::V3);
    router.handle(at(3_000), heard(99, 99, S));
    assert_eq!(router.next_deadline(), Some(at(0) + Duration::from_micros(3_609_375)));
}

/// RFC 9568 6.4.2; RFC 3768 6.4.2.
#[test]
fn a_backup_that_does_not_preempt_waits_behind_any_priority() {
    let (legacy_peers, timing) = (LegacyPeers::Any, Timing::default());
    let mut router = Router::new(Parameters {
        version: Version::V3,
        priority: 100,
        interval: S,
        preempt: false,
        legacy_peers,
        source: ip(50),
        timing,
    });
    router.handle(at(0), Event::Start { resumed: false });
    router.handle(at(3_000), heard(1, 1, S));
    assert_eq!(router.next_deadline(), Some(at(3_000) + Duration::from_micros(3_609_375)));
}

/// RFC 9568 6.4.2; RFC 3768 6.4.2.
#[test]
fn a_backup_that_stops_is_silent() {
    let mut router = router(100, Version::V3);
    assert_eq!(router.handle(at(1_000), Event::Stop), []);
    assert_eq!((router.status().state, router.next_deadline()), (State::Init, None));
}

/// RFC 9568 6.4.3; RFC 3768 6.4.3.
#[test]
fn a_master_advertises_at_its_interval() {
    let mut master = master();
    for second in 5..9 {
        assert_eq!(master.next_deadline(), Some(at(second * 1_000)));
        assert_eq!(master.handle(at(second * 1_000), Event::Tick)[0], Action::SendAdvert);
    }
}

/// RFC 9568 6.4.3; RFC 3768 6.4.3.
#[test]
fn a_master_that_stops_says_so_with_priority_zero() {
    let mut master = master();
    assert_eq!(master.handle(at(4_500), Event::Stop).last(), Some(&Action::Resign));
    assert_eq!(master.status().state, State::Init);
}

/// RFC 9568 6.4.3; RFC 3768 6.4.3.
#[test]
fn a_master_answers_priority_zero_at_once() {
    assert_eq!(master().handle(at(4_500), heard(0, 99, S)), [Action::SendAdvert]);
}

/// RFC 9568 6.4.3; RFC 3768 6.4.3.
#[test]
fn a_master_yields_to_a_higher_priority() {
    let mut master = master();
    assert_eq!(master.handle(at(4_500), heard(101, 1, S)), [Action::Refuse, Action::Yield]);
    assert!(matches!(master.status().state, State::Backup { .. }));
}

/// RFC 9568 6.4.3.
#[test]
fn a_master_that_yields_waits_by_the_interval_of_the_other() {
    let mut master = master();
    master.handle(at(5_000), heard(101, 1, 2 * S));
    assert_eq!(at(5_000).until(master.next_deadline().unwrap()), Duration::from_micros(7_218_750));
}

/// RFC 9568 6.4.1, 6.4.3: priority 255 is above every other, and a claim of it is weighed as any.
#[test]
fn an_owner_stays_master_beside_every_other_priority() {
    let mut owner = owner();
    owner.handle(at(0), Event::Start { resumed: false });
    owner.handle(at(0), Event::Granted);
    for (priority, from) in [(254, 99), (1, 1), (255, 49)] {
        owner.handle(at(9_000), heard(priority, from, S));
        assert!(matches!(owner.status().state, State::Master(_)), "{priority} from {from}");
    }
    assert_eq!(owner.handle(at(20_000), heard(255, 51, S)), [Action::Refuse, Action::Yield]);
}

/// RFC 9568 6.4.3; RFC 3768 6.4.3.
#[test]
fn a_master_yields_to_its_own_priority_from_a_higher_address() {
    assert_eq!(master().handle(at(4_500), heard(100, 51, S)), [Action::Refuse, Action::Yield]);
}

/// RFC 9568 6.4.3.
#[test]
fn a_master_answers_its_own_priority_from_a_lower_address() {
    assert_eq!(master().handle(at(4_500), heard(100, 49, S)), [Action::SendAdvert, Action::Announce(5)]);
}

/// RFC 9568 6.4.3.
#[test]
fn a_master_answers_a_lower_priority_at_once() {
    assert_eq!(master().handle(at(4_500), heard(99, 99, S)), [Action::SendAdvert, Action::Announce(5)]);
}
