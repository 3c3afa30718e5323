//! Somebody who uses the VIP through a real kernel and its neighbour cache, and the services that answer.

use super::host::Host;
use super::{lock, sys};
use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recv, recvmsg, sendmsg, setsockopt, sockopt,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The echo service's port.
const ECHO: u16 = 7777;

/// How often a client asks.
pub const PERIOD: Duration = Duration::from_millis(2);

/// An answer to a question this many questions ago, a tenth of a second, says nothing about now.
const OLD: u64 = 50;

/// How long a thread may take to notice that it shall end.
const PATIENCE: Duration = Duration::from_millis(100);

/// A thread that ends, and is waited for, when this is dropped.
#[derive(Debug)]
struct Worker {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Runs `turn` over and over in the host's network namespace, with a socket made there, of the VIP's family.
    fn start(host: &Host, vip: IpAddr, port: u16, mut turn: impl FnMut(&UdpSocket) + Send + 'static) -> Result<Self> {
        let socket = host.netns().run(|| {
            let any = match vip {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let socket = UdpSocket::bind((any, port)).context("a UDP socket")?;
            match vip {
                IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).context("IP_PKTINFO")?,
                IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).context("IPV6_PKTINFO")?,
            }
            Ok(socket)
        })?;
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        // A socket stays in the namespace it was made in, whatever thread uses it.
        let thread = thread::Builder::new().name(format!("udp {}", host.name())).spawn(move || {
            // On a busy machine the figures must be the system's under test, not ours.
            drop(sys::run_in_real_time());
            while !seen.load(Ordering::Relaxed) {
                turn(&socket);
            }
        })?;
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("lab: a client or service had panicked");
        }
    }
}

/// Answers every datagram with its content and the host's name, from the address that was asked.
#[derive(Debug)]
pub struct Service(#[expect(dead_code, reason = "held for its drop")] Worker);

impl Service {
    /// Starts one on a host, for every address of the VIP's family.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(host: &Host, vip: IpAddr) -> Result<Self> {
        let name = host.name().to_owned();
        let mut prepared = false;
        let worker = Worker::start(host, vip, ECHO, move |socket| {
            if !prepared {
                prepared = socket.set_read_timeout(Some(PATIENCE)).is_ok();
            }
            // A datagram that cannot be read or answered is lost, and the client counts it.
            echo(socket, &name).ok();
        })?;
        Ok(Self(worker))
    }
}

