//! Lines out of a byte stream, and the small grammar both directions share.

use std::mem;
use std::ops::Range;

use memchr::memchr;

/// Capacity a carry buffer keeps between lines, in octets.
const CARRY_KEPT_MAX: usize = 2048;

/// Cuts a byte stream into lines. A line that came in one piece is left where it lies; only one that is
/// split over receives is copied together.
#[derive(Debug, Default)]
pub(in crate::protocol) struct Lines {
    carry: Vec<u8>,
    over: bool,
}

/// What [`Lines::cut`] found.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Cut {
    /// A whole line, with its LF, in this part of the input.
    Input(Range<usize>),
    /// A line begun in an earlier input is complete: see [`Lines::carried`].
    Carried,
    /// The end of a line that was longer than allowed.
    TooLong,
    /// The input ends within a line.
    Nothing,
}

impl Lines {
    /// Looks for the end of a line in `input[at..]`. Returns where the next one begins.
    /// `max` bounds a line in octets, its LF included.
    pub(in crate::protocol) fn cut(&mut self, input: &[u8], at: usize, max: usize) -> (usize, Cut) {
        let rest = &input[at..];
        let (taken, ended) = match memchr(b'\n', rest) {
            Some(i) => (i + 1, true),
            None => (rest.len(), false),
        };
        let next = at + taken;
        if self.over || self.carry.len() + taken > max {
            self.clear();
            self.over = !ended;
            return (next, if ended { Cut::TooLong } else { Cut::Nothing });
        }
        if ended && self.carry.is_empty() {
            return (next, Cut::Input(at..next));
        }
        self.carry.extend_from_slice(&rest[..taken]);
        (next, if ended { Cut::Carried } else { Cut::Nothing })
    }

    /// The line put together, after [`Cut::Carried`]. `clear` or `move_to` must follow.
    pub(in crate::protocol) fn carried(&self) -> &[u8] {
        &self.carry
    }

    /// Moves the line put together into `line`, whose allocation is used for the next one.
    pub(in crate::protocol) fn move_to(&mut self, line: &mut Vec<u8>) {
        mem::swap(&mut self.carry, line);
        self.carry.clear();
    }

    /// Forgets the line put together.
    pub(in crate::protocol) fn clear(&mut self) {
        self.carry.clear();
        self.carry.shrink_to(CARRY_KEPT_MAX);
    }

    /// Is the line under way already longer than allowed?
    pub(in crate::protocol) fn is_over(&self) -> bool {
        self.over
    }
}

/// Without blanks (space, tab) at its end.
pub(in crate::protocol) fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [head @ .., b' ' | b'\t'] = text {
        text = head;
    }
    text
}

/// Without blanks at its start.
pub(in crate::protocol) fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', tail @ ..] = text {
        text = tail;
    }
    text
}

/// What follows `prefix`, which is compared without regard to case.
pub(in crate::protocol) fn strip_prefix_ignore_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

/// The word up to the first blank, and what follows the blanks.
pub(in crate::protocol) fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(text.len());
    (&text[..end], trim_start(&text[end..]))
}

/// A decimal number of 1 to `digits_max` digits and nothing else. None too if it does not fit.
pub(in crate::protocol) fn decimal(text: &[u8], digits_max: usize) -> Option<u64> {
    if text.is_empty() || text.len() > digits_max {
        return None;
    }
    text.iter().try_fold(0u64, |sum, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// The same for what is only compared with a bound: the largest number there is if it does not fit.
pub(in crate::protocol) fn decimal_or_more(text: &[u8], digits_max: usize) -> Option<u64> {
    let is_number = (1..=digits_max).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| decimal(text, digits_max).unwrap_or(u64::MAX))
}

/// Writes a number in decimal.
pub(in crate::protocol) fn write_decimal(mut number: u64, out: &mut Vec<u8>) {
    // Most are parts of an enhanced status code.
    if number < 10 {
        return out.push(b'0' + number as u8);
    }
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Is it xtext (RFC 3461 section 4): printable, with `+XX` for `+`, `=` and what cannot be printed? With
/// `utf8` characters beyond ASCII may stand for themselves (RFC 6533 section 3).
pub(in crate::protocol) fn is_xtext(mut text: &[u8], utf8: bool) -> bool {
    let is_hex = |b: &u8| matches!(b, b'0'..=b'9' | b'A'..=b'F');
    loop {
        text = match text {
            [] => return true,
            [b'+', a, b, tail @ ..] if is_hex(a) && is_hex(b) => tail,
            [b'+' | b'=', ..] => return false,
            [33..=126, tail @ ..] => tail,
            [128..=255, tail @ ..] if utf8 => tail,
            _ => return false,
        };
    }
}
