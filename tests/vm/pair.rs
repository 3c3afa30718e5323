//! Whole nodes, which serve under the lease and only then.

use crate::clocks::{HOUR, YEARS, step};
use crate::cluster::{Cluster, DRAIN, HERE, LEASE, MARK, SHORTLY, SORRY, vip};
use crate::stage::{MORE, NAMES, SERVERS, VIP, sh};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Services and servers of the holder: two with a sorry server, one of the directors themselves, one of SCTP, and a group's.
const ALL: (usize, usize) = (7, 13);
const NONE: (usize, usize) = (0, 0);

/// What `ipvsadm -Sn` says of it, sorted.
const SAVED: &str = "\
-A --sctp-service 10.5.0.100:9899 -s wlc
-A -f 7 -s rr
-A -t 10.5.0.100:80 -s rr
-A -t 10.5.0.101:80 -s rr
-A -t 10.5.0.102:80 -s rr
-A -t 10.5.0.104:80 -s rr
-A -t [fd05::100]:80 -s rr
-a --sctp-service 10.5.0.100:9899 -r 10.5.0.12:9899 -m -w 1
-a -f 7 -r 10.5.0.12:80 -g -w 1
-a -f 7 -r 10.5.0.13:80 -g -w 1
-a -t 10.5.0.100:80 -r 10.5.0.12:80 -g -w 1
-a -t 10.5.0.100:80 -r 10.5.0.13:80 -g -w 1
-a -t 10.5.0.101:80 -r 10.5.0.12:80 -g -w 1
-a -t 10.5.0.101:80 -r 10.5.0.13:80 -g -w 1
-a -t 10.5.0.102:80 -r 10.5.0.12:80 -g -w 1
-a -t 10.5.0.102:80 -r 10.5.0.13:80 -g -w 1
-a -t 10.5.0.104:80 -r 10.5.0.1:80 -g -w 1
-a -t 10.5.0.104:80 -r 10.5.0.2:80 -g -w 1
-a -t [fd05::100]:80 -r [fd05::12]:80 -g -w 1
-a -t [fd05::100]:80 -r [fd05::13]:80 -g -w 1
";

/// The first director holds everything, and serves.
fn home(cluster: &mut Cluster) -> Result<()> {
    cluster.until("the whole table on lb1", |c| Ok(c.programmed(0)? == ALL))?;
    cluster.until("service by lb1", |c| c.serves(0, NAMES))?;
    Ok(())
}

pub fn holder(cluster: &mut Cluster) -> Result<String> {
    home(cluster)?;
    let mut saved: Vec<String> = sh(cluster.host(0), "ipvsadm -Sn")?.lines().map(|l| l.trim_end().to_owned()).collect();
    saved.sort_unstable();
    let saved: String = saved.iter().map(|line| format!("{line}\n")).collect();
    ensure!(saved == SAVED, "ipvsadm -Sn says\n{saved}");
    let thresholds = sh(cluster.host(0), "ipvsadm -Ln --thresholds")?;
    ensure!(thresholds.contains("10.5.0.12:9899               100        10"), "thresholds are\n{thresholds}");
    for (number, role) in [(0, "master"), (1, "backup")] {
        let said = sh(cluster.host(number), "ipvsadm -Ln --timeout; ipvsadm -Ln --daemon")?;
        ensure!(said.contains("800 60 200"), "the timeouts are {said}");
        let other = if role == "master" { "backup" } else { "master" };
        let daemon = format!("{role} sync daemon (mcast=eth0, syncid=51");
        ensure!(said.contains(&daemon) && !said.contains(&format!("{other} sync")), "{role}: {said}");
    }
    ensure!(cluster.programmed(1)? == NONE, "the other has {:?}", cluster.programmed(1)?);
    Ok(format!("{} services as ipvsadm -Sn has them, timeouts and sync daemons", ALL.0))
}

pub fn group(cluster: &mut Cluster) -> Result<String> {
    home(cluster)?;
    for ip in MORE {
        let at = std::net::SocketAddr::new(ip.parse()?, 80);
        let counts = cluster.stage.count(at, 4)?;
        ensure!(counts == [2, 2], "{at} was shared out {counts:?}");
    }
    Ok(format!("a group of two addresses, and what has the mark {MARK}"))
}

