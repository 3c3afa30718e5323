//! Who is told what of a VIP group's states, in which order: scripts, FIFOs and mail, in keepalived's words.
//!
//! A mind: it touches nothing. What is run for one group is run one after the other, each after the end of what came before; groups do
//! not wait for each other. Behind a script that hangs a bounded number waits, and the oldest is given up first: what counts is the
//! latest state. [`fifo`] and [`mail`] are the hands.

pub mod fifo;
pub mod mail;

use crate::config::notify::{Command, Mail, Notifications, Notify, Occasion};
use mail::Message;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// Runs that wait for the end of the one before, per group.
const LONGEST: usize = 32;

/// The fencing token of the last lease that this node had for the group, as one number that only grows. A script that acts
/// on something shared hands it on, so that what comes late can be refused there.
pub const TOKEN: &str = "HAMESH_TOKEN";

/// What a notice is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// One virtual router: `vrrp_instance`.
    Instance(String),
    /// What moves together: `vrrp_sync_group`.
    Group(String),
}

/// What has happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is MASTER here.
    Master,
    /// It is BACKUP here; whether it waits or claims is ours to know.
    Backup,
    /// It cannot be MASTER here.
    Fault,
    /// hamesh stops.
    Stop,
    /// A router of lower priority advertises beside us.
    MasterRxLowerPri,
    /// The priority of a MASTER has changed.
    MasterPriority,
    /// That of a BACKUP.
    BackupPriority,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whom it is about.
    pub object: Object,
    /// What has happened.
    pub what: What,
    /// The priority that counts now, 1 to 255; a group has none: 0.
    pub priority: u8,
    /// See [`TOKEN`]; nothing before the first lease.
    pub token: Option<u64>,
}

/// What happens to the mind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something to tell.
    Notice(Notice),
    /// What [`Action::Run`] has started for this object has ended, however it did.
    Ended(Object),
    /// hamesh stops, and has given everything back that it could.
    Stopped,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run this; answer with [`Event::Ended`].
    Run(Object, Run),
    /// Write this line to every FIFO.
    Write(String),
    /// Mail this.
    Mail(Message),
    /// These runs were given up: what is run for the object takes too long.
    GivenUp(Object, Run),
}

/// A script, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The program, and its arguments.
    pub command: Command,
    /// See [`TOKEN`].
    pub token: Option<u64>,
}

/// What is run for one object.
#[derive(Debug, Default)]
struct Line {
    notify: Notify,
    waiting: VecDeque<Run>,
    running: bool,
    last: Option<Notice>,
    leaves: bool,
}

/// The mind.
#[derive(Debug)]
pub struct Notifier {
    lines: BTreeMap<Object, Line>,
    fifos: bool,
    mail: Option<Mail>,
    node: String,
}

impl Notifier {
    /// For the node of this name, and what each object wants told.
    pub fn new(node: &str, general: &Notifications, objects: impl IntoIterator<Item = (Object, Notify)>) -> Self {
        let (fifos, mail) = (!general.fifos.is_empty(), general.mail.clone());
        let mut notifier = Self { lines: BTreeMap::new(), fifos, mail, node: node.to_owned() };
        notifier.adopt(objects);
        notifier
    }

    /// From now on these are told of, and as they want it. One that is not among them is still told of until it is given up.
    pub fn adopt(&mut self, objects: impl IntoIterator<Item = (Object, Notify)>) {
        self.lines.values_mut().for_each(|line| line.leaves = true);
        for (object, notify) in objects {
            let line = self.lines.entry(object).or_default();
            (line.notify, line.leaves) = (notify, false);
        }
    }

