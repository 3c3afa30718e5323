//! Bursts of gratuitous ARP and neighbour advertisements, at once or at a pace.

use super::core::lock;
use crate::net::arp::Mac;
use crate::net::neighbour::NeighbourSocket;
use hamesh_fencing::clock::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Paced bursts that wait for a LAN; what comes beyond is left to the next refresh.
const QUEUE: usize = 256;

/// What may be announced, and until when, where the kernel does not keep the rest back. It is looked at before each packet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Permit(Arc<Mutex<(BTreeSet<IpAddr>, Moment)>>);

impl Permit {
    /// These, until then, and nothing else.
    pub(crate) fn give(&self, addresses: BTreeSet<IpAddr>, until: Moment) {
        *lock(&self.0) = (addresses, until);
    }

    fn allows(&self, address: IpAddr) -> bool {
        let (addresses, until) = &*lock(&self.0);
        addresses.contains(&address) && !Moment::now().reached(*until)
    }
}

/// Round by round over all addresses, as keepalived does.
pub(crate) struct Burst {
    pub(crate) socket: Arc<NeighbourSocket>,
    /// `None`: the gate sees to it.
    pub(crate) permit: Option<Permit>,
    pub(crate) mac: Mac,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) router: bool,
    pub(crate) rounds: u8,
}

/// Announces; bursts with a pace wait for each other on their LAN.
#[derive(Default)]
pub(crate) struct Announcer {
    paced: BTreeMap<String, mpsc::Sender<(Burst, Duration)>>,
}

impl Announcer {
    /// Sends a burst, with `pause` between two announcements of whatever burst has the same pace: an interface's, or a named one.
    pub(crate) fn announce(&mut self, name: &str, burst: Burst, pause: Duration) {
        if pause.is_zero() {
            burst.order().all(|address| burst.send(address));
            return;
        }
        let queue = self.paced.entry(name.to_owned()).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(QUEUE);
            tokio::spawn(pace(waiting));
            queue
        });
        if queue.try_send((burst, pause)).is_err() {
            tracing::warn!(pace = name, "too many announcements wait for their pace; one burst is not sent");
        }
    }
}

async fn pace(mut waiting: mpsc::Receiver<(Burst, Duration)>) {
    while let Some((burst, pause)) = waiting.recv().await {
        for address in burst.order() {
            if !burst.send(address) {
                break;
            }
            sleep(pause).await;
        }
    }
}

impl Burst {
    fn order(&self) -> impl Iterator<Item = IpAddr> {
        (0..self.rounds).flat_map(|_| self.addresses.iter().copied())
    }

    /// False: the gate is shut, for all of them.
    fn send(&self, address: IpAddr) -> bool {
        if self.permit.as_ref().is_some_and(|permit| !permit.allows(address)) {
            return false;
        }
        match self.socket.announce(self.mac, address, self.router) {
            Ok(()) => true,
            // A packet socket hears of a shut gate in this way.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => false,
            Err(error) => {
                tracing::warn!(%address, %error, "announcement not sent");
                true
            }
        }
    }
}
