//! The doors of a running node: a Unix socket for the command line, and a page of metrics for Prometheus.
//!
//! `GET /v1/status` answers with [`Picture`]; `POST /v1/invitations` makes a join string; `POST /v1/orders` moves VIPs and
//! nodes; `POST /v1/reload` reads this node's files again. The socket is root's (mode 0600): whoever may open it may do what it offers.

mod metrics;
mod orders;

pub use orders::{Order, OrderAnswer};

use crate::net::hello::wall_now;
use crate::net::invitation::JoinString;
use crate::node::{Core, Picture};
use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use hamesh_raft::command::{Command, Outcome, Role};
use serde::{Deserialize, Serialize};
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;

/// How long a new invitation may wait for a quorum.
const PATIENCE: Duration = Duration::from_secs(3);

/// A wish for a join string.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InvitationRequest {
    /// What it is to admit.
    pub role: Role,
    /// Until it expires.
    pub ttl: Duration,
}

/// A join string.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InvitationAnswer {
    /// The word to give to `hamesh join`.
    pub join: String,
}

/// The open doors; the socket is removed with them.
pub(crate) struct Doors {
    socket: PathBuf,
}

impl Doors {
    /// Removes the socket.
    pub(crate) fn close(&self) {
        if let Err(error) = fs::remove_file(&self.socket) {
            tracing::debug!(%error, "the admin socket was gone already");
        }
    }
}

/// Opens the doors.
///
/// # Errors
/// The socket or the metrics address is not to be had.
pub(crate) fn serve(core: Arc<Core>) -> anyhow::Result<Doors> {
    let admin = core.config().admin.clone();
    let socket = admin.socket.clone();
    if let Some(directory) = socket.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    // One that a killed predecessor left; another running hamesh holds the mesh's port, so it was no living one's.
    fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("cannot listen on the admin socket {}", socket.display()))?;
    fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/invitations", post(invite))
        .route("/v1/orders", post(orders::order))
        .route("/v1/reload", post(reload))
        .with_state(core.clone());
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the admin socket has ended");
        }
    });
    if let Some(address) = admin.metrics {
        metrics::serve(core, address)?;
    }
    Ok(Doors { socket })
}

async fn status(State(core): State<Arc<Core>>) -> Json<Picture> {
    Json(core.picture())
}

async fn reload(State(core): State<Arc<Core>>) -> Result<Json<OrderAnswer>, (StatusCode, String)> {
    match crate::node::reload(&core).await {
        Ok(done) => Ok(Json(OrderAnswer { done })),
        Err(why) => Err((StatusCode::UNPROCESSABLE_ENTITY, format!("not reloaded, nothing was changed: {why}"))),
    }
}

async fn invite(
    State(core): State<Arc<Core>>,
    Json(request): Json<InvitationRequest>,
) -> Result<Json<InvitationAnswer>, (StatusCode, String)> {
    let failed = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
    let state = core.state();
    // This node first: it is up; the voters after it.
    let others = state.members.iter().filter(|(node, _)| **node != core.me).map(|(_, member)| member.address);
    let addresses: Vec<SocketAddr> = [core.config().node.listen].into_iter().chain(others).take(5).collect();
    let pin = core.identity.pin().map_err(|error| failed(error.to_string()))?;
    let join = JoinString::invite(request.role, addresses, pin).map_err(|error| failed(error.to_string()))?;
    let command = Command::Invite {
        id: join.invitation,
        secret_hash: join.secret_hash(),
        role: request.role,
        expires_at: wall_now() + request.ttl,
    };
    match core.propose(command, PATIENCE).await {
        Ok(Outcome::Done) => Ok(Json(InvitationAnswer { join: join.encode() })),
        Ok(Outcome::Refused(why)) | Err(why) => Err(failed(why)),
        Ok(Outcome::Joined(_) | Outcome::Opened(_)) => Err(failed("the state answered something else".to_owned())),
    }
}