    /// Whether everything is told, but for mail.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.lines.values().all(|line| !line.running && line.waiting.is_empty())
    }

    /// Decides; touches nothing.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let object = match event {
            Event::Notice(notice) => {
                self.told(&notice, &mut actions);
                notice.object
            }
            Event::Stopped => {
                // What was never anything does not stop.
                let stays = self.lines.values().filter(|line| !line.leaves);
                let last: Vec<Notice> = stays.filter_map(|line| line.last.clone()).collect();
                let stop = |notice| Event::Notice(Notice { what: What::Stop, ..notice });
                return last.into_iter().flat_map(|notice| self.handle(stop(notice))).collect();
            }
            Event::Ended(object) => {
                if let Some(line) = self.lines.get_mut(&object) {
                    line.running = false;
                }
                object
            }
        };
        if let Some(line) = self.lines.get_mut(&object)
            && !line.running
            && let Some(run) = line.waiting.pop_front()
        {
            line.running = true;
            actions.push(Action::Run(object, run));
        }
        actions
    }

    fn told(&mut self, notice: &Notice, actions: &mut Vec<Action>) {
        let Some(line) = self.lines.get_mut(&notice.object) else { return };
        line.last = Some(notice.clone());
        if self.fifos && (line.notify.priority_changes || notice.what.occasion().is_some()) {
            actions.push(Action::Write(notice.to_string()));
        }
        let Some((occasion, is_state)) = notice.what.occasion() else { return };
        if is_state
            && line.notify.mail
            && let Some(mail) = self.mail.as_ref().filter(|mail| mail.faults || notice.what != What::Fault)
        {
            actions.push(Action::Mail(notice.mail(mail.name.as_deref().unwrap_or(&self.node))));
        }
        let mut wanted: Vec<Command> = line.notify.scripts.get(&occasion).cloned().into_iter().collect();
        if let Some(mut any) = line.notify.scripts.get(&Occasion::Any).cloned().filter(|_| is_state) {
            any.words.extend(notice.arguments());
            wanted.push(any);
        }
        // An advert is no state: one run that waits speaks for all of them.
        let is_told = |run: &Run| !is_state && wanted.contains(&run.command);
        if line.waiting.iter().any(is_told) {
            return;
        }
        line.waiting.extend(wanted.into_iter().map(|command| Run { command, token: notice.token }));
        while line.waiting.len() > LONGEST {
            let given_up = line.waiting.pop_front().map(|run| Action::GivenUp(notice.object.clone(), run));
            actions.extend(given_up);
        }
    }
}

impl What {
    /// When a script is run for it, and whether it is a state. A changed priority is told to the FIFOs only.
    fn occasion(self) -> Option<(Occasion, bool)> {
        match self {
            Self::Master => Some((Occasion::Master, true)),
            Self::Backup => Some((Occasion::Backup, true)),
            Self::Fault => Some((Occasion::Fault, true)),
            Self::Stop => Some((Occasion::Stop, true)),
            Self::MasterRxLowerPri => Some((Occasion::MasterRxLowerPri, false)),
            Self::MasterPriority | Self::BackupPriority => None,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "MASTER",
            Self::Backup => "BACKUP",
            Self::Fault => "FAULT",
            Self::Stop => "STOP",
            Self::MasterRxLowerPri => "MASTER_RX_LOWER_PRI",
            Self::MasterPriority => "MASTER_PRIORITY",
            Self::BackupPriority => "BACKUP_PRIORITY",
        })
    }
}

/// The line in a FIFO.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, name, what, priority] = self.arguments();
        writeln!(f, "{kind} \"{name}\" {what} {priority}")
    }
}

impl Notice {
    /// What keepalived appends to the command of `notify`.
    fn arguments(&self) -> [String; 4] {
        let (kind, name) = match &self.object {
            Object::Instance(name) => ("INSTANCE", name),
            Object::Group(name) => ("GROUP", name),
        };
        [kind.to_owned(), name.clone(), self.what.to_string(), self.priority.to_string()]
    }

    fn mail(&self, router: &str) -> Message {
        let (state, owns) = match self.what {
            What::Master => ("MASTER", "now owning"),
            What::Backup => ("BACKUP", "no longer owning"),
            What::Fault => ("FAULT", "no longer owning"),
            What::Stop | What::MasterRxLowerPri | What::MasterPriority | What::BackupPriority => ("", ""),
        };
        let subject = if state.is_empty() { "Stopping".to_owned() } else { format!("Entering {state} state") };
        let (kind, name, body) = match &self.object {
            Object::Instance(name) if state.is_empty() => ("Instance", name, "VRRP Instance stopping".to_owned()),
            Object::Instance(name) => ("Instance", name, format!("VRRP Instance is {owns} VRRP VIPs")),
            Object::Group(name) if state.is_empty() => ("Group", name, "VRRP Group stopping".to_owned()),
            Object::Group(name) => ("Group", name, format!("All VRRP group instances are now in {state} state")),
        };
        Message { subject: format!("[{router}] VRRP {kind} {name} - {subject}"), body: format!("=> {body} <=") }
    }
}

#[cfg(test)]
mod tests;
