use super::*;
use proptest::collection::btree_map;
use proptest::prelude::*;
use std::net::Ipv6Addr;

/// A world so small that present and wanted meet often.
pub(crate) fn endpoint() -> impl Strategy<Value = Endpoint> {
    let ip = prop_oneof![
        (1..4u8).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        (1..4u16).prop_map(|last| IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))),
    ];
    (ip, prop_oneof![Just(0), Just(80), Just(65_535)]).prop_map(|(ip, port)| Endpoint { ip, port })
}

fn key() -> impl Strategy<Value = ServiceKey> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let mark = prop_oneof![Just(NonZeroU32::MIN), Just(NonZeroU32::MAX)];
    prop_oneof![
        3 => (protocol, endpoint()).prop_map(|(protocol, at)| ServiceKey::Address(protocol, at)),
        1 => (mark, family).prop_map(|(mark, family)| ServiceKey::Mark(mark, family)),
    ]
}

fn forwarding() -> impl Strategy<Value = Forwarding> {
    let checksum = || prop_oneof![Just(Checksum::None), Just(Checksum::Full), Just(Checksum::Remote)];
    prop_oneof![
        Just(Forwarding::Nat),
        Just(Forwarding::Direct),
        Just(Forwarding::Tunnel(Tunnel::Ipip)),
        checksum().prop_map(|checksum| Forwarding::Tunnel(Tunnel::Gue { port: 6080, checksum })),
        checksum().prop_map(|checksum| Forwarding::Tunnel(Tunnel::Gre { checksum })),
    ]
}

pub(crate) fn server() -> impl Strategy<Value = Server> {
    (forwarding(), 0..3u32, 0..2u32).prop_map(|(forwarding, weight, upper)| Server {
        forwarding,
        weight,
        upper: upper * MAX_WEIGHT,
        lower: upper * 7,
    })
}

fn settings(family: Family) -> impl Strategy<Value = Settings> {
    let scheduler = prop_oneof![Just("rr"), Just("wlc"), Just("fifteenletters1")];
    let granularity = match family {
        Family::V4 => Granularity::Netmask(Ipv4Addr::new(255, 255, 255, 0)),
        Family::V6 => Granularity::Prefix(64),
    };
    let engine = proptest::option::of(Just("sip".to_owned()));
    let persistence = (1..3u64, engine).prop_map(move |(seconds, engine)| Persistence {
        timeout: Duration::from_secs(seconds),
        granularity,
        engine,
    });
    (scheduler, any::<[bool; 4]>(), proptest::option::of(persistence)).prop_map(
        |(scheduler, [first, second, third, one_packet], persistence)| Settings {
            scheduler: scheduler.to_owned(),
            flags: SchedulerFlags { first, second, third },
            one_packet,
            persistence,
        },
    )
}

pub(crate) fn keyed() -> impl Strategy<Value = (ServiceKey, Settings)> {
    key().prop_flat_map(|key| (Just(key), settings(key.family())))
}

fn table() -> impl Strategy<Value = Table> {
    proptest::collection::vec((keyed(), btree_map(endpoint(), server(), 0..5)), 0..6).prop_map(|services| {
        services.into_iter().map(|((key, settings), servers)| (key, Service { settings, servers })).collect()
    })
}

/// What the kernel would do, and would refuse.
fn apply(table: &mut Table, change: &Change) -> Result<(), &'static str> {
    match change {
        Change::AddService(key, settings) => {
            let service = Service { settings: settings.clone(), servers: BTreeMap::new() };
            table.insert(*key, service).map_or(Ok(()), |_| Err("EEXIST"))
        }
        Change::SetService(key, settings) => {
            table.get_mut(key).map(|service| service.settings = settings.clone()).ok_or("ESRCH")
        }
        Change::RemoveService(key) => table.remove(key).map(|_| ()).ok_or("ESRCH"),
        Change::AddServer(key, at, server) => {
            let servers = &mut table.get_mut(key).ok_or("ESRCH")?.servers;
            servers.insert(*at, *server).map_or(Ok(()), |_| Err("EEXIST"))
        }
        Change::SetServer(key, at, server) => {
            let servers = &mut table.get_mut(key).ok_or("ESRCH")?.servers;
            servers.get_mut(at).map(|present| *present = *server).ok_or("ENOENT")
        }
        Change::RemoveServer(key, at) => {
            table.get_mut(key).ok_or("ESRCH")?.servers.remove(at).map(|_| ()).ok_or("ENOENT")
        }
    }
}

