//! `vrrp_script`, `vrrp_track_process`, and what an instance tracks: `track_script`, `track_interface`, `track_file`,
//! `track_process` and `track_bfd`, with keepalived's defaults.
//!
//! Two things differ. A script that cannot be run has failed, and is none that is well; and there is no shell.

use super::super::duration;
use super::super::track::{Arguments, Delays, LONGEST_DELAY, Process, Script, Track, Tracked};
use super::syntax::{Statement, Word};
use super::{argument, bfd, block, check_leaf, unknown};
use crate::config::diagnostic::{Diagnostic, Located, Log, Place, nearest};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What a weight changes at most, either way.
const HEAVIEST: i16 = 253;

/// The blocks that name what is tracked.
pub(super) const LISTS: [&str; 5] = ["track_interface", "track_script", "track_file", "track_process", "track_bfd"];

/// What only a shell understands.
const SHELL: [char; 9] = ['|', '&', ';', '<', '>', '$', '`', '*', '('];

/// A script, and what tracks of it inherit.
pub(super) struct Known {
    pub script: Script,
    weight: i16,
    reverse: bool,
}

/// What the file names to be tracked, beside interfaces.
pub(super) struct Things {
    pub scripts: BTreeMap<String, Known>,
    /// Of each `track_file` its path and weight.
    pub files: BTreeMap<String, (PathBuf, i32)>,
    pub bfd: BTreeMap<String, bfd::Known>,
    /// Of each `vrrp_track_process` what it is and its weight.
    pub processes: BTreeMap<String, Weighed>,
}

/// A process, and what tracks of it inherit.
type Weighed = (Process, (i16, bool));

/// Reads `vrrp_track_process NAME { ... }`.
pub(super) fn process(statement: &Statement, log: &Log) -> Option<(String, Weighed)> {
    const KNOWN: [&str; 9] = [
        "process",
        "param_match",
        "weight",
        "quorum",
        "quorum_max",
        "delay",
        "fork_delay",
        "terminate_delay",
        "full_command",
    ];
    let name = argument(statement, log)?;
    let (mut command, mut arguments, mut weighed) = (None, None, (0, false));
    let (mut least, mut most, mut delays) = (1, None, Delays::default());
    let number = |line| super::lvs::number::<u32>(line, "a number of processes", log);
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "process" => command = Some(read_command(line, log)),
            "param_match" => match argument(line, log) {
                Some(word) if word.value == "initial" => arguments = Some(Arguments::Initial),
                Some(word) if word.value == "partial" => arguments = Some(Arguments::Partial),
                Some(word) => log.add(Diagnostic::error(&word.place, "`param_match` is initial or partial")),
                None => {}
            },
            "weight" => weighed = own_weight(line, log).unwrap_or(weighed),
            "quorum" => least = number(line).unwrap_or(least),
            "quorum_max" => most = number(line),
            "delay" => delays = delay(line, log).map_or(delays, |delay| Delays { down: delay, up: delay }),
            "fork_delay" => delays.up = delay(line, log).unwrap_or(delays.up),
            "terminate_delay" => delays.down = delay(line, log).unwrap_or(delays.down),
            "full_command" => arguments = Some(Arguments::Exact),
            _ => unknown(&line.keyword, &KNOWN, log),
        }
        check_leaf(line, &KNOWN, log);
    }
    let Some(command) = command else {
        log.add(Diagnostic::error(&name.place, format!("`vrrp_track_process {}` needs `process`", name.value)));
        return None;
    };
    let command = command?;
    let usual = if command.len() > 1 { Arguments::Exact } else { Arguments::Any };
    let arguments = arguments.unwrap_or(usual);
    let least = if most == Some(0) { 0 } else { least };
    Some((name.value, (Process { command, arguments, least, most, delays }, weighed)))
}

fn delay(line: &Statement, log: &Log) -> Option<Duration> {
    let Located { value, place } = argument(line, log)?;
    let delay = duration::seconds(&value);
    if let Err(reason) = &delay {
        let message = format!("`{}` is not a number of seconds: {reason}", line.keyword.text);
        log.add(Diagnostic::error(&place, message));
    }
    delay.ok()
}

