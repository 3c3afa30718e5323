//! IPVS's hand: a thread that keeps the kernel's table at what is wanted for the groups that are held, and at nothing for
//! the others.
//!
//! It is apart from the lane because a large table takes the kernel longer than a renewal may wait. A claim waits for
//! its own part as long as that goes on getting in; an unclaim, which comes after the gate is shut, does not wait at all.

mod beside;
mod claims;
mod owned;
mod progress;

use crate::config::{self, Config};
use crate::health::Wanted;
use crate::ipvs::{Counts, Scope, ServiceKey, Table, plan};
use crate::kernel::ipvs::{BATCH, Ipvs};
use anyhow::Context;
use beside::Beside;
use claims::Claims;
use hamesh_raft::command::GroupName;
use owned::Owned;
use progress::Progress;
use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::core::lock;

/// How long a claim waits while the kernel does not answer: one that hangs keeps no VIP dark for longer. 256 changes take some 10 ms,
/// and on a slow and busy machine ten times that.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long it waits in all: some 100,000 servers of a slow machine. Then the VIP is served, and the rest of the table follows.
const LONGEST: Duration = Duration::from_secs(5);
/// How long a stop waits until nothing is left.
const WITHDRAWAL: Duration = Duration::from_secs(2);
/// The kernel tells nobody when somebody else changes the table: it is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// Looking at a large table takes long; no more than this share of a core goes into it.
const LOOK_SHARE: u32 = 50;
/// How long a start may take to remove what an earlier run has left.
const CLEANING: Duration = Duration::from_secs(60);
/// Leaves IPVS alone, for laboratories whose kernel has none.
const NO_IPVS: &str = "HAMESH_UNSAFE_NO_IPVS";

/// What the table is to become.
pub(crate) enum Order {
    /// A group is about to be held. Answered when its services are in, or were tried.
    Serve(GroupName, oneshot::Sender<()>),
    /// A group is not held any more.
    Withdraw(GroupName),
    /// Nothing is held any more. Whoever waits is answered when nothing is left.
    WithdrawAll(Option<oneshot::Sender<()>>),
    /// What the services are to be from now on, where they are held.
    Want(Arc<Wanted>),
    /// What is done beside services from now on.
    Beside(config::Ipvs),
    /// What is ours from now on: services outside of it are taken away, those of others inside of it are found.
    Own(Scope),
}

/// For people.
#[derive(Clone, Debug, Default)]
pub(crate) struct BalanceStatus {
    /// What the kernel has refused of services.
    pub(crate) trouble: Option<String>,
    /// What it has refused beside them: synchronization daemons, timeouts.
    pub(crate) beside: Option<String>,
    /// Changes that somebody else had made and that were undone.
    pub(crate) repaired: u64,
    /// What is served here, and how much, as of the last look.
    pub(crate) counts: Arc<Counts>,
}

/// The near end. Without a thread there is nobody to order: a witness, or a configuration without services.
#[derive(Clone, Default)]
pub(crate) struct Balance(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Once there is a thread.
    orders: OnceLock<Sender<Order>>,
    progress: Arc<Progress>,
    status: Arc<Mutex<BalanceStatus>>,
}

impl Balance {
    /// Starts the thread where there are services, in this network namespace, after it has removed every service that is
    /// ours but those of the groups that are `held`, whose claim goes on. One that runs stays. What was ours in an earlier
    /// run, and is not configured any more, goes in any case.
    ///
    /// # Errors
    /// No IPVS, or what an earlier run has left cannot be removed.
    pub(crate) fn begin(&self, config: &Config, held: BTreeSet<GroupName>) -> anyhow::Result<()> {
        if self.0.orders.get().is_some() {
            return Ok(());
        }
        let mut owned = Owned::open(&config.node.data_dir);
        if config.services.is_empty() && owned.is_empty() {
            return Ok(());
        }
        if std::env::var(NO_IPVS).is_ok_and(|value| value == "1") {
            tracing::error!("{NO_IPVS} is set: servers are watched and nothing is balanced");
            return Ok(());
        }
        if config.services.is_empty() {
            return match Ipvs::open() {
                // A kernel without IPVS has no services.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                opened => Ok(owned.own(&Scope::default(), &mut opened?)?),
            };
        }
        let (sender, orders) = channel();
        let shared = (self.0.status.clone(), self.0.progress.clone());
        follow(orders, shared, scope(config), owned, held, config.ipvs.clone())?;
        // One start, or one reload, at a time.
        self.0.orders.set(sender).ok();
        Ok(())
    }

