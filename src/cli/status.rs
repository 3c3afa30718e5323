//! `hamesh status`.

use super::client::Client;
use super::{Exit, Failure};
use crate::node::Picture;
use comfy_table::{Table, presets};

/// Prints the picture; the exit code says whether there is a quorum.
pub(super) fn show(client: &Client, json: bool) -> Result<Exit, Failure> {
    let picture = client.status()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&picture)?);
    } else {
        print(&picture);
    }
    Ok(if picture.cluster.quorum { Exit::Ok } else { Exit::NoQuorum })
}

fn print(picture: &Picture) {
    let cluster = &picture.cluster;
    let quorum = if cluster.quorum { "quorum" } else { "NO QUORUM" };
    let leader = cluster.leader.as_deref().unwrap_or("none");
    let guard = if picture.guard { ", the guard of its keepalived" } else { "" };
    println!(
        "cluster {}   {quorum}   leader {leader}   term {}   seen from {}{guard}",
        cluster.name, cluster.term, picture.node
    );
    println!();
    let mut nodes = table(&["NODE", "ROLE", "RACK", "ADDRESS", "REACHABLE", "VOTER", "VERSION", "INTERFACES", ""]);
    for node in &picture.nodes {
        let mark = if node.name == picture.node { "*" } else { "" };
        nodes.add_row([
            format!("{}{mark}", node.name),
            node.role.clone(),
            node.rack.clone(),
            node.address.clone(),
            yes(node.reachable),
            yes(node.voter),
            node.version.clone().unwrap_or_else(|| "-".to_owned()),
            if node.interfaces.is_empty() { "-".to_owned() } else { node.interfaces.join(", ") },
            node.why.clone().unwrap_or_default(),
        ]);
    }
    println!("{nodes}");
    println!();
    let mut vips = table(&["VIP", "ADDRESSES", "VRID", "HOLDER", "TOKEN", "LEASE", "HERE", "GATE", "CANDIDATES"]);
    for vip in &picture.vips {
        let candidates = vip.candidates.iter().map(|candidate| {
            let obstacle = candidate.obstacle.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            let held_back = match candidate.held_back_ms.div_ceil(1000) {
                0 => String::new(),
                seconds => format!(" (lost it {} times, does not ask for it for {seconds} s)", candidate.losses),
            };
            format!("{} {}{obstacle}{held_back}", candidate.node, candidate.priority)
        });
        vips.add_row([
            vip.sync.as_ref().map_or_else(|| vip.name.clone(), |sync| format!("{} (in {sync})", vip.name)),
            vip.addresses.join(" "),
            vip.vrid.map_or_else(|| "-".to_owned(), |vrid| vrid.to_string()),
            match (&vip.holder, &vip.pinned) {
                (Some(holder), Some(pinned)) if holder == pinned => format!("{holder} (moved here)"),
                (Some(holder), Some(pinned)) => format!("{holder} (to move to {pinned})"),
                (Some(holder), None) => holder.clone(),
                (None, Some(_) | None) => "nobody".to_owned(),
            },
            vip.token.map_or_else(|| "-".to_owned(), |token| token.to_string()),
            vip.lease_remaining_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
            vip.state.clone(),
            if vip.unfenced { format!("{}, NO LEASE", vip.gate) } else { vip.gate.clone() },
            candidates.collect::<Vec<_>>().join(", "),
        ]);
    }
    println!("{vips}");
    if !picture.bfd.is_empty() {
        let mut sessions = table(&["BFD", "NEIGHBOUR", "HERE", "DETECTION", ""]);
        for session in &picture.bfd {
            sessions.add_row([
                session.name.clone(),
                session.neighbour.to_string(),
                session.state.clone(),
                format!("{} ms", session.detection_ms),
                session.why.clone().unwrap_or_default(),
            ]);
        }
        println!("\n{sessions}");
    }
    if !picture.warnings.is_empty() {
        println!("\nWARNINGS");
        for warning in &picture.warnings {
            println!("  {warning}");
        }
    }
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

pub(super) fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
