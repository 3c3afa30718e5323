//! The replicated state: who is a member, which sessions live, who may hold which VIP group.
//!
//! [`State::apply`] reads the entry and this state and nothing else: no clock, no configuration, no gossip (H12). Whoever
//! gets a group is named by the entry; `apply` only checks that the name still may have it.

mod orders;

use crate::command::{
    Applicant, ClusterId, Command, Definition, GateId, GroupName, InvitationId, Leadership, Lineage, NodeId, Outcome,
    Role, ServerOrder, Sid, Token, WallTime,
};
use orders::leave;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Invitations that ended longer ago than this are forgotten at the next join.
const INVITATION_MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the whole cluster agrees on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct State {
    /// `None` until the first entry.
    pub cluster: Option<Cluster>,
    /// Every node that was admitted and not removed.
    pub members: BTreeMap<NodeId, Member>,
    /// Who may join.
    pub invitations: BTreeMap<InvitationId, Invitation>,
    /// The sessions that may hold groups, or are fenced and not yet expired.
    pub sessions: BTreeMap<Sid, Session>,
    /// The VIP groups that have a holder or a candidate. States share those that no entry between them has changed.
    pub groups: BTreeMap<GroupName, Arc<Group>>,
    /// What people have ordered of servers, by the names of their services.
    pub servers: BTreeMap<(String, SocketAddr), ServerOrder>,
    last_node: u64,
}

/// The cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cluster {
    /// Random name.
    pub id: ClusterId,
    /// Name for people.
    pub name: String,
    /// Which line of history this is.
    pub lineage: Lineage,
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Unique.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where it stands.
    pub rack: String,
    /// Where its mesh endpoint listens.
    pub address: SocketAddr,
    /// SHA-256 of its public key.
    pub key: [u8; 32],
    /// Of its latest start; 0 before the first.
    pub incarnation: u64,
    /// Of its latest `Open` in that incarnation.
    attempt: u64,
    /// Out of service, by somebody's order.
    pub drained: bool,
}

/// A way in, for one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Invitation {
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// What it admits.
    pub role: Role,
    /// When it ends.
    pub expires_at: WallTime,
    /// Who used it.
    pub used_by: Option<NodeId>,
}

/// A holder of leases.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Session {
    /// Whose.
    pub node: NodeId,
    /// That opened it.
    pub incarnation: u64,
    /// Which of the process's `Open`s it was.
    pub attempt: u64,
    /// L.
    pub ttl: Duration,
    /// Lg.
    pub promise: Duration,
    /// The gate that ends it.
    pub gate: GateId,
    /// The log index of the first Fence: no voter that applied it acks this session again.
    pub fenced: Option<u64>,
}

/// A VIP group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Group {
    /// Who may act for it, and as what.
    pub holder: Option<Holder>,
    /// Who is willing to be granted it, the holder among them.
    pub candidates: BTreeMap<Sid, Candidate>,
    /// The node that comes before every other, by somebody's order, until it loses the group.
    pub pinned: Option<NodeId>,
}

/// The grant of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The session.
    pub sid: Sid,
    /// The grant.
    pub token: Token,
    /// The group as the holder had described it when it was granted.
    pub definition: Definition,
}

/// A session's wish to hold a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// The group as this node describes it.
    pub definition: Definition,
    /// Effective VRRP priority; 0: as a holder it asks to be relieved.
    pub priority: u8,
    /// Whether it may ask a living holder of lower priority to move.
    pub preempt: bool,
}

