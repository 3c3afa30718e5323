//! The sessions' thread: hears and speaks for them, and shows how they are to those who go by them.

use crate::bfd::{Datagram, SessionStatus, Sessions};
use crate::config::Config;
use crate::net::authority::random;
use crate::net::bfd::{Ear, Voice};
use anyhow::Context;
use futures_util::future::select_all;
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::Family;
use nix::net::if_::if_indextoname;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::sleep;

/// How the sessions are, for all who go by them.
pub(crate) type Board = watch::Receiver<Vec<SessionStatus>>;

/// So many datagrams of one socket are taken before it is the turn of something else.
const TURN: usize = 64;
/// While nothing is due.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the thread, where there are sessions.
///
/// # Errors
/// A port is not to be had, or the system gives no thread.
pub(crate) fn start(config: &Config) -> anyhow::Result<Board> {
    let (show, board) = watch::channel(Vec::new());
    if config.bfd.is_empty() {
        return Ok(board);
    }
    let mut ears = Vec::new();
    let ports: BTreeSet<_> =
        config.bfd.values().map(|session| (session.neighbour.is_ipv6(), session.multihop)).collect();
    for (six, multihop) in ports {
        let ear = Ear::bind(if six { Family::V6 } else { Family::V4 }, multihop);
        let taken = "cannot listen for BFD: is another BFD daemon running on this host?";
        ears.push((ear.context(taken)?, multihop));
    }
    let sessions = Sessions::new(Moment::now(), &config.bfd, u64::from_ne_bytes(random()?));
    let voices = config.bfd.iter().map(|(name, settings)| (name.clone(), Voice::new(settings))).collect();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("bfd".to_owned());
    thread.spawn(move || {
        if let Err(error) = runtime.block_on(run(sessions, ears, voices, show)) {
            tracing::error!(%error, "BFD has ended: its sessions stay as they were");
        }
    })?;
    Ok(board)
}

async fn run(
    mut sessions: Sessions,
    ears: Vec<(UdpSocket, bool)>,
    mut voices: BTreeMap<String, Voice>,
    show: watch::Sender<Vec<SessionStatus>>,
) -> std::io::Result<()> {
    let ears: Vec<Ear> =
        ears.into_iter().map(|(socket, multihop)| Ear::listen(socket, multihop)).collect::<Result<_, _>>()?;
    loop {
        let mut out = Vec::new();
        // Before the time is looked at: what was heard while this thread had to wait is no silence.
        for ear in &ears {
            hear(ear, &mut sessions, &mut out);
        }
        out.extend(sessions.tick(Moment::now()));
        for (name, packet) in out {
            if let Some(voice) = voices.get_mut(&name) {
                voice.send(&name, &packet);
            }
        }
        tell(sessions.status(), &show);
        let now = Moment::now();
        let pause = sessions.next_deadline().map_or(PAUSE, |deadline| now.until(deadline));
        tokio::select! {
            _ = select_all(ears.iter().map(|ear| Box::pin(ear.ready()))) => {}
            () = sleep(pause) => {}
        }
    }
}

fn hear(ear: &Ear, sessions: &mut Sessions, out: &mut Vec<crate::bfd::Send>) {
    let mut buffer = [0; 256];
    for _ in 0..TURN {
        let heard = match ear.try_receive(&mut buffer) {
            Ok(Some(heard)) => heard,
            Ok(None) => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // The kernel's word about an earlier packet.
            Err(error) => {
                tracing::debug!(%error, "a BFD socket");
                continue;
            }
        };
        let is_local = matches!(heard.source, IpAddr::V6(six) if six.is_unicast_link_local());
        let interface = is_local.then(|| if_indextoname(heard.interface).ok()).flatten();
        let datagram = Datagram {
            multihop: ear.multihop,
            source: heard.source,
            interface: interface.as_ref().and_then(|name| name.to_str().ok()),
            destination: heard.destination,
            ttl: heard.ttl,
            payload: &buffer[..heard.length],
        };
        match sessions.receive(Moment::now(), &datagram) {
            Ok(packets) => out.extend(packets),
            Err(why) => tracing::debug!(source = %heard.source, ?why, "a BFD packet is discarded"),
        }
    }
}

fn tell(fresh: Vec<SessionStatus>, show: &watch::Sender<Vec<SessionStatus>>) {
    show.send_if_modified(|shown| {
        for session in fresh.iter().filter(|session| session.up.is_some()) {
            if !shown.iter().any(|before| before.name == session.name && before.up == session.up) {
                let why = session.why.as_deref().unwrap_or("-");
                tracing::info!(session = session.name, state = session.state, why, "BFD");
            }
        }
        let changed = *shown != fresh;
        *shown = fresh;
        changed
    });
}
