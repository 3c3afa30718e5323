//! Starting and stopping a node.
//!
//! What a killed predecessor left is taken care of before anything else: its gate is adopted and its session resumed if
//! the may-act record and the gate belong together, or the gate is shut and the addresses are removed.

use super::balance::Balance;
use super::certificate;
use super::core::{Core, lock};
use super::director::Silence;
use super::errands;
use super::flight::{Flight, Flights};
use super::lane::{GateStatus, Lane, LaneInput, LaneOutput, LaneStatus};
use super::members;
use super::notify::Notices;
use super::once;
use super::ports::{Notes, OverMesh};
use super::prepare::Prepared;
use super::reload::{reload, say_wishes};
use super::restart::{self, Running};
use super::roster;
use super::service::Ear;
use crate::admin;
use crate::config::Config;
use crate::health::Health;
use crate::kernel::watchdog::Watchdog;
use crate::net::identity::{self, Identity};
use crate::net::lease::LeasePlane;
use crate::net::mesh::Mesh;
use crate::net::{Reach, Timing};
use crate::track::Tracks;
use anyhow::{Context, bail};
use hamesh_fencing::clock::Moment;
use hamesh_fencing::grantor::Grantor;
use hamesh_fencing::voter::Voter;
use hamesh_gossip::Gossip;
use hamesh_raft::Store;
use hamesh_raft::command::{Applicant, Command, NodeId, Role};
use hamesh_raft::{ProposeError, Raft, Standing, View};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

/// The lane's queues; more than minds ever want at once.
const QUEUE: usize = 1024;
/// Between `hamesh init` and the end of the first start this file stands beside the identity.
const FOUNDING: &str = "founding";
/// In the data directory once a member knew a later start of this node: why. What was written here since is of no use.
const OUTLIVED: &str = "outlived";
/// How long a stop may wait for the hand-over.
const HAND_OVER: Duration = Duration::from_secs(3);
/// Between two looks at whether a node without Raft still holds anything.
const STILL_HELD: Duration = Duration::from_millis(500);
/// The fact that says so of a node, and why.
pub(crate) const RAFT_STOPPED: &str = "raft stopped";

/// Marks a data directory as one whose cluster is not founded yet: `hamesh init` ends with it.
///
/// # Errors
/// The directory cannot be written.
pub fn mark_founding(data_dir: &Path) -> anyhow::Result<()> {
    Ok(identity::write_file(&data_dir.join(FOUNDING), b"", 0o600)?)
}

/// How a run ended.
#[derive(Debug)]
pub enum Ending {
    /// Its VIPs are handed over, its session is closed.
    Closed,
    /// It is to be replaced, and keeps its lease alive until it is.
    Kept(Running),
}

/// What a node is told to do in the end.
enum Stop {
    HandOver,
    Restart,
}

/// Runs the node of `config`, read from `file`, until it is told to stop.
///
/// # Errors
/// Why it did not start, or could not go on.
pub fn run(file: &Path, config: Config) -> anyhow::Result<Ending> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(node(file.to_owned(), config));
    if let Ok(Stop::Restart) = result {
        return Ok(Ending::Kept(Running::of(runtime)));
    }
    runtime.shutdown_timeout(Duration::from_millis(500));
    result.map(|_| Ending::Closed)
}

/// What the lane's thread gets once Raft runs.
struct LaneParts {
    me: NodeId,
    identity: Arc<Identity>,
    voter: Arc<Mutex<Voter>>,
    grantor: Arc<Mutex<Grantor>>,
    view: watch::Receiver<View>,
    standing: watch::Receiver<Standing>,
    inputs: mpsc::Receiver<LaneInput>,
    outputs: mpsc::Sender<(LaneOutput, Option<Flight>)>,
    status: Arc<Mutex<LaneStatus>>,
    incarnation: u64,
    mesh: watch::Receiver<BTreeMap<NodeId, Reach>>,
    silence: Silence,
}

