//! Another host that answers for a VIP: address conflict detection (RFC 5227 section 2.4), by asking.
//!
//! A switch does not show a MASTER what a stranger answers to others. So the MASTER asks for its own addresses, one after the
//! other, and whoever else answers is seen. All it can do then is say so, and announce itself again.

use super::schedule::LONGEST_GAP;
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::GroupName;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Each address is asked for this often, where there are few. Of many at most one is asked for at each look.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Between the first two announcements. The pause doubles, to [`LONGEST_GAP`], until the stranger is silent for longer than
/// that: two that defend an address against each other are not to flood the LAN.
const FIRST_GAP: Duration = Duration::from_secs(1);

/// What was heard of a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The VIP that it answers for.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// When it was heard last.
    pub heard_at: Moment,
    /// How often one was heard, in looks.
    pub times: u64,
    announced_at: Moment,
    gap: Duration,
}

/// The watch over all that a director is MASTER of.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    asked: Option<Moment>,
    turn: usize,
    conflicts: BTreeMap<GroupName, Conflict>,
}

impl Watch {
    /// Which of so many addresses to ask for now, counted from 0.
    pub fn ask(&mut self, now: Moment, held: usize) -> Option<usize> {
        let pause = ASK_EVERY / u32::try_from(held).ok().filter(|count| *count > 0)?;
        if self.asked.is_some_and(|at| now.since(at) < pause) {
            return None;
        }
        self.asked = Some(now);
        self.turn = (self.turn + 1) % held;
        Some(self.turn)
    }

    /// A stranger answers for an address of `group`. Returns whether to announce that it is here.
    pub fn heard(&mut self, now: Moment, group: &GroupName, address: IpAddr, mac: [u8; 6]) -> bool {
        let Some(conflict) = self.conflicts.get_mut(group) else {
            let first = Conflict { address, mac, heard_at: now, times: 1, announced_at: now, gap: FIRST_GAP };
            self.conflicts.insert(group.clone(), first);
            return true;
        };
        let anew = now.since(conflict.heard_at) > LONGEST_GAP;
        (conflict.address, conflict.mac, conflict.heard_at) = (address, mac, now);
        conflict.times += 1;
        let announces = anew || now.since(conflict.announced_at) >= conflict.gap;
        if announces {
            conflict.announced_at = now;
            conflict.gap = if anew { FIRST_GAP } else { LONGEST_GAP.min(conflict.gap * 2) };
        }
        announces
    }

    /// The last stranger that answered for an address of `group`.
    pub fn of(&self, group: &str) -> Option<Conflict> {
        self.conflicts.get(group).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 100));
    const LOOK: u64 = 50;

    fn at(ms: u64) -> Moment {
        Moment::default() + Duration::from_millis(ms)
    }

    fn asked(count: usize) -> Vec<(u64, usize)> {
        let mut watch = Watch::default();
        (0..3000).step_by(50).filter_map(|ms| watch.ask(at(ms), count).map(|one| (ms, one))).collect()
    }

    #[test]
    fn a_few_addresses_are_asked_for_twice_a_second_and_many_in_turn() {
        assert_eq!(asked(0), []);
        assert_eq!(asked(1).iter().map(|(ms, _)| *ms).collect::<Vec<_>>(), [0, 500, 1000, 1500, 2000, 2500]);
        for few in [2, 5, 10] {
            let within = asked(few).into_iter().filter(|(ms, _)| *ms < 1000);
            let mut ones: Vec<usize> = within.map(|(_, one)| one).collect();
            ones.sort_unstable();
            ones.dedup();
            assert_eq!(ones.len(), few, "each of {few} within a second");
        }
        let many = asked(1000);
        assert_eq!(u64::try_from(many.len()).unwrap(), 3000 / LOOK, "one at each look");
        assert!(many.windows(2).all(|pair| pair[0].1 + 1 == pair[1].1));
    }

    #[test]
    fn a_stranger_that_goes_on_is_answered_less_and_less_and_a_new_one_at_once() {
        let (mut watch, web) = (Watch::default(), "web".to_owned());
        let mut heard = |ms| watch.heard(at(ms), &web, VIP, [2; 6]);
        let answered: Vec<u64> = (0..40_000).step_by(500).filter(|ms| heard(*ms)).collect();
        assert_eq!(answered, [0, 1_000, 3_000, 7_000, 15_000, 23_000, 31_000, 39_000]);
        assert!(heard(60_000));
        assert!(!heard(60_500));
        assert!(heard(61_000));
        assert_eq!(watch.of("web").unwrap().times, 83);
        assert_eq!(watch.of("api"), None);
    }
}
