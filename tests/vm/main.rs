//! IPVS for real: `vm [NAME]` boots a virtual machine whose kernel has it (`tests/vm/boot`), and this same program is then
//! what runs inside. Needs root, and of Debian qemu-system-x86, busybox-static, kmod, cpio and ipvsadm.

mod node;
mod stage;
mod table;
mod traffic;

use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

type Case = (&'static str, fn() -> Result<String>);

const CASES: &[Case] = &[
    ("table", table::is_what_ipvsadm_shows),
    ("restore", table::what_ipvsadm_restores_is_the_same_table),
    ("plan", table::a_plan_is_carried_out_and_leaves_others_alone),
    ("refusal", table::a_refusal_names_its_change_and_stops_nothing),
    ("settings", table::timeouts_and_synchronization),
    ("nat", traffic::nat),
    ("direct", traffic::direct),
    ("tunnels", traffic::tunnels),
    ("weights", traffic::weights),
    ("persistence", traffic::persistence),
    ("node", node::serves_under_the_lease_and_only_then),
];

fn main() -> ExitCode {
    let only = std::env::args().nth(1);
    let inside = std::fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("hamesh.vm"));
    if inside { guest(only.as_deref()) } else { host(only.as_deref()) }
}

fn host(only: Option<&str>) -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let boot = || -> Result<bool> {
        let me = std::env::current_exe().context("own path")?;
        let mut command = Command::new(root.join("tests/vm/boot"));
        command.arg(root.join("target/vm")).arg(me).args(only);
        Ok(command.status().context("starting tests/vm/boot")?.success())
    };
    match boot() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn guest(only: Option<&str>) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in CASES.iter().filter(|(name, _)| only.is_none_or(|only| *name == only)) {
        let begun = Instant::now();
        match case() {
            Ok(figure) => {
                passed += 1;
                println!(
                    "{name}: ok in {:.1} s{}{figure}",
                    begun.elapsed().as_secs_f32(),
                    if figure.is_empty() { "" } else { ", " }
                );
            }
            Err(error) => {
                failed += 1;
                println!("{name}: FAILED {error:#}");
            }
        }
    }
    println!("vm: {passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
