//! Durations as people write them.

use std::time::Duration;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// `"1s"`, `"200ms"`, `"1.5s"`, `"2m"`, `"1h"`.
pub(super) fn parse(text: &str) -> Result<Duration, &'static str> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let unit = match unit {
        "ms" => NANOS_PER_SECOND / 1000,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3600 * NANOS_PER_SECOND,
        "" => return Err("it has no unit"),
        _ => return Err("its unit is none of ms, s, m, h"),
    };
    times(number, unit)
}

/// Decimal seconds, as in keepalived.conf.
pub(super) fn seconds(text: &str) -> Result<Duration, &'static str> {
    times(text, NANOS_PER_SECOND)
}

fn times(number: &str, unit: u64) -> Result<Duration, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
        return Err("it has no number");
    }
    let too_long = "it is too long";
    let mut nanos = whole.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or(too_long)?;
    let mut part = unit;
    for digit in fraction.bytes() {
        part /= 10;
        nanos = nanos.checked_add(part * u64::from(digit - b'0')).ok_or(too_long)?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// The shortest way to write `duration`.
pub(super) fn show(duration: Duration) -> String {
    format!("{duration:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit() {
        let cases = [("1s", 1000), ("200ms", 200), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0)];
        for (text, millis) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(seconds("0.01"), Ok(Duration::from_millis(10)));
    }

    #[test]
    fn anything_else_says_what_is_missing() {
        assert_eq!(parse("5"), Err("it has no unit"));
        assert_eq!(parse("5d"), Err("its unit is none of ms, s, m, h"));
        assert_eq!(parse("1e3s"), Err("its unit is none of ms, s, m, h"));
        for text in ["s", ".5s", "1.s", "-1s", "1 s", "1.2.3s", "+1s"] {
            assert_eq!(parse(text), Err("it has no number"), "{text}");
        }
        assert_eq!(parse("99999999999999999999h"), Err("it is too long"));
        assert_eq!(parse("18446744073.9s"), Err("it is too long"));
    }
}
