use super::*;

/// A directory of files; returns what loading its `hamesh.toml` comes to, with the directory cut out of the paths.
fn show(files: &[(&str, &str)], check_only: Option<&str>) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let shown = match check_only {
        Some(name) => check(&dir.path().join(name)).map(|w| w.iter().map(|w| format!("{w}\n")).collect::<String>()),
        None => load(&dir.path().join("hamesh.toml")).map(|c| format!("{c:#?}")),
    };
    let text = match shown {
        Ok(t) => format!("OK\n{t}"),
        Err(e) => e.to_string(),
    };
    text.replace(&format!("{}/", dir.path().display()), "")
}

const NODE: &str = r#"
[node]
nmae = "LB_1"
listn = "10.0.0.11:7112"
name = "LB_1"
listen = "203.0.113.10:7112"
cluster = "cluster.toml"
[admin]
metrics = 9746
[admn]
x = 1
"#;
const CLUSTER: &str = r#"
[lease]
profile = "fats"
[vip.web]
interface = "eth0"
vrid = 300
version = 2
advertisement_interval = "1.5s"
addresses = ["203.0.113.10/24", "2001:db8::1/64", "203.0.113.10"]
priority = { lb1 = 0 }
authentication = { pass = "x" }
[vip.b]
interface = "eth0"
vrid = 5
addresses = []
[vip.c]
interface = "eth0"
vrid = 5
addresses = ["203.0.113.10"]
[service.web]
vip = "wbe"
listen = "1.2.3.4:5"
forwarding = "nat"
server = []
"#;
#[test]
fn x() {
    println!("{}", show(&[("hamesh.toml", NODE), ("cluster.toml", CLUSTER)], None));
    println!(
        "{}",
        show(
            &[(
                "k",
                "! x\nglobal_defs {\n router_id x\n vrrp_strict\n}\nvrrp_instance VI_1 {\n state MASTER\n interface eth0\n virtual_router_id 51\n priorty 3\n advert_int 1.5\n authentication { \n auth_type PASS\n auth_pass 123456789\n}\n nopreempt\n virtual_ipaddress {\n 10.0.0.1/24 dev eth1 label x\n }\n}\n"
            )],
            Some("k")
        )
    );
}
