//! Two programs in one cluster: an upgrade node by node, by the rules of [`hamesh_raft::codec`].
//!
//! Two builds with one version byte run together. What an older one differs in is what its leaders prefer, which must not matter as the
//! entry names the grantee (H12), and that it cannot read a command that is newer than itself: it appends nothing of a message that holds
//! one. That is proposed only when gossip says of everybody that he has it, and gossip may be old. A build with another version byte
//! does not even start on the disk of this one.

use crate::log::{Disk, Entry, What};
use crate::net::{Due, Msg};
use crate::raft::Rpc;
use crate::world::World;
use hamesh_raft::command::{Command, GroupName, NodeId, Sid};
use hamesh_raft::state::State;
use std::net::{Ipv4Addr, SocketAddr};

/// Which build a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Older,
    Newer,
}

impl Program {
    /// Whether it makes sense of a message of another member.
    pub fn reads(self, msg: &Msg) -> bool {
        match msg {
            Msg::Raft(Rpc::Append { entries, .. }) => self == Self::Newer || !entries.iter().any(|entry| is_new(entry)),
            Msg::Raft(
                Rpc::Ballot { .. }
                | Rpc::Voted(_)
                | Rpc::Refused(_)
                | Rpc::Matched { .. }
                | Rpc::Mismatch { .. }
                | Rpc::Install { .. },
            )
            | Msg::Hello { .. }
            | Msg::Lease(_)
            | Msg::Propose(..)
            | Msg::Move(..)
            | Msg::Packet(_)
            | Msg::Forged(_) => true,
        }
    }

    /// Whether it starts on this disk.
    fn starts_on(self, disk: &Disk) -> bool {
        self == Self::Newer || !disk.log.iter().any(|entry| is_new(entry))
    }

    /// A leader's command, with the grantees that this program prefers.
    pub fn prefers(self, state: &State, mut command: Command) -> Command {
        if self == Self::Newer {
            return command;
        }
        match &mut command {
            Command::Grant { group, to } => *to = last_of(state, group, *to),
            Command::Release { group, to: Some(to), .. } => *to = last_of(state, group, *to),
            Command::Close { grants, .. } | Command::Expire { grants, .. } => {
                grants.iter_mut().for_each(|(group, to)| *to = last_of(state, group, *to));
            }
            Command::Release { to: None, .. }
            | Command::Found { .. }
            | Command::Invite { .. }
            | Command::Join { .. }
            | Command::Register { .. }
            | Command::Open { .. }
            | Command::Candidate { .. }
            | Command::Withdraw { .. }
            | Command::Fence { .. }
            | Command::Serve { .. }
            | Command::Pin { .. }
            | Command::Drain { .. }
            | Command::Remove { .. } => {}
        }
        command
    }
}

/// A command that only newer programs know: this one stands for any.
fn is_new(entry: &Entry) -> bool {
    matches!(entry.what, What::Command(Command::Serve { .. }))
}

/// The youngest session that may have the group, or else `best`.
fn last_of(state: &State, group: &GroupName, best: Sid) -> Sid {
    let candidates = state.groups.get(group).into_iter().flat_map(|group| group.candidates.keys().rev());
    candidates.copied().find(|sid| state.obstacle(group, *sid).is_none()).unwrap_or(best)
}

/// Somebody stops a node and starts another program there. If that does not start, then the one before, after a while.
pub fn changes(world: &mut World, victim: NodeId) {
    let (other_layout, pause) = (world.net.rng.u8(0..4) == 0, world.net.leases(1..100));
    world.kill(victim, "killed", pause);
    let World { net, nodes, .. } = world;
    let Some(node) = nodes.iter_mut().find(|node| node.id == victim) else { return };
    let other = if node.program == Program::Older { Program::Newer } else { Program::Older };
    if other_layout || !other.starts_on(&node.disk) {
        return net.count("a program does not start on this disk");
    }
    net.count("another program started");
    net.note(victim, || format!("is to run the {other:?} program"));
    node.program = other;
}

/// Somebody asks a leader for what only newer programs know.
pub fn asks_for_what_is_new(world: &mut World) {
    let World { net, nodes, .. } = world;
    let all = nodes.iter().all(|node| node.program == Program::Newer);
    let stale = net.rng.u8(0..8) == 0;
    let Some(leader) = nodes.iter().find(|node| node.leads() && node.program == Program::Newer) else { return };
    if all || stale {
        net.count("a new command");
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        let command = Command::Serve { service: "web".to_owned(), server, order: None };
        net.send(leader.id, leader.id, Msg::Propose(command, 0));
    }
}

/// Everybody is to run the newer one in the end.
pub fn upgrade_all(world: &mut World) {
    for node in &mut world.nodes {
        if node.program == Program::Older {
            node.program = Program::Newer;
            node.kill(&mut world.net, "killed");
            let now = world.net.now;
            world.net.at(now, Due::Start(node.id));
        }
    }
}
