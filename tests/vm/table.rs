//! What hamesh writes and what ipvsadm reads, and the other way round.

use crate::stage::sh;
use anyhow::{Context, Result, ensure};
use hamesh::ipvs::{
    Change, Checksum, Endpoint, Forwarding, Granularity, Persistence, Protocol, Scope, Server, Service, ServiceKey,
    Settings, Table, Tunnel, plan,
};
use hamesh::kernel::KernelError;
use hamesh::kernel::ipvs::{Ipvs, SyncDaemon, SyncRole, Timeouts};
use hamesh::lab::host::Host;
use hamesh_raft::command::Family;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

pub fn at(text: &str) -> Endpoint {
    Endpoint::from(text.parse::<SocketAddr>().expect("an address and port"))
}

pub fn address(protocol: Protocol, text: &str) -> ServiceKey {
    ServiceKey::Address(protocol, at(text))
}

pub fn service(scheduler: &str, servers: impl IntoIterator<Item = (Endpoint, Server)>) -> Service {
    Service { settings: Settings::new(scheduler), servers: servers.into_iter().collect() }
}

/// Makes the table of `scope` what is wanted, by a plan; says what was refused.
pub fn make(ipvs: &mut Ipvs, scope: &Scope, wanted: &Table) -> Result<()> {
    let present = ipvs.table(scope)?;
    let refused = ipvs.apply(&plan(&present, wanted));
    ensure!(refused.is_empty(), "refused: {}", list(&refused));
    ensure!(ipvs.table(scope)? == *wanted, "the table is not what was wanted");
    Ok(())
}

