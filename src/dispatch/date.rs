//! RFC 5322 dates in UTC, from seconds since 1970.

use std::fmt;
use std::io::Write;

use crate::time::civil::date_of_day;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A date, formatted anew only when its second changes.
#[derive(Debug, Default)]
pub(super) struct DateLine {
    second: Option<u64>,
    text: Vec<u8>,
}

impl DateLine {
    /// "Tue, 24 Nov 2026 08:00:00 +0000".
    pub(super) fn at(&mut self, unix: u64) -> &[u8] {
        if self.second != Some(unix) {
            self.second = Some(unix);
            self.text.clear();
            write!(self.text, "{}", Date(unix)).expect("writing to memory");
        }
        &self.text
    }
}

/// A date, from seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Date(pub(super) u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (self.0 / 86_400, self.0 % 86_400);
        let (year, month, day) = date_of_day(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month]);
        write!(f, "{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let mut line = DateLine::default();
        let mut text = |unix| String::from_utf8(line.at(unix).to_vec()).expect("ASCII");
        assert_eq!(text(0), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(text(951_782_399), "Mon, 28 Feb 2000 23:59:59 +0000");
        assert_eq!(text(951_782_400), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(text(1_795_507_200), "Tue, 24 Nov 2026 08:00:00 +0000");
        assert_eq!(text(4_102_444_799), "Thu, 31 Dec 2099 23:59:59 +0000");
    }
}
