//! Who is told what of the states of VIP groups and of servers, in which order: scripts, FIFOs and mail, in keepalived's words.
//!
//! A mind: it touches nothing. What is run for one group, or one server, is run one after the other, each after the end of what came
//! before; they do not wait for each other. Behind a script that hangs a bounded number waits, and the oldest is given up first: what counts is the
//! latest state. [`fifo`] and [`mail`] are the hands.

pub mod fifo;
pub mod mail;

use crate::config::notify::{Command, Fifo, Mail, Notifications, Notify, Occasion, Topic};
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
    /// A reload has removed it.
    Deleted,
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

/// A service, or one of its servers, is up or down from now on as this director sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// As keepalived names it: `[203.0.113.10]:tcp:80`.
    pub service: String,
    /// The server, named like that; `None`: it is about the service.
    pub server: Option<String>,
    /// Which of them.
    pub up: bool,
    /// What is run for it.
    pub script: Option<Command>,
    /// What is mailed about it.
    pub mail: Option<String>,
}

/// What happens to the mind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something to tell of a VIP group.
    Notice(Notice),
    /// Something to tell of a service.
    Change(Change),
    /// What [`Action::Run`] has started there has ended, however it did.
    Ended(Queue),
    /// hamesh stops, and has given everything back that it could.
    Stopped,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run this; answer with [`Event::Ended`].
    Run(Queue, Run),
    /// Write this line to every FIFO that is about it.
    Write(Topic, String),
    /// Mail this.
    Mail(Message),
    /// These runs were given up: what is run there takes too long.
    GivenUp(Queue, Run),
}

/// What is run one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// For this one.
    Vip(Object),
    /// For a service, or one of its servers.
    Service(String, Option<String>),
}

/// A script, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The program, and its arguments.
    pub command: Command,
    /// See [`TOKEN`].
    pub token: Option<u64>,
}

/// What one object wants told.
#[derive(Debug, Default)]
struct Line {
    notify: Notify,
    last: Option<Notice>,
    leaves: bool,
}

/// The mind.
#[derive(Debug)]
pub struct Notifier {
    lines: BTreeMap<Object, Line>,
    /// Where something runs: what waits for its end.
    queues: BTreeMap<Queue, VecDeque<Run>>,
    fifos: Vec<Fifo>,
    again: bool,
    mail: Option<Mail>,
    node: String,
}

impl Notifier {
    /// For the node of this name, and what each object wants told.
    pub fn new(node: &str, general: &Notifications, objects: impl IntoIterator<Item = (Object, Notify)>) -> Self {
        let (lines, queues, node) = (BTreeMap::new(), BTreeMap::new(), node.to_owned());
        let mut notifier = Self { lines, queues, fifos: Vec::new(), again: false, mail: None, node };
        notifier.adopt(general, objects);
        notifier
    }

    /// From now on these are told of, and as they want it. One that is not among them is still told of until it is given up.
    pub fn adopt(&mut self, general: &Notifications, objects: impl IntoIterator<Item = (Object, Notify)>) {
        (self.fifos, self.again, self.mail) = (general.fifos.clone(), general.again, general.mail.clone());
        self.lines.values_mut().for_each(|line| line.leaves = true);
        for (object, notify) in objects {
            let line = self.lines.entry(object).or_default();
            (line.notify, line.leaves) = (notify, false);
        }
    }

    /// What a reload writes into the FIFOs, if it is to: the last that was told of each that stays.
    pub fn again(&self) -> Vec<Action> {
        let last = self.lines.values().filter(|line| self.again && !line.leaves).filter_map(|line| line.last.as_ref());
        let mut actions = Vec::new();
        last.for_each(|notice| self.write(Topic::Vips, notice.to_string(), &mut actions));
        actions
    }

