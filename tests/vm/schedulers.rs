//! What each of the kernel's schedulers does with real connections, and what else decides where one goes: thresholds, clients that
//! count as one, datagrams each by itself.
//!
//! A new connection is told apart by who answers it; those that are held open are what schedulers count.

use crate::stage::{NAMES, PATIENCE, SERVERS, Stage, VIP, sh};
use crate::table::{make, service};
use crate::traffic::{open, scope};
use anyhow::{Context, Result, ensure};
use hamesh::ipvs::{
    Endpoint, Forwarding, Granularity, Persistence, Protocol, SchedulerFlags, Scope, Server, ServiceKey, Table,
};
use hamesh::kernel::ipvs::Ipvs;
use hamesh_raft::command::Family;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Of a service with thresholds, which goes on beside the others.
const LIMITED: u16 = 81;
/// Ports of services one after the other: the kernel takes a server that comes again to the same one for what it was, with the
/// connections that are not forgotten yet.
const PORTS: std::ops::Range<u16> = 1001..1020;
/// The ports whose packets have a mark, which is the port.
const MARKED: std::ops::Range<u16> = 1101..1104;
/// Addresses of the director beside the first, enough to be hashed to both servers.
const DESTINATIONS: [&str; 8] =
    ["10.5.0.101", "10.5.0.102", "10.5.0.103", "10.5.0.105", "10.5.0.106", "10.5.0.107", "10.5.0.108", "10.5.0.109"];
/// Further addresses of the client: the first four are in one net with its own, the rest in another.
const CLIENTS: [&str; 8] =
    ["10.6.0.3", "10.6.0.4", "10.6.0.5", "10.6.0.6", "10.6.1.3", "10.6.1.4", "10.6.1.5", "10.6.1.6"];
const CLIENTS6: [&str; 2] = ["fd06::3", "fd06:0:0:1::3"];

fn at(ip: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ip.parse()?, port))
}

fn servers(weights: [u32; 2]) -> Result<Vec<(Endpoint, Server)>> {
    let one = |(server, weight): (&[&str; 2], u32)| {
        Ok((Endpoint::from(at(server[0], 80)?), Server::new(Forwarding::Nat, weight)))
    };
    SERVERS.iter().zip(weights).map(one).collect()
}

/// Connections of the client that stay open, each with the number of its server.
struct Held<'a> {
    stage: &'a Stage,
    open: Vec<(usize, crate::stage::Conversation)>,
}

impl<'a> Held<'a> {
    fn new(stage: &'a Stage) -> Self {
        Self { stage, open: Vec::new() }
    }

    /// Opens one more, and says who has it.
    fn more(&mut self, to: SocketAddr) -> Result<usize> {
        let conversation = self.stage.converse(to, PATIENCE)?;
        let who = number(&conversation.with)?;
        self.open.push((who, conversation));
        Ok(who)
    }

    /// So many more.
    fn many(&mut self, to: SocketAddr, count: usize) -> Result<Vec<usize>> {
        (0..count).map(|_| self.more(to)).collect()
    }

    /// Ends those with a server, and waits until the kernel has seen that.
    fn end(&mut self, who: usize, ipvs: &mut Ipvs, key: &ServiceKey) -> Result<()> {
        self.open.retain(|(with, _)| *with != who);
        let until = Instant::now() + PATIENCE;
        let server = Endpoint::from(at(SERVERS[who][0], 80)?);
        loop {
            let all = ipvs.servers(key)?;
            let now = all.iter().find(|(at, ..)| *at == server).context("it is there")?.2;
            if now.active == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < until, "connections that have ended are active: {now:?}");
            sleep(Duration::from_millis(10));
        }
    }
}

fn number(name: &str) -> Result<usize> {
    NAMES.iter().position(|known| *known == name).with_context(|| format!("{name:?} answered"))
}

/// The director's table, which has one service after the other beside the limited one.
struct Turns {
    ipvs: Ipvs,
    ports: std::ops::Range<u16>,
    marked: std::ops::Range<u16>,
}

