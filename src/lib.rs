//! hamesh: a high-availability mesh of load-balancer directors.
pub mod net;
pub mod config;
pub mod vrrp;

pub mod cli;
pub mod lab;
