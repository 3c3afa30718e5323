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

#[test]
fn what_keepalived_mends_is_mended_with_a_warning() {
    let checked = "HTTP_GET { url { status_code 200\n }\n url { path /\n } }";
    let server = format!("real_server 10.1.0.1 80 {{ weight 3\n {checked}\n }}\n");
    let lines = "protocol TCP\n ops\n quorum 9\n hysteresis 3\n";
    let (services, warnings) = mended(&format!("virtual_server 10.0.0.1 80 {{\n {lines} {server} {server} }}\n"));
    let service = &services["10.0.0.1:80/tcp"];
    assert_eq!((service.quorum, service.hysteresis, service.one_packet, service.servers.len()), (3, 2, false, 1));
    assert_eq!(service.servers[0].checks.len(), 1);
    assert_eq!(
        warnings,
        [
            "`ops` is for UDP: it is ignored, as by keepalived",
            "a quorum of 9 cannot be: it is 3, as with keepalived",
            "a hysteresis of 3 does not let a quorum of 3 be lost: it is 2, as with keepalived",
            "a `url` without `path` is ignored, as by keepalived",
            "server `10.1.0.1:80` is listed twice: the first counts, as with keepalived",
            "a `url` without `path` is ignored, as by keepalived",
        ]
    );
    let (services, warnings) =
        mended("virtual_server 10.0.0.1 80 {\n protocol TCP\n quorum 0\n real_server 10.1.0.1 { HTTP_GET { } } }\n");
    assert_eq!(services["10.0.0.1:80/tcp"].quorum, 1);
    assert_eq!(
        warnings,
        [
            "a quorum of 0 cannot be: it is 1, as with keepalived",
            "`HTTP_GET` without a `url` asks nothing, as with keepalived",
        ]
    );
    let more = "server = [{ address = \"10.0.0.1:80\" }, { address = \"10.0.0.1:80\" }]\nquorum = 2\nhysteresis = 2\none_packet = true\n";
    let service = format!("[service.s]\nvip = \"web\"\nlisten = \"203.0.113.10:80\"\nforwarding = \"nat\"\n{more}");
    assert_eq!(
        native(&service),
        "cluster.toml:5:10: a hysteresis of 2 does not let a quorum of 2 be lost / it must be smaller than the quorum\n\
         cluster.toml:5:10: only UDP can be balanced packet by packet\n\
         cluster.toml:9:52: server `10.0.0.1:80` is listed twice\n"
    );
    let weak = service.replace(more, "server = [{ address = \"10.0.0.1:80\" }]\nquorum = 2\n");
    assert_eq!(
        native(&weak),
        "cluster.toml:5:10: warning: the quorum is 2, and the weights of the servers are 1 together\n"
    );
}

#[test]
fn what_one_service_takes_no_other_takes() {
    let server =
        |entrance: &str| format!("virtual_server {entrance} {{\n protocol TCP\n real_server 10.1.0.1 {{ }}\n }}\n");
    let twice = |first: &str, second: &str| refused(&format!("{}{}", server(first), server(second)));
    let help = "give all its servers to one of them";
    assert_eq!(
        twice("10.0.0.1 80", "10.0.0.1 80"),
        format!("k.conf:10:16: `TCP 10.0.0.1:80` is balanced by another service already / {help}\n")
    );
    assert_eq!(
        twice("fwmark 7", "fwmark 7"),
        format!("k.conf:10:23: `FWM 7` is balanced by another service already / {help}\n")
    );
    let grouped = format!("virtual_server_group g {{\n 10.0.0.1-2 80\n 10.0.0.2 80\n}}\n{}", server("group g"));
    assert_eq!(refused(&grouped), "", "itself is no other");
    assert!(refused(&(grouped + &server("10.0.0.2 80"))).contains("`TCP 10.0.0.2:80` is balanced by another"));
    assert_eq!(twice("10.0.0.1 80", "10.0.0.1 443"), "");
    let service = |name: &str| {
        format!("[service.{name}]\nvip = \"web\"\nlisten = \"203.0.113.10:80\"\nforwarding = \"nat\"\nserver = []\n")
    };
    assert_eq!(
        native(&(service("a") + &service("b"))),
        format!("cluster.toml:12:10: `TCP 203.0.113.10:80` is balanced by another service already / {help}\n")
    );
    let (result, _) = within(&[("cluster.toml", &format!("{WEB}{}{}", service("a"), service("b")))], |dir| {
        check(&dir.join("cluster.toml"), None)
    });
    let shown = result.unwrap_err().to_string();
    assert!(shown.contains("listen = \"203.0.113.10:80\"") && shown.contains("here"), "both places: {shown}");
}

