//! What people order of a running cluster, at whichever of its nodes: `POST /v1/orders`.
//!
//! The order is an entry of the replicated log, so it holds whoever leads, and the answer comes when it is carried out.

use crate::node::Core;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hamesh_raft::command::{Command, GroupName, NodeId, Outcome, ServerOrder};
use hamesh_raft::{Standing, View};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long an order may wait for a quorum.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may take until it is carried out: a leader hands leadership over every five seconds at most.
const CARRIED_OUT: Duration = Duration::from_secs(6);

/// An order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// A VIP group to a node, where it stays until that node loses it.
    Move {
        /// The group.
        vip: GroupName,
        /// The node.
        to: String,
    },
    /// A group that was moved goes by priorities again.
    Unpin {
        /// The group.
        vip: GroupName,
    },
    /// A node out of service: it holds nothing and does not lead.
    Drain {
        /// The node.
        node: String,
    },
    /// A node back into service.
    Undrain {
        /// The node.
        node: String,
    },
    /// A node that does not run any more out of the cluster, for good.
    Remove {
        /// The node.
        node: String,
    },
    /// Something of a server that no file says; nothing takes that back.
    Server {
        /// The service.
        service: String,
        /// Where the server listens.
        server: SocketAddr,
        /// What.
        order: Option<ServerOrder>,
    },
}

/// That it is carried out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderAnswer {
    /// In words for people.
    pub done: String,
}

type Trouble = (StatusCode, String);

pub(super) async fn order(
    State(core): State<Arc<Core>>,
    Json(order): Json<Order>,
) -> Result<Json<OrderAnswer>, Trouble> {
    tracing::info!(?order, "ordered");
    let done = match order {
        Order::Move { vip, to } => move_to(&core, vip, &to).await?,
        Order::Unpin { vip } => {
            propose(&core, Command::Pin { group: known_lease(&core, &vip)?, node: None }).await?;
            format!("{vip} goes by priorities again")
        }
        Order::Drain { node } => drain(&core, &node).await?,
        Order::Undrain { node } => {
            propose(&core, Command::Drain { node: known_node(&core, &node)?, drained: false }).await?;
            format!("{node} is in service again")
        }
        Order::Remove { node } => remove(&core, &node).await?,
        Order::Server { service, server, order } => serve(&core, service, server, order).await?,
    };
    Ok(Json(OrderAnswer { done }))
}

async fn move_to(core: &Core, vip: GroupName, to: &str) -> Result<String, Trouble> {
    let (node, lease) = (known_node(core, to)?, known_lease(core, &vip)?);
    propose(core, Command::Pin { group: lease.clone(), node: Some(node) }).await?;
    let there = |view: &View, _: &Standing| view.state.holder_node(&lease) == Some(node);
    let along = if lease == vip { String::new() } else { format!(", with all of {lease}") };
    if comes_to(core, there).await {
        return Ok(format!("{vip} is on {to}{along}"));
    }
    let state = core.state();
    let sid = state.candidate_on(&lease, node);
    let why = match sid.map(|sid| state.obstacle(&lease, sid)) {
        Some(Some(why)) => why,
        Some(None) => format!("{to} did not take it"),
        None => format!("{to} is no candidate any more"),
    };
    Err((StatusCode::GATEWAY_TIMEOUT, format!("{vip} was not moved within {CARRIED_OUT:?}: {why}. See hamesh status")))
}

async fn drain(core: &Core, name: &str) -> Result<String, Trouble> {
    let node = known_node(core, name)?;
    propose(core, Command::Drain { node, drained: true }).await?;
    let idle = |view: &View, standing: &Standing| holds(view, node).is_empty() && standing.leader != Some(node);
    if comes_to(core, idle).await {
        return Ok(format!("{name} is drained: it holds nothing and does not lead"));
    }
    let held: Vec<GroupName> = holds(&core.raft.view().borrow(), node).into_iter().collect();
    let why = match held.as_slice() {
        [] => "it still leads: no other voter is ready".to_owned(),
        held => format!("it still holds {}: nobody else can take it", held.join(", ")),
    };
    Err((StatusCode::GATEWAY_TIMEOUT, format!("{name} is drained from now on, but {why}. See hamesh status")))
}

