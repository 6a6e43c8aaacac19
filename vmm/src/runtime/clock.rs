//! Times as people and programs read them: RFC 3339 in UTC, and "5 minutes ago".

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time now, in nanoseconds since 1970; good until 2554.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// RFC 3339 with nanoseconds, as Docker's `inspect` writes times.
pub fn rfc3339(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let fraction = nanoseconds % 1_000_000_000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

/// Reads RFC 3339, with or without a fraction of a second; in nanoseconds since 1970. `None`: it is none, or is not
/// between 1970 and 2554.
pub fn parse(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if !(1970..=2554).contains(&year) || hour > 23 || minute > 59 || second > 60 || fraction.len() > 9 {
        return None;
    }
    let day = days(year, month, day)?;
    let nanoseconds = number(fraction)? * 10u64.pow(9 - fraction.len() as u32);
    let seconds = day * 86_400 + hour * 3600 + minute * 60 + second;
    let offset = match zone.strip_prefix(['+', '-']) {
        None if zone.eq_ignore_ascii_case("z") => 0,
        None => return None,
        Some(offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let seconds = number(hours)?.checked_mul(3600)?.checked_add(number(minutes)?.checked_mul(60)?)?;
            let seconds = i64::try_from(seconds).ok()?;
            if zone.starts_with('-') { seconds } else { -seconds }
        }
    };
    seconds.checked_add_signed(offset)?.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// A number of digits alone, at most nine of them.
fn number(digits: &str) -> Option<u64> {
    let valid = (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().ok())?
}

/// The day counted from 1970-01-01 of a date that there is; the inverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted / 400, shifted % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let day_of_1970 =
        (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)?;
    // 31 April is not there, and comes out as another day.
    (civil(day_of_1970) == (year, month, day)).then_some(day_of_1970)
}

/// Year, month and day of a day counted from 1970-01-01, by 400-year eras that begin on 1 March.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// Units of lengths of time with their nanoseconds, as Docker writes them; days last, which not every length may have.
pub const UNITS: [(&str, u64); 5] = [
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Reads a length of time in these units, such as `90s` or `1h30m`, in nanoseconds.
pub fn parse_length(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut rest = Some(text).filter(|text| !text.is_empty())?;
    let mut whole = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, behind) = rest.split_at(digits);
        let (after, factor) =
            units.iter().find_map(|(unit, factor)| Some((behind.strip_prefix(unit)?, *factor)))?;
        whole = whole.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = after;
    }
    Some(whole)
}

/// How long, roughly, as Docker says it: `Less than a second`, `12 seconds`, `About an hour`, `3 days`, `2 years`.
pub fn roughly(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours < 2 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if days < 14 => format!("{days} days"),
        _ if days < 60 => format!("{} weeks", days / 7),
        _ if days < 730 => format!("{} months", days / 30),
        _ => format!("{} years", days / 365),
    }
}

/// How long before now a time was.
pub fn ago(nanoseconds: u64) -> String {
    roughly(Duration::from_nanos(now().saturating_sub(nanoseconds))) + " ago"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_days_as_the_calendar_has_them() {
        const SECOND: u64 = 1_000_000_000;
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000000Z"),
            (1_735_689_600, "2025-01-01T00:00:00.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(seconds * SECOND), text);
        }
        assert_eq!(rfc3339(1_500_000_042), "1970-01-01T00:00:01.500000042Z");
    }

    #[test]
    fn reads_what_it_writes_and_other_zones() {
        for time in [0, 951_782_399_000_000_001, 4_107_542_400_123_456_789, 1_500_000_042] {
            assert_eq!(parse(&rfc3339(time)), Some(time));
        }
        assert_eq!(parse("2024-02-29T12:00:00+02:00"), parse("2024-02-29T10:00:00Z"));
        assert_eq!(parse("2024-02-29t12:00:00.25-00:30"), parse("2024-02-29 12:30:00.250Z"));
        for text in [
            "",
            "T",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-10T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00",
            "1969-12-31T00:00:00Z",
            "2024-01-01T00:00:00.0000000001Z",
            "-2024-01-01T00:00:00Z",
            "2024-01-01T00:00:00+1",
            "99999999999-01-01T00:00:00Z",
            "2024-01-01T00:00:00+999999999:0",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn says_roughly_how_long() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (600, "10 minutes"),
            (3700, "About an hour"),
            (47 * 3600, "47 hours"),
            (49 * 3600, "2 days"),
            (20 * 86_400, "2 weeks"),
            (70 * 86_400, "2 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(roughly(Duration::from_secs(seconds)), text);
        }
    }
}
