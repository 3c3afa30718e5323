//! A keepalived.conf, and the cluster.toml made of it, are the same to us.

use super::*;

/// Files after the features of keepalived's own examples, as far as this version serves them.
const EXAMPLES: &[&str] = &[
    // The plainest.
    "vrrp_instance VI_1 {\n state MASTER\n interface eth0\n virtual_router_id 51\n priority 100\n advert_int 1\n \
     virtual_ipaddress {\n 192.168.200.16\n 192.168.200.17/24\n }\n}\n",
    // A password, no preemption, times of version 3, both families, plain checksums.
    "global_defs {\n router_id x\n vrrp_version 3\n v3_checksum_as_v2\n}\n\
     vrrp_instance old.one { interface eth0\n version 2\n virtual_router_id 1\n advert_int 2\n nopreempt\n \
     authentication { auth_type PASS\n auth_pass secret\n }\n virtual_ipaddress { 10.0.0.1/24 } }\n\
     vrrp_instance new { interface eth0\n virtual_router_id 2\n advert_int 0.25\n priority 7\n virtual_ipaddress { 10.0.0.2/24 } }\n\
     vrrp_instance six { interface eth0\n virtual_router_id 2\n virtual_ipaddress { fe80::1/64\n 2001:db8::2/64 } }\n",
    // Servers with checks of both kinds and weights.
    "vrrp_instance v { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 10.0.0.1/24 } }\n\
     virtual_server 10.0.0.1 80 {\n delay_loop 6\n lb_algo wrr\n lb_kind NAT\n protocol TCP\n persistence_timeout 50\n \
     quorum 3\n hysteresis 1\n virtualhost www\n sorry_server 10.1.0.9 80\n sorry_server_inhibit\n omega\n ha_suspend\n\
     real_server 10.1.0.1 80 {\n weight 3\n uthreshold 100\n lthreshold 50\n HTTP_GET {\n url { path /a\\b?c=d_e\n \
     status_code 200 301-302\n }\n connect_timeout 3\n retry 2\n delay_before_retry 1.5\n } }\n\
     real_server 10.1.0.2 8080 {\n inhibit_on_failure\n TCP_CHECK { connect_timeout 3 } }\n\
     real_server 10.1.0.3 80 {\n lvs_method DR\n }\n real_server 10.1.0.4 80 {\n lvs_method TUN type gue port 6080 remcsum\n }\n \
     real_server 10.1.0.5 80 {\n lvs_method TUN type gre csum\n } }\n",
    // The same check for all; UDP by keepalived's default; tunnels; an IPv6 service; a timeout beyond its interval.
    "vrrp_instance v { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 10.0.0.1/24 } }\n\
     vrrp_instance w { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 2001:db8::2/64 } }\n\
     virtual_server 10.0.0.1 53 {\n delay_loop 2\n lvs_method TUN\n real_server 10.1.0.1 53 { TCP_CHECK { } }\n \
     real_server 10.1.0.2 53 { DNS_CHECK {\n type A\n name x.org\n } }\n real_server 10.1.0.3 53 { SMTP_CHECK { } } }\n\
     virtual_server 2001:db8::2 443 {\n protocol TCP\n persistence_timeout\n inhibit_on_failure\n real_server 2001:db8:1::1 443 { } }\n",
    // Every checker with all that it knows.
    "global_defs { script_user root\n }\nSSL { ca /etc/x.pem\n }\nvrrp_track_file load { file /run/load\n weight -2\n init_file -3 overwrite\n }\n\
     vrrp_instance v { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 10.0.0.1/24 } }\n\
     virtual_server 10.0.0.1 443 {\n protocol TCP\n delay_loop 5\n warmup 2\n real_server 10.1.0.1 443 {\n virtualhost www.x.org\n \
     SSL_GET {\n enable_sni\n http_protocol 1.1\n connect_ip 10.1.0.7\n connect_port 8443\n bindto 10.1.0.2\n bind_port 3000\n \
     bind_if eth1\n fwmark 7\n url { path /\n digest 0123456789abcdef0123456789ABCDEF\n status_code 200\n }\n \
     url { path /b\n virtualhost b.x.org\n regex \"is\\\\s+well\"\n regex_options caseless dotall\n regex_min_offset 3\n \
     regex_max_offset 40\n regex_no_match\n } }\n\
     MISC_CHECK {\n misc_path \"/bin/test -e '/run/a b'\"\n misc_timeout 2\n misc_dynamic\n user nobody\n }\n\
     PING_CHECK { retry 4\n }\n FILE_CHECK { track_file load\n }\n\
     UDP_CHECK {\n payload 00ff\n require_reply 0fXX\n min_reply_length 2\n max_reply_length 9\n } }\n\
     alpha\n quorum_up \"/bin/echo up\"\n quorum_down /bin/false\n lvs_sched mh\n mh-port\n flag-3\n persistence_timeout 9\n \
     persistence_granularity 255.255.255.0\n persistence_engine sip\n real_server 10.1.0.2 443 {\n notify_up \"/bin/echo a b\"\n \
     notify_down /bin/echo\n UDP_CHECK { }\n HTTP_GET { url { path /\n } }\n SMTP_CHECK { host { connect_port 2525\n }\n host { connect_ip 10.1.0.3\n } } } }\n",
    // Ranges, marks, every port, and the directors' common matters.
    "global_defs {\n lvs_sync_daemon eth1 inst v id 9 maxlen 1400 port 8850 ttl 2 group 224.0.0.82\n \
     lvs_timeouts tcp 900 udp 30\n lvs_flush\n lvs_flush_on_stop VS\n }\n\
     vrrp_instance v { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 10.0.0.3\n 10.0.0.4\n 10.0.0.5 } }\n\
     virtual_server_group all {\n 10.0.0.3-5 80\n 10.0.0.3 443\n 10.0.0.4/31 443\n }\n\
     virtual_server group all {\n protocol TCP\n real_server 10.1.0.1 80 { TCP_CHECK { } } }\n\
     virtual_server_group marks {\n fwmark 8\n fwmark 9 inet6\n fwmark 8 inet6\n 10.0.0.5 8080\n }\n\
     virtual_server group marks {\n protocol TCP\n lvs_method TUN\n real_server 10.1.0.1 { } }\n\
     virtual_server fwmark 11 {\n ip_family inet6\n lvs_method TUN\n real_server 10.1.0.1 { } }\n\
     virtual_server fwmark 7 {\n real_server 10.1.0.1 { TCP_CHECK { connect_port 22\n } } }\n\
     virtual_server 10.0.0.4 {\n protocol UDP\n real_server 10.1.0.1 { } }\n",
    // What is tracked.
    "global_defs {\n script_user root\n enable_script_security\n}\n\
     vrrp_script chk {\n script \"/bin/test -e '/run/a b'\"\n interval 2\n timeout 1\n rise 3\n fall 2\n weight -20\n init_fail\n}\n\
     vrrp_script plain { script \"killall -0 haproxy\" }\n\
     vrrp_sync_group s { group { v\n w }\n track_script { plain } }\n\
     vrrp_instance w { interface eth0\n virtual_router_id 2\n track_script { plain }\n virtual_ipaddress { 10.0.0.2/24 } }\n\
     vrrp_instance v { interface eth0\n virtual_router_id 1\n track_interface { eth1 weight 5 }\n track_script { chk\n plain }\n \
     use_vmac\n vmac_xmit_base\n dont_track_primary\n virtual_ipaddress { 10.0.0.1/24 } }\n",
    // Who is told.
    "global_defs {\n router_id R1\n notification_email {\n a@x.org\n b@x.org\n }\n notification_email_from k@x.org\n smtp_server ::1 2525\n \
     smtp_connect_timeout 5\n smtp_helo_name me\n no_email_faults\n smtp_alert\n vrrp_notify_fifo /run/f\n notify_fifo /run/g\n \
     script_user root\n startup_script \"/bin/echo a 'b c'\" nobody\n startup_script_timeout 7\n shutdown_script /bin/true\n vrrp_notify_fifo_script \"/usr/bin/reader -x 'a b'\" nobody\n vrrp_notify_priority_changes on\n fifo_write_vrrp_states_on_reload\n}\n\
     vrrp_instance v { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 10.0.0.1/24 }\n notify_master \"/bin/up 1 2\" nobody\n \
     notify_backup /bin/down\n notify_fault /bin/fault\n notify_stop /bin/stop\n notify_deleted /bin/gone\n notify_master_rx_lower_pri /bin/rx\n notify \"/bin/any x\"\n }\n\
     vrrp_instance w { interface eth0\n virtual_router_id 2\n virtual_ipaddress { 10.0.0.2/24 }\n smtp_alert off\n notify_priority_changes no\n }\n",
    // Delays and bursts.
    "garp_group {\n garp_interval 0.02\n gna_interval 0.01\n interface eth0\n interfaces {\n eth1\n eth2\n }\n }\nglobal_defs {\n vrrp_garp_interval 0.0005\n vrrp_startup_delay 3\n vrrp_garp_master_refresh 0\n}\n\
     vrrp_instance v { interface eth0\n virtual_router_id 1\n preempt_delay 4.5\n down_timer_adverts 6\n lower_prio_no_advert\n \
     higher_prio_send_advert\n garp_lower_prio_repeat 0\n virtual_ipaddress { 10.0.0.1/24 } }\n",
    // Unicast, and an authentication header.
    "vrrp_instance v { interface eth0\n virtual_router_id 1\n unicast_src_ip 10.0.0.11\n unicast_ttl 9\n unicast_peer {\n 10.0.0.12\n \
     10.0.0.13 min_ttl 3 max_ttl 250\n }\n virtual_ipaddress { 10.0.0.1/24 } }\n\
     vrrp_instance old.one { interface eth0\n virtual_router_id 2\n mcast_src_ip 10.0.0.11\n mcast_dst_ip 224.0.0.77\n authentication { auth_type AH\n \
     auth_pass secret\n }\n virtual_ipaddress { 10.0.0.2/24 } }\n\
     vrrp_instance six { version 3\n interface eth0\n virtual_router_id 2\n virtual_ipaddress_excluded { 10.0.9.1/24 }\n unicast_peer { 2001:db8::12 }\n \
     auth_hmac { key 3 hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n active_key 3\n mode permissive\n }\n virtual_ipaddress { 2001:db8::2/64 } }\n",
    // What moves together, and what it tracks.
    "vrrp_track_file busy { file /run/busy\n weight -5\n init_file\n }\n\
     vrrp_sync_group pair { group {\n a\n b\n }\n track_file { busy\n }\n notify_master \"/bin/up 1\" nobody\n }\n\
     vrrp_track_process cache { process varnishd -f \"/etc/a b\"\n param_match initial\n quorum 2\n quorum_max 9\n delay 1.5\n weight -7\n }\n\
     vrrp_instance b { interface eth0\n virtual_router_id 1\n track_process { cache\n }\n track_interface { eth5\n }\n virtual_ipaddress { 10.0.0.1/24 } }\n\
     vrrp_instance a { interface eth1\n virtual_router_id 1\n virtual_ipaddress { 10.1.0.1/24 } }\n",
    // Sessions with neighbours, and who goes by them.
    "bfd_instance up.1 { neighbour_ip 10.0.0.254\n source_ip 10.0.0.11\n min_rx 3.312\n min_tx 50\n idle_tx 1500\n multiplier 4\n passive\n \
     max_hops 2\n weight -30 reverse\n }\n\
     bfd_instance near { neighbor_ip fe80::1%eth4\n }\nbfd_instance six { neighbor_ip 2001:db8::1\n multihop\n max_hops -1\n }\nbfd_instance pool { neighbor_ip 10.1.0.1\n ttl 200\n checker\n }\n\
     vrrp_instance v { interface eth0\n virtual_router_id 1\n track_bfd { up.1\n six weight 9\n }\n virtual_ipaddress { 10.0.0.1/24 } }\n\
     virtual_server 10.0.0.1 80 {\n real_server 10.1.0.1 80 { BFD_CHECK { name pool\n alpha\n } }\n real_server 10.1.0.2 80 { BFD_CHECK { name six\n } } }\n",
    // Addresses on other interfaces, and what is said of them.
    "vrrp_instance v { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 10.0.0.1/24 label eth0:1\n 10.1.0.1/24 brd + dev eth1 scope link }\n \
     virtual_ipaddress_excluded {\n 2001:db8::1/64 dev eth2 no_track preferred_lft 0 autojoin\n }\n }\n",
    // Strict ones, and whom an owner hears.
    "global_defs {\n vrrp_strict\n vrrp_mcast_group4 224.0.0.78\n }\nvrrp_instance v { interface eth0\n virtual_router_id 1\n priority 120\n virtual_ipaddress { 10.0.0.1/24 } }\n\
     vrrp_instance w { interface eth1\n virtual_router_id 1\n state MASTER\n virtual_ipaddress { 10.1.0.1/24 } }\n\
     vrrp_instance x { interface eth2\n virtual_router_id 1\n strict_mode off\n no_accept\n virtual_ipaddress { 10.2.0.1/24 } }\n",
    // One whose address is moved by a script.
    "vrrp_instance v { interface eth0\n virtual_router_id 1\n no_virtual_ipaddress\n unicast_peer { 10.0.0.12\n } }\n",
    // Routes and rules.
    "vrrp_instance v { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 10.0.0.1/24 }\n virtual_routes {\n \
     default via 10.0.0.254 src 10.0.0.1 table 100\n 10.5.0.0/16 dev eth5 metric 7 scope link\n to 10.6.0.9 via 10.0.0.2 onlink\n \
     blackhole 10.7.1.9/16\n 2001:db8:5::/48 via inet6 fe80::1 dev eth0\n }\n virtual_rules {\n \
     from 10.0.0.0/24 lookup 100 priority 500\n not to 10.8.0.0/16 fwmark 0x10/0xff iif eth0 oif eth1 priority 501 prohibit\n \
     inet6 from all lookup main order 502\n } }\n",
    // What does not move.
    "interface_up_down_delays {\n eth0 1.5\n eth5 2 0\n }\nglobal_defs {\n default_interface eth3\n }\nstatic_ipaddress {\n 10.5.0.1/24 label eth3:1 track_group near\n 2001:db8:5::1/64 dev eth4\n }\n\
     track_group near {\n group {\n v\n }\n }\nstatic_routes {\n 10.6.0.0/16 via 10.5.0.254 dev eth6 track_group near\n }\nstatic_rules {\n from 10.5.0.0/24 lookup 100 priority 500\n }\n\
     vrrp_instance v { interface eth0\n virtual_router_id 1\n virtual_ipaddress { 10.0.0.1/24 } }\n",
    // The language.
    "$VI= \\\n vrrp_instance vi_${N} { \\\n interface eth0 \\\n virtual_router_id ${N} \\\n @nobody priority 1 \\\n \
     virtual_ipaddress { 10.0.${N}.1 } \\\n }\n~SEQ(N,1,9) $VI\n",
];

