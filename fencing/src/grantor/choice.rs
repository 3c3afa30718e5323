//! Who should hold a group.

use super::Hearing;
use super::losses::Losses;
use crate::clock::Moment;
use crate::message::Known;
use hamesh_raft::command::{GroupName, NodeId, Sid};
use hamesh_raft::state::{Candidate, Session, State};
use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The candidates of one group, as the leader sees them now.
pub(super) struct Candidates<'a, 's> {
    pub(super) group: &'a str,
    pub(super) state: &'s State,
    pub(super) replicating: &'a BTreeSet<NodeId>,
    pub(super) own: &'a BTreeMap<Sid, Known>,
    pub(super) hears: Option<&'a BTreeMap<NodeId, Hearing>>,
    /// Which addresses are held by which group; looked up once for all groups.
    pub(super) taken: &'a OnceCell<BTreeMap<IpAddr, &'s GroupName>>,
    pub(super) losses: &'a Losses,
}

impl<'s> Candidates<'_, 's> {
    /// Those that can take the group at once, the best first: it replicates to them, they renewed within 2R; the one that
    /// somebody has moved it to, those that are not deaf on the LAN; then by priority, then by node id.
    pub(super) fn fit(&self) -> Vec<Sid> {
        let taken = |address| self.taken.get_or_init(|| self.state.taken()).get(&address).copied();
        let mut fit: Vec<_> = self
            .all()
            .filter(|(sid, session, _)| {
                let fresh = session.ttl * 2 / 5; // 2R
                let renewed = self.own.get(sid).and_then(|known| known.renewed);
                self.replicating.contains(&session.node)
                    && renewed.is_some_and(|age| age < fresh)
                    && self.state.obstacle_among(self.group, *sid, taken).is_none()
            })
            .collect();
        fit.sort_by_key(|(_, session, candidate)| {
            let pinned = self.state.is_pinned(self.group, session.node);
            (!pinned, self.is_deaf(session.node), Reverse(candidate.priority), session.node)
        });
        fit.into_iter().map(|(sid, ..)| sid).collect()
    }

    /// Where somebody's order sends the group: to the node it was moved to, or away from one that is drained.
    pub(super) fn ordered(&self) -> Option<Sid> {
        let holder = self.state.holder(self.group)?;
        let at = self.state.holder_node(self.group)?;
        let pinned = self.state.groups.get(self.group)?.pinned;
        let drained = self.state.members.get(&at).is_some_and(|member| member.drained);
        if !drained && pinned.is_none_or(|node| node == at) {
            return None;
        }
        let goes = |sid: &Sid| {
            let node = self.state.sessions.get(sid).map(|session| session.node);
            *sid != holder.sid && node.is_some() && node == pinned
        };
        self.fit().into_iter().find(|sid| goes(sid) || (drained && *sid != holder.sid))
    }

    /// A fit candidate of higher priority than the holder's, that may ask for the group, hears the holder and has not lost
    /// the group again and again. Nobody is better than the node that the group was moved to. A holder of priority 0 asks to
    /// be relieved: by anybody, and wherever it was moved to.
    pub(super) fn better(&self, now: Moment) -> Option<Sid> {
        let holder = self.state.holder(self.group)?;
        let at = self.state.holder_node(self.group)?;
        let stands = self.state.groups.get(self.group)?.candidates.get(&holder.sid);
        let asks = stands.is_some_and(|candidate| candidate.priority == 0);
        if self.state.is_pinned(self.group, at) && !asks {
            return None;
        }
        let priority = stands.map_or(0, |candidate| candidate.priority);
        let better = |(_, session, candidate): &(Sid, &Session, &Candidate)| {
            (candidate.preempt || asks)
                && candidate.priority > priority
                && candidate.definition == holder.definition
                && self.hearing(session.node) == Some(Hearing::Holder)
                && self.losses.of(now, self.group, session.node).1.is_zero()
        };
        let better: BTreeSet<Sid> = self.all().filter(better).map(|(sid, ..)| sid).collect();
        if better.is_empty() {
            return None;
        }
        self.fit().into_iter().find(|sid| better.contains(sid))
    }

    /// The best of those that do not hear the holder and hear others, if they are most of the candidates (V10).
    pub(super) fn unheard_holder(&self) -> Option<Sid> {
        let holder = self.state.holder(self.group)?;
        let others: Vec<_> = self.all().filter(|(sid, ..)| *sid != holder.sid).collect();
        let reporting: BTreeSet<Sid> = others
            .iter()
            .filter(|(_, session, _)| self.hearing(session.node) == Some(Hearing::OnlyOthers))
            .map(|(sid, ..)| *sid)
            .collect();
        if reporting.len() * 2 <= others.len() {
            return None;
        }
        self.fit().into_iter().find(|sid| reporting.contains(sid))
    }

    fn all(&self) -> impl Iterator<Item = (Sid, &Session, &Candidate)> {
        let candidates = self.state.groups.get(self.group).into_iter().flat_map(|group| &group.candidates);
        candidates.filter_map(|(sid, candidate)| Some((*sid, self.state.sessions.get(sid)?, candidate)))
    }

    fn hearing(&self, node: NodeId) -> Option<Hearing> {
        self.hears.and_then(|hears| hears.get(&node)).copied()
    }

    fn is_deaf(&self, node: NodeId) -> bool {
        self.hearing(node) == Some(Hearing::Nobody)
    }
}
