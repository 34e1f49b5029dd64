//! Replies: RFC 5321 section 4.2, with enhanced codes by RFC 2034 and RFC 3463.

use std::fmt;

use super::text::write_decimal;

/// A reply line's most octets, CRLF included (RFC 5321 section 4.5.3.1.5).
pub const LINE_MAX: usize = 512;

/// An enhanced status code: class, subject, detail (RFC 3463).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl Enhanced {
    /// Takes an enhanced code of class `class` off the front of `text`; what follows it and one space.
    fn strip(text: &[u8], class: u8) -> Option<(Enhanced, &[u8])> {
        let rest = match text {
            [c, b'.', rest @ ..] if *c == b'0' + class => rest,
            _ => return None,
        };
        let (subject, rest) = number(rest)?;
        let (detail, rest) = number(rest.strip_prefix(b".")?)?;
        match rest {
            [] => Some((Enhanced(class, subject, detail), rest)),
            [b' ', rest @ ..] => Some((Enhanced(class, subject, detail), rest)),
            _ => None,
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        write_decimal(self.0.into(), out);
        out.push(b'.');
        write_decimal(self.1.into(), out);
        out.push(b'.');
        write_decimal(self.2.into(), out);
    }
}

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One to three digits off the front, without a leading zero.
fn number(text: &[u8]) -> Option<(u16, &[u8])> {
    let len = text.iter().take(4).take_while(|b| b.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(len);
    match digits {
        [] | [_, _, _, _] | [b'0', _, ..] => None,
        _ => Some((digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0')), rest)),
    }
}

/// A reply, parsed or to be sent. `text`: its lines joined by LF, without codes, dashes and the enhanced code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'a> {
    /// The three-digit code.
    pub code: u16,
    /// The enhanced code, if it has one.
    pub enhanced: Option<Enhanced>,
    /// Its lines, joined by LF.
    pub text: &'a [u8],
}

impl<'a> Reply<'a> {
    /// A reply of ours.
    pub const fn new(code: u16, enhanced: Enhanced, text: &'a str) -> Self {
        Reply { code, enhanced: Some(enhanced), text: text.as_bytes() }
    }

    /// 2xx: done.
    pub const fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3xx: go on.
    pub const fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 4xx: not now.
    pub const fn is_temporary(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5xx: not ever.
    pub const fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// Writes it in wire form. Lines too long for one reply line are folded, at a space where there is one;
    /// control bytes become `?`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let code = self.code.clamp(200, 599);
        let mut text = self.text;
        loop {
            let start = out.len();
            write_decimal(code.into(), out);
            out.push(b' ');
            if let Some(enhanced) = self.enhanced {
                enhanced.write(out);
                out.push(b' ');
            }
            let (line, rest) = fold(text, LINE_MAX - 2 - (out.len() - start));
            out.extend(line.iter().map(|&b| if b < 32 && b != b'\t' || b == 127 { b'?' } else { b }));
            if line.is_empty() && self.enhanced.is_some() {
                out.pop();
            }
            out.extend_from_slice(b"\r\n");
            match rest {
                Some(rest) => {
                    out[start + 3] = b'-';
                    text = rest;
                }
                None => break,
            }
        }
    }

    /// An owned copy.
    pub fn to_buf(&self) -> ReplyBuf {
        let text = match self.text.len() {
            len @ 0..=INLINE_MAX => {
                let mut bytes = [0; INLINE_MAX];
                bytes[..len].copy_from_slice(self.text);
                Text::Inline(len as u8, bytes)
            }
            _ => Text::Boxed(self.text.into()),
        };
        ReplyBuf { code: self.code, enhanced: self.enhanced, text }
    }
}

/// The next line of `text` of at most `max` octets, and what is left for further ones.
fn fold(text: &[u8], max: usize) -> (&[u8], Option<&[u8]>) {
    let end = memchr::memchr(b'\n', text);
    let line = &text[..end.unwrap_or(text.len())];
    if line.len() <= max {
        return (line, end.map(|end| &text[end + 1..]));
    }
    match memchr::memrchr(b' ', &line[..=max]) {
        Some(space) if space > 0 => (&text[..space], Some(&text[space + 1..])),
        _ => {
            // Not within a UTF-8 character, if it is UTF-8.
            let back = (0..4).find(|back| text[max - back] & 0xc0 != 0x80).unwrap_or(0);
            (&text[..max - back], Some(&text[max - back..]))
        }
    }
}

/// Text kept without an allocation, in octets.
const INLINE_MAX: usize = 111;

#[derive(Clone)]
enum Text {
    Inline(u8, [u8; INLINE_MAX]),
    Boxed(Box<[u8]>),
}

/// An owned reply. Usual texts lie within it, longer ones are boxed.
#[derive(Clone)]
pub struct ReplyBuf {
    code: u16,
    enhanced: Option<Enhanced>,
    text: Text,
}

impl ReplyBuf {
    /// The reply in it.
    pub fn as_reply(&self) -> Reply<'_> {
        let text = match &self.text {
            Text::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Text::Boxed(bytes) => bytes,
        };
        Reply { code: self.code, enhanced: self.enhanced, text }
    }
}

impl PartialEq for ReplyBuf {
    fn eq(&self, other: &Self) -> bool {
        self.as_reply() == other.as_reply()
    }
}

impl Eq for ReplyBuf {}

impl fmt::Debug for ReplyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBuf")
            .field("code", &self.code)
            .field("enhanced", &self.enhanced)
            .field("text", &String::from_utf8_lossy(self.as_reply().text))
            .finish()
    }
}

/// One line of a reply as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// The three-digit code.
    pub code: u16,
    /// Is it the reply's last line?
    pub last: bool,
    /// What follows code and separator, enhanced code included.
    pub rest: &'a [u8],
}

impl<'a> Line<'a> {
    /// Parses `250-…`, `250 …` or `250`. `line` may end in CRLF or LF.
    pub fn parse(line: &'a [u8]) -> Option<Line<'a>> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, rest) = match line {
            [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] => {
                (u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'), rest)
            }
            _ => return None,
        };
        match rest {
            [] => Some(Line { code, last: true, rest }),
            [b' ', rest @ ..] => Some(Line { code, last: true, rest }),
            [b'-', rest @ ..] => Some(Line { code, last: false, rest }),
            _ => None,
        }
    }

    /// The enhanced code at its front, if it has one of the code's class (RFC 2034 section 4), and its text.
    pub fn split(&self) -> (Option<Enhanced>, &'a [u8]) {
        match Enhanced::strip(self.rest, (self.code / 100) as u8) {
            Some((enhanced, text)) => (Some(enhanced), text),
            None => (None, self.rest),
        }
    }
}
