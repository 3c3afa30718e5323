//! What things cost and how late they are: `bench [NAME]`. Each ends with one line that holds its figure.

mod checks;
mod failover;
mod gate;
mod mesh;
mod scale;

use anyhow::Result;
use clap::{Parser, Subcommand};
use hamesh::lab::{gated, sandbox};
use std::process::ExitCode;

/// What things cost and how late they are.
#[derive(Parser, Debug)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// How late the kernel shuts the gate of a stopped process, and what a renewal costs
    Gate(gate::Options),
    /// How long nobody answers when the MASTER stops or dies, beside keepalived in the same run
    Failover(failover::Options),
    /// What many virtual routers cost, how even their adverts are and how owners change, beside keepalived in the same run
    Scale(scale::Options),
    /// What checks of servers cost: processor and memory
    Checks(checks::Options),
    /// What many directors with many targets cost, and how soon they agree
    Mesh(mesh::Options),
    /// Not for people: the servers that are checked
    #[command(hide = true)]
    CheckServers,
    /// Not for people: the process that is stopped
    #[command(hide = true, name = gated::ARGUMENT)]
    BeStopped { vip: std::net::IpAddr },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.what {
        What::BeStopped { .. } => gated::be_stopped().map(|()| true),
        What::Failover(options) => sandboxed(|| failover::run(&options)),
        What::Scale(options) => sandboxed(|| scale::run(&options)),
        What::CheckServers => checks::serve().map(|()| true),
        What::Checks(options) => sandboxed(|| checks::run(&options)),
        What::Mesh(options) => mesh::run(&options),
        What::Gate(options) => sandboxed(|| gate::run(&options)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn sandboxed(run: impl FnOnce() -> Result<bool>) -> Result<bool> {
    match sandbox::enter()? {
        Some(code) => Ok(code == ExitCode::SUCCESS),
        None => run(),
    }
}