fn echo(socket: &UdpSocket, name: &str) -> nix::Result<()> {
    let mut content = [0; 64];
    let mut control = cmsg_space!(in6_pktinfo);
    let (from, length, asked) = {
        let mut parts = [IoSliceMut::new(&mut content)];
        let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
        (got.address, got.bytes, got.cmsgs()?.collect::<Vec<_>>())
    };
    let parts = [IoSlice::new(&content[..length]), IoSlice::new(name.as_bytes())];
    let answer = |control: ControlMessage<'_>| {
        sendmsg(socket.as_raw_fd(), &parts, &[control], MsgFlags::empty(), from.as_ref()).map(drop)
    };
    for message in asked {
        // The way back is routing's choice; only the source is ours.
        if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
            let back = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ..info };
            return answer(ControlMessage::Ipv4PacketInfo(&back));
        } else if let ControlMessageOwned::Ipv6PacketInfo(info) = message {
            let back = in6_pktinfo { ipi6_ifindex: 0, ..info };
            return answer(ControlMessage::Ipv6PacketInfo(&back));
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Heard {
    last: Instant,
    from: String,
    outages: Vec<(Instant, Instant)>,
    /// From the last answer of one host to the first of the next.
    changes: Vec<(Instant, Instant)>,
    asked: u64,
    answers: BTreeMap<String, u64>,
    late: Vec<(Instant, Duration)>,
}

/// Asks the VIP every [`PERIOD`].
#[derive(Debug)]
pub struct Client {
    name: String,
    heard: Arc<Mutex<Heard>>,
    #[expect(dead_code, reason = "held for its drop")]
    worker: Worker,
}

/// Silence up to this long, some questions lost or late on a busy machine, is no outage.
const SILENCE: Duration = Duration::from_millis(20);

impl Client {
    /// Starts one on a host.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(host: &Host, vip: IpAddr) -> Result<Self> {
        let now = Instant::now();
        let heard = Heard {
            last: now,
            from: String::new(),
            outages: Vec::new(),
            changes: Vec::new(),
            asked: 0,
            answers: BTreeMap::new(),
            late: Vec::new(),
        };
        let heard = Arc::new(Mutex::new(heard));
        let record = Arc::clone(&heard);
        let (mut sequence, mut next) = (0_u64, now);
        let target = SocketAddr::from((vip, ECHO));
        let worker = Worker::start(host, vip, 0, move |socket| {
            sequence += 1;
            // No neighbour, no route: that is an unanswered question.
            drop(socket.send_to(&sequence.to_be_bytes(), target));
            let late = Instant::now().saturating_duration_since(next);
            {
                let mut heard = lock(&record);
                heard.asked = sequence;
                if late > PERIOD {
                    heard.late.push((next + late, late));
                }
            }
            next = (next + PERIOD).max(Instant::now());
            listen(socket, next, sequence, &record);
        })?;
        Ok(Self { name: host.name().to_owned(), heard, worker })
    }

    /// Its host's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every time in `[from, to]` without an answer, as far as it lies inside.
    #[must_use]
    pub fn outages(&self, from: Instant, to: Instant) -> Vec<(Instant, Instant)> {
        let heard = lock(&self.heard);
        let running = (heard.last, to.max(heard.last));
        let all = heard.outages.iter().chain(std::iter::once(&running));
        let inside = all.map(|(start, end)| ((*start).max(from), (*end).min(to)));
        inside.filter(|(start, end)| end.saturating_duration_since(*start) > SILENCE).collect()
    }

    /// In `[from, to]`, the longest time between the last answer of one host and the first of the next; `None` when it stayed
    /// one host. Pauses of this machine at other times are not in it.
    #[must_use]
    pub fn change(&self, from: Instant, to: Instant) -> Option<Duration> {
        let heard = lock(&self.heard);
        let inside = heard.changes.iter().filter(|(start, end)| *start >= from && *end <= to);
        inside.map(|(start, end)| *end - *start).max()
    }

    /// The longest of the [`Client::outages`].
    #[must_use]
    pub fn outage(&self, from: Instant, to: Instant) -> Duration {
        self.outages(from, to).into_iter().map(|(start, end)| end - start).max().unwrap_or_default()
    }

    /// Its own worst lateness in `[from, to]`, as [`super::observer::Observer::lateness`].
    #[must_use]
    pub fn lateness(&self, from: Instant, to: Instant) -> Duration {
        let heard = lock(&self.heard);
        let inside = heard.late.iter().filter(|(at, _)| *at >= from && *at <= to);
        inside.map(|(_, late)| *late).max().unwrap_or(Duration::ZERO)
    }

    /// When it was answered last, and by whom.
    #[must_use]
    pub fn last_answer(&self) -> (Instant, String) {
        let heard = lock(&self.heard);
        (heard.last, heard.from.clone())
    }

    /// Questions that were not answered so far; those on their way are among them.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        let heard = lock(&self.heard);
        heard.asked.saturating_sub(heard.answers.values().sum())
    }

    /// Answers so far, by host.
    #[must_use]
    pub fn answers(&self) -> BTreeMap<String, u64> {
        lock(&self.heard).answers.clone()
    }
}

/// Takes answers until `until`, but those to old questions, which waited in the neighbour queue.
fn listen(socket: &UdpSocket, until: Instant, sequence: u64, record: &Mutex<Heard>) {
    let mut content = [0; 64];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(wait) = Timespec::try_from(left) else { return };
        // No read timeout: it counts whole jiffies, and who was to ask every 2 ms asked every 8 to 12 while nobody answered.
        if left.is_zero() || poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&wait)).is_err() {
            return;
        }
        let Ok(length) = recv(socket.as_raw_fd(), &mut content, MsgFlags::MSG_DONTWAIT) else { continue };
        let Some((number, name)) = content[..length].split_first_chunk::<8>() else { continue };
        if sequence.saturating_sub(u64::from_be_bytes(*number)) > OLD {
            continue;
        }
        let now = Instant::now();
        let name = String::from_utf8_lossy(name);
        let mut heard = lock(record);
        if now.saturating_duration_since(heard.last) > SILENCE {
            let outage = (heard.last, now);
            heard.outages.push(outage);
        }
        let before = std::mem::replace(&mut heard.last, now);
        if heard.from != name {
            heard.changes.push((before, now));
            heard.from = name.clone().into_owned();
        }
        *heard.answers.entry(name.into_owned()).or_default() += 1;
    }
}
