//! Hostile adverts, as fast as one host can send them: nothing that fails validation, and nothing of a router that is not
//! obeyed, moves a state or a timer, and each reason is counted. What is obeyed and lower is answered, and not multiplied.

use super::{ADVERT, PATIENCE, Stage};
use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::{GROUP, cluster_toml};
use hamesh::lab::legacy::{Auth, Dialect};
use hamesh::lab::scene::{PRIORITIES, routers};
use hamesh::lab::{LAN_NIC, VRID};
use hamesh::vrrp::advert::Format;
use hamesh::vrrp::ah::Authentication;
use hamesh::vrrp::checksum::{self, Form};
use hamesh::vrrp::{self, Password, Version};
use hamesh_raft::command::Family;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PLAIN: u8 = 112;
/// Nobody's.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 16));
/// The port of the metrics in the laboratory.
const METRICS: u16 = 9746;

/// What is sent, and what it is counted as: by a reason to discard it, or as heard.
struct Shot {
    counted: &'static str,
    packet: Vec<u8>,
    to: IpAddr,
}

/// Where the packets claim to come from and go to.
struct Range {
    legacy: IpAddr,
    master: IpAddr,
    member: IpAddr,
    /// All routers.
    all: IpAddr,
}

pub fn judged(dialect: Dialect, seconds: u64, dir: &Path) -> Result<String> {
    let toml = cluster_toml(dialect, &PRIORITIES) + "legacy_peers = []\n";
    let stage = Stage::set(dialect, &toml, dir)?;
    let range = Range::find(dialect);
    let shots = range.table(dialect);
    let (begun, counted, from) = (stage.calm()?, stage.counters(0)?, Instant::now());
    let sent = stage.shoot(&shots, Duration::from_secs(seconds))?;
    let to = Instant::now();
    let said = stage.cluster.command(0, &["status"])?;
    ensure!(said.contains("is discarded: "), "status shows no stranger: {said}");
    let spacing = stage.undisturbed(from, to)?;
    ensure!(stage.stands()? == begun, "the lease or a state has moved: {begun:?} became {:?}", stage.stands()?);
    sleep(Duration::from_secs(2));
    let after = stage.counters(0)?;
    for shot in &shots {
        let grown = |counters: &BTreeMap<String, u64>| counters.get(shot.counted).copied().unwrap_or(0);
        ensure!(grown(&after) > grown(&counted), "`{}` was not counted: {after:?}", shot.counted);
    }
    Ok(format!("{sent} packets of {} kinds in {seconds} s moved nothing; adverts {spacing}", shots.len()))
}

/// The highest priority, of a router that would be obeyed, without the trailer that its virtual router asks for.
pub fn unsigned(seconds: u64, dir: &Path) -> Result<String> {
    let key = dir.join("trailer.key");
    fs::write(&key, format!("hex:{}\n", "5a".repeat(32)))?;
    let keys = format!("authentication = {{ hmac_files = {{ 1 = \"{}\" }}, active = 1 }}\n", key.display());
    let stage = Stage::set(Dialect::V3, &(cluster_toml(Dialect::V3, &PRIORITIES) + &keys), dir)?;
    let range = Range::find(Dialect::V3);
    let message = format(Dialect::V3).encode(255, range.legacy, range.all);
    let packet = packet(range.legacy, range.all, 255, PLAIN, &message);
    let shots = [Shot { counted: "unsigned", packet, to: range.all }];
    let (begun, counted, from) = (stage.calm()?, stage.counters(1)?, Instant::now());
    let sent = stage.shoot(&shots, Duration::from_secs(seconds))?;
    stage.undisturbed(from, Instant::now())?;
    ensure!(stage.stands()? == begun, "the lease or a state has moved: {begun:?} became {:?}", stage.stands()?);
    sleep(Duration::from_secs(2));
    let after = stage.counters(1)?;
    let grown = |name: &str| after.get(name).copied().unwrap_or(0) - counted.get(name).copied().unwrap_or(0);
    ensure!(grown("unsigned") > 0, "lb2 has not counted them: {after:?}");
    ensure!(grown("heard") >= seconds / 2, "lb2 does not hear the MASTER, which signs: {after:?}");
    for name in ["digest", "replay", "clock", "key", "auth_header"] {
        ensure!(grown(name) == 0, "lb2 discards what the MASTER signs: {after:?}");
    }
    Ok(format!("{sent} claims without a trailer moved nothing, {} adverts with one were heard", grown("heard")))
}

