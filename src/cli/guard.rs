//! `hamesh guard`: the daemon beside a keepalived, and what its boot and its `vrrp_script` need.

use super::client::Client;
use super::{Exit, Failure, run};
use crate::config::{self, Config};
use crate::node;
use clap::Args;
use std::path::Path;

/// Instead of the daemon; one of these.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct Task {
    /// Load the shut gate and return: before keepalived starts.
    #[arg(long)]
    shut: bool,
    /// Take the gate away: on a host that needs no guard any more.
    #[arg(long)]
    off: bool,
    /// Exit with 0 if this host may hold the VIP, a group's name or an address: for a `vrrp_script`.
    #[arg(long, value_name = "VIP")]
    check: Option<String>,
}

pub(super) fn guard(file: &Path, task: &Task) -> Result<Exit, Failure> {
    if task.off {
        node::remove_gate()?;
        println!("no gate is here any more: keepalived's VIPs answer whenever it is MASTER");
        return Ok(Exit::Ok);
    }
    let config = config::load(file)?;
    if !config.node.guard {
        let message = format!("{} does not say `guard = true` in [node]: this node is no guard", file.display());
        return Err(Failure { message, exit: Exit::Failed });
    }
    match &task.check {
        Some(vip) => check(&config, vip),
        None if task.shut => {
            let shut = node::shut_gate(&config)?;
            println!("{}", if shut { "the gate is shut" } else { "hamesh runs, and has the gate" });
            Ok(Exit::Ok)
        }
        None => run(file),
    }
}

/// Whoever is cut off from the quorum is granted nothing, nor is a node that is drained: its keepalived is not to be MASTER.
fn check(config: &Config, vip: &str) -> Result<Exit, Failure> {
    let picture = Client::new(config.admin.socket.clone()).status()?;
    let failed = |message: String, exit| Err(Failure { message, exit });
    let has = |addresses: &[String]| addresses.iter().any(|address| address == vip);
    let Some(known) = picture.vips.iter().find(|known| known.name == vip || has(&known.addresses)) else {
        return failed(format!("there is no VIP {vip}"), Exit::NotFound);
    };
    if !picture.cluster.quorum {
        return failed(format!("no quorum: {} cannot be leased", known.name), Exit::NoQuorum);
    }
    if picture.nodes.iter().any(|node| node.name == picture.node && node.drained) {
        return failed(format!("{} is drained", picture.node), Exit::Refused);
    }
    let own = known.candidates.iter().find(|candidate| candidate.node == picture.node);
    if let Some(obstacle) = own.and_then(|own| own.obstacle.as_ref()) {
        return failed(format!("{} cannot be granted {}: {obstacle}", picture.node, known.name), Exit::Refused);
    }
    println!("{} may hold {}; {} does", picture.node, known.name, known.holder.as_deref().unwrap_or("nobody"));
    Ok(Exit::Ok)
}