/// Of a node that has stopped a moment ago the session is waited for: voters keep their promises to it until they run out.
async fn remove(core: &Core, name: &str) -> Result<String, Trouble> {
    let node = known_node(core, name)?;
    if core.lives(node).is_none() {
        comes_to(core, |view, _| view.state.sessions.values().all(|session| session.node != node)).await;
    }
    propose(core, Command::Remove { node }).await?;
    if comes_to(core, |view, _| !view.effective.members().contains(&node)).await {
        return Ok(format!("{name} is no member any more; its name and address are free"));
    }
    let why = format!("{name} is no member any more, but the voters have not changed within {CARRIED_OUT:?}");
    Err((StatusCode::GATEWAY_TIMEOUT, format!("{why}. They will as soon as the leader can: see hamesh status")))
}

async fn serve(
    core: &Core,
    service: String,
    server: SocketAddr,
    order: Option<ServerOrder>,
) -> Result<String, Trouble> {
    let config = core.config();
    let names = config.services.keys().map(String::as_str);
    let known = config.services.get(&service).ok_or_else(|| unknown("service", &service, names))?;
    let addresses: Vec<String> = known.servers.iter().map(|server| server.address.to_string()).collect();
    if !known.servers.iter().any(|known| known.address == server) {
        return Err(unknown("server", &server.to_string(), addresses.iter().map(String::as_str)));
    }
    let done = match order {
        None => format!("{server} of {service} is served as configured"),
        Some(ServerOrder::Weight(weight)) => format!("{server} of {service} has weight {weight}"),
        Some(ServerOrder::Drain) => format!("{server} of {service} gets no new connections"),
        Some(ServerOrder::Disable) => format!("{server} of {service} is out"),
    };
    propose(core, Command::Serve { service, server, order }).await?;
    Ok(done)
}

/// Waits until this node sees it.
async fn comes_to(core: &Core, seen: impl Fn(&View, &Standing) -> bool) -> bool {
    let (mut view, mut standing) = (core.raft.view(), core.raft.standing());
    let waits = async {
        while !seen(&view.borrow_and_update(), &standing.borrow_and_update()) {
            let changed = tokio::select! {
                changed = view.changed() => changed,
                changed = standing.changed() => changed,
            };
            if changed.is_err() {
                return false;
            }
        }
        true
    };
    timeout(CARRIED_OUT, waits).await.unwrap_or(false)
}

async fn propose(core: &Core, command: Command) -> Result<(), Trouble> {
    match core.propose(command, PATIENCE).await {
        Ok(Outcome::Done) => Ok(()),
        Ok(Outcome::Refused(why)) => Err((StatusCode::CONFLICT, why)),
        Ok(Outcome::Joined(_) | Outcome::Opened(_)) => {
            Err((StatusCode::INTERNAL_SERVER_ERROR, "the state answered something else".to_owned()))
        }
        Err(why) => Err((StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}

fn holds(view: &View, node: NodeId) -> BTreeSet<GroupName> {
    view.state.groups.keys().filter(|vip| view.state.holder_node(vip) == Some(node)).cloned().collect()
}

fn known_node(core: &Core, name: &str) -> Result<NodeId, Trouble> {
    let state = core.state();
    let names = state.members.values().map(|member| member.name.as_str());
    state.member_named(name).ok_or_else(|| unknown("node", name, names))
}

/// The lease of a VIP group, or of a sync group.
fn known_lease(core: &Core, name: &str) -> Result<GroupName, Trouble> {
    let (state, config) = (core.state(), core.config());
    let lease = config.lease(name);
    if state.groups.contains_key(lease) {
        return Ok(lease.to_owned());
    }
    Err(unknown("VIP group", name, state.groups.keys().map(String::as_str)))
}

fn unknown<'a>(what: &str, name: &str, names: impl Iterator<Item = &'a str>) -> Trouble {
    let names: Vec<&str> = names.collect();
    (StatusCode::NOT_FOUND, format!("there is no {what} `{name}`; there are: {}", names.join(", ")))
}
