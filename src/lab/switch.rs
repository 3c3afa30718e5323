//! An Ethernet switch in user space, whose faults are exact and counted.
//!
//! Every port is a veth pair: one end in a host, the other here under a packet socket. (TAP would need `/dev/net/tun`,
//! which an unprivileged user often may not open.) One thread learns addresses, applies the rules and forwards.

use super::frame::{self, Kind, Mac};
use super::host::{Host, Netns, link_index};
use super::pcap::Capture;
use super::{lock, sys};
use anyhow::{Context, Result, bail};
use rtnetlink::{LinkUnspec, LinkVeth};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Where what is behind the two Ethernet addresses begins.
const ADDRESSES: usize = 12;

/// A port of one switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port(usize);

/// Somebody who sits in the switch itself: sees every frame before any rule, and speaks to ports past every rule.
pub trait Tap: Send {
    /// A port has come into being, of this host.
    fn attached(&mut self, port: Port, host: &str);
    /// A frame came out of a host. True: it was for the tap, do not forward it.
    fn heard(&mut self, now: Instant, from: Port, frame: &[u8]) -> bool;
    /// When the tap wants to speak next.
    fn next_tick(&self) -> Instant;
    /// The frame it sends to every port now, if any.
    fn tick(&mut self, now: Instant) -> Option<Vec<u8>>;
}

/// A rule of the switch: what it does to what goes from one of some ports to one of others. It ends when dropped.
#[derive(Debug)]
pub struct Fault {
    shared: Arc<Shared>,
    rule: Arc<Rule>,
}

impl Fault {
    /// How many frames it has harmed: proof that the fault bit.
    #[must_use]
    pub fn harmed(&self) -> u64 {
        self.rule.harmed.load(Ordering::Relaxed)
    }
}

/// What becomes of frames. Chances are of 1000 frames.
#[derive(Clone, Copy, Debug)]
pub enum Harm {
    /// So many are lost.
    Lose(u16),
    /// All that are longer than so many bytes, with their Ethernet header, are lost, and nobody is told.
    LoseLonger(usize),
    /// So many arrive twice.
    Repeat(u16),
    /// So many arrive with one bit turned, behind the addresses.
    Flip(u16),
    /// All arrive later, by a time between these two, so that they overtake each other.
    Delay(Duration, Duration),
    /// So many bytes a second pass; what would wait longer than [`QUEUE`] is lost.
    Throttle(u32),
}

/// How long a frame waits on a throttled way at most.
pub const QUEUE: Duration = Duration::from_millis(500);

impl Drop for Fault {
    fn drop(&mut self) {
        lock(&self.shared.state).rules.retain(|rule| !Arc::ptr_eq(rule, &self.rule));
    }
}

#[derive(Debug)]
struct Rule {
    ways: Vec<(Port, Port)>,
    kind: Kind,
    harm: Harm,
    harmed: AtomicU64,
    /// When a throttled way is free again.
    free: Mutex<Instant>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ends: AtomicBool,
}

#[derive(Debug)]
struct State {
    ports: Vec<PortState>,
    rules: Vec<Arc<Rule>>,
    learned: HashMap<Mac, Port>,
    random: fastrand::Rng,
    capture: Option<Capture>,
}

#[derive(Clone, Debug)]
struct PortState {
    socket: Arc<Socket>,
    host: String,
    plugged: bool,
}

