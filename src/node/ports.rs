//! Where Raft and gossip meet the rest of the node: how they reach others, and what the voter is told of the log.

use super::core::lock;
use super::director::Silence;
use super::service::SILENT;
use crate::net::frame::Kind;
use crate::net::mesh::Mesh;
use futures_util::future::BoxFuture;
use hamesh_fencing::clock::Moment;
use hamesh_fencing::voter::{self, Voter};
use hamesh_gossip::Wire;
use hamesh_raft::command::NodeId;
use hamesh_raft::entry::{Noted, What};
use hamesh_raft::{Observer, Peers, Unreachable, View};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The mesh as Raft and gossip see it. In silence nothing is asked, and no answer is heard.
pub(super) struct OverMesh(pub(super) Mesh, pub(super) Silence);

impl Peers for OverMesh {
    fn call(
        &self,
        to: NodeId,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, Unreachable>> {
        let (mesh, silence) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let silent = || Unreachable(SILENT.to_owned());
            if silence.is_kept() {
                return Err(silent());
            }
            let answer = mesh.call(to, Kind::Raft, request, deadline).await;
            if silence.is_kept() {
                return Err(silent());
            }
            answer.map_err(|error| Unreachable(error.to_string()))
        })
    }
}

impl Wire for OverMesh {
    fn send(&self, to: NodeId, bytes: Vec<u8>) {
        self.0.tell(to, Kind::Gossip, bytes);
    }
}

/// Notes the log for the voter, under its lock, before anything is reported (H9).
pub(super) struct Notes {
    pub(super) voter: Arc<Mutex<Voter>>,
}

impl Notes {
    fn note(&self, event: voter::Event<'_>) {
        let mut voter = lock(&self.voter);
        voter.handle(Moment::now(), event);
    }
}

impl Observer for Notes {
    fn appended(&self, entries: &[Noted]) {
        for entry in entries {
            match &entry.what {
                What::Command(command) => {
                    tracing::trace!(index = entry.index, ?command, "appended");
                    self.note(voter::Event::Appended(entry.index, command));
                }
                What::Membership(membership) => self.note(voter::Event::MembershipAppended(membership.clone())),
                What::Blank => {}
            }
        }
    }

    fn truncated(&self, from: u64) {
        self.note(voter::Event::Truncated(from));
    }

    fn flushed(&self, index: u64) {
        tracing::trace!(index, "flushed");
        self.note(voter::Event::Flushed(index));
    }

    fn applied(&self, view: &View) {
        tracing::trace!(index = view.applied, "applied");
        self.note(voter::Event::Applied(view.applied, &view.state, &view.membership));
    }
}
