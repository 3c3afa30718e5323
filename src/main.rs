//! hamesh: see `hamesh --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hamesh::cli::main()
//! The `hamesh` program.

use clap::{Parser, Subcommand};
use hamesh::cli::demo;
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Three directors, a witness and a client in namespaces of this machine, and every fault shown.
    Demo(demo::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
    };
    result.unwrap_or_else(|error| {
        eprintln!("hamesh: {error:#}");
        ExitCode::FAILURE
    })
}