impl State {
    /// Applies the entry at `index`, written by the leadership `by`.
    pub fn apply(&mut self, index: u64, by: Leadership, command: &Command) -> Outcome {
        let done = match command {
            Command::Found { cluster, name, lineage, founder } => self.found(*cluster, name, *lineage, founder),
            Command::Invite { id, secret_hash, role, expires_at } => self.invite(
                *id,
                Invitation { secret_hash: *secret_hash, role: *role, expires_at: *expires_at, used_by: None },
            ),
            Command::Join { invitation, applicant, at } => self.join(*invitation, applicant, *at),
            Command::Register { node, incarnation, rack, address } => {
                self.register(*node, *incarnation, rack, *address)
            }
            Command::Open { node, incarnation, attempt, ttl, promise, gate, shut } => {
                let (node, incarnation, attempt) = (*node, *incarnation, *attempt);
                let (ttl, promise, gate) = (*ttl, *promise, *gate);
                self.open(Sid(index), Session { node, incarnation, attempt, ttl, promise, gate, fenced: None }, *shut)
            }
            Command::Close { sid, grants } => self.end(*sid).map(|()| self.grant_all(grants, index)),
            Command::Candidate { sid, group, definition, priority, preempt } => self.stand(
                *sid,
                group,
                Candidate { definition: definition.clone(), priority: *priority, preempt: *preempt },
            ),
            Command::Withdraw { sid, group } => self.withdraw(*sid, group),
            Command::Release { group, token, to } => self.release(group, *token, *to, index),
            Command::Fence { sid } => self.fence(*sid, index),
            Command::Expire { sid, by: measured_by, grants } => self.expire(*sid, *measured_by, by, grants, index),
            Command::Grant { group, to } => self.grant(group, *to, index),
            Command::Pin { group, node } => self.pin(group, *node),
            Command::Drain { node, drained } => self.drain(*node, *drained),
            Command::Remove { node } => self.remove(*node),
            Command::Serve { service, server, order } => self.serve(service, *server, *order),
        };
        done.unwrap_or_else(Outcome::Refused)
    }

    /// The session that may act for `group`, with its token.
    pub fn holder(&self, group: &str) -> Option<&Holder> {
        self.groups.get(group)?.holder.as_ref()
    }

    /// The node whose session may act for `group`.
    pub fn holder_node(&self, group: &str) -> Option<NodeId> {
        Some(self.sessions.get(&self.holder(group)?.sid)?.node)
    }

    /// Every group that `sid` holds, with its token.
    pub fn held_by(&self, sid: Sid) -> impl Iterator<Item = (&GroupName, &Holder)> {
        self.groups.iter().filter_map(move |(name, group)| match &group.holder {
            Some(holder) if holder.sid == sid => Some((name, holder)),
            Some(_) | None => None,
        })
    }

    /// The id of the member called `name`.
    pub fn member_named(&self, name: &str) -> Option<NodeId> {
        self.members.iter().find(|(_, member)| member.name == name).map(|(id, _)| *id)
    }

    /// Every address that is held, with its group: an address belongs to one (H11).
    pub fn taken(&self) -> BTreeMap<IpAddr, &GroupName> {
        let held = self.groups.iter().filter_map(|(name, group)| Some((name, group.holder.as_ref()?)));
        held.flat_map(|(name, holder)| holder.definition.addresses.iter().map(move |address| (*address, name)))
            .collect()
    }

    /// As [`Self::taken`], of one address.
    fn taken_by(&self, address: IpAddr) -> Option<&GroupName> {
        let holds = |holder: &Holder| holder.definition.addresses.contains(&address);
        self.groups.iter().find(|(_, group)| group.holder.as_ref().is_some_and(holds)).map(|(name, _)| name)
    }

    /// Why `sid` could not be granted `group` if it were free now; `None` if it could.
    pub fn obstacle(&self, group: &str, sid: Sid) -> Option<String> {
        self.obstacle_among(group, sid, |address| self.taken_by(address))
    }

