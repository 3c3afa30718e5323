//! An address with what may be said of it beside, in the words of `ip address`: `IP[/LENGTH] [dev IF] [scope S] [label L] [brd IP]
//! [noprefixroute] [preferred_lft N] [no_track]`, of a VIP or of what is static, in both kinds of file.

use super::diagnostic::{Diagnostic, Located, Log};
use super::group;
use super::route;
use crate::kernel::address::{FLAGS, Label, Look};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// What is said of an address beside itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placing {
    /// Its interface, where that is not its group's.
    pub device: Option<String>,
    /// Its group goes on without it while that interface is down.
    pub untracked: bool,
    /// What the kernel is told of it.
    pub look: Look,
}

/// In the words that are read, each after a space.
impl fmt::Display for Placing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, untracked, look } = self;
        device.iter().try_for_each(|device| write!(f, " dev {device}"))?;
        write!(f, "{look}{}", if *untracked { " no_track" } else { "" })
    }
}

/// Reads the words of one. Of a word that is not known here `other` says whether to read on.
pub(super) fn read(
    words: &[Located<String>],
    other: impl Fn(&Located<String>) -> bool,
    log: &Log,
) -> Option<(Located<(IpAddr, u8)>, Placing)> {
    let (first, mut rest) = (words.first()?, words[1..].iter());
    let address = match group::address(&first.value) {
        Ok(address) => Some(address),
        Err(why) => {
            log.add(Diagnostic::error(&first.place, why).help("for example \"203.0.113.10/24\""));
            None
        }
    };
    let mut placing = Placing::default();
    while let Some(word) = rest.next() {
        match word.value.as_str() {
            "no_track" => placing.untracked = true,
            "dev" | "scope" | "label" | "brd" | "broadcast" | "preferred_lft" => {
                let Some(value) = rest.next() else {
                    log.add(Diagnostic::error(&word.place, format!("`{}` needs a value", word.value)));
                    break;
                };
                place(&mut placing, word, value, address, log);
            }
            text => match FLAGS.iter().find(|(name, _)| *name == text) {
                Some((_, flag)) => placing.look.flags |= flag,
                None if other(word) => {}
                None => break,
            },
        }
    }
    Some((Located { value: address?, place: first.place.clone() }, placing))
}

fn place(
    placing: &mut Placing,
    word: &Located<String>,
    value: &Located<String>,
    address: Option<(IpAddr, u8)>,
    log: &Log,
) {
    let fault = |message: String| log.add(Diagnostic::error(&value.place, message));
    let text = &value.value;
    if word.value == "dev" {
        if !group::is_interface_name(text) {
            fault(format!("`{text}` cannot be the name of an interface"));
        }
        placing.device = Some(text.clone());
        return;
    }
    if word.value == "preferred_lft" {
        // As long as the address itself, which is refreshed, or never.
        let preferred =
            if text == "forever" { Some(true) } else { text.parse::<u32>().ok().map(|seconds| seconds > 0) };
        if preferred.is_none() {
            fault(format!("`{text}` is no number of seconds, and not `forever`"));
        }
        placing.look.preferred = preferred;
        return;
    }
    let Some((address, length)) = address else { return };
    let IpAddr::V4(address) = address else {
        let message = format!("an IPv6 address has no `{}`: it is ignored, as by keepalived", word.value);
        return log.add(Diagnostic::warning(&word.place, message));
    };
    match word.value.as_str() {
        "scope" => placing.look.scope = route::scope_of(value, log).unwrap_or_default(),
        "label" => match Label::new(text) {
            Some(label) => placing.look.label = Some(label),
            None => fault(format!("`{text}` is longer than the 15 bytes of a label")),
        },
        _ => match broadcast(text, address, length) {
            Some(broadcast) => placing.look.broadcast = Some(broadcast),
            None => fault(format!("`{text}` is no broadcast address of `{address}/{length}`: an address, `+` or `-`")),
        },
    }
}

/// `+` has every bit of a host, `-` none.
fn broadcast(text: &str, address: Ipv4Addr, length: u8) -> Option<Ipv4Addr> {
    let hosts = u32::MAX.checked_shr(length.into()).unwrap_or(0);
    match text {
        "+" | "-" if length > 30 => None,
        "+" => Some((address.to_bits() | hosts).into()),
        "-" => Some((address.to_bits() & !hosts).into()),
        address => address.parse().ok(),
    }
}
