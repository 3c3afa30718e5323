//! keepalived's keywords that are not served, each with the reason, and with what to do instead.

use super::super::diagnostic::{Diagnostic, Log};
use super::syntax::Word;

/// What comes of a keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// hamesh does it in its own way, whatever is said: a warning.
    OwnWay,
    /// It would be missed: an error.
    Missing,
}

use Outcome::{Missing, OwnWay};

/// Keywords that share a reason stand together.
#[rustfmt::skip] // a table: the columns are the point
const TABLE: &[(Outcome, &str, &str)] = &[
    (OwnWay, "linkbeat_use_polling linkbeat_interfaces", "netlink tells of interfaces"),
    (OwnWay, "child_wait_time", "hamesh has no child processes to wait for"),
    (OwnWay, "instance use_pid_dir process_names process_name vrrp_process_name checker_process_name lvs_process_name bfd_process_name", "hamesh is one process without a pid file; systemd runs it"),
    (OwnWay, "vrrp_priority vrrp_no_swap vrrp_cpu_affinity vrrp_rt_priority vrrp_rlimit_rttime vrrp_rlimit_rtime checker_priority checker_no_swap checker_cpu_affinity checker_rt_priority checker_rlimit_rttime checker_rlimit_rtime bfd_priority bfd_no_swap bfd_cpu_affinity bfd_rt_priority bfd_rlimit_rttime bfd_rlimit_rtime max_auto_priority min_auto_priority_delay", "the thread of leases and adverts has real-time priority and locked memory where the system lets it"),
    (OwnWay, "enable_snmp_vrrp enable_snmp_checker enable_snmp_rfc enable_snmp_rfcv2 enable_snmp_rfcv3 enable_snmp_keepalived enable_traps snmp_socket snmp_name snmp_vs_stats_update_interval snmp_rs_stats_update_interval enable_dbus dbus_service_name dbus_no_interface_name", "there is no SNMP or D-Bus: `hamesh status --json` and `admin.metrics` have the same"),
    (OwnWay, "state_dump_file stats_dump_file json_dump_file json_version data_use_instance", "nothing is dumped into files: see `hamesh status --json`"),
    (OwnWay, "vrrp_netlink_cmd_rcv_bufs vrrp_netlink_cmd_rcv_bufs_force vrrp_netlink_monitor_rcv_bufs vrrp_netlink_monitor_rcv_bufs_force lvs_netlink_cmd_rcv_bufs lvs_netlink_cmd_rcv_bufs_force lvs_netlink_monitor_rcv_bufs lvs_netlink_monitor_rcv_bufs_force process_monitor_rcv_bufs process_monitor_rcv_bufs_force vrrp_rx_bufs_policy vrrp_rx_bufs_multiplier kernel_rx_buf_size", "what a buffer has no room for is looked up again"),
    (OwnWay, "reload_check_config config_save_dir tmp_config_directory", "a reload checks the new files first, and one that is bad changes nothing"),
    (OwnWay, "nftables nftables_priority nftables_counters nftables_ifindex vrrp_iptables vrrp_ipsets", "the gate is nftables, in a table of its own"),
    (OwnWay, "checker_log_all_failures", "every change of a server is logged with its reason, `hamesh service show` has the last answer"),
    (OwnWay, "promote_secondaries", "it is set where VIPs are"),
    (OwnWay, "timer_expired_backup thread_timer_expired", "a MASTER that is late has lost its lease, and the gate is shut"),
    (OwnWay, "native_ipv6 debug hashed use_symlink_paths umask iproute_usr_dir iproute_etc_dir log_unknown_vrids random_seed lvs_flush_onstop", "it means nothing to hamesh"),
    (Missing, "net_namespace net_namespace_ipvs namespace_with_ipsets", "start hamesh in the namespace: `NetworkNamespacePath=` in hamesh.service"),
    (OwnWay, "vrrp_garp_extra_if garp_extra_if vmac_garp_intvl vrrp_vmac_garp_intvl", "a MASTER announces its VIPs every minute from where they are, or every `garp_master_refresh`"),
    (OwnWay, "no_track", "of a route, of a rule, and of an address on the interface of its instance: what others remove is put back, and moves nothing"),
    (OwnWay, "-nodad", "behind a shut gate duplicate address detection would find nothing; two owners are what the lease is against"),
    (Missing, "track_group", "it is for what is static; what moves with an instance is that one's anyway"),
    (Missing, "fwmark", "it is served of a `virtual_server fwmark N`, in a `virtual_server_group`, a checker and a rule, and not here"),
    (Missing, "old_unicast_checksum", "adverts have the checksums of keepalived 1.3.7 and later"),
    (Missing, "vrf", "adverts are sent on the `interface` of the instance"),
    (Missing, "use_vmac_addr use_ipvlan vmac_addr_prefix", "a virtual MAC is `use_vmac [NAME]`, on the interface of the instance"),
    (Missing, "use_vmac", "the virtual MAC is that of an instance, for what is on its interface: say `use_vmac` there"),
    (Missing, "set_supplementary_groups", "scripts run with one group, the user's or the one that is named"),
    (Missing, "rs_init_notifies", "of servers `notify_up`, `notify_down`, `quorum_up` and `quorum_down` tell, when something changes"),
    (Missing, "reload_time_file reload_repeat reload_file", "run `hamesh reload` on every node: what would make two owners waits for its turn"),
    (Missing, "lvs_sync_daemon_interface", "use `lvs_sync_daemon` in `global_defs`"),
    (Missing, "nftables_ipvs nftables_ipvs_priority nftables_ipvs_start_fwmark", "each `virtual_server` is an IPVS service of its own: remove it"),
    (Missing, "disable_local_igmp", "set `net.ipv4.igmp_link_local_mcast_reports` by sysctl"),
    (Missing, "ip_family", "it is served in a `virtual_server`; elsewhere the family is that of the address"),
    (Missing, "peer", "a VIP is an address of its network: on a point-to-point link give it the length of a host"),
    (Missing, "real_server group notify notify_master notify_backup notify_fault notify_stop", "it does not belong into this block"),
];

