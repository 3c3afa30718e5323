//! hamesh: see `hamesh --help`.

use std::panic;
use std::process::{ExitCode, abort};

fn main() -> ExitCode {
    // A half-dead process must not keep a VIP. Not by `panic = "abort"` in the profile: tests unwind, and the program that they start
    // would bring every dependency a second time.
    let show = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        show(info);
        abort();
    }));
    hamesh::cli::main()
}
