//! Claims: of groups with services these come first, which may take longer than a renewal may wait. So the lane goes on, and the
//! claim with it once they are in. What is not wanted any more meanwhile is given up without having been opened.

use super::{Director, Happened, Occurred, leases};
use crate::vrrp::router;
use hamesh_fencing::holder;
use hamesh_raft::command::{Definition, GroupName, Token};

/// A claim whose services are on their way into IPVS.
pub(super) struct Programming {
    token: Token,
    definition: Definition,
    /// The groups that have some.
    services: Vec<GroupName>,
}

impl Director {
    /// Claims the groups of a lease, at once or when their services are in. Whether a gate could not be shut again.
    pub(super) async fn claim(&mut self, lease: GroupName, token: Token, definition: Definition) -> bool {
        let names = self.members(&lease);
        for name in &names {
            self.groups.entry(name.clone()).and_modify(|served| served.token = Some(token));
        }
        let Some(programmed) = self.hands.program(&leases::of(&self.groups, &names)) else {
            return self.claim_programmed(lease, token, definition).await;
        };
        let is_balanced = |name: &&GroupName| self.groups.get(*name).is_some_and(|served| served.balanced);
        let services = names.iter().filter(is_balanced).cloned().collect();
        self.programming.insert(lease.clone(), Programming { token, definition, services });
        let tell = self.tell.clone();
        tokio::spawn(async move {
            programmed.await;
            // Without a lane there is no claim.
            tell.send(Occurred::Programmed(lease, token)).await.ok();
        });
        false
    }

    /// The services of a lease are in.
    pub(super) async fn programmed(&mut self, lease: GroupName, token: Token) {
        if self.programming.get(&lease).is_none_or(|claim| claim.token != token) {
            return;
        }
        let Some(Programming { definition, services, .. }) = self.programming.remove(&lease) else { return };
        self.claim_programmed(lease.clone(), token, definition).await;
        // A reload may have given services to one of them meanwhile.
        for served in leases::of(&self.groups, &self.members(&lease)) {
            if served.balanced && !services.contains(&served.name) {
                self.hands.balance(served);
            }
        }
    }

    async fn claim_programmed(&mut self, lease: GroupName, token: Token, definition: Definition) -> bool {
        let names = self.members(&lease);
        match self.hands.claim(&leases::of(&self.groups, &names), token, &definition).await {
            Ok(()) => {
                self.route_all(names, &router::Event::Granted);
                self.queue.push_back(Happened::Lease(holder::Event::Claimed(lease, token)));
                false
            }
            Err(error) => {
                tracing::error!(%lease, %token, %error, "claim failed");
                self.undo_claim(lease, token)
            }
        }
    }

    /// What comes of this event for claims whose services are not in yet: those leases are given up.
    pub(super) fn gives_up(&self, event: &holder::Event) -> Vec<GroupName> {
        let programming = |lease: &&GroupName| self.programming.contains_key(*lease);
        match event {
            holder::Event::Stop => self.programming.keys().cloned().collect(),
            holder::Event::Refuse(lease) | holder::Event::Move(lease, ..) => {
                Some(lease).filter(programming).cloned().into_iter().collect()
            }
            holder::Event::Applied(..)
            | holder::Event::Heard(..)
            | holder::Event::Tick
            | holder::Event::Want(..)
            | holder::Event::Claimed(..)
            | holder::Event::ClaimFailed(..)
            | holder::Event::Unclaimed(..)
            | holder::Event::Stuck
            | holder::Event::Shut => Vec::new(),
        }
    }

    /// Gives up a claim whose services are not in yet.
    pub(super) fn give_up_claim(&mut self, lease: GroupName) {
        if let Some(Programming { token, .. }) = self.programming.remove(&lease) {
            tracing::info!(%lease, %token, "a claim is given up before its services were in IPVS");
            self.undo_claim(lease, token);
        }
    }

    /// Whether the gate could not be shut.
    fn undo_claim(&mut self, lease: GroupName, token: Token) -> bool {
        let names = self.members(&lease);
        let undone = self.hands.unclaim(&leases::of(&self.groups, &names), token);
        self.route_all(names, &router::Event::Revoked);
        let event = match &undone {
            Ok(()) => holder::Event::ClaimFailed(lease, token),
            Err(_) => holder::Event::Stuck,
        };
        self.queue.push_back(Happened::Lease(event));
        undone.is_err()
    }
}
