//! The calendar: days since 1970-01-01 and their dates, proleptic Gregorian, counted in 400-year eras that begin on
//! 1 March, so that a leap day is a year's last.

/// From 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: u64 = 719_468;
const DAYS_OF_ERA: u64 = 146_097;

/// Year, month (from 0) and day of a day since 1970-01-01.
pub fn date_of_day(days: u64) -> (u64, usize, u64) {
    let since_era_zero = days + DAYS_TO_1970;
    let era = since_era_zero / DAYS_OF_ERA;
    let day_of_era = since_era_zero % DAYS_OF_ERA;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = ((month_from_march + 2) % 12) as usize;
    (era * 400 + year_of_era + u64::from(month < 2), month, day)
}

/// The day since 1970-01-01 of a date; month from 0. None if there is no such day from 1970 to 9999.
pub fn day_of_date(year: u64, month: usize, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || month > 11 || !(1..=31).contains(&day) {
        return None;
    }
    let year_from_march = year - u64::from(month < 2);
    let (era, year_of_era) = (year_from_march / 400, year_from_march % 400);
    let month_from_march = (month as u64 + 10) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * DAYS_OF_ERA + day_of_era - DAYS_TO_1970;
    (date_of_day(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for days in (0..2_932_897).step_by(7) {
            let (year, month, day) = date_of_day(days);
            assert_eq!(day_of_date(year, month, day), Some(days), "{year}-{month}-{day}");
        }
        assert_eq!(day_of_date(1970, 0, 1), Some(0));
        assert_eq!(day_of_date(2000, 1, 29), Some(11_016));
        for (year, month, day) in [(2026, 1, 29), (2100, 1, 29), (2026, 3, 31), (1969, 11, 31), (2026, 12, 1)]
        {
            assert_eq!(day_of_date(year, month, day), None, "{year}-{month}-{day}");
        }
    }
}
