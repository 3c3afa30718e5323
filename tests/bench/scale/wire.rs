//! What is seen on the cables: adverts by raw sockets, announcements by packet sockets.

use super::stage::{LANS, Size, lan};
use anyhow::{Result, bail};
use hamesh::lab::frame::Arp;
use hamesh::lab::host::{Host, link_index};
use hamesh::lab::sys;
use hamesh::vrrp;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// The adverts of this many virtual routers are timed; all of a thousand would cost more than the programs do.
const TIMED: u8 = 8;
const LOOK: Duration = Duration::from_millis(20);
/// Where an IPv4 packet without options has the VRID and the priority of its advert.
const VRID: usize = 21;
const PRIORITY: usize = 22;

/// What both directors said for a while.
pub struct Heard {
    /// Between two adverts of the MASTER, in intervals: median, p99, longest.
    pub spacing: [f64; 3],
    /// Adverts of the BACKUP that claim.
    pub from_backup: u64,
}

impl Heard {
    pub fn listen(master: &Host, backup: &Host, watch: Duration, interval: Duration) -> Result<Self> {
        // What the one says is heard where the other is.
        let timed = raw(backup, 0, Some(TIMED))?;
        let claims = (0..LANS).map(|number| raw(master, number, None)).collect::<Result<Vec<_>>>()?;
        let end = Instant::now() + watch;
        let mut spans = thread::spawn(move || time(timed, end)).join().map_err(|_| anyhow::anyhow!("a panic"))??;
        spans.sort_unstable();
        let share = |at: usize| spans.get(at).map_or(0.0, |span| span.as_secs_f64() / interval.as_secs_f64());
        let last = spans.len().saturating_sub(1);
        let mut from_backup = 0;
        for mut socket in claims {
            let mut packet = [0; 2048];
            while let Ok(length) = socket.read(&mut packet) {
                from_backup += u64::from(length > PRIORITY && packet[PRIORITY] > 0);
            }
        }
        Ok(Self { spacing: [share(spans.len() / 2), share(last * 99 / 100), share(last)], from_backup })
    }
}

/// A socket for the adverts that come in on a LAN, of the first VRIDs only if so many are wanted.
fn raw(host: &Host, number: u16, vrids: Option<u8>) -> Result<Socket> {
    host.netns().run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(vrrp::PROTOCOL))))?;
        if let Some(last) = vrids {
            // Load the byte; above the last VRID take nothing, else all.
            socket.attach_filter(&[
                SockFilter::new(0x30, 0, 0, u32::try_from(VRID)?),
                SockFilter::new(0x25, 0, 1, last.into()),
                SockFilter::new(0x06, 0, 0, 0),
                SockFilter::new(0x06, 0, 0, u32::MAX),
            ])?;
        }
        socket.bind_device(Some(lan(number).as_bytes()))?;
        socket.set_recv_buffer_size(1 << 20)?;
        socket.set_nonblocking(vrids.is_none())?;
        Ok(socket)
    })
}

fn time(mut socket: Socket, end: Instant) -> Result<Vec<Duration>> {
    // The figures are to be the programs', not ours.
    sys::run_in_real_time().ok();
    let (mut last, mut spans) = (BTreeMap::new(), Vec::new());
    let mut packet = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(spans);
        }
        socket.set_read_timeout(Some(left))?;
        let Ok(length) = socket.read(&mut packet) else { continue };
        let now = Instant::now();
        if length > PRIORITY
            && let Some(before) = last.insert(packet[VRID], now)
        {
            spans.push(now - before);
        }
    }
}

#[derive(Default)]
struct Seen {
    /// Which director announced an address last.
    owner: BTreeMap<Ipv4Addr, usize>,
    first: Option<Instant>,
    last: Option<Instant>,
    changes: u64,
}

/// Who announces which address, by gratuitous ARP.
pub struct Owners {
    begun: Mutex<Instant>,
    seen: Arc<Mutex<Seen>>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Owners {
    pub fn watch(hosts: [&Host; 2]) -> Result<Self> {
        let (seen, ends) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        for (at, host) in hosts.into_iter().enumerate() {
            for number in 0..LANS {
                let index = host.netns().netlink(|handle| async move { link_index(&handle, &lan(number)).await })?;
                let socket = host.netns().run(|| Ok(sys::packet_socket(index)?))?;
                // Thousands of addresses are announced at once, five times each: a lost one is seen a minute later.
                socket.set_recv_buffer_size(4 << 20)?;
                socket.set_nonblocking(false)?;
                socket.set_read_timeout(Some(LOOK))?;
                let (seen, ends) = (seen.clone(), ends.clone());
                threads.push(thread::spawn(move || watch(socket, 1 - at, &seen, &ends)));
            }
        }
        Ok(Self { begun: Mutex::new(Instant::now()), seen, ends, threads })
    }

    /// From now on.
    pub fn forget(&self) {
        let mut seen = lock(&self.seen);
        (seen.changes, seen.first, seen.last) = (0, None, None);
        *lock(&self.begun) = Instant::now();
    }

    /// Waits until `director` was the last to announce every address. Returns when that was, counted from the beginning.
    pub fn until_all(&self, director: usize, size: Size, patience: Duration) -> Result<Duration> {
        let begun = *lock(&self.begun);
        loop {
            let owned = lock(&self.seen).owner.values().filter(|owner| **owner == director).count();
            if owned >= size.addresses() {
                return Ok(lock(&self.seen).last.unwrap_or(begun).saturating_duration_since(begun));
            }
            if begun.elapsed() > patience {
                bail!("director {} announced {owned} of {} addresses in {patience:?}", director + 1, size.addresses());
            }
            sleep(LOOK);
        }
    }

    /// How often a virtual router changed its owner, and for how long that went on.
    pub fn changes(&self) -> (u64, Duration) {
        let seen = lock(&self.seen);
        let span = seen.first.zip(seen.last).map(|(first, last)| last.saturating_duration_since(first));
        (seen.changes, span.unwrap_or_default())
    }
}

impl Drop for Owners {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn watch(mut socket: Socket, director: usize, seen: &Mutex<Seen>, ends: &AtomicBool) {
    let mut frame = [0; 2048];
    while !ends.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut frame) else { continue };
        let Some(arp) = Arp::parse(&frame[..length]).filter(Arp::is_announcement) else { continue };
        let vip = arp.sender.1;
        let mut seen = lock(seen);
        let before = seen.owner.insert(vip, director);
        if before == Some(director) {
            continue;
        }
        let now = Instant::now();
        seen.first.get_or_insert(now);
        seen.last = Some(now);
        // Of a virtual router's addresses one stands for all.
        seen.changes += u64::from(vip.octets()[2] == 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
