//! `hamesh.toml`: this node.

use super::diagnostic::{Diagnostic, Located, Log, Place, Source};
use super::reader::{Section, Value, parse};
use hamesh_raft::command::Role;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// The longest path of a Unix socket: `sun_path` less its closing zero.
const SOCKET_PATH: usize = 107;
/// The longest label of a DNS name (RFC 1035 section 2.3.4).
const NAME: usize = 63;

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique in the cluster; stands in certificates.
    pub name: String,
    /// Where it stands; voters are spread over racks.
    pub rack: String,
    /// What it may do.
    pub role: Role,
    /// Where its mesh endpoint listens; the lease plane takes the next port.
    pub listen: SocketAddr,
    /// What must survive a restart.
    pub data_dir: PathBuf,
    /// Whether the keepalived on this host elects and serves, and only its gate is ours.
    pub guard: bool,
    /// The kernel's watchdog, fed while the thread that keeps leases turns; it resets the machine otherwise.
    pub watchdog: Option<PathBuf>,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where the command line reaches the daemon.
    pub socket: PathBuf,
    /// Where Prometheus scrapes, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// The file as read, perhaps with holes where something was wrong.
pub(super) struct Draft {
    pub place: Place,
    pub name: Option<Located<String>>,
    pub role: Role,
    pub listen: Option<Located<SocketAddr>>,
    pub cluster: Option<Located<PathBuf>>,
    pub keepalived: Option<Located<PathBuf>>,
    /// What that one's `@` lines are compared with: its keepalived's `-i`.
    pub keepalived_id: Option<String>,
    pub guard: bool,
    pub rack: String,
    data_dir: PathBuf,
    watchdog: Option<Located<PathBuf>>,
    admin: Admin,
}

impl Draft {
    /// `None` when a part is missing, which was noted where it was missed.
    pub fn build(self) -> Option<(Node, Admin)> {
        let Self { rack, role, data_dir, guard, .. } = self;
        let watchdog = self.watchdog.map(|path| path.value);
        let node = Node { name: self.name?.value, rack, role, listen: self.listen?.value, data_dir, guard, watchdog };
        Some((node, self.admin))
    }
}

/// Reads the file; `None` after syntax errors.
pub(super) fn read(source: &Arc<Source>, log: &Log) -> Option<Draft> {
    let table = parse(source, log)?;
    let root = Section::root(&table, source, log);
    let node = root.required("node");
    let node = node.and_then(|_| root.section("node"));
    let admin = read_admin(root.section("admin"), source, log);
    root.close();
    let node = node?;
    let path = |value: Option<Value<'_>>| Some(value?.string()?.map(|path| source.resolve(&path)));
    let draft = Draft {
        place: node.place().clone(),
        name: node.required("name").and_then(Value::string).inspect(|name| check_name(name, log)),
        role: node.get("role").and_then(|role| role.choice(&ROLES)).map_or(Role::Director, |role| role.value),
        listen: node.required("listen").and_then(address).inspect(|listen| check_listen(listen, log)),
        cluster: path(node.get("cluster")),
        keepalived: path(node.get("keepalived_config")),
        keepalived_id: node.get("keepalived_id").and_then(Value::string).map(|id| id.value),
        guard: node.get("guard").and_then(Value::boolean).is_some_and(|guard| guard.value),
        rack: node.get("rack").and_then(Value::string).map_or_else(|| "default".to_owned(), |rack| rack.value),
        watchdog: path(node.get("watchdog")),
        data_dir: path(node.get("data_dir")).map_or_else(|| "/var/lib/hamesh".into(), |dir| dir.value),
        admin,
    };
    node.close();
    Some(draft)
}

const ROLES: [(&str, Role); 2] = [("director", Role::Director), ("witness", Role::Witness)];

fn read_admin(section: Option<Section<'_>>, source: &Arc<Source>, log: &Log) -> Admin {
    let mut admin = Admin { socket: "/run/hamesh/hamesh.sock".into(), metrics: None };
    let Some(section) = section else { return admin };
    if let Some(socket) = section.get("socket").and_then(Value::string) {
        if socket.value.len() > SOCKET_PATH || socket.value.is_empty() {
            let message = format!("a socket's path has 1 to {SOCKET_PATH} bytes, this one has {}", socket.value.len());
            log.add(Diagnostic::error(&socket.place, message));
        }
        admin.socket = source.resolve(&socket.value);
    }
    admin.metrics =
        section.get("metrics").and_then(|v| v.parsed("an address and port", "127.0.0.1:9746")).map(|a| a.value);
    section.close();
    admin
}

fn address(value: Value<'_>) -> Option<Located<SocketAddr>> {
    value.parsed("an address and port", "10.0.0.11:7112")
}

fn check_name(name: &Located<String>, log: &Log) {
    let text = &name.value;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty()
        || text.len() > NAME
        || !text.chars().all(allowed)
        || text.starts_with('-')
        || text.ends_with('-')
    {
        let error = Diagnostic::error(&name.place, format!("`{text}` cannot be the name of a node"));
        let help =
            format!("it stands in certificates: up to {NAME} of a-z, 0-9 and `-`, which is neither first nor last");
        log.add(error.help(help));
    }
}

fn check_listen(listen: &Located<SocketAddr>, log: &Log) {
    let ip = listen.value.ip();
    if ip.is_unspecified() || ip.is_multicast() {
        let error = Diagnostic::error(&listen.place, format!("other nodes cannot reach `{ip}`"));
        log.add(error.help("name the address that they are to dial"));
    }
    if matches!(listen.value.port(), 0 | u16::MAX) {
        let message = format!("`node.listen` cannot have port {}", listen.value.port());
        log.add(Diagnostic::error(&listen.place, message).help("the lease plane takes the next port: use 1 to 65534"));
    }
}