/// The switch; its thread ends when it is dropped.
#[derive(Debug)]
pub struct Switch {
    shared: Arc<Shared>,
    netns: Netns,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// A switch without ports. `seed` decides which frames a lossy rule takes.
    ///
    /// # Errors
    /// No privilege for a namespace.
    pub fn new(name: &str, seed: u64, tap: Option<Box<dyn Tap>>) -> Result<Self> {
        let state = State {
            ports: Vec::new(),
            rules: Vec::new(),
            learned: HashMap::new(),
            random: fastrand::Rng::with_seed(seed),
            capture: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), ends: AtomicBool::new(false) });
        let forwarder = Forwarder { shared: Arc::clone(&shared), tap, sockets: Vec::new(), late: Late::default() };
        let thread = thread::Builder::new().name(format!("switch {name}")).spawn(move || forwarder.run())?;
        Ok(Self { shared, netns: Netns::new()?, thread: Some(thread) })
    }

    /// Gives a host an interface whose cable ends in a new port. The interface is down and without address.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn attach(&self, host: &Host, interface: &str, mac: Mac) -> Result<Port> {
        let number = lock(&self.shared.state).ports.len();
        let (near, far) = (format!("p{number}"), format!("h{number}"));
        let target = host.netns().as_raw_fd();
        let index = self.netns.netlink(|handle| {
            let (near, far) = (&near, &far);
            async move {
                handle.link().add(LinkVeth::new(near, far).build()).execute().await.context("a veth pair")?;
                let moved = LinkUnspec::new_with_index(link_index(&handle, far).await?)
                    .name(interface)
                    .address(mac.to_vec())
                    .setns_by_fd(target);
                handle.link().change(moved.build()).execute().await.context("handing over its far end")?;
                link_index(&handle, near).await
            }
        })?;
        host.netns().run(|| sys::finish_frames(interface).context("switching offloads off"))?;
        let socket = self.netns.run(|| {
            // The switch itself must say nothing on the wire. No such file: no IPv6, nothing to silence.
            let silent = fs::write(format!("/proc/sys/net/ipv6/conf/{near}/disable_ipv6"), "1");
            if let Err(error) = silent
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error).context("silencing a port");
            }
            sys::packet_socket(index).context("a packet socket")
        })?;
        if let Err(error) = socket.set_recv_buffer_size(4 << 20) {
            bail!("a receive buffer: {error}");
        }
        self.netns.netlink(|handle| async move {
            handle.link().change(LinkUnspec::new_with_index(index).up().build()).execute().await?;
            Ok(())
        })?;
        let port = PortState { socket: Arc::new(socket), host: host.name().to_owned(), plugged: true };
        lock(&self.shared.state).ports.push(port);
        Ok(Port(number))
    }

    /// Pulls or plugs the cable of a port; also the tap's words do not pass a pulled one.
    pub fn plug(&self, port: Port, plugged: bool) {
        if let Some(state) = lock(&self.shared.state).ports.get_mut(port.0) {
            state.plugged = plugged;
        }
    }

    /// Loses all frames of a kind that go from one of `from` to one of `to`; not the way back.
    #[must_use]
    pub fn cut_one_way(&self, from: &[Port], to: &[Port], kind: Kind) -> Fault {
        self.harm(from, to, kind, Harm::Lose(1000))
    }

    /// Loses all frames of a kind between one of `these` and one of `those`, both ways.
    #[must_use]
    pub fn cut(&self, these: &[Port], those: &[Port], kind: Kind) -> Fault {
        self.rule(ways(these, those).chain(ways(those, these)).collect(), kind, Harm::Lose(1000))
    }

    /// Loses so many of 1000 frames between any two of `ports`, at random.
    #[must_use]
    pub fn lossy(&self, ports: &[Port], permille: u16) -> Fault {
        self.harm(ports, ports, Kind::Any, Harm::Lose(permille))
    }

    /// Harms frames of a kind that go from one of `from` to one of `to`; not the way back.
    #[must_use]
    pub fn harm(&self, from: &[Port], to: &[Port], kind: Kind, harm: Harm) -> Fault {
        self.rule(ways(from, to).collect(), kind, harm)
    }

    /// Forgets which host is behind which port, as after a change of the spanning tree.
    pub fn forget(&self) {
        lock(&self.shared.state).learned.clear();
    }

    /// Writes what comes out of hosts, of this kind, into a pcap file from now on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn capture(&self, path: &Path, kind: Kind) -> Result<()> {
        let capture = Capture::create(path, kind).with_context(|| path.display().to_string())?;
        lock(&self.shared.state).capture = Some(capture);
        Ok(())
    }

    /// Ends the capture: the file is whole.
    ///
    /// # Errors
    /// It is not, or there was none.
    pub fn captured(&self) -> Result<()> {
        let capture = lock(&self.shared.state).capture.take().context("no frames are captured, or not all")?;
        Ok(capture.finish()?)
    }

    fn rule(&self, ways: Vec<(Port, Port)>, kind: Kind, harm: Harm) -> Fault {
        let rule = Rule { ways, kind, harm, harmed: AtomicU64::new(0), free: Mutex::new(Instant::now()) };
        let rule = Arc::new(rule);
        lock(&self.shared.state).rules.push(Arc::clone(&rule));
        Fault { shared: Arc::clone(&self.shared), rule }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("lab: a switch had panicked");
        }
    }
}