/// How far two tables are apart, in commands.
fn distance(present: &Table, wanted: &Table) -> usize {
    let keys: std::collections::BTreeSet<_> = present.keys().chain(wanted.keys()).collect();
    let of = |key| match (present.get(key), wanted.get(key)) {
        (Some(present), Some(wanted)) => {
            let ends: std::collections::BTreeSet<_> = present.servers.keys().chain(wanted.servers.keys()).collect();
            let other = ends.into_iter().filter(|at| present.servers.get(at) != wanted.servers.get(at)).count();
            usize::from(present.settings != wanted.settings) + other
        }
        (None, Some(wanted)) => 1 + wanted.servers.len(),
        (Some(_), None) => 1,
        (None, None) => 0,
    };
    keys.into_iter().map(of).sum()
}

proptest! {
    #[test]
    fn a_plan_is_refused_nowhere_ends_at_what_is_wanted_and_has_no_command_too_many(
        present in table(), wanted in table(),
    ) {
        let changes = plan(&present, &wanted);
        let (mut table, mut made) = (present.clone(), present.clone());
        for change in &changes {
            prop_assert_eq!(apply(&mut table, change), Ok(()), "{}", change);
            change.make(&mut made);
            prop_assert_eq!(&made, &table, "{}", change);
        }
        prop_assert_eq!(&table, &wanted);
        prop_assert_eq!(changes.len(), distance(&present, &wanted));
    }

    #[test]
    fn a_service_that_stays_is_never_away_and_never_without_a_server(present in table(), wanted in table()) {
        let mut table = present.clone();
        for change in plan(&present, &wanted) {
            prop_assert_eq!(apply(&mut table, &change), Ok(()));
            for (key, service) in &wanted {
                let Some(before) = present.get(key) else { continue };
                let now = table.get(key);
                prop_assert!(now.is_some(), "{} is away after {}", key, change);
                if !before.servers.is_empty() && !service.servers.is_empty() {
                    prop_assert!(now.is_some_and(|now| !now.servers.is_empty()), "{} is empty after {}", key, change);
                }
            }
        }
    }

    #[test]
    fn two_equal_tables_need_nothing(present in table()) {
        prop_assert_eq!(plan(&present, &present), Vec::new());
    }
}

#[test]
fn what_is_not_wanted_goes_before_anything_comes() {
    let at = |last, port| Endpoint { ip: IpAddr::from([10, 0, 0, last]), port };
    let (old, new) = (ServiceKey::Address(Protocol::Tcp, at(9, 80)), ServiceKey::Address(Protocol::Tcp, at(1, 80)));
    let service = Service { settings: Settings::new("wrr"), servers: BTreeMap::new() };
    let changes = plan(&Table::from([(old, service.clone())]), &Table::from([(new, service.clone())]));
    assert_eq!(changes, [Change::RemoveService(old), Change::AddService(new, service.settings)]);
}

#[test]
fn a_scope_has_its_addresses_and_marks_in_their_family_and_nothing_else() {
    let address = IpAddr::from([10, 0, 0, 1]);
    let scope = Scope { addresses: [address].into(), marks: [(NonZeroU32::MIN, Family::V6)].into() };
    let service = |ip, port| ServiceKey::Address(Protocol::Udp, Endpoint { ip, port });
    assert!(scope.contains(&service(address, 53)) && scope.contains(&service(address, 0)));
    assert!(!scope.contains(&service(IpAddr::from([10, 0, 0, 2]), 53)));
    assert!(scope.contains(&ServiceKey::Mark(NonZeroU32::MIN, Family::V6)));
    assert!(!scope.contains(&ServiceKey::Mark(NonZeroU32::MIN, Family::V4)));
}

#[test]
fn keys_are_shown_in_ipvsadms_words() {
    let at = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap());
    assert_eq!(ServiceKey::Address(Protocol::Sctp, at("[fd00::1]:80")).to_string(), "SCTP [fd00::1]:80");
    assert_eq!(ServiceKey::Mark(NonZeroU32::MIN, Family::V6).to_string(), "FWM 1 IPv6");
}