    /// As [`Self::obstacle`], for whoever asks for many groups and has [`Self::taken`].
    pub fn obstacle_among<'a>(
        &'a self,
        group: &str,
        sid: Sid,
        taken: impl Fn(IpAddr) -> Option<&'a GroupName>,
    ) -> Option<String> {
        let Some(candidate) = self.groups.get(group).and_then(|g| g.candidates.get(&sid)) else {
            return Some(format!("session {sid} is no candidate for {group}"));
        };
        match self.sessions.get(&sid) {
            Some(session) if session.fenced.is_none() => {
                if let Some(member) = self.members.get(&session.node).filter(|member| member.drained) {
                    return Some(format!("{} is drained", member.name));
                }
            }
            Some(_) => return Some(format!("session {sid} is fenced")),
            None => return Some(format!("session {sid} is over")),
        }
        candidate.definition.addresses.iter().find_map(|address| {
            let other = taken(*address).filter(|other| *other != group)?;
            Some(format!("{address} belongs to vip.{other}, which is held"))
        })
    }

    fn found(&mut self, id: ClusterId, name: &str, lineage: Lineage, founder: &Applicant) -> Result<Outcome, String> {
        if let Some(cluster) = &self.cluster {
            return Err(format!("the cluster {} exists already", cluster.name));
        }
        self.cluster = Some(Cluster { id, name: name.to_owned(), lineage });
        Ok(Outcome::Joined(self.admit(founder)))
    }

    fn invite(&mut self, id: InvitationId, invitation: Invitation) -> Result<Outcome, String> {
        if self.invitations.contains_key(&id) {
            return Err("an invitation of this id exists".to_owned());
        }
        self.invitations.insert(id, invitation);
        Ok(Outcome::Done)
    }

    fn join(&mut self, id: InvitationId, applicant: &Applicant, at: WallTime) -> Result<Outcome, String> {
        let invitation = self.invitations.get(&id).ok_or("no such invitation")?;
        if let Some(node) = invitation.used_by {
            // The same bearer asks again: its first answer was lost.
            let same = self.members.get(&node).is_some_and(|m| m.key == applicant.key && m.name == applicant.name);
            return if same { Ok(Outcome::Joined(node)) } else { Err("the invitation was used already".to_owned()) };
        }
        if at >= invitation.expires_at {
            return Err("the invitation has expired".to_owned());
        }
        if applicant.role != invitation.role {
            return Err(format!("the invitation admits a {}, not a {}", invitation.role, applicant.role));
        }
        if self.member_named(&applicant.name).is_some() {
            return Err(format!("the name {} is in use", applicant.name));
        }
        let node = self.admit(applicant);
        if let Some(invitation) = self.invitations.get_mut(&id) {
            invitation.used_by = Some(node);
        }
        self.invitations.retain(|_, i| i.expires_at + INVITATION_MEMORY > at);
        Ok(Outcome::Joined(node))
    }

    fn admit(&mut self, applicant: &Applicant) -> NodeId {
        self.last_node += 1;
        let node = NodeId(self.last_node);
        let Applicant { name, role, rack, address, key } = applicant.clone();
        self.members
            .insert(node, Member { name, role, rack, address, key, incarnation: 0, attempt: 0, drained: false });
        node
    }

    fn register(&mut self, node: NodeId, incarnation: u64, rack: &str, address: SocketAddr) -> Result<Outcome, String> {
        let member = self.members.get_mut(&node).ok_or_else(|| format!("{node} is no member"))?;
        if incarnation <= member.incarnation {
            return Err(format!(
                "start {incarnation} of {} is not newer than start {}, which the cluster remembers: its disk is an old copy",
                member.name, member.incarnation
            ));
        }
        member.incarnation = incarnation;
        member.attempt = 0;
        rack.clone_into(&mut member.rack);
        member.address = address;
        Ok(Outcome::Done)
    }

    fn open(&mut self, sid: Sid, session: Session, shut: Option<GateId>) -> Result<Outcome, String> {
        let member = self.members.get_mut(&session.node).ok_or_else(|| format!("{} is no member", session.node))?;
        if session.incarnation != member.incarnation || session.attempt <= member.attempt {
            return Err(format!("{} has started or opened again since", member.name));
        }
        if member.role != Role::Director {
            return Err(format!("{} is a {} and holds nothing", member.name, member.role));
        }
        if session.promise < session.ttl || session.ttl.is_zero() {
            return Err("a promise must outlast its lease".to_owned());
        }
        member.attempt = session.attempt;
        let older: Vec<Sid> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.node == session.node && Some(s.gate) == shut)
            .map(|(sid, _)| *sid)
            .collect();
        for old in older {
            self.end(old)?;
        }
        self.sessions.insert(sid, session);
        Ok(Outcome::Opened(sid))
    }

    fn end(&mut self, sid: Sid) -> Result<(), String> {
        let session = self.sessions.remove(&sid).ok_or_else(|| format!("session {sid} is over"))?;
        for group in self.groups.values_mut() {
            leave(group, sid, session.node);
            if group.holder.as_ref().is_some_and(|holder| holder.sid == sid) {
                Arc::make_mut(group).holder = None;
            }
        }
        self.forget_empty_groups();
        Ok(())
    }

    fn stand(&mut self, sid: Sid, group: &GroupName, candidate: Candidate) -> Result<Outcome, String> {
        let session = self.sessions.get(&sid).ok_or_else(|| format!("session {sid} is over"))?;
        if session.fenced.is_some() {
            return Err(format!("session {sid} is fenced"));
        }
        Arc::make_mut(self.groups.entry(group.clone()).or_default()).candidates.insert(sid, candidate);
        Ok(Outcome::Done)
    }

    fn withdraw(&mut self, sid: Sid, group: &str) -> Result<Outcome, String> {
        let node =
            self.sessions.get(&sid).map(|session| session.node).ok_or_else(|| format!("session {sid} is over"))?;
        let group = self.groups.get_mut(group).ok_or("no such group")?;
        leave(group, sid, node).ok_or_else(|| format!("session {sid} is no candidate"))?;
        self.forget_empty_groups();
        Ok(Outcome::Done)
    }

    fn release(&mut self, name: &GroupName, token: Token, to: Option<Sid>, index: u64) -> Result<Outcome, String> {
        let group = self.groups.get_mut(name).ok_or("no such group")?;
        if group.holder.as_ref().is_none_or(|holder| holder.token != token) {
            return Err(format!("token {token} is not in force"));
        }
        let leaving = Arc::make_mut(group).holder.take();
        if let Some((sid, session)) = leaving.and_then(|holder| Some((holder.sid, self.sessions.get(&holder.sid)?))) {
            leave(group, sid, session.node);
        }
        let granted = to.map_or_else(|| Ok(Outcome::Done), |sid| self.grant(name, sid, index));
        self.forget_empty_groups();
        // The release stands also when its grantee is gone: the group then waits for a Grant.
        Ok(granted.unwrap_or(Outcome::Done))
    }

    fn fence(&mut self, sid: Sid, index: u64) -> Result<Outcome, String> {
        let session = self.sessions.get_mut(&sid).ok_or_else(|| format!("session {sid} is over"))?;
        session.fenced.get_or_insert(index);
        for group in self.groups.values_mut() {
            leave(group, sid, session.node);
        }
        self.forget_empty_groups();
        Ok(Outcome::Done)
    }

    fn expire(
        &mut self,
        sid: Sid,
        measured_by: Leadership,
        by: Leadership,
        grants: &[(GroupName, Sid)],
        index: u64,
    ) -> Result<Outcome, String> {
        if measured_by != by {
            return Err("the leadership that measured the ages is over".to_owned());
        }
        match self.sessions.get(&sid) {
            Some(session) if session.fenced.is_some() => self.end(sid).map(|()| self.grant_all(grants, index)),
            Some(_) => Err(format!("session {sid} is not fenced")),
            None => Err(format!("session {sid} is over")),
        }
    }

    fn grant_all(&mut self, grants: &[(GroupName, Sid)], index: u64) -> Outcome {
        for (group, sid) in grants {
            // One that may no longer have it leaves the group free for a Grant.
            self.grant(group, *sid, index).ok();
        }
        Outcome::Done
    }

    fn grant(&mut self, name: &GroupName, sid: Sid, index: u64) -> Result<Outcome, String> {
        if let Some(why) = self.obstacle(name, sid) {
            return Err(why);
        }
        let lineage = self.cluster.as_ref().map_or(0, |cluster| cluster.lineage.counter);
        let group = self.groups.get_mut(name).ok_or("no such group")?;
        if let Some(holder) = &group.holder {
            return Err(format!("{name} is held by session {}", holder.sid));
        }
        let definition = group.candidates.get(&sid).map(|c| c.definition.clone()).ok_or("no candidate")?;
        Arc::make_mut(group).holder = Some(Holder { sid, token: Token { lineage, index }, definition });
        Ok(Outcome::Done)
    }

    fn forget_empty_groups(&mut self) {
        self.groups.retain(|_, group| group.holder.is_some() || !group.candidates.is_empty());
    }
}

#[cfg(test)]
mod tests;
