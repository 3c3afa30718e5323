//! Tests of the whole group. What one part alone can show is tested beside it.

mod cluster;
mod crash;
mod suite;

use crate::command::{Command, InvitationId, NodeId, Role};
use crate::entry::{Noted, What};
use crate::membership::Membership;
use crate::raft::{Observer, Peers, Raft, Standing, Timing, Unreachable, View};
use crate::store::Store;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(50),
    election_min: Duration::from_millis(150),
    election_max: Duration::from_millis(300),
};

/// Nothing in these tests takes so long on a machine that does anything at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// A command like no other.
pub(crate) fn invite(id: u64) -> Command {
    Command::Invite {
        id: InvitationId(id),
        secret_hash: [7; 32],
        role: Role::Witness,
        expires_at: Duration::from_secs(id),
    }
}

/// The lines between the nodes of a test. Each can be cut.
#[derive(Default)]
struct Lines {
    nodes: Mutex<BTreeMap<NodeId, Raft>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// A longer request is not answered in time, if there is such a length.
    narrow: Mutex<Option<usize>>,
    /// Nodes with a build whose messages have another layout.
    other_version: Mutex<BTreeSet<NodeId>>,
}

struct Line {
    me: NodeId,
    lines: Arc<Lines>,
}

impl Lines {
    fn works(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.lock().unwrap().contains(&(from, to))
    }

    fn isolate(&self, node: NodeId) {
        let others: Vec<NodeId> = self.nodes.lock().unwrap().keys().copied().collect();
        self.cut.lock().unwrap().extend(others.into_iter().flat_map(|other| [(node, other), (other, node)]));
    }

    fn heal(&self) {
        self.cut.lock().unwrap().clear();
        let nodes = self.nodes.lock().unwrap();
        for raft in nodes.values() {
            for node in nodes.keys() {
                raft.peer_back(*node);
            }
        }
    }
}

impl Peers for Line {
    fn call(&self, to: NodeId, mut request: Vec<u8>, _: Duration) -> BoxFuture<'static, Result<Vec<u8>, Unreachable>> {
        let (me, lines) = (self.me, self.lines.clone());
        let differ = {
            let other = lines.other_version.lock().unwrap();
            other.contains(&me) != other.contains(&to)
        };
        let narrow = lines.narrow.lock().unwrap().is_some_and(|most| request.len() > most);
        if differ {
            request[0] = crate::codec::VERSION - 1;
        }
        async move {
            if narrow {
                std::future::pending::<()>().await;
            }
            let target = lines.nodes.lock().unwrap().get(&to).cloned();
            let down = || Unreachable(format!("{to} is down"));
            let target = target.filter(|_| lines.works(me, to)).ok_or_else(down)?;
            let answer = target.serve(me, request).await.map_err(|error| Unreachable(error.to_string()))?;
            if lines.works(to, me) { Ok(answer) } else { Err(down()) }
        }
        .boxed()
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Appended(Vec<Noted>),
    Truncated(u64),
    Flushed(u64),
    Applied(View),
}

/// Writes down what it hears, and checks that it can be true.
#[derive(Default)]
struct Recorder {
    heard: Mutex<Vec<Heard>>,
    log: Mutex<BTreeMap<u64, Noted>>,
    applied: Mutex<u64>,
}

impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        (&self.state, self.applied, &self.membership, &self.effective)
            == (&other.state, other.applied, &other.membership, &other.effective)
    }
}

impl Recorder {
    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    fn push(&self, heard: Heard) {
        self.heard.lock().unwrap().push(heard);
    }
}

impl Observer for Recorder {
    fn appended(&self, entries: &[Noted]) {
        let mut log = self.log.lock().unwrap();
        for entry in entries {
            if let Some((last, _)) = log.last_key_value() {
                assert_eq!(entry.index, last + 1, "a hole in the story");
            }
            log.insert(entry.index, entry.clone());
        }
        self.push(Heard::Appended(entries.to_vec()));
    }

    fn truncated(&self, from: u64) {
        assert!(from > *self.applied.lock().unwrap(), "what was applied was taken back");
        self.log.lock().unwrap().split_off(&from);
        self.push(Heard::Truncated(from));
    }

