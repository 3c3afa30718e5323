//! The codec alone; the kernel's own part of the conversation is in `tests/vm`, where there is an IPVS.

use super::attribute::{Attributes, Writer};
use super::codec;
use crate::ipvs::tests::{endpoint, keyed, server};
use crate::ipvs::{Change, Connections, Protocol, ServiceKey, Settings, Traffic};
use proptest::prelude::*;

/// What the kernel adds to a service or a server in a dump.
fn as_dumped(change: &Change, counts: &[u8]) -> Vec<u8> {
    let (_, writer) = codec::change(change);
    let sent = writer.finish();
    let attributes = Attributes::parse(&sent).unwrap();
    let mut dumped = Writer::default();
    let (kind, inner) = match attributes.nested(2) {
        Ok(_) => (2, attributes.get(2).unwrap()),
        Err(_) => (1, attributes.get(1).unwrap()),
    };
    dumped.put(kind, &[inner, counts].concat());
    dumped.finish()
}

fn counts(connections: bool) -> Vec<u8> {
    let mut writer = Writer::default();
    if connections {
        writer.u32(7, 70);
        writer.u32(8, 80);
        writer.u32(9, 90);
    }
    writer.nested(12, |stats| {
        for kind in 1..=5u16 {
            stats.put(kind, &(u64::from(kind) << 33).to_ne_bytes());
        }
    });
    writer.finish()
}

const TRAFFIC: Traffic =
    Traffic { connections: 1 << 33, packets_in: 2 << 33, packets_out: 3 << 33, bytes_in: 4 << 33, bytes_out: 5 << 33 };

proptest! {
    #[test]
    fn a_service_comes_back_as_it_was_sent((key, settings) in keyed()) {
        let dumped = as_dumped(&Change::AddService(key, settings.clone()), &counts(false));
        prop_assert_eq!(codec::service(&dumped).unwrap(), (key, settings, TRAFFIC));
    }

    #[test]
    fn a_server_comes_back_as_it_was_sent((key, _) in keyed(), at in endpoint(), server in server()) {
        let dumped = as_dumped(&Change::AddServer(key, at, server), &counts(true));
        let connections = Connections { active: 70, inactive: 80, persistent: 90 };
        prop_assert_eq!(codec::server(&dumped, key.family()).unwrap(), (at, server, connections, TRAFFIC));
    }

    #[test]
    fn whatever_an_answer_holds_it_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let answer = |kind| {
            let mut writer = Writer::default();
            writer.put(kind, &bytes);
            writer.finish()
        };
        codec::service(&answer(1)).ok();
        codec::server(&answer(2), hamesh_raft::command::Family::V4).ok();
        codec::sync_daemon(&answer(3)).ok();
        codec::service(&bytes).ok();
    }
}

/// As `include/uapi/linux/ip_vs.h` lays it out.
#[test]
fn a_service_has_the_bytes_of_the_kernels_header() {
    let key = ServiceKey::Address(Protocol::Tcp, "10.1.2.3:80".parse::<std::net::SocketAddr>().unwrap().into());
    let (command, writer) = codec::change(&Change::AddService(key, Settings::new("rr")));
    assert_eq!(command, 1);
    if cfg!(target_endian = "big") {
        return;
    }
    let expected: [&[u8]; 9] = [
        &[84, 0, 1, 0x80],
        &[6, 0, 1, 0, 2, 0, 0, 0],
        &[6, 0, 2, 0, 6, 0, 0, 0],
        &[20, 0, 3, 0, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[6, 0, 4, 0, 0, 80, 0, 0],
        &[7, 0, 6, 0, b'r', b'r', 0, 0],
        &[12, 0, 7, 0, 0, 0, 0, 0, 255, 255, 255, 255],
        &[8, 0, 8, 0, 0, 0, 0, 0],
        &[8, 0, 9, 0, 255, 255, 255, 255],
    ];
    assert_eq!(writer.finish(), expected.concat());
}
