//! The groups of a reloaded configuration, each in its turn.

use super::telling::tell;
use super::{Director, Happened, by_vrid, deaf, started};
use crate::config::{Config, VipGroup};
use crate::kernel::address::{Interface, Vip};
use crate::node::lan::FACT;
use crate::node::lane::LaneOutput;
use crate::node::lans::{self, Lans};
use crate::node::reload::{self, Fresh, Turn};
use crate::node::served::Served;
use crate::node::voice::beyond_family;
use crate::notify::What;
use crate::vrrp::router;
use hamesh_fencing::clock::Moment;
use hamesh_fencing::holder;
use hamesh_raft::command::GroupName;
use std::collections::BTreeSet;

impl Director {
    /// A configuration to be served: its new LANs are opened beside this, then it comes back as an occurrence.
    pub(in crate::node) fn prepare(&self, fresh: Fresh) {
        reload::prepare(fresh, self.lans.keys().cloned().collect(), self.tell.clone());
    }

    /// Serves `fresh` from now on: groups that only say it in other words at once, the others when they are given up. The
    /// old and the new are guarded until then.
    pub(super) async fn reload(&mut self, fresh: Fresh, lans: Lans) {
        let Fresh { config, answer } = fresh;
        if self.surplus {
            // What that one gives up is guarded by its word only.
            answer
                .send(Err("what the last reload has taken away is not off this machine yet: try again".to_owned()))
                .ok();
            return;
        }
        let guarded = [self.config.definitions(), config.definitions()].concat();
        let both = |names: fn(&Config) -> BTreeSet<String>| {
            (&names(&self.config) | &names(&config)).into_iter().collect::<Vec<_>>()
        };
        if let Err(error) = self.hands.guard(&guarded, &both(lans::interfaces)) {
            answer.send(Err(error.to_string())).ok();
            return;
        }
        let vips = &lans::vips(&self.config) | &lans::vips(&config);
        self.hands.look_at(both(lans::watched), vips.into_iter().collect());
        self.lans.extend(lans);
        if let Err(error) = lans::join(&config, &self.lans) {
            // Its link says so too.
            tracing::error!("{error:#}");
        }
        (self.config, self.surplus) = (config, true);
        let names: BTreeSet<GroupName> = self.groups.keys().chain(self.config.groups.keys()).cloned().collect();
        for name in names {
            match self.groups.get(&name).map(|served| Turn::of(served, self.wanted(&name))) {
                Some(Turn::Stays) => self.balance(&name),
                Some(Turn::Adapts) => self.begin(&name).await,
                Some(Turn::Moves) if !self.holder.uses(self.lease_of(&name)) => self.begin(&name).await,
                Some(Turn::Moves | Turn::Ends) => {
                    let lease = self.lease_of(&name).to_owned();
                    self.queue.push_back(Happened::Lease(holder::Event::Refuse(lease)));
                    self.turning.insert(name);
                }
                None => self.begin(&name).await,
            }
        }
        self.vrids = by_vrid(&self.groups);
        self.hands.refuse(deaf(&self.groups));
        answer.send(Ok(())).ok();
    }

    /// What the configuration says of a group that this node serves.
    fn wanted(&self, name: &str) -> Option<&VipGroup> {
        self.config.groups.get(name).filter(|group| group.priority.is_some())
    }

    /// What a group moves with; of one that is gone nothing is held.
    fn lease_of<'a>(&'a self, name: &'a str) -> &'a str {
        self.groups.get(name).map_or(name, |served| &served.lease)
    }

    /// The turn of groups that are given up. Returns whether something has come of it.
    pub(super) async fn turn(&mut self) -> bool {
        let is_free = |name: &&GroupName| !self.holder.uses(self.lease_of(name));
        let free: Vec<GroupName> = self.turning.iter().filter(is_free).cloned().collect();
        self.turning.retain(|name| !free.contains(name));
        for name in &free {
            self.begin(name).await;
        }
        if !free.is_empty() {
            self.vrids = by_vrid(&self.groups);
        }
        if self.surplus && self.turning.is_empty() && !self.hands.has_leftovers() {
            self.surplus = false;
            let names = lans::names(&self.config);
            let interfaces: Vec<String> = lans::interfaces(&self.config).into_iter().collect();
            match self.hands.guard(&self.config.definitions(), &interfaces) {
                Ok(()) => self.lans.retain(|name, _| names.contains(name)),
                Err(error) => tracing::warn!(%error, "addresses that are configured no more stay guarded"),
            }
            let watched = lans::watched(&self.config).into_iter().collect();
            self.hands.look_at(watched, lans::vips(&self.config).into_iter().collect());
        }
        !free.is_empty()
    }

    /// A group that stays may have services now, or none any more.
    fn balance(&mut self, name: &GroupName) {
        let has = self.config.is_balanced(name);
        if let Some(served) = self.groups.get_mut(name)
            && std::mem::replace(&mut served.balanced, has) != has
        {
            self.hands.balance(served);
        }
    }

    /// Serves a group that is not used, or only put in other words, as the configuration says, and as what it tracks says.
    async fn begin(&mut self, name: &GroupName) {
        self.change(name).await;
        match self.effects.get(name).copied() {
            Some(effect) if self.wanted(name).is_some_and(|group| !group.track.is_empty()) => self.weigh(name, effect),
            Some(_) | None => drop(self.effects.remove(name)),
        }
    }

    async fn change(&mut self, name: &GroupName) {
        let Some(wanted) = self.wanted(name).cloned() else {
            if let Some(mut gone) = self.groups.remove(name) {
                tell(&mut gone, What::Deleted, &mut self.outputs);
            }
            self.alarms.set(name, None);
            if self.places.remove(name).is_some() {
                self.outputs.push(LaneOutput::Retract(format!("{FACT}{name}")));
            }
            return;
        };
        match self.groups.get_mut(name) {
            Some(served) if Turn::of(served, Some(&wanted)) != Turn::Ends => {
                let before: Vec<(Interface, Vec<Vip>)> =
                    served.placed().map(|(interface, vips)| (interface.clone(), vips.to_vec())).collect();
                let routing = served.config.routing.clone();
                served.adapt(&wanted, &self.lans);
                if let Some(voice) = &mut served.voice {
                    voice.beyond_family = beyond_family(&self.lans, &wanted);
                }
                self.hands.exchange(served, &before, &routing).await;
                let lease = served.lease.clone();
                self.balance(name);
                self.level(&lease);
                self.want(&lease);
                // Whoever follows us is to know at once. What is no MASTER says nothing.
                self.queue.push_back(Happened::Router(name.clone(), router::Event::Announce));
            }
            Some(_) | None => {
                // With a virtual MAC there was a restart.
                let Some(served) = Served::new(Moment::now(), name, &self.config, &self.lans, None) else { return };
                let lease = served.lease.clone();
                self.queue.extend(started(&served, false));
                self.groups.insert(name.clone(), served);
                self.level(&lease);
            }
        }
    }
}
