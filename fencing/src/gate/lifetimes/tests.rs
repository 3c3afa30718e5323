//! The timer that ends a process, in one of its own. Needs root, for a network namespace.

use super::*;
use crate::clock::promise_for;
use nix::sched::{CloneFlags, unshare};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::Instant;

const ORDER: &str = "HAMESH_LIFETIMES";
const LEFT: Duration = Duration::from_millis(300);

/// Not a test of its own: what [`ended`] runs.
#[test]
fn ordered() {
    let Ok(order) = std::env::var(ORDER) else { return };
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
    let mut lifetimes = Lifetimes::acquire(SECOND).unwrap();
    lifetimes.begin(Moment::now() + LEFT).unwrap();
    match order.as_str() {
        "freeze" => nix::sys::signal::raise(Signal::SIGSTOP).unwrap(),
        "go on" => sleep(4 * (LEFT + GRACE)),
        "end" => {
            lifetimes.end().unwrap();
            // A backup, which has nothing to be killed for.
            lifetimes.arm(Moment::now() + LEFT).unwrap();
            sleep(LEFT + GRACE + SECOND);
        }
        "renew" => {
            for _ in 0..10 {
                lifetimes.arm(Moment::now() + LEFT).unwrap();
                sleep(LEFT / 2);
            }
        }
        // What was armed before stays armed.
        "late" => {
            let late = lifetimes.arm(Moment::default());
            assert!(matches!(late, Err(GateError::Late)), "{late:?}");
            sleep(4 * (LEFT + GRACE));
        }
        other => unreachable!("{other}"),
    }
}

fn ended(order: &str) -> (ExitStatus, Duration) {
    let begun = Instant::now();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", "gate::lifetimes::tests::ordered"]).env(ORDER, order);
    (child.output().unwrap().status, begun.elapsed())
}

#[test]
fn a_process_that_does_not_renew_is_killed_frozen_or_not() {
    for order in ["freeze", "go on", "late"] {
        let (status, after) = ended(order);
        assert_eq!(status.signal(), Some(9), "{order}: {status} after {after:?}");
        assert!(after >= LEFT + GRACE && after < LEFT + GRACE + SECOND, "{order}: killed after {after:?}");
    }
}

#[test]
fn a_process_that_renews_or_has_shut_lives_on() {
    for order in ["renew", "end"] {
        let (status, after) = ended(order);
        assert!(status.success(), "{order}: {status} after {after:?}");
    }
}

#[test]
fn a_promise_outlasts_the_lease_by_what_the_kernel_may_be_late() {
    let ms = Duration::from_millis;
    for (ttl, seconds, late) in [(125, 1, 3136), (1000, 1, 3244), (2000, 2, 4492), (3000, 3, 5739)] {
        let ttl = ms(ttl);
        assert_eq!(life(ttl), seconds * SECOND);
        let lateness = Lifetimes::lateness_for(ttl);
        assert_eq!(lateness.as_millis(), late, "{ttl:?}");
        // With a kernel that counts right: killed, its last refresh, the kernel's look.
        assert!(promise_for(ttl, lateness) > ttl + GRACE + life(ttl) + LOOK + 2 * CHANGE);
    }
}