#[test]
fn a_virtual_server_may_say_the_weight_of_its_servers() {
    let lines = "protocol TCP\n real_server 10.1.0.1 { }\n real_server 10.1.0.2 { weight 0\n }\n weight 5\n quorum 5\n";
    let (services, warnings) = mended(&format!("virtual_server 10.0.0.1 80 {{\n {lines} }}\n"));
    let weights: Vec<u32> = services["10.0.0.1:80/tcp"].servers.iter().map(|server| server.weight).collect();
    assert_eq!((weights, warnings), (vec![5, 0], vec![]));
}

#[test]
fn marked_packets_may_be_balanced_one_by_one() {
    let (services, warnings) = mended("virtual_server fwmark 7 {\n ops\n real_server 10.1.0.1 { }\n }\n");
    let service = &services["fwmark 7"];
    assert_eq!((service.one_packet, service.protocol), (true, crate::ipvs::Protocol::Udp));
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn half_of_a_certificate_is_told() {
    let said = |lines: &str| mended(&format!("SSL {{\n {lines} }}\n")).1;
    let both = "`certificate` and `key` are shown together, or neither: give the other one too";
    assert_eq!(said("certificate /etc/x.pem\n"), [both]);
    assert_eq!(said("key /etc/x.key\n"), [both]);
    assert_eq!(said("key /etc/x.key\n certificate /etc/x.pem\n"), Vec::<String>::new());
}

#[test]
fn marked_packets_are_of_the_family_of_their_servers() {
    let family = |lines: &str| {
        let (services, _) = mended(&format!("virtual_server fwmark 7 {{\n {lines} }}\n"));
        services["fwmark 7"].listen[0].family()
    };
    let six = "real_server 2001:db8:1::1 { }\n";
    let tunnelled = "real_server 10.1.0.1 { lvs_method TUN\n }\n";
    assert_eq!(family("real_server 10.1.0.1 { }\n"), Family::V4);
    assert_eq!(family(six), Family::V6);
    assert_eq!(family(&format!("{tunnelled}{six}")), Family::V6, "a tunnel may lead elsewhere");
    assert_eq!(family(&format!("lvs_method TUN\n {six}")), Family::V6);
    assert_eq!(family(&format!("lvs_method TUN\n {tunnelled}{six}")), Family::V4, "as with keepalived");
    assert_eq!(family(&format!("ip_family inet6\n {tunnelled}")), Family::V6);
    let group = "virtual_server_group g {\n fwmark 7\n 2001:db8::1 80\n}\n";
    let (services, _) = mended(&format!("{group}virtual_server group g {{\n protocol TCP\n {tunnelled} }}\n"));
    assert!(services["g"].listen.iter().all(|key| key.family() == Family::V6), "that of the addresses beside it");
}

#[test]
fn what_the_kernel_takes_in_one_family_only() {
    let server =
        |entrance: &str, lines: &str| refused(&format!("virtual_server {entrance} {{\n protocol TCP\n {lines} }}\n"));
    assert_eq!(
        server("10.0.0.1 80", "real_server 2001:db8:1::1 80 { }\n"),
        "k.conf:8:14: `[2001:db8:1::1]:80` is of another family than `TCP 10.0.0.1:80`: only a tunnel leads there\n"
    );
    assert_eq!(server("10.0.0.1 80", "real_server 2001:db8:1::1 80 { lvs_method TUN\n }\n"), "");
    assert_eq!(
        server("2001:db8::1 80", "sorry_server 10.1.0.1 80\n"),
        "k.conf:8:15: `10.1.0.1:80` is of another family than `TCP [2001:db8::1]:80`: only a tunnel leads there\n"
    );
    let both = "virtual_server_group g {\n 10.0.0.1 80\n 2001:db8::1 80\n}\n";
    let grouped = |lines: &str| {
        refused(&format!("{both}virtual_server group g {{\n protocol TCP\n lvs_method TUN\n {lines} }}\n"))
    };
    assert_eq!(grouped("real_server 10.1.0.1 { }\n persistence_timeout 9\n"), "");
    assert_eq!(
        grouped("real_server 10.1.0.1 { }\n persistence_granularity 255.255.255.0\n"),
        "k.conf:10:22: persistence takes a netmask for IPv4, and the length of a prefix for IPv6 / make a service of its own for each family\n"
    );
}

#[test]
fn connections_are_told_with_the_number_of_the_instance_that_tells() {
    let told = |words: &str| {
        let node = NODE.replace("cluster = \"cluster.toml\"", "keepalived_config = \"k.conf\"");
        let instance = INSTANCE.replace("virtual_router_id 1", "virtual_router_id 51");
        let text = format!("global_defs {{\n lvs_sync_daemon eth1 {words}\n}}\n{instance}");
        let sync = loaded(&[("hamesh.toml", &node), ("k.conf", &text)]).ipvs.sync.unwrap();
        (sync.vip.unwrap_or_default(), sync.id)
    };
    assert_eq!(told("v"), ("v".to_owned(), 51));
    assert_eq!(told("inst v"), ("v".to_owned(), 51));
    assert_eq!(told("inst v id 0"), ("v".to_owned(), 0));
    assert_eq!(told("v 9"), ("v".to_owned(), 9), "the oldest way");
    assert_eq!(told(""), (String::new(), 0));
}

#[test]
fn marks_of_cluster_toml_may_be_several_and_of_a_family() {
    use crate::ipvs::ServiceKey;
    let service = |mark: &str| {
        format!(
            "[service.s]\nvip = \"web\"\nmark = {mark}\nforwarding = \"tunnel\"\nserver = [{{ address = \"10.0.0.1:80\" }}]\n"
        )
    };
    let read = |mark: &str| {
        let config = loaded(&[("hamesh.toml", NODE), ("cluster.toml", &format!("{WEB}{}", service(mark)))]);
        config.services["s"].listen.clone()
    };
    let key = |mark: u32, family| ServiceKey::Mark(mark.try_into().unwrap(), family);
    assert_eq!(read("7"), [key(7, Family::V4)]);
    assert_eq!(read("{ inet6 = 7 }"), [key(7, Family::V6)]);
    assert_eq!(read("[7, { inet6 = 7, inet = 8 }]"), [key(7, Family::V4), key(8, Family::V4), key(7, Family::V6)]);
    assert_eq!(native(&service("[0]")), "cluster.toml:7:9: `service.s.mark[0]` must be between 1 and 4294967295\n");
    let unknown = native(&service("{ inet5 = 7 }"));
    assert!(unknown.contains("unknown key `service.s.mark.inet5`"), "{unknown}");
}

#[test]
fn signatures_and_keys_of_dns_may_be_asked_for() {
    use crate::config::check::{Probe, Record};
    let asked = |record: &str| {
        let server = format!("real_server 10.1.0.1 {{ DNS_CHECK {{\n type {record}\n }}\n }}\n");
        let (services, _) = mended(&format!("virtual_server 10.0.0.1 53 {{\n protocol UDP\n {server} }}\n"));
        services["10.0.0.1:53/udp"].servers[0].checks[0].probe.clone()
    };
    let question = |record| Probe::Dns { name: ".".to_owned(), record };
    assert_eq!((asked("RRSIG"), asked("DNSKEY")), (question(Record::Rrsig), question(Record::Dnskey)));
    assert_eq!((Record::Rrsig as u16, Record::Dnskey as u16), (46, 48));
}

#[test]
fn clients_that_count_as_one_stay_with_their_server() {
    let lines = "protocol TCP\n persistence_granularity 255.255.255.0\n";
    let (services, _) = mended(&format!("virtual_server 10.0.0.1 80 {{\n {lines} real_server 10.1.0.1 {{ }}\n }}\n"));
    assert_eq!(services["10.0.0.1:80/tcp"].persistence, Some(Duration::from_secs(360)));
}

#[test]
fn a_service_that_takes_nothing_and_a_group_that_is_there_twice_are_told() {
    let group = |lines: &str| format!("virtual_server_group g {{\n{lines}}}\n");
    assert_eq!(refused(&group("")), "k.conf:6:22: `virtual_server_group g` is empty\n");
    let twice = group("10.0.0.1 80\n") + &group("10.0.0.2 80\n");
    assert_eq!(refused(&twice), "k.conf:9:22: there are two `virtual_server_group g`\n");
    for key in ["listen", "mark"] {
        let service = format!("[service.s]\nvip = \"web\"\n{key} = []\nforwarding = \"nat\"\nserver = []\n");
        let column = key.len() + 4;
        let expected = format!("cluster.toml:7:{column}: `service.s.{key}` must be one, or a list of at least one\n");
        assert_eq!(native(&service), expected);
    }
}
