//! The health mesh: which servers answer, as all directors see them, and what IPVS is to have for it.
//!
//! A target, an address and what is asked there, is watched once however many services use it, by a few directors that
//! rendezvous hashing chooses, and by the holder of the VIP in any case ([`machine`]). Each says by gossip what it sees; what the
//! others say decides where a director has not looked itself, and shows one that it is its own path that is bad.

mod machine;
mod policy;
mod verdict;
mod watch;

pub use hamesh_gossip::observation::Share;
pub use machine::{Action, Event, Health, Holdings, Orders, Wanted};
pub use watch::Target;

use crate::ipvs::{Connections, Count, Traffic};
use hamesh_gossip::observation::Seen;
use hamesh_raft::command::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The answer itself.
    pub said: Said,
    /// How long it took.
    pub took: Duration,
}

/// An answer, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// As it should be.
    Up(Share),
    /// Not as it should be, or none in time, and why in words for people.
    Down(String),
    /// This machine could not ask, and why: it says nothing about the server.
    Unasked(String),
}

/// A service, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// As in `[service.NAME]`.
    pub name: String,
    /// The VIP group it moves with.
    pub vip: String,
    /// Where clients find it: addresses and ports, or firewall marks, with commas between.
    pub listen: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Its scheduler.
    pub scheduler: String,
    /// Whether enough of it is up to serve.
    pub quorum: bool,
    /// What the kernel has counted since it was put in here; none where it is not served.
    pub traffic: Option<Traffic>,
    /// The weight of its sorry server, while that is one to be balanced to.
    #[serde(default)]
    pub sorry: Option<u32>,
    /// Its servers.
    pub servers: Vec<ServerStatus>,
}

/// A server of a service, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share, as configured or as a check has made it.
    pub weight: u32,
    /// `up`, `down`, or `unknown`: not asked yet, or not checked at all. It is served then.
    pub state: String,
    /// The weight that it has where the service is served; none: it is not among those that are balanced to.
    #[serde(default)]
    pub balanced: Option<u32>,
    /// What people have ordered of it.
    pub order: Option<String>,
    /// By whose word it is what it is.
    #[serde(default)]
    pub verdict: String,
    /// Why this director sees it down.
    pub why: Option<String>,
    /// How long its last good answer took; of several checks the slowest.
    pub response_ms: Option<f64>,
    /// What it has now; none where it is not served.
    pub connections: Option<Connections>,
    /// What the kernel has counted for it since it was put in here.
    pub traffic: Option<Traffic>,
    /// What each director that watches it sees, by its name.
    pub observers: BTreeMap<String, String>,
    /// The same with the weight that each finds, and why it sees it down.
    #[serde(default)]
    pub observations: Vec<Observed>,
}

/// What one director sees of a server, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Who, by name.
    pub director: String,
    /// `up`, `down` or `unknown`.
    pub seen: String,
    /// What the server is to weigh by what it has answered; none while it is not up.
    pub weight: Option<u32>,
    /// What was wrong when it was seen to go down.
    pub why: Option<String>,
}

impl ServiceStatus {
    /// Adds what the kernel has counted where the service is found, one of its addresses or marks.
    pub fn add(&mut self, count: &Count) {
        *self.traffic.get_or_insert_default() += count.traffic;
        for server in &mut self.servers {
            if let Some((connections, traffic)) = count.servers.get(&server.address.into()) {
                *server.connections.get_or_insert_default() += *connections;
                *server.traffic.get_or_insert_default() += *traffic;
            }
        }
    }
}

/// What is seen, in a word.
fn word(seen: Option<Seen>) -> String {
    match seen {
        Some(Seen::Up) => "up",
        Some(Seen::Down) => "down",
        None => "unknown",
    }
    .to_owned()
}

/// The names of nodes, for people.
pub type Names = BTreeMap<NodeId, String>;
