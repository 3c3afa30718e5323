//! The replicated state of a hamesh cluster and the Raft group that keeps it.
pub mod command;
pub mod membership;
