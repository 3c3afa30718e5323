//! What the lane asks of the slower world, and what that tells it of its neighbours.

use super::core::Core;
use super::flight::Flight;
use super::lan::Neighbours;
use super::lane::{LaneInput, LaneOutput};
use super::requests::Request;
use hamesh_gossip::of_the_living;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// One try to bring a command of the lane to the leader; the mind that wants it asks again.
const PATIENCE: Duration = Duration::from_millis(500);
/// Raft answers at once when the leadership is over; a disk may be slow meanwhile.
const FLIGHT: Duration = Duration::from_secs(5);

/// Does what the lane asks of the slower world.
pub(super) async fn run(
    core: Arc<Core>,
    mut outputs: mpsc::Receiver<(LaneOutput, Option<Flight>)>,
    stopped: oneshot::Sender<()>,
) {
    let mut stopped = Some(stopped);
    while let Some((output, flight)) = outputs.recv().await {
        let core = core.clone();
        match output {
            LaneOutput::Propose(command) => {
                tracing::trace!(?command, "proposed");
                tokio::spawn(async move {
                    // A leader that is gone answers nothing: the next attempt finds its successor.
                    match timeout(PATIENCE, core.propose(command.clone(), PATIENCE)).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(trouble)) => tracing::debug!(?command, %trouble, "not proposed"),
                        Err(_) => tracing::debug!(?command, "not answered"),
                    }
                    drop(flight);
                });
            }
            LaneOutput::ProposeUnder(leadership, command) => {
                tracing::info!(?command, "as leader");
                tokio::spawn(async move {
                    let proposal = core.raft.propose_under(leadership, command);
                    if let Ok(Err(error)) = timeout(FLIGHT, proposal).await {
                        tracing::debug!(%error, "not proposed as leader");
                    }
                    drop(flight);
                });
            }
            LaneOutput::AskToMove(node, group, token, to) => {
                tracing::info!(%node, %group, %token, %to, "asking the holder to hand over");
                if node == core.me {
                    core.lane.try_send(LaneInput::Move(group, token, to)).ok();
                } else {
                    tokio::spawn(async move {
                        let request = Request::Move(group, token, to);
                        if let Err(trouble) = core.ask(node, &request, PATIENCE).await {
                            tracing::debug!(%trouble, "the holder was not asked");
                        }
                    });
                }
            }
            LaneOutput::Fact(key, value) => core.gossip.set_fact(key, value),
            LaneOutput::Notice(notice) => core.notices.tell(notice),
            LaneOutput::Retract(key) => core.gossip.remove_fact(key),
            LaneOutput::Stopped => {
                if let Some(stopped) = stopped.take() {
                    stopped.send(()).ok();
                }
            }
        }
    }
}

/// What gossip says of the LANs goes to the lane whenever it changes.
pub(super) async fn tell_neighbours(core: Arc<Core>) {
    let mut facts = core.gossip.facts();
    let mut told = Neighbours::default();
    loop {
        let neighbours = {
            let living = of_the_living(&facts.borrow_and_update());
            Neighbours::from_facts(living.iter().map(|(node, values)| (*node, &**values)))
        };
        if neighbours != told {
            told = neighbours.clone();
            if core.lane.send(LaneInput::Neighbours(Arc::new(neighbours))).await.is_err() {
                return;
            }
        }
        if facts.changed().await.is_err() {
            return;
        }
    }
}
