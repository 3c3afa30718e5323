//! Needs root: every test makes its own network namespaces and fails without.

use super::*;
use crate::kernel::tests::{ip, on_a_cable};
use std::thread;
use std::time::Instant;

const S: Duration = Duration::from_secs(1);

fn vips(count: u32) -> Vec<Vip> {
    let address = |number: u32| IpAddr::from((0x0a09_0100 + number).to_be_bytes());
    (0..count).map(|number| Vip::plain(address(number), 32)).collect()
}

async fn eth0() -> (Interfaces, Interface, Addresses, mpsc::Receiver<Occurred>) {
    let (tell, told) = mpsc::channel(8);
    let interfaces = Interfaces::start(vec!["eth0".to_owned()], Vec::new(), &BTreeMap::new(), tell).await.unwrap();
    let (links, addresses) = link::connect().unwrap();
    (interfaces, links.get("eth0", &[]).await.unwrap().unwrap().interface, addresses, told)
}

async fn present(addresses: &Addresses, interface: &Interface) -> Vec<Vip> {
    addresses.list(interface).await.unwrap().into_iter().map(|present| present.vip).collect()
}

#[test]
fn an_address_that_somebody_removes_is_told_and_put_back_within_100_ms() {
    on_a_cable(async |_| {
        let (interfaces, eth0, addresses, mut told) = eth0().await;
        let vips = vips(3);
        interfaces.set(&eth0, &vips, 9 * S).await.unwrap();
        // Refreshing our own addresses tells nothing.
        sleep(S / 10).await;
        while told.try_recv().is_ok() {}
        assert!(interfaces.refresh(vec![(eth0.clone(), vips.clone())], 9 * S, Moment::now() + S));
        assert!(tokio::time::timeout(S / 10, told.recv()).await.is_err());

        ip("addr del 10.9.1.1/32 dev eth0");
        let removed = Instant::now();
        assert!(matches!(told.recv().await, Some(Occurred::Link(link)) if link.interface == eth0));
        interfaces.restore(&eth0, &vips, 9 * S, Moment::now() + S);
        while !present(&addresses, &eth0).await.contains(&vips[1]) {
            sleep(S / 1000).await;
        }
        let took = removed.elapsed();
        eprintln!("an address that was removed was back after {took:?}");
        assert!(took < S / 10);
    });
}

#[test]
fn what_comes_too_late_is_not_done_and_a_removal_is_the_last() {
    on_a_cable(async |_| {
        let (interfaces, eth0, addresses, _told) = eth0().await;
        let vips = vips(200);
        assert!(interfaces.refresh(vec![(eth0.clone(), vips[..1].to_vec())], 9 * S, Moment::now()));
        interfaces.restore(&eth0, &vips[..1], 9 * S, Moment::now());
        interfaces.remove(&eth0, &[]).await.unwrap();
        assert!(!present(&addresses, &eth0).await.contains(&vips[0]), "it was over before its turn");
        for _ in 0..5 {
            assert!(interfaces.refresh(vec![(eth0.clone(), vips.clone())], 9 * S, Moment::now() + 9 * S));
        }
        interfaces.remove(&eth0, &vips).await.unwrap();
        assert!(!present(&addresses, &eth0).await.iter().any(|there| vips.contains(there)));
    });
}

/// Each group was an order once, and those beyond the 256th were never refreshed.
#[test]
fn a_thousand_groups_are_refreshed_at_once() {
    on_a_cable(async |_| {
        let (interfaces, eth0, addresses, _told) = eth0().await;
        let vips = vips(1000);
        interfaces.set(&eth0, &vips, S).await.unwrap();
        let each = vips.iter().map(|vip| (eth0.clone(), vec![*vip])).collect();
        assert!(interfaces.refresh(each, 60 * S, Moment::now() + 60 * S));
        // The kernel takes off what is left of the first life.
        sleep(4 * S).await;
        let there = present(&addresses, &eth0).await;
        let lost = vips.iter().filter(|vip| !there.iter().any(|there| there.is(vip))).count();
        assert_eq!(lost, 0, "of 1000 addresses");
    });
}

/// A netlink connection that has ended.
fn deaf() -> Links {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { link::connect().unwrap().0 })
}

#[test]
fn an_interface_that_cannot_be_asked_for_is_not_taken_for_lost() {
    // Its runtime ends with the thread, and so the connection.
    let links = thread::spawn(deaf).join().unwrap();
    on_a_cable(async |_| {
        let (tell, mut told) = mpsc::channel(8);
        let (_look, looked_at) = watch::channel((vec!["eth0".to_owned()], Vec::new()));
        let watching = watch_links(Watch::start().unwrap(), links, Debounce::default(), looked_at, tell);
        tokio::spawn(watching);
        ip("link set eth0 mtu 1400");
        let nothing = tokio::time::timeout(AGAIN * 3, told.recv()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    });
}

#[test]
fn an_interface_that_is_made_anew_is_told_to_be_gone_first() {
    on_a_cable(async |_| {
        ip("link add cable0 index 77 type veth peer name cable1");
        let (tell, mut told) = mpsc::channel(8);
        let _interfaces =
            Interfaces::start(vec!["cable0".to_owned()], Vec::new(), &BTreeMap::new(), tell).await.unwrap();
        assert!(matches!(told.recv().await, Some(Occurred::Link(link)) if link.interface.index == 77));
        // In one go, so that it is never seen to be away.
        let script = tempfile::NamedTempFile::new().unwrap();
        let lines = "link del cable0\nlink add cable0 index 77 type veth peer name cable1\n";
        std::fs::write(script.path(), lines).unwrap();
        ip(&format!("-batch {}", script.path().display()));
        let mut gone = false;
        loop {
            let occurred = told.recv().await.unwrap();
            gone |= matches!(occurred, Occurred::LinkGone(_));
            if gone && matches!(occurred, Occurred::Link(_)) {
                break;
            }
        }
        ip("link set cable0 name cable9");
        while !matches!(told.recv().await, Some(Occurred::LinkGone(name)) if name == "cable0") {}
    });
}
