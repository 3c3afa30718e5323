//! What a service makes of servers that come and go: which of them are balanced to and with what weight, whether it has its quorum,
//! whom it tells, and that the metrics say the same.

use crate::{DIRECTORS, PATIENCE, Pool, metrics, show};
use anyhow::{Result, ensure};
use hamesh::health::ServiceStatus;
use hamesh::lab::cluster::Cluster;
use hamesh::lab::host::Host;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Of a server that comes back.
const SLOW_START: Duration = Duration::from_secs(4);
/// The director that is stopped.
const LAST: usize = DIRECTORS - 1;
const KEPT: [u16; 2] = [8011, 8012];
const SLOW: [u16; 2] = [8013, 8014];
const ALPHA: [u16; 2] = [8015, 8016];
const VOTES: [u16; 5] = [8021, 8022, 8023, 8024, 8025];

/// Services of a director whose scripts write into this file.
fn services(told: &str) -> String {
    let service = |name: &str, port: u16, ports: &[u16], more: &str| {
        let tell = |port: &u16, what: &str| command(told, &format!("{port} {what}"));
        let server = |port: &u16| {
            let (up, down) = (tell(port, "up"), tell(port, "down"));
            format!("{{ address = \"10.77.0.15:{port}\", weight = 1, notify_up = {up}, notify_down = {down} }}")
        };
        let servers: Vec<String> = ports.iter().map(server).collect();
        format!(
            "\n[service.{name}]\nvip = \"web\"\nlisten = \"10.77.0.100:{port}\"\nforwarding = \"nat\"\nserver = [{}]\n\
             check = {{ tcp = {{}}, interval = \"300ms\", timeout = \"300ms\", fall = 2, rise = 1 }}\n{more}\n",
            servers.join(", ")
        )
    };
    let slow = format!("slow_start = \"{}s\"", SLOW_START.as_secs());
    let votes = format!(
        "quorum = 3\nhysteresis = 1\nomega = true\nsorry_server = \"10.77.0.15:9\"\nquorum_up = {}\nquorum_down = {}",
        command(told, "quorum up"),
        command(told, "quorum down")
    );
    service("kept", 81, &KEPT, "inhibit_on_failure = true")
        + &service("slow", 82, &SLOW, &slow).replace("weight = 1,", "weight = 100,")
        + &service("alpha", 83, &ALPHA, "alpha = true")
        + &service("votes", 84, &VOTES, &votes)
}

fn command(file: &str, words: &str) -> String {
    format!("{{ command = [\"/bin/sh\", \"-c\", \"echo {words} >> {file}\"] }}")
}

/// Where the scripts of a director write.
fn told(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.cluster_file(node).with_file_name("scripts")
}

struct Stage<'a> {
    cluster: &'a Cluster,
    /// The machine of the first director.
    first: &'a Host,
    pool: &'a mut Pool,
}

