//! Sockets: what leaves this host and what comes in.

pub mod arp;
#[cfg(test)]
mod lan_tests;
mod sys;
pub mod vrrp;
