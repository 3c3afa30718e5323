//! What operators write, and what they are told.

use super::diagnostic::Severity;
use super::*;
use crate::vrrp::checksum::Form;
use crate::vrrp::hmac::Mode;
use crate::vrrp::{Auth, LegacyPeers, Password, Version};
use hamesh_raft::command::{Definition, Family};
use std::net::IpAddr;
use std::time::Duration;

const NODE: &str = r#"[node]
name = "lb1"
listen = "10.0.0.11:7112"
cluster = "cluster.toml"
"#;

const WEB: &str = r#"[vip.web]
interface = "eth0"
vrid = 51
addresses = ["203.0.113.10/24"]
"#;

type Files<'a> = &'a [(&'a str, &'a str)];

fn within<T>(files: Files<'_>, read: impl FnOnce(&Path) -> T) -> (T, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    (read(dir.path()), format!("{}/", dir.path().display()))
}

fn loaded(files: Files<'_>) -> Config {
    match within(files, |dir| load(&dir.join("hamesh.toml"))) {
        (Ok(config), _) => config,
        (Err(errors), _) => panic!("{errors}"),
    }
}

/// What checking the first file says, as `file:line:column: message`, with the help behind a slash.
fn faults(files: Files<'_>) -> String {
    let (result, dir) = within(files, |dir| check(&dir.join(files[0].0), None));
    let found = match result {
        Ok(warnings) => warnings,
        Err(errors) => errors.iter().cloned().collect(),
    };
    let mut text = String::new();
    for Diagnostic { severity, place, message, help, .. } in &found {
        let (line, column) = place.line_column();
        let severity = if *severity == Severity::Warning { "warning: " } else { "" };
        let help = help.as_ref().map(|help| format!(" / {help}")).unwrap_or_default();
        text += &format!("{}:{line}:{column}: {severity}{message}{help}\n", place.source.path.display());
    }
    text.replace(&dir, "")
}

#[test]
fn the_examples_in_deploy_are_right() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let config = load(&deploy.join("hamesh.toml")).unwrap();
    assert_eq!(config.node.name, "lb1");
    assert_eq!(config.node.role, Role::Director);
    assert_eq!(config.node.data_dir, Path::new("/var/lib/hamesh"));
    assert_eq!(config.admin.socket, Path::new("/run/hamesh/hamesh.sock"));
    assert_eq!(config.admin.metrics, Some("127.0.0.1:9746".parse().unwrap()));
    assert_eq!(config.lease, LeaseProfile::default());
    let web = VipGroup {
        localnode: false,
        interface: "eth0".into(),
        family: Family::V4,
        vrid: 51,
        virtual_mac: None,
        plain_adverts: false,
        needs_interface: true,
        version: Version::V3,
        interval: Duration::from_secs(1),
        addresses: vec![(IpAddr::from([203, 0, 113, 10]), 24)],
        excluded: Vec::new(),
        placings: BTreeMap::new(),
        priority: Some(200),
        accept: true,
        nopreempt: false,
        auth: Auth::None,
        hmac: None,
        checksum: Form::Pseudo,
        legacy_peers: LegacyPeers::Any,
        source: None,
        unicast: None,
        multicast: None,
        timing: crate::vrrp::timing::Timing::default(),
        pace: None,
        track: Vec::new(),
        notify: crate::config::notify::Notify::default(),
        routing: crate::kernel::routing::Routing::default(),
        sync: None,
        quorum_loss: None,
    };
    assert_eq!(config.groups, BTreeMap::from([("web".to_owned(), web)]));
    assert_eq!(config.warnings, []);
    assert_eq!(check(&deploy.join("cluster.toml"), None), Ok(vec![]));
}

#[test]
fn the_examples_are_right_with_every_commented_line_too() {
    let whole = |text: &str| {
        let uncommented = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(code) if code.starts_with('[') || code.contains(" = ") => code,
            Some(_) | None => line,
        });
        uncommented.collect::<Vec<_>>().join("\n")
    };
    let cluster = whole(include_str!("../../deploy/cluster.toml")).replace("version = 3", "version = 2");
    let cluster = cluster.replace("checksum = \"plain\"", "");
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &cluster), ("web.pass", "hunter22\n")]);
    let web = &config.groups["web"];
    assert!(web.nopreempt);
    assert_eq!(web.auth, Auth::Pass(Password::cut("hunter22")));
    assert_eq!(web.legacy_peers, LegacyPeers::Only(vec![IpAddr::from([10, 0, 0, 21])]));
    let service = &config.services["web"];
    assert_eq!((service.servers.len(), service.scheduler), (2, "wrr"));
    assert_eq!(service.servers[1].checks[0].fall, 3);
    assert_eq!(config.health, HealthMesh { observers: 3, agree: 2 });
    assert_eq!(config.warnings, []);
}

