//! Routes and rules, line by line.

use super::*;
use crate::config::diagnostic::Located;
use crate::config::route::{named_table, numbered_rule as rule, route};

fn words(text: &str) -> Vec<Located<String>> {
    let source = Arc::new(Source { path: "x".into(), text: String::new() });
    text.split_whitespace().map(|word| Located { value: word.to_owned(), place: Place::file(&source) }).collect()
}

fn said(log: Log) -> Vec<String> {
    match log.finish(Some) {
        Ok(warnings) => warnings.into_iter().map(|said| said.message).collect(),
        Err(errors) => errors.iter().map(|said| said.message.clone()).collect(),
    }
}

#[test]
fn what_is_read_is_shown_in_the_words_of_ip() {
    for (text, shown) in [
        ("default via 10.0.0.1", "unicast 0.0.0.0/0 via 10.0.0.1"),
        ("default via fe80::1 dev eth0", "unicast ::/0 via fe80::1 dev eth0"),
        ("10.1.2.3/16 dev eth1 scope link table main", "unicast 10.1.0.0/16 dev eth1 scope 253"),
        (
            "10.1.2.3 dev eth1 src 10.0.0.9 preference 4 onlink",
            "unicast 10.1.2.3/32 dev eth1 src 10.0.0.9 metric 4 onlink",
        ),
        ("unreachable 2001:db8::/32 table 9", "unreachable 2001:db8::/32 table 9"),
        ("throw 10.0.0.0/8 table 9 tos 0x10", "throw 10.0.0.0/8 tos 16 table 9"),
        (
            "10.0.0.0/8 gw 10.1.0.1 hoplimit 9 mtu 1400 quickack on rto_min 1s",
            "unicast 10.0.0.0/8 via 10.1.0.1 mtu 1400 hoplimit 9 quickack 1 rto_min 1000",
        ),
        ("2001:db8::/32 via fe80::1 dev eth0 pref high", "unicast 2001:db8::/32 via fe80::1 dev eth0 pref high"),
        (
            "default metric 7 nexthop via 10.0.0.1 nexthop via 10.0.0.2 dev eth1 weight 2 onlink",
            "unicast 0.0.0.0/0 metric 7 nexthop via 10.0.0.1 weight 1 nexthop via 10.0.0.2 dev eth1 weight 2 onlink",
        ),
    ] {
        let log = Log::default();
        let read = route(&words(text), &log).unwrap();
        assert_eq!(read.to_string(), shown);
        assert_eq!(route(&words(shown), &log), Some(read));
        assert!(said(log).is_empty());
    }
    for (text, shown) in [
        ("from 10.0.0.7/24 table 5 preference 9", "from 10.0.0.0/24 lookup 5 priority 9"),
        ("to 2001:db8::/32 dev eth0 lookup 5 priority 9", "from ::/0 to 2001:db8::/32 iif eth0 lookup 5 priority 9"),
        (
            "tos 8 ipproto tcp sport 7 dport 80-90 uidrange 1-9 tunnel-id 3 l3mdev sup_pl 0 sup_group 4 priority 9",
            "from 0.0.0.0/0 tos 8 ipproto 6 sport 7-7 dport 80-90 uidrange 1-9 tunnel-id 3 l3mdev suppress_prefixlength 0 \
             suppress_ifgroup 4 priority 9",
        ),
        ("goto 50 priority 9", "from 0.0.0.0/0 goto 50 priority 9"),
        ("inet6 nop priority 9", "from ::/0 nop priority 9"),
        ("not fwmark 16 blackhole priority 9", "not from 0.0.0.0/0 fwmark 0x10/0xffffffff blackhole priority 9"),
    ] {
        let log = Log::default();
        let read = rule(&words(text), &log).unwrap();
        assert_eq!(read.to_string(), shown);
        assert_eq!(rule(&words(shown), &log), Some(read));
        assert!(said(log).is_empty());
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (text, wanted) in [
        ("10.0.0.0/33 dev eth0", "`10.0.0.0/33` is not a network"),
        ("10.0.0.0/8", "a route needs `via`, `dev` or `nexthop`"),
        ("via 10.0.0.1", "a route needs a destination"),
        ("10.0.0.0/8 via fe80::1", "`fe80::1` is of another family than the route's destination"),
        ("10.0.0.0/8 via", "`via` needs a value"),
        ("10.0.0.0/8 dev eth0 expires 14", "`expires` of a route is not supported by this version"),
        ("10.0.0.0/8 dev eth0 mtu lock 1400", "`lock` is not a number, which `mtu` needs"),
        ("10.0.0.0/8 dev eth0 table x", "`x` is not the number of a table, nor a name in /etc/iproute2/rt_tables"),
        ("10.0.0.0/8 via 10.0.0.1 nexthop dev eth0", "a route with `nexthop` has no other way"),
        ("10.0.0.0/8 nexthop via 10.0.0.1 weight 257", "`257` is not a weight from 1 to 256"),
    ] {
        let log = Log::default();
        assert_eq!(route(&words(text), &log), None, "{text}");
        assert_eq!(said(log), [wanted]);
    }
    for (text, wanted) in [
        ("from 10.0.0.0/8 lookup 5", "a rule needs a `priority` from 1 to 32765"),
        ("from 10.0.0.0/8 priority 5", "a rule needs a table to look into"),
        ("from 10.0.0.0/8 lookup 5 priority 5 realms 7", "`realms` of a rule is not supported by this version"),
    ] {
        let log = Log::default();
        assert_eq!(rule(&words(text), &log), None, "{text}");
        assert_eq!(said(log), [wanted]);
    }
}

#[test]
fn tables_have_the_names_that_ip_knows() {
    let names = "#\n255\tlocal\n 7  uplink # the other\n#8 off\n";
    assert_eq!(named_table(names, "uplink"), Some(7));
    assert_eq!(named_table(names, "off"), None);
}

#[test]
fn rules_of_keepalived_without_a_priority_get_one_after_the_other() {
    let node = NODE.replace("cluster = \"cluster.toml\"", "keepalived_config = \"k.conf\"");
    let instance = "vrrp_instance v {\n interface eth0\n virtual_router_id 1\n virtual_rules {\n from 10.1.0.0/16 table 7\n \
                    to 10.2.0.0/16 table 7 priority 5\n from 10.3.0.0/16 table 7\n }\n virtual_ipaddress {\n 10.0.0.1/24\n }\n}\n";
    let config = loaded(&[("hamesh.toml", &node), ("k.conf", instance)]);
    let priorities: Vec<_> = config.groups["v"].routing.rules.iter().map(|rule| rule.priority).collect();
    assert_eq!(priorities, [16_384, 5, 16_383]);
    assert!(
        config.warnings.iter().any(|said| said.message == "a rule without a `priority` gets 16383, as by keepalived")
    );
}
