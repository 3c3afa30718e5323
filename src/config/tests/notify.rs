//! `[notify]` and `vip.NAME.notify`, and what keepalived.conf says of it.

use super::*;
use crate::config::notify::{Command, Fifo, Mail, Notifications, Notify, Occasion, Once, Topic};

fn command(words: &[&str], user: Option<&str>) -> Command {
    Command { words: words.iter().map(|word| (*word).to_owned()).collect(), user: user.map(str::to_owned) }
}

#[test]
fn who_is_told() {
    let group = "notify = { master = { command = [\"/up\", \"a b\"], user = \"nobody\" }, any = { command = [\"/any\"] }, mail = true }\n";
    let general = "[notify]\ntimeout = \"5s\"\nfifo = [{ path = \"pipe\" }]\nmail = { to = [\"root\"], server = \"mx\" }\n\
         startup = { command = [\"/prepare\"] }\nshutdown = { command = [\"/tidy\", \"up\"], timeout = \"3s\" }\n";
    let text = format!("{WEB}{group}{general}");
    let (config, dir) = within(&[("hamesh.toml", NODE), ("cluster.toml", &text)], |dir| load(&dir.join("hamesh.toml")));
    let config = config.unwrap();
    let scripts =
        [(Occasion::Master, command(&["/up", "a b"], Some("nobody"))), (Occasion::Any, command(&["/any"], None))];
    assert_eq!(config.groups["web"].notify, Notify { scripts: scripts.into(), priority_changes: false, mail: true });
    let mail = Mail { server: "mx:25".to_owned(), ..Mail::to(vec!["root".to_owned()]) };
    let fifos = vec![Fifo { path: PathBuf::from(dir).join("pipe"), about: None, script: None }];
    let once =
        |words: &[&str], seconds| Some(Once { command: command(words, None), timeout: Duration::from_secs(seconds) });
    let (startup, shutdown) = (once(&["/prepare"], 10), once(&["/tidy", "up"], 3));
    assert_eq!(
        config.notify,
        Notifications { fifos, again: false, mail: Some(mail), timeout: Duration::from_secs(5), startup, shutdown }
    );
    assert!(config.warnings.is_empty());
}

#[test]
fn what_is_wrong_with_it() {
    let cases = [
        ("notify = { mail = true }\n", "the states of `web` are mailed to nobody"),
        ("notify = { master = { command = [\"bin/up\"] } }\n", "a command begins with the absolute path of a program"),
        ("notify = { mastr = { command = [\"/up\"] } }\n", "unknown key `vip.web.notify.mastr`"),
        ("notify = { any = {} }\n", "`vip.web.notify.any` needs `command`"),
        ("[notify]\nmail = { to = [] }\n", "`notify.mail` needs somebody to write to"),
        ("[notify]\nmail = { to = [\"a>\"] }\n", "`a>` cannot stand in a mail"),
        ("[notify]\ntimeout = \"1ms\"\n", "a script needs at least 10ms"),
        ("[notify]\nfifo = [{}]\n", "needs `path`"),
        ("[notify]\nstartup = { command = [\"/x\"], timeout = \"1ms\" }\n", "a script needs at least 10ms"),
        ("[notify]\nshutdown = { timeout = \"1s\" }\n", "`notify.shutdown` needs `command`"),
    ];
    for (text, fault) in cases {
        let found = faults(&[("cluster.toml", &format!("{WEB}{text}"))]);
        assert!(found.contains(fault), "{text}: {found}");
    }
}

