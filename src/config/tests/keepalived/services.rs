//! Virtual and real servers, and their checks.

use super::*;

const BALANCED: &str = "virtual_server 10.0.0.100 443 {
    delay_loop 6
    lvs_sched wrr
    lvs_method DR
    persistence_timeout 50
    protocol TCP
    quorum 2
    hysteresis 1
    sorry_server 10.0.5.9 443
    sorry_server_inhibit
    omega
    ha_suspend
    virtualhost www.example.org
    real_server 10.0.5.11 443 {
        weight 3
        inhibit_on_failure
        uthreshold 1000
        HTTP_GET {
            url { path /healthz
                status_code 200 204 300-302 }
            connect_timeout 3
            retry 2
        }
    }
    real_server 10.0.5.12 443 {
        lvs_method TUN type gue port 5555 csum
        TCP_CHECK { connect_timeout 1
            delay_before_retry 0.5 }
    }
    real_server 10.0.5.13 443 { weight 0 }
}
";

#[test]
fn a_virtual_server_is_a_service_behind_the_instance_with_its_address() {
    use crate::config::check::{Check, Http, HttpVersion, Probe, Way};
    use crate::ipvs::{Checksum, Forwarding, Protocol, Tunnel};
    let config = read(&format!("{BALANCED}{INSTANCE}}}\n"));
    assert_eq!(config.services.keys().collect::<Vec<_>>(), ["10.0.0.100:443/tcp"]);
    let service = &config.services["10.0.0.100:443/tcp"];
    assert_eq!((service.vip.as_str(), service.protocol, service.scheduler), ("VI_1", Protocol::Tcp, "wrr"));
    assert_eq!((service.quorum, service.hysteresis, service.persistence), (2, 1, Some(Duration::from_secs(50))));
    assert_eq!(service.sorry_server, Some((([10, 0, 5, 9], 443).into(), Forwarding::Direct)));
    assert!(service.sorry_server_inhibit && service.omega && service.ha_suspend);
    let [first, second, third] = service.servers.as_slice() else { panic!("{service:?}") };
    assert_eq!((first.weight, first.inhibit_on_failure, first.upper), (3, true, 1000));
    assert_eq!(first.forwarding, Forwarding::Direct);
    let probe = Probe::Http(Http {
        path: "/healthz".to_owned(),
        host: Some("www.example.org".to_owned()),
        version: HttpVersion::Old,
        status: vec![200..=200, 204..=204, 300..=302],
        digest: None,
        regex: None,
        no_regex: None,
        tls: None,
    });
    // The connection and the answer have 3 s each.
    let (interval, again, timeout) = (Duration::from_secs(6), Duration::from_secs(3), Duration::from_secs(6));
    let (way, warmup) = (Way::default(), interval);
    let connects = Way { connect: Some(Duration::from_secs(3)), ..Way::default() };
    let check =
        Check { probe, way: connects, interval, again, timeout, warmup, fall: 3, rise: 1, slow: None, loss: None };
    assert_eq!(first.checks, [check]);
    let tunnel = Forwarding::Tunnel(Tunnel::Gue { port: 5555, checksum: Checksum::Full });
    assert_eq!((second.weight, second.forwarding), (1, tunnel));
    let (again, timeout) = (Duration::from_millis(500), Duration::from_secs(1));
    let check =
        Check { probe: Probe::Tcp, way, interval, again, timeout, warmup, fall: 2, rise: 1, slow: None, loss: None };
    assert_eq!(second.checks, [check]);
    assert_eq!((third.weight, third.checks.len()), (0, 0), "not checked, as in keepalived");
    assert_eq!(config.warnings, []);
}

#[test]
fn an_answer_may_take_longer_than_the_time_between_two_checks_as_with_keepalived() {
    let servers = "virtual_server 10.0.0.100 80 {
    delay_loop 2
    protocol TCP
    real_server 10.0.5.11 80 { TCP_CHECK { connect_timeout 9 } }
    real_server 10.0.5.12 80 { MISC_CHECK { misc_path /bin/true
        misc_timeout 30 } }
    real_server 10.0.5.13 80 { MISC_CHECK { misc_path /bin/true } }
    real_server 10.0.5.14 80 { SSL_GET { url { path / } } }
}
";
    let config = read(&format!("{servers}{INSTANCE}}}\n"));
    let servers = &config.services["10.0.0.100:80/tcp"].servers;
    let times = servers.iter().map(|server| {
        let check = &server.checks[0];
        (check.interval.as_secs(), check.timeout.as_secs(), check.way.connect.map(|connect| connect.as_secs()))
    });
    assert_eq!(times.collect::<Vec<_>>(), [(2, 9, None), (2, 30, None), (2, 2, None), (2, 15, Some(5))]);
}

