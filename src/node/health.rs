//! The checks' thread: asks servers, listens to what other directors see, and passes on what follows from it.

use super::balance::Order;
use super::core::{Core, lock};
use super::lane::LaneInput;
use crate::bfd::SessionStatus;
use crate::config::Config;
use crate::health::{Action, Event, Holdings};
use crate::probe;
use hamesh_fencing::clock::Moment;
use hamesh_gossip::of_the_living;
use hamesh_raft::View;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A stop waits no longer until it is told what it concerns.
const FINISH: Duration = Duration::from_secs(1);

/// The way to the thread.
pub(crate) struct Checks(mpsc::Sender<oneshot::Sender<()>>);

impl Checks {
    /// Has the notices' thread told of the services that are not served any more; waits for that, not for long.
    pub(crate) async fn finish(&self) {
        let (done, finished) = oneshot::channel();
        if self.0.try_send(done).is_err() || timeout(FINISH, finished).await.is_err() {
            tracing::warn!("nobody is told that servers are not served any more");
        }
    }
}

/// Starts the thread.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn start(core: Arc<Core>) -> anyhow::Result<Checks> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (finish, stops) = mpsc::channel(1);
    let config = core.current.subscribe();
    std::thread::Builder::new().name("checks".to_owned()).spawn(move || runtime.block_on(run(core, config, stops)))?;
    Ok(Checks(finish))
}

async fn run(
    core: Arc<Core>,
    mut config: watch::Receiver<Arc<Config>>,
    mut stops: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let mut facts = core.gossip.facts();
    let mut view = core.raft.view();
    let mut asked = JoinSet::new();
    let mut pending = lock(&core.health).handle(Moment::now(), Event::Orders(view.borrow().state.servers.clone()));
    let (mut board, mut deaf) = (core.bfd.clone(), false);
    board.mark_changed();
    let mut stopped: Option<oneshot::Sender<()>> = None;
    let mut event = Event::Holds(holdings(&core, &view.borrow_and_update()));
    loop {
        pending.extend(lock(&core.health).handle(Moment::now(), event));
        for action in pending.drain(..) {
            match action {
                Action::Ask(id, target) => {
                    drop(asked.spawn(async move { (id, probe::ask(target.address, &target.check).await) }));
                }
                Action::Say(key, Some(value)) => core.gossip.set_fact(key, value),
                Action::Say(key, None) => core.gossip.remove_fact(key),
                Action::Tell(change) => core.notices.tell_of_service(change).await,
                Action::Want(wanted) => core.balance.order(Order::Want(wanted)),
                Action::Short(group, short) => {
                    tracing::warn!(%group, short, "servers that others reach do not answer here");
                    if core.lane.send(LaneInput::Short(group, short)).await.is_err() {
                        return;
                    }
                }
            }
        }
        if let Some(done) = stopped.take() {
            done.send(()).ok();
        }
        let pause = Moment::now().wait(lock(&core.health).next_deadline());
        event = tokio::select! {
            Some(done) = asked.join_next(), if !asked.is_empty() => match done {
                Ok((id, answer)) => Event::Answered(id, answer),
                Err(error) => {
                    tracing::error!(%error, "a check has ended before its answer");
                    Event::Tick
                }
            },
            changed = facts.changed() => {
                if changed.is_err() {
                    return;
                }
                Event::Facts(of_the_living(&facts.borrow_and_update()))
            }
            changed = view.changed() => {
                if changed.is_err() {
                    return;
                }
                let view = view.borrow_and_update();
                let orders = lock(&core.health).handle(Moment::now(), Event::Orders(view.state.servers.clone()));
                pending.extend(orders);
                Event::Holds(holdings(&core, &view))
            }
            changed = config.changed() => {
                if changed.is_err() {
                    return;
                }
                let config = config.borrow_and_update().clone();
                let services = Event::Services(config.health, config.services.clone());
                pending.extend(lock(&core.health).handle(Moment::now(), services));
                Event::Holds(holdings(&core, &view.borrow()))
            }
            done = stops.recv(), if !stops.is_closed() => match done {
                Some(done) => {
                    stopped = Some(done);
                    Event::Stop
                }
                None => Event::Tick,
            },
            changed = board.changed(), if !deaf => {
                deaf = changed.is_err();
                let verdict = |session: &SessionStatus| Some(Event::Session(session.name.clone(), session.verdict()?));
                let verdicts: Vec<Event> = board.borrow_and_update().iter().filter_map(verdict).collect();
                for event in verdicts {
                    pending.extend(lock(&core.health).handle(Moment::now(), event));
                }
                Event::Tick
            }
            () = sleep(pause) => Event::Tick,
        };
    }
}

/// The groups that this node's sessions hold.
fn holdings(core: &Core, view: &View) -> Holdings {
    let leases = view.state.groups.keys().filter(|lease| view.state.holder_node(lease) == Some(core.me));
    let config = core.config();
    leases.flat_map(|lease| config.members(lease)).collect()
}
