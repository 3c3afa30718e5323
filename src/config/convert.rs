//! A keepalived.conf as a cluster.toml that means the same.
//!
//! What is written is the model that both files are read into, so nothing can be carried that the model has not, and what
//! the model has and cluster.toml cannot say is an error. A keepalived.conf is one machine's and a cluster.toml every
//! machine's: the priority is written for the one machine.

use super::check::{Check, Probe, RECORDS};
use super::diagnostic::{Diagnostic, Errors, Log, Place, Severity, Source};
use super::service::Server;
use super::track::{Script, Track, Tracked};
use super::{Service, VipGroup, group, keepalived, service, unreadable};
use crate::ipvs::{Forwarding, Tunnel};
use crate::vrrp::checksum::Form;
use crate::vrrp::{Auth, Version};
use hamesh_raft::command::Family;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// The text of a cluster.toml, for the node of this name, with what was noted as comments. Passwords are not in it: it
/// names the files to write them to, and says so.
///
/// # Errors
/// What is wrong with the file, or cannot be said in cluster.toml.
pub fn convert(path: &Path, node: Option<&str>) -> Result<String, Errors> {
    let log = Log::default();
    let source = match Source::read(path) {
        Ok(source) => source,
        Err(error) => return unreadable(path, &error, log),
    };
    let setting = keepalived::Setting::of_this_machine();
    let node = node.map_or_else(|| setting.id.to_lowercase(), str::to_owned);
    let (groups, services, scripts) = keepalived::read(&source, &setting, &log);
    group::check(&groups, None, &log);
    let services: BTreeMap<_, _> =
        services.into_iter().filter_map(|service| service::build(service, &groups, &log)).collect();
    let groups: BTreeMap<_, _> = groups.into_iter().filter_map(group::Draft::build).collect();
    for (name, service) in &services {
        let forwardings = service.servers.iter().map(|server| server.forwarding);
        if forwardings.chain(service.sorry_server.map(|sorry| sorry.1)).any(|way| forwarding(way).is_none()) {
            let message = format!("cluster.toml has no gue or gre tunnels, which `{name}` uses");
            let error = Diagnostic::error(&Place::file(&source), message);
            log.add(error.help("name the file as `keepalived_config` in hamesh.toml instead"));
        }
    }
    log.finish(|notes| {
        let mut text = format!("# From {}.\n", path.display());
        for note in notes.iter().filter(|note| note.severity == Severity::Warning) {
            let (line, column) = note.place.line_column();
            text += &format!("# {}:{line}:{column}: {}\n", note.place.source.path.display(), note.message);
        }
        text += "# This file is for every node: add to each `priority` what the files of the others have.\n";
        groups.iter().for_each(|(name, group)| text += &show_group(name, group, &node));
        scripts.iter().for_each(|(name, script)| text += &show_script(name, script));
        services.iter().for_each(|(name, service)| text += &show_service(name, service));
        Some(text)
    })
}

/// A key or a word of text, quoted where it must be.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if bare { name.to_owned() } else { quoted(name) }
}

fn quoted(text: impl ToString) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn seconds(duration: Duration) -> String {
    let text = format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos());
    format!("\"{}s\"", text.trim_end_matches('0').trim_end_matches('.'))
}

fn show_group(name: &str, group: &VipGroup, node: &str) -> String {
    // Every field, so that a new one is not forgotten here.
    let VipGroup {
        interface,
        family,
        vrid,
        version,
        interval,
        addresses,
        priority,
        nopreempt,
        auth,
        checksum,
        legacy_peers: _,
        timing,
        track,
        virtual_mac,
    } = group;
    let addresses: Vec<_> = addresses.iter().map(|(ip, length)| quoted(format!("{ip}/{length}"))).collect();
    let mut text = format!("\n[vip.{}]\ninterface = {}\nvrid = {vrid}\n", key(name), quoted(interface));
    let mut line = |line: String| text += &(line + "\n");
    line(format!("version = {}", version.number()));
    line(format!("advertisement_interval = {}", seconds(*interval)));
    line(format!("addresses = [{}]", addresses.join(", ")));
    if let Some(priority) = priority {
        line(format!("priority = {{ {} = {priority} }}", key(node)));
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
    super::timing::show(timing, seconds).into_iter().for_each(&mut line);
    if !track.is_empty() {
        line(format!("track = [{}]", track.iter().map(show_track).collect::<Vec<_>>().join(", ")));
    }
    match auth {
        Auth::None => {}
        Auth::Pass(_) => {
            let file = quoted(format!("{name}.pass"));
            line(format!("authentication = {{ pass_file = {file} }}   # write its auth_pass to this file, mode 0600"));
        }
    }
    text
}

fn show_track(Track { what, weight, reverse }: &Track) -> String {
    let what = match what {
        Tracked::Interface(name) => format!("interface = {}", quoted(name)),
        Tracked::Script(name) => format!("script = {}", quoted(name)),
        Tracked::File(path) => format!("file = {}", quoted(path.display())),
    };
    format!("{{ {what}, weight = {weight}, reverse = {reverse} }}")
}

fn show_script(name: &str, script: &Script) -> String {
    let Script { command, user, interval, timeout, rise, fall, init_fail } = script;
    let command: Vec<_> = command.iter().map(quoted).collect();
    let user = user.as_ref().map(|user| format!("user = {}\n", quoted(user))).unwrap_or_default();
    format!(
        "\n[track_script.{}]\ncommand = [{}]\n{user}interval = {}\ntimeout = {}\nrise = {rise}\nfall = {fall}\ninit_fail = {init_fail}\n",
        key(name),
        command.join(", "),
        seconds(*interval),
        seconds(*timeout)
    )
}

fn forwarding(forwarding: Forwarding) -> Option<&'static str> {
    match forwarding {
        Forwarding::Nat => Some("nat"),
        Forwarding::Direct => Some("direct"),
        Forwarding::Tunnel(Tunnel::Ipip) => Some("tunnel"),
        Forwarding::Tunnel(Tunnel::Gue { .. } | Tunnel::Gre { .. }) | Forwarding::Other(_) => None,
    }
}

