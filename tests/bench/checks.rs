//! What checks cost: so many a second against servers of another process, over loopback of a namespace.
//!
//! The minds and the probes are the daemon's, on one thread as there. Every server has an address of its own and one
//! listener hears for all.

use anyhow::{Context, Result};
use hamesh::config::check::{Check, Http, HttpVersion, Probe, Way};
use hamesh::config::service::{HealthMesh, Server, Service};
use hamesh::health::{Action, Event, Health, Said};
use hamesh::ipvs::{Forwarding, Protocol, SchedulerFlags, ServiceKey};
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::NodeId;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Checks a second
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    rates: Vec<u32>,
    /// How long each is measured
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

const PORT: u16 = 80;
/// Less of the rate than this is short of it.
const ENOUGH: f64 = 0.95;

/// The servers: what is accepted is answered, and forgotten.
pub fn serve() -> Result<()> {
    more_files()?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    socket.listen(65_535)?;
    println!("listening");
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(socket.into())?;
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                let mut request = [0; 512];
                if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
                }
            });
        }
    })
}

fn more_files() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

pub fn run(options: &Options) -> Result<bool> {
    more_files()?;
    hamesh::lab::host::Netns::new().context("namespaces")?.run(|| {
        let mut servers = Command::new(std::env::current_exe()?);
        let mut servers = servers.arg("check-servers").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(servers.stdout.take().context("its output")?).read_line(&mut line)?;
        let measured = measure_all(options);
        servers.kill()?;
        servers.wait()?;
        measured
    })
}

fn measure_all(options: &Options) -> Result<bool> {
    let (mut passed, mut failed) = (0, 0);
    for rate in &options.rates {
        for (name, probe) in [("tcp", Probe::Tcp), ("http", http())] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let Figure { answers, bad, cpu, took } = runtime.block_on(measure(*rate, probe, options.seconds));
            let real = answers as f64 / took.as_secs_f64();
            let short = bad > 0 || real < f64::from(*rate) * ENOUGH;
            (passed, failed) = if short { (passed, failed + 1) } else { (passed + 1, failed) };
            println!(
                "{name} {rate}/s: {real:.0}/s answered, {bad} badly, {:.1} % of a core, {:.1} us a check, {} MiB",
                cpu.as_secs_f64() / took.as_secs_f64() * 100.0,
                cpu.as_secs_f64() * 1e6 / (answers.max(1) as f64),
                resident()? >> 10
            );
        }
    }
    println!("checks: {passed} passed, {failed} failed");
    Ok(failed == 0)
}

struct Figure {
    answers: u64,
    bad: u64,
    cpu: Duration,
    took: Duration,
}

async fn measure(rate: u32, probe: Probe, seconds: u64) -> Figure {
    let services = [("bench".to_owned(), service(rate, &probe))].into();
    let mut health = Health::new(Moment::now(), NodeId(1), HealthMesh::default(), &services);
    let mut asked = JoinSet::new();
    // First answers make a table, and are not what goes on.
    let warm = Instant::now() + Duration::from_secs(3);
    let (mut begun, mut answers, mut bad) = (None, 0, 0);
    let mut event = Event::Tick;
    loop {
        for action in health.handle(Moment::now(), event) {
            if let Action::Ask(id, target) = action {
                asked.spawn(async move { (id, hamesh::probe::ask(target.address, &target.check).await) });
            }
        }
        let now = Instant::now();
        match begun {
            None if now >= warm => (begun, answers, bad) = (Some((now, cpu())), 0, 0),
            Some((at, before)) if now >= at + Duration::from_secs(seconds) => {
                return Figure { answers, bad, cpu: cpu() - before, took: now - at };
            }
            None | Some(_) => {}
        }
        let pause = Moment::now().until(health.next_deadline());
        event = tokio::select! {
            Some(Ok((id, answer))) = asked.join_next(), if !asked.is_empty() => {
                answers += 1;
                bad += u64::from(!matches!(answer.said, Said::Up(_)));
                Event::Answered(id, answer)
            }
            () = tokio::time::sleep(pause) => Event::Tick,
        };
    }
}

pub fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// KiB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

fn http() -> Probe {
    let (path, status, version) = ("/".to_owned(), vec![200..=200], HttpVersion::New);
    Probe::Http(Http { path, host: None, version, status, digest: None, regex: None, no_regex: None, tls: None })
}

/// Of so many servers, each asked every second.
pub fn service(servers: u32, probe: &Probe) -> Service {
    let second = Duration::from_secs(1);
    let check = Check {
        probe: probe.clone(),
        way: Way::default(),
        interval: second,
        again: second,
        timeout: second,
        warmup: second,
        fall: 2,
        rise: 1,
        slow: None,
        loss: None,
    };
    let server = |n: u32| Server {
        address: (Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + n), PORT).into(),
        weight: 1,
        forwarding: Forwarding::Nat,
        checks: vec![check.clone()],
        inhibit_on_failure: false,
        upper: 0,
        lower: 0,
        alpha: false,
        notify_up: None,
        notify_down: None,
        mail: false,
    };
    Service {
        vip: "web".to_owned(),
        listen: vec![ServiceKey::Address(Protocol::Tcp, SocketAddr::from(([203, 0, 113, 10], PORT)).into())],
        protocol: Protocol::Tcp,
        scheduler: "rr",
        flags: SchedulerFlags::default(),
        one_packet: false,
        servers: (0..servers).map(server).collect(),
        persistence: None,
        granularity: None,
        engine: None,
        drain: None,
        slow_start: Duration::ZERO,
        quorum_up: None,
        quorum_down: None,
        mail: false,
        sorry_server: None,
        sorry_server_inhibit: false,
        omega: false,
        ha_suspend: false,
        quorum: 1,
        hysteresis: 0,
        min_up: 0,
    }
}

/// The services of one name.
pub fn services(servers: u32) -> BTreeMap<String, Service> {
    [("bench".to_owned(), service(servers, &Probe::Tcp))].into()
}