/// A lower router outside the mesh, which is obeyed, claims as fast as it can.
pub fn not_multiplied(seconds: u64, dir: &Path) -> Result<String> {
    let stage = Stage::set(Dialect::V3, &cluster_toml(Dialect::V3, &PRIORITIES), dir)?;
    let range = Range::find(Dialect::V3);
    let message = format(Dialect::V3).encode(1, range.legacy, range.all);
    let packet = packet(range.legacy, range.all, 255, PLAIN, &message);
    let shots = [Shot { counted: "heard", packet, to: range.all }];
    let (begun, from) = (stage.calm()?, Instant::now());
    let sent = stage.shoot(&shots, Duration::from_secs(seconds))?;
    let to = Instant::now();
    ensure!(stage.stands()? == begun, "the lease or a state has moved");
    let answers = stage.adverts_of("lb1", from, to).len();
    // Four a second, and what was on its way.
    ensure!(answers as u64 <= seconds * 4 + 4, "{answers} answers in {seconds} s");
    Ok(format!("{sent} lower claims in {seconds} s got {answers} answers"))
}

fn format(dialect: Dialect) -> Format {
    let version = if dialect.version == 2 { Version::V2 } else { Version::V3 };
    let password = Password::cut(Dialect::PASSWORD);
    let auth = match dialect.auth {
        Auth::None => vrrp::Auth::None,
        Auth::Pass => vrrp::Auth::Pass(password),
        Auth::Ah => vrrp::Auth::Ah(password),
    };
    let (checksum, addresses) = (Form::Pseudo, vec![dialect.vip().0]);
    let family = Family::of(dialect.vip().0);
    Format { family, version, vrid: VRID, interval: ADVERT, auth, checksum, addresses, unicast: None }
}

/// The kernel fills in the length, the identification and the checksum of version 4.
fn packet(source: IpAddr, to: IpAddr, ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, to) {
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
            let head = [0x6c, 0, 0, 0, length[0], length[1], protocol, ttl];
            [&head, &source.octets()[..], &to.octets(), payload].concat()
        }
        (source, to) => {
            let head = [0x45, 0xc0, 0, 0, 0, 0, 0, 0, ttl, protocol, 0, 0];
            let octets = |ip: IpAddr| if let IpAddr::V4(ip) = ip { ip.octets() } else { [0; 4] };
            [&head, &octets(source)[..], &octets(to), payload].concat()
        }
    }
}

/// The message with some bytes changed, and a checksum that is right for them.
fn changed(message: &[u8], source: IpAddr, to: IpAddr, form: Form, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut message = message.to_vec();
    change(&mut message);
    message[6..8].fill(0);
    let sum = checksum::of(form, &message, source, to);
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    message
}

impl Range {
    fn find(dialect: Dialect) -> Self {
        let (legacy, [master, member, _]) = routers(dialect.ipv6);
        let all = if dialect.ipv6 { vrrp::ROUTERS_V6.into() } else { vrrp::ROUTERS_V4.into() };
        Self { legacy, master, member, all }
    }

