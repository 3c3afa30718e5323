//! Connections of a client, through every kind of forwarding and in both families.

use crate::stage::{NAMES, PATIENCE, SERVERS, Stage, VIP, sh};
use crate::table::{at, make, service};
use anyhow::{Context, Result, ensure};
use hamesh::ipvs::{
    Checksum, Endpoint, Forwarding, Granularity, Persistence, Protocol, Scope, Server, ServiceKey, Table, Tunnel,
};
use hamesh::kernel::ipvs::Ipvs;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Places in pairs of addresses.
const V4: usize = 0;
const V6: usize = 1;

fn vip(family: usize) -> Result<SocketAddr> {
    Ok(SocketAddr::new(VIP[family].parse()?, 80))
}

pub fn scope() -> Scope {
    Scope { addresses: VIP.map(|ip| ip.parse::<IpAddr>().expect("an address")).into(), ..Scope::default() }
}

fn endpoint(ip: &str) -> Result<Endpoint> {
    Ok(Endpoint { ip: ip.parse()?, port: 80 })
}

/// A service of each family for a protocol, with both servers.
fn both(protocol: Protocol, scheduler: &str, forwarding: Forwarding, weights: [u32; 2]) -> Result<Table> {
    let mut table = Table::new();
    for (family, vip) in VIP.iter().enumerate() {
        let mut servers = Vec::new();
        for (server, weight) in SERVERS.iter().zip(weights) {
            servers.push((endpoint(server[family])?, Server::new(forwarding, weight)));
        }
        table.insert(ServiceKey::Address(protocol, endpoint(vip)?), service(scheduler, servers));
    }
    Ok(table)
}

pub fn open(stage: &Stage) -> Result<Ipvs> {
    stage.director.netns().run(|| Ok(Ipvs::open()?))
}

