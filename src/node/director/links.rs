//! Interfaces that come, go, are made anew or renamed, and what is open on them.
//!
//! A group whose interface is not there has no voice and is in FAULT. What has come is opened beside the lane's work, then the
//! gate looks at it, and only then it is spoken through. An interface is known by its index: one of the same name with
//! another index is another one.

use super::{Director, Occurred};
use crate::kernel::link::Link;
use crate::node::elsewhere::Elsewhere;
use crate::node::lans::{self, LanName, Opened};
use crate::node::served::Served;
use hamesh_fencing::clock::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Before what could not be opened is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What is known of the interfaces.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    /// Those that are there, as they are.
    there: BTreeMap<String, Link>,
    /// When it was last tried to open what was not.
    tried: BTreeMap<String, Moment>,
}

impl Director {
    /// An interface is so now, or is not there.
    pub(super) fn link(&mut self, name: &str, link: Option<&Link>) {
        match link {
            None => {
                self.interfaces.there.remove(name);
                self.lose(name);
            }
            Some(link) => {
                self.interfaces.there.insert(name.to_owned(), link.clone());
                let other = |known: &Link| known.interface != link.interface;
                let lans = self.lans.iter().filter(|((interface, _), _)| interface == name);
                if lans.map(|(_, lan)| &lan.link).any(other) || self.groups.values().any(|group| is_other(group, link))
                {
                    self.lose(name);
                }
                self.see(name, link);
            }
        }
        self.hands.look_after(self.groups.values().filter(|served| is_on(served, name)));
        let leases: BTreeSet<_> = self.on(name).map(|served| served.lease.clone()).collect();
        for lease in leases {
            self.level(&lease);
        }
        self.open_interfaces();
    }

    fn see(&mut self, name: &str, link: &Link) {
        for (_, lan) in self.lans.iter_mut().filter(|((interface, _), _)| interface == name) {
            lan.link = link.clone();
        }
        for served in self.groups.values_mut() {
            on_other(served, name).for_each(|other| other.see(link));
            let Some(voice) = &mut served.voice else { continue };
            if served.config.interface == name {
                served.see(link);
            } else if let Some(outlet) = voice.outlet.as_mut().filter(|outlet| outlet.device.name == name) {
                outlet.up = link.up;
            }
        }
    }

    /// Nothing is heard or said any more on the interface that had this name. What its groups have there stays known: it is
    /// yet to be taken off, where the interface has only another name now.
    fn lose(&mut self, name: &str) {
        self.lans.retain(|(interface, _), _| interface != name);
        let mut lost = false;
        for served in self.groups.values_mut() {
            for other in on_other(served, name) {
                lost |= other.lose();
            }
            if !speaks_on(served, name) {
                continue;
            }
            lost |= served.voice.take().is_some();
            if served.config.interface == name {
                served.link.up = false;
            }
        }
        if lost && let Err(error) = self.hands.interfaces_changed() {
            tracing::error!(interface = name, %error, "the gate looks at an interface that is gone");
        }
        self.interfaces.tried.remove(name);
    }

    /// Has what is there and not open opened, and tries again what could not be.
    pub(super) fn open_interfaces(&mut self) {
        let now = Moment::now();
        let waits = |name: &String| self.interfaces.tried.get(name).is_some_and(|at| now.since(*at) < RETRY);
        let there = |name: &String| self.interfaces.there.contains_key(name) && !waits(name);
        let names = lans::names(&self.config);
        let silent = self.groups.values().filter(|served| served.voice.is_none());
        let silent = silent.map(|served| served.config.interface.clone());
        let shut = names.into_iter().filter(|name| !self.lans.contains_key(name)).map(|(interface, _)| interface);
        let wanted: BTreeSet<String> = shut.chain(silent).filter(there).collect();
        for name in wanted {
            self.interfaces.tried.insert(name.clone(), now);
            let (config, tell) = (self.config.clone(), self.tell.clone());
            let known: BTreeSet<LanName> = self.lans.keys().cloned().collect();
            tokio::spawn(async move {
                match lans::open_on(&name, &config, &known, &tell).await {
                    Ok(Some(opened)) => drop(tell.send(Occurred::Opened(opened)).await),
                    Ok(None) => {}
                    Err(error) => tracing::error!(interface = name, "{error:#}; trying again"),
                }
            });
        }
    }

    /// What was opened is spoken through, if it is still what is there.
    pub(super) async fn opened(&mut self, opened: Opened) {
        let Opened { interface, lans, mut outlets } = opened;
        let name = &interface.name;
        let is_it = |link: &Link| link.interface == interface;
        if !self.interfaces.there.get(name).is_some_and(is_it) || !lans.values().all(|lan| is_it(&lan.link)) {
            return;
        }
        if let Err(error) = self.hands.interfaces_changed() {
            return tracing::error!(interface = name, %error, "the gate does not look at it yet; trying again");
        }
        // Not before the gate looks at them: what they said first would teach switches the virtual MAC.
        for outlet in outlets.values() {
            if let Err(error) = self.hands.raise(&outlet.device).await {
                return tracing::error!(interface = name, %error, "trying again");
            }
        }
        self.lans.extend(lans);
        for served in self.groups.values_mut() {
            on_other(served, name).for_each(|other| other.open(&self.lans));
            if served.voice.is_none() && speaks_on(served, name) {
                served.speak(&self.lans, outlets.remove(&served.name));
            }
        }
        if let Some(link) = self.interfaces.there.get(name).cloned() {
            self.see(name, &link);
        }
        tracing::info!(interface = name, index = interface.index, "spoken on again");
        // What goes on without an interface has its addresses there when that comes.
        self.hands.look_after(self.groups.values().filter(|served| is_on(served, name)));
        let leases: BTreeSet<_> = self.on(name).map(|served| served.lease.clone()).collect();
        for lease in leases {
            self.level(&lease);
        }
    }

    fn on(&self, name: &str) -> impl Iterator<Item = &Served> {
        self.groups.values().filter(move |served| is_on(served, name))
    }
}

/// Whether something of the group is on the interface.
fn is_on(served: &Served, name: &str) -> bool {
    speaks_on(served, name) || served.elsewhere.iter().any(|other| other.link.interface.name == name)
}

/// Whether the interface is the group's, or its device.
fn speaks_on(served: &Served, name: &str) -> bool {
    served.config.interface == name || served.place.name == name
}

/// What of the group is on the interface, where that is neither.
fn on_other<'a>(served: &'a mut Served, name: &'a str) -> impl Iterator<Item = &'a mut Elsewhere> {
    served.elsewhere.iter_mut().filter(move |other| other.link.interface.name == name)
}

/// Whether the group's device has the name of this interface, which is another one.
fn is_other(served: &Served, link: &Link) -> bool {
    let outlet = served.voice.as_ref().and_then(|voice| voice.outlet.as_ref());
    outlet.is_some_and(|outlet| outlet.device.name == link.interface.name && outlet.device != link.interface)
}
