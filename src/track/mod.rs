//! What a VIP group's priority depends on beside its servers: interfaces, scripts, files, processes and BFD sessions, with
//! keepalived's weights.
//!
//! [`Tracks`] says what to run and to read, hears what came of it, and says what each group's priority is then, or that the
//! group is in FAULT.

pub mod debounce;

use crate::config::VipGroup;
use crate::config::track::{Process, Script, Track, Tracked};
use debounce::Debounce;
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::GroupName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Files are read, and processes counted, this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// An owner's priority, which nothing changes (RFC 9568 section 6.1).
const OWNER: u8 = 255;
/// What a weight can add at most; what would take away more is FAULT, as in keepalived.
const MOST: i64 = 253;

/// What follows for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It may be claimed, with this priority.
    Priority(u8),
    /// As long as nothing better is known: a BFD session with a weight that has not come up yet is down, as in keepalived.
    /// It does not count for what goes on from before the start.
    Provisional(u8),
    /// It may not be claimed here.
    Fault,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A script has ended; 0 is `Ok`, and everything else is in words for people.
    Ran(String, Result<(), String>),
    /// A file was read: its number, or why there is none.
    Read(PathBuf, Result<i64, String>),
    /// An interface is up and has carrier, or not.
    Interface(String, bool),
    /// A BFD session is up, or not and why.
    Bfd(String, Result<(), String>),
    /// How many of its processes run, or why they could not be counted.
    Counted(Process, Result<u32, String>),
    /// [`Tracks::next_deadline`] has come.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run a script and answer with [`Event::Ran`].
    Run(String, Script),
    /// Read a file and answer with [`Event::Read`].
    Read(PathBuf),
    /// Count processes and answer with [`Event::Counted`].
    Count(Process),
    /// This is so from now on.
    Tell(GroupName, Effect),
}

/// What is tracked, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackStatus {
    /// `script web`, `interface eth1`, `file /run/maintenance`.
    pub what: String,
    /// `up`, `down`, or `unknown` before it was looked at.
    pub state: String,
    /// What it adds to the priority now.
    pub adds: i64,
    /// It puts the group into FAULT.
    pub fault: bool,
    /// What was wrong with it when it was last looked at.
    pub why: Option<String>,
}

/// Everything that the groups of this director track.
#[derive(Debug)]
pub struct Tracks {
    started: Moment,
    groups: BTreeMap<GroupName, Group>,
    states: BTreeMap<Tracked, State>,
    scripts: BTreeMap<String, Watch>,
    /// What processes say must last.
    lasting: Debounce,
    next_look: Option<Duration>,
}

#[derive(Debug)]
struct Group {
    priority: u8,
    tracks: Vec<Track>,
    told: Option<Effect>,
}

/// What is known of one thing. A file has a number; 1 and 0 stand for up and down of the others.
#[derive(Debug, Default)]
struct State {
    number: Option<i64>,
    why: Option<String>,
}

/// A script's runs.
#[derive(Debug)]
struct Watch {
    script: Script,
    /// Runs in a row that contradict what is known.
    against: u8,
    /// When it is to run next.
    due: Duration,
    running: bool,
}

impl Tracks {
    /// Of a director's groups; those that track nothing, or never are claimed here, are left out.
    pub fn new(now: Moment, groups: &BTreeMap<GroupName, VipGroup>, scripts: &BTreeMap<String, Script>) -> Self {
        let tracking = |(name, group): (&GroupName, &VipGroup)| {
            let priority = group.priority.filter(|_| !group.track.is_empty())?;
            Some((name.clone(), Group { priority, tracks: group.track.clone(), told: None }))
        };
        let groups: BTreeMap<GroupName, Group> = groups.iter().filter_map(tracking).collect();
        let tracked: BTreeSet<&Tracked> = groups.values().flat_map(|g| &g.tracks).map(|track| &track.what).collect();
        let mut states = BTreeMap::new();
        let mut watches = BTreeMap::new();
        let mut delays = BTreeMap::new();
        let mut next_look = None;
        for what in tracked {
            let mut state = State::default();
            match what {
                Tracked::Interface(_) | Tracked::Bfd(_) => {}
                Tracked::File(_) => next_look = Some(Duration::ZERO),
                Tracked::Process(process) => {
                    next_look = Some(Duration::ZERO);
                    delays.insert(key(process), process.delays);
                }
                Tracked::Script(name) => {
                    let Some(script) = scripts.get(name) else { continue };
                    if script.init_fail {
                        state = State { number: Some(0), why: Some("it has not succeeded yet".to_owned()) };
                    }
                    let watch = Watch { script: script.clone(), against: 0, due: Duration::ZERO, running: false };
                    watches.insert(name.clone(), watch);
                }
            }
            states.insert(what.clone(), state);
        }
        let lasting = Debounce::new(&delays);
        Self { started: now, groups, states, scripts: watches, lasting, next_look }
    }