    fn flushed(&self, index: u64) {
        self.push(Heard::Flushed(index));
    }

    fn applied(&self, view: &View) {
        let mut applied = self.applied.lock().unwrap();
        assert!(view.applied >= *applied, "the state went back");
        *applied = view.applied;
        let mut log = self.log.lock().unwrap();
        if log.last_key_value().is_some_and(|(last, _)| *last < view.applied) {
            log.clear(); // a snapshot went past it
        }
        let mut memberships = log.values().filter_map(|entry| match &entry.what {
            What::Membership(membership) => Some(membership),
            What::Blank | What::Command(_) => None,
        });
        let effective = memberships.next_back().filter(|last| last.index > view.applied).unwrap_or(&view.membership);
        assert_eq!(&view.effective, effective);
        self.push(Heard::Applied(view.clone()));
    }
}

/// Hears nothing.
struct Deaf;

impl Observer for Deaf {
    fn appended(&self, _: &[Noted]) {}
    fn truncated(&self, _: u64) {}
    fn flushed(&self, _: u64) {}
    fn applied(&self, _: &View) {}
}

/// A node of a test, with its disk.
struct Member {
    raft: Raft,
    recorder: Arc<Recorder>,
}

async fn start(lines: &Arc<Lines>, id: u64, dir: &Path) -> Member {
    let (me, recorder) = (NodeId(id), Arc::new(Recorder::default()));
    let line = Arc::new(Line { me, lines: lines.clone() });
    let store = Store::open(&dir.join(id.to_string())).unwrap();
    let raft = Raft::start(me, store, TIMING, line, recorder.clone()).await.unwrap();
    lines.nodes.lock().unwrap().insert(me, raft.clone());
    Member { raft, recorder }
}

impl Member {
    async fn stop(self, lines: &Lines) {
        lines.nodes.lock().unwrap().remove(&self.raft.me());
        self.raft.stop().await;
    }

    /// Waits for a standing.
    async fn stands(&self, what: impl FnMut(&Standing) -> bool) -> Standing {
        let mut standing = self.raft.standing();
        let found = tokio::time::timeout(PATIENCE, standing.wait_for(what)).await;
        found.unwrap_or_else(|_| panic!("stands at {:?}", self.raft.standing().borrow())).unwrap().clone()
    }

    /// Waits for a view.
    async fn sees(&self, what: impl FnMut(&View) -> bool) -> View {
        let mut view = self.raft.view();
        let found = tokio::time::timeout(PATIENCE, view.wait_for(what)).await;
        found.unwrap_or_else(|_| panic!("sees {:?}", self.raft.view().borrow())).unwrap().clone()
    }

    async fn leads(&self) -> crate::command::Leadership {
        self.stands(|standing| standing.leading.is_some()).await.leading.unwrap()
    }
}

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// Node 1, founded and leading, without others.
pub(crate) async fn alone(store: Store) -> Raft {
    let line = Arc::new(Line { me: NodeId(1), lines: Arc::default() });
    let raft = Raft::start(NodeId(1), store, TIMING, line, Arc::new(Deaf)).await.unwrap();
    raft.found().await.unwrap();
    raft.standing().wait_for(|standing| standing.leading.is_some()).await.unwrap();
    raft
}

/// Nodes 1 to `n`, all voting, led by 1.
async fn cluster(n: u64, dir: &Path) -> (Arc<Lines>, Vec<Member>) {
    let lines = Arc::new(Lines::default());
    let mut members = Vec::new();
    for id in 1..=n {
        members.push(start(&lines, id, dir).await);
    }
    let first = &members[0];
    first.raft.found().await.unwrap();
    first.leads().await;
    for id in 2..=n {
        first.raft.add_learner(NodeId(id)).await.unwrap();
    }
    if n > 1 {
        let expect = first.raft.view().borrow().effective.clone();
        let all: Vec<u64> = (1..=n).collect();
        first.raft.change_voters(ids(&all), &expect).await.unwrap();
    }
    (lines, members)
}
