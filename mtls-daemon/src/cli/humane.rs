//! Figures as people read them.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// The two largest units: "3h 12m", "42s".
pub(super) fn duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut rest = duration.as_secs();
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        if rest >= size && parts.len() < 2 {
            parts.push(format!("{}{unit}", rest / size));
            rest %= size;
        } else if !parts.is_empty() {
            break;
        }
    }
    match parts.is_empty() {
        true => format!("{}ms", duration.as_millis()),
        false => parts.join(" "),
    }
}

/// "in 42m", or "3m ago" when it is over.
pub(super) fn until(then: SystemTime, now: SystemTime) -> String {
    match then.duration_since(now) {
        Ok(left) => format!("in {}", duration(left)),
        Err(over) => format!("{} ago", duration(over.duration())),
    }
}

/// RFC 3339, UTC, to the second.
pub(super) fn time(time: SystemTime) -> String {
    match Timestamp::try_from(time) {
        Ok(time) => format!("{time:.0}"),
        Err(_) => "beyond all time".to_owned(),
    }
}

/// "1.2 MiB".
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// "1 root", "2 roots".
pub(super) fn count(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let show = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(show(11_530), "3h 12m");
        assert_eq!(show(42), "42s");
        assert_eq!(show(86_400), "1d");
        assert_eq!(show(86_405), "1d");
        assert_eq!(duration(Duration::from_millis(250)), "250ms");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn points_in_time_are_near_or_far() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(until(now + Duration::from_secs(90), now), "in 1m 30s");
        assert_eq!(until(now - Duration::from_secs(90), now), "1m 30s ago");
        assert_eq!(time(now), "2027-01-15T08:00:00Z");
    }
}
