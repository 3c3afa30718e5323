//! A reload: the files are read and checked beside the running configuration, then what differs changes, and nothing else.
//!
//! What is new is looked up and opened first, on the lane's thread but not in its way; then the director takes all of it over
//! in one go. So whatever is wrong, in a file or on the machine, changes nothing.

use super::balance::{self, Order};
use super::barrier::needs_rules;
use super::core::{Core, lock};
use super::director::Occurred;
use super::lane::{GateStatus, LaneInput};
use super::lans::{self, LanName};
use super::notify;
use super::served::Served;
use crate::config::{self, Config, VipGroup};
use crate::vrrp::Auth;
use hamesh_raft::command::{Definition, GroupName, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// How long the director may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than these are counted and not named.
const FEW: usize = 8;

/// A configuration on its way to the director, which answers whether it serves that now.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) config: Arc<Config>,
    pub(crate) answer: oneshot::Sender<Result<(), String>>,
}

/// Reads the files anew. Returns what has changed, in words.
///
/// # Errors
/// Why nothing was changed.
pub(crate) async fn reload(core: &Core) -> Result<String, String> {
    let _one = core.reloading.lock().await;
    let result = changed(core).await;
    match &result {
        Ok(done) => tracing::info!("reloaded: {done}"),
        Err(why) => tracing::error!("not reloaded, nothing was changed: {why}"),
    }
    result
}

async fn changed(core: &Core) -> Result<String, String> {
    let file = core.file.clone();
    let read = tokio::task::spawn_blocking(move || config::load(&file)).await.map_err(|error| error.to_string())?;
    let fresh = Arc::new(read.map_err(|errors| errors.to_string())?);
    let running = core.config();
    let fixed = fixed(&running, &fresh);
    if !fixed.is_empty() {
        let what = fixed.join(", ");
        return Err(format!(
            "{what} cannot change while hamesh runs. Restart it for that; SIGUSR2 does so and keeps the VIPs that stay what they are"
        ));
    }
    if matches!(lock(&core.lane_status).gate, Some(GateStatus::Lifetimes(_))) {
        let needs = needs_rules(&fresh);
        if !needs.is_empty() {
            return Err(format!("this kernel has no nf_tables, which these need: {}", needs.join("; ")));
        }
    }
    if fresh.groups.is_empty() && !running.groups.is_empty() {
        // An empty file is rather half a write than a wish.
        return Err("no VIP group is configured any more: drain this node, or stop hamesh, if that is meant".to_owned());
    }
    let fifos = notify::open(&fresh).map_err(|error| error.to_string())?;
    if running.node.role == Role::Director {
        let (balance, config) = (core.balance.clone(), fresh.clone());
        let begun = tokio::task::spawn_blocking(move || balance.begin(&config, BTreeSet::new())).await;
        begun.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))?;
        let (answer, answered) = oneshot::channel();
        let order = LaneInput::Reload(Fresh { config: fresh.clone(), answer });
        core.lane.send(order).await.map_err(|_| "the lane has ended".to_owned())?;
        let served = match timeout(PATIENCE, answered).await {
            Ok(Ok(served)) => served,
            Ok(Err(_)) => Err("the lane has ended".to_owned()),
            Err(_) => Err(format!("the director has not answered within {PATIENCE:?}")),
        };
        if served.is_err() {
            // Its thread may just have begun, with what is not to be ours.
            core.balance.order(Order::Own(balance::scope(&running)));
        }
        served?;
    }
    // Not before the director: what is given up is told as it was wished before.
    core.notices.reload(&fresh, fifos).await;
    let (old, new) = (balance::scope(&running), balance::scope(&fresh));
    if old != new {
        core.balance.order(Order::Own(new));
    }
    if running.ipvs != fresh.ipvs {
        core.balance.order(Order::Beside(fresh.ipvs.clone()));
    }
    let mut done = differences("vip", &running.groups, &fresh.groups);
    done.extend(differences("service", &running.services, &fresh.services));
    done.extend(differences("track_script", &running.scripts, &fresh.scripts));
    let sections = [("[ipvs]", running.ipvs != fresh.ipvs), ("[notify]", running.notify != fresh.notify)];
    done.extend(sections.iter().filter(|(_, differs)| *differs).map(|(name, _)| format!("{name} changed")));
    if running.health != fresh.health {
        done.push("[health] changed".to_owned());
    }
    // Who checks servers follows it.
    core.current.send_replace(fresh);
    say_wishes(core, Some(&running));
    Ok(if done.is_empty() { "nothing differs".to_owned() } else { done.join(", ") })
}

/// Tells the others what this node's files say, instead of what they said `before`; `status` on any node shows where
/// they differ.
pub(crate) fn say_wishes(core: &Core, before: Option<&Config>) {
    let wishes = wishes(&core.config());
    for key in before.map(self::wishes).unwrap_or_default().into_keys().filter(|key| !wishes.contains_key(key)) {
        core.gossip.remove_fact(key);
    }
    for (key, value) in wishes {
        core.gossip.set_fact(key, value);
    }
}