impl Turns {
    /// A service with this scheduler and these weights: on the first address, or for what is marked.
    fn next(
        &mut self,
        scheduler: &str,
        weights: [u32; 2],
        flags: SchedulerFlags,
        marked: bool,
    ) -> Result<(ServiceKey, u16)> {
        let port = if marked { &mut self.marked } else { &mut self.ports }.next().context("a port")?;
        let mark = NonZeroU32::new(port.into()).context("not 0")?;
        let on = ServiceKey::Address(Protocol::Tcp, Endpoint::from(at(VIP[0], port)?));
        let key = if marked { ServiceKey::Mark(mark, Family::V4) } else { on };
        let mut one = service(scheduler, servers(weights)?);
        one.settings.flags = flags;
        let marks = MARKED.filter_map(|mark| Some((NonZeroU32::new(mark.into())?, Family::V4))).collect();
        let all = Scope { marks, ..scope() };
        let mut table = self.ipvs.table(&all)?;
        table.retain(|key, _| matches!(key, ServiceKey::Address(_, at) if at.port == LIMITED));
        table.insert(key, one);
        make(&mut self.ipvs, &all, &table).with_context(|| scheduler.to_owned())?;
        Ok((key, port))
    }
}

/// A server takes no more at its upper threshold, and takes them again below its lower one. What ends it is the kernel's own time
/// for connections that were reset, ten seconds: so others are tried meanwhile.
fn begin_limited<'a>(stage: &'a Stage, ipvs: &mut Ipvs) -> Result<(ServiceKey, Held<'a>)> {
    let key = ServiceKey::Address(Protocol::Tcp, Endpoint::from(at(VIP[0], LIMITED)?));
    let mut limited = service("rr", servers([1, 1])?);
    for (server, upper) in limited.servers.values_mut().zip([3, 0]) {
        (server.upper, server.lower) = (upper, upper.min(2));
    }
    make(ipvs, &scope(), &[(key, limited)].into())?;
    let mut held = Held::new(stage);
    let went = held.many(at(VIP[0], LIMITED)?, 10)?;
    ensure!(went.iter().filter(|who| **who == 0).count() == 3, "with a threshold of 3 connections went to {went:?}");
    for (who, conversation) in &held.open {
        if *who == 0 {
            conversation.reset_when_it_ends()?;
        }
    }
    held.open.retain(|(who, _)| *who != 0);
    Ok((key, held))
}

fn end_limited(ipvs: &mut Ipvs, (key, mut held): (ServiceKey, Held<'_>)) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while ipvs.servers(&key)?.iter().any(|(_, server, now, _)| server.upper > 0 && now.active + now.inactive > 1) {
        ensure!(Instant::now() < until, "connections that were reset are still counted");
        sleep(Duration::from_millis(100));
    }
    let went = held.many(at(VIP[0], LIMITED)?, 4)?;
    ensure!(went.contains(&0), "below its lower threshold it got none: {went:?}");
    Ok(())
}

pub fn share_out(stage: &mut Stage) -> Result<String> {
    stage.vips_on_the_director()?;
    stage.back_by_the_director()?;
    more_addresses(stage)?;
    let mut turns = Turns { ipvs: open(stage)?, ports: PORTS, marked: MARKED };
    let limited = begin_limited(stage, &mut turns.ipvs)?;
    by_connections(stage, &mut turns).context("by connections")?;
    let random = at_random(stage, &mut turns).context("at random")?;
    by_weight(stage, &mut turns).context("by weight")?;
    by_destination(stage, &mut turns).context("by destination")?;
    by_source(stage, &mut turns).context("by source")?;
    end_limited(&mut turns.ipvs, limited).context("thresholds")?;
    stage.clear_the_director()?;
    Ok(format!("lc, wlc, sed, nq, fo, ovf, dh, lblc, lblcr, sh and mh, and thresholds; {random}"))
}