fn list(errors: &[KernelError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A host that has routes, without which the kernel takes no address for a server's; and its IPVS.
fn alone() -> Result<(Host, Ipvs)> {
    let host = Host::new("alone", Path::new("/tmp/table"))?;
    sh(
        &host,
        "ip link add eth0 type veth peer name eth1; ip link set eth0 up; ip link set eth1 up; \
        ip addr add 10.5.0.1/16 dev eth0; ip -6 addr add fd05::1/64 dev eth0 nodad",
    )?;
    let ipvs = host.netns().run(|| Ok(Ipvs::open()?))?;
    Ok((host, ipvs))
}

fn everything() -> Scope {
    Scope {
        addresses: ["10.5.0.100", "fd05::100"].map(|ip| ip.parse::<IpAddr>().expect("an address")).into(),
        marks: [(mark(7), Family::V4), (mark(8), Family::V6)].into(),
    }
}

fn mark(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("no mark is 0")
}

/// One of each thing that can be said.
fn one_of_each() -> Table {
    let nat = |weight| Server::new(Forwarding::Nat, weight);
    let direct = |weight| Server::new(Forwarding::Direct, weight);
    let tunnel = |tunnel| Server::new(Forwarding::Tunnel(tunnel), 1);
    let gue = |port, checksum| tunnel(Tunnel::Gue { port, checksum });
    let mut hashed = service("mh", [(at("10.5.0.12:443"), direct(1))]);
    (hashed.settings.flags.first, hashed.settings.flags.second) = (true, true);
    let mut sip = service("rr", [(at("10.5.0.12:5060"), nat(1))]);
    sip.settings.one_packet = true;
    let persistence = |seconds, granularity, engine: Option<&str>| {
        let (timeout, engine) = (Duration::from_secs(seconds), engine.map(str::to_owned));
        Some(Persistence { timeout, granularity, engine })
    };
    sip.settings.persistence = persistence(30, Granularity::finest(Family::V4), Some("sip"));
    let mut all_ports = service("wlc", [(at("10.5.0.12:0"), nat(1))]);
    all_ports.settings.persistence = persistence(360, Granularity::Netmask(Ipv4Addr::new(255, 255, 255, 0)), None);
    let mut marked = service("sh", [(at("[fd05::12]:0"), direct(2))]);
    marked.settings.persistence = persistence(60, Granularity::Prefix(64), None);
    marked.settings.flags.second = true;
    Table::from([
        (
            address(Protocol::Tcp, "10.5.0.100:80"),
            service(
                "wrr",
                [
                    (at("10.5.0.12:8080"), Server { forwarding: Forwarding::Nat, weight: 3, upper: 100, lower: 10 }),
                    (at("10.5.0.13:8080"), nat(0)),
                    (at("10.5.0.14:80"), tunnel(Tunnel::Ipip)),
                    (at("10.5.0.15:80"), gue(6080, Checksum::None)),
                    (at("10.5.0.16:80"), gue(6081, Checksum::Full)),
                    (at("10.5.0.17:80"), gue(6082, Checksum::Remote)),
                    (at("10.5.0.18:80"), tunnel(Tunnel::Gre { checksum: Checksum::None })),
                    (at("10.5.0.19:80"), tunnel(Tunnel::Gre { checksum: Checksum::Full })),
                    (at("[fd05::20]:80"), tunnel(Tunnel::Ipip)),
                ],
            ),
        ),
        (address(Protocol::Tcp, "10.5.0.100:0"), all_ports),
        (address(Protocol::Tcp, "10.5.0.100:443"), hashed),
        (address(Protocol::Udp, "10.5.0.100:5060"), sip),
        (address(Protocol::Sctp, "10.5.0.100:9899"), service("lc", [])),
        (address(Protocol::Tcp, "[fd05::100]:80"), service("fo", [(at("[fd05::12]:80"), nat(2_147_483_647))])),
        (address(Protocol::Udp, "[fd05::100]:53"), service("sed", [(at("[fd05::13]:53"), direct(1))])),
        (ServiceKey::Mark(mark(7), Family::V4), service("ovf", [(at("10.5.0.12:0"), direct(5))])),
        (ServiceKey::Mark(mark(8), Family::V6), marked),
    ])
}

/// What `ipvsadm -Sn` says of it, sorted.
const SAVED: &str = "\
-A --sctp-service 10.5.0.100:9899 -s lc
-A -f 7 -s ovf
-A -f 8 -6 -s sh -p 60 -M 64 -b sh-port
-A -t 10.5.0.100:0 -s wlc -p 360 -M 255.255.255.0
-A -t 10.5.0.100:443 -s mh -b mh-fallback,mh-port
-A -t 10.5.0.100:80 -s wrr
-A -t [fd05::100]:80 -s fo
-A -u 10.5.0.100:5060 -s rr -p 30 --pe sip -o
-A -u [fd05::100]:53 -s sed
-a -f 7 -r 10.5.0.12:0 -g -w 5
-a -f 8 -6 -r [fd05::12]:0 -g -w 2
-a -t 10.5.0.100:0 -r 10.5.0.12:0 -m -w 1
-a -t 10.5.0.100:443 -r 10.5.0.12:443 -g -w 1
-a -t 10.5.0.100:80 -r 10.5.0.12:8080 -m -w 3
-a -t 10.5.0.100:80 -r 10.5.0.13:8080 -m -w 0
-a -t 10.5.0.100:80 -r 10.5.0.14:80 -i -w 1 --tun-type ipip
-a -t 10.5.0.100:80 -r 10.5.0.15:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum
-a -t 10.5.0.100:80 -r 10.5.0.16:80 -i -w 1 --tun-type gue --tun-port 6081 --tun-csum
-a -t 10.5.0.100:80 -r 10.5.0.17:80 -i -w 1 --tun-type gue --tun-port 6082 --tun-remcsum
-a -t 10.5.0.100:80 -r 10.5.0.18:80 -i -w 1 --tun-type gre --tun-nocsum
-a -t 10.5.0.100:80 -r 10.5.0.19:80 -i -w 1 --tun-type gre --tun-csum
-a -t 10.5.0.100:80 -r [fd05::20]:80 -i -w 1 --tun-type ipip
-a -t [fd05::100]:80 -r [fd05::12]:80 -m -w 2147483647
-a -u 10.5.0.100:5060 -r 10.5.0.12:5060 -m -w 1
-a -u [fd05::100]:53 -r [fd05::13]:53 -g -w 1
";

/// What `ipvsadm -Ln` says of it, and of thresholds, sorted.
const LISTED: &str = "\
\x20 -> 10.5.0.12:0                  Masq    1      0          0
\x20 -> 10.5.0.12:0                  Route   5      0          0
\x20 -> 10.5.0.12:443                Route   1      0          0
\x20 -> 10.5.0.12:5060               Masq    1      0          0
\x20 -> 10.5.0.12:8080               100        10         0          0
\x20 -> 10.5.0.12:8080               Masq    3      0          0
\x20 -> 10.5.0.13:8080               0          0          0          0
\x20 -> 10.5.0.13:8080               Masq    0      0          0
\x20 -> 10.5.0.14:80                 Tunnel  1      0          0
\x20 -> 10.5.0.15:80                 Tunnel  1      0          0
\x20 -> 10.5.0.16:80                 Tunnel  1      0          0
\x20 -> 10.5.0.17:80                 Tunnel  1      0          0
\x20 -> 10.5.0.18:80                 Tunnel  1      0          0
\x20 -> 10.5.0.19:80                 Tunnel  1      0          0
\x20 -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
\x20 -> [fd05::12]:0                 Route   2      0          0
\x20 -> [fd05::12]:80                Masq    2147483647 0          0
\x20 -> [fd05::13]:53                Route   1      0          0
\x20 -> [fd05::20]:80                Tunnel  1      0          0
FWM  7 ovf
FWM  8 IPv6 sh (sh-port) persistent 60 mask 64
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
SCTP 10.5.0.100:9899 lc
TCP  10.5.0.100:0 wlc persistent 360 mask 255.255.255.0
TCP  10.5.0.100:443 mh (mh-fallback,mh-port)
TCP  10.5.0.100:80 wrr
TCP  [fd05::100]:80 fo
UDP  10.5.0.100:5060 rr persistent 30 pe sip ops
UDP  [fd05::100]:53 sed
";

pub fn is_what_ipvsadm_shows(_: &mut ()) -> Result<String> {
    let (host, mut ipvs) = alone()?;
    make(&mut ipvs, &everything(), &one_of_each())?;
    let saved = sorted(&sh(&host, "ipvsadm -Sn")?);
    ensure!(saved == SAVED, "ipvsadm -Sn says\n{saved}");
    let listed = sorted(&sh(&host, "ipvsadm -Ln; ipvsadm -Ln --thresholds | grep 8080")?);
    ensure!(listed == LISTED, "ipvsadm -Ln says\n{listed}");
    Ok(format!("{} services of every kind", one_of_each().len()))
}

pub fn what_ipvsadm_restores_is_the_same_table(_: &mut ()) -> Result<String> {
    let (host, mut ipvs) = alone()?;
    let mut wanted = one_of_each();
    make(&mut ipvs, &everything(), &wanted)?;
    sh(&host, "ipvsadm -Sn >/tmp/saved; ipvsadm -C")?;
    ensure!(ipvs.table(&everything())?.is_empty(), "ipvsadm -C left something");
    sh(&host, "ipvsadm -R </tmp/saved")?;
    // ipvsadm saves no thresholds.
    let servers = wanted.values_mut().flat_map(|service| service.servers.values_mut());
    servers.for_each(|server| (server.upper, server.lower) = (0, 0));
    ensure!(ipvs.table(&everything())? == wanted, "ipvsadm restored another table");
    Ok(String::new())
}

pub fn a_plan_is_carried_out_and_leaves_others_alone(_: &mut ()) -> Result<String> {
    let (host, mut ipvs) = alone()?;
    sh(&host, "ipvsadm -A -t 10.5.0.99:80 -s rr; ipvsadm -a -t 10.5.0.99:80 -r 10.5.0.12:80 -m")?;
    make(&mut ipvs, &everything(), &one_of_each())?;
    // Every setting, weight and kind of forwarding becomes another one, some servers and services go, and others come.
    let mut other = one_of_each();
    let gone = address(Protocol::Tcp, "10.5.0.100:443");
    other.remove(&gone).context("was there")?;
    other.insert(address(Protocol::Udp, "10.5.0.100:443"), service("twos", []));
    for service in other.values_mut() {
        service.settings.scheduler = "lblcr".to_owned();
        service.settings.persistence = None;
        service.settings.one_packet = false;
        service.settings.flags = hamesh::ipvs::SchedulerFlags { first: false, second: false, third: true };
        service.servers.pop_first();
        for server in service.servers.values_mut() {
            server.weight = 77;
            server.forwarding = Forwarding::Tunnel(Tunnel::Gue { port: 9, checksum: Checksum::Full });
        }
    }
    // A service for every port must be persistent.
    let all_ports = address(Protocol::Tcp, "10.5.0.100:0");
    other.remove(&all_ports).context("was there")?;
    make(&mut ipvs, &everything(), &other)?;
    make(&mut ipvs, &everything(), &one_of_each())?;
    make(&mut ipvs, &everything(), &Table::new())?;
    let left = sh(&host, "ipvsadm -Sn")?;
    ensure!(left.lines().count() == 2 && left.contains("-A -t 10.5.0.99:80"), "somebody else's service: {left}");
    Ok(String::new())
}

pub fn a_refusal_names_its_change_and_stops_nothing(_: &mut ()) -> Result<String> {
    let (_host, mut ipvs) = alone()?;
    let (first, second) = (address(Protocol::Tcp, "10.5.0.100:1"), address(Protocol::Tcp, "10.5.0.100:2"));
    let server = Server::new(Forwarding::Nat, 1);
    let changes = [
        Change::AddServer(first, at("10.5.0.12:1"), server),
        Change::AddService(first, Settings::new("nonesuch")),
        Change::AddService(second, Settings::new("rr")),
        Change::AddServer(second, at("224.0.0.1:1"), server),
        Change::AddService(second, Settings::new("rr")),
    ];
    let refused = ipvs.apply(&changes);
    ensure!(refused.len() == 4, "refused: {}", list(&refused));
    for (change, error) in [&changes[0], &changes[1], &changes[3], &changes[4]].into_iter().zip(&refused) {
        ensure!(error.to_string().starts_with(&change.to_string()), "{change} was refused as {error}");
    }
    let table = ipvs.table(&everything())?;
    ensure!(table.keys().eq([&second]), "what was possible is not done");
    Ok(list(&refused[..1]))
}

pub fn timeouts_and_synchronization(_: &mut ()) -> Result<String> {
    let (host, mut ipvs) = alone()?;
    let seconds = Duration::from_secs;
    let timeouts = Timeouts { tcp: seconds(800), tcp_fin: seconds(60), udp: seconds(200) };
    ipvs.set_timeouts(timeouts)?;
    ensure!(ipvs.timeouts()? == timeouts, "the timeouts are {:?}", ipvs.timeouts()?);
    let said = sh(&host, "ipvsadm -Ln --timeout")?;
    ensure!(said.contains("800 60 200"), "ipvsadm says {said}");
    let daemon = |role, id| SyncDaemon {
        role,
        interface: "eth0".to_owned(),
        id,
        // What the kernel takes where nothing is said: an Ethernet frame's worth, and what the manual of ipvsadm has.
        longest: Some(1472),
        group: Some([224, 0, 0, 81].into()),
        port: Some(8848),
        ttl: Some(1),
    };
    let both = [daemon(SyncRole::Master, 51), daemon(SyncRole::Backup, 52)];
    for daemon in both.clone() {
        ipvs.start_sync(&SyncDaemon { longest: None, group: None, port: None, ttl: None, ..daemon })?;
    }
    ensure!(ipvs.sync_daemons()? == both, "running: {:?}", ipvs.sync_daemons()?);
    let said = sh(&host, "ipvsadm -Ln --daemon")?;
    ensure!(said.contains("master sync daemon (mcast=eth0, syncid=51"), "ipvsadm says {said}");
    ipvs.stop_sync(SyncRole::Master)?;
    ensure!(ipvs.sync_daemons()? == both[1..], "running: {:?}", ipvs.sync_daemons()?);
    ipvs.stop_sync(SyncRole::Backup)?;
    ipvs.stop_sync(SyncRole::Backup).context("one that does not run is stopped")?;
    Ok(String::new())
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.sort_unstable();
    lines.iter().map(|line| format!("{line}\n")).collect()
}
