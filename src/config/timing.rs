//! The delays and bursts of a virtual router, as cluster.toml and keepalived.conf have them.

use super::diagnostic::{Diagnostic, Located, Log};
use super::duration;
use super::reader::{Section, Value};
use crate::vrrp::timing::{Garp, Timing};
use std::time::Duration;

/// The longest delay, as in keepalived.
pub(super) const LONGEST: Duration = Duration::from_secs(1000);

/// Reads what a `[vip.NAME]` says of it.
pub(super) fn read(section: &Section<'_>, log: &Log) -> Timing {
    let time = |section: &Section<'_>, key, default| {
        section.get(key).and_then(Value::duration).and_then(|time| bounded(time, key, log)).unwrap_or(default)
    };
    let flag = |key| section.get(key).and_then(Value::boolean).is_some_and(|flag| flag.value);
    if flag("nopreempt")
        && let Some(delay) = section.get("preempt_delay")
    {
        let error = Diagnostic::error(&delay.place, "`preempt_delay` has no effect with `nopreempt`");
        log.add(error.help("remove one of them"));
    }
    let default = Timing::default();
    Timing {
        down_timer_adverts: section
            .get("down_timer_adverts")
            .and_then(|value| value.integer(1..=100))
            .map_or(default.down_timer_adverts, |count| count.value),
        startup_delay: time(section, "startup_delay", default.startup_delay),
        delay_after_boot: time(section, "delay_after_boot", default.delay_after_boot),
        preempt_delay: time(section, "preempt_delay", default.preempt_delay),
        higher_prio_send_advert: flag("higher_prio_send_advert"),
        lower_prio_no_advert: flag("lower_prio_no_advert"),
        garp: section.get("garp").and_then(Value::table).map_or(default.garp, |table| {
            let count = |key, least, default| {
                table
                    .get(key)
                    .and_then(|value| value.integer(least..=255))
                    .map_or(default, |count: Located<u8>| count.value)
            };
            let default = Garp::default();
            let (delay, repeat) = (time(&table, "delay", default.delay), count("repeat", 1, default.repeat));
            let garp = Garp {
                repeat,
                delay,
                refresh: time(&table, "refresh", default.refresh),
                refresh_repeat: count("refresh_repeat", 1, default.refresh_repeat),
                lower_prio_repeat: count("lower_prio_repeat", 0, repeat),
                lower_prio_delay: time(&table, "lower_prio_delay", delay),
                interval: time(&table, "interval", default.interval),
            };
            table.close();
            garp
        }),
    }
}

/// As the lines of a `[vip.NAME]`, where they are not the defaults.
pub(super) fn show(timing: &Timing, seconds: impl Fn(Duration) -> String) -> Vec<String> {
    // Every field, so that a new one is not forgotten here.
    let Timing {
        down_timer_adverts,
        startup_delay,
        delay_after_boot,
        preempt_delay,
        higher_prio_send_advert,
        lower_prio_no_advert,
        garp,
    } = timing;
    let default = Timing::default();
    let mut lines = Vec::new();
    if *down_timer_adverts != default.down_timer_adverts {
        lines.push(format!("down_timer_adverts = {down_timer_adverts}"));
    }
    let delays =
        [("startup_delay", startup_delay), ("delay_after_boot", delay_after_boot), ("preempt_delay", preempt_delay)];
    for (key, delay) in delays {
        if !delay.is_zero() {
            lines.push(format!("{key} = {}", seconds(*delay)));
        }
    }
    for (key, set) in
        [("higher_prio_send_advert", higher_prio_send_advert), ("lower_prio_no_advert", lower_prio_no_advert)]
    {
        if *set {
            lines.push(format!("{key} = true"));
        }
    }
    if *garp != default.garp {
        let Garp { repeat, delay, refresh, refresh_repeat, lower_prio_repeat, lower_prio_delay, interval } = *garp;
        let (delay, refresh) = (seconds(delay), seconds(refresh));
        let (lower_prio_delay, interval) = (seconds(lower_prio_delay), seconds(interval));
        lines.push(format!(
            "garp = {{ repeat = {repeat}, delay = {delay}, refresh = {refresh}, refresh_repeat = {refresh_repeat}, \
             lower_prio_repeat = {lower_prio_repeat}, lower_prio_delay = {lower_prio_delay}, interval = {interval} }}"
        ));
    }
    lines
}

/// A delay that is not too long.
pub(super) fn bounded(time: Located<Duration>, key: &str, log: &Log) -> Option<Duration> {
    if time.value > LONGEST {
        let message = format!("`{key}` is longer than {}", duration::show(LONGEST));
        log.add(Diagnostic::error(&time.place, message));
        return None;
    }
    Some(time.value)
}