#[test]
fn all_faults_of_all_files_are_shown_at_once_the_way_rustc_does() {
    let node = r#"[node]
name = "LB_1"
listn = "10.0.0.11:7112"
listen = "203.0.113.10:7112"
cluster = "cluster.toml"
[admin]
metrics = 9746
"#;
    let cluster = r#"[vip.web]
interface = "eth0"
vrid = 300
addresses = ["203.0.113.10/24", "2001:db8::1/64"]
priority = { lb1 = 200 }
[vip.mail]
interface = "eth0"
vrid = 51
addresses = ["203.0.113.10/24"]
[lease]
profile = "defualt"
"#;
    let files = [("hamesh.toml", node), ("cluster.toml", cluster)];
    let (result, dir) = within(&files, |dir| load(&dir.join("hamesh.toml")));
    let shown = result.unwrap_err().to_string().replace(&dir, "");
    let expected = r#"error: `LB_1` cannot be the name of a node
 --> hamesh.toml:2:8
  |
2 | name = "LB_1"
  |        ^^^^^^
  |
  = help: it stands in certificates: up to 63 of a-z, 0-9 and `-`, which is neither first nor last

error: unknown key `node.listn`
 --> hamesh.toml:3:1
  |
3 | listn = "10.0.0.11:7112"
  | ^^^^^
  |
  = help: did you mean `listen`?

error: `admin.metrics` must be an address and port such as "127.0.0.1:9746"
 --> hamesh.toml:7:11
  |
7 | metrics = 9746
  |           ^^^^ this is an integer

error: `vip.web.vrid` must be between 1 and 255
 --> cluster.toml:3:8
  |
3 | vrid = 300
  |        ^^^

error: `203.0.113.10` is where this node's mesh listens
 --> cluster.toml:4:14
  |
4 | addresses = ["203.0.113.10/24", "2001:db8::1/64"]
  |              ^^^^^^^^^^^^^^^^^
  |
 ::: hamesh.toml:4:10
  |
4 | listen = "203.0.113.10:7112"
  |          ------------------- the mesh
  |
  = help: let the mesh listen on an address that stays with the node

error: `2001:db8::1` is of another family than the group's first address
 --> cluster.toml:4:33
  |
4 | addresses = ["203.0.113.10/24", "2001:db8::1/64"]
  |              -----------------  ^^^^^^^^^^^^^^^^
  |              |
  |              the first
  |
  = help: make a group of its own for each family; both may have the same vrid

error: `203.0.113.10` is in two VIP groups
 --> cluster.toml:9:14
  |
4 | addresses = ["203.0.113.10/24", "2001:db8::1/64"]
  |              ----------------- `web` has it already
...
9 | addresses = ["203.0.113.10/24"]
  |              ^^^^^^^^^^^^^^^^^

error: `203.0.113.10` is where this node's mesh listens
 --> cluster.toml:9:14
  |
9 | addresses = ["203.0.113.10/24"]
  |              ^^^^^^^^^^^^^^^^^
  |
 ::: hamesh.toml:4:10
  |
4 | listen = "203.0.113.10:7112"
  |          ------------------- the mesh
  |
  = help: let the mesh listen on an address that stays with the node

error: `lease.profile` cannot be "defualt"
  --> cluster.toml:11:11
   |
11 | profile = "defualt"
   |           ^^^^^^^^^ one of "fast", "default", "vm", "wan"
   |
   = help: did you mean `default`?"#;
    assert_eq!(shown, expected);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load(Path::new("/nonexistent/hamesh.toml")).unwrap_err().to_string();
    let expected = "error: cannot read the file: No such file or directory (os error 2)\n--> /nonexistent/hamesh.toml";
    assert_eq!(error, expected);
    let (result, dir) = within(&[("hamesh.toml", NODE)], |dir| load(&dir.join("hamesh.toml")));
    let text = result.unwrap_err().to_string().replace(&dir, "");
    assert!(text.starts_with("error: cannot read cluster.toml: No such file"), "{text}");
    assert!(text.contains("--> hamesh.toml:4:11"), "{text}");
}

