//! `authentication` and `auth_hmac` of an instance.

use super::syntax::Statement;
use super::{argument, block, check_leaf, number, unknown};
use crate::config::diagnostic::{Diagnostic, Located, Log, Place, nearest};
use crate::config::hmac::{self, MODES, WINDOW};
use crate::vrrp::hmac::{Key, Mode, Settings};
use crate::vrrp::{Auth, Password};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// `{ auth_type PASS|AH, auth_pass X }`.
pub(super) fn read(statement: &Statement, log: &Log) -> Option<Located<Auth>> {
    const KNOWN: [&str; 2] = ["auth_type", "auth_pass"];
    let (mut kind, mut pass) = (None, None);
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "auth_type" => kind = argument(line, log),
            "auth_pass" => pass = argument(line, log),
            _ => unknown(&line.keyword, &KNOWN, log),
        }
        check_leaf(line, &KNOWN, log);
    }
    let place = statement.keyword.place.clone();
    let (Some(kind), Some(pass)) = (kind, pass) else {
        log.add(Diagnostic::error(&place, "`authentication` needs `auth_type` and `auth_pass`"));
        return None;
    };
    let mut authenticated = false;
    match kind.value.as_str() {
        "PASS" => {}
        "AH" => authenticated = true,
        _ => {
            let error = Diagnostic::error(&kind.place, "`auth_type` is PASS or AH");
            log.add(error.did_you_mean(nearest(&kind.value, ["PASS", "AH"])));
            return None;
        }
    }
    if pass.value.len() > Password::MAX {
        let message = format!("only the first {} bytes of `auth_pass` are used, as by keepalived", Password::MAX);
        log.add(Diagnostic::warning(&pass.place, message));
    }
    let password = Password::cut(&pass.value);
    Some(Located { value: if authenticated { Auth::Ah(password) } else { Auth::Pass(password) }, place })
}

/// `auth_hmac`, before the interval is known.
pub(super) struct Hmac {
    keys: BTreeMap<u8, Key>,
    active: Option<Located<u8>>,
    mode: Mode,
    window: Option<Duration>,
    monotonic: bool,
}

impl Hmac {
    /// Strict mode hears nothing unsigned.
    pub(super) fn enforce(&mut self, place: &Place, log: &Log) {
        if std::mem::replace(&mut self.mode, Mode::Enforce) != Mode::Enforce {
            log.add(Diagnostic::warning(place, "strict mode has `mode enforce`, as in keepalived"));
        }
    }

    pub(super) fn build(self, place: Place, interval: Duration, log: &Log) -> Option<Settings> {
        let Self { keys, active, mode, window, monotonic } = self;
        let Some(active) = active else {
            log.add(Diagnostic::error(&place, "`auth_hmac` needs `active_key`"));
            return None;
        };
        let window = window.unwrap_or_else(|| hmac::window(interval));
        hmac::complete(keys, active, mode, (!monotonic).then_some(window), log)
    }
}

/// `{ key ID VALUE|hex:...|file:..., active_key, anti_replay, time_window, mode }`.
pub(super) fn hmac(statement: &Statement, log: &Log) -> Option<Located<Hmac>> {
    const KNOWN: [&str; 5] = ["key", "active_key", "anti_replay", "time_window", "mode"];
    let place = statement.keyword.place.clone();
    let mut read = Hmac { keys: BTreeMap::new(), active: None, mode: Mode::Enforce, window: None, monotonic: false };
    for line in block(statement, log) {
        let fault = |place: &Place, message: String| log.add(Diagnostic::error(place, message));
        match line.keyword.text.as_str() {
            "key" => match line.arguments.as_slice() {
                [id, value] => {
                    let key = match value.text.strip_prefix("file:") {
                        Some(file) => hmac::from_file(Path::new(file), &value.place, log),
                        None => hmac::key(&value.text, &value.place, log),
                    };
                    match id.text.parse().ok().filter(|id| *id >= 1) {
                        None => fault(&id.place, "the number of a key is 1 to 255".to_owned()),
                        Some(id) if read.keys.contains_key(&id) => {
                            fault(&line.keyword.place, format!("there are two keys {id}"));
                        }
                        Some(id) => read.keys.extend(key.map(|key| (id, key))),
                    }
                }
                [] | [_] | [_, _, _, ..] => {
                    fault(&line.keyword.place, "`key` takes its number and its value".to_owned());
                }
            },
            "active_key" => read.active = number(line, log),
            "anti_replay" => match argument(line, log) {
                Some(word) if word.value == "time" => read.monotonic = false,
                Some(word) if word.value == "monotonic" => read.monotonic = true,
                Some(word) => fault(&word.place, "`anti_replay` is time or monotonic".to_owned()),
                None => {}
            },
            "time_window" => {
                let word = argument(line, log);
                let seconds = word.as_ref().and_then(|word| word.value.parse().ok()).filter(|it| WINDOW.contains(it));
                if let (Some(word), None) = (&word, seconds) {
                    fault(
                        &word.place,
                        format!("`time_window` must be between {} and {}", WINDOW.start(), WINDOW.end()),
                    );
                }
                read.window = seconds.map(Duration::from_secs);
            }
            "mode" => {
                let Some(word) = argument(line, log) else { continue };
                match MODES.iter().find(|(name, _)| *name == word.value) {
                    Some((_, mode)) => read.mode = *mode,
                    None => fault(&word.place, "`mode` is enforce, permissive or receive-only".to_owned()),
                }
            }
            _ => unknown(&line.keyword, &KNOWN, log),
        }
        check_leaf(line, &KNOWN, log);
    }
    Some(Located { value: read, place })
}
