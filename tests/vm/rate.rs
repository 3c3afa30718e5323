//! The highest rate of checks that hamesh and keepalived both hold, out of one keepalived.conf, and what it costs each of them.
//! The servers count what they are asked.

use crate::big::{found, hamesh};
use crate::stage::sh;
use anyhow::{Context, Result, ensure};
use hamesh::lab::host::{Host, Netns, Process};
use hamesh::lab::legacy;
use nix::sys::signal::Signal;
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Servers, each asked every second. Tried until one of the two does not get there.
const RATES: [u32; 8] = [25, 50, 100, 200, 300, 400, 800, 1_600];
/// Less of a rate than this is not held.
const HELD: f64 = 0.95;
/// First answers make a table, and are not what goes on.
const WARM: Duration = Duration::from_secs(12);
const MEASURED: Duration = Duration::from_secs(15);
const VIP: &str = "10.5.0.100";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
}

/// What a program did in the time that was measured.
#[derive(Clone, Copy)]
struct Figure {
    rate: f64,
    /// Of a core.
    cpu: f64,
    resident: u64,
}

/// Two hosts, the director and all of the servers.
struct Machines {
    director: Host,
    _servers: Host,
    asked: Arc<AtomicU64>,
}

fn keepalived_conf(kind: Kind, servers: u32) -> Result<String> {
    let check = match kind {
        Kind::Tcp => "TCP_CHECK {\n      connect_timeout 2\n    }",
        Kind::Http => {
            "HTTP_GET {\n      url {\n        path /\n        status_code 200\n      }\n      connect_timeout 2\n    }"
        }
    };
    let mut text = format!(
        "vrrp_instance rate {{\n  interface eth0\n  virtual_router_id 51\n  priority 255\n  virtual_ipaddress {{\n    {VIP}/32\n  }}\n}}\n\
         virtual_server {VIP} 80 {{\n  delay_loop 1\n  lvs_sched rr\n  lvs_method NAT\n  protocol TCP\n"
    );
    for n in 0..servers {
        let at = Ipv4Addr::from_bits(Ipv4Addr::new(10, 32, 0, 1).to_bits() + n);
        writeln!(text, "  real_server {at} 80 {{\n    weight 1\n    {check}\n  }}")?;
    }
    text += "}\n";
    Ok(text)
}

/// Answers whoever asks, on one thread, and counts.
fn serve(netns: Netns, asked: Arc<AtomicU64>) -> Result<()> {
    let listener = netns.run(|| {
        let listener = TcpListener::bind("0.0.0.0:80")?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { continue };
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut request = [0; 512];
                    if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
                    }
                });
            }
        });
    });
    Ok(())
}

impl Machines {
    fn set() -> Result<Self> {
        let dir = Path::new("/tmp/rate");
        let (director, servers) = (Host::new("director", dir)?, Host::new("servers", dir)?);
        let netns = format!("/proc/{}/fd/{}", std::process::id(), servers.netns().as_raw_fd());
        sh(
            &director,
            &format!(
                "ip link add eth0 type veth peer name eth0 netns {netns}; ip link set eth0 up; \
                 ip addr add 10.5.0.1/24 dev eth0; ip route add 10.32.0.0/16 via 10.5.0.2; \
                 sysctl -qw net.ipv4.ip_local_port_range='1024 65000' net.ipv4.tcp_tw_reuse=1"
            ),
        )?;
        sh(
            &servers,
            "ip link set lo up; ip link set eth0 up; ip addr add 10.5.0.2/24 dev eth0; \
             ip route add local 10.32.0.0/16 dev lo; sysctl -qw net.core.somaxconn=8192",
        )?;
        let asked = Arc::new(AtomicU64::new(0));
        serve(servers.netns().clone(), asked.clone())?;
        Ok(Self { director, _servers: servers, asked })
    }

    /// What a program does once it is warm.
    fn measure(&self, mut program: Process) -> Result<Figure> {
        sleep(WARM);
        let (begun, asked, cpu) = (Instant::now(), self.asked.load(Ordering::Relaxed), program.cpu());
        sleep(MEASURED);
        let took = begun.elapsed().as_secs_f64();
        let asked = self.asked.load(Ordering::Relaxed) - asked;
        let cpu = program.cpu().saturating_sub(cpu);
        let resident = program.resident();
        ensure!(matches!(program.state(), Some('S' | 'R' | 'D')), "it does not run any more");
        program.signal(Signal::SIGTERM)?;
        program.wait(crate::stage::PATIENCE)?.context("it does not end")?;
        Ok(Figure { rate: f64::from(u32::try_from(asked)?) / took, cpu: cpu.as_secs_f64() / took, resident })
    }
}

pub fn beside_keepalived(_: &mut ()) -> Result<String> {
    let keepalived = legacy::keepalived().context("keepalived is not installed")?;
    let machines = Machines::set()?;
    let director = &machines.director;
    let conf = legacy::configuration_of(director);
    fs::write(&conf, keepalived_conf(Kind::Tcp, 1)?)?;
    found(director)?;
    let mut text = "asked a second by the servers' count, processor in percent of a core\n".to_owned();
    writeln!(text, "{:12} {:>18} {:>18} {:>14}", "checks", "hamesh", "keepalived", "ratio of cpu")?;
    for kind in [Kind::Tcp, Kind::Http] {
        let mut highest = None;
        for rate in RATES {
            fs::write(&conf, keepalived_conf(kind, rate)?)?;
            let theirs = machines.measure(legacy::run_whole(director, &keepalived)?).context("keepalived")?;
            let ours = machines.measure(hamesh(director)?).context("hamesh")?;
            let share = |figure: Figure| format!("{:.0}/s {:.1} %", figure.rate, figure.cpu * 100.0);
            let name = format!("{kind:?} {rate}/s").to_lowercase();
            let ratio = ours.cpu / theirs.cpu.max(0.001);
            let line = format!("{name:12} {:>18} {:>18} {ratio:>14.2}", share(ours), share(theirs));
            println!("rate: {line}; {} and {} MiB", ours.resident >> 20, theirs.resident >> 20);
            let held = |figure: Figure| figure.rate >= f64::from(rate) * HELD;
            if held(ours) && held(theirs) {
                highest = Some(line);
            } else {
                break;
            }
        }
        writeln!(text, "{}", highest.with_context(|| format!("{kind:?}: the lowest rate is not held by both"))?)?;
    }
    write!(text, "each line is the highest rate that both held")?;
    Ok(text)
}
