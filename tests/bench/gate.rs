//! The gate of a process that is stopped with SIGSTOP in the middle of its lease: when does the last answer leave?
//!
//! The judge is a client on a veth that asks for the VIP by ARP every millisecond; the kernel stamps what comes in. In every
//! tenth trial somebody flushes the rule set while the process is stopped, where nobody can (Linux 6.9). A trial in which
//! the client itself was away says nothing and is counted as blind.

use anyhow::{Context, Result, ensure};
use hamesh::kernel::realtime;
use hamesh::lab::frame::{Arp, BROADCAST, Mac};
use hamesh::lab::host::{Netns, link_index};
use hamesh_fencing::clock::Moment;
use hamesh_fencing::gate::{Devices, Gate, GateError};
use hamesh_raft::command::{Definition, Family, GateId};
use nix::ifaddrs::getifaddrs;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, bind, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use nix::unistd::Pid;
use rtnetlink::{LinkUnspec, LinkVeth};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{BufRead, BufReader, IoSliceMut, Write, stdin};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Trials of each length of lease
    #[arg(long, default_value_t = 100)]
    trials: usize,
    /// So many processes are stopped at the same time
    #[arg(long, default_value_t = 8)]
    lanes: usize,
    /// The lengths, in milliseconds
    #[arg(long, value_delimiter = ',', default_values_t = [125, 1000, 2000, 3000])]
    leases: Vec<u64>,
}

const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const NIC: &str = "eth0";
const TICK: Duration = Duration::from_millis(1);
/// Asked so long after the deadline too.
const TAIL: Duration = Duration::from_millis(100);
/// Two questions further apart leave a hole that a late answer could have fallen into.
const HOLE: Duration = Duration::from_millis(5);
/// What is armed, as the gate's documentation has it.
const ARMED_PERCENT: u32 = 89;
const ARMED_LESS: Duration = Duration::from_millis(20);

fn web() -> Definition {
    Definition { family: Family::V4, vrid: 51, addresses: vec![VIP.into()] }
}

