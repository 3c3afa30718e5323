//! The delays and bursts of `vrrp_instance`, and their defaults in `global_defs`, where most begin with `vrrp_`.

use super::super::timing::bounded;
use super::syntax::Statement;
use super::{argument, duration, flag};
use crate::config::diagnostic::{Diagnostic, Located, Log, Place};
use crate::vrrp::timing::{Garp, Timing};
use hamesh_raft::command::Family;
use std::time::Duration;

/// In `global_defs`.
pub(super) const GLOBAL: [&str; 14] = [
    "vrrp_garp_master_delay",
    "vrrp_garp_master_repeat",
    "vrrp_garp_master_refresh",
    "vrrp_garp_master_refresh_repeat",
    "vrrp_garp_lower_prio_delay",
    "vrrp_garp_lower_prio_repeat",
    "vrrp_garp_interval",
    "vrrp_gna_interval",
    "vrrp_min_garp",
    "vrrp_down_timer_adverts",
    "vrrp_lower_prio_no_advert",
    "vrrp_higher_prio_send_advert",
    "vrrp_startup_delay",
    "vrrp_delay_after_boot",
];

/// In an instance.
pub(super) const INSTANCE: [&str; 10] = [
    "garp_master_delay",
    "garp_master_repeat",
    "garp_master_refresh",
    "garp_master_refresh_repeat",
    "garp_lower_prio_delay",
    "garp_lower_prio_repeat",
    "down_timer_adverts",
    "lower_prio_no_advert",
    "higher_prio_send_advert",
    "preempt_delay",
];

/// What was given.
#[derive(Clone, Default)]
pub(super) struct Given {
    garp_master_delay: Option<Duration>,
    garp_master_repeat: Option<u8>,
    garp_master_refresh: Option<Duration>,
    garp_master_refresh_repeat: Option<u8>,
    garp_lower_prio_delay: Option<Duration>,
    garp_lower_prio_repeat: Option<u8>,
    garp_interval: Option<Duration>,
    gna_interval: Option<Duration>,
    min_garp: bool,
    down_timer_adverts: Option<u8>,
    lower_prio_no_advert: Option<bool>,
    higher_prio_send_advert: Option<bool>,
    startup_delay: Option<Duration>,
    delay_after_boot: Option<Duration>,
    preempt_delay: Option<(Duration, Place)>,
}

impl Given {
    /// Reads a line whose keyword is one of these.
    pub fn read(&mut self, line: &Statement, log: &Log) {
        let keyword = line.keyword.text.as_str();
        match keyword.strip_prefix("vrrp_").unwrap_or(keyword) {
            "garp_master_delay" => self.garp_master_delay = time(line, log),
            "garp_master_repeat" => self.garp_master_repeat = count(line, 1, u8::MAX, log),
            "garp_master_refresh" => self.garp_master_refresh = time(line, log),
            "garp_master_refresh_repeat" => self.garp_master_refresh_repeat = count(line, 1, u8::MAX, log),
            "garp_lower_prio_delay" => self.garp_lower_prio_delay = time(line, log),
            "garp_lower_prio_repeat" => self.garp_lower_prio_repeat = count(line, 0, u8::MAX, log),
            "garp_interval" => self.garp_interval = time(line, log),
            "gna_interval" => self.gna_interval = time(line, log),
            "min_garp" => self.min_garp = flag(line, log),
            "down_timer_adverts" => self.down_timer_adverts = count(line, 1, 100, log),
            "lower_prio_no_advert" => self.lower_prio_no_advert = Some(flag(line, log)),
            "higher_prio_send_advert" => self.higher_prio_send_advert = Some(flag(line, log)),
            "startup_delay" => self.startup_delay = time(line, log),
            "delay_after_boot" => self.delay_after_boot = time(line, log),
            _ => self.preempt_delay = time(line, log).map(|time| (time, line.keyword.place.clone())),
        }
    }

