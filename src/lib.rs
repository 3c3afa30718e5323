//! hamesh: a high-availability mesh of load-balancer directors.

pub mod kernel;
pub mod net;