/// Eight connections of each family are shared out evenly, and the kernel counts them, up to two seconds late.
fn serves(stage: &Stage, ipvs: &mut Ipvs, families: &[usize]) -> Result<()> {
    let mut counted = |family: usize| -> Result<Vec<u64>> {
        let key = ServiceKey::Address(Protocol::Tcp, endpoint(VIP[family])?);
        Ok(ipvs.servers(&key)?.iter().map(|(_, _, _, traffic)| traffic.connections).collect())
    };
    stage.counts_are_settled();
    let before = [counted(0)?, counted(1)?];
    for &family in families {
        let counts = stage.count(vip(family)?, 8).with_context(|| format!("to {}", VIP[family]))?;
        ensure!(counts == [4, 4], "{} shared out {counts:?}", VIP[family]);
    }
    for &family in families {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let new: Vec<u64> =
                counted(family)?.iter().zip(&before[family]).map(|(now, before)| now - before).collect();
            if new == [4, 4] {
                break;
            }
            ensure!(Instant::now() < deadline, "the kernel has counted {new:?} connections of 4 and 4");
            sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

pub fn nat(stage: &mut Stage) -> Result<String> {
    stage.vips_on_the_director()?;
    stage.back_by_the_director()?;
    let mut ipvs = open(stage)?;
    let mut table = both(Protocol::Tcp, "rr", Forwarding::Nat, [1, 1])?;
    table.append(&mut both(Protocol::Udp, "rr", Forwarding::Nat, [1, 1])?);
    make(&mut ipvs, &scope(), &table)?;
    serves(stage, &mut ipvs, &[V4, V6])?;
    for family in [V4, V6] {
        let answers = [stage.ask_by_datagram(vip(family)?)?, stage.ask_by_datagram(vip(family)?)?];
        ensure!(answers[0] != answers[1] && answers.iter().all(|a| NAMES.contains(&&**a)), "UDP: {answers:?}");
    }
    Ok("TCP and UDP over IPv4 and IPv6".to_owned())
}

pub fn direct(stage: &mut Stage) -> Result<String> {
    stage.vips_on_the_director()?;
    stage.back_by_the_router()?;
    stage.vips_on_the_servers()?;
    let mut ipvs = open(stage)?;
    make(&mut ipvs, &scope(), &both(Protocol::Tcp, "rr", Forwarding::Direct, [1, 1])?)?;
    serves(stage, &mut ipvs, &[V4, V6])?;
    Ok("TCP over IPv4 and IPv6".to_owned())
}

pub fn tunnels(stage: &mut Stage) -> Result<String> {
    stage.vips_on_the_director()?;
    for server in &stage.servers {
        // The devices that take whatever comes.
        sh(
            server,
            "modprobe -a ipip ip6_tunnel ip_gre ip6_gre fou fou6; ip fou add port 6080 gue; ip -6 fou add port 6080 gue; \
             for device in tunl0 ip6tnl0 gre0 ip6gre0; do ip link set $device up; \
             sysctl -qw net.ipv4.conf.$device.rp_filter=0; done",
        )?;
    }
    stage.back_by_the_router()?;
    stage.vips_on_the_servers()?;
    let mut ipvs = open(stage)?;
    let gue = |checksum| Tunnel::Gue { port: 6080, checksum };
    let gre = |checksum| Tunnel::Gre { checksum };
    let kinds = [
        Tunnel::Ipip,
        gre(Checksum::None),
        gre(Checksum::Full),
        gue(Checksum::None),
        gue(Checksum::Full),
        gue(Checksum::Remote),
    ];
    for kind in kinds {
        // What takes whatever comes takes no summed GRE.
        let summed = kind == gre(Checksum::Full);
        if summed {
            summed_gre(stage, "add")?;
        }
        make(&mut ipvs, &scope(), &both(Protocol::Tcp, "rr", Forwarding::Tunnel(kind), [1, 1])?)?;
        serves(stage, &mut ipvs, &[V4, V6]).with_context(|| format!("{kind:?}"))?;
        if summed {
            summed_gre(stage, "del")?;
        }
    }
    Ok("ipip, gre and gue over IPv4 and IPv6".to_owned())
}

/// Devices of the servers that take GRE with a checksum, and none without.
fn summed_gre(stage: &Stage, verb: &str) -> Result<()> {
    for (server, [v4, v6]) in stage.servers.iter().zip(SERVERS) {
        for (device, kind) in [("sum4", format!("gre local {v4}")), ("sum6", format!("ip6gre local {v6}"))] {
            let script = match verb {
                "add" => format!(
                    "ip link add {device} type {kind} icsum; ip link set {device} up; \
                     sysctl -qw net.ipv4.conf.{device}.rp_filter=0"
                ),
                _ => format!("ip link del {device}"),
            };
            sh(server, &script)?;
        }
    }
    Ok(())
}

pub fn weights(stage: &mut Stage) -> Result<String> {
    stage.vips_on_the_director()?;
    stage.back_by_the_director()?;
    let mut ipvs = open(stage)?;
    for (weights, shares) in [([3, 1], [15, 5]), ([1, 4], [4, 16]), ([0, 1], [0, 20])] {
        make(&mut ipvs, &scope(), &both(Protocol::Tcp, "wrr", Forwarding::Nat, weights)?)?;
        for family in [V4, V6] {
            let counts = stage.count(vip(family)?, 20)?;
            ensure!(counts == shares, "weights {weights:?} shared out {counts:?}");
        }
    }
    // With no server left a client is turned away.
    make(&mut ipvs, &scope(), &both(Protocol::Tcp, "wrr", Forwarding::Nat, [0, 0])?)?;
    ensure!(stage.ask(vip(0)?, Duration::from_secs(2)).is_err(), "a service without weight was answered");
    Ok(String::new())
}

pub fn persistence(stage: &mut Stage) -> Result<String> {
    stage.vips_on_the_director()?;
    stage.back_by_the_director()?;
    let mut ipvs = open(stage)?;
    let mut table = both(Protocol::Tcp, "rr", Forwarding::Nat, [1, 1])?;
    for (key, service) in &mut table {
        let granularity = Granularity::finest(key.family());
        service.settings.persistence = Some(Persistence { timeout: PATIENCE, granularity, engine: None });
    }
    make(&mut ipvs, &scope(), &table)?;
    for family in [V4, V6] {
        let counts = stage.count(vip(family)?, 8)?;
        ensure!(counts.contains(&8), "a persistent client was shared out {counts:?}");
    }
    let persistent: u32 =
        ipvs.servers(&ServiceKey::Address(Protocol::Tcp, at("10.5.0.100:80")))?.iter().map(|s| s.2.persistent).sum();
    ensure!(persistent == 1, "{persistent} clients are bound");
    Ok(String::new())
}
