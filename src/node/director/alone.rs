//! A director that hears no member, and the groups of it that are to be served all the same: `quorum_loss = "vrrp"`.
//!
//! This is VRRP without a lease: whoever hears no other MASTER on the LAN is one, and two that do not hear each other both are.
//! A quorum that this node has no part in is left its MASTER, by VRRP: nobody is preempted. So that it never happens beside one
//! that this node has a part in:
//!
//! - it begins only when the node's own session is over, its gate shut, and no member was connected for the group's time;
//! - before it begins the node falls silent in the mesh: no vote, no ack, no answer about ages, no proposal (H13);
//! - with the first member that is there again it ends, and the node speaks again only when the kernel has shut the gate.
//!
//! The gate is armed for one silence of a MASTER at a time, the time after which others take over: a frozen one is dark by then.

use super::{Director, Happened, leases};
use crate::vrrp::router::{self, State};
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::{GroupName, Token};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// Less than this cannot be armed in time.
const SHORTEST: Duration = Duration::from_millis(300);
/// How long a claim waits for its services: what is held already is armed for little longer.
const PATIENCE: Duration = Duration::from_millis(100);
/// After a claim that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Nobody is to miss it.
const REMIND: Duration = Duration::from_secs(60);

/// Whether this node says nothing in the mesh.
#[derive(Clone, Debug, Default)]
pub(crate) struct Silence(Arc<AtomicBool>);

impl Silence {
    /// Whether it does.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn keep(&self, kept: bool) {
        self.0.store(kept, Ordering::SeqCst);
    }
}

/// How alone a director is.
#[derive(Debug)]
pub(super) struct Solitude {
    silence: Silence,
    /// Since when no member is heard, and no session lives.
    since: Option<Moment>,
    /// The groups that go by VRRP alone.
    unfenced: BTreeSet<GroupName>,
    /// Those of them that are claimed.
    held: BTreeSet<GroupName>,
    armed: Option<Moment>,
    retry_at: Option<Moment>,
    reminded: Option<Moment>,
}

impl Solitude {
    pub(super) fn new(silence: Silence) -> Self {
        let (unfenced, held) = (BTreeSet::new(), BTreeSet::new());
        Self { silence, since: None, unfenced, held, armed: None, retry_at: None, reminded: None }
    }

    pub(super) fn is_unfenced(&self, group: &str) -> bool {
        self.unfenced.contains(group)
    }

    pub(super) fn holds(&self, group: &str) -> bool {
        self.held.contains(group)
    }
}

impl Director {
    /// Whether this node hears no member at all now.
    pub(crate) async fn alone(&mut self, alone: bool) {
        let now = Moment::now();
        let drained = self.state.members.get(&self.me).is_none_or(|member| member.drained);
        if !alone || !self.holder.is_between_sessions() || self.stopping || drained {
            return self.rejoin(now);
        }
        let since = *self.solitude.since.get_or_insert(now);
        for (name, served) in &mut self.groups {
            let over = served.config.quorum_loss.is_some_and(|after| now.since(since) >= after);
            if over && self.solitude.unfenced.insert(name.clone()) {
                tracing::error!(group = %name, "no member is heard: from now on by VRRP alone (quorum_loss = \"vrrp\"). \
                    Another director that does not hear this one may be MASTER too");
                self.solitude.silence.keep(true);
                served.router.stand_alone(now, true);
                self.queue.push_back(Happened::Router(name.clone(), router::Event::Tick));
            }
        }
        if !self.solitude.unfenced.is_empty() {
            self.serve_unfenced(now).await;
        }
    }

