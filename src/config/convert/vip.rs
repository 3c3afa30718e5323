//! VIP groups, and those that move together.

use super::{key, quoted, seconds};
use crate::config::notify;
use crate::config::track::{ARGUMENTS, Delays, Process, Track, Tracked};
use crate::config::{SyncGroup, VipGroup};
use crate::vrrp::checksum::Form;
use crate::vrrp::unicast::{Peer, Unicast};
use crate::vrrp::{Auth, LegacyPeers, Version};
use hamesh_raft::command::Family;
use std::net::IpAddr;

pub(super) fn show_group(name: &str, group: &VipGroup, node: &str) -> String {
    // Every field, so that a new one is not forgotten here.
    let VipGroup {
        interface,
        family,
        vrid,
        version,
        interval,
        addresses,
        excluded,
        placings,
        priority,
        accept,
        nopreempt,
        auth,
        hmac,
        checksum,
        legacy_peers,
        // keepalived does not know it.
        localnode: _,
        source,
        unicast,
        multicast,
        timing,
        pace,
        track,
        notify: told,
        virtual_mac,
        plain_adverts,
        needs_interface,
        routing,
        sync: _,
        quorum_loss: _,
    } = group;
    let list = |addresses: &[(IpAddr, u8)]| {
        let beside = |ip| placings.get(ip).map(ToString::to_string).unwrap_or_default();
        let texts: Vec<_> =
            addresses.iter().map(|(ip, length)| quoted(format!("{ip}/{length}{}", beside(ip)))).collect();
        texts.join(", ")
    };
    let mut text = format!("\n[vip.{}]\ninterface = {}\nvrid = {vrid}\n", key(name), quoted(interface));
    let mut line = |line: String| text += &(line + "\n");
    line(format!("version = {}", version.number()));
    line(format!("advertisement_interval = {}", seconds(*interval)));
    line(format!("addresses = [{}]", list(addresses)));
    if !excluded.is_empty() {
        line(format!("excluded_addresses = [{}]", list(excluded)));
    }
    if let Some(priority) = priority {
        line(format!("priority = {{ {} = {priority} }}", key(node)));
    }
    if !accept {
        line("accept = false".to_owned());
    }
    if *nopreempt {
        line("nopreempt = true".to_owned());
    }
    if (*checksum, *version, *family) == (Form::Plain, Version::V3, Family::V4) {
        line("checksum = \"plain\"".to_owned());
    }
    if let Some(device) = virtual_mac {
        line(format!("virtual_mac = {}", quoted(device)));
    }
    if *plain_adverts {
        line("plain_adverts = true".to_owned());
    }
    if !needs_interface {
        line("needs_interface = false".to_owned());
    }
    notify::show_group(told, |text| quoted(text)).into_iter().for_each(&mut line);
    if let LegacyPeers::Only(peers) = legacy_peers {
        line(format!("legacy_peers = [{}]", peers.iter().map(quoted).collect::<Vec<_>>().join(", ")));
    }
    if let Some(source) = source {
        line(format!("source = {{ {} = {} }}", key(node), quoted(source)));
    }
    if let Some(unicast) = unicast {
        line(format!("unicast = {}", show_unicast(unicast)));
    }
    if let Some(group) = multicast {
        line(format!("multicast = {}", quoted(group)));
    }
    crate::config::timing::show(timing, seconds).into_iter().for_each(&mut line);
    if let Some(pace) = pace {
        line(format!("pace = {}", quoted(pace)));
    }
    crate::config::route::show(routing, quoted).into_iter().for_each(&mut line);
    if !track.is_empty() {
        line(format!("track = [{}]", track.iter().map(show_track).collect::<Vec<_>>().join(", ")));
    }
    if let Some(hmac) = hmac {
        line(crate::config::hmac::show(name, hmac, quoted));
    }
    match auth {
        Auth::None => {}
        Auth::Pass(_) | Auth::Ah(_) => {
            let kind = if matches!(auth, Auth::Ah(_)) { "ah_file" } else { "pass_file" };
            let file = quoted(format!("{name}.pass"));
            line(format!("authentication = {{ {kind} = {file} }}   # write its auth_pass to this file, mode 0600"));
        }
    }
    text
}

/// What it tracks is written with each of its groups.
pub(super) fn show_sync(name: &str, SyncGroup { vips, notify: told }: &SyncGroup) -> String {
    let vips: Vec<_> = vips.iter().map(quoted).collect();
    let mut text = format!("\n[sync.{}]\nvips = [{}]\n", key(name), vips.join(", "));
    text.extend(notify::show_group(told, |text| quoted(text)).map(|line| line + "\n"));
    text
}

fn show_unicast(Unicast { peers, check_source, ttl }: &Unicast) -> String {
    let peers = peers.iter().map(|Peer { address, min_ttl, max_ttl }| {
        format!("{{ address = {}, min_ttl = {min_ttl}, max_ttl = {max_ttl} }}", quoted(address))
    });
    format!("{{ peers = [{}], check_source = {check_source}, ttl = {ttl} }}", peers.collect::<Vec<_>>().join(", "))
}

fn show_track(Track { what, weight, reverse }: &Track) -> String {
    let what = match what {
        Tracked::Interface(name) => format!("interface = {}", quoted(name)),
        Tracked::Script(name) => format!("script = {}", quoted(name)),
        Tracked::File(path) => format!("file = {}", quoted(path.display())),
        Tracked::Bfd(name) => format!("bfd = {}", quoted(name)),
        Tracked::Process(process) => show_process(process),
    };
    format!("{{ {what}, weight = {weight}, reverse = {reverse} }}")
}

fn show_process(process: &Process) -> String {
    let Process { command, arguments, least, most, delays: Delays { down, up } } = process;
    let command: Vec<_> = command.iter().map(quoted).collect();
    let arguments = ARGUMENTS.iter().find(|(_, these)| these == arguments).map_or("any", |(word, _)| word);
    let most = most.map(|most| format!(", most = {most}")).unwrap_or_default();
    format!(
        "process = [{}], arguments = {}, least = {least}{most}, down_delay = {}, up_delay = {}",
        command.join(", "),
        quoted(arguments),
        seconds(*down),
        seconds(*up)
    )
}