fn devices(vrrp: &[String]) -> Devices {
    Devices { vrrp: vrrp.to_vec(), ..Devices::default() }
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The process that is stopped: it has the gate, holds the VIP, and arms for the deadline it is told, by both clocks.
pub fn hand() -> Result<()> {
    // As the daemon's lane.
    realtime::raise(realtime::LANE);
    let mut gate = Gate::acquire()?.install(GateId(1), &[web()], &devices(&[NIC.to_owned()]))?;
    gate.hold(&[web()])?;
    println!("{}", if gate.persistent() { "persistent" } else { "not persistent" });
    for line in stdin().lock().lines() {
        let line = line?;
        let (boot, raw) = line.split_once(' ').context("two times")?;
        let at = |text: &str| anyhow::Ok(Duration::from_nanos(text.parse()?));
        match gate.arm(Moment::at(at(boot)?, at(raw)?)) {
            Ok(()) => println!("armed"),
            // The machine was away, and the gate did not open.
            Err(GateError::Late) => println!("late"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A director and its client on one cable, and the process that has the director's gate.
struct Lane {
    director: Netns,
    wire: Socket,
    question: Vec<u8>,
    hand: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    persistent: bool,
}

/// What one trial saw, relative to the deadline on the wall clock.
struct Trial {
    /// When the last answer came. Negative: before the deadline. In microseconds, as all of these.
    last: i64,
    /// When the gate was to shut.
    nominal: i64,
    blind: bool,
}

impl Lane {
    fn new() -> Result<Self> {
        let (director, client) = (Netns::new()?, Netns::new()?);
        let target = director.as_raw_fd();
        client.netlink(|handle| async move {
            handle.link().add(LinkVeth::new(NIC, "far").build()).execute().await?;
            let far = LinkUnspec::new_with_index(link_index(&handle, "far").await?).name(NIC).setns_by_fd(target);
            handle.link().change(far.build()).execute().await?;
            let near = link_index(&handle, NIC).await?;
            handle.link().change(LinkUnspec::new_with_index(near).up().build()).execute().await?;
            Ok(())
        })?;
        director.netlink(|handle| async move {
            let near = link_index(&handle, NIC).await?;
            handle.address().add(near, VIP.into(), 24).execute().await?;
            handle.link().change(LinkUnspec::new_with_index(near).up().build()).execute().await?;
            Ok(())
        })?;
        let (wire, mac) = client.run(packet_socket)?;
        let question = Arp { operation: 1, sender: (mac, CLIENT), target: ([0; 6], VIP) }.frame(BROADCAST).to_vec();
        let mut hand = director.run(|| {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("gate-hand").stdin(Stdio::piped()).stdout(Stdio::piped());
            command.spawn().context("starting the process that is stopped")
        })?;
        let orders = hand.stdin.take().context("its input")?;
        let answers = BufReader::new(hand.stdout.take().context("its output")?);
        let mut lane = Self { director, wire, question, hand, orders, answers, persistent: false };
        lane.persistent = lane.answer()? == "persistent";
        Ok(lane)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "the process that is stopped has ended");
        Ok(line.trim().to_owned())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.hand.id())?), signal).with_context(|| signal.to_string())
    }

    /// `None` when the gate was not opened, because the machine was away.
    fn trial(&mut self, lease: Duration, flush: bool) -> Result<Option<Trial>> {
        let (asleep_too, raw) = (Moment::now() + lease).both();
        let begun = clock(ClockId::Realtime);
        let (deadline, nominal) = (begun + lease, begun + (lease * ARMED_PERCENT / 100).saturating_sub(ARMED_LESS));
        writeln!(self.orders, "{} {}", asleep_too.as_nanos(), raw.as_nanos())?;
        if self.answer()? != "armed" {
            return Ok(None);
        }
        self.signal(Signal::SIGSTOP)?;
        self.stamps()?;
        if flush {
            let flushed = self.director.run(|| Ok(Command::new("nft").args(["flush", "ruleset"]).status()?))?;
            ensure!(flushed.success(), "nft flush ruleset: {flushed}");
        }
        let (mut last, mut asked, mut widest) = (None, clock(ClockId::Realtime), Duration::ZERO);
        let mut next = Instant::now();
        while asked < deadline + TAIL {
            self.wire.send(&self.question).context("a question")?;
            let now = clock(ClockId::Realtime);
            // Only where an answer would be late does a hole hide anything.
            if now > nominal {
                widest = widest.max(now.saturating_sub(asked.max(nominal)));
            }
            asked = now;
            next = (next + TICK).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
            last = self.stamps()?.or(last);
        }
        self.signal(Signal::SIGCONT)?;
        let last = last.context("no answer at all: the gate was never open")?;
        let relative = |at: Duration| {
            let (at, deadline) = (at.as_micros().cast_signed(), deadline.as_micros().cast_signed());
            i64::try_from(at - deadline).unwrap_or(i64::MAX)
        };
        Ok(Some(Trial { last: relative(last), nominal: relative(nominal), blind: widest > HOLE }))
    }

    /// The kernel's stamp of the last answer that has come in since the last call.
    fn stamps(&self) -> Result<Option<Duration>> {
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let (mut bytes, mut last) = ([0; 128], None);
        loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            let received =
                recvmsg::<LinkAddr>(self.wire.as_raw_fd(), &mut into, Some(&mut control), MsgFlags::MSG_DONTWAIT);
            let message = match received {
                Ok(message) => message,
                Err(nix::Error::EAGAIN) => return Ok(last),
                Err(error) => return Err(error).context("listening"),
            };
            let stamp = message.cmsgs()?.find_map(|control| {
                if let ControlMessageOwned::ScmTimestampns(at) = control { Some(Duration::from(at)) } else { None }
            });
            let length = message.bytes;
            let said = bytes.get(..length).and_then(Arp::parse);
            if said.is_some_and(|said| said.operation == 2 && said.sender.1 == VIP) {
                last = stamp.or(last);
            }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // It may have ended already.
        self.hand.kill().ok();
        self.hand.wait().ok();
    }
}

fn packet_socket() -> Result<(Socket, Mac)> {
    const ETH_P_ARP: u16 = 0x0806;
    let protocol = Protocol::from(i32::from(ETH_P_ARP.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    let link = getifaddrs()?.filter(|of| of.interface_name == NIC).find_map(|of| of.address?.as_link_addr().copied());
    let link = link.context("the client's interface")?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    bind(socket.as_raw_fd(), &link)?;
    Ok((socket, link.addr().context("its address")?))
}

pub fn run(options: &Options) -> Result<bool> {
    ensure!(options.trials > 0 && options.lanes > 0, "at least one trial and one lane");
    println!(
        "The last answer of a process stopped in its lease, in ms before (-) or after (+) its deadline, and how late the"
    );
    println!("gate shut by what was armed (0.89 L less 20 ms).");
    println!(
        "\n     L  trials  flushed  blind      median  p99.9 late       worst   late by: median    p99.9    worst"
    );
    let (mut passed, mut failed) = (0, 0);
    for lease in &options.leases {
        let (in_time, late) = length(options, Duration::from_millis(*lease))?;
        (passed, failed) = (passed + in_time, failed + late);
    }
    println!("bench gate: {}, {passed} passed, {failed} failed", costs()?);
    Ok(failed == 0)
}
/// How many trials saw no answer after the deadline, and how many saw one.
fn length(options: &Options, lease: Duration) -> Result<(usize, usize)> {
    let share = options.trials.div_ceil(options.lanes);
    let worker = || -> Result<(Vec<Trial>, usize)> {
        let mut lane = Lane::new()?;
        // On a busy machine the figures must be the gate's, not ours.
        realtime::raise(realtime::INTERFACES);
        let (mut trials, mut flushed) = (Vec::new(), 0);
        for number in 0..share {
            let flush = lane.persistent && number % 10 == 5;
            flushed += usize::from(flush);
            trials.extend(lane.trial(lease, flush)?);
        }
        Ok((trials, flushed))
    };
    let results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..options.lanes).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow::anyhow!("a lane panicked"))?).collect()
    });
    let (mut trials, mut flushed) = (Vec::new(), 0);
    for result in results {
        let (some, times) = result?;
        trials.extend(some);
        flushed += times;
    }
    let blind = trials.iter().filter(|trial| trial.blind).count();
    let sorted = |of: &dyn Fn(&Trial) -> i64| {
        let mut values: Vec<i64> = trials.iter().filter(|trial| !trial.blind).map(of).collect();
        values.sort_unstable();
        values
    };
    let (last, late) = (sorted(&|trial| trial.last), sorted(&|trial| trial.last - trial.nominal));
    ensure!(!last.is_empty(), "every trial was blind: this machine is too busy");
    let of = |values: &[i64], permille: usize| {
        let place = (values.len() * permille).div_ceil(1000).clamp(1, values.len()) - 1;
        f64::from(i32::try_from(values[place]).unwrap_or(i32::MAX)) / 1000.0
    };
    println!(
        "{:>6}  {:>6}  {flushed:>7}  {blind:>5}  {:>+10.1}  {:>+10.1}  {:>+10.1}   {:>+15.1}  {:>+7.1}  {:>+7.1}",
        format!("{} ms", lease.as_millis()),
        trials.len(),
        of(&last, 500),
        of(&last, 999),
        of(&last, 1000),
        of(&late, 500),
        of(&late, 999),
        of(&late, 1000),
    );
    // What is blind proves nothing; but a late answer that it saw it saw.
    let late = trials.iter().filter(|trial| trial.last >= 0).count();
    Ok((trials.iter().filter(|trial| trial.last < 0 && !trial.blind).count(), late))
}

