//! What a search must have met to mean something, and how a path is told.

use crate::cluster::{Cluster, GROUP, Step, Way};
use crate::moment;
use std::collections::BTreeSet;
use std::fmt::Write;

/// What happens in the search. All but the last three are counted only while the first director's lease was live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    Renewed,
    NoQuorum,
    RenewLate,
    AckLate,
    Frozen,
    Fenced,
    AskedBeforeTheFlush,
    Crashed,
    TailLost,
    FreshSnapshot,
    Installed,
    Elected,
    Truncated,
    Killed,
    Resumed,
    Moved,
    Shut,
    EndedByTheGate,
    TakenOver,
    OpenedAgain,
}

impl Thing {
    pub const ALL: [(Self, &'static str); 20] = [
        (Self::Renewed, "lease prolonged"),
        (Self::NoQuorum, "cut off from a quorum"),
        (Self::RenewLate, "Renew that comes late"),
        (Self::AckLate, "Ack that comes late"),
        (Self::Frozen, "the holder frozen for a tick"),
        (Self::Fenced, "Fence used: committed"),
        (Self::AskedBeforeTheFlush, "asked after the apply and before the flush"),
        (Self::Crashed, "crash of a voter, its memory lost"),
        (Self::TailLost, "crash of a voter, its unflushed tail lost"),
        (Self::FreshSnapshot, "start from a snapshot taken meanwhile"),
        (Self::Installed, "snapshot installed"),
        (Self::Elected, "another leader"),
        (Self::Truncated, "log truncated"),
        (Self::Killed, "the holder killed"),
        (Self::Resumed, "a session resumed"),
        (Self::Moved, "the holder told to hand over"),
        (Self::Shut, "shut by the holder's own order"),
        (Self::EndedByTheGate, "lease ended by the gate alone"),
        (Self::TakenOver, "the other director takes over"),
        (Self::OpenedAgain, "the first director has another session"),
    ];

    /// Notes what a step has brought about.
    pub fn of(step: Step, before: &Cluster, after: &mut Cluster, live: bool) {
        let mut things = std::mem::take(&mut after.things);
        if !live {
            things.clear();
        }
        let mut when = |is: bool, thing: Self| {
            if is {
                things.push(thing);
            }
        };
        let armed = |cluster: &Cluster| cluster.directors[0].armed;
        let newest = |cluster: &Cluster| cluster.truth().sessions.keys().next_back().copied();
        if live {
            let acted = !matches!(step, Step::Freeze);
            when(armed(after).is_some() && armed(after) != armed(before), Self::Renewed);
            when(
                matches!(step, Step::Run(ways) if ways.iter().filter(|way| **way == Way::Done).count() < 2),
                Self::NoQuorum,
            );
            when(matches!(step, Step::Arrive(_, _, false)), Self::RenewLate);
            when(matches!(step, Step::Arrive(_, _, true)), Self::AckLate);
            when(step == Step::Freeze, Self::Frozen);
            when(matches!(step, Step::Crash(..)), Self::Crashed);
            when(matches!(step, Step::Crash(_, true)), Self::FreshSnapshot);
            when(matches!(step, Step::Install(_)), Self::Installed);
            when(matches!(step, Step::Elect(_)), Self::Elected);
            when(step == Step::Kill, Self::Killed);
            when(step == Step::Move, Self::Moved);
            when(acted && !after.is_open(0), Self::Shut);
            when(!acted && !after.is_open(0), Self::EndedByTheGate);
            let fenced = |cluster: &Cluster| cluster.truth().sessions.values().filter(|s| s.fenced.is_some()).count();
            when(fenced(after) > fenced(before), Self::Fenced);
        }
        when(after.is_open(1) && !before.is_open(1), Self::TakenOver);
        when(newest(after) > newest(before), Self::OpenedAgain);
        after.things = things;
    }
}

/// A path in words, one line for each step.
pub fn tell(start: &Cluster, path: &[Step]) -> String {
    let mut told = String::new();
    let mut cluster = start.clone();
    for step in path {
        let before = cluster.clone();
        cluster = cluster.after(*step);
        cluster.strangers_move_nothing();
        let at = |tick: u32| format!("{:>4} ms", (moment(tick).since(moment(start.tick))).as_millis());
        writeln!(told, "  {} {:<34} {}", at(cluster.tick), words(*step), changes(&before, &cluster)).ok();
    }
    if let Some(violation) = &cluster.violation {
        writeln!(told, "  {violation}").ok();
    }
    told
}

fn words(step: Step) -> String {
    let voter = |at: usize| format!("w{}", at + 1);
    match step {
        Step::Freeze => "lb1 is frozen".to_owned(),
        Step::Run(ways) => format!("lb1 runs, its Renews {ways:?}"),
        Step::Arrive(at, seq, false) => format!("Renew {seq} comes to {}", voter(at)),
        Step::Arrive(at, seq, true) => format!("Ack {seq} of {} comes to lb1", voter(at)),
        Step::Append(at) => format!("{} gets an entry", voter(at)),
        Step::Flush(at) => format!("{} flushes", voter(at)),
        Step::Apply(at) => format!("{} applies", voter(at)),
        Step::Answer(at) => format!("{} tells the leader", voter(at)),
        Step::Install(at) => format!("{} gets a snapshot", voter(at)),
        Step::Crash(at, false) => format!("{} loses power and starts", voter(at)),
        Step::Crash(at, true) => format!("{} loses power, starts from a snapshot", voter(at)),
        Step::Elect(at) => format!("{} is elected", voter(at)),
        Step::Fence => "Fence of lb1's session".to_owned(),
        Step::Learn => "lb1 applies".to_owned(),
        Step::Deliver(_) => "a proposal of lb1 arrives".to_owned(),
        Step::Kill => "lb1 is killed and starts".to_owned(),
        Step::Move => "lb1 is told to hand over".to_owned(),
    }
}

/// What a step has changed that a reader needs.
fn changes(before: &Cluster, after: &Cluster) -> String {
    let mut changes = Vec::new();
    let seen = |cluster: &Cluster| -> BTreeSet<String> {
        let leader = &cluster.members[cluster.leader];
        let entries = leader.log.iter().zip(1..).map(|(entry, place)| {
            let committed = if place <= cluster.committed { ", committed" } else { "" };
            match &entry.command {
                Some(command) => {
                    let name = format!("{command:?}");
                    format!("{}{committed}", name.split([' ', '{']).next().unwrap_or_default())
                }
                None => format!("term {}{committed}", entry.by.term),
            }
        });
        let open = [0, 1].map(|at| match cluster.is_open(at) {
            true => format!("lb{} open", at + 1),
            false => format!("lb{} shut", at + 1),
        });
        let holder = cluster.truth().holder(GROUP).map(|holder| holder.token);
        entries.chain(open).chain([format!("the lease is {holder:?}")]).collect()
    };
    let (was, is) = (seen(before), seen(after));
    changes.extend(is.difference(&was).cloned());
    if let Some(until) = after.directors[0].armed.filter(|until| before.directors[0].armed != Some(*until)) {
        changes.push(format!("lb1 armed for {} ms", moment(after.tick).until(until).as_millis()));
    }
    changes.join(", ")
}