fn ways<'a>(from: &'a [Port], to: &'a [Port]) -> impl Iterator<Item = (Port, Port)> + 'a {
    from.iter().flat_map(move |&a| to.iter().filter(move |&&b| a != b).map(move |&b| (a, b)))
}

/// What the switch's thread owns.
struct Forwarder {
    shared: Arc<Shared>,
    tap: Option<Box<dyn Tap>>,
    sockets: Vec<Arc<Socket>>,
    late: Late,
}

impl Forwarder {
    /// How long a new port or the end may wait to be noticed.
    const IDLE: Duration = Duration::from_millis(20);

    fn run(mut self) {
        // Without the privilege the tap's lateness tells how good the measurement was.
        drop(sys::run_in_real_time());
        let mut buffer = vec![0; 65_536];
        while !self.shared.ends.load(Ordering::Relaxed) {
            self.notice_ports();
            let ready = self.wait();
            for number in ready {
                self.drain(number, &mut buffer);
            }
            self.deliver();
            self.speak();
        }
    }

    /// Sends what has waited long enough.
    fn deliver(&mut self) {
        let now = Instant::now();
        while let Some((to, frame)) = self.late.due(now) {
            if let Some(port) = lock(&self.shared.state).ports.get(to.0) {
                port.send(&frame);
            }
        }
    }

    fn notice_ports(&mut self) {
        let state = lock(&self.shared.state);
        for (number, port) in state.ports.iter().enumerate().skip(self.sockets.len()) {
            self.sockets.push(Arc::clone(&port.socket));
            if let Some(tap) = &mut self.tap {
                tap.attached(Port(number), &port.host);
            }
        }
    }

    fn wait(&self) -> Vec<usize> {
        let now = Instant::now();
        let until = [self.tap.as_ref().map(|tap| tap.next_tick()), self.late.next()];
        let until = until.into_iter().flatten().map(|at| at.saturating_duration_since(now));
        let timeout = until.fold(Self::IDLE, Duration::min);
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut polled: Vec<PollFd<'_>> =
            self.sockets.iter().map(|socket| PollFd::new(&**socket, PollFlags::IN)).collect();
        if poll(&mut polled, Some(&timeout)).is_err() {
            return Vec::new(); // EINTR: the next round asks again
        }
        let ready = polled.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|(number, _)| number).collect()
    }

    /// At most so many frames of one port before the others and the tap have their turn.
    const BURST: usize = 64;

    fn drain(&mut self, number: usize, buffer: &mut [u8]) {
        let Some(socket) = self.sockets.get(number).map(Arc::clone) else { return };
        for _ in 0..Self::BURST {
            // EAGAIN: the port is drained. Any other error (ENETDOWN: the host is gone) ends its turn too.
            let Ok(length) = rustix::net::recv(&*socket, &mut *buffer, rustix::net::RecvFlags::empty()) else { return };
            if let Some(frame) = buffer.get(..length.0) {
                self.forward(Port(number), frame);
            }
        }
    }

    fn forward(&mut self, from: Port, frame: &[u8]) {
        let now = Instant::now();
        let mut state = lock(&self.shared.state);
        if !state.ports.get(from.0).is_some_and(|port| port.plugged) {
            return;
        }
        if self.tap.as_mut().is_some_and(|tap| tap.heard(now, from, frame)) {
            return;
        }
        // One that lacks a frame is none: whoever wants it finds it missing.
        if state.capture.as_mut().is_some_and(|capture| capture.note(frame).is_err()) {
            state.capture = None;
        }
        let (Some(source), Some(destination)) = (frame::source(frame), frame::destination(frame)) else { return };
        state.learned.insert(source, from);
        let known = state.learned.get(&destination).copied();
        for number in 0..state.ports.len() {
            let to = Port(number);
            if to == from || known.is_some_and(|port| port != to) {
                continue;
            }
            for (at, frame) in state.fate(now, from, to, frame) {
                match state.ports.get(number) {
                    Some(port) if at <= now => port.send(&frame),
                    Some(_) => self.late.keep(at, to, frame.into_owned()),
                    None => {}
                }
            }
        }
    }

    fn speak(&mut self) {
        let Some(tap) = &mut self.tap else { return };
        let now = Instant::now();
        if now < tap.next_tick() {
            return;
        }
        if let Some(frame) = tap.tick(now) {
            for port in &lock(&self.shared.state).ports {
                port.send(&frame);
            }
        }
    }
}