    /// Has the services of groups put in. The future waits for that, as long as the kernel takes it, but not for ever.
    pub(crate) fn serve(&self, groups: Vec<GroupName>) -> impl Future<Output = ()> + Send + 'static {
        let order = |group: &GroupName| {
            let (done, served) = oneshot::channel();
            self.order(Order::Serve(group.clone(), done));
            served
        };
        let orders: Vec<_> = groups.iter().map(order).collect();
        let (progress, began) = (self.0.progress.clone(), Instant::now());
        async move {
            let mut all = std::pin::pin!(async move {
                for served in orders {
                    served.await.ok();
                }
            });
            let mut before = progress.now();
            while timeout(PATIENCE, &mut all).await.is_err() {
                let hangs = progress.hangs_since(before);
                if hangs || began.elapsed() >= LONGEST {
                    let why = if hangs { "IPVS does not answer" } else { "the table is very large" };
                    tracing::warn!(?groups, "VIPs are served before all of their services are in: {why}");
                    return;
                }
                before = progress.now();
            }
        }
    }

    /// Has everything withdrawn, and waits for that: what a stop leaves behind nobody would remove.
    pub(crate) async fn withdraw_all(&self) {
        let (done, gone) = oneshot::channel();
        self.order(Order::WithdrawAll(Some(done)));
        if timeout(WITHDRAWAL, gone).await.is_err() {
            tracing::warn!("IPVS still has services of this run; the next start removes them");
        }
    }

    pub(crate) fn order(&self, order: Order) {
        if let Some(orders) = self.0.orders.get() {
            orders.send(order).ok();
        }
    }

    pub(crate) fn status(&self) -> BalanceStatus {
        lock(&self.0.status).clone()
    }
}

/// Every service on the addresses of balanced groups is ours, and every service of a mark that a service has.
pub(crate) fn scope(config: &Config) -> Scope {
    let balanced: BTreeSet<&GroupName> = config.services.values().map(|service| &service.vip).collect();
    let groups = config.groups.iter().filter(|(name, _)| balanced.contains(name));
    let keys = config.services.values().flat_map(|service| &service.listen);
    let marks = keys.filter_map(|key| match key {
        ServiceKey::Mark(mark, family) => Some((*mark, *family)),
        ServiceKey::Address(..) => None,
    });
    Scope { addresses: groups.flat_map(|(_, group)| group.definition().addresses).collect(), marks: marks.collect() }
}

/// The thread, once it is ready.
fn follow(
    orders: Receiver<Order>,
    (status, progress): (Arc<Mutex<BalanceStatus>>, Arc<Progress>),
    scope: Scope,
    mut owned: Owned,
    held: BTreeSet<GroupName>,
    config: config::Ipvs,
) -> anyhow::Result<()> {
    let (ready_in, ready) = sync_channel(1);
    std::thread::Builder::new().name("ipvs".to_owned()).spawn(move || {
        let ipvs = Ipvs::open().context("services are configured");
        let begun = ipvs.and_then(|mut ipvs| {
            // Nothing of others goes while a claim of ours goes on.
            if config.flush && held.is_empty() {
                ipvs.flush()?;
            }
            let beside = Beside::begin(&mut ipvs, &config)?;
            owned.own(&scope, &mut ipvs)?;
            Ok((ipvs.table(&scope)?, beside, ipvs))
        });
        match begun {
            Ok((present, beside, ipvs)) => {
                let mut balancer = Balancer {
                    ipvs,
                    scope,
                    owned,
                    orders,
                    pending: VecDeque::new(),
                    claims: Claims::default(),
                    ends: Vec::new(),
                    wanted: None,
                    held,
                    present,
                    status,
                    progress,
                    beside,
                };
                balancer.settle();
                // A LAN between directors may come later; what is beside services is tried again.
                ready_in.send(balancer.trouble().map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))).ok();
                balancer.run();
            }
            Err(error) => drop(ready_in.send(Err(error))),
        }
    })?;
    ready.recv_timeout(CLEANING).context("IPVS was not cleaned in time")?
}