pub fn repair(cluster: &mut Cluster) -> Result<String> {
    home(cluster)?;
    let before = cluster.metric(0, "hamesh_ipvs_repaired_total")?;
    sh(cluster.host(0), "ipvsadm -C")?;
    let repaired = cluster.until("a table that is put right", |c| Ok(c.programmed(0)? == ALL))?;
    sh(cluster.host(0), "ipvsadm -a -t 10.5.0.100:80 -r 10.5.0.99:80 -g; ipvsadm -d -f 7 -r 10.5.0.12:80")?;
    cluster.until("strange servers that go", |c| Ok(c.programmed(0)? == ALL && c.weights(0)?.len() == 2))?;
    let counted = f64::from(u32::try_from(ALL.0 + ALL.1)?) + 2.0;
    cluster.until("a count of all of it", |c| {
        let now = c.metric(0, "hamesh_ipvs_repaired_total")?;
        ensure!(now == before + counted, "{now} after {before}");
        Ok(true)
    })?;
    Ok(format!("ipvsadm -C put right after {} ms, {counted} changes counted", repaired.as_millis()))
}

pub fn death(cluster: &mut Cluster) -> Result<String> {
    home(cluster)?;
    cluster.stage.set_serving(1, false);
    let one = (ALL.0, ALL.1 - 2);
    let gone = cluster.until("a dead server that leaves", |c| Ok(c.programmed(0)? == one))?;
    ensure!(cluster.serves(0, [NAMES[0]; 2])?, "the other does not serve");
    cluster.stage.set_serving(0, false);
    cluster.until("the sorry server", |c| c.serves(0, [SORRY; 2]))?;
    (0..2).for_each(|server| cluster.stage.set_serving(server, true));
    home(cluster)?;
    Ok(format!("a dead server out after {} ms, then the sorry server, and back", gone.as_millis()))
}

pub fn drain(cluster: &mut Cluster) -> Result<String> {
    home(cluster)?;
    let mut both = [cluster.stage.converse(vip(0), SHORTLY)?, cluster.stage.converse(vip(0), SHORTLY)?];
    both.sort_by(|a, b| a.with.cmp(&b.with));
    let at = format!("{}:80", SERVERS[1][0]);
    let [s1, s2] = SERVERS.map(|server| server[0].to_owned());
    let (full, zero) = ((s1, 1), (s2, 0));
    cluster.command(0, &["service", "drain", "web", &at])?;
    cluster.until("weight 0", |c| Ok(c.weights(0)? == [full.clone(), zero.clone()]))?;
    let begun = Instant::now();
    let counts = cluster.stage.count(vip(0), 4)?;
    ensure!(counts == [4, 0], "new connections went to {counts:?}");
    both.iter_mut().try_for_each(|conversation| conversation.goes_on()).context("an established connection")?;
    cluster.until("a drained server that leaves", |c| Ok(c.weights(0)? == [full.clone()]))?;
    ensure!(begun.elapsed() + SHORTLY > DRAIN, "it left after {:?}", begun.elapsed());
    both[0].goes_on().context("a connection of the other server")?;
    cluster.command(0, &["service", "weight", "web", &at, "5"])?;
    cluster.until("another weight", |c| Ok(c.weights(0)?.last() == Some(&(zero.0.clone(), 5))))?;
    cluster.command(0, &["service", "disable", "web", &at])?;
    cluster.until("a disabled server that leaves", |c| Ok(c.weights(0)? == [full.clone()]))?;
    cluster.command(0, &["service", "enable", "web", &at])?;
    home(cluster)?;
    Ok("established connections go on, new ones go elsewhere; weight, disable, enable".to_owned())
}

/// The wall clock of all three is set, forth and back: nothing moves, and the table stays.
pub fn clock(cluster: &mut Cluster) -> Result<String> {
    home(cluster)?;
    let lease = |cluster: &Cluster| -> Result<String> {
        let vip = &cluster.status(0)?["vips"][0];
        Ok(format!("{}: session {}, token {}", vip["holder"], vip["session"], vip["token"]))
    };
    let before = lease(cluster)?;
    for by in [-HOUR, HOUR, -YEARS, YEARS] {
        step(by)?;
        // A renewal under the new time.
        sleep(LEASE / 3);
        let served = cluster.serves(0, NAMES);
        step(-by)?;
        ensure!(
            served.with_context(|| format!("with a clock off by {by} s"))?,
            "not by lb1, with a clock off by {by} s"
        );
    }
    sleep(LEASE / 3);
    let after = lease(cluster)?;
    ensure!(before == after, "{before}, and then {after}");
    home(cluster)?;
    Ok(format!("a clock set by an hour and by 20 years, forth and back, moves nothing; {after}"))
}

/// How long services of a lost lease may be there. What is built for debugging, and emulated, is slow.
const LEFT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1000 } else { 100 });
/// An emulated machine whose host does something else is late whatever runs in it: the best of so many counts.
const TRIES: usize = 4;

