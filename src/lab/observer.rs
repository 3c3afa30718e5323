//! The judge on the wire: who answers for the VIP, and when.
//!
//! It sits in the LAN switch and asks every port for the VIP every [`TICK`], past every cut, so each side of a
//! partition is seen. It goes by the *port* an answer comes from, not by its MAC. Each probe's sender MAC carries
//! its number and its sender address is 0.0.0.0 (an RFC 5227 probe), so an answer names the probe it answers and no
//! host learns anything. For an IPv6 VIP it asks by neighbour discovery from [`ASKERS`] link-local addresses in turn: hosts
//! learn those, and nothing of anybody else.

use super::frame::{Arp, BROADCAST, Discovery, Mac, VrrpHeader, destination, source};
use super::lock;
use super::switch::{Port, Tap};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often every port is asked.
pub const TICK: Duration = Duration::from_millis(2);

/// Answers of one host at most this far apart are one interval of ownership: a few lost frames do not split it, and
/// no host gives a VIP up and gets it back so fast.
const MERGE: Duration = Duration::from_millis(20);

/// Two probes without any answer are within the resolution, more is a gap.
const GAP: Duration = Duration::from_millis(6);

/// A tick this late makes a measurement noisy: the machine, not the system under test, was away.
pub const NOISE: Duration = Duration::from_millis(30);

/// An advertisement and an answer of one claim are at most this far apart, on a busy machine too.
const CLOSE: Duration = Duration::from_millis(100);

const MARK: [u8; 2] = [0x02, 0x6f];

/// A span during which one host surely answered.
///
/// A host owned the VIP at some instant between a probe and its answer. So it surely owned it no later than its first
/// answer's arrival and no earlier than its last answered probe: between those two the ownership is definite, and two
/// owners are counted only where definite spans of two hosts overlap. A clean handover never overlaps, however slow
/// the machine; a real overlap is found from one tick on.
#[derive(Clone, Copy, Debug)]
pub struct Owned {
    /// Which host, an index into [`Observer::hosts`].
    pub host: usize,
    /// Arrival of the first answer.
    pub from: Instant,
    /// Sending of the last probe that was answered.
    pub to: Instant,
}

/// An advertisement seen on the wire.
#[derive(Clone, Debug)]
pub struct Advert {
    /// When.
    pub at: Instant,
    /// Out of which host.
    pub host: String,
    /// From this MAC.
    pub mac: Mac,
    /// What it said.
    pub header: VrrpHeader,
}

#[derive(Debug)]
struct Record {
    vip: IpAddr,
    hosts: Vec<String>,
    host_of: HashMap<Port, usize>,
    sent: Vec<Instant>,
    owned: Vec<Owned>,
    /// Index in `owned` of each host's latest span.
    latest: HashMap<usize, usize>,
    gaps: Vec<(Instant, Instant)>,
    last_answer: Instant,
    adverts: Vec<Advert>,
    announcements: Vec<(Instant, usize)>,
    late: Vec<(Instant, Duration)>,
}

/// Reads what the observer has recorded.
#[derive(Clone, Debug)]
pub struct Observer(Arc<Mutex<Record>>);

struct Probe {
    record: Arc<Mutex<Record>>,
    next: Instant,
    number: u32,
}

/// An observer of one VIP and the tap to put into the LAN's switch.
#[must_use]
pub fn observer(vip: IpAddr) -> (Observer, Box<dyn Tap>) {
    let now = Instant::now();
    let record = Record {
        vip,
        hosts: Vec::new(),
        host_of: HashMap::new(),
        sent: vec![now; RING],
        owned: Vec::new(),
        latest: HashMap::new(),
        gaps: Vec::new(),
        last_answer: now,
        adverts: Vec::new(),
        announcements: Vec::new(),
        late: Vec::new(),
    };
    let record = Arc::new(Mutex::new(record));
    (Observer(Arc::clone(&record)), Box::new(Probe { record, next: now, number: 0 }))
}

/// Probes whose answers are still accepted: two seconds of them.
const RING: usize = 1024;

/// Who asks for an IPv6 VIP, one after the other: an answer names the probe of the last 128 ms that it answers. More would
/// fill the hosts' neighbour tables.
pub const ASKERS: u32 = 64;

const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];

fn slot(number: u32) -> usize {
    usize::try_from(number).unwrap_or(0) % RING
}

impl Tap for Probe {
    fn attached(&mut self, port: Port, host: &str) {
        let mut record = lock(&self.record);
        let known = record.hosts.iter().position(|name| name == host);
        let index = known.unwrap_or_else(|| {
            record.hosts.push(host.to_owned());
            record.hosts.len() - 1
        });
        record.host_of.insert(port, index);
    }

