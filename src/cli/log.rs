//! `hamesh log`: the committed history on a stopped node's disk, and every grant in it.

use super::{Exit, Failure};
use crate::config;
use crate::node::number;
use hamesh_raft::command::{GroupName, NodeId};
use hamesh_raft::state::{Holder, State};
use hamesh_raft::{Store, What};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A grant, as one line.
#[derive(Serialize)]
struct Grant {
    index: u64,
    group: GroupName,
    token: u64,
    session: u64,
    node: Option<NodeId>,
}

/// An entry, as one line.
#[derive(Serialize)]
struct Line {
    index: u64,
    term: u64,
    leader: NodeId,
    entry: String,
    outcome: String,
}

/// Prints the history. The daemon must be stopped: the disk is its own while it runs.
pub(super) fn show(file: &Path, json: bool) -> Result<Exit, Failure> {
    let config = config::load_for_join(file)?;
    let store = Store::open(&config.node.data_dir)?;
    let (state, entries) = store.history();
    let mut state = State::clone(&state);
    let mut held = BTreeMap::new();
    print_grants(0, &state, &mut held, json)?;
    for entry in entries {
        let (said, outcome) = match &entry.what {
            What::Command(command) => {
                let outcome = state.apply(entry.index, entry.by, command);
                (format!("{command:?}"), format!("{outcome:?}"))
            }
            What::Membership(membership) => (format!("voters {:?}", membership.halves), String::new()),
            What::Blank => ("a leader begins".to_owned(), String::new()),
        };
        let line = Line { index: entry.index, term: entry.by.term, leader: entry.by.node, entry: said, outcome };
        if json {
            println!("{}", serde_json::to_string(&line)?);
        } else {
            println!(
                "{:>6} {:>4} {:<4} {} {}",
                line.index,
                line.term,
                line.leader.to_string(),
                line.entry,
                line.outcome
            );
        }
        print_grants(entry.index, &state, &mut held, json)?;
    }
    Ok(Exit::Ok)
}

fn print_grants(
    index: u64,
    state: &State,
    held: &mut BTreeMap<GroupName, Holder>,
    json: bool,
) -> Result<(), serde_json::Error> {
    for (group, known) in &state.groups {
        let Some(holder) = known.holder.as_ref().filter(|holder| held.get(group) != Some(holder)) else { continue };
        held.insert(group.clone(), holder.clone());
        let node = state.holder_node(group);
        let (token, session) = (number(holder.token), holder.sid.0);
        if json {
            println!("{}", serde_json::to_string(&Grant { index, group: group.clone(), token, session, node })?);
        } else {
            println!("       granted {group} to {} with token {token}", holder.sid);
        }
    }
    Ok(())
}
