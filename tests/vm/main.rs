//! IPVS for real: `vm [NAME...]` boots a virtual machine whose kernel has it (`tests/vm/boot`), and this same program is then
//! what runs inside. Needs root, and of Debian qemu-system-x86, busybox-static, kmod, cpio and ipvsadm.

mod big;
mod clocks;
mod cluster;
mod large;
mod lifetimes;
mod node;
mod pair;
mod rate;
mod schedulers;
mod stage;
mod table;
mod traffic;

use anyhow::{Context, Result};
use cluster::Cluster;
use hamesh::lab::gated;
use stage::Stage;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

type Case<On> = (&'static str, fn(&mut On) -> Result<String>);

/// Each makes the machines that it needs.
const ALONE: &[Case<()>] = &[
    ("table", table::is_what_ipvsadm_shows),
    ("restore", table::what_ipvsadm_restores_is_the_same_table),
    ("plan", table::a_plan_is_carried_out_and_leaves_others_alone),
    ("refusal", table::a_refusal_names_its_change_and_stops_nothing),
    ("settings", table::timeouts_and_synchronization),
    ("node", node::serves_under_the_lease_and_only_then),
    ("flush", node::puts_a_flushed_gate_back),
    ("vlan", node::holds_vips_on_a_vlan),
    ("set", clocks::are_set),
    ("slewed", clocks::are_slewed),
    ("large", large::table_is_whole_when_the_gate_opens),
];

/// A director whose table the test writes itself.
const TRAFFIC: &[Case<Stage>] = &[
    ("nat", traffic::nat),
    ("weights", traffic::weights),
    ("persistence", traffic::persistence),
    ("schedulers", schedulers::share_out),
    ("granularity", schedulers::clients_that_count_as_one),
    ("one-packet", schedulers::datagrams_each_by_itself),
    ("sctp", schedulers::sctp),
    ("direct", traffic::direct),
    ("tunnels", traffic::tunnels),
];

/// Two directors and a witness that run hamesh. The last one stops the first.
const PAIR: &[Case<Cluster>] = &[
    ("holder", pair::holder),
    ("group", pair::group),
    ("repair", pair::repair),
    ("death", pair::death),
    ("drain", pair::drain),
    ("clock", pair::clock),
    ("lease", pair::lease),
    ("crash", pair::crash),
    ("freeze", pair::freeze),
    ("localnode", pair::localnode),
    ("stop", pair::stop),
];

/// What takes long, and is run where it is named. Each makes the machines that it needs.
const LONG: &[Case<()>] = &[
    ("big", big::beside_keepalived),
    ("rate", rate::beside_keepalived),
    ("watchdog", node::feeds_the_watchdog_while_it_turns),
];

/// In a machine of its own, whose kernel has no nf_tables, and where it is named. The second is for a quick machine.
const LIFETIMES: &str = "lifetimes";
const WITHOUT_NFTABLES: &[Case<()>] =
    &[("alone", node::falls_silent_without_nf_tables), ("frozen", lifetimes::end_what_is_frozen)];

fn main() -> ExitCode {
    let only: Vec<String> = std::env::args().skip(1).collect();
    if only.first().is_some_and(|first| first == gated::ARGUMENT) {
        return match gated::be_stopped() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("vm: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let inside = std::fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("hamesh.vm"));
    if inside { guest(&only) } else { host(&only) }
}

fn host(only: &[String]) -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let boot = || -> Result<bool> {
        let me = std::env::current_exe().context("own path")?;
        let mut command = Command::new(root.join("tests/vm/boot"));
        command.arg(root.join("target/vm")).arg(me).args(only);
        if only == [LIFETIMES] {
            command.env("HAMESH_VM_KERNEL", "module_blacklist=nf_tables");
        }
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

fn guest(only: &[String]) -> ExitCode {
    let mut tally = Tally { only, passed: 0, failed: 0 };
    tally.run("alone", ALONE, || Ok(()));
    let stage = tally.run("traffic", TRAFFIC, Stage::set);
    if only.is_empty() {
        println!("pair: NOT RUN: three daemons need a quick machine and a release build; `vm pair` runs it");
    } else if only == [LIFETIMES] {
        tally.run(LIFETIMES, WITHOUT_NFTABLES, || Ok(()));
    } else {
        tally.run("long", LONG, || Ok(()));
        tally.run("pair", PAIR, || Cluster::form(stage.map_or_else(Stage::set, Ok)?));
    }
    println!("vm: {} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Tally<'a> {
    /// The names of the cases to run, or of groups of them; none is all.
    only: &'a [String],
    passed: u32,
    failed: u32,
}

impl Tally<'_> {
    /// Runs a group of cases on one and the same thing, which is made if there is a case to run.
    fn run<On>(&mut self, group: &str, cases: &[Case<On>], make: impl FnOnce() -> Result<On>) -> Option<On> {
        let named = |name: &str| self.only.is_empty() || self.only.iter().any(|only| only == name || only == group);
        let chosen: Vec<_> = cases.iter().filter(|(name, _)| named(name)).collect();
        if chosen.is_empty() {
            return None;
        }
        let begun = Instant::now();
        let mut on = match make() {
            Ok(on) => on,
            Err(error) => {
                println!("{group}: FAILED to begin: {error:#}");
                self.failed += 1;
                return None;
            }
        };
        println!("{group}: ready in {:.1} s", begun.elapsed().as_secs_f32());
        for (name, case) in chosen {
            let begun = Instant::now();
            let result = case(&mut on);
            let seconds = begun.elapsed().as_secs_f32();
            match result {
                Ok(figure) => {
                    self.passed += 1;
                    println!("{name}: ok in {seconds:.1} s{}{figure}", if figure.is_empty() { "" } else { ", " });
                }
                Err(error) => {
                    self.failed += 1;
                    println!("{name}: FAILED in {seconds:.1} s, {error:#}");
                }
            }
        }
        Some(on)
    }
}
