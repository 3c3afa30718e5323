//! The gate in the kernel. Needs root: every test makes its own network namespaces and fails without.

mod between;
mod deaf;
mod device;
mod ipv6;
mod lab;
mod said;
mod time;
mod traffic;

use super::*;
use hamesh_raft::command::Family;
use lab::*;
use std::io::BufRead;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;

const ID: GateId = GateId(0x1234_5678_9abc_def0);
const WEB: u8 = 51;
const API: u8 = 52;
const S: Duration = Duration::from_secs(1);

/// (VRID, priority) of adverts.
type Adverts = Vec<(u8, u8)>;

fn group(vrid: u8, address: Ipv4Addr) -> Definition {
    Definition { family: Family::V4, vrid, addresses: vec![address.into()] }
}

fn groups() -> Vec<Definition> {
    vec![group(WEB, VIP), group(API, OTHER_VIP)]
}

fn devices() -> Devices {
    Devices { vrrp: vec!["eth0".into()], ..Devices::default() }
}

/// Acquires, and asks again while it is refused so: other tests start programs, and until such a child runs its
/// program it has this process's sockets too, with the lock and the tables of a gate that was just dropped.
fn acquire_unless(refused: fn(&GateError) -> bool) -> Result<Keeper, GateError> {
    for _ in 0..100 {
        match Gate::acquire() {
            Err(error) if refused(&error) => thread::sleep(S / 100),
            result => return result,
        }
    }
    Gate::acquire()
}

fn acquire() -> Keeper {
    acquire_unless(|error| matches!(error, GateError::Locked | GateError::Owned(_))).unwrap()
}

fn install() -> Gate {
    acquire().install(ID, &groups(), &devices()).unwrap()
}

/// A gate on the director that is used from the test's thread.
fn installed(lan: &Lan) -> Gate {
    lan.director.run(install)
}

fn web() -> Vec<Definition> {
    vec![group(WEB, VIP)]
}

/// Not a test of its own: what [`Process`] runs.
#[test]
fn obedient() {
    if std::env::var_os(OBEDIENT).is_none() {
        return;
    }
    let mut gate = None;
    println!();
    for order in io::stdin().lock().lines() {
        let order = order.unwrap();
        let words: Vec<_> = order.split(' ').collect();
        match (&words[..], &mut gate) {
            (["install"], gate) => *gate = Some(install()),
            (["hold"], Some(gate)) => gate.hold(&web()).unwrap(),
            (["arm", boot, raw], Some(gate)) => {
                let nanos = |text: &str| Duration::from_nanos(text.parse().unwrap());
                gate.arm(Moment::at(nanos(boot), nanos(raw))).unwrap();
            }
            _ => panic!("not understood: {order}"),
        }
        println!("> done");
    }
}
