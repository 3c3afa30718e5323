//! hamesh: a high-availability mesh of load-balancer directors.
//!
//! The floors, from the doors down; arrows go down only. Minds decide and touch nothing; hands act and decide nothing.
//!
//! | floor | modules | is |
//! |---|---|---|
//! | doors | [`cli`], [`admin`] | people and scrapers |
//! | shell | [`node`] | tokio, tasks, the loop: wires minds to hands |
//! | hands | [`net`], [`kernel`], [`probe`], [`notify::fifo`], [`notify::mail`], `hamesh_fencing::gate`, `hamesh_raft::store` | sockets, netlink, checks, disk |
//! | minds | [`vrrp`], [`bfd`], [`health`], [`track`], [`notify`], [`ipvs`], [`config`], `hamesh_fencing::{holder, voter, grantor}`, `hamesh_raft::state` | decide |
//!
//! Beside them stands [`lab`]: the laboratory in namespaces that the demo and the fault tests run in.

pub mod admin;
pub mod bfd;
pub mod cli;
pub mod config;
pub mod health;
pub mod ipvs;
pub mod kernel;
pub mod lab;
pub mod net;
pub mod node;
pub mod notify;
pub mod probe;
pub mod track;
pub mod vrrp;