    /// Every way to be wrong, with the priority of an owner of the addresses.
    fn table(&self, dialect: Dialect) -> Vec<Shot> {
        let (from, format) = (self.legacy, format(dialect));
        let all = self.all;
        let to = if dialect.unicast { self.master } else { all };
        let form = if dialect.version == 2 { Form::Plain } else { Form::Pseudo };
        let right = format.encode(255, from, to);
        let shot = |counted, source, to, ttl, message: &[u8]| Shot {
            counted,
            packet: packet(source, to, ttl, PLAIN, message),
            to,
        };
        let wrong = |counted, change: &dyn Fn(&mut Vec<u8>)| {
            shot(counted, from, to, 255, &changed(&right, from, to, form, |message| change(message)))
        };
        if dialect.auth == Auth::Ah {
            return self.authenticated(&right);
        }
        let mut shots = vec![
            shot("checksum", from, to, 255, &[&right[..7], &[!right[7]], &right[8..]].concat()),
            shot("short", from, to, 255, &right[..7]),
            wrong("length", &|message| message.extend([0; 28])),
            wrong("length", &|message| message[3] = 2),
            wrong("type", &|message| message[0] = (message[0] & 0xf0) | 2),
            wrong("version", &|message| message[0] = 0x11),
        ];
        if dialect.version == 2 {
            shots.push(wrong("interval", &|message| message[5] = 2));
        } else {
            shots.push(wrong("interval", &|message| message[4..6].fill(0)));
        }
        if dialect.auth == Auth::Pass {
            let another = Format { auth: vrrp::Auth::Pass(Password::cut("another")), ..format.clone() };
            shots.push(shot("password", from, to, 255, &another.encode(255, from, to)));
            shots.push(wrong("auth_type", &|message| message[4] = 0));
        }
        if dialect.unicast {
            shots.push(shot("destination", from, all, 255, &format.encode(255, from, all)));
            shots.push(shot("source", STRANGER, to, 255, &format.encode(255, STRANGER, to)));
            return shots;
        }
        shots.push(shot("ttl", from, to, 254, &right));
        shots.push(shot("destination", from, self.master, 255, &format.encode(255, from, self.master)));
        // Right in every way, and of nobody who is obeyed; and of a member, whom no MASTER yields to.
        let stop = format.encode(0, from, to);
        shots.extend([right.clone(), stop].map(|message| shot("heard", from, to, 255, &message)));
        shots.push(wrong("heard", &|message| message[8] ^= 1));
        shots.push(shot("heard", self.member, to, 255, &format.encode(255, self.member, to)));
        if dialect.version == 3 {
            shots.push(wrong("heard", &|message| message[4..6].copy_from_slice(&[0x0f, 0xff])));
        }
        shots
    }

    fn authenticated(&self, message: &[u8]) -> Vec<Shot> {
        let (from, all) = (self.legacy, self.all);
        let (IpAddr::V4(source), IpAddr::V4(to)) = (from, all) else { return Vec::new() };
        let seal = |key: &str| Authentication::new(Password::cut(key), 0).seal(source, to, 255, message);
        let mut header = seal(Dialect::PASSWORD);
        header[24] ^= 1;
        let plain = packet(from, all, 255, PLAIN, message);
        [
            ("auth_type", plain),
            ("digest", seal("another")),
            ("replay", seal(Dialect::PASSWORD)),
            ("auth_header", header),
        ]
        .map(|(counted, packet)| Shot { counted, packet, to: all })
        .into()
    }
}