async fn node(file: PathBuf, config: Config) -> anyhow::Result<Stop> {
    let started = Moment::now();
    // From here on a stop is a hand-over, however early it comes: a start may just have resumed a session.
    let mut signals = Signals::catch()?;
    let config = Arc::new(config);
    let data_dir = config.node.data_dir.clone();
    let identity = Arc::new(Identity::load(&data_dir)?);
    certificate::renew_at_start(&identity, &data_dir);
    let record = &identity.record;
    if record.name != config.node.name {
        bail!(
            "{} holds the identity of {}, and this node is called {}: one of the two is wrong",
            data_dir.display(),
            record.name,
            config.node.name
        );
    }
    let me = record.id;
    let director = config.node.role == Role::Director;
    if director && once::begins(&config) {
        tokio::select! {
            () = once::run("startup", config.notify.startup.as_ref()) => {}
            _ = signals.ends.term.recv() => return Ok(Stop::HandOver),
            _ = signals.ends.int.recv() => return Ok(Stop::HandOver),
        }
    }
    // Before anything that can take long: what a killed predecessor left.
    let (parts_in, parts) = oneshot::channel();
    let (prepared_in, prepared) = oneshot::channel();
    let lane_config = config.clone();
    let balance = Balance::default();
    let lane_balance = balance.clone();
    let lane = std::thread::Builder::new().name("lane".to_owned());
    let lane = lane.spawn(move || lane_thread(lane_config, lane_balance, prepared_in, parts))?;
    prepared.await.context("the lane's thread ended")??;

    let founding = data_dir.join(FOUNDING).exists();
    if let Ok(why) = std::fs::read_to_string(data_dir.join(OUTLIVED)) {
        bail!("{why}. Remove {} and `hamesh join` anew", data_dir.display());
    }
    let store = Store::open(&data_dir)?;
    let is_first = store.incarnation() == 0;
    let incarnation = store.next_incarnation(fastrand::u16(..))?;
    if is_first && me == NodeId(1) && !founding {
        bail!(
            "{} has no Raft log, but this node is a member: its disk was lost. Remove the directory and `hamesh join` anew",
            data_dir.display()
        );
    }
    let silence = Silence::default();
    let ear = Arc::new(Ear::new(silence.clone()));
    let mesh = Mesh::bind(config.node.listen, identity.clone(), incarnation, Timing::MESH, ear.clone())?;
    let first = identity::first_members(&data_dir)?;
    mesh.set_members(first.clone());
    let voter = Arc::new(Mutex::new(Voter::new(me, started)));
    let grantor = Arc::new(Mutex::new(Grantor::new(started, config.lease.damping)));
    let raft_timing = hamesh_raft::Timing {
        heartbeat: config.lease.raft.heartbeat,
        election_min: config.lease.raft.election_min,
        election_max: config.lease.raft.election_max,
    };
    let observer = Arc::new(Notes { voter: voter.clone() });
    let raft = Raft::start(me, store, raft_timing, Arc::new(OverMesh(mesh.clone(), silence.clone())), observer).await?;
    let wire = Arc::new(OverMesh(mesh.clone(), silence.clone()));
    let peers = raft.view().borrow().state.members.keys().copied().collect();
    let cluster = identity.record.cluster.to_string();
    let gossip = Gossip::start(me, incarnation, &cluster, peers, wire, hamesh_gossip::INTERVAL).await?;
    let (lane_in, inputs) = mpsc::channel(QUEUE);
    let (outputs, lane_out) = mpsc::channel(QUEUE);
    let lane_status = Arc::new(Mutex::new(LaneStatus::default()));
    let parts = LaneParts {
        me,
        identity: identity.clone(),
        voter,
        grantor: grantor.clone(),
        view: raft.view(),
        standing: raft.standing(),
        inputs,
        outputs,
        status: lane_status.clone(),
        incarnation,
        mesh: mesh.reachable(),
        silence: silence.clone(),
    };
    let authority = Mutex::new(identity.authority.clone());
    let health = Health::new(started, me, config.health, &config.services);
    let notices = Notices::start(&config)?;
    let tracks = Tracks::new(started, &config.groups, &config.scripts);
    let bfd = super::bfd::start(&config)?;
    let core = Arc::new(Core {
        me,
        incarnation,
        silence,
        file,
        current: watch::Sender::new(config),
        reloading: tokio::sync::Mutex::new(()),
        identity,
        raft,
        mesh,
        gossip,
        grantor,
        lane: lane_in,
        lane_status,
        health: Mutex::new(health),
        tracks: Mutex::new(tracks),
        bfd,
        notices,
        balance,
        authority,
    });
    ear.open(core.clone());
    if founding {
        found(&core).await?;
        std::fs::remove_file(data_dir.join(FOUNDING))
            .context("the cluster is founded, but its mark cannot be removed")?;
    }
    if parts_in.send(parts).is_err() {
        bail!("the lane's thread ended");
    }
    core.gossip.set_fact("version", env!("CARGO_PKG_VERSION"));
    say_wishes(&core, None);
    let (stopped_in, stopped) = oneshot::channel();
    tokio::spawn(errands::run(core.clone(), lane_out, stopped_in));
    tokio::spawn(roster::introduce(core.clone(), first));
    tokio::spawn(members::welcome_back(core.clone()));
    tokio::spawn(members::keep(core.clone()));
    tokio::spawn(certificate::keep(core.clone()));
    tokio::spawn(errands::tell_neighbours(core.clone()));
    let (mut checks, mut still) = (None, None);
    if director {
        checks = Some(super::health::start(core.clone())?);
        super::track::start(core.clone())?;
        still = Some(tokio::spawn(super::fixed::keep(core.config().fixed.clone())));
    }
    let admin = admin::serve(core.clone())?;
    tokio::spawn(reload_when_told(core.clone(), signals.hup));
    if let Some(path) = &core.config().node.watchdog {
        // The last of what may fail: an error after it would cost the machine.
        let watchdog = Watchdog::open(path).with_context(|| {
            format!("cannot open {}: is its driver loaded, or does another, such as systemd, feed it?", path.display())
        })?;
        tracing::info!(device = %path.display(), "the watchdog runs");
        core.lane.send(LaneInput::Watch(watchdog)).await.ok();
    }
    let stop = until_stopped(&core, signals.ends).await;
    if let Ok(Stop::Restart) = stop {
        tracing::info!("restarting in place: the session goes on");
        core.notices.finish(false).await;
        members::leave_leadership(&core).await;
        admin.close();
        // The others know at once that the connections are gone. The rest ends as in a crash, and the lane as the last.
        core.mesh.close().await;
        return stop;
    }
    tracing::info!("stopping: handing over");
    // The lane hands over; without a quorum nobody answers, and the gate and the promises end it.
    if core.lane.send(LaneInput::Stop).await.is_ok() && timeout(HAND_OVER, stopped).await.is_err() {
        tracing::warn!("not closed in time: the session ends by its promises");
    }
    if let Some(checks) = &checks {
        checks.finish().await;
    }
    core.notices.finish(true).await;
    if let Some(still) = still {
        still.abort();
        super::fixed::remove(&core.config().fixed).await;
    }
    members::leave_leadership(&core).await;
    admin.close();
    core.mesh.close().await;
    core.raft.stop().await;
    if lane.is_finished() {
        tracing::debug!("the lane has ended");
    }
    if director {
        once::run("shutdown", core.config().notify.shutdown.as_ref()).await;
    }
    stop
}

