//! What the log brings about: the events of its observers, and what a leader orders.

use super::{Hears, Node};
use crate::log::{self, membership_of};
use crate::net::{Msg, Net, What};
use crate::program::Program;
use crate::raft::Out;
use hamesh_fencing::clock::Moment;
use hamesh_fencing::grantor::{self, Hearing};
use hamesh_fencing::message::Message;
use hamesh_fencing::{holder, voter};
use hamesh_raft::command::Sid;
use hamesh_raft::membership::Membership;
use hamesh_raft::state::State;
use std::time::Duration;

impl Node {
    /// What Raft brought about: messages, and the events of its observers in the store's order.
    pub(super) fn perform_raft(&mut self, net: &mut Net, now: Moment) {
        let id = self.id;
        loop {
            let Some(process) = &mut self.process else { return };
            process.raft.compact(&mut self.disk);
            self.disk.vote = self.disk.vote.max(process.raft.vote());
            let out = process.raft.take_out();
            if out.is_empty() {
                break;
            }
            for out in out {
                self.observe(net, now, out);
            }
        }
        let Some(process) = &mut self.process else { return };
        if !process.flushing && process.raft.has_unflushed() {
            process.flushing = true;
            let slow = self.slow_disk > net.now;
            let span = if slow { net.rng.u64(50_000..1_500_000) } else { net.rng.u64(100..2_500) };
            let index = process.raft.last().1;
            let what = What::Flush(process.generation, index);
            net.after(Duration::from_micros(span), id, process.epoch, what);
            if slow {
                net.count("slow flush");
            }
        }
        let leading = process.raft.leading();
        if leading != process.leading {
            process.leading = leading;
            self.look_around(net, now);
            let Some(process) = &mut self.process else { return };
            let actions = process.grantor.handle(now, grantor::Event::Leads(leading));
            self.grant(net, actions);
        }
    }

    fn observe(&mut self, net: &mut Net, now: Moment, out: Out) {
        let id = self.id;
        let Some(process) = &mut self.process else { return };
        match out {
            Out::Send(to, rpc) => self.say(net, to, Msg::Raft(rpc)),
            Out::Appended(index, entry) => {
                if let log::What::Command(command) = &entry.what {
                    process.voter.handle(now, voter::Event::Appended(index, command));
                }
                if let Some(membership) = membership_of(index, &entry) {
                    process.voter.handle(now, voter::Event::MembershipAppended(membership));
                }
            }
            Out::Truncated(from) => {
                net.count("truncated");
                process.generation += 1;
                process.flushing = false;
                process.raft.on_disk(&mut self.disk);
                process.voter.handle(now, voter::Event::Truncated(from));
            }
            Out::Flushed(index) => {
                process.voter.handle(now, voter::Event::Flushed(index));
            }
            Out::Compacted => {
                process.raft.on_disk(&mut self.disk);
                net.count("compacted");
            }
            Out::Installed => {
                process.generation += 1;
                process.flushing = false;
                self.disk.snapshot = process.raft.snapshot();
                process.raft.on_disk(&mut self.disk);
                net.count("snapshot installed");
            }
            Out::Elected => {
                net.count("elected");
                if self.program == Program::Older {
                    net.count("an older program leads");
                }
                net.note(id, || "is elected".to_owned());
            }
            Out::Expired(sid, node) => net.expired.push((sid, node)),
            Out::Applied => {
                if !process.raft.is_flushed() {
                    net.count("applied before the flush");
                }
                let (index, state) = (process.raft.applied, process.raft.state.clone());
                let membership = process.raft.membership.clone();
                if membership != process.voting {
                    (process.voting, net.voters_changed) = (membership.clone(), net.now);
                }
                net.applied.push((id, index, state.clone()));
                process.voter.handle(now, voter::Event::Applied(index, &state, &membership));
                let membership = Membership::clone(&membership);
                let event = grantor::Event::Applied(state.clone(), membership.clone());
                let actions = process.grantor.handle(now, event);
                self.grant(net, actions);
                self.hold(net, now, holder::Event::Applied(index, state, membership));
            }
        }
    }

    pub(super) fn grant(&mut self, net: &mut Net, actions: Vec<grantor::Action>) {
        let (id, t) = (self.id, net.now);
        for action in actions {
            let Some(process) = &mut self.process else { return };
            match action {
                grantor::Action::Propose(leadership, command) => {
                    let command = self.program.prefers(&process.raft.state, command);
                    net.count_command(&command);
                    net.note(id, || format!("grantor proposes {command:?}"));
                    process.raft.propose(t, leadership, log::What::Command(command));
                }
                grantor::Action::Ask(voters, ask) => {
                    for voter in voters {
                        self.say(net, voter, Msg::Lease(Message::Ask(ask.clone())));
                    }
                }
                grantor::Action::Move(node, group, token, to) => {
                    net.count("grantor moves");
                    if is_better(&process.raft.state, &self.hears, &group, to) {
                        net.preempting.push((group.clone(), token));
                    }
                    self.say(net, node, Msg::Move(group, token, to));
                }
            }
        }
    }
}

/// Whether the grantor wants the group for this candidate for the sake of its priority: nobody ordered it, and the holder is heard.
fn is_better(state: &State, hears: &Hears, group: &str, to: Sid) -> bool {
    let drained = state.holder_node(group).and_then(|node| state.members.get(&node)).is_some_and(|m| m.drained);
    let ordered = drained || state.groups.get(group).is_some_and(|group| group.pinned.is_some());
    let heard = state.sessions.get(&to).and_then(|session| hears.get(group)?.get(&session.node));
    !ordered && heard == Some(&Hearing::Holder)
}