/// Warns of a word that may stand here and changes nothing. Whether it is one.
pub(super) fn changes_nothing(word: &Word, log: &Log) -> bool {
    let own = TABLE
        .iter()
        .any(|(outcome, words, _)| *outcome == OwnWay && words.split_whitespace().any(|own| own == word.text));
    if own {
        report(word, &[], log);
    }
    own
}

/// Reports a keyword that is not `known` where it stands.
pub(super) fn report(word: &Word, known: &[&'static str], log: &Log) {
    let text = word.text.as_str();
    let found = TABLE.iter().find(|(_, words, _)| words.split_whitespace().any(|keyword| keyword == text));
    log.add(match found {
        Some((OwnWay, _, reason)) => {
            Diagnostic::warning(&word.place, format!("`{text}` changes nothing")).help(*reason)
        }
        Some((Missing, _, reason)) => {
            Diagnostic::error(&word.place, format!("`{text}` is not supported by this version")).help(*reason)
        }
        None => {
            let all = TABLE.iter().flat_map(|(_, words, _)| words.split_whitespace());
            let meant = super::nearest(text, known.iter().copied().chain(all));
            Diagnostic::error(&word.place, format!("unknown keyword `{text}`")).did_you_mean(meant)
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check;
    use std::path::Path;

    /// Every keyword of keepalived 2.2.7 to 2.4.3 of these blocks, with those that its manual does not name.
    const KEYWORDS: &[(&str, &str)] = &[
        (
            "",
            "net_namespace net_namespace_ipvs namespace_with_ipsets instance use_pid_dir linkbeat_use_polling child_wait_time interface_up_down_delays linkbeat_interfaces garp_group track_group global_defs vrrp_instance vrrp_sync_group vrrp_script track_file vrrp_track_file vrrp_track_process static_ipaddress static_routes static_rules virtual_server virtual_server_group bfd_instance SSL",
        ),
        (
            "global_defs",
            "router_id notification_email notification_email_from smtp_server smtp_connect_timeout smtp_helo_name smtp_alert smtp_alert_vrrp smtp_alert_checker no_email_faults no_checker_emails vrrp_version vrrp_mcast_group4 vrrp_mcast_group6 default_interface vrrp_garp_master_delay vrrp_garp_master_repeat vrrp_garp_master_refresh vrrp_garp_master_refresh_repeat vrrp_garp_lower_prio_delay vrrp_garp_lower_prio_repeat vrrp_garp_interval vrrp_gna_interval vrrp_min_garp vrrp_garp_extra_if vrrp_vmac_garp_intvl vrrp_down_timer_adverts vrrp_lower_prio_no_advert vrrp_higher_prio_send_advert v3_checksum_as_v2 vrrp_check_unicast_src vrrp_skip_check_adv_addr vrrp_strict vrrp_notify_priority_changes fifo_write_vrrp_states_on_reload vrrp_owner_ignore_adverts nftables nftables_priority nftables_counters nftables_ifindex vrrp_iptables vrrp_ipsets nftables_ipvs nftables_ipvs_priority nftables_ipvs_start_fwmark disable_local_igmp lvs_sync_daemon lvs_timeouts lvs_flush lvs_flush_on_stop vrrp_priority vrrp_no_swap vrrp_cpu_affinity vrrp_rt_priority vrrp_rlimit_rttime checker_priority checker_no_swap checker_cpu_affinity checker_rt_priority checker_rlimit_rttime bfd_priority bfd_no_swap bfd_cpu_affinity bfd_rt_priority bfd_rlimit_rttime max_auto_priority min_auto_priority_delay enable_script_security script_user use_symlink_paths set_supplementary_groups startup_script startup_script_timeout shutdown_script shutdown_script_timeout notify_fifo notify_fifo_script vrrp_notify_fifo vrrp_notify_fifo_script lvs_notify_fifo lvs_notify_fifo_script enable_snmp_vrrp enable_snmp_checker enable_snmp_rfc enable_snmp_rfcv2 enable_snmp_rfcv3 enable_traps snmp_socket snmp_vs_stats_update_interval snmp_rs_stats_update_interval enable_dbus dbus_service_name dbus_no_interface_name dynamic_interfaces vrrp_netlink_cmd_rcv_bufs vrrp_netlink_monitor_rcv_bufs lvs_netlink_cmd_rcv_bufs lvs_netlink_monitor_rcv_bufs process_monitor_rcv_bufs vrrp_rx_bufs_policy vrrp_rx_bufs_multiplier rs_init_notifies checker_log_all_failures vrrp_startup_delay vrrp_delay_after_boot log_unknown_vrids vmac_prefix vmac_addr_prefix random_seed reload_check_config include_check reload_time_file reload_repeat reload_file config_save_dir tmp_config_directory process_names process_name vrrp_process_name checker_process_name bfd_process_name data_use_instance state_dump_file stats_dump_file json_dump_file json_version iproute_usr_dir iproute_etc_dir umask bfd_rlimit_rtime checker_rlimit_rtime enable_snmp_keepalived lvs_flush_onstop lvs_netlink_cmd_rcv_bufs_force lvs_netlink_monitor_rcv_bufs_force lvs_process_name process_monitor_rcv_bufs_force vrrp_netlink_cmd_rcv_bufs_force vrrp_netlink_monitor_rcv_bufs_force vrrp_rlimit_rtime",
        ),
        (
            "vrrp_instance V",
            "state interface vrf virtual_router_id priority advert_int version authentication auth_hmac unicast_src_ip mcast_src_ip track_src_ip unicast_peer unicast_ttl unicast_fault_no_peer check_unicast_src mcast_dst_ip old_unicast_checksum v3_checksum_as_v2 nopreempt preempt preempt_delay garp_master_delay garp_master_repeat garp_master_refresh garp_master_refresh_repeat garp_lower_prio_delay garp_lower_prio_repeat garp_extra_if lower_prio_no_advert higher_prio_send_advert down_timer_adverts timer_expired_backup skip_check_adv_addr strict_mode owner_ignore_adverts virtual_ipaddress virtual_ipaddress_excluded no_virtual_ipaddress virtual_routes virtual_rules use_vmac use_vmac_addr vmac_xmit_base use_ipvlan dont_track_primary track_interface track_script track_file track_process track_bfd accept no_accept promote_secondaries native_ipv6 linkbeat_use_polling debug kernel_rx_buf_size notify notify_master notify_backup notify_fault notify_stop notify_deleted notify_master_rx_lower_pri notify_priority_changes smtp_alert vrrp_version lvs_sync_daemon_interface vmac_garp_intvl thread_timer_expired",
        ),
        (
            "vrrp_sync_group G",
            "group track_interface track_script track_file track_process track_bfd notify notify_master notify_backup notify_fault notify_stop notify_deleted notify_priority_changes smtp_alert sync_group_tracking_weight global_tracking",
        ),
        (
            "bfd_instance B",
            "neighbor_ip neighbour_ip source_ip min_rx min_tx idle_tx multiplier passive ttl hoplimit max_hops multihop weight vrrp checker",
        ),
        ("vrrp_script S", "script interval timeout weight rise fall user init_fail"),
        ("track_file F", "file weight init_file"),
        (
            "vrrp_track_process P",
            "process param_match weight quorum quorum_max fork_delay terminate_delay delay full_command",
        ),
        ("vrrp_instance V {\nauthentication", "auth_type auth_pass"),
        ("vrrp_instance V {\nauth_hmac", "key active_key anti_replay time_window mode"),
        ("vrrp_instance V {\nunicast_peer {\n10.0.0.2", "min_ttl max_ttl"),
        (
            "vrrp_instance V {\nvirtual_ipaddress {\n10.0.0.1/24",
            "dev scope label brd broadcast peer home -nodad mngtmpaddr noprefixroute autojoin no_track preferred_lft use_vmac",
        ),
        (
            "vrrp_instance V {\nvirtual_routes {\n10.5.0.0/16",
            "via dev src table metric priority preference scope onlink no_track to tos dsfield protocol mtu hoplimit advmss rtt rttvar \
             reordering window cwnd ssthresh realms rto_min initcwnd initrwnd features quickack congctl encap expires \
             fastopen_no_cookie ttl-propagate pref nexthop or gw append track_group",
        ),
        (
            "vrrp_instance V {\nvirtual_rules {\nto 10.5.0.0/16",
            "from tos dsfield fwmark iif dev oif priority preference order table lookup realms goto nop l3mdev uidrange ipproto sport \
             dport protocol type tunnel-id suppress_prefixlength sup_pl suppress_ifgroup sup_group not inet inet6 no_track track_group",
        ),
        (
            "virtual_server 10.0.0.1 80",
            "ip_family retry delay_before_retry warmup connect_timeout delay_loop inhibit_on_failure lb_algo lvs_sched hashed ops flag-1 flag-2 flag-3 sh-port sh-fallback mh-port mh-fallback lb_kind lvs_method persistence_engine persistence_timeout persistence_granularity protocol ha_suspend smtp_alert virtualhost snmp_name alpha omega quorum_up quorum_down quorum hysteresis weight sorry_server sorry_server_inhibit sorry_server_lvs_method real_server",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80",
            "weight lvs_method uthreshold lthreshold inhibit_on_failure notify_up notify_down alpha retry delay_before_retry warmup connect_timeout delay_loop smtp_alert virtualhost snmp_name TCP_CHECK HTTP_GET SSL_GET SMTP_CHECK DNS_CHECK MISC_CHECK UDP_CHECK PING_CHECK BFD_CHECK FILE_CHECK",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nTCP_CHECK",
            "connect_ip connect_port bindto bind_port bind_if connect_timeout fwmark retry delay_before_retry warmup delay_loop alpha log_all_failures",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nPING_CHECK",
            "connect_ip connect_port bindto bind_port bind_if connect_timeout fwmark retry delay_before_retry warmup delay_loop alpha log_all_failures",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nSMTP_CHECK",
            "helo_name host connect_ip connect_port bindto bind_port bind_if connect_timeout fwmark retry delay_before_retry warmup delay_loop alpha log_all_failures",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nSMTP_CHECK {\nhost",
            "connect_ip connect_port bindto bind_port bind_if connect_timeout fwmark retry delay_before_retry warmup delay_loop alpha log_all_failures",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nDNS_CHECK",
            "type name connect_ip connect_port bindto bind_port bind_if connect_timeout fwmark retry delay_before_retry warmup delay_loop alpha log_all_failures",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nUDP_CHECK",
            "payload require_reply min_reply_length max_reply_length connect_ip connect_port bindto bind_port bind_if connect_timeout fwmark retry delay_before_retry warmup delay_loop alpha log_all_failures",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nMISC_CHECK",
            "misc_path misc_timeout misc_dynamic user retry delay_before_retry warmup delay_loop alpha log_all_failures",
        ),
        ("virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nBFD_CHECK", "name alpha"),
        ("virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nFILE_CHECK", "track_file weight"),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nHTTP_GET",
            "nb_get_retry virtualhost http_protocol fast_recovery url connect_ip connect_port bindto bind_port bind_if connect_timeout fwmark retry delay_before_retry warmup delay_loop alpha log_all_failures",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nSSL_GET",
            "nb_get_retry virtualhost http_protocol enable_sni fast_recovery tls_compliant url connect_ip connect_port bindto bind_port bind_if connect_timeout fwmark retry delay_before_retry warmup delay_loop alpha log_all_failures",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.1.0.1 80 {\nHTTP_GET {\nurl",
            "path digest status_code virtualhost regex regex_no_match regex_options regex_min_offset regex_max_offset regex_stack",
        ),
        ("virtual_server_group G", "fwmark"),
        ("SSL", "password ca certificate key"),
    ];

    fn said(text: &str) -> Vec<Diagnostic> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("k.conf");
        std::fs::write(&file, format!("! a keepalived.conf\n{text}")).expect("written");
        match check(&file, None) {
            Ok(warnings) => warnings,
            Err(errors) => errors.iter().cloned().collect(),
        }
    }

    #[test]
    fn every_keyword_is_served_or_has_its_reason() {
        let mut unknown = Vec::new();
        for (block, words) in KEYWORDS {
            // A word of an address, a route or a rule stands in its line.
            let inline = block.lines().last().is_some_and(|line| line.contains('/') || line.starts_with("10."));
            for word in words.split_whitespace() {
                let open = block.lines().count();
                let text = match open {
                    0 => format!("{word}\n"),
                    _ if inline => format!("{block} {word} 1\n{}", "}\n".repeat(open - 1)),
                    _ => format!("{block} {{\n{word}\n{}", "}\n".repeat(open)),
                };
                for Diagnostic { message, help, .. } in said(&text) {
                    if message.contains("unknown keyword") && !message.contains("`1`") {
                        unknown.push(format!("{word} in {block}: {message}"));
                    }
                    let is_refused = message == format!("`{word}` is not supported by this version");
                    assert!(!is_refused || help.is_some(), "{word} in {block} has no reason");
                    assert!(
                        help.as_deref() != Some("it does not belong into this block"),
                        "{word} in {block} belongs there"
                    );
                }
            }
        }
        assert!(unknown.is_empty(), "{unknown:#?}");
    }

    #[test]
    fn what_is_done_in_another_way_is_a_warning() {
        let text = "global_defs {\n enable_dbus\n process_names\n}\n";
        let mut said = said(text).into_iter().map(|said| format!("{}: {}", said.place.line_column().0, said.message));
        assert_eq!(said.next().as_deref(), Some("3: `enable_dbus` changes nothing"));
        assert_eq!(said.next().as_deref(), Some("4: `process_names` changes nothing"));
        assert_eq!(said.next(), None);
    }

    /// The table for people; `HAMESH_BLESS=1` writes it anew.
    #[test]
    fn the_table_is_in_deploy() {
        let mut text = String::from(
            "# Keywords of keepalived.conf that hamesh does not serve\n\nAll others of `global_defs`, `vrrp_instance`, `vrrp_sync_group`, \
             `vrrp_script` and `virtual_server` are. Each of these is reported with its line and this reason;\nwhat is *ignored* with a warning is done in another \
             way, what is *refused* is an error.\n\n| keyword | | reason, and what to do |\n|---|---|---|\n",
        );
        for (outcome, words, reason) in TABLE.iter().filter(|(_, words, _)| !words.starts_with("real_server")) {
            let words: Vec<_> = words.split_whitespace().map(|word| format!("`{word}`")).collect();
            let outcome = if *outcome == OwnWay { "ignored" } else { "refused" };
            text += &format!("| {} | {outcome} | {reason} |\n", words.join(", "));
        }
        text += "\nOf a route `encap`, `expires`, `features`, `realms`, `rtt`, `rttvar`, `congctl`, `ttl-propagate`, `append`, `protocol`, `or` and \
                 `mtu lock`, and of a rule `realms` and `type`,\nare refused with what is known.\n";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/keepalived.md");
        if std::env::var_os("HAMESH_BLESS").is_some() {
            std::fs::write(&file, &text).expect("written");
        }
        let there = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(there == text, "deploy/keepalived.md is not the table any more: HAMESH_BLESS=1 writes it");
    }
}