    /// Whether everything is told, but for mail.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.queues.is_empty()
    }

    /// Decides; touches nothing.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Notice(notice) => self.told(&notice, &mut actions),
            Event::Change(change) => self.changed(change, &mut actions),
            Event::Stopped => {
                // What was never anything does not stop.
                let stays = self.lines.values().filter(|line| !line.leaves);
                let last: Vec<Notice> = stays.filter_map(|line| line.last.clone()).collect();
                for notice in last {
                    self.told(&Notice { what: What::Stop, ..notice }, &mut actions);
                }
            }
            Event::Ended(queue) => match self.queues.get_mut(&queue).and_then(VecDeque::pop_front) {
                Some(run) => actions.push(Action::Run(queue, run)),
                None => drop(self.queues.remove(&queue)),
            },
        }
        actions
    }

    fn told(&mut self, notice: &Notice, actions: &mut Vec<Action>) {
        let Some(line) = self.lines.get_mut(&notice.object) else { return };
        let mut notice = notice.clone();
        // What keepalived told before it had a word for it, and does unless it is asked for the word.
        if notice.what == What::Deleted && !line.notify.scripts.contains_key(&Occasion::Deleted) {
            notice.what = What::Fault;
        }
        line.last = Some(notice.clone());
        let notify = line.notify.clone();
        if notify.priority_changes || notice.what.occasion().is_some() {
            self.write(Topic::Vips, notice.to_string(), actions);
        }
        let Some((occasion, is_state)) = notice.what.occasion() else { return };
        if is_state
            && notify.mail
            && let Some(mail) = self.mail.as_ref().filter(|mail| mail.faults || notice.what != What::Fault)
        {
            actions.push(Action::Mail(notice.mail(mail.name.as_deref().unwrap_or(&self.node))));
        }
        let mut wanted: Vec<Command> = notify.scripts.get(&occasion).cloned().into_iter().collect();
        if let Some(mut any) = notify.scripts.get(&Occasion::Any).cloned().filter(|_| is_state) {
            any.words.extend(notice.arguments());
            wanted.push(any);
        }
        let queue = Queue::Vip(notice.object.clone());
        // An advert is no state: one run that waits speaks for all of them.
        let is_told = |run: &Run| !is_state && wanted.contains(&run.command);
        if self.queues.get(&queue).is_some_and(|waiting| waiting.iter().any(is_told)) {
            return;
        }
        for command in wanted {
            self.run(&queue, Run { command, token: notice.token }, actions);
        }
    }

    fn changed(&mut self, Change { service, server, up, script, mail }: Change, actions: &mut Vec<Action>) {
        let word = if up { "UP" } else { "DOWN" };
        let (line, subject) = match &server {
            Some(server) => (
                format!("RS {server} {service} {word}\n"),
                format!("Realserver {server} of virtual server {service} - {word}"),
            ),
            None => (format!("VS {service} {word}\n"), format!("Virtualserver {service} - {word}")),
        };
        self.write(Topic::Services, line, actions);
        if let (Some(to), Some(text)) = (&self.mail, mail) {
            let subject = format!("[{}] {subject}", to.name.as_deref().unwrap_or(&self.node));
            actions.push(Action::Mail(Message { subject, body: format!("=> {text} <=") }));
        }
        if let Some(command) = script {
            self.run(&Queue::Service(service, server), Run { command, token: None }, actions);
        }
    }

    fn write(&self, topic: Topic, line: String, actions: &mut Vec<Action>) {
        if self.fifos.iter().any(|fifo| fifo.about.is_none_or(|about| about == topic)) {
            actions.push(Action::Write(topic, line));
        }
    }

    /// Runs it, after what runs there already.
    fn run(&mut self, queue: &Queue, run: Run, actions: &mut Vec<Action>) {
        let Some(waiting) = self.queues.get_mut(queue) else {
            self.queues.insert(queue.clone(), VecDeque::new());
            actions.push(Action::Run(queue.clone(), run));
            return;
        };
        waiting.push_back(run);
        if waiting.len() > LONGEST {
            actions.extend(waiting.pop_front().map(|run| Action::GivenUp(queue.clone(), run)));
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
            Self::Deleted => Some((Occasion::Deleted, true)),
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
            Self::Deleted => "DELETED",
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
            What::Deleted => ("DELETED", "no longer owning"),
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
