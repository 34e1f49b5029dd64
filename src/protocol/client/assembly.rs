//! A reply out of its lines.

use std::ops::Range;

use crate::protocol::wire::reply::{Enhanced, Line, Reply};
use crate::protocol::wire::text::{Cut, Lines};

/// A reply's most octets in all.
const REPLY_MAX: usize = 64 << 10;
/// How much of its text is kept, in octets.
const TEXT_MAX: usize = 4 << 10;

/// A complete reply. Its text is taken with [`Assembly::reply`].
#[derive(Debug)]
pub(super) struct Framed {
    pub(super) code: u16,
    enhanced: Option<Enhanced>,
    /// Where in the input its text lies, unless it had to be put together.
    lent: Option<Range<usize>>,
}

/// Puts replies together. One that comes as a single whole line is left where it lies.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    lines: Lines,
    /// Code and enhanced code of the first line of the reply under way.
    first: Option<(u16, Option<Enhanced>)>,
    text: Vec<u8>,
    octets: usize,
}

impl Assembly {
    /// Takes lines from `input[*at..]` up to the end of a reply. `learn` sees each line but the first, code cut
    /// off. None if the input ends before. The fault is final.
    pub(super) fn next(
        &mut self,
        input: &[u8],
        at: &mut usize,
        mut learn: impl FnMut(&[u8]),
    ) -> Result<Option<Framed>, &'static str> {
        while *at < input.len() {
            let (next, cut) = self.lines.cut(input, *at, REPLY_MAX);
            let start = *at;
            *at = next;
            let (line, is_lendable) = match cut {
                Cut::Input(range) => (&input[range], true),
                Cut::Carried => (self.lines.carried(), false),
                Cut::Nothing if !self.lines.is_over() => return Ok(None),
                Cut::Nothing | Cut::TooLong => return Err("reply too long"),
            };
            let parsed = Line::parse(line).ok_or("not a reply")?;
            let octets = self.octets + line.len();
            let is_first = self.first.is_none();
            let (enhanced, text) = parsed.split();
            let (code, reply_enhanced) = *self.first.get_or_insert((parsed.code, enhanced));
            if parsed.code != code {
                return Err("codes differ within a reply");
            }
            if octets > REPLY_MAX {
                return Err("reply too long");
            }
            if !is_first {
                learn(parsed.rest);
            }
            // The enhanced code is cut off a further line only if it says the same again.
            let text = if enhanced == reply_enhanced { text } else { parsed.rest };
            if is_first && parsed.last && is_lendable {
                let text_start = start + (text.as_ptr() as usize - line.as_ptr() as usize);
                let lent = text_start..text_start + text.len().min(TEXT_MAX);
                self.first = None;
                return Ok(Some(Framed { code, enhanced: reply_enhanced, lent: Some(lent) }));
            }
            if is_first {
                self.text.clear();
            } else if self.text.len() < TEXT_MAX {
                self.text.push(b'\n');
            }
            let room = TEXT_MAX - self.text.len();
            self.text.extend_from_slice(&text[..text.len().min(room)]);
            self.octets = octets;
            let is_last = parsed.last;
            self.lines.clear();
            if is_last {
                (self.first, self.octets) = (None, 0);
                return Ok(Some(Framed { code, enhanced: reply_enhanced, lent: None }));
            }
        }
        Ok(None)
    }

    /// The reply that was just framed from this `input`.
    pub(super) fn reply<'a>(&'a self, framed: &Framed, input: &'a [u8]) -> Reply<'a> {
        let text = match &framed.lent {
            Some(range) => &input[range.clone()],
            None => &self.text,
        };
        Reply { code: framed.code, enhanced: framed.enhanced, text }
    }
}

/// Reads replies without a client around them.
#[derive(Debug, Default)]
pub struct ReplyReader(Assembly);

impl ReplyReader {
    /// Hands every reply that ends in `input` to `take`. The fault is final.
    pub fn read(&mut self, input: &[u8], take: &mut dyn FnMut(Reply<'_>)) -> Result<(), &'static str> {
        let mut at = 0;
        while let Some(framed) = self.0.next(input, &mut at, |_| {})? {
            take(self.0.reply(&framed, input));
        }
        Ok(())
    }
}
