//! Hands in the kernel, beside the gate: addresses, interfaces, and the lane's priority.

pub mod address;
pub mod link;
pub mod realtime;