    fn heard(&mut self, now: Instant, from: Port, frame: &[u8]) -> bool {
        let mut record = lock(&self.record);
        let Some(&host) = record.host_of.get(&from) else { return false };
        if let Some(header) = VrrpHeader::parse(frame) {
            let mac = source(frame).unwrap_or_default();
            let advert = Advert { at: now, host: record.hosts[host].clone(), mac, header };
            record.adverts.push(advert);
        } else if let Some(arp) = Arp::parse(frame) {
            if arp.target.0[..2] == MARK {
                let number = u32::from_be_bytes([arp.target.0[2], arp.target.0[3], arp.target.0[4], arp.target.0[5]]);
                let recent = self.number.wrapping_sub(number) < u32::try_from(RING).unwrap_or(0);
                if arp.operation == 2 && IpAddr::V4(arp.sender.1) == record.vip && recent {
                    record.answered(host, slot(number), now);
                }
                return true;
            }
            if arp.is_announcement() && IpAddr::V4(arp.sender.1) == record.vip {
                record.announcements.push((now, host));
            }
        } else if Discovery::parse(frame).is_some_and(|said| !said.asks && record.vip == IpAddr::V6(said.target)) {
            match destination(frame) {
                Some([a, b, c, d, e, low]) if [a, b] == MARK && [c, d, e] == [0; 3] => {
                    let age = self.number.wrapping_sub(low.into()) % ASKERS;
                    record.answered(host, slot(self.number.wrapping_sub(age)), now);
                }
                Some(ALL_NODES) => record.announcements.push((now, host)),
                Some(_) | None => {}
            }
        }
        destination(frame).is_some_and(|mac| mac[..2] == MARK)
    }

    fn next_tick(&self) -> Instant {
        self.next
    }

    fn tick(&mut self, now: Instant) -> Option<Vec<u8>> {
        let late = now.saturating_duration_since(self.next);
        self.next = if late > TICK { now + TICK } else { self.next + TICK };
        self.number = self.number.wrapping_add(1);
        let mut record = lock(&self.record);
        if late > TICK {
            record.late.push((now, late));
        }
        record.sent[slot(self.number)] = now;
        Some(match record.vip {
            IpAddr::V4(vip) => {
                let [a, b, c, d] = self.number.to_be_bytes();
                let mac: Mac = [MARK[0], MARK[1], a, b, c, d];
                let probe = Arp { operation: 1, sender: (mac, Ipv4Addr::UNSPECIFIED), target: ([0; 6], vip) };
                probe.frame(BROADCAST).to_vec()
            }
            IpAddr::V6(vip) => {
                let asker = u8::try_from(self.number % ASKERS).unwrap_or_default();
                let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x6f, asker.into());
                Discovery::question([MARK[0], MARK[1], 0, 0, 0, asker], source, vip)
            }
        })
    }
}

impl Record {
    fn answered(&mut self, host: usize, slot: usize, now: Instant) {
        let sent = self.sent[slot];
        if now.saturating_duration_since(self.last_answer) > GAP {
            self.gaps.push((self.last_answer, now));
        }
        self.last_answer = now;
        let latest = self.latest.get(&host).and_then(|&index| self.owned.get_mut(index));
        match latest {
            Some(span) if sent.saturating_duration_since(span.to) <= MERGE => span.to = span.to.max(sent),
            Some(_) | None => {
                self.latest.insert(host, self.owned.len());
                self.owned.push(Owned { host, from: now, to: sent });
            }
        }
    }
}