    /// What strict mode leaves of an instance's, whatever the file's defaults are.
    pub fn strict(&mut self, log: &Log) {
        if let Some((_, place)) = self.preempt_delay.take() {
            log.add(Diagnostic::warning(&place, "`preempt_delay` has no effect in strict mode, as in keepalived"));
        }
        self.garp_lower_prio_repeat = Some(0);
        self.garp_lower_prio_delay = Some(Duration::ZERO);
        self.down_timer_adverts = Some(Timing::default().down_timer_adverts);
        self.lower_prio_no_advert = Some(true);
        self.higher_prio_send_advert = Some(false);
    }

    /// An instance's. `never` says why a `preempt_delay` has no effect in it.
    pub fn build(self, globals: &Self, family: Family, never: Option<&str>, log: &Log) -> Timing {
        let default = Timing::default();
        // `vrrp_min_garp`: one announcement, and no second burst.
        let (repeat, delay) =
            if globals.min_garp { (1, Duration::ZERO) } else { (default.garp.repeat, default.garp.delay) };
        let repeat = self.garp_master_repeat.or(globals.garp_master_repeat).unwrap_or(repeat);
        let delay = self.garp_master_delay.or(globals.garp_master_delay).unwrap_or(delay);
        let interval = match family {
            Family::V4 => globals.garp_interval,
            Family::V6 => globals.gna_interval,
        };
        let preempt_delay = self.preempt_delay.filter(|(_, place)| {
            if let Some(why) = never {
                let message = format!("`preempt_delay` has no effect with {why}, as in keepalived");
                log.add(Diagnostic::warning(place, message));
            }
            never.is_none()
        });
        Timing {
            down_timer_adverts: self
                .down_timer_adverts
                .or(globals.down_timer_adverts)
                .unwrap_or(default.down_timer_adverts),
            startup_delay: globals.startup_delay.unwrap_or_default(),
            delay_after_boot: globals.delay_after_boot.unwrap_or_default(),
            preempt_delay: preempt_delay.map(|(delay, _)| delay).unwrap_or_default(),
            higher_prio_send_advert: self
                .higher_prio_send_advert
                .or(globals.higher_prio_send_advert)
                .unwrap_or_default(),
            lower_prio_no_advert: self.lower_prio_no_advert.or(globals.lower_prio_no_advert).unwrap_or_default(),
            garp: Garp {
                repeat,
                delay,
                refresh: self.garp_master_refresh.or(globals.garp_master_refresh).unwrap_or(default.garp.refresh),
                refresh_repeat: self
                    .garp_master_refresh_repeat
                    .or(globals.garp_master_refresh_repeat)
                    .unwrap_or(default.garp.refresh_repeat),
                lower_prio_repeat: self.garp_lower_prio_repeat.or(globals.garp_lower_prio_repeat).unwrap_or(repeat),
                lower_prio_delay: self.garp_lower_prio_delay.or(globals.garp_lower_prio_delay).unwrap_or(delay),
                interval: interval.unwrap_or_default(),
            },
        }
    }
}

pub(super) fn time(line: &Statement, log: &Log) -> Option<Duration> {
    let Located { value, place } = argument(line, log)?;
    let keyword = &line.keyword.text;
    match duration::seconds(&value) {
        Ok(value) => bounded(Located { value, place }, keyword, log),
        Err(reason) => {
            log.add(Diagnostic::error(&place, format!("`{keyword}` is not a number of seconds: {reason}")));
            None
        }
    }
}

/// A number that is raised to `least`, as by keepalived.
fn count(line: &Statement, least: u8, most: u8, log: &Log) -> Option<u8> {
    let Located { value, place } = argument(line, log)?;
    let number = value.parse().ok().filter(|number: &u8| *number <= most);
    if number.is_none() {
        let message = format!("`{}` must be between {least} and {most}", line.keyword.text);
        log.add(Diagnostic::error(&place, message));
    }
    number.map(|number| number.max(least))
}
