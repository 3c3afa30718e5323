//! What a VIP group's priority depends on beside its servers: `[track_script.NAME]`, and `vip.NAME.track`.

use super::bfd;
use super::diagnostic::{Diagnostic, Located, Log};
use super::reader::{Section, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The largest weight, either way; keepalived's.
const HEAVIEST: i16 = 253;
/// When none is given; keepalived's.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// A program that says by its exit status whether this node is well: 0 is yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// An absolute path, or a name to look for in `PATH`, and its arguments; there is no shell.
    pub command: Vec<String>,
    /// Whom it runs as; `None`: as hamesh does.
    pub user: Option<String>,
    /// Between the beginnings of two runs; at least 10 ms.
    pub interval: Duration,
    /// A run that takes longer is killed and has failed.
    pub timeout: Duration,
    /// Successes in a row that make it up, 1 to 255.
    pub rise: u8,
    /// Failures in a row that make it down, 1 to 255.
    pub fall: u8,
    /// It is down until it has succeeded `rise` times.
    pub init_fail: bool,
}

/// What a VIP group depends on, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// What is looked at.
    pub what: Tracked,
    /// -253 to 253. 0: FAULT while it is down. Positive: added while it is up; negative: while it is down. Of a file: its
    /// number is multiplied by it.
    pub weight: i16,
    /// The other way round: the weight's sign, or with 0 what counts as down.
    pub reverse: bool,
}

impl Track {
    /// What keepalived leaves of it where weights do not count: in most sync groups, and to an `owner`.
    pub(super) fn unweighted(mut self, owner: bool) -> Option<Self> {
        let stays = match self.what {
            _ if self.weight == 0 => true,
            // Forgotten there.
            Tracked::Process(_) => return Some(self),
            Tracked::Interface(_) => !owner,
            // 1 is what it has when nothing is said.
            Tracked::File(_) => self.weight == 1,
            Tracked::Script(_) | Tracked::Bfd(_) => false,
        };
        self.weight = 0;
        stays.then_some(self)
    }
}

/// What can be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tracked {
    /// Up and with carrier.
    Interface(String),
    /// `[track_script.NAME]`.
    Script(String),
    /// A file that holds a number. One that is not there, or holds none, counts as 0.
    File(PathBuf),
    /// `[bfd.NAME]`: its neighbour is heard.
    Bfd(String),
    /// So many processes run as there are to.
    Process(Process),
}

/// A program, and how many of its processes are to run on this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its name, or its path as it was started with, and its arguments.
    pub command: Vec<String>,
    /// Which of its processes count.
    pub arguments: Arguments,
    /// So many at least.
    pub least: u32,
    /// So many at most.
    pub most: Option<u32>,
    /// How long it must be otherwise to count.
    pub delays: Delays,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command.join(" "))
    }
}

/// What the arguments of a process are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arguments {
    /// Nothing.
    Any,
    /// These, and no more.
    Exact,
    /// These, and the last may go on.
    Initial,
    /// These, and more behind them.
    Partial,
}

/// In keepalived's words, but for the first two.
pub(super) const ARGUMENTS: [(&str, Arguments); 4] = [
    ("any", Arguments::Any),
    ("exact", Arguments::Exact),
    ("initial", Arguments::Initial),
    ("partial", Arguments::Partial),
];

/// How long a change of an interface, or of a process, must last to count; of an interface at most 255 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delays {
    /// Of one that loses its carrier, or is set down.
    pub down: Duration,
    /// Of one that comes back.
    pub up: Duration,
}

/// The longest; keepalived's.
pub(super) const LONGEST_DELAY: Duration = Duration::from_secs(255);

/// Reads `[interface.NAME]`.
pub(super) fn read_delays(section: Section<'_>, log: &Log) -> Option<Delays> {
    let delay = |value: Value<'_>| {
        let delay = value.duration()?;
        if delay.value > LONGEST_DELAY {
            log.add(Diagnostic::error(&delay.place, "a delay of an interface is at most 255s"));
        }
        Some(delay.value)
    };
    let down = section.required("down_delay").and_then(delay);
    let up = section.get("up_delay").and_then(delay);
    section.close();
    Some(Delays { down: down?, up: up.or(down)? })
}

/// What the file names to be tracked.
pub(super) struct Things {
    pub scripts: BTreeMap<String, Script>,
    pub bfd: BTreeMap<String, bfd::Settings>,
}

/// Reads `[track_script.NAME]`.
pub(super) fn read_script(section: Section<'_>, log: &Log) -> Option<Script> {
    let command = section.required("command").and_then(|value| read_command(value, log));
    let user = section.get("user").and_then(Value::string).map(|user| user.value);
    let interval = section.get("interval").and_then(Value::duration);
    let timeout = section.get("timeout").and_then(Value::duration);
    for time in [&interval, &timeout].into_iter().flatten().filter(|time| time.value < Duration::from_millis(10)) {
        log.add(Diagnostic::error(&time.place, "a script cannot be run more often than every 10ms"));
    }
    let interval = interval.map_or(DEFAULT_INTERVAL, |interval| interval.value);
    let count = |key| section.get(key).and_then(|value| value.integer(1..=255u8)).map_or(1, |count| count.value);
    let script = Script {
        command: command.unwrap_or_default(),
        user,
        interval,
        timeout: timeout.map_or(interval, |timeout| timeout.value),
        rise: count("rise"),
        fall: count("fall"),
        init_fail: section.get("init_fail").and_then(Value::boolean).is_some_and(|value| value.value),
    };
    section.close();
    Some(script).filter(|script| !script.command.is_empty())
}

