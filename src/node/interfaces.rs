//! The thread beside the lane that speaks route netlink: it changes addresses, one order after the other, and tells what has
//! become of interfaces.
//!
//! A claim and an unclaim wait for it, and nothing else does: to refresh a thousand VIPs takes longer than an advert may
//! wait. Orders keep their order, so no refresh comes after the removal that follows it.

use super::director::Occurred;
use crate::config::track::Delays;
use crate::kernel::address::{Addresses, Interface, Vip};
use crate::kernel::link::{self, Change, Link, Links, Watch};
use crate::kernel::routing::{Routes, Routing};
use crate::kernel::{KernelError, realtime};
use crate::track::debounce::Debounce;
use anyhow::Context;
use futures_util::FutureExt;
use hamesh_fencing::clock::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

/// More orders than a second brings. A refresh that does not fit comes again.
const QUEUE: usize = 256;
/// Changes that come together are looked at together.
const TOGETHER: Duration = Duration::from_millis(5);
/// Before an interface is looked at again of which the kernel could not be asked.
const AGAIN: Duration = Duration::from_millis(200);

type Done = oneshot::Sender<Result<(), KernelError>>;

enum Order {
    Set(Interface, Vec<Vip>, Duration, Done),
    Remove(Interface, Vec<Vip>, Done),
    TakeOff(Vec<IpAddr>, SyncSender<Result<(), KernelError>>),
    Raise(Interface, Done),
    RemoveDevice(String, Done),
    Route(Routing, Done),
    Unroute(Routing, Done),
    Refresh(Vec<(Interface, Vec<Vip>)>, Duration, Moment),
    Restore(Interface, Vec<Vip>, Duration, Moment),
    Reroute(Routing, Moment),
    LookAt(Vec<String>, Vec<IpAddr>),
}

/// Gives orders to the thread; it ends with the last of these.
#[derive(Clone, Debug)]
pub(crate) struct Interfaces(mpsc::Sender<Order>);

impl Interfaces {
    /// Starts the thread in this thread's network namespace. It tells of the interfaces `names`, on which `vips` are nobody's
    /// own addresses.
    ///
    /// # Errors
    /// No thread, or no route netlink.
    pub(crate) async fn start(
        names: Vec<String>,
        vips: Vec<IpAddr>,
        delays: &BTreeMap<String, Delays>,
        tell: mpsc::Sender<Occurred>,
    ) -> anyhow::Result<Self> {
        let (orders, queue) = mpsc::channel(QUEUE);
        let debounce = Debounce::new(delays);
        let (begun, beginning) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("interfaces".to_owned());
        thread.spawn(move || {
            realtime::raise(realtime::INTERFACES);
            runtime.block_on(async {
                // One each: the kernel is busy when asked for two lists at once by one.
                let opened = link::connect().and_then(|both| Ok((both, link::connect()?.0, Watch::start()?)));
                let ((links, addresses), watched, watch) = match opened {
                    Ok(opened) => opened,
                    // Whoever started this says it.
                    Err(error) => return drop(begun.send(Err(error))),
                };
                begun.send(Ok(())).ok();
                let (looked_at, look) = watch::channel((names, vips));
                tokio::spawn(watch_links(watch, watched, debounce, look, tell));
                obey(queue, addresses, links, looked_at).await;
            });
        })?;
        beginning.await?.context("cannot speak route netlink")?;
        Ok(Self(orders))
    }

    /// As [`Addresses::set`].
    pub(crate) async fn set(&self, interface: &Interface, vips: &[Vip], ttl: Duration) -> Result<(), String> {
        self.ask(|done| Order::Set(interface.clone(), vips.to_vec(), ttl, done)).await
    }

    /// As [`Addresses::remove`].
    pub(crate) async fn remove(&self, interface: &Interface, vips: &[Vip]) -> Result<(), String> {
        self.ask(|done| Order::Remove(interface.clone(), vips.to_vec(), done)).await
    }

