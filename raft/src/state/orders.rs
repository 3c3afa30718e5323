//! What people order: a group to a node, a node out of service, a node out of the cluster.

use super::{Candidate, Group, State};
use crate::command::{GroupName, NodeId, Outcome, ServerOrder, Sid};
use std::net::SocketAddr;
use std::sync::Arc;

/// A session is no candidate of a group any more; a pin to its node ends with that.
pub(super) fn leave(group: &mut Arc<Group>, sid: Sid, node: NodeId) -> Option<Candidate> {
    if !group.candidates.contains_key(&sid) {
        return None;
    }
    let group = Arc::make_mut(group);
    group.pinned = group.pinned.filter(|pinned| *pinned != node);
    group.candidates.remove(&sid)
}

impl State {
    /// The session of `node` that is a candidate for `group`.
    pub fn candidate_on(&self, group: &str, node: NodeId) -> Option<Sid> {
        let on_node = |sid: &&Sid| self.sessions.get(sid).is_some_and(|session| session.node == node);
        self.groups.get(group)?.candidates.keys().rfind(on_node).copied()
    }

    /// Whether `group` comes to `node` before every other.
    pub fn is_pinned(&self, group: &str, node: NodeId) -> bool {
        self.groups.get(group).is_some_and(|group| group.pinned == Some(node))
    }

    pub(super) fn pin(&mut self, name: &GroupName, node: Option<NodeId>) -> Result<Outcome, String> {
        if let Some(node) = node {
            let member = self.members.get(&node).map(|member| member.name.clone());
            let member = member.ok_or_else(|| format!("{node} is no member"))?;
            let sid = self.candidate_on(name, node).ok_or_else(|| format!("{member} is no candidate for {name}"))?;
            let holder = self.holder(name).filter(|holder| holder.sid != sid);
            // A free group needs no move, and the obstacle of an address that another group holds passes.
            if let Some(why) = self.obstacle(name, sid) {
                return Err(why);
            }
            let described = self.groups.get(name).and_then(|group| group.candidates.get(&sid)).map(|c| &c.definition);
            if holder.is_some_and(|holder| Some(&holder.definition) != described) {
                return Err(format!("the configuration of {member} describes {name} otherwise than the holder's"));
            }
        }
        let group = self.groups.get_mut(name).ok_or_else(|| format!("nobody holds {name} or wants it"))?;
        Arc::make_mut(group).pinned = node;
        Ok(Outcome::Done)
    }

    pub(super) fn drain(&mut self, node: NodeId, drained: bool) -> Result<Outcome, String> {
        self.members.get_mut(&node).ok_or_else(|| format!("{node} is no member"))?.drained = drained;
        if drained {
            for group in self.groups.values_mut().filter(|group| group.pinned == Some(node)) {
                Arc::make_mut(group).pinned = None;
            }
        }
        Ok(Outcome::Done)
    }

    /// Which services there are only the configuration knows.
    pub(super) fn serve(
        &mut self,
        service: &str,
        server: SocketAddr,
        order: Option<ServerOrder>,
    ) -> Result<Outcome, String> {
        let key = (service.to_owned(), server);
        match order {
            Some(order) => drop(self.servers.insert(key, order)),
            None => drop(self.servers.remove(&key)),
        }
        Ok(Outcome::Done)
    }

    /// A node with a session may still act under it: it goes when that is over.
    pub(super) fn remove(&mut self, node: NodeId) -> Result<Outcome, String> {
        let name = self.members.get(&node).map(|member| member.name.clone());
        let name = name.ok_or_else(|| format!("{node} is no member"))?;
        if let Some((sid, _)) = self.sessions.iter().find(|(_, session)| session.node == node) {
            return Err(format!(
                "session {sid} of {name} is not over: stop hamesh there, or wait for its lease to end"
            ));
        }
        if self.members.len() == 1 {
            return Err(format!("{name} is the only member"));
        }
        self.members.remove(&node);
        Ok(Outcome::Done)
    }
}
