//! What goes wrong in a space.

use std::fmt;

/// What may still go wrong on one path, each so many times.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Messages between the first director and a voter that arrive later than others. Any may be lost.
    pub late: u8,
    /// Voters that lose power: what is not on the disk is lost, and every promise.
    pub crashes: u8,
    /// Changes of the leader.
    pub elections: u8,
    /// Snapshots that a follower gets in place of the log.
    pub installs: u8,
    /// Fences of a session that is well: why it is fenced must not matter.
    pub fences: u8,
    /// Entries of the log that the first director hears of.
    pub learns: u8,
    /// Kills of the first director's process; it starts again at once.
    pub kills: u8,
    /// Orders to the first director to hand over.
    pub moves: u8,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { late, crashes, elections, installs, fences, learns, kills, moves } = self;
        let all = [
            (late, "late"),
            (crashes, "crashes"),
            (elections, "elections"),
            (installs, "snapshots installed"),
            (fences, "Fences"),
            (learns, "entries for lb1"),
            (kills, "kills"),
            (moves, "moves"),
        ];
        let said: Vec<_> =
            all.iter().filter(|(times, _)| **times > 0).map(|(times, what)| format!("{times} {what}")).collect();
        f.write_str(&said.join(", "))
    }
}