#[test]
fn keepalived_conf_says_where_it_is_taken_differently() {
    let instance = "vrrp_instance v { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 10.0.0.1/24 }\n";
    let cases = [
        ("", "notify_master /bin/up", "k.conf:6:2: warning: `notify_master` runs as hamesh does"),
        ("script_user root", "notify_master \"/bin/up > /x\"", "`>` needs a shell, and scripts are run without one"),
        ("script_user root", "notify_deleted", "`notify_deleted` without a script changes nothing"),
        ("", "smtp_alert", "the states of `v` are mailed to nobody"),
        ("vrrp_notify_fifo_script /bin/x", "", "there is no FIFO for this script to read"),
        ("smtp_server a b", "", "`smtp_server` has a port"),
        ("startup_script_timeout 5", "", "there is no `startup_script` for this timeout"),
        (
            "script_user root\nshutdown_script /x\nshutdown_script_timeout 1001",
            "",
            "`shutdown_script_timeout` is between 1 and 1000 seconds",
        ),
        ("lvs_notify_fifo_script /bin/x", "", "there is no FIFO for this script to read"),
    ];
    for (global, line, fault) in cases {
        let global =
            if global.is_empty() { "global_defs {\n".to_owned() } else { format!("global_defs {{\n {global}\n") };
        let found = faults(&[("k.conf", &format!("{global}}}\n{instance} {line}\n}}\n"))]);
        assert!(found.contains(fault), "{line}: {found}");
    }
}

#[test]
fn servers_are_mailed_about_unless_it_is_forbidden_and_services_when_it_is_said() {
    let text = |global: &str, service: &str| {
        format!(
            "global_defs {{\n notification_email {{\n noc\n }}\n notify_fifo /all\n lvs_notify_fifo /lvs\n vrrp_notify_fifo /vrrp\n \
             {global}\n}}\nvrrp_instance v {{\n interface eth0\n virtual_router_id 1\n virtual_ipaddress {{\n 10.0.0.1/24\n }}\n}}\n\
             virtual_server 10.0.0.1 80 {{\n protocol TCP\n {service}\n real_server 10.0.1.1 80 {{\n smtp_alert off\n }}\n \
             real_server 10.0.1.2 80 {{\n }}\n}}\n"
        )
    };
    // The service, the server that says nothing itself.
    for (global, service, mailed) in [
        ("", "", (false, true)),
        ("", "smtp_alert", (true, true)),
        ("smtp_alert", "", (true, true)),
        ("smtp_alert\nsmtp_alert_checker off", "", (false, false)),
    ] {
        let node = NODE.replace("cluster = \"cluster.toml\"", "keepalived_config = \"k.conf\"");
        let files = [("hamesh.toml", node.as_str()), ("k.conf", &text(global, service))];
        let config = within(&files, |dir| load(&dir.join("hamesh.toml"))).0.unwrap();
        let about: Vec<_> = config.notify.fifos.iter().map(|fifo| fifo.about).collect();
        assert_eq!(about, [None, Some(Topic::Vips), Some(Topic::Services)]);
        let service = config.services.values().next().unwrap();
        let servers: Vec<_> = service.servers.iter().map(|server| server.mail).collect();
        assert_eq!(
            (service.mail, servers.as_slice()),
            (mailed.0, [false, mailed.1].as_slice()),
            "{global} {service:?}"
        );
    }
}

#[test]
fn scripts_run_with_the_group_that_is_named() {
    let text = |globals: &str, line: &str| {
        format!(
            "global_defs {{\n{globals}\n}}\nvrrp_instance v {{\n interface eth0\n virtual_router_id 1\n {line}\n \
             virtual_ipaddress {{\n 10.0.0.1/24\n }}\n}}\n"
        )
    };
    let node = NODE.replace("cluster = \"cluster.toml\"", "keepalived_config = \"k.conf\"");
    for (globals, line, user) in [
        ("script_user nobody", "notify_master /m", "nobody"),
        ("script_user nobody adm", "notify_master /m", "nobody:adm"),
        ("script_user nobody adm", "notify_master /m root", "root"),
        ("", "notify_master \"/m x\" root daemon", "root:daemon"),
    ] {
        let config = loaded(&[("hamesh.toml", &node), ("k.conf", &text(globals, line))]);
        assert_eq!(
            config.groups["v"].notify.scripts[&Occasion::Master].user.as_deref(),
            Some(user),
            "{globals} {line}"
        );
    }
}