#[test]
fn name_and_mail_servers_are_checked_with_keepaliveds_defaults() {
    use crate::config::check::{Check, Probe, Record, Way};
    let servers = "virtual_server 10.0.0.100 53 {
    delay_loop 6
    protocol UDP
    real_server 10.0.5.11 53 { DNS_CHECK { type A
        name example.org } }
    real_server 10.0.5.12 53 { SMTP_CHECK { helo_name lb.example.org
        connect_timeout 2 } }
}
";
    let config = read(&format!("{servers}{INSTANCE}}}\n"));
    let servers = &config.services["10.0.0.100:53/udp"].servers;
    let interval = Duration::from_secs(6);
    let dns = Probe::Dns { name: "example.org".to_owned(), record: Record::A };
    let timeout = Duration::from_secs(5);
    let (way, warmup) = (Way::default(), interval);
    let check = Check {
        probe: dns,
        way: way.clone(),
        interval,
        again: interval,
        timeout,
        warmup,
        fall: 4,
        rise: 1,
        slow: None,
        loss: None,
    };
    assert_eq!(servers[0].checks, [check]);
    let smtp = Probe::Smtp { helo: "lb.example.org".to_owned() };
    // The connection, the greeting and two answers have 2 s each.
    let (again, timeout) = (Duration::from_secs(1), Duration::from_secs(8));
    let way = Way { connect: Some(Duration::from_secs(2)), ..way };
    assert_eq!(
        servers[1].checks,
        [Check { probe: smtp, way, interval, again, timeout, warmup, fall: 2, rise: 1, slow: None, loss: None }]
    );
}

#[test]
fn what_is_wrong_with_a_virtual_server() {
    let faults = |text: &str| refused(&format!("{INSTANCE}}}\n{text}"));
    assert_eq!(
        faults("virtual_server 10.0.0.101 80 {\n protocol TCP\n}\n"),
        "k.conf:8:16: `10.0.0.101` is no virtual_ipaddress of a vrrp_instance / \
         hamesh balances only behind an address that it holds: add `10.0.0.101` to `virtual_ipaddress_excluded` of `VI_1`, whose \
         adverts stay the same\n"
    );
    assert_eq!(
        refused("virtual_server 10.0.0.101 80 {\n protocol TCP\n}\nvirtual_server fwmark 7 {\n protocol TCP\n}\n"),
        "k.conf:1:16: `10.0.0.101` is no virtual_ipaddress of a vrrp_instance / \
         hamesh balances only behind an address that it holds: give it to a vrrp_instance\n\
         k.conf:4:23: there is no vrrp_instance that marked packets could go with / \
         say it in cluster.toml, with `mark` and `vip` of a service; instances that are all in one vrrp_sync_group move together, and \
         then it does not matter\n"
    );
    let other = INSTANCE.replace("VI_1", "VI_2").replace("virtual_router_id 51", "virtual_router_id 52");
    let two = format!("{INSTANCE}}}\n{}}}\n", other.replace("10.0.0.100", "10.0.0.110"));
    let marked = format!("{two}virtual_server fwmark 7 {{\n protocol TCP\n}}\n");
    let said = refused(&marked);
    assert!(said.contains("which vrrp_instance marked packets go with is not clear: `VI_1` or `VI_2`"), "{said}");
    let synced = read(&format!("{marked}vrrp_sync_group all {{\n group {{\n VI_1\n VI_2\n }}\n}}\n"));
    assert_eq!(synced.services["fwmark 7"].vip, "VI_1", "they move together");
    assert_eq!(
        faults(
            "virtual_server group x {\n}\nvirtual_server_group y {\n 10.0.0.9-3 80\n 10.0.0.9/29 80\n 10.0.0.0/19\n 10.0.0.0/33\n}\n"
        ),
        "k.conf:8:22: there is no `virtual_server_group x` / did you mean `y`?\n\
         k.conf:11:2: `10.0.0.9-3` is no address, and no range or network of up to 4096 / for example 10.0.0.3-10, or 10.0.0.8/29, the network's own address\n\
         k.conf:12:2: `10.0.0.9/29` is no address, and no range or network of up to 4096 / for example 10.0.0.3-10, or 10.0.0.8/29, the network's own address\n\
         k.conf:13:2: `10.0.0.0/19` is no address, and no range or network of up to 4096 / for example 10.0.0.3-10, or 10.0.0.8/29, the network's own address\n\
         k.conf:14:2: `10.0.0.0/33` is no address, and no range or network of up to 4096 / for example 10.0.0.3-10, or 10.0.0.8/29, the network's own address\n"
    );
    assert_eq!(
        faults(
            "virtual_server 10.0.0.100 80 {
 lb_algo wrrr
 lb_kind TUN type gue
 protokol TCP
 rs_init_notifies
 protocol TCP
 real_server 10.0.5.11 80 {
  weight -1
  SSL_GET { url { path / } }
  TCP_CHECK { connect_porc 81 }
 }
 real_server 10.0.5.11 80 {
  HTTP_GET { url { path /
   status_code 99 } }
 }
}
"
        ),
        "k.conf:9:10: `lb_algo` is one of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, mh, sed, nq, fo, ovf, twos / did you mean `wrr`?\n\
         k.conf:10:10: a tunnel is `TUN [type ipip|gue port N|gre] [nocsum|csum|remcsum]`\n\
         k.conf:11:2: unknown keyword `protokol` / did you mean `protocol`?\n\
         k.conf:12:2: `rs_init_notifies` is not supported by this version\n\
         k.conf:15:10: `weight` must be between 0 and 65535\n\
         k.conf:17:15: unknown keyword `connect_porc` / did you mean `connect_port`?\n\
         k.conf:21:16: `99` is no range of HTTP status codes / for example 200 or 200-299\n"
    );
}

#[test]
fn keepaliveds_own_defaults_of_a_virtual_server() {
    let config = read(&format!("{INSTANCE}}}\nvirtual_server 10.0.0.100 53 {{\n persistence_timeout\n}}\n"));
    let service = &config.services["10.0.0.100:53/udp"];
    assert_eq!((service.scheduler, service.persistence), ("wlc", Some(Duration::from_secs(360))));
    let warnings: Vec<&str> = config.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(warnings, ["without `protocol` this is a UDP service, as in keepalived"]);
}
