//! The notices' thread: runs scripts, writes into FIFOs, sends mail. Nothing else waits for it, but for a stop, and that not long.

use crate::config::Config;
use crate::config::notify::{Command, Fifo, Mail, Notify, Topic};
use crate::notify::mail::{self, Message};
use crate::notify::{Action, Change, Event, Notice, Notifier, Object, Queue, Run, TOKEN, fifo};
use crate::probe::script;
use hamesh_raft::command::GroupName;
use rustix::process::Signal;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Child;
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Notices that wait for the thread; thousands of groups may change at once.
const QUEUE: usize = 8192;
/// Mails that wait for the mail server.
const MAILS: usize = 64;
/// What still runs at a stop is killed after this (keepalived's second), so that what is run for the stop has its turn.
const HURRY: Duration = Duration::from_secs(1);
/// A stop waits no longer.
const FINISH: Duration = Duration::from_secs(4);
/// Scripts about services that run at the same time: thousands of servers may fail at once.
const AT_ONCE: usize = 32;

enum Told {
    Event(Event),
    Reload(Arc<Config>, Fifos),
    Finish { stopped: bool, done: oneshot::Sender<()> },
}

/// What is written into, and what about.
pub(crate) type Fifos = Vec<(Option<Topic>, fifo::Fifo)>;

/// Opens the FIFOs of a configuration.
///
/// # Errors
/// One cannot be made.
pub(crate) fn open(config: &Config) -> std::io::Result<Fifos> {
    let open = |fifo: &Fifo| {
        let reader = fifo.script.as_ref().and_then(|script| script.user.as_deref());
        let owner = reader.map(script::find_user).transpose().map_err(std::io::Error::other)?;
        Ok((fifo.about, fifo::Fifo::open(&fifo.path, owner.map(|(user, _)| user.as_raw()))?))
    };
    config.notify.fifos.iter().map(open).collect()
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Notices(mpsc::Sender<Told>);

impl Notices {
    /// Starts the thread.
    ///
    /// # Errors
    /// A FIFO cannot be made, or the system gives no thread.
    pub(crate) fn start(config: &Arc<Config>) -> anyhow::Result<Self> {
        let notifier = Notifier::new(&config.node.name, &config.notify, objects(config));
        let fifos = open(config)?;
        let (tell, told) = mpsc::channel(QUEUE);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let hand = Hand {
            config: config.clone(),
            notifier,
            readers: Vec::new(),
            fifos,
            post: None,
            patience: config.notify.timeout,
            runs: JoinSet::new(),
            hurry: watch::Sender::new(false),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        };
        let thread = std::thread::Builder::new().name("notices".to_owned());
        thread.spawn(move || runtime.block_on(hand.work(told)))?;
        Ok(Self(tell))
    }

    /// Tells; what does not fit is said in the log.
    pub(crate) fn tell(&self, notice: Notice) {
        if let Err(error) = self.0.try_send(Told::Event(Event::Notice(notice))) {
            tracing::error!(%error, "somebody is not told: too many notices wait");
        }
    }

    /// Tells of a service, when there is room: any number of them may change at once.
    pub(crate) async fn tell_of_service(&self, change: Change) {
        if self.0.send(Told::Event(Event::Change(change))).await.is_err() {
            tracing::warn!("nobody is told of a service: hamesh stops");
        }
    }

    /// Tells of the groups of a new configuration from now on, and whom it says, by these FIFOs.
    pub(crate) async fn reload(&self, config: &Arc<Config>, fifos: Fifos) {
        if self.0.send(Told::Reload(config.clone(), fifos)).await.is_err() {
            tracing::error!("nobody is told of what the reload has changed");
        }
    }

    /// Waits until everything is told, not for long; that hamesh has stopped, too, if it has.
    pub(crate) async fn finish(&self, stopped: bool) {
        let (done, finished) = oneshot::channel();
        if self.0.try_send(Told::Finish { stopped, done }).is_err() || timeout(FINISH, finished).await.is_err() {
            tracing::warn!("not everybody was told of the stop in time");
        }
    }
}

/// What this node may tell of.
fn objects(config: &Config) -> Vec<(Object, Notify)> {
    let serves = |name: &GroupName| config.groups.get(name).is_some_and(|group| group.priority.is_some());
    let served = config.groups.iter().filter(|(name, _)| serves(name));
    let instances = served.map(|(name, group)| (Object::Instance(name.clone()), group.notify.clone()));
    let syncs = config.syncs.iter().filter(|(_, sync)| sync.vips.iter().any(serves));
    instances.chain(syncs.map(|(name, sync)| (Object::Group(name.clone()), sync.notify.clone()))).collect()
}

struct Hand {
    config: Arc<Config>,
    notifier: Notifier,
    /// Of FIFOs.
    readers: Vec<Child>,
    fifos: Fifos,
    post: Option<mpsc::Sender<Message>>,
    patience: Duration,
    runs: JoinSet<Queue>,
    hurry: watch::Sender<bool>,
    turns: Arc<Semaphore>,
}

impl Hand {
    async fn work(mut self, mut told: mpsc::Receiver<Told>) {
        self.post = post(&self.config);
        self.start_readers().await;
        let mut finish: Option<oneshot::Sender<()>> = None;
        loop {
            if finish.is_some() && self.notifier.is_done() {
                break;
            }
            let event = tokio::select! {
                told = told.recv(), if finish.is_none() => match told {
                    Some(Told::Event(event)) => event,
                    Some(Told::Reload(config, fifos)) => {
                        self.adopt(&config, fifos).await;
                        let again = self.notifier.again();
                        self.perform(again);
                        continue;
                    }
                    Some(Told::Finish { stopped, done }) => {
                        finish = Some(done);
                        self.patience = self.patience.min(HURRY);
                        self.hurry.send_replace(true);
                        if !stopped {
                            continue;
                        }
                        Event::Stopped
                    }
                    None => return,
                },
                ended = self.runs.join_next(), if !self.runs.is_empty() => match ended {
                    Some(Ok(object)) => Event::Ended(object),
                    Some(Err(error)) => {
                        tracing::error!(%error, "a script's task has failed");
                        continue;
                    }
                    None => continue,
                },
            };
            let actions = self.notifier.handle(event);
            self.perform(actions);
        }
        self.stop_readers();
        if let Some(done) = finish {
            done.send(()).ok();
        }
    }

    /// Does as this configuration says from now on. Readers go on where no FIFO differs.
    async fn adopt(&mut self, config: &Arc<Config>, fifos: Fifos) {
        self.notifier.adopt(&config.notify, objects(config));
        let before = std::mem::replace(&mut self.config, config.clone());
        self.patience = config.notify.timeout;
        if before.notify.mail != config.notify.mail {
            self.post = post(config);
        }
        if before.notify.fifos != config.notify.fifos {
            self.stop_readers();
            self.fifos = fifos;
            self.start_readers().await;
        }
    }

    async fn start_readers(&mut self) {
        for fifo in &self.config.notify.fifos {
            self.readers.extend(start_reader(fifo, self.patience).await);
        }
    }

    fn stop_readers(&mut self) {
        for child in self.readers.drain(..) {
            script::kill_group(&child, Signal::TERM);
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Run(queue, run) => {
                    let (turns, patience, hurry) = (self.turns.clone(), self.patience, self.hurry.subscribe());
                    self.runs.spawn(async move {
                        // What is run for a VIP waits for nobody.
                        let turn = match &queue {
                            Queue::Service(..) => turns.acquire().await.ok(),
                            Queue::Vip(_) => None,
                        };
                        run_for(&queue, run, patience, hurry).await;
                        drop(turn);
                        queue
                    });
                }
                Action::Write(topic, line) => {
                    let hears = |about: &Option<Topic>| about.is_none_or(|about| about == topic);
                    for (_, fifo) in self.fifos.iter_mut().filter(|(about, _)| hears(about)) {
                        // A reader that is away would be told of with every line.
                        if let Err(why) = fifo.write(&line)
                            && fifo.lost().is_power_of_two()
                        {
                            tracing::warn!(why, "a line is not written");
                        }
                    }
                }
                Action::Mail(message) => {
                    let full = self.post.as_ref().is_some_and(|post| post.try_send(message.clone()).is_err());
                    if full {
                        tracing::error!(subject = message.subject, "not mailed: too many mails wait");
                    }
                }
                Action::GivenUp(queue, run) => {
                    tracing::error!(?queue, command = ?run.command.words, "not run: too much waits behind a script");
                }
            }
        }
    }
}

