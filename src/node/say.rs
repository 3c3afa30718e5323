//! What the hands of a director say on its LANs: adverts, announcements, and who is there.

use super::announce::Burst;
use super::claim::Hands;
use super::served::{self, Served};
use crate::vrrp::TTL;
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::Family;
use std::io::ErrorKind;
use std::net::IpAddr;

impl Hands {
    /// Sends an advert; with a priority above 0 it passes the gate only while the lease lives.
    pub(crate) fn advert(&self, served: &mut Served, priority: u8) {
        let Some(source) = served.own_address() else { return };
        match served.format.unicast.clone() {
            None => self.advert_to(served, priority, source, served.config.routers(), TTL),
            Some(unicast) => {
                unicast.others(source).for_each(|peer| self.advert_to(served, priority, source, peer, unicast.ttl));
            }
        }
    }

    fn advert_to(&self, served: &mut Served, priority: u8, source: IpAddr, to: IpAddr, ttl: u8) {
        for message in served.adverts(priority, source, to) {
            self.send(served, priority, message, source, to, ttl);
        }
    }

    fn send(&self, served: &mut Served, priority: u8, mut message: Vec<u8>, source: IpAddr, to: IpAddr, ttl: u8) {
        let Some(voice) = &served.voice else { return };
        if priority > 0 && !self.gate.stops_adverts() && Moment::now().reached(self.deadline) {
            return tracing::debug!(group = %served.name, "too late for an advert");
        }
        if let Some(trailers) = &mut served.trailers {
            message = trailers.sign(served::clock(), message, source, to);
        }
        let sealed = served.authentication.as_mut().zip(voice.sealed.as_ref());
        let sent = match (sealed, &voice.outlet, source, to) {
            (Some((authentication, socket)), _, IpAddr::V4(source), IpAddr::V4(to)) => {
                socket.send_packet(to, &authentication.seal(source, to, ttl, &message))
            }
            // What says that we stop goes out by the parent: the device is shut by then. What goes to one host does too:
            // the device knows no neighbours.
            (_, Some(outlet), ..) if priority > 0 && to.is_multicast() && !served.config.plain_adverts => {
                outlet.vrrp.send(source, to, ttl, &message)
            }
            (_, Some(_) | None, ..) => voice.vrrp.send(source, to, ttl, &message),
        };
        match sent {
            Ok(()) => {}
            // The gate: the lease is over and the holder will hear of it.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => tracing::debug!(group = %served.name, "gated"),
            Err(error) if !served.link.up => tracing::debug!(group = %served.name, %error, "its interface is down"),
            Err(error) => tracing::warn!(group = %served.name, %to, %error, "advert not sent"),
        }
    }

    /// A burst of gratuitous ARP or neighbour advertisements.
    pub(crate) fn announce(&mut self, served: &Served, rounds: u8) {
        // Beside a keepalived the device is its own; its MAC is announced through the interface below.
        let mac = served.config.virtual_mac().map(|(_, mac)| mac).or(served.link.mac);
        let Some(voice) = &served.voice else { return };
        let (mac, own, beyond) = match (&voice.outlet, mac) {
            (Some(outlet), _) => (outlet.mac, &outlet.neighbours, &outlet.beyond_family),
            (None, Some(mac)) => (mac, &voice.neighbours, &voice.beyond_family),
            (None, None) => return,
        };
        let (here, there): (Vec<IpAddr>, Vec<IpAddr>) =
            served.vips.iter().map(|vip| vip.address).partition(|address| Family::of(*address) == served.config.family);
        for (socket, addresses) in [(Some(own), here), (beyond.as_ref(), there)] {
            let Some(socket) = socket.filter(|_| !addresses.is_empty()) else { continue };
            let (socket, permit, router) = (socket.clone(), self.permit.clone(), served.link.router);
            let burst = Burst { socket, permit, mac, addresses, router, rounds };
            let pace = served.config.pace.as_ref().unwrap_or(&served.config.interface);
            self.announcer.announce(pace, burst, served.config.timing.garp.interval);
        }
        for other in &served.elsewhere {
            for burst in other.bursts(rounds, self.permit.as_ref()) {
                let pace = served.config.pace.as_ref().unwrap_or(&other.link.interface.name);
                self.announcer.announce(pace, burst, served.config.timing.garp.interval);
            }
        }
    }

    /// Asks by ARP or neighbour discovery who is there.
    pub(crate) fn probe(&self, served: &Served, targets: &[IpAddr]) {
        let (Some(mac), Some(source), Some(voice)) = (served.link.mac, served.own_address(), &served.voice) else {
            return;
        };
        for target in targets {
            if let Err(error) = voice.neighbours.probe(mac, source, *target) {
                tracing::debug!(group = %served.name, %target, %error, "probe not sent");
            }
        }
    }
}
