//! Quorum leases, fencing tokens and the kernel gate that ends a claim.
pub mod clock;
pub mod gate;
