//! hamesh: a high-availability mesh of load-balancer directors.
pub mod config;
pub mod vrrp;