    /// As [`Addresses::remove_everywhere`], and waits for it: nothing else is to happen before.
    pub(crate) fn take_off(&self, addresses: Vec<IpAddr>) -> Result<(), String> {
        let gone = "the thread that changes addresses has ended";
        let (done, answer) = sync_channel(1);
        let mut order = Order::TakeOff(addresses, done);
        while let Err(error) = self.0.try_send(order) {
            match error {
                TrySendError::Full(again) => order = again,
                TrySendError::Closed(_) => return Err(gone.to_owned()),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        answer.recv().map_err(|_| gone.to_owned())?.map_err(|error| error.to_string())
    }

    /// As [`Routes::set`].
    pub(crate) async fn route(&self, routing: &Routing) -> Result<(), String> {
        if routing.is_empty() { Ok(()) } else { self.ask(|done| Order::Route(routing.clone(), done)).await }
    }

    /// As [`Routes::remove`].
    pub(crate) async fn unroute(&self, routing: &Routing) -> Result<(), String> {
        if routing.is_empty() { Ok(()) } else { self.ask(|done| Order::Unroute(routing.clone(), done)).await }
    }

    /// As [`Links::raise`].
    pub(crate) async fn raise(&self, device: &Interface) -> Result<(), String> {
        self.ask(|done| Order::Raise(device.clone(), done)).await
    }

    /// As [`Links::remove`].
    pub(crate) async fn remove_device(&self, name: &str) -> Result<(), String> {
        self.ask(|done| Order::RemoveDevice(name.to_owned(), done)).await
    }

    /// Lets addresses live on for `ttl`, unless it is `until` before their turn comes. All at once: a thousand orders would not
    /// fit. Returns whether this one did.
    pub(crate) fn refresh(&self, all: Vec<(Interface, Vec<Vip>)>, ttl: Duration, until: Moment) -> bool {
        self.hint(Order::Refresh(all, ttl, until))
    }

    /// Puts back what of `vips` is not there, unless it is `until` before their turn comes.
    pub(crate) fn restore(&self, interface: &Interface, vips: &[Vip], ttl: Duration, until: Moment) {
        self.hint(Order::Restore(interface.clone(), vips.to_vec(), ttl, until));
    }

    /// Puts back what of `routing` is not there, unless it is `until` before their turn comes.
    pub(crate) fn reroute(&self, routing: &Routing, until: Moment) {
        if !routing.is_empty() {
            self.hint(Order::Reroute(routing.clone(), until));
        }
    }

    /// Tells of the interfaces `names` from now on, on which `vips` are nobody's own addresses; of all of them at once.
    pub(crate) fn look_at(&self, names: Vec<String>, vips: Vec<IpAddr>) {
        self.hint(Order::LookAt(names, vips));
    }

    async fn ask(&self, order: impl FnOnce(Done) -> Order) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        let gone = || "the thread that changes addresses has ended".to_owned();
        self.0.send(order(done)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(|error| error.to_string())
    }

    fn hint(&self, order: Order) -> bool {
        let taken = self.0.try_send(order).is_ok();
        if !taken {
            tracing::warn!("not done: the thread that changes addresses is busy or has ended");
        }
        taken
    }
}

async fn obey(
    mut queue: mpsc::Receiver<Order>,
    addresses: Addresses,
    links: Links,
    looked_at: watch::Sender<(Vec<String>, Vec<IpAddr>)>,
) {
    let routes = Routes::new(links.clone());
    while let Some(order) = queue.recv().await {
        let refreshed = match order {
            // Whoever asked and is gone has no use for the answer.
            Order::Set(interface, vips, ttl, done) => {
                done.send(addresses.set(&interface, &vips, ttl).await).ok();
                continue;
            }
            Order::Remove(interface, vips, done) => {
                done.send(addresses.remove(&interface, &vips).await).ok();
                continue;
            }
            Order::TakeOff(vips, done) => {
                done.send(addresses.remove_everywhere(&vips).await).ok();
                continue;
            }
            Order::Route(routing, done) => {
                done.send(routes.set(&routing).await).ok();
                continue;
            }
            Order::Unroute(routing, done) => {
                done.send(routes.remove(&routing).await).ok();
                continue;
            }
            Order::Raise(device, done) => {
                done.send(links.raise(&device).await).ok();
                continue;
            }
            Order::RemoveDevice(name, done) => {
                done.send(links.remove(&name).await).ok();
                continue;
            }
            Order::LookAt(names, vips) => {
                looked_at.send((names, vips)).ok();
                continue;
            }
            Order::Restore(_, _, _, until) | Order::Reroute(_, until) if Moment::now().reached(until) => {
                continue;
            }
            Order::Refresh(all, ttl, until) => refresh(&addresses, &all, ttl, until).await,
            Order::Reroute(routing, _) => routes.set(&routing).await,
            Order::Restore(interface, vips, ttl, _) => restore(&addresses, &interface, &vips, ttl).await,
        };
        if let Err(error) = refreshed {
            tracing::error!(%error, "addresses or routes not refreshed");
        }
    }
}

async fn refresh(
    addresses: &Addresses,
    all: &[(Interface, Vec<Vip>)],
    ttl: Duration,
    until: Moment,
) -> Result<(), KernelError> {
    let mut result = Ok(());
    for (interface, vips) in all {
        if Moment::now().reached(until) {
            break;
        }
        // One that fails keeps nothing from the others.
        result = addresses.set(interface, vips, ttl).await.and(result);
    }
    result
}

async fn restore(addresses: &Addresses, interface: &Interface, vips: &[Vip], ttl: Duration) -> Result<(), KernelError> {
    let present: Vec<Vip> = addresses.list(interface).await?.into_iter().map(|present| present.vip).collect();
    let there = |vip: &Vip| present.iter().any(|there| there.is(vip));
    let missing: Vec<Vip> = vips.iter().filter(|vip| !there(vip)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    tracing::warn!(interface = %interface.name, ?missing, "somebody has removed addresses that are held; putting them back");
    addresses.set(interface, &missing, ttl).await
}

/// Says what has become of the interfaces after whatever changes.
async fn watch_links(
    mut watch: Watch,
    links: Links,
    mut debounce: Debounce,
    mut look: watch::Receiver<(Vec<String>, Vec<IpAddr>)>,
    tell: mpsc::Sender<Occurred>,
) {
    // What was told of each last: its index, or that it is not there.
    let mut indices: BTreeMap<String, Option<u32>> = BTreeMap::new();
    // Where an address has changed and nothing else has.
    let mut only: Option<BTreeSet<u32>> = None;
    loop {
        only = only.filter(|_| matches!(look.has_changed(), Ok(false)));
        let (names, vips) = look.borrow_and_update().clone();
        let index = |name: &String| indices.get(name).copied().flatten();
        let known = |wanted: &u32| names.iter().any(|name| index(name) == Some(*wanted));
        // That of another interface may be the one of a virtual MAC.
        only = only.filter(|only| only.iter().all(known));
        let mut unanswered = false;
        for name in &names {
            let index = indices.get(name).copied().flatten();
            if only.as_ref().is_some_and(|only| index.is_none_or(|index| !only.contains(&index))) {
                continue;
            }
            let occurred = match links.get(name, &vips).await {
                Ok(Some(link)) => {
                    indices.insert(name.clone(), Some(link.interface.index));
                    let up = debounce.see(Moment::now(), name, link.up);
                    Occurred::Link(Link { up, ..link })
                }
                Ok(None) => {
                    if indices.insert(name.clone(), None) != Some(None) {
                        tracing::warn!(interface = %name, "there is no such interface");
                    }
                    debounce.gone(name);
                    Occurred::LinkGone(name.clone())
                }
                // It is as it was, as far as anybody knows.
                Err(error) => {
                    tracing::warn!(%error, "asking again");
                    unanswered = true;
                    continue;
                }
            };
            if tell.send(occurred).await.is_err() {
                return;
            }
        }
        let told = tokio::select! {
            change = watch.next() => change,
            changed = look.changed() => changed.ok().map(|()| Change::Everything),
            () = turning(&debounce) => Some(Change::Everything),
            () = sleep(AGAIN), if unanswered => Some(Change::Everything),
        };
        let Some(change) = told else { return tracing::error!("interfaces are not watched any more") };
        let mut changes = vec![change];
        if unanswered {
            changes.push(Change::Everything);
        }
        sleep(TOGETHER).await;
        while let Some(Some(change)) = watch.next().now_or_never() {
            changes.push(change);
        }
        // Nothing of one that went is in the one of its name that may be there already.
        let is_gone = |index: &u32| changes.contains(&Change::Gone(*index));
        for (name, _) in indices.extract_if(.., |_, index| index.as_ref().is_some_and(is_gone)) {
            debounce.gone(&name);
            if tell.send(Occurred::LinkGone(name)).await.is_err() {
                return;
            }
        }
        let address = |change| match change {
            Change::Address(index) => Some(index),
            Change::Link(_) | Change::Gone(_) | Change::Routing | Change::Everything => None,
        };
        only = changes.into_iter().map(address).collect();
    }
}

/// Waits until something counts that has only been seen yet.
pub(super) async fn turning(debounce: &Debounce) {
    match debounce.next_deadline() {
        Some(due) => sleep(Moment::now().until(due)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
