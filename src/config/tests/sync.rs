//! What moves together.

use super::*;
use crate::config::keepalived::{Setting, read};
use crate::config::track::{Track, Tracked};

const TOML: &str = "[vip.b]\ninterface = \"eth0\"\nvrid = 1\naddresses = [\"10.0.0.1/24\"]\n\
    [vip.a]\ninterface = \"eth1\"\nvrid = 2\naddresses = [\"10.1.0.1/24\"]\n\
    [vip.alone]\ninterface = \"eth1\"\nvrid = 3\naddresses = [\"10.1.0.2/24\"]\n";

const INSTANCES: &str = "vrrp_script chk {\n script /bin/true\n weight -20\n user root\n}\ntrack_file busy {\n file /run/busy\n}\n\
    vrrp_instance b {\n interface eth0\n virtual_router_id 1\n track_script {\n chk\n }\n track_interface {\n eth7\n eth8 weight -10\n }\n \
    virtual_ipaddress {\n 10.0.0.1/24\n }\n}\n\
    vrrp_instance a {\n interface eth1\n virtual_router_id 2\n track_file {\n busy weight 2\n }\n virtual_ipaddress {\n 10.1.0.1/24\n }\n}\n";

fn native(sync: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.toml"), format!("{TOML}{sync}")).unwrap();
    let text = "[node]\nname = \"lb1\"\nlisten = \"127.0.0.1:7112\"\ncluster = \"c.toml\"\n";
    std::fs::write(dir.path().join("h.toml"), text).unwrap();
    load(&dir.path().join("h.toml")).map_err(|errors| errors.iter().map(|e| e.message.clone()).collect())
}

fn keepalived(sync: &str) -> (Vec<group::Draft>, Vec<String>) {
    let log = Log::default();
    let text = format!("{INSTANCES}{sync}");
    let source = Arc::new(Source { path: "k.conf".into(), text });
    let (mut groups, _, _, (_, _, syncs, _)) = read(&source, &Setting::new(None, false), &log);
    crate::config::sync::apply(syncs, &mut groups, &log);
    let said = match log.finish(Some) {
        Ok(warnings) => warnings,
        Err(errors) => errors.iter().cloned().collect(),
    };
    (groups, said.into_iter().map(|said| said.message).collect())
}

#[test]
fn groups_share_a_lease_and_what_it_tracks() {
    let config = native(
        "[sync.edge]\nvips = [\"b\", \"a\"]\ntrack = [{ interface = \"eth9\" }]\nnotify = { priority_changes = true }\n",
    );
    let config = config.unwrap();
    assert_eq!(config.members("edge"), ["a", "b"]);
    assert_eq!((config.lease("a"), config.lease("b"), config.lease("alone")), ("edge", "edge", "alone"));
    assert_eq!(config.members("alone"), ["alone"]);
    assert!(config.members("a").contains(&"a".to_owned()) && config.members("nobody").is_empty());
    let tracked = Track { what: Tracked::Interface("eth9".to_owned()), weight: 0, reverse: false };
    for (name, group) in &config.groups {
        let is_in = name != "alone";
        assert_eq!(group.track.contains(&tracked), is_in);
        assert_eq!(group.notify.priority_changes, is_in);
    }
}

#[test]
fn what_cannot_move_together_is_refused() {
    for (text, wanted) in [
        ("[sync.edge]\nvips = []\n", "the sync group `edge` has no VIP groups"),
        ("[sync.edge]\nvips = [\"a\", \"c\"]\n", "there is no VIP group `c`"),
        ("[sync.edge]\nvips = [\"a\", \"a\"]\n", "`a` is in `edge` already"),
        ("[sync.x]\nvips = [\"a\", \"b\"]\n[sync.y]\nvips = [\"alone\", \"b\"]\n", "`b` is in `x` already"),
        ("[sync.alone]\nvips = [\"a\", \"b\"]\n", "`alone` is the name of a VIP group that is not in it"),
    ] {
        let said = native(text).unwrap_err();
        assert!(said.contains(wanted), "{text}: {said}");
    }
}

#[test]
fn a_node_that_may_not_hold_one_holds_none() {
    let text = "[sync.edge]\nvips = [\"a\", \"b\"]\n";
    let dir = tempfile::tempdir().unwrap();
    let toml = TOML.replace("vrid = 2\n", "vrid = 2\npriority = { lb2 = 5 }\n") + text;
    std::fs::write(dir.path().join("c.toml"), toml).unwrap();
    let node = "[node]\nname = \"lb1\"\nlisten = \"127.0.0.1:7112\"\ncluster = \"c.toml\"\n";
    std::fs::write(dir.path().join("h.toml"), node).unwrap();
    let config = load(&dir.path().join("h.toml")).unwrap();
    assert_eq!(config.groups["a"].priority, None);
    assert_eq!(config.groups["b"].priority, None);
    assert!(config.groups["alone"].priority.is_some());
    assert!(config.warnings.iter().any(|said| said.message.contains("never holds `b`")));
}

#[test]
fn keepalived_counts_the_weights_of_instances_only_when_told() {
    let block = "vrrp_sync_group edge {\n group {\n a b\n }\n track_interface {\n eth9 weight 5\n }\n";
    let (groups, said) = keepalived(&format!("{block}}}\n"));
    let weights = |groups: &[group::Draft]| {
        groups.iter().map(|group| group.track.iter().map(|track| track.weight).collect()).collect::<Vec<Vec<i16>>>()
    };
    // An interface's weight becomes FAULT, a script's takes the script away.
    assert_eq!(weights(&groups), [vec![0, 0, 5], vec![5]]);
    assert!(said.iter().any(|said| said.starts_with("the weights of what `b` tracks")), "{said:?}");
    for keyword in ["sync_group_tracking_weight", "global_tracking"] {
        let (groups, said) = keepalived(&format!("{block} {keyword}\n}}\n"));
        assert_eq!(weights(&groups), [vec![-20, 0, -10, 5], vec![2, 5]]);
        assert!(said.is_empty(), "{said:?}");
    }
    assert!(groups.iter().all(|group| group.sync.as_deref() == Some("edge")));
}

#[test]
fn what_keepalived_does_not_know_either_is_refused() {
    let (_, said) = keepalived("vrrp_sync_group edge {\n a\n b\n}\n");
    assert!(said.iter().any(|said| said.contains('a')), "{said:?}");
    let (_, said) = keepalived("vrrp_sync_group edge {\n group\n}\n");
    assert!(said.contains(&"`group` needs a block in braces".to_owned()), "{said:?}");
    let (_, said) = keepalived("vrrp_sync_group edge {\n group {\n a\n }\n}\n");
    assert!(said.contains(&"the sync group `edge` has one VIP group".to_owned()), "{said:?}");
}