#[test]
fn a_node_that_joins_needs_no_cluster_file_yet() {
    let (config, dir) = within(&[("hamesh.toml", NODE)], |dir| load_for_join(&dir.join("hamesh.toml")));
    let config = config.unwrap();
    let file = ClusterFile { path: Path::new(&dir).join("cluster.toml"), text: None };
    assert_eq!(config.cluster, Some(file));
    assert!(config.groups.is_empty());
    let there = [("hamesh.toml", NODE), ("cluster.toml", "[vip.web]\n")];
    let (result, _) = within(&there, |dir| load_for_join(&dir.join("hamesh.toml")));
    assert!(result.is_err(), "a file that is there is checked");
}

#[test]
fn syntax_errors_are_shown_where_they_are() {
    assert_eq!(faults(&[("hamesh.toml", "[node\nname = \"a\"\n")]), "hamesh.toml:1:6: unclosed table, expected `]`\n");
    assert_eq!(
        faults(&[("hamesh.toml", NODE), ("cluster.toml", "[lease]\nprofile = vm\n")]),
        "cluster.toml:2:11: string values must be quoted, expected literal string\n"
    );
    assert_eq!(faults(&[("hamesh.toml", "")]), "hamesh.toml:1:1: section [node] is missing\n");
}

#[test]
fn what_is_wrong_with_a_node() {
    let node = |lines: &str| faults(&[("hamesh.toml", &format!("[node]\n{lines}\n")), ("c", WEB)]);
    let fine = "name = \"w\"\nlisten = \"[fd00::1]:7112\"\nrole = \"witness\"\n";
    assert_eq!(node(fine), "");
    assert_eq!(
        node("role = \"witness\""),
        "hamesh.toml:1:2: `node` needs `name`\nhamesh.toml:1:2: `node` needs `listen`\n"
    );
    assert_eq!(
        node("name = \"a\"\nlisten = \"10.0.0.1:1\""),
        "hamesh.toml:1:2: a director needs `cluster`, `keepalived_config` or both / \
         for example cluster = \"/etc/hamesh/cluster.toml\"\n"
    );
    let role = "name = \"a\"\nlisten = \"10.0.0.1:1\"\nrole = \"witnes\"\ncluster = \"c\"";
    assert_eq!(node(role), "hamesh.toml:4:8: `node.role` cannot be \"witnes\" / did you mean `witness`?\n");
    let listen = |address: &str| node(&format!("name = \"a\"\nrole = \"witness\"\nlisten = \"{address}\""));
    assert_eq!(
        listen("10.0.0.1"),
        "hamesh.toml:4:10: `node.listen` is not an address and port / for example \"10.0.0.11:7112\"\n"
    );
    assert_eq!(
        listen("0.0.0.0:7112"),
        "hamesh.toml:4:10: other nodes cannot reach `0.0.0.0` / name the address that they are to dial\n"
    );
    assert_eq!(
        listen("10.0.0.1:65535"),
        "hamesh.toml:4:10: `node.listen` cannot have port 65535 / the lease plane takes the next port: use 1 to 65534\n"
    );
    let socket = format!("{fine}[admin]\nsocket = \"/{}\"\nmetrics = \"localhost\"", "x".repeat(107));
    assert_eq!(
        node(&socket),
        "hamesh.toml:6:10: a socket's path has 1 to 107 bytes, this one has 108\n\
         hamesh.toml:7:11: `admin.metrics` is not an address and port / for example \"127.0.0.1:9746\"\n"
    );
}

#[test]
fn files_are_told_apart_by_their_content() {
    for (text, node, cluster, keepalived) in [
        ("# x\n[node]\nname = \"a\"\n", true, false, false),
        ("node.name = \"a\"\n", true, false, false),
        ("", true, false, false),
        ("[lease]\n", false, true, false),
        ("vip.web.vrid = 5\n", false, true, false),
        ("! keepalived\nglobal_defs {\n}\n", false, false, true),
        ("vrrp_instance a { state MASTER }\n", false, false, true),
        ("$X=5\n", false, false, true),
    ] {
        let kind = kind(text);
        let found = (matches!(kind, Kind::Node), matches!(kind, Kind::Cluster), matches!(kind, Kind::Keepalived));
        assert_eq!(found, (node, cluster, keepalived), "{text}");
    }
}

mod bfd;
mod cluster;
mod convert;
mod fixed;
mod guard;
mod keepalived;
mod notify;
mod route;
mod service;
mod strict;
mod sync;
mod track;
mod track_group;
