//! `notify*` of an instance, and what `global_defs` say of FIFOs and mail. Scripts are run without a shell, one after the other for
//! an instance, where keepalived starts them all at once.

use super::super::notify::{
    Command, Fifo, Mail, Notifications, Notify, ONCE_TIMEOUT, Occasion, Once, Topic, is_word, server,
};
use super::syntax::{Statement, Word};
use super::{argument, block, duration, flag, track};
use crate::config::diagnostic::{Diagnostic, Log, Place};
use std::path::PathBuf;
use std::time::Duration;

/// Of an instance or a sync group.
pub(super) const INSTANCE: [&str; 9] = [
    "notify",
    "notify_master",
    "notify_backup",
    "notify_fault",
    "notify_stop",
    "notify_deleted",
    "notify_master_rx_lower_pri",
    "notify_priority_changes",
    "smtp_alert",
];

/// Of `global_defs`.
pub(super) const GLOBAL: [&str; 23] = [
    "fifo_write_vrrp_states_on_reload",
    "startup_script",
    "startup_script_timeout",
    "shutdown_script",
    "shutdown_script_timeout",
    "router_id",
    "notify_fifo",
    "notify_fifo_script",
    "vrrp_notify_fifo",
    "vrrp_notify_fifo_script",
    "lvs_notify_fifo",
    "lvs_notify_fifo_script",
    "vrrp_notify_priority_changes",
    "notification_email",
    "notification_email_from",
    "smtp_server",
    "smtp_connect_timeout",
    "smtp_helo_name",
    "smtp_alert",
    "smtp_alert_vrrp",
    "smtp_alert_checker",
    "no_email_faults",
    "no_checker_emails",
];

/// What is written into `notify_fifo`, `vrrp_notify_fifo` and `lvs_notify_fifo`.
const FIFOS: [Option<Topic>; 3] = [None, Some(Topic::Vips), Some(Topic::Services)];

/// What `global_defs` say.
#[derive(Default)]
pub(super) struct Globals {
    router_id: Option<String>,
    /// In the order of [`FIFOS`].
    fifos: [Option<PathBuf>; 3],
    scripts: [Option<(Command, Place)>; 3],
    priority_changes: bool,
    again: bool,
    /// At the start, and at the stop.
    once: [Option<Command>; 2],
    once_timeouts: [Option<(Duration, Place)>; 2],
    mail: Option<Mail>,
    from: Option<String>,
    server: Option<String>,
    helo: Option<String>,
    timeout: Option<Duration>,
    alert: Option<bool>,
    alert_vrrp: Option<bool>,
    alert_checker: Option<bool>,
    no_faults: bool,
}

impl Globals {
    /// `user` is the `script_user` so far; keepalived takes it as it stands at that line, too.
    pub(super) fn read(&mut self, line: &Statement, user: Option<&str>, log: &Log) {
        let place = line.keyword.place.clone();
        let one = || argument(line, log).map(|word| word.value);
        match line.keyword.text.as_str() {
            "router_id" => self.router_id = line.arguments.first().map(|word| word.text.clone()),
            "notify_fifo" => self.fifos[0] = one().map(PathBuf::from),
            "vrrp_notify_fifo" => self.fifos[1] = one().map(PathBuf::from),
            "lvs_notify_fifo" => self.fifos[2] = one().map(PathBuf::from),
            "notify_fifo_script" => self.scripts[0] = command(line, user, log).map(|script| (script, place)),
            "vrrp_notify_fifo_script" => self.scripts[1] = command(line, user, log).map(|script| (script, place)),
            "lvs_notify_fifo_script" => self.scripts[2] = command(line, user, log).map(|script| (script, place)),
            "startup_script" => self.once[0] = command(line, user, log),
            "shutdown_script" => self.once[1] = command(line, user, log),
            "startup_script_timeout" => self.once_timeouts[0] = once_timeout(line, log).map(|time| (time, place)),
            "shutdown_script_timeout" => self.once_timeouts[1] = once_timeout(line, log).map(|time| (time, place)),
            "fifo_write_vrrp_states_on_reload" => self.again = flag(line, log),
            "vrrp_notify_priority_changes" => self.priority_changes = flag(line, log),
            "notification_email" => {
                let to = block(line, log).iter().map(|line| &line.keyword);
                self.mail = Some(Mail::to(to.filter_map(|to| address(to, log)).collect())).filter(|m| !m.to.is_empty());
            }
            "notification_email_from" => {
                self.from = line.arguments.first().and_then(|from| address(from, log));
            }
            "smtp_server" => match &line.arguments[..] {
                [host] => self.server = address(host, log).map(|host| server(&host, None)),
                [host, port] => match port.text.parse() {
                    Ok(port) => self.server = address(host, log).map(|host| server(&host, Some(port))),
                    Err(_) => log.add(Diagnostic::error(&port.place, "`smtp_server` has a port from 1 to 65535")),
                },
                _ => log.add(Diagnostic::error(&place, "`smtp_server` needs an address, and may have a port")),
            },
            "smtp_helo_name" => self.helo = line.arguments.first().and_then(|name| address(name, log)),
            "smtp_connect_timeout" => match one().map(|text| duration::seconds(&text)) {
                Some(Ok(timeout)) => self.timeout = Some(timeout),
                Some(Err(reason)) => {
                    log.add(Diagnostic::error(
                        &place,
                        format!("`smtp_connect_timeout` is no number of seconds: {reason}"),
                    ));
                }
                None => {}
            },
            "smtp_alert" => self.alert = Some(flag(line, log)),
            "smtp_alert_vrrp" => self.alert_vrrp = Some(flag(line, log)),
            "smtp_alert_checker" => self.alert_checker = Some(flag(line, log)),
            "no_email_faults" => self.no_faults = flag(line, log),
            // `no_checker_emails`: a server is mailed about as a whole, never each of its checks.
            _ => {}
        }
        if line.block.is_some() && line.keyword.text != "notification_email" {
            log.add(Diagnostic::error(&line.keyword.place, format!("`{}` has no block", line.keyword.text)));
        }
    }