/// More addresses of the client and of the director, and a mark for what is sent to these.
fn more_addresses(stage: &Stage) -> Result<()> {
    let each =
        |ips: &[&str], on: &str| ips.iter().map(|ip| format!("ip addr replace {ip} dev {on}; ")).collect::<String>();
    sh(&stage.client, &(each(&CLIENTS, "eth0") + &each(&CLIENTS6, "eth0")))?;
    sh(&stage.router, "ip route replace 10.6.1.0/24 via 10.6.0.2; ip -6 route replace fd06:0:0:1::/64 via fd06::2")?;
    sh(&stage.director, &each(&DESTINATIONS, "eth0"))?;
    let rules = MARKED.map(|port| format!("add rule ip scheduled pre tcp dport {port} meta mark set {port}; "));
    sh(
        &stage.director,
        &format!(
            "nft 'add table ip scheduled; add chain ip scheduled pre {{ type filter hook prerouting priority mangle; }}; \
             flush table ip scheduled; {}'",
            rules.collect::<String>()
        ),
    )?;
    Ok(())
}

/// Those that look at the connections there are.
fn by_connections(stage: &Stage, turns: &mut Turns) -> Result<()> {
    let none = SchedulerFlags::default();
    // Round robin would go on in turn; these fill up what has become less. An expected delay counts the next connection too,
    // and so the heavier one is given two before the other has one; whoever never queues gives an idle one the next.
    for (scheduler, weights, first) in
        [("lc", [1, 1], [1, 1]), ("wlc", [3, 1], [1, 1]), ("nq", [3, 1], [1, 1]), ("sed", [3, 1], [2, 0])]
    {
        let (key, port) = turns.next(scheduler, weights, none, false)?;
        let to = at(VIP[0], port)?;
        let mut held = Held::new(stage);
        let went = held.many(to, 2)?;
        let counts = [0, 1].map(|who| went.iter().filter(|with| **with == who).count());
        ensure!(counts == first, "{scheduler} with {weights:?} gave the first two {went:?}");
        let more = held.many(to, 6)?;
        let all = [0, 1].map(|who| held.open.iter().filter(|(with, _)| *with == who).count());
        let share = if weights == [1, 1] { [4, 4] } else { [6, 2] };
        ensure!(all == share, "{scheduler} with {weights:?} shared out {all:?}, the last {more:?}");
        held.end(0, &mut turns.ipvs, &key)?;
        let again = held.many(to, share[0] - 1)?;
        ensure!(again.iter().all(|who| *who == 0), "{scheduler}: the idle one was not given the next {again:?}");
    }
    Ok(())
}

/// The better of two at random. Debian's kernel does not have it.
fn at_random(stage: &Stage, turns: &mut Turns) -> Result<&'static str> {
    if sh(&stage.director, "modprobe -q ip_vs_twos").is_err() {
        return Ok("twos NOT TRIED: this kernel has no ip_vs_twos");
    }
    let (_, port) = turns.next("twos", [1, 1], SchedulerFlags::default(), false)?;
    let went = Held::new(stage).many(at(VIP[0], port)?, 16)?;
    let first = went.iter().filter(|who| **who == 0).count();
    ensure!((3..=13).contains(&first), "twos gave {went:?}");
    Ok("twos")
}

/// Those that give to one as long as that can.
fn by_weight(stage: &Stage, turns: &mut Turns) -> Result<()> {
    let none = SchedulerFlags::default();
    for (weights, who) in [([1, 5], 1), ([5, 1], 0), ([0, 1], 1)] {
        let (_, port) = turns.next("fo", weights, none, false)?;
        let went = Held::new(stage).many(at(VIP[0], port)?, 4)?;
        ensure!(went == [who; 4], "fo with {weights:?} gave {went:?}");
    }
    // The kernel lets a server have one more than its weight says.
    let (key, port) = turns.next("ovf", [1, 2], none, false)?;
    let to = at(VIP[0], port)?;
    let mut held = Held::new(stage);
    let went = held.many(to, 5)?;
    ensure!(went == [1, 1, 1, 0, 0], "ovf gave {went:?}");
    ensure!(stage.ask(to, Duration::from_secs(2)).is_err(), "ovf gave more than all weights");
    held.end(1, &mut turns.ipvs, &key)?;
    ensure!(held.more(to)? == 1, "ovf does not go back to the heavier one");
    Ok(())
}