impl Stage {
    /// As [`Self::stands`], once those who have just started have heard the MASTER.
    fn calm(&self) -> Result<Vec<(String, Option<u64>)>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stands = self.stands()?;
            if stands.iter().map(|(state, _)| state.as_str()).eq(["MASTER", "BACKUP", "BACKUP"]) {
                return Ok(stands);
            }
            ensure!(Instant::now() < deadline, "the directors do not come to rest: {stands:?}");
            sleep(ADVERT / 20);
        }
    }

    /// Who holds the VIP by which token, and every director's state.
    fn stands(&self) -> Result<Vec<(String, Option<u64>)>> {
        (0..PRIORITIES.len())
            .map(|node| {
                let status = self.cluster.status(node)?;
                let vip = status.vip().context("no such VIP")?;
                Ok((vip.state.clone(), vip.token))
            })
            .collect()
    }

    /// Sends from the legacy peer's host for a while, all shots in turn. Returns how many.
    fn shoot(&self, shots: &[Shot], span: Duration) -> Result<u64> {
        self.scene.legacy.netns().run(|| {
            // With headers of its own, in either family.
            let ipv6 = shots.first().is_some_and(|shot| shot.to.is_ipv6());
            let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255)))?;
            let (legacy, nic) = (Range::find(self.dialect).legacy, nix::net::if_::if_nametoindex(LAN_NIC)?);
            if let IpAddr::V4(legacy) = legacy {
                socket.set_multicast_ttl_v4(255)?;
                socket.set_multicast_if_v4(&legacy)?;
            } else {
                socket.set_multicast_if_v6(nic)?;
            }
            let address = |to: IpAddr| match to {
                IpAddr::V4(_) => SockAddr::from(SocketAddr::new(to, 0)),
                IpAddr::V6(to) => SockAddr::from(SocketAddrV6::new(to, 0, 0, nic)),
            };
            let (begun, mut sent) = (Instant::now(), 0);
            while begun.elapsed() < span {
                for shot in shots {
                    match socket.send_to(&shot.packet, &address(shot.to)) {
                        Ok(_) => sent += 1,
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                        Err(error) => return Err(error).context("sending"),
                    }
                }
            }
            Ok(sent)
        })
    }

    fn adverts_of(&self, host: &str, from: Instant, to: Instant) -> Vec<Instant> {
        let adverts = self.scene.observer.adverts(from, to).into_iter().filter(|advert| advert.host == host);
        let mut times: Vec<Instant> = adverts.map(|advert| advert.at).collect();
        // Copies for several peers are one.
        times.dedup_by(|later, earlier| later.duration_since(*earlier) < ADVERT / 100);
        times
    }

    /// The MASTER advertises at its pace, and nobody else does. Returns how far apart its adverts are.
    fn undisturbed(&self, from: Instant, to: Instant) -> Result<String> {
        let own = |host: &str| self.adverts_of(host, from, to);
        for other in ["lb2", "lb3"] {
            ensure!(own(other).is_empty(), "{other} advertised");
        }
        let times = own("lb1");
        let seconds = to.duration_since(from).as_secs();
        ensure!(
            times.len() as u64 + 2 >= seconds && times.len() as u64 <= seconds + 2,
            "{} adverts in {seconds} s",
            times.len()
        );
        let mut apart: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        apart.sort_unstable();
        let longest = apart.last().copied().unwrap_or_default();
        ensure!(longest < ADVERT * 3 / 2, "no advert for {} ms", longest.as_millis());
        let most = apart.get((apart.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
        // Of fewer the machine's own pauses would be judged.
        ensure!(apart.len() < 100 || most < ADVERT * 11 / 10, "adverts are {} ms apart at p99", most.as_millis());
        Ok(format!("{} ms apart at p99, {} at most", most.as_millis(), longest.as_millis()))
    }

    /// Packets discarded by reason, and those heard.
    fn counters(&self, node: usize) -> Result<BTreeMap<String, u64>> {
        let page = self.scene.directors[node].host.netns().run(|| {
            let address = SocketAddr::from(([127, 0, 0, 1], METRICS));
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            Ok(page)
        })?;
        let mine = page.lines().filter(|line| line.contains(&format!("vip=\"{GROUP}\"")));
        let counter = |line: &str| {
            let value = line.rsplit_once(' ')?.1.parse().ok()?;
            if line.starts_with("hamesh_vrrp_adverts_heard_total") {
                return Some(("heard".to_owned(), value));
            }
            let reason = line.strip_prefix("hamesh_vrrp_discarded_total")?.split_once("reason=\"")?.1;
            Some((reason.split_once('"')?.0.to_owned(), value))
        };
        Ok(mine.filter_map(counter).collect())
    }
}