impl Stage<'_> {
    /// What the scripts of a director have written about ports like this, or of the quorum.
    fn heard(&self, node: usize, about: &str) -> String {
        let text = fs::read_to_string(told(self.cluster, node)).unwrap_or_default();
        text.lines().filter(|line| line.starts_with(about)).collect::<Vec<_>>().join(", ")
    }

    fn reload(&self, node: usize, text: &str, with: bool) -> Result<()> {
        let more = if with { services(&told(self.cluster, node).display().to_string()) } else { String::new() };
        fs::write(self.cluster.cluster_file(node), text.to_owned() + &more)?;
        self.cluster.command(node, &["reload"]).map(drop)
    }

    /// Waits until this holds of a service on every director.
    fn until(&self, name: &str, what: &str, holds: impl Fn(&ServiceStatus) -> bool) -> Result<Duration> {
        let began = Instant::now();
        for node in 0..DIRECTORS {
            loop {
                let shown = show(self.cluster, node, name)?;
                if holds(&shown) {
                    break;
                }
                ensure!(began.elapsed() < PATIENCE, "{what}: not on {}: {shown:?}", self.cluster.name(node));
                sleep(Duration::from_millis(20));
            }
        }
        Ok(began.elapsed())
    }

    /// Waits until the scripts of every director have told this of a quorum or a server, and nothing else.
    fn until_told(&self, about: &str, lines: &str) -> Result<()> {
        let began = Instant::now();
        for node in 0..DIRECTORS {
            while self.heard(node, about) != lines {
                let heard = self.heard(node, about);
                ensure!(began.elapsed() < PATIENCE, "{} told {heard:?}, and not {lines:?}", self.cluster.name(node));
                sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// The weights with which a service's servers are balanced to, those that are not left out.
fn balanced(service: &ServiceStatus) -> Vec<Option<u32>> {
    service.servers.iter().map(|server| server.balanced).collect()
}

fn states(service: &ServiceStatus) -> Vec<&str> {
    service.servers.iter().map(|server| server.state.as_str()).collect()
}

/// `text` is the cluster's, whose services stay. Returns how many things were seen.
pub fn story(cluster: &mut Cluster, first: &Host, pool: &mut Pool, text: &str) -> Result<u32> {
    let mut stage = Stage { cluster, first, pool };
    // One of the alpha servers is not there yet.
    stage.pool.serve(&[&KEPT[..], &SLOW, &ALPHA[1..], &VOTES].concat())?;
    for node in 0..DIRECTORS {
        stage.reload(node, text, true)?;
    }
    stage.until("kept", "both are there", |shown| states(shown) == ["up"; 2] && balanced(shown) == [Some(1); 2])?;
    stage.until("slow", "both are there", |shown| states(shown) == ["up"; 2] && balanced(shown) == [Some(100); 2])?;
    stage
        .until("votes", "all are there", |shown| states(shown) == ["up"; 5] && shown.quorum && shown.sorry.is_none())?;
    stage.until("alpha", "one is there", |shown| {
        states(shown) == ["down", "up"] && balanced(shown) == [None, Some(1)]
    })?;
    metrics::agree(cluster, first)?;
    alpha(&mut stage)?;
    inhibited(&mut stage)?;
    slow_start(&mut stage)?;
    votes(&mut stage)?;
    farewell(cluster)?;
    let stage = Stage { cluster, first, pool };
    for node in 0..LAST {
        stage.reload(node, text, false)?;
    }
    metrics::agree(cluster, first)?;
    println!("the metrics of services and servers are those of the status, also when some are configured no more");
    Ok(6)
}

/// A server that was never seen up is not served, and what was never up did not go down.
fn alpha(stage: &mut Stage<'_>) -> Result<()> {
    for node in 0..DIRECTORS {
        ensure!(stage.heard(node, "8015").is_empty(), "told of one that was never up: {}", stage.heard(node, "8015"));
    }
    stage.pool.serve(&ALPHA[..1])?;
    stage.until("alpha", "both", |shown| states(shown) == ["up"; 2] && balanced(shown) == [Some(1); 2])?;
    stage.until_told("8015", "8015 up")?;
    println!("an alpha server is not served until it was seen up, and then told of");
    Ok(())
}

/// A server that is down keeps its connections.
fn inhibited(stage: &mut Stage<'_>) -> Result<()> {
    stage.pool.fail(KEPT[0]);
    stage.until("kept", "one is kept", |shown| {
        states(shown) == ["down", "up"] && balanced(shown) == [Some(0), Some(1)]
    })?;
    stage.until_told("8011", "8011 down")?;
    metrics::agree(stage.cluster, stage.first)?;
    stage.pool.serve(&KEPT[..1])?;
    stage.until("kept", "both", |shown| balanced(shown) == [Some(1); 2])?;
    stage.until_told("8011", "8011 down, 8011 up")?;
    println!("with inhibit_on_failure a server that is down has weight 0, and no less");
    Ok(())
}

/// The weight of a server that comes back grows: no step is a leap, and none goes back.
fn slow_start(stage: &mut Stage<'_>) -> Result<()> {
    stage.pool.fail(SLOW[0]);
    stage.until("slow", "one is out", |shown| balanced(shown) == [None, Some(100)])?;
    stage.pool.serve(&SLOW[..1])?;
    let (mut weights, began): (Vec<u32>, Instant) = (Vec::new(), Instant::now());
    let mut since = None;
    while weights.last() != Some(&100) {
        let shown = show(stage.cluster, 0, "slow")?;
        ensure!(began.elapsed() < PATIENCE, "it has not its whole weight: {weights:?}");
        if let Some(weight) = balanced(&shown)[0] {
            since.get_or_insert_with(Instant::now);
            weights.push(weight);
        }
        ensure!(balanced(&shown)[1] == Some(100), "the other one weighs {:?}", balanced(&shown)[1]);
        sleep(Duration::from_millis(20));
    }
    let took = since.map(|since| since.elapsed()).unwrap_or_default();
    let mut steps = weights.clone();
    steps.dedup();
    ensure!(weights.is_sorted() && weights[0] <= 25 && steps.len() >= 6, "it grew in these steps: {steps:?}");
    ensure!(took + Duration::from_secs(1) > SLOW_START, "it had its whole weight after {took:?}");
    println!("with slow_start a server's weight grew in {} steps over {:.1} s", steps.len(), took.as_secs_f32());
    Ok(())
}

/// Hysteresis holds the quorum both ways; whoever is told is told in order, at a stop of what was up too.
fn votes(stage: &mut Stage<'_>) -> Result<()> {
    let down = |count: usize| {
        move |shown: &ServiceStatus| states(shown).iter().filter(|state| **state == "down").count() == count
    };
    for port in &VOTES[..3] {
        stage.pool.fail(*port);
    }
    stage.until("votes", "three are out", |shown| {
        down(3)(shown) && shown.quorum && balanced(shown) == [None, None, None, Some(1), Some(1)]
    })?;
    stage.pool.fail(VOTES[3]);
    stage.until("votes", "the quorum is lost", |shown| {
        down(4)(shown) && !shown.quorum && shown.sorry == Some(1) && balanced(shown) == [None; 5]
    })?;
    stage.until_told("quorum", "quorum down")?;
    metrics::agree(stage.cluster, stage.first)?;
    stage.pool.serve(&VOTES[..2])?;
    stage.until("votes", "three are not enough", |shown| down(2)(shown) && !shown.quorum && shown.sorry == Some(1))?;
    sleep(Duration::from_secs(1));
    stage.until_told("quorum", "quorum down")?;
    stage.pool.serve(&VOTES[2..3])?;
    stage.until("votes", "the quorum is back", |shown| {
        down(1)(shown) && shown.quorum && shown.sorry.is_none() && balanced(shown).iter().flatten().count() == 4
    })?;
    stage.until_told("quorum", "quorum down, quorum up")?;
    stage.until_told("8021", "8021 down, 8021 up")?;
    stage.until_told("8024", "8024 down")?;
    println!("a quorum of 3 with hysteresis 1 is lost with 1, back with 4, and told of once each way");

    Ok(())
}

/// With omega a stop tells of what was up as if it went down; of another service nothing.
fn farewell(cluster: &mut Cluster) -> Result<()> {
    let file = told(cluster, LAST);
    let before = fs::read_to_string(&file)?.lines().count();
    cluster.stop(LAST)?;
    let text = fs::read_to_string(&file)?;
    let mut lines: Vec<&str> = text.lines().skip(before).collect();
    // Each in its order, and side by side.
    lines.sort_unstable();
    ensure!(lines == ["8021 down", "8022 down", "8023 down", "8025 down", "quorum down"], "a stop has told {lines:?}");
    println!("a stop tells of what was up, where it is omega");
    Ok(())
}