/// Those that keep a destination with its server: what several addresses of the director are, by their mark.
fn by_destination(stage: &Stage, turns: &mut Turns) -> Result<()> {
    let none = SchedulerFlags::default();
    let (_, port) = turns.next("dh", [1, 1], none, true)?;
    let mut used = BTreeSet::new();
    for ip in DESTINATIONS {
        let to = at(ip, port)?;
        let went = Held::new(stage).many(to, 3)?;
        ensure!(went == [went[0]; 3], "dh gave {to} to {went:?}");
        used.insert(went[0]);
    }
    ensure!(used.len() == 2, "dh gave all destinations to one");
    for scheduler in ["lblc", "lblcr"] {
        let (key, port) = turns.next(scheduler, [2, 2], none, true)?;
        let targets = [at(VIP[0], port)?, at(DESTINATIONS[0], port)?];
        let mut held = Held::new(stage);
        let went = held.many(targets[0], 3)?;
        let (with, other) = (went[0], 1 - went[0]);
        ensure!(went == [with; 3], "{scheduler} gave one destination to {went:?}");
        let moved = held.more(targets[0])?;
        ensure!(moved == other, "{scheduler} does not leave a server that has more than its weight");
        // The first has nothing to do any more: its destination is with the other one now, or with both.
        held.end(with, &mut turns.ipvs, &key)?;
        let next = held.more(targets[0])?;
        let expected = if scheduler == "lblc" { other } else { with };
        ensure!(next == expected, "{scheduler} gave the next to {}", NAMES[next]);
        if scheduler == "lblc" {
            let elsewhere = held.more(targets[1])?;
            ensure!(elsewhere == with, "lblc gave another destination to the one with more connections");
        }
    }
    Ok(())
}

/// Those that keep a client with its server.
fn by_source(stage: &Stage, turns: &mut Turns) -> Result<()> {
    let (none, ports) = (SchedulerFlags::default(), SchedulerFlags { second: true, ..SchedulerFlags::default() });
    let from = |client: SocketAddr, to| number(&stage.converse_from(client, to, PATIENCE)?.with);
    for scheduler in ["sh", "mh"] {
        let (_, port) = turns.next(scheduler, [1, 1], none, false)?;
        let to = at(VIP[0], port)?;
        let all = || CLIENTS.iter().map(|client| from(at(client, 0)?, to)).collect::<Result<Vec<_>>>();
        let (first, again) = (all()?, all()?);
        ensure!(first == again, "{scheduler} gave clients {first:?}, and then {again:?}");
        ensure!(first.contains(&0) && first.contains(&1), "{scheduler} gave all clients {first:?}");
        let (_, port) = turns.next(scheduler, [1, 1], ports, false)?;
        let to = at(VIP[0], port)?;
        let went = (20_001..20_009).map(|port| from(at(CLIENTS[0], port)?, to)).collect::<Result<Vec<_>>>()?;
        ensure!(went.contains(&0) && went.contains(&1), "{scheduler} by port gave one client {went:?}");
    }
    Ok(())
}