struct Signals {
    ends: Ends,
    /// Reload.
    hup: Signal,
}

/// What ends a run.
struct Ends {
    term: Signal,
    int: Signal,
    /// Restart in place.
    usr2: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        let ends = Ends {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr2: signal(SignalKind::user_defined2())?,
        };
        Ok(Self { ends, hup: signal(SignalKind::hangup())? })
    }
}

async fn reload_when_told(core: Arc<Core>, mut hup: Signal) {
    while hup.recv().await.is_some() {
        // It is logged there.
        reload(&core).await.ok();
    }
}

/// The first entries of a new cluster.
async fn found(core: &Core) -> anyhow::Result<()> {
    if let Err(hamesh_raft::FoundError::Stopped(why)) = core.raft.found().await {
        bail!("the cluster was not founded: {why:?}");
    }
    let (record, config) = (&core.identity.record, core.config());
    let node = &config.node;
    let founder = Applicant {
        name: record.name.clone(),
        role: record.role,
        rack: node.rack.clone(),
        address: node.listen,
        key: core.identity.key.hash(),
    };
    let found =
        Command::Found { cluster: record.cluster, name: record.cluster_name.clone(), lineage: record.lineage, founder };
    while core.state().cluster.is_none() {
        match timeout(Duration::from_secs(5), core.raft.propose(found.clone())).await {
            Ok(Ok(_)) => {}
            Ok(Err(ProposeError::NotLeader(_))) | Err(_) => sleep(Duration::from_millis(20)).await,
            Ok(Err(error)) => bail!("the cluster was not founded: {error}"),
        }
    }
    Ok(())
}

