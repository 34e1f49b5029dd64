//! Durations and sizes as people write them: a whole number and a unit.

use std::fmt;
use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// `250ms`, `30s`, `5m`, `2h`, `7d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let (_, millis) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*millis).map(Duration::from_millis)
}

/// `512B`, `64KiB`, `25MiB`, `2GiB`; in bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*bytes)
}

/// The number in front and the unit behind it, with or without a space between.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(digits_end);
    Some((digits.parse().ok()?, unit.strip_prefix(' ').unwrap_or(unit)))
}

/// Displays a duration as the configuration would write it.
pub(super) struct Span(pub(super) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        write_largest_unit(f, millis, &DURATION_UNITS, "0s")
    }
}

/// Displays a number of bytes as the configuration would write it.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_largest_unit(f, self.0, &SIZE_UNITS, "0B")
    }
}

/// The largest unit of which `amount` is a whole number: nothing is rounded.
fn write_largest_unit(
    f: &mut fmt::Formatter<'_>,
    amount: u64,
    units: &[(&str, u64)],
    zero: &str,
) -> fmt::Result {
    if amount == 0 {
        return f.write_str(zero);
    }
    match units.iter().rev().find(|(_, factor)| amount.is_multiple_of(*factor)) {
        Some((unit, factor)) => write!(f, "{}{unit}", amount / factor),
        None => write!(f, "{amount}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("7d", 604_800_000)]
        {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Some(duration));
            assert_eq!(Span(duration).to_string(), text);
        }
        assert_eq!(parse_duration("30 s"), Some(Duration::from_secs(30)));
        assert_eq!(Span(Duration::from_millis(1_500)).to_string(), "1500ms");
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "1.5s",
            "5 sec",
            "5S",
            "5s ",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("25MiB", 26_214_400), ("2GiB", 1 << 31)] {
            assert_eq!(parse_size(text), Some(bytes));
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(Size(1_000).to_string(), "1000B");
        for text in ["", "MiB", "25MB", "25M", "25mib", "1.5GiB", "18446744073709551615KiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