/// Reads `vrrp_script NAME { ... }`. `user` is the `script_user` of the file.
pub(super) fn script(statement: &Statement, user: Option<&str>, log: &Log) -> Option<(String, Known)> {
    const KNOWN: [&str; 8] = ["script", "interval", "timeout", "weight", "rise", "fall", "user", "init_fail"];
    let name = argument(statement, log)?;
    let (mut command, mut timeout) = (None, None);
    let mut weighed = (0, false);
    let mut script = Script {
        command: Vec::new(),
        user: user.map(str::to_owned),
        interval: Duration::from_secs(1),
        timeout: Duration::ZERO,
        rise: 1,
        fall: 1,
        init_fail: false,
    };
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "script" => command = Some(read_command(line, log)),
            "interval" => script.interval = time(line, log).unwrap_or(script.interval),
            "timeout" => timeout = time(line, log),
            "weight" => weighed = own_weight(line, log).unwrap_or(weighed),
            "rise" => script.rise = super::number(line, log).map_or(1, |count| count.value),
            "fall" => script.fall = super::number(line, log).map_or(1, |count| count.value),
            "user" => script.user = read_user(line, log),
            "init_fail" => script.init_fail = true,
            _ => unknown(&line.keyword, &KNOWN, log),
        }
        check_leaf(line, &KNOWN, log);
    }
    script.timeout = timeout.unwrap_or(script.interval);
    if script.user.is_none() {
        let warning = Diagnostic::warning(&name.place, format!("`vrrp_script {}` runs as hamesh does", name.value));
        log.add(warning.help("there is no user keepalived_script: set `user` or `script_user`"));
    }
    match command {
        Some(command) => script.command = command?,
        None => {
            log.add(Diagnostic::error(&name.place, format!("`vrrp_script {}` needs `script`", name.value)));
            return None;
        }
    }
    let (weight, reverse) = weighed;
    Some((name.value, Known { script, weight, reverse }))
}

/// `script_user` and `user`.
pub(super) fn read_user(line: &Statement, log: &Log) -> Option<String> {
    let user = user_of(&line.arguments);
    if user.is_none() {
        log.add(Diagnostic::error(&line.keyword.place, format!("`{}` needs a user", line.keyword.text)));
    }
    user
}

/// `USER [GROUP]`.
pub(super) fn user_of(words: &[Word]) -> Option<String> {
    match words {
        [] => None,
        [user] => Some(user.text.clone()),
        [user, group, ..] => Some(format!("{}:{}", user.text, group.text)),
    }
}

/// Reads one of [`LISTS`] of an instance or a sync group.
pub(super) fn list(statement: &Statement, things: &Things, tracks: &mut Vec<Track>, log: &Log) {
    for line in block(statement, log) {
        let Some((what, inherited)) = tracked(&statement.keyword.text, &line.keyword, things, log) else { continue };
        let name = &line.keyword;
        let own = match &line.arguments[..] {
            [] => Some(inherited),
            [word, weighed @ ..] if word.text == "weight" => {
                weight(word, weighed, log).map(|(weight, reverse)| (weight, reverse.unwrap_or(inherited.1)))
            }
            [word, ..] => {
                unknown(word, &["weight"], log);
                None
            }
        };
        if line.block.is_some() {
            log.add(Diagnostic::error(&name.place, "what is tracked has no block"));
        }
        if tracks.iter().any(|earlier| earlier.what == what) {
            log.add(Diagnostic::error(&name.place, format!("`{}` is tracked twice", name.text)));
        }
        tracks.extend(own.map(|(weight, reverse)| Track { what, weight, reverse }));
    }
}

/// What a line names, and the weight that it has there.
fn tracked(list: &str, name: &Word, things: &Things, log: &Log) -> Option<(Tracked, (i16, bool))> {
    let missing = |kind: &str, names: Vec<&str>| {
        let error = Diagnostic::error(&name.place, format!("there is no `{kind} {}`", name.text));
        log.add(error.did_you_mean(nearest(&name.text, names)));
        None
    };
    match list {
        "track_interface" => Some((Tracked::Interface(name.text.clone()), (0, false))),
        "track_script" => match things.scripts.get(&name.text) {
            Some(known) => Some((Tracked::Script(name.text.clone()), (known.weight, known.reverse))),
            None => missing("vrrp_script", things.scripts.keys().map(String::as_str).collect()),
        },
        "track_process" => match things.processes.get(&name.text) {
            Some((process, weight)) => Some((Tracked::Process(process.clone()), *weight)),
            None => missing("vrrp_track_process", things.processes.keys().map(String::as_str).collect()),
        },
        "track_bfd" => match things.bfd.get(&name.text) {
            Some(known) if known.vrrp => Some((Tracked::Bfd(name.text.clone()), known.weight)),
            Some(_) => {
                let message = format!("`bfd_instance {}` is for checkers only", name.text);
                log.add(Diagnostic::error(&name.place, message).help("add `vrrp` to it, or take `checker` out"));
                None
            }
            None => missing("bfd_instance", things.bfd.keys().map(String::as_str).collect()),
        },
        _ => match things.files.get(&name.text) {
            Some((path, weight)) => match i16::try_from(*weight).ok().filter(|w| (-HEAVIEST..=HEAVIEST).contains(w)) {
                Some(weight) => Some((Tracked::File(path.clone()), (weight, false))),
                None => {
                    let message = format!("the `weight` of `track_file {}` is not between -253 and 253", name.text);
                    log.add(Diagnostic::error(&name.place, message));
                    None
                }
            },
            None => missing("track_file", things.files.keys().map(String::as_str).collect()),
        },
    }
}

