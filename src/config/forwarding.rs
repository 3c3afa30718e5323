//! `forwarding` of a service, of a server.

use super::diagnostic::{Diagnostic, Log};
use super::reader::{Section, Value};
use crate::ipvs::{Checksum, Forwarding, Tunnel};

const WORDS: [(&str, Forwarding); 3] =
    [("nat", Forwarding::Nat), ("direct", Forwarding::Direct), ("tunnel", Forwarding::Tunnel(Tunnel::Ipip))];
/// Of a GUE header, and all but the last of a GRE header.
const CHECKSUMS: [(&str, Checksum); 3] =
    [("none", Checksum::None), ("full", Checksum::Full), ("remote", Checksum::Remote)];

/// `"nat"`, `"direct"`, `"tunnel"`, `{ gue = { port = 6080, checksum = "full" } }` or `{ gre = {} }`.
pub(super) fn read(value: Value<'_>, log: &Log) -> Option<Forwarding> {
    if !value.is_table() {
        return value.choice(&WORDS).map(|word| word.value);
    }
    let section = value.table()?;
    let checksum = |tunnel: &Section<'_>, of: &[(&'static str, Checksum)]| match tunnel.get("checksum") {
        Some(value) => value.choice(of).map(|word| word.value),
        None => Some(Checksum::None),
    };
    let tunnel = match (section.get("gue"), section.get("gre")) {
        (Some(value), None) => value.table().and_then(|gue| {
            let port = gue.required("port").and_then(|value| value.integer(1..=u16::MAX));
            let checksum = checksum(&gue, &CHECKSUMS);
            gue.close();
            Some(Tunnel::Gue { port: port?.value, checksum: checksum? })
        }),
        (None, Some(value)) => value.table().and_then(|gre| {
            let checksum = checksum(&gre, &CHECKSUMS[..2]);
            gre.close();
            Some(Tunnel::Gre { checksum: checksum? })
        }),
        (None, None) | (Some(_), Some(_)) => {
            let error = Diagnostic::error(section.place(), "a tunnel is one of `gue` and `gre`");
            log.add(error.help("for example { gue = { port = 6080 } }; IP in IP is \"tunnel\""));
            None
        }
    };
    section.close();
    tunnel.map(Forwarding::Tunnel)
}

/// As [`read`] reads it.
pub(super) fn show(forwarding: Forwarding) -> String {
    let word = |checksum| CHECKSUMS.iter().find(|(_, one)| *one == checksum).map_or("", |(word, _)| word);
    match forwarding {
        Forwarding::Tunnel(Tunnel::Gue { port, checksum }) => {
            format!("{{ gue = {{ port = {port}, checksum = \"{}\" }} }}", word(checksum))
        }
        Forwarding::Tunnel(Tunnel::Gre { checksum }) => format!("{{ gre = {{ checksum = \"{}\" }} }}", word(checksum)),
        // The last is only ever read from the kernel.
        Forwarding::Nat | Forwarding::Direct | Forwarding::Tunnel(Tunnel::Ipip) | Forwarding::Other(_) => {
            let word = WORDS.iter().find(|(_, one)| *one == forwarding).map_or("", |(word, _)| word);
            format!("\"{word}\"")
        }
    }
}
