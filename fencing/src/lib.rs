//! Quorum leases, fencing tokens and the kernel gate that ends a claim.
//!
#![doc = include_str!("safety.md")]

pub mod clock;
pub mod gate;
pub mod grantor;
pub mod holder;
pub mod message;
pub mod record;
pub mod voter;
