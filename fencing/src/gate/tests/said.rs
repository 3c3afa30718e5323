//! What routers on this host say, heard at a gate that is shut.

use super::*;

/// Said without regard to time, in order.
fn words(gate: &mut Gate) -> Vec<(String, u8, u8)> {
    let mut words: Vec<_> =
        gate.said().unwrap().into_iter().map(|said| (said.device, said.vrid, said.priority)).collect();
    words.sort();
    words
}

#[test]
fn adverts_are_noted_at_a_shut_gate_too_each_with_its_age() {
    let lan = Lan::new();
    let mut gate = installed(&lan);
    assert_eq!(words(&mut gate), []);
    traffic::adverts_that_pass(&lan);
    let raw = [(WEB, 150), (WEB, 0), (API, 150)].map(|(vrid, priority)| ("eth0".to_owned(), vrid, priority));
    let mut heard = raw.to_vec();
    heard.sort();
    assert_eq!(words(&mut gate), heard);
    thread::sleep(S);
    let aged = gate.said().unwrap();
    assert!(aged.iter().all(|said| said.age >= S && said.age < 30 * S), "{aged:?}");
    traffic::adverts_that_pass(&lan);
    assert_eq!(words(&mut gate), heard);
    let renewed = gate.said().unwrap();
    assert!(renewed.iter().all(|said| said.age < S), "{renewed:?}");
    // People look at their rules with nft, which must be able to: it once aborted, on all that the host has.
    let listing = lan.director.command("nft", "list ruleset");
    let said = String::from_utf8_lossy(&listing.stdout);
    assert!(listing.status.success(), "{listing:?}");
    for what in ["table netdev hamesh", "set said4", "chain note_ah", "chain advert4", "chain sealed", "chain egress"] {
        assert!(said.contains(what), "{what} is not in {said}");
    }
}
