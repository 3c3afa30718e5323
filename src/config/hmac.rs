//! keepalived's `auth_hmac`, in both kinds of file.

use super::diagnostic::{Diagnostic, Located, Log, Place};
use super::reader::Section;
use crate::vrrp::hmac::{KEY, Key, Mode, Settings};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

/// In keepalived's words.
pub(super) const MODES: [(&str, Mode); 3] =
    [("enforce", Mode::Enforce), ("permissive", Mode::Permissive), ("receive-only", Mode::ReceiveOnly)];
/// Of the window, in seconds.
pub(super) const WINDOW: RangeInclusive<u64> = 1..=300;
/// When none is given: three intervals, and this at least.
const LEAST: Duration = Duration::from_secs(5);

/// The window that keepalived derives of the interval.
pub(super) fn window(interval: Duration) -> Duration {
    let seconds = (interval.as_secs() * 3).clamp(LEAST.as_secs(), *WINDOW.end());
    Duration::from_secs(seconds)
}

/// Reads `{ hmac_files = { 1 = "web.key" }, active = 1, mode = "enforce", window = "5s" }`.
pub(super) fn read(section: &Section<'_>, place: &Place, interval: Duration, log: &Log) -> Option<Settings> {
    let mut keys = BTreeMap::new();
    for (name, file) in section.get("hmac_files")?.table()?.entries() {
        let Some(id) = name.value.parse().ok().filter(|id| *id >= 1) else {
            log.add(Diagnostic::error(&name.place, "the number of a key is 1 to 255"));
            continue;
        };
        let Some(file) = file.string() else { continue };
        keys.extend(from_file(&place.source.resolve(&file.value), &file.place, log).map(|key| (id, key)));
    }
    let active = section.required("active").and_then(|value| value.integer(1..=255));
    let mode = section.get("mode").and_then(|value| value.choice(&MODES));
    let given = section.get("window").and_then(|value| value.duration());
    if let Some(given) = &given
        && !given.value.is_zero()
        && (given.value.subsec_nanos() > 0 || !WINDOW.contains(&given.value.as_secs()))
    {
        let message = "`window` is 1s to 300s, in whole seconds, or 0s: the clocks do not matter";
        log.add(Diagnostic::error(&given.place, message));
    }
    let window = given.map_or_else(|| window(interval), |given| given.value);
    let mode = mode.map_or(Mode::Enforce, |mode| mode.value);
    complete(keys, active?, mode, Some(window).filter(|window| !window.is_zero()), log)
}

/// The settings, if there is a key to sign with.
pub(super) fn complete(
    keys: BTreeMap<u8, Key>,
    active: Located<u8>,
    mode: Mode,
    window: Option<Duration>,
    log: &Log,
) -> Option<Settings> {
    if !keys.contains_key(&active.value) {
        log.add(Diagnostic::error(&active.place, format!("there is no key {}", active.value)));
        return None;
    }
    Some(Settings { keys, active: active.value, mode, window })
}

/// A key of a file of its own.
pub(super) fn from_file(path: &Path, place: &Place, log: &Log) -> Option<Key> {
    match std::fs::read_to_string(path) {
        Ok(text) => key(text.trim_end_matches(['\r', '\n']), place, log),
        Err(error) => {
            log.add(Diagnostic::error(place, format!("cannot read the key: {error}")));
            None
        }
    }
}

/// A key as keepalived has it: plain characters, or `hex:` and bytes.
pub(super) fn key(text: &str, place: &Place, log: &Log) -> Option<Key> {
    let key = match text.strip_prefix("hex:") {
        None => Some(text.as_bytes().to_vec()),
        Some(digits) if digits.is_ascii() && digits.len().is_multiple_of(2) => {
            let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).ok();
            (0..digits.len()).step_by(2).map(byte).collect()
        }
        Some(_) => None,
    };
    let Some(key) = key else {
        log.add(Diagnostic::error(place, "a key behind `hex:` is pairs of hexadecimal digits"));
        return None;
    };
    if !KEY.contains(&key.len()) {
        let message = format!("the key has {} bytes: {} to {} are needed", key.len(), KEY.start(), KEY.end());
        log.add(Diagnostic::error(place, message).help("for example that of `openssl rand -hex 32`, behind `hex:`"));
        return None;
    }
    Some(Key(key))
}

/// The line of `[vip.NAME]` that says this.
pub(super) fn show(name: &str, settings: &Settings, quoted: fn(String) -> String) -> String {
    let Settings { keys, active, mode, window } = settings;
    let files: Vec<_> = keys.keys().map(|id| format!("{id} = {}", quoted(format!("{name}.{id}.key")))).collect();
    let mode = MODES.iter().find(|(_, word)| word == mode).map_or("enforce", |(word, _)| word);
    let window = window.unwrap_or_default().as_secs();
    format!(
        "authentication = {{ hmac_files = {{ {} }}, active = {active}, mode = {}, window = \"{window}s\" }}   # write each \
         key to its file, mode 0600",
        files.join(", "),
        quoted(mode.to_owned())
    )
}
