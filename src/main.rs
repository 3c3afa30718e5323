//! hamesh: see `hamesh --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hamesh::cli::main()
}
