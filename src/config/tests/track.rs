//! `[track_script.NAME]` and `vip.NAME.track`.

use super::*;
use crate::config::track::{Script, Track, Tracked};

const SCRIPT: &str = "[track_script.check]\ncommand = [\"/bin/true\", \"a b\"]\n";

fn track_faults(script: &str, track: &str) -> String {
    faults(&[("cluster.toml", &format!("{WEB}track = [{track}]\n{script}"))])
}

#[test]
fn what_is_tracked() {
    let list = r#"{ script = "check", weight = -20 }, { interface = "eth1" }, { file = "busy", reverse = true }"#;
    let text = format!("{WEB}track = [{list}]\n{SCRIPT}timeout = \"500ms\"\nrise = 2\nfall = 3\nuser = \"nobody\"\n");
    let (config, dir) = within(&[("hamesh.toml", NODE), ("cluster.toml", &text)], |dir| load(&dir.join("hamesh.toml")));
    let config = config.unwrap();
    let script = Script {
        command: vec!["/bin/true".to_owned(), "a b".to_owned()],
        user: Some("nobody".to_owned()),
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 3,
        init_fail: false,
    };
    assert_eq!(config.scripts, BTreeMap::from([("check".to_owned(), script)]));
    let track = |what, weight, reverse| Track { what, weight, reverse };
    assert_eq!(
        config.groups["web"].track,
        [
            track(Tracked::Script("check".to_owned()), -20, false),
            track(Tracked::Interface("eth1".to_owned()), 0, false),
            track(Tracked::File(PathBuf::from(dir).join("busy")), 1, true),
        ]
    );
}

#[test]
fn what_is_wrong_with_it() {
    let cases = [
        (SCRIPT, "{ script = \"chek\" }", "there is no section [track_script.chek] / did you mean `check`?"),
        (SCRIPT, "{ script = \"check\", weight = 254 }", "`vip.web.track[0].weight` must be between -253 and 253"),
        (SCRIPT, "{ interface = \"a\" }, { interface = \"a\" }", "this is tracked twice"),
        (SCRIPT, "{ weight = 5 }", "an entry of `track` names one thing"),
        (SCRIPT, "{ script = \"check\", file = \"x\" }", "an entry of `track` names one thing"),
        (SCRIPT, "{ script = \"check\", rise = 2 }", "unknown key `vip.web.track[0].rise`"),
        ("[track_script.x]\n", "", "`track_script.x` needs `command`"),
        ("[track_script.x]\ncommand = [\"pgrep\"]\n", "", "a command begins with the absolute path of a program"),
        ("[track_script.x]\ncommand = [\"/x\"]\ninterval = \"1ms\"\n", "", "more often than every 10ms"),
        ("[track_script.x]\ncommand = [\"/x\"]\nfall = 0\n", "", "`track_script.x.fall` must be between 1 and 255"),
    ];
    for (script, track, fault) in cases {
        let found = track_faults(script, track);
        assert!(found.contains(fault), "{track} with {script}: {found}");
    }
    assert_eq!(track_faults(SCRIPT, "{ script = \"check\" }"), "");
}

#[test]
fn an_interface_may_flap() {
    use crate::config::track::Delays;
    let text = format!(
        "{WEB}[interface.eth0]\ndown_delay = \"500ms\"\n[interface.eth1]\ndown_delay = \"0s\"\nup_delay = \"3s\"\n"
    );
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &text)]);
    let half = Duration::from_millis(500);
    assert_eq!(config.delays["eth0"], Delays { down: half, up: half });
    assert_eq!(config.delays["eth1"], Delays { down: Duration::ZERO, up: Duration::from_secs(3) });
    let found = faults(&[("cluster.toml", &format!("{WEB}[interface.eth0]\ndown_delay = \"256s\"\n"))]);
    assert!(found.contains("a delay of an interface is at most 255s"), "{found}");
    for (line, fault) in [
        ("eth0 256", "k.conf:2:6: a delay of an interface is a number of seconds up to 255"),
        ("eth0 1 2 3", "k.conf:2:1: an interface has one delay down, and perhaps one up"),
        ("eth0", "k.conf:2:1: an interface has one delay down"),
    ] {
        let found = faults(&[("k.conf", &format!("interface_up_down_delays {{\n{line}\n}}\n"))]);
        assert!(found.contains(fault), "{line}: {found}");
    }
}
