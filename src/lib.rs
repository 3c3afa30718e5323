//! hamesh: a high-availability mesh of load-balancer directors.

pub mod cli;
pub mod lab;
