//! The command line's end of the admin socket.

use super::{Exit, Failure};
use crate::admin::{InvitationAnswer, InvitationRequest, Order, OrderAnswer};
use crate::node::Picture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::time::timeout;

/// The largest answer.
const LIMIT: usize = 64 << 20;
/// A daemon that is alive answers long before.
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon, by its socket.
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// How the cluster looks from there.
    pub(super) fn status(&self) -> Result<Picture, Failure> {
        self.call(Method::GET, "/v1/status", Bytes::new())
    }

    /// A new join string.
    pub(super) fn invite(&self, request: &InvitationRequest) -> Result<InvitationAnswer, Failure> {
        self.call(Method::POST, "/v1/invitations", serde_json::to_vec(request)?.into())
    }

    /// Has something done.
    pub(super) fn order(&self, order: &Order) -> Result<OrderAnswer, Failure> {
        self.call(Method::POST, "/v1/orders", serde_json::to_vec(order)?.into())
    }

    /// Has the files read again.
    pub(super) fn reload(&self) -> Result<OrderAnswer, Failure> {
        self.call(Method::POST, "/v1/reload", Bytes::new())
    }

    fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async { timeout(PATIENCE, self.exchange(method, path, body)).await });
        let body = answer.map_err(|_| Failure {
            message: format!("the daemon at {} does not answer", self.socket.display()),
            exit: Exit::NotReachable,
        })??;
        Ok(serde_json::from_slice(&body)?)
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "hamesh")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), LIMIT).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        connection.abort();
        let body = body.to_bytes();
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::SERVICE_UNAVAILABLE => Err(said(&body, Exit::NoQuorum)),
            StatusCode::NOT_FOUND => Err(said(&body, Exit::NotFound)),
            StatusCode::CONFLICT => Err(said(&body, Exit::Refused)),
            StatusCode::GATEWAY_TIMEOUT | StatusCode::UNPROCESSABLE_ENTITY => Err(said(&body, Exit::Failed)),
            status => Err(anyhow::anyhow!("the daemon answers {status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        let socket = self.socket.display();
        let kind = error.kind();
        if matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
            Failure {
                message: format!("no daemon at {socket}. Start it: hamesh run, or systemctl start hamesh"),
                exit: Exit::NotReachable,
            }
        } else if kind == ErrorKind::PermissionDenied {
            Failure {
                message: format!("{socket} is not yours to open: it is for the user that runs the daemon"),
                exit: Exit::NotPermitted,
            }
        } else {
            Failure { message: format!("cannot reach the daemon at {socket}: {error}"), exit: Exit::NotReachable }
        }
    }
}

fn said(body: &Bytes, exit: Exit) -> Failure {
    Failure { message: String::from_utf8_lossy(body).into_owned(), exit }
}