/// The holder runs on and loses its lease.
pub fn lease(cluster: &mut Cluster) -> Result<String> {
    let mut late = Vec::new();
    while late.len() < TRIES && late.iter().all(|late| *late >= LEFT) {
        home(cluster)?;
        let lost = lost(cluster);
        // Whatever has come of it: the next cases are not to begin behind this.
        sh(cluster.host(0), "nft delete table inet cut")?;
        late.push(lost?);
    }
    home(cluster)?;
    ensure!(late.iter().any(|late| *late < LEFT), "services of a lost lease were there for {late:?}");
    let tries: Vec<String> = late.iter().map(|late| late.as_millis().to_string()).collect();
    Ok(format!("services gone {} ms after the lease's end; connections of both families outlive it", tries.join(", ")))
}

fn lost(cluster: &mut Cluster) -> Result<Duration> {
    let mut talks = [cluster.stage.converse(vip(0), SHORTLY)?, cluster.stage.converse(vip(1), SHORTLY)?];
    // The kernel tells of a connection once it has had three packets.
    talks.iter_mut().try_for_each(|talk| (0..3).try_for_each(|_| talk.goes_on()))?;
    sh(
        cluster.host(0),
        "nft 'add table inet cut; add chain inet cut in { type filter hook input priority 0; }; \
         add rule inet cut in udp dport 7112-7113 drop; add rule inet cut in udp sport 7112-7113 drop; \
         add chain inet cut out { type filter hook output priority 0; }; add rule inet cut out udp dport 7112-7113 drop'",
    )?;
    // An ack may have been on its way; the last figure is the one that counts.
    let mut end = Instant::now();
    loop {
        let asked = Instant::now();
        let Some(left) = cluster.status(0)?["vips"][0]["lease_remaining_ms"].as_u64() else { break };
        end = asked + Duration::from_millis(left);
        if left < 1000 {
            break;
        }
        sleep(Duration::from_millis(100));
    }
    cluster.until("services of a lost lease that go", |c| Ok(c.programmed(0)? == NONE))?;
    let late = Instant::now().saturating_duration_since(end);
    cluster.until("service by lb2", |c| c.serves(1, NAMES))?;
    for talk in &mut talks {
        talk.goes_on().context("a connection over a takeover")?;
    }
    Ok(late)
}

pub fn crash(cluster: &mut Cluster) -> Result<String> {
    home(cluster)?;
    cluster.kill(0)?;
    let taken = cluster.until("service by lb2", |c| c.serves(1, NAMES))?;
    ensure!(cluster.programmed(0)? == ALL, "a killed director's services are gone, and nobody removed them");
    ensure!(!cluster.answers_by_mac(0, VIP[0])?, "a killed director answers without a lease");
    cluster.start(0)?;
    cluster.until("services of a killed run that go first", |c| Ok(c.programmed(0)? == NONE))?;
    home(cluster)?;
    Ok(format!(
        "taken over after {} ms, unreachable on the killed one, and removed by its next start",
        taken.as_millis()
    ))
}

pub fn freeze(cluster: &mut Cluster) -> Result<String> {
    home(cluster)?;
    cluster.signal(0, Signal::SIGSTOP)?;
    sleep(LEASE);
    let taken = cluster.until("service by lb2", |c| c.serves(1, NAMES));
    let answers = cluster.answers_by_mac(0, VIP[0]);
    cluster.signal(0, Signal::SIGCONT)?;
    taken?;
    ensure!(!answers?, "a frozen director answers without a lease");
    let gone = cluster.until("services of a lost lease that go", |c| Ok(c.programmed(0)? == NONE))?;
    home(cluster)?;
    Ok(format!("services gone {} ms after it woke", gone.as_millis()))
}

/// The directors are real servers themselves, the one that holds the VIP and the one that does not.
pub fn localnode(cluster: &mut Cluster) -> Result<String> {
    home(cluster)?;
    let _serving = [cluster.stage.serve(cluster.host(0), "lb1")?, cluster.stage.serve(cluster.host(1), "lb2")?];
    let at = std::net::SocketAddr::new(HERE.parse()?, 80);
    cluster.until("an answer of each director", |c| {
        let mut answers = (0..4).map(|_| c.stage.ask(at, SHORTLY)).collect::<Result<Vec<_>>>()?;
        answers.sort();
        ensure!(answers == ["lb1", "lb1", "lb2", "lb2"], "{answers:?}");
        Ok(true)
    })?;
    ensure!(!cluster.answers_by_mac(1, HERE)?, "the other director answers somebody who is no director");
    Ok("a director that does not hold the VIP serves what the holder forwards, and nobody else".to_owned())
}

pub fn stop(cluster: &mut Cluster) -> Result<String> {
    home(cluster)?;
    cluster.stop(0)?;
    ensure!(cluster.programmed(0)? == NONE, "a director that was stopped left {:?}", cluster.programmed(0)?);
    ensure!(sh(cluster.host(0), "ipvsadm -Ln --daemon")?.trim().is_empty(), "it left a sync daemon");
    cluster.until("service by lb2", |c| c.serves(1, NAMES))?;
    Ok(String::new())
}
