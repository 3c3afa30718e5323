//! Services of both formats: what is mended, and what cannot be.

use super::*;

const INSTANCE: &str = "vrrp_instance v { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 10.0.0.1\n 10.0.0.2 }\n \
                        virtual_ipaddress_excluded { 2001:db8::1/64 } }\n";

/// The services of a keepalived.conf, and the warnings.
fn mended(text: &str) -> (BTreeMap<String, Service>, Vec<String>) {
    let node = NODE.replace("cluster = \"cluster.toml\"", "keepalived_config = \"k.conf\"");
    let config = loaded(&[("hamesh.toml", &node), ("k.conf", &format!("{INSTANCE}{text}"))]);
    (config.services, config.warnings.iter().map(|warning| warning.message.clone()).collect())
}

/// What is wrong with a keepalived.conf.
fn refused(text: &str) -> String {
    faults(&[("k.conf", &format!("{INSTANCE}{text}"))])
}

/// What is wrong with a cluster.toml.
fn native(text: &str) -> String {
    faults(&[("cluster.toml", &format!("{WEB}{text}"))])
}

#[test]
fn a_server_without_a_port_has_its_services_and_only_nat_leads_to_another() {
    let servers = "protocol TCP\n lb_kind DR\n sorry_server 10.1.0.9\n real_server 10.1.0.1 { }\n real_server 10.1.0.2 8080 { }\n \
                   real_server 10.1.0.3 8080 { lvs_method NAT\n }\n";
    let (services, warnings) = mended(&format!("virtual_server 10.0.0.1 80 {{\n {servers} }}\n"));
    let service = &services["10.0.0.1:80/tcp"];
    let at = |service: &Service| service.servers.iter().map(|s| s.address.to_string()).collect::<Vec<_>>();
    assert_eq!(at(service), ["10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:8080"]);
    assert_eq!(service.sorry_server.map(|sorry| sorry.0.to_string()).as_deref(), Some("10.1.0.9:80"));
    assert_eq!(warnings, ["only NAT changes a port: that of `10.1.0.2:8080` is 80, as with keepalived"]);
    let (marked, warnings) = mended(&format!("virtual_server fwmark 1 {{\n {servers} }}\n"));
    assert_eq!(at(&marked["fwmark 1"]), ["10.1.0.1:0", "10.1.0.2:8080", "10.1.0.3:8080"], "what checks ask");
    assert_eq!(warnings, Vec::<String>::new());
    let service = |way: &str| {
        native(&format!(
            "[service.s]\nvip = \"web\"\nlisten = \"203.0.113.10:80\"\nforwarding = \"{way}\"\nserver = [{{ address = \"10.0.0.1:8080\" }}]\n"
        ))
    };
    assert_eq!(service("nat"), "");
    assert_eq!(
        service("direct"),
        "cluster.toml:9:23: `10.0.0.1:8080` gets packets for port 80: only `nat` changes it / write \"10.0.0.1:80\"; a check has its own `port`\n"
    );
}
