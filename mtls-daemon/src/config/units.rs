//! Durations and sizes as people write them: "1h30m", "64MiB".

use std::time::Duration;

const TIMES: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1000),
    ("m", 60 * 1000),
    ("h", 3600 * 1000),
    ("d", 24 * 3600 * 1000),
];
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// The largest unit that loses nothing: "5m", "1500ms".
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let (unit, size) = TIMES
        .iter()
        .rev()
        .find(|(_, size)| millis.is_multiple_of(u128::from(*size)))
        .unwrap_or(&TIMES[0]);
    format!("{}{unit}", millis / u128::from(*size))
}

/// The largest unit that loses nothing: "64MiB".
pub(super) fn show_size(bytes: u64) -> String {
    let (unit, size) = SIZES
        .iter()
        .rev()
        .find(|(_, size)| bytes.is_multiple_of(*size) && bytes > 0)
        .unwrap_or(&SIZES[0]);
    format!("{}{unit}", bytes / size)
}

/// "1h30m", "500ms": numbers with units, largest first or not.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut millis = 0_u64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_lowercase())
                .len();
        let (_, size) = TIMES.iter().find(|(unit, _)| *unit == &rest[..letters])?;
        rest = &rest[letters..];
        millis = millis.checked_add(number.checked_mul(*size)?)?;
    }
    Some(Duration::from_millis(millis))
}

pub(super) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    let (_, size) = SIZES.iter().find(|(unit, _)| *unit == &text[digits..])?;
    number.checked_mul(*size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        let seconds = |text| parse_duration(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("1h30m"), Some(5400.0));
        assert_eq!(seconds("500ms"), Some(0.5));
        for bad in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "5S",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_a_number_with_a_unit() {
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("0B"), Some(0));
        for bad in [
            "",
            "64",
            "64kb",
            "64 MiB",
            "1.5MiB",
            "18446744073709551615KiB",
        ] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(millis in 0_u64..u64::MAX / 2, bytes: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