struct Balancer {
    ipvs: Ipvs,
    scope: Scope,
    owned: Owned,
    orders: Receiver<Order>,
    /// Came while the table was being changed.
    pending: VecDeque<Order>,
    /// Are answered when what they wait for is in.
    claims: Claims,
    /// Is answered when the table is what it is to be: nothing.
    ends: Vec<oneshot::Sender<()>>,
    /// `None` until health has said something: what a resumed claim serves is left as it is.
    wanted: Option<Arc<Wanted>>,
    held: BTreeSet<GroupName>,
    present: Table,
    status: Arc<Mutex<BalanceStatus>>,
    progress: Arc<Progress>,
    beside: Beside,
}

impl Balancer {
    fn run(mut self) {
        let mut look = Instant::now() + LOOK;
        loop {
            let next = match self.pending.pop_front() {
                Some(order) => Ok(order),
                None => self.orders.recv_timeout(look.saturating_duration_since(Instant::now())),
            };
            match next {
                Ok(order) => {
                    self.take(order);
                    // Many claims come together, and each settling looks at the whole table.
                    while let Some(order) = self.pending.pop_front().or_else(|| self.orders.try_recv().ok()) {
                        self.take(order);
                    }
                    if self.settle() {
                        for end in self.ends.drain(..) {
                            end.send(()).ok();
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let began = Instant::now();
                    self.look();
                    look = Instant::now() + LOOK.max(began.elapsed() * LOOK_SHARE);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Serve(group, served) => {
                self.held.insert(group.clone());
                self.claims.add(group, served);
            }
            Order::Withdraw(group) => drop(self.held.remove(&group)),
            Order::WithdrawAll(done) => {
                self.held.clear();
                if let Some(done) = done {
                    // This is the end.
                    self.beside.end(&mut self.ipvs);
                    self.ends.push(done);
                }
            }
            Order::Want(wanted) => self.wanted = Some(wanted),
            Order::Beside(config) => self.beside.adopt(&mut self.ipvs, &config),
            Order::Own(scope) => {
                if let Err(error) = self.owned.own(&scope, &mut self.ipvs) {
                    tracing::error!(%error, "a service that is configured no more stays in IPVS");
                }
                self.scope = scope;
                self.read();
            }
        }
    }

    fn target(&self) -> Table {
        match &self.wanted {
            Some(wanted) => self
                .held
                .iter()
                .filter_map(|group| wanted.get(group))
                .flatten()
                .filter(|(key, _)| self.scope.contains(key))
                .map(|(key, service)| (*key, service.clone()))
                .collect(),
            None if self.held.is_empty() => Table::new(),
            None => self.present.clone(),
        }
    }

    /// Makes the table what it is to be, as far as the kernel lets it; what claims wait for first. A new order interrupts it,
    /// which is false then: a withdrawal must not wait for thousands of servers of another group.
    fn settle(&mut self) -> bool {
        let target = self.target();
        let changes = plan(&self.present, &target);
        let (changes, mut needs) = self.claims.sort(changes, self.wanted.as_deref(), &target);
        let (mut refused, mut made) = (None, 0);
        self.claims.answer(made, &mut needs);
        for batch in changes.chunks(BATCH) {
            let errors = self.progress.ask(|| self.ipvs.apply(batch));
            for error in &errors {
                tracing::error!(%error, "IPVS is not as it should be; trying again");
                refused = Some(error.to_string());
            }
            if errors.is_empty() {
                batch.iter().for_each(|change| change.make(&mut self.present));
            } else {
                self.read();
            }
            made += batch.len();
            self.claims.answer(made, &mut needs);
            self.pending.extend(self.orders.try_iter());
            if !self.pending.is_empty() && batch.len() == BATCH {
                return false;
            }
        }
        lock(&self.status).trouble = refused;
        self.settle_beside();
        true
    }

    /// The same, of what is beside services.
    fn settle_beside(&mut self) {
        let settled = self.beside.settle(&mut self.ipvs, &self.held);
        let mut status = lock(&self.status);
        let refused = match settled {
            Ok(changed) => {
                if changed > 0 {
                    tracing::warn!("somebody else has changed IPVS's synchronization or timeouts; put right");
                }
                status.repaired += changed;
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = refused.as_ref().filter(|_| refused != status.beside) {
            tracing::error!(%error, "IPVS's synchronization or timeouts are not as they should be; trying again");
        }
        status.beside = refused;
    }

    /// What the kernel really has.
    fn read(&mut self) {
        self.read_while(|_| true);
    }

    /// The same, as long as what has come meanwhile can wait. Whether it was read.
    fn read_while(&mut self, can_wait: impl Fn(&Order) -> bool) -> bool {
        let Self { ipvs, scope, orders, pending, progress, .. } = self;
        let goes_on = || {
            progress.goes_on();
            pending.extend(orders.try_iter());
            pending.iter().all(&can_wait)
        };
        match progress.ask(|| ipvs.counted(scope, goes_on)) {
            Ok(Some((table, counts))) => {
                self.present = table;
                lock(&self.status).counts = Arc::new(counts);
                return true;
            }
            Ok(None) => {}
            Err(error) => lock(&self.status).trouble = Some(error.to_string()),
        }
        false
    }

    /// Undoes what somebody else has changed, and tries again what was refused. A claim or an unclaim interrupts it.
    fn look(&mut self) {
        let believed = self.present.clone();
        if !self.read_while(|order| matches!(order, Order::Want(_))) {
            return;
        }
        let others = plan(&self.present, &believed);
        if !others.is_empty() {
            tracing::warn!(changes = others.len(), first = %others[0], "somebody else has changed IPVS; putting it right");
            lock(&self.status).repaired += u64::try_from(others.len()).unwrap_or(u64::MAX);
        }
        if self.wanted.is_some() || self.held.is_empty() {
            self.settle();
        }
    }

    fn trouble(&self) -> Option<String> {
        lock(&self.status).trouble.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a claim waits for a thread that asks the kernel again and again, so long each time, and then is done, or
    /// computes, or hangs in the kernel.
    async fn waits(calls: &[u64], last: Last) -> Duration {
        let balance = Balance::default();
        let (sender, orders) = channel();
        balance.0.orders.set(sender).unwrap();
        let (progress, calls) = (balance.0.progress.clone(), calls.to_vec());
        std::thread::spawn(move || {
            let Ok(Order::Serve(_, done)) = orders.recv() else { panic!("another order") };
            let pause = |millis| std::thread::sleep(Duration::from_millis(millis));
            calls.into_iter().for_each(|millis| progress.ask(|| pause(millis)));
            match last {
                Last::Done => {}
                Last::Computes => pause(1_000),
                Last::Hangs => progress.ask(|| pause(6_000)),
            }
            done.send(()).ok();
        });
        let began = Instant::now();
        balance.serve(vec!["web".to_owned()]).await;
        began.elapsed()
    }

    enum Last {
        Done,
        Computes,
        Hangs,
    }

    #[tokio::test]
    async fn a_claim_waits_while_more_gets_in_and_not_for_a_kernel_that_hangs() {
        let millis = Duration::from_millis;
        let whole = waits(&[50; 20], Last::Done).await;
        assert!(whole >= millis(1_000), "it was over after {whole:?}");
        let computes = waits(&[], Last::Computes).await;
        assert!(computes >= millis(1_000), "{computes:?}");
        let hangs = waits(&[], Last::Hangs).await;
        assert!((PATIENCE..LONGEST).contains(&hangs), "{hangs:?}");
        let endless = waits(&[50; 400], Last::Done).await;
        assert!((LONGEST..LONGEST * 3).contains(&endless), "{endless:?}");
        let began = Instant::now();
        Balance::default().serve(vec!["web".to_owned()]).await;
        assert!(began.elapsed() < LONGEST, "without a thread there is nobody to wait for");
    }
}
