//! What a sender asks about time: to hold a message (FUTURERELEASE, RFC 4865), and by when it is wanted (DELIVERBY,
//! RFC 2852).

use std::io::Write;

use super::text::{decimal, write_decimal};
use crate::time::civil::{date_of_day, day_of_date};

/// The most seconds that have a way to be written: nine digits.
const SECONDS_MAX: u32 = 999_999_999;

/// Until when a message is held: HOLDFOR or HOLDUNTIL (RFC 4865 section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// For so many seconds.
    For(u32),
    /// Until then, in seconds since 1970.
    Until(u64),
}

impl Hold {
    /// Seconds since 1970 at which it may go. `now`: the same.
    pub fn release(self, now: u64) -> u64 {
        match self {
            Hold::For(seconds) => now + u64::from(seconds),
            Hold::Until(unix) => unix,
        }
    }

    /// The same in milliseconds.
    pub fn release_ms(self, now: u64) -> u64 {
        match self {
            Hold::For(seconds) => now.saturating_add(u64::from(seconds) * 1000),
            Hold::Until(unix) => unix.saturating_mul(1000),
        }
    }

    /// Writes it as notices have it (RFC 4865: `Future-Release-Request`).
    pub fn write_request(self, out: &mut Vec<u8>) {
        match self {
            Hold::For(seconds) => {
                out.extend_from_slice(b"for;");
                write_decimal(seconds.into(), out);
            }
            Hold::Until(unix) => {
                out.extend_from_slice(b"until;");
                write_date(unix, out);
            }
        }
    }

    /// HOLDFOR's value: one to nine digits, not zero alone.
    pub(super) fn parse_for(value: &[u8]) -> Option<Hold> {
        let seconds = decimal(value, 9).filter(|&seconds| seconds > 0)?;
        Some(Hold::For(seconds as u32))
    }

    /// HOLDUNTIL's value.
    pub(super) fn parse_until(value: &[u8]) -> Option<Hold> {
        parse_date(value).map(Hold::Until)
    }
}

/// What is to become of a message that is not delivered in time (RFC 2852 section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByMode {
    /// `N`: it goes on, and the sender is told.
    Notify,
    /// `R`: it comes back.
    Return,
}

/// By when a message is wanted: the BY parameter (RFC 2852 section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliverBy {
    /// Seconds from when MAIL was said; in mode `N` they may have run out.
    pub seconds: i32,
    /// What follows if it is not.
    pub mode: ByMode,
    /// `T`: each relay on the way is to be told of.
    pub trace: bool,
}

impl DeliverBy {
    /// BY's value: `[+|-]seconds;mode[T]`.
    pub(super) fn parse(value: &[u8]) -> Option<DeliverBy> {
        let at = memchr::memchr(b';', value)?;
        let (time, mode) = (&value[..at], &value[at + 1..]);
        let (sign, digits) = match time {
            [b'-', digits @ ..] => (-1, digits),
            [b'+', digits @ ..] => (1, digits),
            digits => (1, digits),
        };
        let seconds = sign * decimal(digits, 9)? as i32;
        let (mode, trace) = match mode {
            [mode] => (mode, false),
            [mode, b'T' | b't'] => (mode, true),
            _ => return None,
        };
        let mode = match mode {
            b'N' | b'n' => ByMode::Notify,
            // What has to come back at once need not be sent.
            b'R' | b'r' if seconds > 0 => ByMode::Return,
            _ => return None,
        };
        Some(DeliverBy { seconds, mode, trace })
    }

    /// Writes the parameter.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.seconds < 0 { b" BY=-" } else { b" BY=" });
        write_decimal(self.seconds.unsigned_abs().min(SECONDS_MAX).into(), out);
        out.extend_from_slice(match self.mode {
            ByMode::Notify => b";N",
            ByMode::Return => b";R",
        });
        out.extend_from_slice(if self.trace { b"T" } else { b"" });
    }
}