/// What a renewal costs with more and more VIPs, half of them IPv6, and with more interfaces.
fn costs() -> Result<String> {
    const RENEWALS: usize = 200;
    println!("\n  VIPs  interfaces  a renewal: median      p99    worst");
    let mut medians = Vec::new();
    for (vips, interfaces) in [(2_u32, 1_usize), (200, 1), (2000, 1), (8000, 1), (2000, 8)] {
        let netns = Netns::new()?;
        let names: Vec<String> = (0..interfaces).map(|number| format!("v{number}")).collect();
        for name in &names {
            netns.netlink(|handle| async move {
                handle.link().add(LinkVeth::new(name, &format!("{name}x")).build()).execute().await?;
                Ok(())
            })?;
        }
        let mut times = netns.run(|| {
            let four = (0..vips / 2).map(|number| IpAddr::from((0x0a09_0100 + number).to_be_bytes()));
            let six =
                (0..vips / 2).map(|number| Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 1, u16::try_from(number).unwrap_or(0)));
            let groups = [
                Definition { family: Family::V4, vrid: 51, addresses: four.collect() },
                Definition { family: Family::V6, vrid: 51, addresses: six.map(IpAddr::V6).collect() },
            ];
            let mut gate = Gate::acquire()?.install(GateId(1), &groups, &devices(&names))?;
            gate.hold(&groups)?;
            let mut times = Vec::new();
            for _ in 0..RENEWALS {
                let start = Instant::now();
                // One that took too long on a busy machine was undone, and counts all the same.
                gate.arm(Moment::now() + Duration::from_secs(1)).ok();
                times.push(start.elapsed());
            }
            Ok(times)
        })?;
        times.sort_unstable();
        let [median, high, worst] =
            [RENEWALS / 2, RENEWALS * 99 / 100, RENEWALS - 1].map(|place| times[place].as_micros());
        println!("{vips:>6}  {interfaces:>10}  {median:>15} us  {high:>4} us  {worst:>4} us");
        medians.push(median);
    }
    Ok(format!("a renewal takes {} us with 2 VIPs, {} us with 8000", medians[0], medians[3]))
}