impl State {
    /// What arrives of a frame, and when.
    fn fate<'a>(&mut self, now: Instant, from: Port, to: Port, frame: &'a [u8]) -> Vec<(Instant, Cow<'a, [u8]>)> {
        let mut copies = vec![(now, Cow::Borrowed(frame))];
        let rules = self.rules.iter().filter(|rule| rule.ways.contains(&(from, to)) && rule.kind.matches(frame));
        for rule in rules {
            let mut chance = |permille: u16| self.random.u16(0..1000) < permille;
            let harmed = match rule.harm {
                Harm::Lose(permille) if chance(permille) => {
                    copies.clear();
                    true
                }
                Harm::LoseLonger(longest) => {
                    let long = frame.len() > longest;
                    if long {
                        copies.clear();
                    }
                    long
                }
                Harm::Repeat(permille) if chance(permille) => {
                    copies.extend(copies.clone());
                    true
                }
                Harm::Flip(permille) if chance(permille) && frame.len() > ADDRESSES => {
                    let (at, bit) = (self.random.usize(ADDRESSES..frame.len()), self.random.u8(0..8));
                    for (_, copy) in &mut copies {
                        if let Some(byte) = copy.to_mut().get_mut(at) {
                            *byte ^= 1 << bit;
                        }
                    }
                    true
                }
                Harm::Lose(_) | Harm::Repeat(_) | Harm::Flip(_) => false,
                Harm::Delay(least, most) => {
                    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                    for (at, _) in &mut copies {
                        *at += Duration::from_micros(self.random.u64(micros(least)..=micros(most)));
                    }
                    true
                }
                Harm::Throttle(rate) => {
                    let mut free = lock(&rule.free);
                    let start = (*free).max(now);
                    let waits = start.saturating_duration_since(now) > QUEUE;
                    if waits {
                        copies.clear();
                    } else {
                        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
                        *free = start + Duration::from_secs(1) * length / rate.max(1);
                        copies.iter_mut().for_each(|(at, _)| *at = (*at).max(*free));
                    }
                    waits
                }
            };
            rule.harmed.fetch_add(u64::from(harmed), Ordering::Relaxed);
        }
        copies
    }
}

/// Frames on their way, in the order of their arrival.
#[derive(Default)]
struct Late {
    frames: BTreeMap<(Instant, u64), (Port, Vec<u8>)>,
    number: u64,
}

impl Late {
    fn keep(&mut self, at: Instant, to: Port, frame: Vec<u8>) {
        self.number += 1;
        self.frames.insert((at, self.number), (to, frame));
    }

    fn next(&self) -> Option<Instant> {
        self.frames.keys().next().map(|(at, _)| *at)
    }

    fn due(&mut self, now: Instant) -> Option<(Port, Vec<u8>)> {
        let first = self.frames.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }
}

impl PortState {
    /// A full or downed port loses the frame, as a switch does.
    fn send(&self, frame: &[u8]) {
        if self.plugged {
            drop(self.socket.send(frame));
        }
    }
}