/// Waits until Raft has stopped here and no VIP is held any more: no lease rests on this node's disk, so what is held
/// stays, and moving it for a disk would do more harm. Returns why Raft has stopped.
async fn without_raft(core: &Core) -> String {
    let mut standing = core.raft.standing();
    let stopped = standing.wait_for(|standing| standing.fatal.is_some()).await;
    let why = stopped.ok().and_then(|standing| standing.fatal.clone()).unwrap_or_else(|| "it has ended".to_owned());
    core.gossip.set_fact(RAFT_STOPPED, why.clone());
    tracing::error!(%why, "Raft has stopped on this node, and its vote does not count any more. What it holds stays here; \
        when the disk is well, restart hamesh");
    while lock(&core.lane_status).groups.values().any(|group| group.open) {
        sleep(STILL_HELD).await;
    }
    why
}

/// Registers, then waits for a signal or a fatal error.
async fn until_stopped(core: &Core, ends: Ends) -> anyhow::Result<Stop> {
    let registered = async {
        match members::register(core).await {
            Ok(()) => {
                tracing::info!(node = %core.me, incarnation = core.incarnation, "registered");
                std::future::pending().await
            }
            Err(why) => why,
        }
    };
    let Ends { mut term, mut int, mut usr2 } = ends;
    let restart = async {
        while usr2.recv().await.is_some() {
            let gate = lock(&core.lane_status).gate;
            let rehearsed = if let Some(GateStatus::Lifetimes(_)) = gate {
                Err("without nf_tables no lease is resumed. Stop and start it: that hands over".to_owned())
            } else {
                restart::rehearse(&core.file).await
            };
            match rehearsed {
                Ok(()) => return,
                Err(why) => tracing::error!(%why, "not restarted; this run goes on"),
            }
        }
    };
    let mut outlived = core.mesh.outlived();
    let is_outlived = async {
        match outlived.wait_for(Option::is_some).await {
            Ok(refusal) => refusal.as_ref().map(ToString::to_string).unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = term.recv() => Ok(Stop::HandOver),
        _ = int.recv() => Ok(Stop::HandOver),
        () = restart => Ok(Stop::Restart),
        why = without_raft(core) => bail!("Raft has stopped: {why}"),
        why = is_outlived => {
            // Every start counts, and one of the next would be taken for a new one.
            let file = core.config().node.data_dir.join(OUTLIVED);
            std::fs::write(&file, &why).with_context(|| format!("cannot write {}", file.display()))?;
            bail!("the cluster does not take this node: {why}. Remove {} and `hamesh join` anew", core.config().node.data_dir.display())
        }
        why = registered => bail!("the cluster does not take this node: {why}. If its disk was lost or put back, remove {} and `hamesh join` anew",
            core.config().node.data_dir.display()),
    }
}

/// The lane's thread: first what was left, then the lane.
fn lane_thread(
    config: Arc<Config>,
    balance: Balance,
    prepared: oneshot::Sender<anyhow::Result<()>>,
    parts: oneshot::Receiver<LaneParts>,
) -> anyhow::Result<()> {
    crate::kernel::realtime::raise(crate::kernel::realtime::LANE);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let director = match config.node.role {
            Role::Director => match Prepared::new(config.clone(), balance).await {
                Ok(director) => Some(director),
                Err(error) => {
                    // The node's task says it.
                    prepared.send(Err(error)).ok();
                    return Ok(());
                }
            },
            Role::Witness => None,
        };
        prepared.send(Ok(())).ok();
        let Ok(parts) = parts.await else { return Ok(()) };
        let LaneParts {
            me,
            identity,
            voter,
            grantor,
            view,
            standing,
            inputs,
            outputs,
            status,
            incarnation,
            mesh,
            silence,
        } = parts;
        let (plane, datagrams) = LeasePlane::bind(config.node.listen, identity, incarnation, Timing::LEASE)?;
        let director = director.map(|prepared| prepared.begin(me, incarnation, silence.clone())).transpose()?;
        let heartbeat = config.lease.raft.heartbeat;
        let flights = Flights::default();
        let lane = Lane {
            me,
            voter,
            grantor,
            plane,
            datagrams,
            director,
            view,
            standing,
            inputs,
            outputs,
            flights,
            status,
            heartbeat,
            look: Moment::default(),
            due: None,
            mesh,
            silence,
            watchdog: None,
        };
        lane.run().await;
        Ok(())
    })
}
