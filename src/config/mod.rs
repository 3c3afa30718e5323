//! Configuration: text to types, once, at the door. Everything that is wrong is reported at the same time, each with
//! its file, line and column, and nothing starts until all of it is right.
//!
//! `hamesh.toml` ([`node`]) describes this node and names `cluster.toml`, the same on every node, or
//! a `keepalived.conf` (used unmodified), or both. The only I/O is reading the files that are named.

pub mod address;
pub mod bfd;
pub mod check;
pub mod diagnostic;
pub mod fixed;
pub mod group;
mod hmac;
pub mod ipvs;
pub mod node;
pub mod notify;
pub mod profile;
pub mod service;
pub mod sync;
pub mod track;

mod cluster;
mod convert;
mod duration;
mod forwarding;
mod keepalived;
mod reader;
mod route;
mod timing;

pub use convert::convert;
use diagnostic::{Diagnostic, Errors, Log, Place, Source};
pub use group::VipGroup;
pub use ipvs::Ipvs;
pub use node::{Admin, Node};
pub use profile::LeaseProfile;
pub use service::{HealthMesh, Service};
pub use sync::SyncGroup;

use hamesh_raft::command::{Definition, GroupName, Role};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[node]`.
    pub node: Node,
    /// `[admin]`.
    pub admin: Admin,
    /// `[lease]`.
    pub lease: LeaseProfile,
    /// Every VIP group, of both kinds of file.
    pub groups: BTreeMap<GroupName, VipGroup>,
    /// The groups of them that move together, by the names of their leases.
    pub syncs: BTreeMap<GroupName, SyncGroup>,
    /// Every service.
    pub services: BTreeMap<String, Service>,
    /// The scripts that groups track.
    pub scripts: BTreeMap<String, track::Script>,
    /// The sessions that groups and checks go by.
    pub bfd: BTreeMap<String, bfd::Settings>,
    /// How long changes of interfaces must last.
    pub delays: BTreeMap<String, track::Delays>,
    /// What is there while hamesh runs.
    pub fixed: fixed::Fixed,
    /// Who is told of states.
    pub notify: notify::Notifications,
    /// How servers are watched.
    pub health: HealthMesh,
    /// What IPVS does beside.
    pub ipvs: Ipvs,
    /// Where `cluster.toml` is, or is to be.
    pub cluster: Option<ClusterFile>,
    /// What works and may not be meant.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// Every group's definition, served here or not.
    pub fn definitions(&self) -> Vec<Definition> {
        self.groups.values().map(VipGroup::definition).collect()
    }

    /// The name of the lease that a group moves with; that of a group which is not configured here is its own.
    pub fn lease<'a>(&'a self, group: &'a str) -> &'a str {
        self.groups.get(group).map_or(group, |config| config.lease(group))
    }

    /// The groups that move with the lease `name`, in the order of their sync group.
    pub fn members(&self, name: &str) -> Vec<GroupName> {
        match self.syncs.get(name) {
            Some(sync) => sync.vips.clone(),
            None => self.groups.get(name).map(|_| name.to_owned()).into_iter().collect(),
        }
    }

    /// Whether there are services behind a group.
    pub fn is_balanced(&self, group: &str) -> bool {
        self.services.values().any(|service| service.vip == group)
    }
}

/// The file that is the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFile {
    /// Where.
    pub path: PathBuf,
    /// What it says. `None`: nothing is there yet; the groups are those of keepalived.conf, if any.
    pub text: Option<String>,
}

/// Reads and checks the configuration of a node from its `hamesh.toml`.
pub fn load(path: &Path) -> Result<Config, Errors> {
    load_node(path, true)
}

/// A duration as the command line and the files have it: `"1s"`, `"200ms"`, `"2h"`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, &'static str> {
    duration::parse(text)
}

/// Like [`load`], for a node that joins: `cluster.toml` may be absent, the join copies it there.
pub fn load_for_join(path: &Path) -> Result<Config, Errors> {
    load_node(path, false)
}

/// Checks a `hamesh.toml` with what it names, a `cluster.toml` or a `keepalived.conf`, told apart by their content.
/// Returns the warnings. `id` is what the `@` lines of a keepalived.conf are compared with, keepalived's `-i`; `None`: the first part
/// of this machine's name.
pub fn check(path: &Path, id: Option<&str>) -> Result<Vec<Diagnostic>, Errors> {
    let log = Log::default();
    let source = match Source::read(path) {
        Ok(source) => source,
        Err(error) => return unreadable(path, &error, log),
    };
    let groups = match kind(&source.text) {
        Kind::Node => return load(path).map(|config| config.warnings),
        Kind::Cluster => {
            let cluster = cluster::read(&source, None, &log);
            let parts = |cluster: cluster::Cluster| {
                let more = (cluster.notify, cluster.ipvs, cluster.syncs, (cluster.bfd, cluster.fixed, cluster.delays));
                (cluster.groups, cluster.services, cluster.scripts, more)
            };
            cluster.map(parts).unwrap_or_default()
        }
        Kind::Keepalived => keepalived::read(&source, &keepalived::Setting::new(id, false), &log),
    };
    let (mut groups, services, _, (notify, ipvs, syncs, (_, fixed, _))) = groups;
    sync::apply(syncs, &mut groups, &log);
    group::check(&groups, None, &log);
    group::check_mail(&groups, &notify, &log);
    ipvs::check(&ipvs, &groups, &log);
    fixed::check(&fixed, &groups, &log);
    service::build(services, &groups, &notify, &log);
    log.finish(Some)
}

fn unreadable<T>(path: &Path, error: &std::io::Error, log: Log) -> Result<T, Errors> {
    let source = Arc::new(Source { path: path.to_owned(), text: String::new() });
    log.add(Diagnostic::error(&Place::file(&source), format!("cannot read the file: {error}")));
    log.finish(|_| None)
}

fn load_node(path: &Path, complete: bool) -> Result<Config, Errors> {
    let log = Log::default();
    let source = match Source::read(path) {
        Ok(source) => source,
        Err(error) => return unreadable(path, &error, log),
    };
    let Some(draft) = node::read(&source, &log) else {
        return log.finish(|_| None);
    };
    if draft.guard && (draft.role == Role::Witness || draft.keepalived.is_none()) {
        let error = Diagnostic::error(&draft.place, "a guard is a director with a `keepalived_config`");
        log.add(error.help("name the file that the keepalived on this host is started with"));
    } else if draft.role == Role::Director && draft.cluster.is_none() && draft.keepalived.is_none() {
        let error = Diagnostic::error(&draft.place, "a director needs `cluster`, `keepalived_config` or both");
        log.add(error.help("for example cluster = \"/etc/hamesh/cluster.toml\""));
    }

    let (mut lease, mut groups, mut services) = (LeaseProfile::default(), Vec::new(), Vec::new());
    let (mut health, mut ipvs) = (HealthMesh::default(), Ipvs::default());
    let (mut scripts, mut bfd) = (BTreeMap::new(), BTreeMap::new());
    let (mut fixed, mut delays) = (fixed::Fixed::default(), BTreeMap::new());
    let mut notify = notify::Notifications::default();
    let mut syncs = Vec::new();
    let mut cluster_file = None;
    if let Some(file) = &draft.cluster {
        let text = Source::read(&file.value);
        let present = !text.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let said = text.as_ref().ok().map(|source| source.text.clone());
        cluster_file = Some(ClusterFile { path: file.value.clone(), text: said });
        match text {
            Ok(source) => {
                let name = draft.name.as_ref().filter(|_| draft.role == Role::Director);
                let director = name.map(|name| cluster::Director { name: &name.value, rack: &draft.rack });
                if let Some(cluster) = cluster::read(&source, director, &log) {
                    (lease, groups, services) = (cluster.lease, cluster.groups, cluster.services);
                    (health, scripts, notify) = (cluster.health, cluster.scripts, cluster.notify);
                    (ipvs, syncs, bfd) = (cluster.ipvs, cluster.syncs, cluster.bfd);
                    (fixed, delays) = (cluster.fixed, cluster.delays);
                }
            }
            Err(_) if !present && !complete => {}
            Err(error) => {
                let message = format!("cannot read {}: {error}", file.value.display());
                log.add(Diagnostic::error(&file.place, message));
            }
        }
    }
    if let Some(group) = groups.first().filter(|_| draft.guard) {
        let error = Diagnostic::error(&group.name.place, "a guard holds no VIP but those of its keepalived");
        log.add(error.help("leave no more than `[lease]` in cluster.toml, the same on every node"));
    }
    if let Some(file) = &draft.keepalived {
        match Source::read(&file.value) {
            Ok(source) => {
                let setting = keepalived::Setting::new(draft.keepalived_id.as_deref(), draft.guard);
                let (mut instances, servers, more, (told, global, synced, (sessions, still, later))) =
                    keepalived::read(&source, &setting, &log);
                if let Some(twin) = more.keys().find(|name| scripts.contains_key(*name)) {
                    let message = format!("script `{twin}` is in cluster.toml and in keepalived.conf");
                    log.add(Diagnostic::error(&file.place, message).help("give it another name in one of them"));
                }
                if ipvs == Ipvs::default() {
                    ipvs = global;
                }
                scripts.extend(more);
                if let Some(twin) = sessions.keys().find(|name| bfd.contains_key(*name)) {
                    let message = format!("bfd session `{twin}` is in cluster.toml and in keepalived.conf");
                    log.add(Diagnostic::error(&file.place, message).help("give it another name in one of them"));
                }
                bfd.extend(sessions);
                delays.extend(later);
                if draft.role == Role::Director {
                    fixed.extend(still);
                }
                if notify == notify::Notifications::default() {
                    notify = told;
                } else if told != notify::Notifications::default() {
                    let message = "who is told of states is in cluster.toml and in keepalived.conf";
                    log.add(Diagnostic::error(&file.place, message).help("leave it in one of them"));
                }
                if draft.role == Role::Witness {
                    instances.iter_mut().for_each(|group| group.priority = None);
                }
                groups.extend(instances);
                syncs.extend(synced);
                services.extend(servers);
            }
            Err(error) => {
                let message = format!("cannot read {}: {error}", file.value.display());
                log.add(Diagnostic::error(&file.place, message));
            }
        }
    }
    let syncs = sync::apply(syncs, &mut groups, &log);
    group::check(&groups, draft.listen.as_ref(), &log);
    group::check_mail(&groups, &notify, &log);
    ipvs::check(&ipvs, &groups, &log);
    fixed::check(&fixed, &groups, &log);
    let services = service::build(services, &groups, &notify, &log);
    let groups = groups.into_iter().filter_map(group::Draft::build).collect();
    let parts = draft.build();
    log.finish(|warnings| {
        let (node, admin) = parts?;
        Some(Config {
            node,
            admin,
            lease,
            groups,
            syncs,
            services,
            scripts,
            bfd,
            fixed,
            delays,
            notify,
            health,
            ipvs,
            cluster: cluster_file,
            warnings,
        })
    })
}

enum Kind {
    Node,
    Cluster,
    Keepalived,
}

/// keepalived.conf has neither `[sections]` nor assignments outside of braces, and TOML has no bare words.
fn kind(text: &str) -> Kind {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let toml = |line: &str| {
        let brace = line.find('{').unwrap_or(line.len());
        line.starts_with('[') || line[..brace].contains('=')
    };
    let Some(first) = lines.clone().next() else { return Kind::Node };
    // `$NAME=` is a definition of keepalived's, `@id` a condition.
    if !toml(first) || first.starts_with(['$', '@', '~']) {
        return Kind::Keepalived;
    }
    let mut named = |names: &[&str]| {
        let heads = |line: &str| {
            let head = line.trim_start_matches('[').split(['.', ']', '=', ' ']).next().unwrap_or_default();
            names.contains(&head)
        };
        lines.any(heads)
    };
    if named(&["node", "admin"]) { Kind::Node } else { Kind::Cluster }
}

#[cfg(test)]
mod tests;
