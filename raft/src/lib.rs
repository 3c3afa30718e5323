//! The replicated state of a hamesh cluster and the Raft group that keeps it.
pub mod codec;
pub mod command;
pub mod membership;
