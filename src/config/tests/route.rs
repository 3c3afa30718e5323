//! Routes and rules, line by line.

use super::*;
use crate::config::diagnostic::Located;
use crate::config::route::{route, rule};

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
        ("10.0.0.0/8", "a route needs `via` or `dev`"),
        ("via 10.0.0.1", "a route needs a destination"),
        ("10.0.0.0/8 via fe80::1", "`fe80::1` is of another family than the route's destination"),
        ("10.0.0.0/8 via", "`via` needs a value"),
        ("10.0.0.0/8 dev eth0 mtu 1400", "`mtu` of a route is not supported by this version"),
        ("10.0.0.0/8 dev eth0 table x", "`x` is not the number of a table"),
    ] {
        let log = Log::default();
        assert_eq!(route(&words(text), &log), None, "{text}");
        assert_eq!(said(log), [wanted]);
    }
    for (text, wanted) in [
        ("from 10.0.0.0/8 lookup 5", "a rule needs a `priority` from 1 to 32765"),
        ("from 10.0.0.0/8 priority 5", "a rule needs a table to look into"),
        ("from 10.0.0.0/8 lookup 5 priority 5 uidrange 0-9", "`uidrange` of a rule is not supported by this version"),
    ] {
        let log = Log::default();
        assert_eq!(rule(&words(text), &log), None, "{text}");
        assert_eq!(said(log), [wanted]);
    }
}
