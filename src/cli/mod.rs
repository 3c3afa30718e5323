//! The command line.

pub mod demo;

mod client;
mod guard;
mod log;
mod service;
mod sink;
mod status;

use crate::admin::{InvitationRequest, Order};
use crate::config::{self, Config};
use crate::net::hello::wall_now;
use crate::net::identity::Identity;
use crate::net::invitation::JoinString;
use crate::net::join::{JoinError, Joiner, join};
use crate::node::{self, Ending};
use clap::{Args, Parser, Subcommand, ValueEnum};
use client::Client;
use hamesh_fencing::gate::Gate;
use hamesh_raft::command::Role;
use hamesh_raft::command::ServerOrder;
use nix::net::if_::if_nametoindex;
use sink::Sink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Builder;

/// What a command came to, as the shell sees it. 2, a wrong call, is clap's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// No daemon answers.
    NotReachable = 3,
    /// The daemon has no quorum.
    NoQuorum = 4,
    /// The system does not let this user.
    NotPermitted = 5,
    /// There is no such VIP group or node.
    NotFound = 6,
    /// The cluster refused.
    Refused = 7,
}

/// A command that did not work: what to print, and what to exit with.
#[derive(Debug)]
pub struct Failure {
    /// For people: what, where, what next.
    pub message: String,
    /// For the shell.
    pub exit: Exit,
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { message: format!("{error:#}"), exit: Exit::Failed }
    }
}