pub(super) fn read_command(value: Value<'_>, log: &Log) -> Option<Vec<String>> {
    let place = value.place.clone();
    let words: Vec<String> = value.list()?.into_iter().filter_map(Value::string).map(|word| word.value).collect();
    // Where it is run from is nobody's business: a path is absolute, or there is none.
    if !words.first().is_some_and(|program| program.starts_with('/') || !program.is_empty() && !program.contains('/')) {
        let error =
            Diagnostic::error(&place, "a command begins with the absolute path of a program, or its name in `PATH`");
        log.add(error.help("it is run without a shell: for example [\"/usr/bin/pgrep\", \"-x\", \"haproxy\"]"));
        return None;
    }
    Some(words)
}

/// Reads `vip.NAME.track`.
pub(super) fn read_list(value: Value<'_>, things: &Things, log: &Log) -> Vec<Track> {
    let mut tracks: Vec<Track> = Vec::new();
    for item in value.list().unwrap_or_default() {
        let place = item.place.clone();
        let Some(track) = item.table().and_then(|section| read_one(section, things, log)) else { continue };
        if tracks.iter().any(|earlier| earlier.what == track.what) {
            log.add(Diagnostic::error(&place, "this is tracked twice"));
        }
        tracks.push(track);
    }
    tracks
}

/// `process = "NAME"` or `["NAME", "ARGUMENT"]`, with `arguments`, `least`, `most`, `up_delay` and `down_delay` beside it.
fn read_process(value: Value<'_>, section: &Section<'_>, log: &Log) -> Option<Tracked> {
    let place = value.place.clone();
    let command: Vec<String> = if value.is_list() {
        value.list()?.into_iter().filter_map(|word| Some(word.string()?.value)).collect()
    } else {
        vec![value.string()?.value]
    };
    if command.first().is_none_or(String::is_empty) {
        log.add(Diagnostic::error(&place, "a process has a name"));
        return None;
    }
    let usual = if command.len() > 1 { Arguments::Exact } else { Arguments::Any };
    let arguments = section.get("arguments").and_then(|value| value.choice(&ARGUMENTS));
    let number = |key| section.get(key).and_then(|value| value.integer(0..=u32::MAX));
    let delay = |key| section.get(key).and_then(Value::duration).map(|delay| delay.value).unwrap_or_default();
    let (least, most) = (number("least").map_or(1, |least| least.value), number("most"));
    if let Some(most) = most.as_ref().filter(|most| most.value > 0 && most.value < least) {
        log.add(Diagnostic::error(&most.place, "`most` is less than `least`"));
    }
    let most = most.map(|most| most.value);
    Some(Tracked::Process(Process {
        command,
        arguments: arguments.map_or(usual, |arguments| arguments.value),
        // None at most: one is one too many.
        least: if most == Some(0) { 0 } else { least },
        most,
        delays: Delays { down: delay("down_delay"), up: delay("up_delay") },
    }))
}

fn read_one(section: Section<'_>, things: &Things, log: &Log) -> Option<Track> {
    let place = section.place().clone();
    let weight = section.get("weight").and_then(|value| value.integer(-HEAVIEST..=HEAVIEST));
    let reverse = section.get("reverse").and_then(Value::boolean).is_some_and(|value| value.value);
    let interface = section.get("interface").and_then(Value::string).map(|name| Tracked::Interface(name.value));
    let script = section.get("script").and_then(Value::string);
    let scripts = &things.scripts;
    let unknown = script.as_ref().filter(|name| !scripts.contains_key(&name.value));
    if let Some(Located { value: name, place }) = unknown {
        let error = Diagnostic::error(place, format!("there is no section [track_script.{name}]"));
        log.add(error.did_you_mean(super::diagnostic::nearest(name, scripts.keys().map(String::as_str))));
    }
    let script = script.map(|name| Tracked::Script(name.value));
    let file = section.get("file").and_then(Value::string);
    let file = file.map(|file| Tracked::File(file.place.source.resolve(&file.value)));
    let session = section.get("bfd").and_then(Value::string);
    if let Some(name) = &session {
        bfd::is_known(name, &things.bfd, log);
    }
    let session = session.map(|name| Tracked::Bfd(name.value));
    let process = section.get("process").and_then(|value| read_process(value, &section, log));
    section.close();
    // keepalived's defaults.
    let default = i16::from(file.is_some());
    let mut named = [interface, script, file, session, process].into_iter().flatten();
    let (Some(what), None) = (named.next(), named.next()) else {
        let error = Diagnostic::error(&place, "an entry of `track` names one thing");
        log.add(error.help(
            "{ interface = \"eth1\" }, { script = \"NAME\" }, { bfd = \"NAME\" }, { process = \"haproxy\" } or { file = \"/run/maintenance\" }",
        ));
        return None;
    };
    Some(Track { what, weight: weight.map_or(default, |weight| weight.value), reverse })
}
