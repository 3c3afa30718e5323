//! The shell: one running node. It owns tokio, tasks and time, and wires minds to hands.
//!
//! Four threads of control, apart from each other (L4):
//! - the **lane**, one real-time thread: lease plane, voter's answers, grantor, holder, VRRP and gate;
//! - the **notices**, one thread for scripts, FIFOs and mail, which nothing waits for;
//! - the **interfaces**, one thread for addresses and links, which the lane waits for in a claim only;
//! - everything else on tokio's workers: the mesh, Raft and its disk, gossip, admin.
//!
//! The lane never waits for the rest. What it wants proposed goes through a bounded queue; what the log has decided comes
//! back as the applied state. The voter stands under one lock that both sides take for microseconds (H9).

mod announce;
mod balance;
mod barrier;
mod bfd;
mod certificate;
mod claim;
mod core;
mod daemon;
mod director;
mod elsewhere;
mod errands;
mod fixed;
mod flight;
mod health;
mod interfaces;
mod lan;
mod lane;
mod lans;
mod members;
mod notify;
mod once;
mod ports;
mod prepare;
mod reload;
mod requests;
mod restart;
mod roster;
mod say;
mod served;
mod service;
mod status;
mod track;
mod voice;
mod warnings;

pub use barrier::needs_rules;
pub(crate) use core::Core;
pub use daemon::{Ending, mark_founding, run};
pub use prepare::{remove_gate, shut_gate};
pub(crate) use reload::reload;
pub use restart::Running;
pub use status::Picture;
pub(crate) use status::number;
