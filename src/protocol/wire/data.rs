//! The end of a message, and what must not be in one: RFC 5321 section 4.1.1.4 and section 2.3.8.
//!
//! Only CRLF.CRLF ends a message that comes by DATA; one that comes by BDAT (RFC 3030) ends where it says. What
//! makes smuggling possible is a CR or LF that stands alone, so these are looked for on the way, and NUL with
//! them, in either: what came by BDAT may leave by DATA.

use memchr::memchr_iter;

/// Octets surveyed at a time: large enough to amortise, small enough that little behind the end is looked at.
const BLOCK: usize = 2048;

/// Where in a line the scan stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Place {
    /// After CRLF, or at the message's start.
    #[default]
    LineStart,
    /// After a dot at the line's start.
    Dot,
    /// After a dot and CR at the line's start.
    DotCr,
    /// After any other CR.
    Cr,
    /// Anywhere else.
    Within,
    /// After CRLF.CRLF.
    End,
}

/// How a message's octets stand on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Form {
    /// As DATA has it: lines that begin with a dot have one more, and a line with a dot alone ends it.
    #[default]
    Stuffed,
    /// As BDAT has it: nothing is added.
    Plain,
}

/// What has to be known of a message to give it another form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    /// The form it has.
    pub form: Form,
    /// Lines that begin with a dot, but for the one that ends it.
    pub dots: u64,
    /// It is empty, or ends with CRLF.
    pub ends_line: bool,
}

/// Scans one message, in pieces as they come.
#[derive(Debug, Default)]
pub struct Scanner {
    form: Form,
    place: Place,
    /// Any octets will do.
    any: bool,
    bare: bool,
    size: u64,
    dots: u64,
}

impl Scanner {
    /// For a message of that form.
    pub fn of(form: Form) -> Scanner {
        Scanner { form, ..Scanner::default() }
    }

    /// Whether a CR or LF that stands alone, or NUL, may be in it: a binary message (RFC 3030 section 3).
    pub fn allow_any(&mut self, any: bool) {
        self.any = any;
    }

    /// Scans from the start of `piece` to the end of the message or of the piece; octets taken.
    pub fn push(&mut self, piece: &[u8]) -> usize {
        self.push_by(piece, survey)
    }

    /// The same by another build of [`survey`].
    pub fn push_by(&mut self, piece: &[u8], survey: Survey) -> usize {
        let mut at = 0;
        while at < piece.len() && self.place != Place::End {
            if self.place == Place::Within {
                at += self.block(&piece[at..piece.len().min(at + BLOCK)], survey);
            } else {
                self.step(piece[at]);
                at += 1;
            }
        }
        self.size += at as u64;
        at
    }

    /// Has the message ended?
    pub fn is_ended(&self) -> bool {
        self.place == Place::End
    }

    /// Was there a CR or LF that stands alone, or NUL? A CR at the end so far is left to what follows.
    pub fn is_bare(&self) -> bool {
        self.bare && !self.any
    }

    /// Is the octet before the next one a CR? As a message's last one it stands alone.
    pub fn is_after_cr(&self) -> bool {
        matches!(self.place, Place::Cr | Place::DotCr) && !self.any
    }

    /// Octets taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What it has come to so far.
    pub fn shape(&self) -> Shape {
        let ends_line = matches!(self.place, Place::LineStart | Place::End);
        Shape { form: self.form, dots: self.dots, ends_line }
    }

    /// Is the message longer than `max`, without stuffed dots and final dot (RFC 1870 section 5)?
    pub fn is_beyond(&self, max: u64) -> bool {
        match self.form {
            Form::Stuffed => self.size - self.dots > max.saturating_add(b".\r\n".len() as u64),
            Form::Plain => self.size > max,
        }
    }

    /// One octet.
    fn step(&mut self, byte: u8) {
        let after_cr = matches!(self.place, Place::Cr | Place::DotCr);
        self.bare |= after_cr != (byte == b'\n') || byte == 0;
        let is_plain = self.form == Form::Plain;
        self.dots += u64::from(match self.place {
            Place::Dot => byte != b'\r',
            Place::LineStart => is_plain && byte == b'.',
            _ => false,
        });
        self.place = match (self.place, byte) {
            (Place::LineStart, b'.') if is_plain => Place::Within,
            (Place::LineStart, b'.') => Place::Dot,
            (Place::Dot, b'\r') => Place::DotCr,
            (Place::DotCr, b'\n') => Place::End,
            (Place::Cr, b'\n') => Place::LineStart,
            (_, b'\r') => Place::Cr,
            _ => Place::Within,
        };
    }

    /// A block that begins within a line; octets taken.
    fn block(&mut self, block: &[u8], survey: Survey) -> usize {
        let seen = survey(block);
        let mut taken = block.len();
        if seen.dots && self.form == Form::Plain {
            self.dots += line_dots(block).count() as u64;
        } else if seen.dots {
            for dot in line_dots(block) {
                match &block[dot + 1..] {
                    [b'\r', b'\n', ..] => {
                        taken = dot + 3;
                        self.bare |= survey(&block[..taken]).bare;
                        self.place = Place::End;
                        return taken;
                    }
                    // Not yet known whether it is stuffed: `step` will see.
                    [] | [b'\r'] => {}
                    // A dot and a CR that stands alone: counted as it would be by `step`.
                    [b'\r', ..] => {}
                    _ => self.dots += 1,
                }
            }
        }
        self.bare |= seen.bare;
        let is_stuffed = self.form == Form::Stuffed;
        self.place = match block {
            [.., b'\r', b'\n', b'.', b'\r'] if is_stuffed => Place::DotCr,
            [.., b'\r', b'\n', b'.'] if is_stuffed => Place::Dot,
            [.., b'\r', b'\n'] => Place::LineStart,
            [.., b'\r'] => Place::Cr,
            _ => Place::Within,
        };
        taken
    }
}

/// Where dots stand behind CRLF.
fn line_dots(block: &[u8]) -> impl Iterator<Item = usize> {
    memchr_iter(b'.', block).filter(|&at| block[..at].ends_with(b"\r\n"))
}

/// What a look at a whole block tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// A CR or LF that stands alone, or NUL. A CR at the end is left to what follows it.
    pub bare: bool,
    /// A dot after LF: worth a closer look.
    pub dots: bool,
}

/// [`survey`], or another build of it.
pub type Survey = fn(&[u8]) -> Seen;

/// Looks at a block that begins within a line. Written without branches, so that the compiler makes SIMD of it, as wide
/// as it may where it is built into.
#[inline(always)]
pub fn survey(block: &[u8]) -> Seen {
    let Some((&first, rest)) = block.split_first() else {
        return Seen { bare: false, dots: false };
    };
    // Of truth values it makes better code than of numbers (measured: 46 instructions for 64 octets against 65).
    let (mut bare, mut least, mut dots) = (first == b'\n', first, false);
    for (&before, &byte) in block.iter().zip(rest) {
        bare |= (before == b'\r') ^ (byte == b'\n');
        least = least.min(byte);
        dots |= (before == b'\n') & (byte == b'.');
    }
    Seen { bare: bare || least == 0, dots }
}
