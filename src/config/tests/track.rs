//! `[track_script.NAME]` and `vip.NAME.track`.

use super::*;
use crate::config::track::{Arguments, Delays, Process, Script, Track, Tracked};

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
        ("[track_script.x]\ncommand = [\"./pgrep\"]\n", "", "a command begins with the absolute path of a program"),
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
fn so_many_processes_are_to_run() {
    let second = Duration::from_secs(1);
    let process = |words: &[&str], arguments, least, most, delays| {
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        Tracked::Process(Process { command, arguments, least, most, delays })
    };
    let list = "{ process = \"haproxy\", weight = -20 }, { process = [\"nginx\", \"-g\"], least = 2, most = 3, up_delay = \"1s\" }, \
                { process = [\"x\", \"y\"], arguments = \"partial\", most = 0 }";
    let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &format!("{WEB}track = [{list}]\n"))]);
    let what: Vec<_> = config.groups["web"].track.iter().map(|track| track.what.clone()).collect();
    let up = Delays { down: Duration::ZERO, up: second };
    let expected = [
        process(&["haproxy"], Arguments::Any, 1, None, Delays::default()),
        process(&["nginx", "-g"], Arguments::Exact, 2, Some(3), up),
        process(&["x", "y"], Arguments::Partial, 0, Some(0), Delays::default()),
    ];
    assert_eq!(what, expected);
    let found = track_faults("", "{ process = [], weight = 1 }, { process = \"x\", least = 3, most = 2 }");
    assert!(found.contains("a process has a name") && found.contains("`most` is less than `least`"), "{found}");

    let instance = "vrrp_instance v {\ninterface eth0\nvirtual_router_id 1\nvirtual_ipaddress {\n10.0.0.1/24\n}\ntrack_process {\np\n}\n}\n";
    let node = NODE.replace("cluster = \"cluster.toml\"", "keepalived_config = \"k.conf\"");
    let of = |lines: &str| {
        let text = format!("vrrp_track_process p {{\n{lines}\n}}\n{instance}");
        let config = loaded(&[("hamesh.toml", &node), ("k.conf", &text)]);
        let [Track { what, weight, reverse }] = &config.groups["v"].track[..] else { panic!("{text}") };
        (what.clone(), *weight, *reverse)
    };
    let any = process(&["haproxy"], Arguments::Any, 1, None, Delays::default());
    assert_eq!(of("process haproxy"), (any, 0, false));
    let both = Delays { down: second * 2, up: second / 2 };
    let all = process(&["a b", "-c", "d"], Arguments::Initial, 2, Some(4), both);
    let lines = "process \"a b\" -c d\nparam_match initial\nquorum 2\nquorum_max 4\nweight -9 reverse\nfork_delay 0.5\nterminate_delay 2";
    assert_eq!(of(lines), (all, -9, true));
    let none = process(&["x"], Arguments::Exact, 0, Some(0), Delays { down: second, up: second });
    assert_eq!(of("process x\nfull_command\nquorum_max 0\ndelay 1"), (none, 0, false));
    for (lines, fault) in [
        ("quorum 1", "`vrrp_track_process p` needs `process`"),
        ("process x\nparam_match all", "`param_match` is initial or partial"),
        ("process x\ndelay soon", "`delay` is not a number of seconds"),
        ("process x\nquorums 1", "unknown keyword `quorums` / did you mean `quorum`?"),
    ] {
        let found = faults(&[("k.conf", &format!("vrrp_track_process p {{\n{lines}\n}}\n{instance}"))]);
        assert!(found.contains(fault), "{lines}: {found}");
    }
    let found = faults(&[("k.conf", &format!("vrrp_track_process q {{\nprocess x\n}}\n{instance}"))]);
    assert!(found.contains("there is no `vrrp_track_process p` / did you mean `q`?"), "{found}");
}

#[test]
fn an_interface_may_flap() {
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