#[test]
fn what_is_converted_means_the_same() {
    for text in EXAMPLES {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("k.conf", text);
        write("old.one.pass", "secret\n");
        write("six.3.key", "hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n");
        let head = "[node]\nname = \"lb1\"\nlisten = \"10.9.9.9:7112\"\n";
        write("old.toml", &format!("{head}keepalived_config = \"k.conf\"\n"));
        write("new.toml", &format!("{head}cluster = \"c.toml\"\n"));
        let converted = convert(&dir.path().join("k.conf"), Some("lb1"), None).unwrap_or_else(|e| panic!("{e}"));
        write("c.toml", &converted);
        let load = |name: &str| load(&dir.path().join(name)).unwrap_or_else(|e| panic!("{e}\n{converted}"));
        let (old, new) = (load("old.toml"), load("new.toml"));
        assert_eq!(old.groups, new.groups, "{converted}");
        assert_eq!(old.syncs, new.syncs, "{converted}");
        assert_eq!(old.services, new.services, "{converted}");
        assert_eq!(old.scripts, new.scripts, "{converted}");
        assert_eq!(old.bfd, new.bfd, "{converted}");
        assert_eq!(old.delays, new.delays, "{converted}");
        assert_eq!(old.fixed, new.fixed, "{converted}");
        assert_eq!(old.notify, new.notify, "{converted}");
        assert_eq!(old.ipvs, new.ipvs, "{converted}");
        assert!(!old.groups.is_empty());
    }
}

#[test]
fn passwords_stay_out_and_notes_come_along() {
    let (text, dir) =
        within(&[("k.conf", EXAMPLES[1])], |dir| convert(&dir.join("k.conf"), Some("lb1"), None).unwrap());
    assert!(!text.contains("secret"), "{text}");
    assert!(text.contains("pass_file = \"old.one.pass\""), "{text}");
    let (text, _) = within(&[("k.conf", EXAMPLES[3])], |dir| convert(&dir.join("k.conf"), None, None).unwrap());
    assert!(text.contains("without `protocol` this is a UDP service, as in keepalived\n"), "{dir}: {text}");
}

#[test]
fn what_cluster_toml_cannot_say_is_not_lost_but_refused() {
    let (errors, _) =
        within(&[("k.conf", "vrrp_track_bfd x { }")], |dir| convert(&dir.join("k.conf"), None, None).unwrap_err());
    assert!(errors.to_string().contains("vrrp_track_bfd"), "{errors}");
}