/// Clients of one net are one, and a client of another is another.
pub fn clients_that_count_as_one(stage: &mut Stage) -> Result<String> {
    stage.vips_on_the_director()?;
    stage.back_by_the_director()?;
    more_addresses(stage)?;
    let mut ipvs = open(stage)?;
    let mut table = Table::new();
    for (family, granularity) in
        [Granularity::Netmask([255, 255, 255, 0].into()), Granularity::Prefix(64)].into_iter().enumerate()
    {
        let mut all = Vec::new();
        for server in &SERVERS {
            all.push((Endpoint::from(at(server[family], 80)?), Server::new(Forwarding::Nat, 1)));
        }
        let mut one = service("rr", all);
        one.settings.persistence = Some(Persistence { timeout: PATIENCE, granularity, engine: None });
        table.insert(ServiceKey::Address(Protocol::Tcp, Endpoint::from(at(VIP[family], 80)?)), one);
    }
    make(&mut ipvs, &scope(), &table)?;
    let from = |client: &str, family: usize| -> Result<usize> {
        number(&stage.converse_from(at(client, 0)?, at(VIP[family], 80)?, PATIENCE)?.with)
    };
    let (near, far) = CLIENTS.split_at(4);
    let near = near.iter().map(|client| from(client, 0)).collect::<Result<Vec<_>>>()?;
    let far = far.iter().map(|client| from(client, 0)).collect::<Result<Vec<_>>>()?;
    ensure!(near == [near[0]; 4] && far == [1 - near[0]; 4], "two nets were given {near:?} and {far:?}");
    let six = ["fd06::2", CLIENTS6[0], CLIENTS6[1]].iter().map(|client| from(client, 1)).collect::<Result<Vec<_>>>()?;
    ensure!(six[0] == six[1] && six[1] != six[2], "three IPv6 clients of two nets were given {six:?}");
    Ok("of /24 and /64".to_owned())
}

/// Datagrams of one socket of the client go to its server, or each to the next.
pub fn datagrams_each_by_itself(stage: &mut Stage) -> Result<String> {
    stage.vips_on_the_director()?;
    // What no connection is remembered of is not translated back.
    stage.back_by_the_router()?;
    stage.vips_on_the_servers()?;
    let mut ipvs = open(stage)?;
    for one_packet in [false, true] {
        let mut table = Table::new();
        for (family, vip) in VIP.iter().enumerate() {
            let mut all = Vec::new();
            for server in &SERVERS {
                all.push((Endpoint::from(at(server[family], 80)?), Server::new(Forwarding::Direct, 1)));
            }
            let mut one = service("rr", all);
            one.settings.one_packet = one_packet;
            table.insert(ServiceKey::Address(Protocol::Udp, Endpoint::from(at(vip, 80)?)), one);
        }
        make(&mut ipvs, &scope(), &Table::new())?;
        make(&mut ipvs, &scope(), &table)?;
        for vip in VIP {
            let answers = stage.datagrams(at(vip, 80)?, 6)?;
            let first = answers.iter().filter(|name| **name == NAMES[0]).count();
            let fits = if one_packet { first == 3 } else { first == 0 || first == 6 };
            ensure!(fits, "one_packet = {one_packet}: {vip} answered {answers:?}");
        }
    }
    Ok("UDP over IPv4 and IPv6".to_owned())
}

/// SCTP, translated in both families.
pub fn sctp(stage: &mut Stage) -> Result<String> {
    stage.vips_on_the_director()?;
    stage.back_by_the_director()?;
    for host in stage.servers.iter().chain([&stage.client]) {
        sh(host, "modprobe sctp")?;
    }
    let mut ipvs = open(stage)?;
    let mut table = Table::new();
    for (family, vip) in VIP.iter().enumerate() {
        let mut all = Vec::new();
        for (server, name) in SERVERS.iter().zip(NAMES) {
            let address = at(server[family], 9899)?;
            stage.serve_sctp(address, name)?;
            all.push((Endpoint::from(address), Server::new(Forwarding::Nat, 1)));
        }
        table.insert(ServiceKey::Address(Protocol::Sctp, Endpoint::from(at(vip, 9899)?)), service("rr", all));
    }
    make(&mut ipvs, &scope(), &table)?;
    for (vip, own) in VIP.iter().zip(["10.6.0.2", "fd06::2"]) {
        let (to, own) = (at(vip, 9899)?, own.parse()?);
        let answers = (0..4).map(|_| stage.ask_by_sctp(own, to)).collect::<Result<Vec<_>>>()?;
        let counts = NAMES.map(|name| answers.iter().filter(|answer| *answer == name).count());
        ensure!(counts == [2, 2], "SCTP to {vip} was answered by {answers:?}");
    }
    Ok("over IPv4 and IPv6".to_owned())
}
