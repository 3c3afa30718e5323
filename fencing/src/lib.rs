//! Quorum leases, fencing tokens and the kernel gate that ends a claim.

pub mod clock;
pub mod gate;
pub mod grantor;
pub mod holder;
pub mod message;
pub mod record;
pub mod voter;