fn wishes(config: &Config) -> BTreeMap<String, String> {
    let mut wishes = BTreeMap::from([("wish/lease ttl".to_owned(), format!("{:?}", config.lease.ttl))]);
    for (name, group) in &config.groups {
        let addresses: Vec<String> = group.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
        let mut wish = |key: &str, value: String| wishes.insert(format!("wish/vip.{name} {key}"), value);
        wish("vrid", group.vrid.to_string());
        wish("version", group.version.number().to_string());
        wish("advertisement_interval", format!("{:?}", group.interval));
        wish("addresses", addresses.join(" "));
        if let Some(sync) = &group.sync {
            wish("sync", sync.clone());
        }
        if !group.excluded.is_empty() {
            let excluded: Vec<String> = group.excluded.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
            wish("excluded_addresses", excluded.join(" "));
        }
    }
    wishes
}

/// What differs and is fixed for the time of a run: who and where this node is, and the terms of its session.
fn fixed(running: &Config, fresh: &Config) -> Vec<&'static str> {
    let (old, new) = (&running.node, &fresh.node);
    let all = [
        ("node.name", old.name != new.name),
        ("node.rack", old.rack != new.rack),
        ("node.role", old.role != new.role),
        ("node.guard", old.guard != new.guard),
        ("node.listen", old.listen != new.listen),
        ("node.data_dir", old.data_dir != new.data_dir),
        ("node.watchdog", old.watchdog != new.watchdog),
        ("[admin]", running.admin != fresh.admin),
        ("[lease]", running.lease != fresh.lease),
        ("ipvs.flush", running.ipvs.flush != fresh.ipvs.flush),
        ("[bfd]", running.bfd != fresh.bfd),
        ("[interface]", running.delays != fresh.delays),
        ("[static]", running.fixed != fresh.fixed),
        ("what is in a sync group", synced(running) != synced(fresh)),
        ("a group with `localnode`", with_localnode(running) != with_localnode(fresh)),
        ("a group with a virtual MAC", with_virtual_mac(running) != with_virtual_mac(fresh)),
        ("a group with an authentication header", authenticated(running) != authenticated(fresh)),
    ];
    all.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

/// Who shares a lease with whom.
fn synced(config: &Config) -> BTreeMap<&GroupName, &Vec<GroupName>> {
    config.syncs.iter().map(|(name, sync)| (name, &sync.vips)).collect()
}

/// Its device is made and gated at the start.
fn with_localnode(config: &Config) -> Vec<Definition> {
    config.groups.values().filter(|group| group.localnode).map(VipGroup::definition).collect()
}

fn with_virtual_mac(config: &Config) -> Vec<(&GroupName, &VipGroup)> {
    config.groups.iter().filter(|(_, group)| group.virtual_mac.is_some()).collect()
}

/// Its socket is opened with its LAN, and its sequence numbers go on.
fn authenticated(config: &Config) -> Vec<(&GroupName, Auth)> {
    let groups = config.groups.iter().map(|(name, group)| (name, group.auth));
    groups.filter(|(_, auth)| matches!(auth, Auth::Ah(_))).collect()
}

/// What differs, by name; so many that nobody would read them are counted.
fn differences<T: PartialEq>(section: &str, old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Vec<String> {
    let mut all = BTreeMap::from([("added", Vec::new()), ("changed", Vec::new()), ("removed", Vec::new())]);
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let word = match (old.get(name), new.get(name)) {
            (None, Some(_)) => "added",
            (Some(_), None) => "removed",
            (Some(old), Some(new)) if old != new => "changed",
            (Some(_), Some(_)) | (None, None) => continue,
        };
        all.entry(word).or_default().push(name);
    }
    let told = all.into_iter().flat_map(|(word, names)| match names.len() {
        0..=FEW => names.into_iter().map(|name| format!("{section}.{name} {word}")).collect(),
        many => vec![format!("{many} of [{section}] {word}")],
    });
    told.collect()
}

/// Opens the LANs that are new, beside the lane's work, and hands everything to the director.
pub(super) fn prepare(fresh: Fresh, known: BTreeSet<LanName>, tell: mpsc::Sender<Occurred>) {
    tokio::spawn(async move {
        let names = &lans::names(&fresh.config) - &known;
        match lans::open(&fresh.config, &names, &tell).await {
            // The director answers.
            Ok(lans) => drop(tell.send(Occurred::Reloaded(fresh, lans)).await),
            Err(error) => drop(fresh.answer.send(Err(format!("{error:#}")))),
        }
    });
}

/// What becomes of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is as it was.
    Stays,
    /// It is changed where it stands: nothing that a lease was granted for differs.
    Adapts,
    /// What was granted differs, or where that is: it is given up first, if it is held, and then changed.
    Moves,
    /// It becomes another virtual router, or none: it is given up first, if it is held.
    Ends,
}

impl Turn {
    /// `new` is `None` where this node does not serve the group any more.
    pub(super) fn of(old: &Served, new: Option<&VipGroup>) -> Self {
        let Some(new) = new else { return Self::Ends };
        let router = |group: &VipGroup| (group.interface.clone(), group.family, group.vrid);
        let is_elsewhere = |new: &VipGroup| {
            new.all().any(|(address, _)| new.interface_of(address) != old.config.interface_of(address))
        };
        if *new == old.config {
            Self::Stays
        } else if router(new) != router(&old.config) {
            Self::Ends
        } else if new.definition() != old.definition || is_elsewhere(new) {
            Self::Moves
        } else {
            Self::Adapts
        }
    }
}