/// `2026-11-24T08:00:00Z` (RFC 3339), in seconds since 1970. A fraction of a second is cut off, a leap second is the
/// second before it.
fn parse_date(text: &[u8]) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| decimal(text.get(range)?, 4);
    let is_date =
        [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')].iter().all(|(at, b)| text.get(*at) == Some(b));
    if !is_date || !text.get(10)?.eq_ignore_ascii_case(&b'T') {
        return None;
    }
    let day =
        day_of_date(number(0..4)?, usize::try_from(number(5..7)?.checked_sub(1)?).ok()?, number(8..10)?)?;
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let local = day * 86_400 + hour * 3600 + minute * 60 + second.min(59);
    let mut zone = &text[19..];
    if let [b'.', rest @ ..] = zone {
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        zone = rest.get(digits..).filter(|_| digits > 0)?;
    }
    match zone {
        [b'Z' | b'z'] => Some(local),
        [sign @ (b'+' | b'-'), h @ .., b':', _, _] if h.len() == 2 => {
            let (hours, minutes) = (decimal(h, 2)?, decimal(&zone[4..], 2)?);
            let offset = (hours <= 23 && minutes <= 59).then_some(hours * 3600 + minutes * 60)?;
            if *sign == b'+' { local.checked_sub(offset) } else { Some(local + offset) }
        }
        _ => None,
    }
}

/// Writes such a date.
pub(in crate::protocol) fn write_date(unix: u64, out: &mut Vec<u8>) {
    let (year, month, day) = date_of_day(unix / 86_400);
    let (hour, minute, second) = (unix / 3600 % 24, unix / 60 % 60, unix % 60);
    write!(out, "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1)
        .expect("writing to memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let known = 1_795_507_200;
        for text in [
            "2026-11-24T08:00:00Z",
            "2026-11-24t08:00:00.999z",
            "2026-11-24T09:30:00+01:30",
            "2026-11-23T23:00:00-09:00",
        ] {
            assert_eq!(parse_date(text.as_bytes()), Some(known), "{text}");
        }
        assert_eq!(parse_date(b"2016-12-31T23:59:60Z"), Some(1_483_228_799));
        assert_eq!(parse_date(b"1970-01-01T00:00:00Z"), Some(0));
        for text in [
            "",
            "2026-11-24",
            "2026-11-24 08:00:00Z",
            "2026-11-24T08:00:00",
            "2026-11-24T08:00:00.Z",
            "2026-11-24T24:00:00Z",
            "2026-11-31T08:00:00Z",
            "2026-00-24T08:00:00Z",
            "2026-11-24T08:00:00+1:00",
            "2026-11-24T08:00:00+24:00",
            "2026-11-24T08:00:00+01:000",
            "1970-01-01T00:00:00+00:01",
            "+026-11-24T08:00:00Z",
        ] {
            assert_eq!(parse_date(text.as_bytes()), None, "{text}");
        }
        let mut out = Vec::new();
        write_date(known, &mut out);
        assert_eq!(out, b"2026-11-24T08:00:00Z");
    }

    #[test]
    fn holds() {
        assert_eq!(Hold::parse_for(b"999999999"), Some(Hold::For(999_999_999)));
        assert!([&b"0"[..], b"", b"-1", b"1000000000"].iter().all(|text| Hold::parse_for(text).is_none()));
        assert_eq!(Hold::For(60).release(1000), 1060);
        assert_eq!(Hold::parse_until(b"1970-01-01T00:01:00Z").map(|hold| hold.release(1000)), Some(60));
    }

    #[test]
    fn deadlines() {
        let by = |seconds, mode, trace| Some(DeliverBy { seconds, mode, trace });
        assert_eq!(DeliverBy::parse(b"120;R"), by(120, ByMode::Return, false));
        assert_eq!(DeliverBy::parse(b"+120;rt"), by(120, ByMode::Return, true));
        assert_eq!(DeliverBy::parse(b"-999999999;NT"), by(-999_999_999, ByMode::Notify, true));
        assert_eq!(DeliverBy::parse(b"0;n"), by(0, ByMode::Notify, false));
        for text in ["120;R", "120;RT", "0;N", "-999999999;NT"] {
            let mut out = Vec::new();
            DeliverBy::parse(text.as_bytes()).expect("valid").write(&mut out);
            assert_eq!(out, format!(" BY={text}").as_bytes());
        }
        let mut out = Vec::new();
        DeliverBy { seconds: i32::MIN, mode: ByMode::Notify, trace: false }.write(&mut out);
        assert_eq!(out, b" BY=-999999999;N", "no more than nine digits");
        for text in
            ["120", "120;", "120;X", "120;RN", "120;RTT", ";R", "0;R", "-5;R", "+-5;N", "1000000000;N"]
        {
            assert_eq!(DeliverBy::parse(text.as_bytes()), None, "{text}");
        }
    }
}