async fn run_for(queue: &Queue, run: Run, patience: Duration, mut hurry: watch::Receiver<bool>) {
    let Run { command: Command { words, user }, token } = &run;
    let variables: Vec<(&str, String)> = token.iter().map(|token| (TOKEN, token.to_string())).collect();
    let hurried = async {
        // It cannot be gone while this runs.
        hurry.wait_for(|hurry| *hurry).await.ok();
        sleep(HURRY).await;
    };
    let ended = tokio::select! {
        ended = script::status_in(words, user.as_deref(), &variables, patience) => ended,
        () = hurried => Err("killed: hamesh stops".to_owned()),
    };
    match ended {
        Ok(status) if status.success() => tracing::debug!(?queue, command = ?words, "told"),
        Ok(status) => tracing::warn!(?queue, command = ?words, %status, "a notify script has failed"),
        Err(why) => tracing::error!(?queue, command = ?words, why, "a notify script"),
    }
}

/// The program that reads a FIFO. As with keepalived, one that ends is not started again.
async fn start_reader(fifo: &Fifo, patience: Duration) -> Option<Child> {
    let Command { words, user } = fifo.script.as_ref()?;
    let words: Vec<String> = words.iter().cloned().chain([fifo.path.display().to_string()]).collect();
    match script::start(&words, user.as_deref(), &[], patience).await {
        Ok(child) => Some(child),
        Err(why) => {
            tracing::error!(command = ?words, why, "nobody reads the FIFO");
            None
        }
    }
}

/// One mail after the other, in a task of its own: a mail server that hangs holds up mail only.
fn post(config: &Config) -> Option<mpsc::Sender<Message>> {
    let (mail, node): (Mail, String) = (config.notify.mail.clone()?, config.node.name.clone());
    let (post, mut letters) = mpsc::channel::<Message>(MAILS);
    tokio::spawn(async move {
        while let Some(message) = letters.recv().await {
            if let Err(why) = mail::send(&mail, &node, &message).await {
                tracing::warn!(why, subject = message.subject, "not mailed");
            }
        }
    });
    Some(post)
}
