//! RFC 5322 dates in UTC, from seconds since 1970.

use std::fmt;
use std::io::Write;

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
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month]);
        write!(f, "{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
    }
}

/// Year, month (from 0) and day of a day since 1970-01-01: counted in 400-year eras that begin on 1 March, so
/// that a leap day is a year's last.
fn civil(days: u64) -> (u64, usize, u64) {
    let since_era_zero = days + 719_468;
    let era = since_era_zero / 146_097;
    let day_of_era = since_era_zero % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = ((month_from_march + 2) % 12) as usize;
    (era * 400 + year_of_era + u64::from(month < 2), month, day)
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