/// That of something that inherits none.
pub(super) fn own_weight(line: &Statement, log: &Log) -> Option<(i16, bool)> {
    let (weight, reverse) = weight(&line.keyword, &line.arguments, log)?;
    Some((weight, reverse.unwrap_or(false)))
}

/// `W [reverse|noreverse]`.
fn weight(keyword: &Word, words: &[Word], log: &Log) -> Option<(i16, Option<bool>)> {
    let (number, reverse) = match words {
        [number] => (number, None),
        [number, word] if word.text == "reverse" => (number, Some(true)),
        [number, word] if word.text == "noreverse" => (number, Some(false)),
        [] => {
            log.add(Diagnostic::error(&keyword.place, "`weight` needs a value"));
            return None;
        }
        [_, word, ..] => {
            unknown(word, &["reverse", "noreverse"], log);
            return None;
        }
    };
    let value = number.text.parse().ok().filter(|weight| (-HEAVIEST..=HEAVIEST).contains(weight));
    if value.is_none() {
        log.add(Diagnostic::error(&number.place, "`weight` must be between -253 and 253"));
    }
    Some((value?, reverse))
}

fn time(line: &Statement, log: &Log) -> Option<Duration> {
    let Located { value, place } = argument(line, log)?;
    let fault = match duration::seconds(&value) {
        Ok(time) if time >= Duration::from_millis(10) => return Some(time),
        Ok(_) => "is below 10 ms".to_owned(),
        Err(reason) => format!("is not a number of seconds: {reason}"),
    };
    log.add(Diagnostic::error(&place, format!("`{}` {fault}", line.keyword.text)));
    None
}

/// Reads `interface_up_down_delays { NAME DOWN [UP] }`, in seconds.
pub(super) fn delays(statement: &Statement, log: &Log) -> Vec<(String, Delays)> {
    let delay = |word: &Word| match duration::seconds(&word.text) {
        Ok(delay) if delay <= LONGEST_DELAY => Some(delay),
        Ok(_) | Err(_) => {
            log.add(Diagnostic::error(&word.place, "a delay of an interface is a number of seconds up to 255"));
            None
        }
    };
    let mut all = Vec::new();
    for line in block(statement, log) {
        match &line.arguments[..] {
            [down] => all.extend(delay(down).map(|down| (line.keyword.text.clone(), Delays { down, up: down }))),
            [down, up] => {
                let delays = delay(down).zip(delay(up)).map(|(down, up)| Delays { down, up });
                all.extend(delays.map(|delays| (line.keyword.text.clone(), delays)));
            }
            _ => log.add(Diagnostic::error(&line.keyword.place, "an interface has one delay down, and perhaps one up")),
        }
        if line.block.is_some() {
            log.add(Diagnostic::error(&line.keyword.place, "an interface has no block"));
        }
    }
    all
}

/// One quoted string, or several words; a string's words may be quoted in turn.
pub(super) fn read_command(line: &Statement, log: &Log) -> Option<Vec<String>> {
    let place = line.arguments.first().map_or(&line.keyword.place, |word| &word.place);
    let words = match &line.arguments[..] {
        [one] => split(&one.text, place, log)?,
        words => words.iter().map(|word| word.text.clone()).collect(),
    };
    if words.is_empty() {
        log.add(Diagnostic::error(place, "`script` needs a command"));
        return None;
    }
    Some(words)
}

pub(super) fn split(text: &str, place: &Place, log: &Log) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) if SHELL.contains(&c) => {
                let error = Diagnostic::error(place, format!("`{c}` needs a shell, and scripts are run without one"));
                log.add(error.help("put the command into a file, or write /bin/sh -c '...'"));
                return None;
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        log.add(Diagnostic::error(place, "a quote in the command is not closed"));
        return None;
    }
    words.extend(word);
    Some(words)
}