fn show_service(name: &str, service: &Service) -> String {
    let Service { vip, listen, protocol, scheduler, servers, persistence, sorry_server, quorum, hysteresis, min_up } =
        service;
    let common = sorry_server.map(|sorry| sorry.1).or(servers.first().map(|server| server.forwarding));
    let common = common.unwrap_or(Forwarding::Nat);
    // Said once where it is the same for all.
    let check = servers.first().and_then(|server| server.check.as_ref());
    let check = check.filter(|check| servers.iter().all(|server| server.check.as_ref() == Some(check)));
    let mut text = format!("\n[service.{}]\nvip = {}\nlisten = {}\n", key(name), quoted(vip), quoted(listen));
    let mut line = |line: String| text += &(line + "\n");
    line(format!("protocol = {}", quoted(protocol.to_string().to_lowercase())));
    line(format!("scheduler = {}", quoted(scheduler)));
    line(format!("forwarding = {}", quoted(forwarding(common).unwrap_or_default())));
    if let Some(persistence) = persistence {
        line(format!("persistence = {}", seconds(*persistence)));
    }
    if let Some((sorry, _)) = sorry_server {
        line(format!("sorry_server = {}", quoted(sorry)));
    }
    for (key, value, default) in [("quorum", *quorum, 1), ("hysteresis", *hysteresis, 0)] {
        if value != default {
            line(format!("{key} = {value}"));
        }
    }
    if *min_up > 0 {
        line(format!("min_up = {min_up}"));
    }
    if let Some(check) = check {
        line(format!("check = {}", show_check(check)));
    }
    line("server = [".to_owned());
    for server in servers {
        line(format!("    {},", show_server(server, common, check)));
    }
    line("]".to_owned());
    text
}

fn show_server(server: &Server, common: Forwarding, same_check: Option<&Check>) -> String {
    let Server { address, weight, forwarding: way, check, inhibit_on_failure, upper, lower } = server;
    let mut text = format!("{{ address = {}, weight = {weight}", quoted(address));
    let mut part = |part: String| text += &format!(", {part}");
    if *way != common {
        part(format!("forwarding = {}", quoted(forwarding(*way).unwrap_or_default())));
    }
    if let Some(check) = check.as_ref().filter(|_| same_check.is_none()) {
        part(format!("check = {}", show_check(check)));
    }
    if *inhibit_on_failure {
        part("inhibit_on_failure = true".to_owned());
    }
    for (key, value) in [("upper", upper), ("lower", lower)] {
        if *value > 0 {
            part(format!("{key} = {value}"));
        }
    }
    text + " }"
}

fn show_check(Check { probe, interval, again, timeout, fall, rise }: &Check) -> String {
    let probe = match probe {
        Probe::Tcp => "tcp = {}".to_owned(),
        Probe::Udp { payload, reply } => {
            let payload: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("udp = {{ payload = {}, reply = {reply} }}", quoted(payload))
        }
        Probe::Dns { name, record } => {
            let record = RECORDS.iter().find(|(_, known)| known == record).map_or("", |(record, _)| record);
            format!("dns = {{ name = {}, type = {} }}", quoted(name), quoted(record))
        }
        Probe::Smtp { helo } => format!("smtp = {{ helo = {} }}", quoted(helo)),
        Probe::Http { path, host, status } => {
            let ranges: Vec<_> = status.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
            let host = host.as_ref().map(|host| format!(", host = {}", quoted(host))).unwrap_or_default();
            format!("http = {{ path = {}{host}, status = {} }}", quoted(path), quoted(ranges.join(", ")))
        }
    };
    let mut text = format!("{{ {probe}");
    for (key, duration) in [("interval", interval), ("again", again), ("timeout", timeout)] {
        // Writing to a String does not fail.
        write!(text, ", {key} = {}", seconds(*duration)).unwrap_or_default();
    }
    text + &format!(", fall = {fall}, rise = {rise} }}")
}
