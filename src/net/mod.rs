//! Sockets. The mesh: how the nodes of one cluster find, prove and hear each other, and nobody else.
//!
//! ```text
//! authority   the cluster's own CA: names, pins, certificates
//! identity    who this node is, on disk
//! tls         what TLS and QUIC are allowed to do here
//! hello       what two nodes tell each other before a connection counts
//! frame       bounded messages on streams
//! plane       one endpoint: keeps a connection to every member, takes theirs
//! mesh        the stream plane: calls and tells          lease   the datagram plane: renewals and acks
//! invitation  the join string      join   the joiner's side      admit   the member's side
//! ```
//!
//! The LAN: [`bfd`] on UDP; [`vrrp`] and [`neighbour`], on raw sockets, with the bytes of [`arp`] and [`ndp`]; [`sys`] holds what is
//! unsafe about them.
pub mod admit;
pub mod arp;
pub mod arrived;
pub mod authority;
pub mod bfd;
pub mod frame;
pub mod hello;
pub mod identity;
pub mod invitation;
pub mod join;
#[cfg(test)]
mod lan_tests;
pub mod lease;
pub mod mesh;
pub mod ndp;
pub mod neighbour;
mod plane;
mod reach;
pub(crate) mod sys;
mod tls;
pub mod vrrp;

pub use reach::{Link, Reach, Timing};

#[cfg(test)]
mod tests;
