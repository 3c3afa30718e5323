//! BFD: whether a neighbour's forwarding is heard, within milliseconds (RFC 5880 in asynchronous mode; RFC 5881 for one hop, RFC 5883
//! for several), without echo and authentication.
//!
//! [`Sessions`] decides: datagrams and time in, datagrams out. A session is shared by all that go by it.

pub mod packet;
mod session;

use crate::config::bfd::Settings;
use hamesh_fencing::clock::Moment;
use packet::{Discard, LENGTH, Packet, State};
use serde::{Deserialize, Serialize};
use session::Session;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The port that neighbours on the same link listen at (RFC 5881 section 4).
pub const PORT: u16 = 3784;
/// The same over several hops (RFC 5883 section 5).
pub const MULTIHOP_PORT: u16 = 4784;
/// `max_hops` that lets every packet in, however far it has come.
pub const ANY_HOPS: u8 = 255;

/// A datagram that came to [`PORT`] or [`MULTIHOP_PORT`].
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// At which of the two.
    pub multihop: bool,
    /// The sender.
    pub source: IpAddr,
    /// Where it has come in, if the sender's address is link-local.
    pub interface: Option<&'a str>,
    /// Where it was sent.
    pub destination: IpAddr,
    /// What is left of its TTL or hop limit.
    pub ttl: u8,
    /// What is in it.
    pub payload: &'a [u8],
}

/// What is to be sent, for the session of this name.
pub type Send = (String, [u8; LENGTH]);

/// A session, for people and for those who go by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// As in `[bfd.NAME]`.
    pub name: String,
    /// The other end.
    pub neighbour: IpAddr,
    /// `AdminDown`, `Down`, `Init` or `Up`.
    pub state: String,
    /// What those who go by it count it as; none before it is known.
    pub up: Option<bool>,
    /// Why it went down last, or what is particular.
    pub why: Option<String>,
    /// A silence of so many milliseconds ends it.
    pub detection_ms: f64,
}

impl SessionStatus {
    /// Up, or not and why; none before it is known.
    pub fn verdict(&self) -> Option<Result<(), String>> {
        self.up.map(|up| if up { Ok(()) } else { Err(self.why.clone().unwrap_or_default()) })
    }
}

/// Every session of this node.
#[derive(Debug)]
pub struct Sessions(BTreeMap<String, (Settings, Session)>);

impl Sessions {
    /// Those of the configuration. The same seed has the same jitter and the same discriminators.
    pub fn new(now: Moment, settings: &BTreeMap<String, Settings>, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut names = std::collections::BTreeSet::new();
        let mut sessions = BTreeMap::new();
        for (name, settings) in settings {
            let mut mine = 0;
            while mine == 0 || !names.insert(mine) {
                mine = rng.u32(..);
            }
            let session = Session::new(now, settings.clone(), mine, rng.u64(..));
            sessions.insert(name.clone(), (settings.clone(), session));
        }
        Self(sessions)
    }

    /// A datagram came: what is sent for it, by the rules of RFC 5880 section 6.8.6.
    ///
    /// # Errors
    /// Why it changes nothing.
    pub fn receive(&mut self, now: Moment, datagram: &Datagram<'_>) -> Result<Vec<Send>, Discard> {
        let packet = Packet::parse(datagram.payload)?;
        let Datagram { multihop, source, interface, destination, ttl, .. } = *datagram;
        let found = self.0.iter_mut().find(|(_, (settings, session))| {
            settings.multihop == multihop
                // Elsewhere the same link-local address is another neighbour.
                && settings.interface.as_deref().is_none_or(|there| Some(there) == interface)
                && match packet.yours {
                    // The first ones are known by where they come from.
                    0 => settings.neighbour == source && settings.source.is_none_or(|own| own == destination),
                    name => session.mine == name,
                }
        });
        let (name, (settings, session)) = found.ok_or(Discard::Stranger)?;
        if settings.max_hops != ANY_HOPS && ttl.saturating_add(settings.max_hops) < settings.ttl {
            return Err(Discard::Far);
        }
        let packets = session.handle(now, session::Event::Heard(packet));
        Ok(packets.into_iter().map(|packet| (name.clone(), packet.to_bytes())).collect())
    }

    /// [`Sessions::next_deadline`] has come: what is sent.
    pub fn tick(&mut self, now: Moment) -> Vec<Send> {
        let mut out = Vec::new();
        for (name, (_, session)) in &mut self.0 {
            if session.next_deadline().is_some_and(|due| now.reached(due)) {
                let packets = session.handle(now, session::Event::Tick);
                out.extend(packets.into_iter().map(|packet| (name.clone(), packet.to_bytes())));
            }
        }
        out
    }

    /// When [`Sessions::tick`] is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.0.values().filter_map(|(_, session)| session.next_deadline()).reduce(Moment::earlier)
    }

    /// Every session, as it is.
    pub fn status(&self) -> Vec<SessionStatus> {
        let one = |(name, (settings, session)): (&String, &(Settings, Session))| {
            let (own, remote, diagnostic) = session.ends();
            let why = match (session.told(), own, remote) {
                (Some(true), State::Up, _) => None,
                (_, _, State::AdminDown) => Some("its neighbour has ended it by order".to_owned()),
                (_, State::Down, _) if diagnostic == packet::Diagnostic::NONE => {
                    Some("nothing was heard yet".to_owned())
                }
                (..) => Some(diagnostic.words().to_owned()),
            };
            SessionStatus {
                name: name.clone(),
                neighbour: settings.neighbour,
                state: format!("{own:?}"),
                up: session.told(),
                why,
                detection_ms: session.detection().as_secs_f64() * 1000.0,
            }
        };
        self.0.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests;
