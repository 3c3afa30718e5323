//! The replicated state of a hamesh cluster and the Raft group that keeps it.
//!
//! | module | is |
//! |---|---|
//! | [`command`], [`membership`], [`entry`], [`state`] | the words and the pure state machine |
//! | [`voters`] | who should vote |
//! | [`codec`] | the one codec for wire and disk |
//! | [`store`] | log, vote, snapshot and identity on disk |
//! | [`raft`] | the Raft group, as the rest of hamesh uses it |
//!
//! openraft does the consensus. None of its types leaves this crate, and none is ever written to disk or wire: a
//! later openraft may lay its types out differently, a cluster's disks and its half-upgraded members may not.
pub mod codec;
pub mod command;
pub mod entry;
mod group;
pub mod membership;
mod network;
pub mod raft;
pub mod state;
pub mod store;
pub mod voters;

pub use entry::{Noted, What};
pub use network::{MAX_COMMAND, MAX_MESSAGE};
pub use raft::{
    Applied, ChangeError, FoundError, Observer, Peers, Progress, ProposeError, Raft, ServeError, Standing, StartError,
    Stopped, Timing, Unreachable, View,
};
pub use store::{Store, StoreError};

#[cfg(test)]
mod tests;
