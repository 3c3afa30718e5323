//! The tracks' thread: runs scripts, reads files, watches interfaces and BFD sessions, and tells the lane what follows for each group.

use super::bfd::Board;
use super::core::{Core, lock};
use super::interfaces::turning;
use super::lane::LaneInput;
use crate::bfd::SessionStatus;
use crate::kernel::link::{self, Watch};
use crate::probe::{local, script};
use crate::track::debounce::Debounce;
use crate::track::{Action, Event};
use hamesh_fencing::clock::Moment;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// What is read of a file at most; a number is shorter.
const LONGEST: u64 = 64;
/// Before interfaces are looked at again when the kernel cannot be heard.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the thread. Nothing may be tracked yet: a reload changes that.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn start(core: Arc<Core>) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("tracks".to_owned()).spawn(move || runtime.block_on(run(core)))?;
    Ok(())
}

async fn run(core: Arc<Core>) {
    let (seen_in, mut seen) = mpsc::channel(64);
    let mut config = core.current.subscribe();
    let mut interfaces = lock(&core.tracks).interfaces();
    let mut watching = begin(&interfaces, &core, &seen_in);
    let mut following = tokio::spawn(follow(core.bfd.clone(), seen_in.clone()));
    let mut looks = JoinSet::new();
    let mut actions = lock(&core.tracks).handle(Moment::now(), Event::Tick);
    loop {
        for action in actions {
            match action {
                Action::Run(name, script) => drop(looks.spawn(async move {
                    let result = script::run(&script).await;
                    Event::Ran(name, result)
                })),
                Action::Read(path) => drop(looks.spawn(async move {
                    let number = read(&path).await;
                    Event::Read(path, number)
                })),
                Action::Count(process) => drop(looks.spawn(async move {
                    let count = local::count(&process).await;
                    Event::Counted(process, count)
                })),
                Action::Tell(group, effect) => {
                    for track in lock(&core.tracks).status(&group) {
                        tracing::info!(%group, ?track, "tracked");
                    }
                    if core.lane.send(LaneInput::Weigh(group, effect)).await.is_err() {
                        return;
                    }
                }
            }
        }
        let now = Moment::now();
        let pause = lock(&core.tracks).next_deadline().map_or(PAUSE, |deadline| now.wait(deadline));
        let event = tokio::select! {
            Some(done) = looks.join_next(), if !looks.is_empty() => match done {
                Ok(event) => event,
                Err(error) => {
                    tracing::error!(%error, "a look has ended before it saw anything");
                    Event::Tick
                }
            },
            Some(interface) = seen.recv() => interface,
            changed = config.changed() => {
                if changed.is_err() {
                    return;
                }
                let fresh = config.borrow_and_update().clone();
                actions = lock(&core.tracks).adopt(Moment::now(), &fresh.groups, &fresh.scripts);
                let wanted = lock(&core.tracks).interfaces();
                if wanted != interfaces {
                    watching.abort();
                    watching = begin(&wanted, &core, &seen_in);
                    interfaces = wanted;
                }
                // Whether a session is up is said anew, for those that were not tracked.
                following.abort();
                following = tokio::spawn(follow(core.bfd.clone(), seen_in.clone()));
                continue;
            }
            () = sleep(pause) => Event::Tick,
        };
        actions = lock(&core.tracks).handle(Moment::now(), event);
    }
}

/// Begins to watch these interfaces.
fn begin(interfaces: &BTreeSet<String>, core: &Core, seen: &mpsc::Sender<Event>) -> JoinHandle<()> {
    let (names, seen) = (interfaces.iter().cloned().collect::<Vec<_>>(), seen.clone());
    let debounce = Debounce::new(&core.config().delays);
    tokio::spawn(async move {
        if !names.is_empty() {
            watch(names, debounce, seen).await;
        }
    })
}

/// A file that is not there has no number, and nothing is wrong with that: who tracks it makes it when it is needed.
async fn read(path: &Path) -> Result<i64, String> {
    let failed = |error: std::io::Error| format!("cannot be read, counts as 0: {error}");
    let file = match regular(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).await.map_err(failed)?;
    match text.trim() {
        "" => Ok(0),
        number => number.parse().map_err(|_| format!("is not a number, counts as 0: {number:?}")),
    }
}

/// A FIFO would hold up whoever opens it.
async fn regular(path: &Path) -> std::io::Result<File> {
    if !tokio::fs::metadata(path).await?.is_file() {
        return Err(std::io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    File::open(path).await
}

/// Says of each BFD session whether it is up, once that is known, and again after every change.
async fn follow(mut board: Board, tell: mpsc::Sender<Event>) {
    loop {
        let verdict = |session: &SessionStatus| Some(Event::Bfd(session.name.clone(), session.verdict()?));
        let verdicts: Vec<Event> = board.borrow_and_update().iter().filter_map(verdict).collect();
        for event in verdicts {
            if tell.send(event).await.is_err() {
                return;
            }
        }
        if board.changed().await.is_err() {
            return;
        }
    }
}

/// Says of each interface whether it can carry anything, again after every change.
async fn watch(names: Vec<String>, mut debounce: Debounce, tell: mpsc::Sender<Event>) {
    loop {
        if let Err(error) = watch_on(&names, &mut debounce, &tell).await {
            tracing::error!(%error, "tracked interfaces are not watched; trying again");
        }
        if tell.is_closed() {
            return;
        }
        sleep(PAUSE).await;
    }
}

async fn watch_on(names: &[String], debounce: &mut Debounce, tell: &mpsc::Sender<Event>) -> std::io::Result<()> {
    let mut watch = Watch::start()?;
    let (links, _) = link::connect()?;
    loop {
        for name in names {
            // What could not be asked for is asked for again; until then it is as it was.
            let up = match links.get(name, &[]).await.map_err(std::io::Error::other)? {
                Some(link) => debounce.see(Moment::now(), name, link.up),
                // One that is not there is down.
                None => {
                    debounce.gone(name);
                    false
                }
            };
            if tell.send(Event::Interface(name.clone(), up)).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            change = watch.next() => if change.is_none() {
                return Err(ErrorKind::BrokenPipe.into());
            },
            () = turning(debounce) => {}
        }
    }
}