    /// Ends what was served without a lease, before anything else; says nothing in the mesh until the gate is shut.
    pub(super) fn rejoin(&mut self, now: Moment) {
        self.solitude.since = None;
        if self.solitude.unfenced.is_empty() {
            return;
        }
        for name in self.solitude.held.clone() {
            self.give_up(&name);
        }
        let over = self.solitude.armed.is_none_or(|until| now.reached(until));
        match self.hands.shut() {
            Ok(()) => {}
            Err(error) if !over => {
                return tracing::error!(%error, "the gate was not shut; silent in the mesh until it shuts itself");
            }
            Err(error) => tracing::error!(%error, "the gate was not shut; it has shut itself"),
        }
        for name in std::mem::take(&mut self.solitude.unfenced) {
            tracing::warn!(group = %name, "members are heard: by lease again");
            if let Some(served) = self.groups.get_mut(&name) {
                served.router.stand_alone(now, false);
                self.queue.push_back(Happened::Router(name, router::Event::Tick));
            }
        }
        self.solitude = Solitude::new(self.solitude.silence.clone());
        self.solitude.silence.keep(false);
    }

    /// A group of them yields, by the rules of VRRP.
    pub(super) fn give_up(&mut self, group: &GroupName) {
        if !self.solitude.held.remove(group) {
            return;
        }
        if let Err(error) = self.hands.unclaim(&leases::of(&self.groups, std::slice::from_ref(group)), UNFENCED) {
            tracing::error!(%group, %error, "the gate was not shut for it; shutting all of it");
            if self.hands.shut().is_ok() {
                self.solitude.held.clear();
            }
        }
        self.queue.push_back(Happened::Router(group.clone(), router::Event::Revoked));
    }

    async fn serve_unfenced(&mut self, now: Moment) {
        let claims = |served: &&super::Served| {
            self.solitude.is_unfenced(&served.name)
                && !self.solitude.holds(&served.name)
                && matches!(served.router.status().state, State::Claiming)
        };
        let claiming: Vec<GroupName> = self.groups.values().filter(claims).map(|served| served.name.clone()).collect();
        if !claiming.is_empty() && self.solitude.retry_at.is_none_or(|at| now.reached(at)) {
            self.solitude.retry_at = None;
            for name in claiming {
                self.claim_unfenced(&name).await;
            }
        }
        if self.solitude.held.is_empty() {
            return;
        }
        self.arm_unfenced();
        if self.solitude.reminded.is_none_or(|at| now.since(at) >= REMIND) {
            self.solitude.reminded = Some(now);
            tracing::error!(groups = ?self.solitude.held, "served WITHOUT a lease (quorum_loss = \"vrrp\"): nothing but VRRP \
                keeps another director from answering too. Bring the other nodes back");
        }
    }

    async fn claim_unfenced(&mut self, name: &GroupName) {
        let Some(served) = self.groups.get_mut(name) else { return };
        served.token = Some(UNFENCED);
        let definition = served.definition.clone();
        let groups = leases::of(&self.groups, std::slice::from_ref(name));
        if let Some(programmed) = self.hands.program(&groups) {
            timeout(PATIENCE, programmed).await.ok();
        }
        let claimed = self.hands.claim(&groups, UNFENCED, &definition).await;
        self.solitude.held.insert(name.clone());
        if let Err(error) = claimed {
            tracing::error!(group = %name, %error, "claim without a lease failed");
            self.solitude.retry_at = Some(Moment::now() + RETRY);
            return self.give_up(name);
        }
        self.solitude.armed = None;
        self.arm_unfenced();
        self.queue.push_back(Happened::Router(name.clone(), router::Event::Granted));
    }

    /// For the shortest silence after which another router takes one of them over.
    fn arm_unfenced(&mut self) {
        let held = self.groups.values().filter(|served| self.solitude.holds(&served.name));
        let silence =
            held.map(|served| served.config.interval * u32::from(served.config.timing.down_timer_adverts)).min();
        let Some(silence) = silence.map(|silence| silence.max(SHORTEST)) else { return };
        // The clock is read as late as can be: a claim may have taken its time.
        let now = Moment::now();
        // Addresses live for little longer than a lease.
        let step = silence.min(self.config.lease.ttl) / 4;
        if self.solitude.armed.is_none_or(|until| now.until(until) + step < silence) {
            let deadline = now + silence;
            self.hands.arm(deadline, &self.groups);
            self.solitude.armed = Some(deadline);
        }
    }
}

/// The token of what no lease stands behind: less than any that was granted.
const UNFENCED: Token = Token { lineage: 0, index: 0 };