    /// Of these from now on. What is known of what is tracked still stays so, and a script's runs go on; each group is told of
    /// again.
    pub fn adopt(
        &mut self,
        now: Moment,
        groups: &BTreeMap<GroupName, VipGroup>,
        scripts: &BTreeMap<String, Script>,
    ) -> Vec<Action> {
        let before = std::mem::replace(self, Self::new(self.started, groups, scripts));
        for (what, state) in before.states {
            if let Some(same) = self.states.get_mut(&what) {
                *same = state;
            }
        }
        for (name, watch) in before.scripts {
            if let Some(same) = self.scripts.get_mut(&name).filter(|same| same.script == watch.script) {
                *same = watch;
            }
        }
        self.handle(now, Event::Tick)
    }

    /// The interfaces that are to be watched.
    pub fn interfaces(&self) -> BTreeSet<String> {
        let name = |what: &Tracked| match what {
            Tracked::Interface(name) => Some(name.clone()),
            Tracked::Script(_) | Tracked::File(_) | Tracked::Bfd(_) | Tracked::Process(_) => None,
        };
        self.states.keys().filter_map(name).collect()
    }

    /// Decides; touches nothing.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let (moment, now) = (now, now.since(self.started));
        match event {
            Event::Ran(name, result) => self.ran(name, result),
            Event::Read(path, result) => {
                let (number, why) = match result {
                    Ok(number) => (number, None),
                    Err(why) => (0, Some(why)),
                };
                self.saw(&Tracked::File(path), number, why);
            }
            Event::Interface(name, up) => {
                let why = (!up).then(|| "it is down or has no carrier".to_owned());
                self.saw(&Tracked::Interface(name), i64::from(up), why);
            }
            Event::Bfd(name, result) => {
                self.saw(&Tracked::Bfd(name), i64::from(result.is_ok()), result.err());
            }
            Event::Counted(process, Ok(count)) => self.counted(moment, process, count),
            // It is as it was.
            Event::Counted(process, Err(why)) => {
                if let Some(state) = self.states.get_mut(&Tracked::Process(process)) {
                    state.why = Some(why);
                }
            }
            Event::Tick => {}
        }
        let mut actions = self.conclude();
        self.look(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        let runs = self.scripts.values().filter(|watch| !watch.running).map(|watch| watch.due);
        runs.chain(self.next_look).min().map(|due| self.started + due)
    }

    /// What a group tracks.
    pub fn status(&self, group: &str) -> Vec<TrackStatus> {
        let status = |track: &Track| {
            let state = self.states.get(&track.what);
            let number = state.and_then(|state| state.number);
            let weighed = number.map(|number| track.weigh(number));
            TrackStatus {
                what: match &track.what {
                    Tracked::Interface(name) => format!("interface {name}"),
                    Tracked::Script(name) => format!("script {name}"),
                    Tracked::File(path) => format!("file {}", path.display()),
                    Tracked::Bfd(name) => format!("bfd {name}"),
                    Tracked::Process(process) => format!("process {process}"),
                },
                state: match (&track.what, number) {
                    (_, None) => "unknown".to_owned(),
                    (Tracked::File(_), Some(number)) => number.to_string(),
                    (
                        Tracked::Interface(_) | Tracked::Script(_) | Tracked::Bfd(_) | Tracked::Process(_),
                        Some(number),
                    ) => if number == 0 { "down" } else { "up" }.to_owned(),
                },
                adds: weighed.flatten().unwrap_or(0),
                fault: weighed == Some(None),
                why: state.and_then(|state| state.why.clone()),
            }
        };
        self.groups.get(group).map(|group| group.tracks.iter().map(status).collect()).unwrap_or_default()
    }

    fn counted(&mut self, now: Moment, process: Process, count: u32) {
        let runs = count >= process.least && process.most.is_none_or(|most| count <= most);
        let up = self.lasting.see(now, &key(&process), runs);
        let most = process.most.map(|most| format!(", {most} at most")).unwrap_or_default();
        let why = (!up).then(|| format!("{count} run: {} at least{most}", process.least));
        self.saw(&Tracked::Process(process), i64::from(up), why);
    }