/// A high-availability mesh of load-balancer directors.
#[derive(Debug, Parser)]
#[command(name = "hamesh", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make a new cluster with this node as its first: its CA, its id. Then `hamesh run` starts it.
    Init {
        #[command(flatten)]
        file: ConfigFile,
        /// The cluster's name for people.
        #[arg(long, default_value = "hamesh")]
        name: String,
    },
    /// Print a join string: it admits one node, once, and pins the cluster's CA.
    Token {
        #[command(flatten)]
        door: Door,
        /// What it admits.
        #[arg(long, default_value = "director")]
        role: RoleArg,
        /// How long it is good for.
        #[arg(long, default_value = "1h", value_parser = config::parse_duration)]
        ttl: Duration,
    },
    /// Make this node a member. Then `hamesh run` starts it.
    Join {
        /// As `hamesh token` printed it.
        joinstring: String,
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Run the daemon, in the foreground.
    Run {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Run beside an unmodified keepalived, in the foreground: it elects and serves, and its VIPs answer only under a lease.
    /// Needs `node.guard` in the configuration.
    Guard {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        task: guard::Task,
    },
    /// Show the cluster as this node sees it; works without a quorum too.
    Status {
        #[command(flatten)]
        door: Door,
        /// As JSON, with names that stay.
        #[arg(long)]
        json: bool,
    },
    /// Have this node's daemon read its files again. What is wrong in them changes nothing.
    Reload {
        #[command(flatten)]
        door: Door,
    },
    /// Look at services and their servers, as this node sees them.
    Service {
        #[command(subcommand)]
        what: ServiceTask,
    },
    /// Move VIP groups.
    Vip {
        #[command(subcommand)]
        what: VipTask,
    },
    /// Take nodes out of service or out of the cluster.
    Node {
        #[command(subcommand)]
        what: NodeTask,
    },
    /// Show what the Raft log on this node's disk says, while its daemon is stopped.
    Log {
        #[command(flatten)]
        file: ConfigFile,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Look at configuration files.
    Config {
        #[command(subcommand)]
        what: ConfigTask,
    },
    /// Three directors, a witness, a client, and faults, in namespaces of this machine. Needs no configuration.
    Demo(demo::Options),
}

#[derive(Debug, Subcommand)]
enum ConfigTask {
    /// Check a hamesh.toml, a cluster.toml or a keepalived.conf.
    Check {
        /// Which.
        file: PathBuf,
        /// What `@` lines of a keepalived.conf are compared with, keepalived's `-i`. By default the first part of this machine's name.
        #[arg(long, short)]
        id: Option<String>,
    },
    /// Print a keepalived.conf as a cluster.toml that means the same.
    Convert {
        /// Which.
        file: PathBuf,
        /// The node that the file is for, as in its hamesh.toml. By default the first part of this machine's name.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// What `@` lines are compared with, keepalived's `-i`. By default the first part of this machine's name.
        #[arg(long, short)]
        id: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum ServiceTask {
    /// Every service: how many of its servers are up.
    List {
        #[command(flatten)]
        door: Door,
        /// As JSON, with names that stay.
        #[arg(long)]
        json: bool,
    },
    /// Give a server another weight, whatever its configuration and its checks say.
    Weight {
        #[command(flatten)]
        which: ServerArgs,
        /// 0 gets no new connections.
        #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(crate::ipvs::MAX_WEIGHT)))]
        weight: u32,
    },
    /// Give a server no new connections; those it has may end, for as long as the service's `drain` allows.
    Drain(ServerArgs),
    /// Take a server out at once.
    Disable(ServerArgs),
    /// Serve a server as configured again.
    Enable(ServerArgs),
    /// One service: its servers, what each director sees of them, and why they are down.
    Show {
        /// As in `[service.NAME]`.
        name: String,
        #[command(flatten)]
        door: Door,
        /// As JSON, with names that stay.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct ServerArgs {
    /// The service, as in `[service.NAME]`.
    service: String,
    /// The server's address and port.
    server: std::net::SocketAddr,
    #[command(flatten)]
    door: Door,
}

impl ServerArgs {
    fn order(self, what: Option<ServerOrder>) -> Result<Exit, Failure> {
        order(&self.door, &Order::Server { service: self.service, server: self.server, order: what })
    }
}

#[derive(Debug, Subcommand)]
enum VipTask {
    /// Move a VIP group to a node. It stays there, whatever the priorities, until that node loses it.
    Move {
        /// The group, as in `[vip.NAME]`.
        name: String,
        /// The node that is to hold it.
        #[arg(long, value_name = "NODE")]
        to: String,
        #[command(flatten)]
        door: Door,
    },
    /// Let a group that was moved go by priorities again.
    Unpin {
        /// The group.
        name: String,
        #[command(flatten)]
        door: Door,
    },
}

#[derive(Debug, Subcommand)]
enum NodeTask {
    /// Out of service: its VIPs and leadership go to others, and it is granted none.
    Drain(NodeArgs),
    /// Back into service.
    Undrain(NodeArgs),
    /// Out of the cluster, for good: a node that does not run any more. Its name and address are free then.
    Remove(NodeArgs),
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// Its name.
    name: String,
    #[command(flatten)]
    door: Door,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// This node's configuration.
    #[arg(long, default_value = "/etc/hamesh/hamesh.toml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Door {
    #[command(flatten)]
    file: ConfigFile,
    /// The daemon's socket, instead of the one that the configuration names.
    #[arg(long, conflicts_with = "config")]
    socket: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArg {
    Director,
    Witness,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Director => Self::Director,
            RoleArg::Witness => Self::Witness,
        }
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Task::Init { file, name } => init(&file.config, &name),
        Task::Token { door, role, ttl } => token(&door, role.into(), ttl),
        Task::Join { joinstring, file } => join_cluster(&joinstring, &file.config),
        Task::Run { file } => run(&file.config),
        Task::Guard { file, task } => guard::guard(&file.config, &task),
        Task::Status { door, json } => socket(&door).and_then(|socket| status::show(&Client::new(socket), json)),
        Task::Reload { door } => reload(&door),
        Task::Service { what } => match what {
            ServiceTask::List { door, json } => socket(&door).and_then(|at| service::list(&Client::new(at), json)),
            ServiceTask::Weight { which, weight } => which.order(Some(ServerOrder::Weight(weight))),
            ServiceTask::Drain(which) => which.order(Some(ServerOrder::Drain)),
            ServiceTask::Disable(which) => which.order(Some(ServerOrder::Disable)),
            ServiceTask::Enable(which) => which.order(None),
            ServiceTask::Show { name, door, json } => {
                socket(&door).and_then(|at| service::show(&Client::new(at), &name, json))
            }
        },
        Task::Vip { what } => match what {
            VipTask::Move { name, to, door } => order(&door, &Order::Move { vip: name, to }),
            VipTask::Unpin { name, door } => order(&door, &Order::Unpin { vip: name }),
        },
        Task::Node { what } => match what {
            NodeTask::Drain(NodeArgs { name, door }) => order(&door, &Order::Drain { node: name }),
            NodeTask::Undrain(NodeArgs { name, door }) => order(&door, &Order::Undrain { node: name }),
            NodeTask::Remove(NodeArgs { name, door }) => order(&door, &Order::Remove { node: name }),
        },
        Task::Log { file, json } => log::show(&file.config, json),
        Task::Config { what } => match what {
            ConfigTask::Check { file, id } => check(&file, id.as_deref()),
            ConfigTask::Convert { file, node, id } => convert(&file, node.as_deref(), id.as_deref()),
        },
        Task::Demo(options) => {
            return demo::run(&options).unwrap_or_else(|error| {
                eprintln!("hamesh: {error:#}");
                ExitCode::FAILURE
            });
        }
    };
    match done {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(Failure { message, exit }) => {
            eprintln!("hamesh: {message}");
            ExitCode::from(exit as u8)
        }
    }
}

fn init(file: &Path, name: &str) -> Result<Exit, Failure> {
    let config = config::load(file)?;
    let node = &config.node;
    Identity::found(&node.data_dir, &node.name, name, node.role, wall_now())?;
    node::mark_founding(&node.data_dir)?;
    println!("created cluster {name}; this node is {}, its only voter", node.name);
    println!("its CA and identity are in {}", node.data_dir.display());
    println!();
    println!("next: hamesh run --config {}", file.display());
    println!("then, for every other node: hamesh token, and over there: hamesh join JOINSTRING");
    Ok(Exit::Ok)
}

fn token(door: &Door, role: Role, ttl: Duration) -> Result<Exit, Failure> {
    let answer = Client::new(socket(door)?).invite(&InvitationRequest { role, ttl })?;
    println!("{}", answer.join);
    Ok(Exit::Ok)
}

fn order(door: &Door, order: &Order) -> Result<Exit, Failure> {
    println!("{}", Client::new(socket(door)?).order(order)?.done);
    Ok(Exit::Ok)
}

fn reload(door: &Door) -> Result<Exit, Failure> {
    println!("reloaded: {}", Client::new(socket(door)?).reload()?.done);
    Ok(Exit::Ok)
}

fn join_cluster(joinstring: &str, file: &Path) -> Result<Exit, Failure> {
    let invited = JoinString::parse(joinstring)?;
    let config = config::load_for_join(file)?;
    let node = &config.node;
    let joiner = Joiner {
        data_dir: node.data_dir.clone(),
        cluster_file: config.cluster.as_ref().map(|cluster| cluster.path.clone()),
        name: node.name.clone(),
        role: node.role,
        rack: node.rack.clone(),
        listen: node.listen,
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let joined = runtime.block_on(join(&invited, &joiner)).map_err(|error| Failure {
        exit: if matches!(error, JoinError::Refused(_)) { Exit::Refused } else { Exit::Failed },
        message: error.to_string(),
    })?;
    println!("joined cluster {} as {} ({}, {})", joined.record.cluster_name, node.name, joined.record.id, node.role);
    if joined.copied_cluster_file
        && let Some(cluster) = &config.cluster
    {
        println!("copied the cluster's configuration to {}", cluster.path.display());
    }
    println!();
    println!("next: hamesh run --config {}", file.display());
    Ok(Exit::Ok)
}

fn run(file: &Path) -> Result<Exit, Failure> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("HAMESH_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=error,chitchat=warn,quinn=warn"));
    let log = Sink::to(std::io::stderr())?;
    let lines = log.clone();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || lines.clone()).with_ansi(false).init();
    let config = config::load(file)?;
    let ending = node::run(file, config);
    log.flush();
    match ending? {
        Ending::Closed => Ok(Exit::Ok),
        Ending::Kept(running) => {
            let error = running.replace();
            Err(anyhow::anyhow!("cannot restart in place: {error}; the lease waits for the next start").into())
        }
    }
}

fn check(file: &Path, id: Option<&str>) -> Result<Exit, Failure> {
    let warnings = config::check(file, id)?;
    for warning in &warnings {
        println!("{warning}");
    }
    // Of a node's own file it is known which machine it is about.
    if let Ok(config) = config::load(file)
        && config.node.role == Role::Director
    {
        for (name, group) in config.groups.iter().filter(|(_, group)| group.priority.is_some()) {
            let elsewhere = group.elsewhere().into_iter().filter(|interface| !group.does_without(interface));
            let needed = elsewhere.chain([group.interface.as_str()]);
            for interface in needed.filter(|interface| if_nametoindex(*interface).is_err()) {
                println!("warning: vip.{name} is in FAULT while this machine has no interface {interface}, as now");
            }
        }
        warn_without_rules(&config);
    }
    println!("{}: ok", file.display());
    Ok(Exit::Ok)
}

/// What a kernel without nf_tables means for a director. Who may not ask the kernel learns it from the daemon.
fn warn_without_rules(config: &Config) {
    if !matches!(Gate::is_possible(), Ok(false)) {
        return;
    }
    println!(
        "warning: this kernel has no nf_tables: without a gate the lifetimes of addresses end a claim, seconds later, and the \
         others wait for it"
    );
    for need in node::needs_rules(config) {
        println!("warning: hamesh does not start without nf_tables for {need}");
    }
}

fn convert(file: &Path, node: Option<&str>, id: Option<&str>) -> Result<Exit, Failure> {
    print!("{}", config::convert(file, node, id)?);
    Ok(Exit::Ok)
}

fn socket(door: &Door) -> Result<PathBuf, Failure> {
    match &door.socket {
        Some(socket) => Ok(socket.clone()),
        None => Ok(config::load_for_join(&door.file.config)?.admin.socket),
    }
}