    pub(super) fn build(&self, log: &Log) -> Notifications {
        let mut notifications = Notifications { again: self.again, ..Notifications::default() };
        for ((fifo, script), about) in self.fifos.iter().zip(&self.scripts).zip(FIFOS) {
            match (fifo, script) {
                (Some(path), script) => {
                    let script = script.as_ref().map(|(script, _)| script.clone());
                    notifications.fifos.push(Fifo { path: path.clone(), about, script });
                }
                (None, Some((_, place))) => {
                    log.add(Diagnostic::error(place, "there is no FIFO for this script to read"));
                }
                (None, None) => {}
            }
        }
        let [startup, shutdown] = [("startup_script", 0), ("shutdown_script", 1)].map(|(name, which)| {
            let (command, timeout) = (self.once[which].clone(), &self.once_timeouts[which]);
            if let (None, Some((_, place))) = (&command, timeout) {
                log.add(Diagnostic::error(place, format!("there is no `{name}` for this timeout")));
            }
            let timeout = timeout.as_ref().map_or(ONCE_TIMEOUT, |(timeout, _)| *timeout);
            command.map(|command| Once { command, timeout })
        });
        (notifications.startup, notifications.shutdown) = (startup, shutdown);
        notifications.mail = self.mail.clone().map(|mut mail| {
            (mail.name, mail.helo, mail.from) = (self.router_id.clone(), self.helo.clone(), self.from.clone());
            mail.server = self.server.clone().unwrap_or(mail.server);
            mail.timeout = self.timeout.unwrap_or(mail.timeout);
            mail.faults = !self.no_faults;
            mail
        });
        notifications
    }

    /// What an instance does that says nothing itself.
    pub(super) fn instance(&self) -> Notify {
        let mail = self.alert_vrrp.or(self.alert).unwrap_or(false) && self.mail.is_some();
        Notify { priority_changes: self.priority_changes, mail, ..Notify::default() }
    }

    /// The same of services and servers. Servers are mailed about unless it is forbidden.
    pub(super) fn mails(&self) -> Mails {
        let said = self.alert_checker.or(self.alert);
        let mail = |usual| self.mail.is_some() && said.unwrap_or(usual);
        Mails { services: mail(false), servers: mail(true) }
    }
}

/// Whether mail is written about those that say nothing themselves.
#[derive(Clone, Copy)]
pub(super) struct Mails {
    pub services: bool,
    pub servers: bool,
}

/// A line of an instance or a sync group.
pub(super) fn read(line: &Statement, notify: &mut Notify, user: Option<&str>, log: &Log) {
    let occasion = match line.keyword.text.as_str() {
        "notify_priority_changes" => return notify.priority_changes = flag(line, log),
        "smtp_alert" => return notify.mail = flag(line, log),
        "notify_deleted" if line.arguments.is_empty() => {
            let warning = Diagnostic::warning(&line.keyword.place, "`notify_deleted` without a script changes nothing");
            return log.add(warning.help("an instance that a reload removes is told as FAULT"));
        }
        "notify_deleted" => Occasion::Deleted,
        "notify_master" => Occasion::Master,
        "notify_backup" => Occasion::Backup,
        "notify_fault" => Occasion::Fault,
        "notify_stop" => Occasion::Stop,
        "notify_master_rx_lower_pri" => Occasion::MasterRxLowerPri,
        _ => Occasion::Any,
    };
    notify.scripts.extend(command(line, user, log).map(|command| (occasion, command)));
}

fn once_timeout(line: &Statement, log: &Log) -> Option<Duration> {
    let word = argument(line, log)?;
    let seconds = word.value.parse().ok().filter(|seconds| (1..=1000).contains(seconds));
    if seconds.is_none() {
        let message = format!("`{}` is between 1 and 1000 seconds", line.keyword.text);
        log.add(Diagnostic::error(&word.place, message));
    }
    seconds.map(Duration::from_secs)
}

/// `"COMMAND ARGUMENTS" [USER [GROUP]]`.
pub(super) fn command(line: &Statement, user: Option<&str>, log: &Log) -> Option<Command> {
    let [command, rest @ ..] = &line.arguments[..] else {
        log.add(Diagnostic::error(&line.keyword.place, format!("`{}` needs a command", line.keyword.text)));
        return None;
    };
    let words = track::split(&command.text, &command.place, log)?;
    if words.is_empty() {
        log.add(Diagnostic::error(&command.place, format!("`{}` needs a command", line.keyword.text)));
        return None;
    }
    let user = track::user_of(rest).or_else(|| user.map(str::to_owned));
    if user.is_none() {
        let keyword = &line.keyword;
        let warning = Diagnostic::warning(&keyword.place, format!("`{}` runs as hamesh does", keyword.text));
        log.add(warning.help("there is no user keepalived_script: set `script_user`"));
    }
    Some(Command { words, user })
}

fn address(word: &Word, log: &Log) -> Option<String> {
    if !is_word(&word.text) {
        log.add(Diagnostic::error(&word.place, format!("`{}` cannot stand in a mail", word.text)));
        return None;
    }
    Some(word.text.clone())
}