    /// What is not tracked, or no more, is nobody's.
    fn saw(&mut self, what: &Tracked, number: i64, why: Option<String>) {
        if let Some(state) = self.states.get_mut(what) {
            *state = State { number: Some(number), why };
        }
    }

    /// The first run says what is so at once; then `rise` or `fall` in a row are needed.
    fn ran(&mut self, name: String, result: Result<(), String>) {
        let Some(watch) = self.scripts.get_mut(&name) else { return };
        watch.running = false;
        let state = self.states.entry(Tracked::Script(name)).or_default();
        let succeeded = result.is_ok();
        let needed = if succeeded { watch.script.rise } else { watch.script.fall };
        state.why = result.err().or_else(|| state.why.take().filter(|_| state.number == Some(0)));
        if state.number == Some(i64::from(succeeded)) {
            watch.against = 0;
            return;
        }
        watch.against = watch.against.saturating_add(1);
        if state.number.is_some() && watch.against < needed {
            return;
        }
        watch.against = 0;
        state.number = Some(i64::from(succeeded));
        if succeeded {
            state.why = None;
        }
    }

    /// Nothing is said of a group before everything that may put it into FAULT was looked at. With a weight a BFD session is down
    /// until then, and a script, which may take long, changes nothing (keepalived's).
    fn conclude(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (name, group) in &mut self.groups {
            let mut provisional = false;
            let added = |track: &Track| match self.states.get(&track.what).and_then(|state| state.number) {
                Some(number) => Some(track.weigh(number)),
                None if track.weight == 0 => None,
                None => {
                    let added = match track.what {
                        Tracked::Bfd(_) => track.weigh(0),
                        Tracked::Script(_) => Some(0),
                        Tracked::Interface(_) | Tracked::File(_) | Tracked::Process(_) => return None,
                    };
                    provisional = true;
                    Some(added)
                }
            };
            let known: Option<Vec<Option<i64>>> = group.tracks.iter().map(added).collect();
            let Some(known) = known else { continue };
            let weighed: Option<Vec<i64>> = known.into_iter().collect();
            let with = if provisional { Effect::Provisional } else { Effect::Priority };
            let effect = match weighed {
                None => Effect::Fault,
                Some(_) if group.priority == OWNER => with(OWNER),
                Some(added) => {
                    let sum = i64::from(group.priority) + added.into_iter().sum::<i64>();
                    with(u8::try_from(sum.clamp(1, 254)).unwrap_or(1))
                }
            };
            if group.told != Some(effect) {
                group.told = Some(effect);
                actions.push(Action::Tell(name.clone(), effect));
            }
        }
        actions
    }

    /// Orders what is due. A script that still runs is not started again.
    fn look(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for (name, watch) in self.scripts.iter_mut().filter(|(_, watch)| !watch.running && watch.due <= now) {
            watch.running = true;
            // A pause of this machine is not caught up.
            watch.due = now + watch.script.interval;
            actions.push(Action::Run(name.clone(), watch.script.clone()));
        }
        if self.next_look.is_some_and(|due| due <= now) {
            self.next_look = Some(now + LOOK_EVERY);
            for what in self.states.keys() {
                match what {
                    Tracked::File(path) => actions.push(Action::Read(path.clone())),
                    Tracked::Process(process) => actions.push(Action::Count(process.clone())),
                    Tracked::Interface(_) | Tracked::Script(_) | Tracked::Bfd(_) => {}
                }
            }
        }
    }
}

/// By what a process is known to what must last.
fn key(process: &Process) -> String {
    format!("{process:?}")
}

impl Track {
    /// What the number adds to the priority; `None` is FAULT.
    fn weigh(&self, number: i64) -> Option<i64> {
        let sign = if self.reverse { -1 } else { 1 };
        let weight = i64::from(self.weight);
        match self.what {
            // Whatever is not 0 asks for it.
            Tracked::File(_) if weight == 0 => ((number != 0) == self.reverse).then_some(0),
            Tracked::File(_) => {
                let added = number.saturating_mul(weight).saturating_mul(sign);
                (added >= -MOST).then_some(added.min(MOST))
            }
            Tracked::Interface(_) | Tracked::Script(_) | Tracked::Bfd(_) | Tracked::Process(_) => {
                let up = number != 0;
                match weight {
                    0 => (up != self.reverse).then_some(0),
                    1.. => Some(if up { weight * sign } else { 0 }),
                    _ => Some(if up { 0 } else { weight * sign }),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