impl Observer {
    /// The hosts of the LAN, as [`Owned::host`] counts them.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        lock(&self.0).hosts.clone()
    }

    /// Who has answered within the last 10 ms. More than one is a double claim.
    #[must_use]
    pub fn owners(&self) -> Vec<String> {
        let now = Instant::now();
        let record = lock(&self.0);
        let fresh = record.latest.values().filter_map(|&index| record.owned.get(index));
        let fresh = fresh.filter(|span| now.saturating_duration_since(span.to) < Duration::from_millis(10));
        fresh.map(|span| record.hosts[span.host].clone()).collect()
    }

    /// The spans that touch `[from, to]`.
    #[must_use]
    pub fn spans(&self, from: Instant, to: Instant) -> Vec<Owned> {
        let record = lock(&self.0);
        record.owned.iter().filter(|span| span.to >= from && span.from <= to).copied().collect()
    }

    /// How long in `[from, to]` two of `among` owned the VIP at once.
    #[must_use]
    pub fn two_owners(&self, from: Instant, to: Instant, among: impl Fn(&str) -> bool) -> Duration {
        let hosts = self.hosts();
        let mut spans = self.spans(from, to);
        spans.retain(|span| among(&hosts[span.host]));
        overlap(&spans, from, to)
    }

    /// Every time in `[from, to]` that nobody answered, counted between arrivals of answers.
    #[must_use]
    pub fn gaps(&self, from: Instant, to: Instant) -> Vec<(Instant, Instant)> {
        let record = lock(&self.0);
        let running = (record.last_answer, to.max(record.last_answer));
        let gaps = record.gaps.iter().chain(std::iter::once(&running));
        let inside = gaps.map(|(start, end)| ((*start).max(from), (*end).min(to)));
        inside.filter(|(start, end)| end.saturating_duration_since(*start) > GAP).collect()
    }

    /// The longest of the [`Observer::gaps`].
    #[must_use]
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        self.gaps(from, to).into_iter().map(|(start, end)| end - start).max().unwrap_or_default()
    }

    /// When the VIP was first answered at or after `from`, by whom.
    #[must_use]
    pub fn first_answer(&self, from: Instant, by: impl Fn(&str) -> bool) -> Option<Instant> {
        let record = lock(&self.0);
        let spans = record.owned.iter().filter(|span| span.to >= from && by(&record.hosts[span.host]));
        spans.map(|span| span.from.max(from)).min()
    }

    /// The advertisements of `[from, to]`.
    #[must_use]
    pub fn adverts(&self, from: Instant, to: Instant) -> Vec<Advert> {
        lock(&self.0).adverts.iter().filter(|advert| advert.at >= from && advert.at <= to).cloned().collect()
    }

    /// The advertisements of `[from, to]` that claim the VIP (priority above 0) for a host that did not answer for it.
    #[must_use]
    pub fn false_claims(&self, from: Instant, to: Instant) -> Vec<Advert> {
        let record = lock(&self.0);
        let answered = |advert: &Advert| {
            let near = |span: &&Owned| span.from <= advert.at + CLOSE && advert.at <= span.to + CLOSE;
            record.owned.iter().filter(near).any(|span| record.hosts[span.host] == advert.host)
        };
        let inside = record.adverts.iter().filter(|advert| advert.at >= from && advert.at <= to);
        inside.filter(|advert| advert.header.priority > 0 && !answered(advert)).cloned().collect()
    }

    /// Who announced the VIP (gratuitous ARP) in `[from, to]`.
    #[must_use]
    pub fn announcements(&self, from: Instant, to: Instant) -> Vec<(Instant, String)> {
        let record = lock(&self.0);
        let inside = record.announcements.iter().filter(|(at, _)| *at >= from && *at <= to);
        inside.map(|(at, host)| (*at, record.hosts[*host].clone())).collect()
    }

    /// The observer's own worst lateness in `[from, to]`; beyond [`NOISE`] the measurement is noisy.
    #[must_use]
    pub fn lateness(&self, from: Instant, to: Instant) -> Duration {
        let record = lock(&self.0);
        let inside = record.late.iter().filter(|(at, _)| *at >= from && *at <= to);
        inside.map(|(_, late)| *late).max().unwrap_or(Duration::ZERO)
    }
}

/// Total time that two hosts' spans overlap within `[from, to]`; three at once count once.
fn overlap(spans: &[Owned], from: Instant, to: Instant) -> Duration {
    let mut shared: Vec<(Instant, Instant)> = Vec::new();
    for (index, a) in spans.iter().enumerate() {
        for b in spans.iter().skip(index + 1).filter(|b| b.host != a.host) {
            let (start, end) = (a.from.max(b.from).max(from), a.to.min(b.to).min(to));
            if start < end {
                shared.push((start, end));
            }
        }
    }
    shared.sort();
    let (mut total, mut covered) = (Duration::ZERO, from);
    for (start, end) in shared {
        total += end.saturating_duration_since(start.max(covered));
        covered = covered.max(end);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(base: Instant, host: usize, from: u64, to: u64) -> Owned {
        Owned { host, from: base + Duration::from_millis(from), to: base + Duration::from_millis(to) }
    }

    #[test]
    fn a_handover_is_no_overlap_and_a_double_claim_is() {
        let base = Instant::now();
        let end = base + Duration::from_secs(1);
        assert_eq!(overlap(&[span(base, 0, 0, 100), span(base, 1, 100, 200)], base, end), Duration::ZERO);
        let double = [span(base, 0, 0, 100), span(base, 1, 80, 200), span(base, 2, 90, 95)];
        assert_eq!(overlap(&double, base, end), Duration::from_millis(20));
    }

    #[test]
    fn two_spans_of_one_host_never_overlap() {
        let base = Instant::now();
        let spans = [span(base, 0, 0, 100), span(base, 0, 50, 200)];
        assert_eq!(overlap(&spans, base, base + Duration::from_secs(1)), Duration::ZERO);
    }
}
