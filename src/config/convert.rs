//! A keepalived.conf as a cluster.toml that means the same.
//!
//! What is written is the model that both files are read into, so nothing can be carried that the model has not, and what
//! the model has and cluster.toml cannot say is an error. A keepalived.conf is one machine's and a cluster.toml every
//! machine's: the priority is written for the one machine.

mod vip;

use super::bfd::Settings;
use super::check::{Check, Http, Probe, RECORDS, Slow, VERSIONS, Way};
use super::diagnostic::{Errors, Log, Severity, Source};
use super::ipvs::{Ipvs, Sync};
use super::service::Server;
use super::track::{Delays, Script};
use super::{Service, forwarding, group, keepalived, notify, service, unreadable};
use crate::ipvs::{Forwarding, Granularity, ServiceKey};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;
use vip::{show_group, show_sync};

/// The text of a cluster.toml, for the node of this name, with what was noted as comments. Passwords are not in it: it
/// names the files to write them to, and says so. `id` is as with [`super::check()`].
///
/// # Errors
/// What is wrong with the file, or cannot be said in cluster.toml.
pub fn convert(path: &Path, node: Option<&str>, id: Option<&str>) -> Result<String, Errors> {
    let log = Log::default();
    let source = match Source::read(path) {
        Ok(source) => source,
        Err(error) => return unreadable(path, &error, log),
    };
    let setting = keepalived::Setting::new(id, false);
    let node = node.map_or_else(|| setting.id.to_lowercase(), str::to_owned);
    let (mut groups, services, scripts, (told, ipvs, syncs, (bfd, fixed, delays))) =
        keepalived::read(&source, &setting, &log);
    let syncs = super::sync::apply(syncs, &mut groups, &log);
    group::check(&groups, None, &log);
    group::check_mail(&groups, &told, &log);
    super::ipvs::check(&ipvs, &groups, &log);
    super::fixed::check(&fixed, &groups, &log);
    let services = service::build(services, &groups, &told, &log);
    let groups: BTreeMap<_, _> = groups.into_iter().filter_map(group::Draft::build).collect();
    log.finish(|notes| {
        let mut text = format!("# From {}.\n", path.display());
        for note in notes.iter().filter(|note| note.severity == Severity::Warning) {
            let (line, column) = note.place.line_column();
            text += &format!("# {}:{line}:{column}: {}\n", note.place.source.path.display(), note.message);
        }
        text += "# This file is for every node: add to each `priority` what the files of the others have.\n";
        text += &notify::show(&told, |text| quoted(text), seconds);
        groups.iter().for_each(|(name, group)| text += &show_group(name, group, &node));
        syncs.iter().for_each(|(name, sync)| text += &show_sync(name, sync));
        scripts.iter().for_each(|(name, script)| text += &show_script(name, script));
        bfd.iter().for_each(|(name, session)| text += &show_bfd(name, session));
        services.iter().for_each(|(name, service)| text += &show_service(name, service));
        for (name, Delays { down, up }) in &delays {
            let (down, up) = (seconds(*down), seconds(*up));
            text += &format!("\n[interface.{}]\ndown_delay = {down}\nup_delay = {up}\n", key(name));
        }
        if !fixed.is_empty() {
            text += &format!("\n[static.{}]\n", key(&node));
            text.extend(super::fixed::show(&fixed, quoted).into_iter().map(|line| line + "\n"));
        }
        text += &show_ipvs(&ipvs);
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

fn show_bfd(name: &str, settings: &Settings) -> String {
    let Settings {
        neighbour,
        interface,
        source,
        min_tx,
        min_rx,
        idle_tx,
        multiplier,
        passive,
        ttl,
        max_hops,
        multihop,
    } = settings;
    let on = interface.iter().map(|interface| format!("%{interface}")).collect::<String>();
    let source = source.map(|source| format!("source = {}\n", quoted(source))).unwrap_or_default();
    let (tx, rx, idle) = (seconds(*min_tx), seconds(*min_rx), seconds(*idle_tx));
    format!(
        "\n[bfd.{}]\nneighbour = {}\n{source}min_tx = {tx}\nmin_rx = {rx}\nidle_tx = {idle}\nmultiplier = {multiplier}\n\
         passive = {passive}\nttl = {ttl}\nmax_hops = {max_hops}\nmultihop = {multihop}\n",
        key(name),
        quoted(format!("{neighbour}{on}"))
    )
}

fn show_service(name: &str, service: &Service) -> String {
    let Service {
        vip, listen, protocol, scheduler, flags, one_packet, servers, persistence, granularity, engine, ..
    } = service;
    let Service { drain, slow_start, quorum_up, quorum_down, sorry_server, quorum, hysteresis, min_up, .. } = service;
    let Service { sorry_server_inhibit, omega, ha_suspend, mail, .. } = service;
    let common = sorry_server.map(|sorry| sorry.1).or(servers.first().map(|server| server.forwarding));
    let common = common.unwrap_or(Forwarding::Nat);
    // Said once where it is the same for all.
    let checks = servers.first().map(|server| &server.checks).filter(|checks| !checks.is_empty());
    let checks = checks.filter(|checks| servers.iter().all(|server| server.checks == **checks));
    let mut text = format!("\n[service.{}]\nvip = {}\n", key(name), quoted(vip));
    let mut line = |line: String| text += &(line + "\n");
    let addresses = listen.iter().filter_map(|key| match key {
        ServiceKey::Address(_, at) => Some(quoted(at)),
        ServiceKey::Mark(..) => None,
    });
    let marks = listen.iter().filter_map(|key| match key {
        ServiceKey::Address(..) => None,
        ServiceKey::Mark(mark, family) => {
            let family = service::FAMILIES.iter().find(|(_, known)| known == family).map_or("", |(family, _)| family);
            Some(format!("{{ {family} = {mark} }}"))
        }
    });
    for (key, values) in [("listen", addresses.collect::<Vec<_>>()), ("mark", marks.collect())] {
        match values.as_slice() {
            [] => {}
            [one] => line(format!("{key} = {one}")),
            several => line(format!("{key} = [{}]", several.join(", "))),
        }
    }
    line(format!("protocol = {}", quoted(protocol.to_string().to_lowercase())));
    line(format!("scheduler = {}", quoted(scheduler)));
    line(format!("forwarding = {}", forwarding::show(common)));
    if let Some(persistence) = persistence {
        line(format!("persistence = {}", seconds(*persistence)));
    }
    let set = [("flag-1", flags.first), ("flag-2", flags.second), ("flag-3", flags.third)];
    let set: Vec<_> = set.into_iter().filter(|(_, set)| *set).map(|(name, _)| quoted(name)).collect();
    if !set.is_empty() {
        line(format!("scheduler_flags = [{}]", set.join(", ")));
    }
    if *one_packet {
        line("one_packet = true".to_owned());
    }
    if let Some(granularity) = granularity {
        let text = match granularity {
            Granularity::Netmask(mask) => mask.to_string(),
            Granularity::Prefix(length) => length.to_string(),
        };
        line(format!("persistence_granularity = {}", quoted(text)));
    }
    if let Some(engine) = engine {
        line(format!("persistence_engine = {}", quoted(engine)));
    }
    for (key, time) in [("drain", drain.unwrap_or_default()), ("slow_start", *slow_start)] {
        if !time.is_zero() {
            line(format!("{key} = {}", seconds(time)));
        }
    }
    for (key, told) in [("quorum_up", quorum_up), ("quorum_down", quorum_down)] {
        if let Some(told) = told {
            line(format!("{key} = {}", notify::show_command(told, |text| quoted(text))));
        }
    }
    if let Some((sorry, _)) = sorry_server {
        line(format!("sorry_server = {}", quoted(sorry)));
    }
    let flags =
        [("sorry_server_inhibit", sorry_server_inhibit), ("omega", omega), ("ha_suspend", ha_suspend), ("mail", mail)];
    for (key, _) in flags.iter().filter(|(_, set)| **set) {
        line(format!("{key} = true"));
    }
    for (key, value, default) in [("quorum", *quorum, 1), ("hysteresis", *hysteresis, 0)] {
        if value != default {
            line(format!("{key} = {value}"));
        }
    }
    if *min_up > 0 {
        line(format!("min_up = {min_up}"));
    }
    if let Some(checks) = checks {
        line(format!("check = {}", show_checks(checks)));
    }
    line("server = [".to_owned());
    for server in servers {
        line(format!("    {},", show_server(server, common, checks.is_some(), *mail)));
    }
    line("]".to_owned());
    text
}

fn show_server(server: &Server, common: Forwarding, same_checks: bool, mailed: bool) -> String {
    let Server { address, weight, forwarding: way, checks, inhibit_on_failure, upper, lower, .. } = server;
    let Server { alpha, notify_up, notify_down, .. } = server;
    let mut text = format!("{{ address = {}, weight = {weight}", quoted(address));
    let mut part = |part: String| text += &format!(", {part}");
    if *way != common {
        part(format!("forwarding = {}", forwarding::show(*way)));
    }
    if !checks.is_empty() && !same_checks {
        part(format!("check = {}", show_checks(checks)));
    }
    if *inhibit_on_failure {
        part("inhibit_on_failure = true".to_owned());
    }
    for (key, value) in [("upper", upper), ("lower", lower)] {
        if *value > 0 {
            part(format!("{key} = {value}"));
        }
    }
    if *alpha {
        part("alpha = true".to_owned());
    }
    if server.mail != mailed {
        part(format!("mail = {}", server.mail));
    }
    for (key, told) in [("notify_up", notify_up), ("notify_down", notify_down)] {
        if let Some(told) = told {
            part(format!("{key} = {}", notify::show_command(told, |text| quoted(text))));
        }
    }
    text + " }"
}

fn show_ipvs(Ipvs { sync, timeouts, flush }: &Ipvs) -> String {
    let mut text = String::new();
    if let Some(Sync { interface, vip, id, longest, group, port, ttl }) = sync {
        let mut sync = format!("interface = {}, id = {id}", quoted(interface));
        let mut part = |key: &str, value: Option<String>| {
            sync += &value.map(|value| format!(", {key} = {value}")).unwrap_or_default();
        };
        part("vip", vip.as_ref().map(quoted));
        part("longest", longest.map(|longest| longest.to_string()));
        part("group", group.map(quoted));
        part("port", port.map(|port| port.to_string()));
        part("ttl", ttl.map(|ttl| ttl.to_string()));
        text += &format!("sync = {{ {sync} }}\n");
    }
    let times = [("tcp", timeouts.tcp), ("tcp_fin", timeouts.tcp_fin), ("udp", timeouts.udp)];
    let times: Vec<_> = times.iter().filter(|(_, time)| !time.is_zero()).collect();
    if !times.is_empty() {
        let times: Vec<_> = times.iter().map(|(key, time)| format!("{key} = {}", seconds(*time))).collect();
        text += &format!("timeouts = {{ {} }}\n", times.join(", "));
    }
    if *flush {
        text += "flush = true\n";
    }
    if text.is_empty() { text } else { format!("\n[ipvs]\n{text}") }
}

fn show_checks(checks: &[Check]) -> String {
    match checks {
        [check] => show_check(check),
        checks => format!("[{}]", checks.iter().map(show_check).collect::<Vec<_>>().join(", ")),
    }
}

fn show_check(Check { probe, way, interval, again, timeout, warmup, fall, rise, slow, loss }: &Check) -> String {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let probe = match probe {
        Probe::Tcp => "tcp = {}".to_owned(),
        Probe::Ping => "ping = {}".to_owned(),
        Probe::Udp { payload, reply } => {
            let payload = payload.as_ref().map_or_else(|| "random".to_owned(), |payload| hex(payload));
            let reply = reply.as_ref().map_or_else(String::new, |reply| {
                let begins = if reply.begins.is_empty() { "true".to_owned() } else { quoted(&reply.begins) };
                let (least, most) = (reply.length.start(), reply.length.end());
                format!(", reply = {begins}, reply_min = {least}, reply_max = {most}")
            });
            format!("udp = {{ payload = {}{reply} }}", quoted(payload))
        }
        Probe::Dns { name, record } => {
            let record = RECORDS.iter().find(|(_, known)| known == record).map_or("", |(record, _)| record);
            format!("dns = {{ name = {}, type = {} }}", quoted(name), quoted(record))
        }
        Probe::Smtp { helo } => format!("smtp = {{ helo = {} }}", quoted(helo)),
        Probe::Http(http) => show_http(http),
        Probe::Script { command, user, dynamic } => {
            let command: Vec<_> = command.iter().map(quoted).collect();
            let user = user.as_ref().map(|user| format!(", user = {}", quoted(user))).unwrap_or_default();
            format!("script = {{ command = [{}]{user}, dynamic = {dynamic} }}", command.join(", "))
        }
        Probe::File { path, weight } => {
            format!("file = {{ path = {}, weight = {weight} }}", quoted(path.display()))
        }
        Probe::Process(name) => format!("process = {{ name = {} }}", quoted(name)),
        Probe::Bfd(name) => format!("bfd = {}", quoted(name)),
    };
    let mut text = format!("{{ {probe}{}", show_way(way));
    for (key, duration) in [("interval", interval), ("again", again), ("timeout", timeout), ("warmup", warmup)] {
        // Writing to a String does not fail.
        write!(text, ", {key} = {}", seconds(*duration)).unwrap_or_default();
    }
    let slow = match slow {
        None => String::new(),
        Some(Slow { after, percent: 0 }) => format!(", slow = {}", seconds(*after)),
        Some(Slow { after, percent }) => format!(", slow = {{ after = {}, percent = {percent} }}", seconds(*after)),
    };
    let loss = loss.map(|loss| format!(", loss = {{ of = {}, most = {} }}", loss.of, loss.most)).unwrap_or_default();
    text + &format!(", fall = {fall}, rise = {rise}{slow}{loss} }}")
}

fn show_http(Http { path, host, version, status, digest, regex, no_regex, tls }: &Http) -> String {
    let ranges: Vec<_> = status.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut text = format!("{scheme} = {{ path = {}, status = {}", quoted(path), quoted(ranges.join(", ")));
    let mut part = |key: &str, value: Option<String>| {
        text += &value.map(|value| format!(", {key} = {}", quoted(value))).unwrap_or_default();
    };
    part("host", host.clone());
    part("version", VERSIONS.iter().find(|(_, known)| known == version).map(|(name, _)| (*name).to_owned()));
    part("digest", digest.map(|digest| format!("{:032x}", u128::from_be_bytes(digest))));
    part("regex", regex.as_ref().map(|regex| regex.text().to_owned()));
    part("no_regex", no_regex.as_ref().map(|regex| regex.text().to_owned()));
    if let Some(tls) = tls {
        // Empty: none is asked for.
        part("sni", Some(tls.name.clone().unwrap_or_default()));
        let own = tls.files.own.as_ref();
        let file = |path: &std::path::PathBuf| path.display().to_string();
        part("ca", tls.files.ca.as_ref().map(file));
        part("certificate", own.map(|(certificate, _)| file(certificate)));
        part("key", own.map(|(_, key)| file(key)));
    }
    text + " }"
}

fn show_way(Way { address, port, source, source_port, interface, mark, connect }: &Way) -> String {
    let mut text = String::new();
    let mut part = |key: &str, value: Option<String>| {
        text += &value.map(|value| format!(", {key} = {value}")).unwrap_or_default();
    };
    part("address", address.map(quoted));
    part("port", port.map(|port| port.to_string()));
    part("source", source.map(quoted));
    part("source_port", (*source_port > 0).then(|| source_port.to_string()));
    part("interface", interface.as_ref().map(quoted));
    part("mark", mark.map(|mark| mark.to_string()));
    part("connect_timeout", connect.map(seconds));
    text
}
