//! Commands and their parameters: RFC 5321 section 4.1.1, with SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8
//! (RFC 6531), DSN (RFC 3461), FUTURERELEASE (RFC 4865) and DELIVERBY (RFC 2852).

use super::address;
use super::later::{DeliverBy, Hold};
use super::text::{
    decimal, decimal_or_more, is_xtext, split_word, strip_prefix_ignore_case, trim_end, trim_start,
    write_decimal,
};

/// A command line's most octets, CRLF included (RFC 5321 section 4.5.3.1.4).
pub const LINE_MAX: usize = 512;
/// MAIL's: SIZE adds 26 (RFC 1870), BODY 17 (RFC 6152), SMTPUTF8 10 (RFC 6531), RET and ENVID 107 (RFC 3461), HOLDFOR or
/// HOLDUNTIL 34 (RFC 4865), BY 17 (RFC 2852).
pub const MAIL_LINE_MAX: usize = LINE_MAX + 26 + 17 + 10 + 107 + 34 + 17;
/// RCPT's: NOTIFY and ORCPT add 500 (RFC 3461).
pub const RCPT_LINE_MAX: usize = LINE_MAX + 500;
/// ENVID's most octets (RFC 3461 section 4.4).
const ENVID_MAX: usize = 100;
/// ORCPT's most octets (RFC 3461 section 4.2).
const ORCPT_MAX: usize = 500;

/// What the body may hold: the BODY parameter (RFC 6152, RFC 3030).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BodyKind {
    /// `7BIT`, or nothing said.
    #[default]
    SevenBit,
    /// `8BITMIME`.
    EightBit,
    /// `BINARYMIME`: any octets, by BDAT alone.
    Binary,
}

/// How much of the message a failure report brings back: the RET parameter (RFC 3461).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Return {
    /// `FULL`.
    Full,
    /// `HDRS`.
    Headers,
}

/// When to report on a recipient: the NOTIFY parameter (RFC 3461). `never` stands alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Notify {
    /// `NEVER`.
    pub never: bool,
    /// `SUCCESS`.
    pub success: bool,
    /// `FAILURE`.
    pub failure: bool,
    /// `DELAY`.
    pub delay: bool,
}

/// A MAIL command.
#[derive(Clone, Copy, Debug)]
pub struct Mail<'a> {
    /// The reverse path without brackets; empty for `<>`.
    pub path: &'a [u8],
    /// What came with it.
    pub parameters: MailParameters<'a>,
}

/// MAIL's parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MailParameters<'a> {
    /// SIZE, in octets.
    pub size: Option<u64>,
    /// BODY.
    pub body: BodyKind,
    /// SMTPUTF8.
    pub utf8: bool,
    /// RET.
    pub ret: Option<Return>,
    /// ENVID, as sent (xtext).
    pub envid: Option<&'a [u8]>,
    /// HOLDFOR or HOLDUNTIL.
    pub hold: Option<Hold>,
    /// BY.
    pub by: Option<DeliverBy>,
}

/// A RCPT command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recipient<'a> {
    /// The forward path without brackets and source route.
    pub path: &'a [u8],
    /// NOTIFY.
    pub notify: Option<Notify>,
    /// ORCPT, as sent.
    pub orcpt: Option<&'a [u8]>,
}

/// What is wrong with a MAIL or RCPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// No `FROM:` or `TO:`.
    Syntax,
    /// The address.
    Address(address::Fault),
    /// An address beyond ASCII without SMTPUTF8.
    Utf8,
    /// A parameter nobody offered.
    ParameterUnknown,
    /// A parameter that is malformed or stands twice.
    ParameterBad,
}

/// A command's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Verb {
    Ehlo,
    Helo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    Quit,
    /// Known, but not here.
    Unimplemented,
    /// Not known.
    Unknown,
}

impl Verb {
    /// The verb of a line, and its arguments without blanks around them.
    pub fn split(line: &[u8]) -> (Verb, &[u8]) {
        let (word, rest) = split_word(trim_end(line));
        let mut name = [0; 8];
        let Some(upper) = name.get_mut(..word.len()) else {
            return (Verb::Unknown, rest);
        };
        upper.copy_from_slice(word);
        upper.make_ascii_uppercase();
        let verb = match &*upper {
            b"EHLO" => Verb::Ehlo,
            b"HELO" => Verb::Helo,
            b"MAIL" => Verb::Mail,
            b"RCPT" => Verb::Rcpt,
            b"DATA" => Verb::Data,
            b"BDAT" => Verb::Bdat,
            b"RSET" => Verb::Rset,
            b"NOOP" => Verb::Noop,
            b"VRFY" => Verb::Vrfy,
            b"EXPN" => Verb::Expn,
            b"HELP" => Verb::Help,
            b"QUIT" => Verb::Quit,
            b"STARTTLS" | b"AUTH" | b"ETRN" | b"ATRN" | b"TURN" | b"SEND" | b"SOML" | b"SAML" => {
                Verb::Unimplemented
            }
            _ => Verb::Unknown,
        };
        (verb, rest)
    }

    /// The most octets of a line with this verb, CRLF included.
    pub const fn line_max(self) -> usize {
        match self {
            Verb::Mail => MAIL_LINE_MAX,
            Verb::Rcpt => RCPT_LINE_MAX,
            _ => LINE_MAX,
        }
    }
}

/// A BDAT command (RFC 3030 section 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Octets that follow the command's line.
    pub size: u64,
    /// They are the message's last ones.
    pub last: bool,
}

impl Chunk {
    /// Parses what follows `BDAT`.
    pub fn parse(arguments: &[u8]) -> Option<Chunk> {
        let (size, rest) = split_word(arguments);
        let last = match rest {
            [] => false,
            rest if rest.eq_ignore_ascii_case(b"LAST") => true,
            _ => return None,
        };
        // More digits than any message has: nothing that could be waited for.
        Some(Chunk { size: decimal(size, 18)?, last })
    }

    /// Writes the BDAT command.
    pub(in crate::protocol) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"BDAT ");
        write_decimal(self.size, out);
        out.extend_from_slice(if self.last { b" LAST\r\n" } else { b"\r\n" });
    }
}

impl<'a> Mail<'a> {
    /// Parses what follows `MAIL`. Without `extended` (after HELO) no parameter is known.
    pub fn parse(arguments: &'a [u8], extended: bool) -> Result<Mail<'a>, Fault> {
        let (path, rest) = path_after(arguments, b"FROM:")?;
        if !path.is_empty() && address::domain(path).is_empty() {
            return Err(Fault::Address(address::Fault::Syntax));
        }
        let parameters = MailParameters::parse(rest, extended)?;
        if !parameters.utf8 && !path.is_ascii() {
            return Err(Fault::Utf8);
        }
        Ok(Mail { path, parameters })
    }
}

impl<'a> MailParameters<'a> {
    fn parse(text: &'a [u8], extended: bool) -> Result<Self, Fault> {
        let mut found = MailParameters::default();
        let (mut body, mut rest) = (None, text);
        while let Some((keyword, value)) = parameter(&mut rest, extended)? {
            if keyword.eq_ignore_ascii_case(b"SIZE") {
                once(&mut found.size, value.and_then(|v| decimal_or_more(v, 20)))?;
            } else if keyword.eq_ignore_ascii_case(b"BODY") {
                once(&mut body, value.and_then(body_kind))?;
            } else if keyword.eq_ignore_ascii_case(b"SMTPUTF8") {
                if found.utf8 || value.is_some() {
                    return Err(Fault::ParameterBad);
                }
                found.utf8 = true;
            } else if keyword.eq_ignore_ascii_case(b"RET") {
                once(&mut found.ret, value.and_then(ret))?;
            } else if keyword.eq_ignore_ascii_case(b"ENVID") {
                once(
                    &mut found.envid,
                    value.filter(|v| matches!(v.len(), 1..=ENVID_MAX) && is_xtext(v, false)),
                )?;
            } else if keyword.eq_ignore_ascii_case(b"HOLDFOR") {
                once(&mut found.hold, value.and_then(Hold::parse_for))?;
            } else if keyword.eq_ignore_ascii_case(b"HOLDUNTIL") {
                once(&mut found.hold, value.and_then(Hold::parse_until))?;
            } else if keyword.eq_ignore_ascii_case(b"BY") {
                once(&mut found.by, value.and_then(DeliverBy::parse))?;
            } else {
                return Err(Fault::ParameterUnknown);
            }
        }
        found.body = body.unwrap_or_default();
        Ok(found)
    }
}

impl<'a> Recipient<'a> {
    /// Parses what follows `RCPT`. `utf8`: the transaction has SMTPUTF8.
    pub fn parse(arguments: &'a [u8], extended: bool, utf8: bool) -> Result<Recipient<'a>, Fault> {
        let (path, mut rest) = path_after(arguments, b"TO:")?;
        if path.is_empty() {
            return Err(Fault::Address(address::Fault::Syntax));
        }
        if !utf8 && !path.is_ascii() {
            return Err(Fault::Utf8);
        }
        let mut found = Recipient { path, notify: None, orcpt: None };
        while let Some((keyword, value)) = parameter(&mut rest, extended)? {
            if keyword.eq_ignore_ascii_case(b"NOTIFY") {
                once(&mut found.notify, value.and_then(Notify::parse))?;
            } else if keyword.eq_ignore_ascii_case(b"ORCPT") {
                once(&mut found.orcpt, value.filter(|v| is_orcpt(v, utf8)))?;
            } else {
                return Err(Fault::ParameterUnknown);
            }
        }
        Ok(found)
    }

    /// Writes the RCPT command, with its DSN parameters only if `dsn` is offered.
    pub fn write(&self, dsn: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RCPT TO:<");
        out.extend_from_slice(self.path);
        out.push(b'>');
        if let Some(notify) = self.notify.filter(|_| dsn) {
            notify.write(out);
        }
        if let Some(orcpt) = self.orcpt.filter(|_| dsn) {
            out.extend_from_slice(b" ORCPT=");
            out.extend_from_slice(orcpt);
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl Notify {
    const NAMES: [&'static [u8]; 3] = [b"SUCCESS", b"FAILURE", b"DELAY"];

    fn parse(value: &[u8]) -> Option<Notify> {
        let mut notify = Notify::default();
        if value.eq_ignore_ascii_case(b"NEVER") {
            notify.never = true;
            return Some(notify);
        }
        for word in value.split(|&b| b == b',') {
            let position = Self::NAMES.iter().position(|name| word.eq_ignore_ascii_case(name))?;
            *[&mut notify.success, &mut notify.failure, &mut notify.delay][position] = true;
        }
        Some(notify)
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b" NOTIFY=");
        if self.never {
            out.extend_from_slice(b"NEVER");
            return;
        }
        let start = out.len();
        for (name, is_set) in Self::NAMES.iter().zip([self.success, self.failure, self.delay]) {
            if is_set {
                if out.len() > start {
                    out.push(b',');
                }
                out.extend_from_slice(name);
            }
        }
    }
}

/// Which of MAIL's parameters the other side takes.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Offered {
    pub(in crate::protocol) size: bool,
    pub(in crate::protocol) eight_bit: bool,
    pub(in crate::protocol) binary: bool,
    pub(in crate::protocol) utf8: bool,
    pub(in crate::protocol) dsn: bool,
    pub(in crate::protocol) deliver_by: bool,
}

impl Mail<'_> {
    /// Writes the MAIL command with those parameters that are offered. SIZE 0 is not written, and until when it is held is
    /// for us alone.
    pub(in crate::protocol) fn write(&self, offered: Offered, out: &mut Vec<u8>) {
        let MailParameters { size, body, utf8, ret, envid, by, .. } = self.parameters;
        out.extend_from_slice(b"MAIL FROM:<");
        out.extend_from_slice(self.path);
        out.push(b'>');
        if let Some(size) = size.filter(|&size| offered.size && size > 0) {
            out.extend_from_slice(b" SIZE=");
            write_decimal(size, out);
        }
        if offered.eight_bit && body == BodyKind::EightBit {
            out.extend_from_slice(b" BODY=8BITMIME");
        }
        if offered.binary && body == BodyKind::Binary {
            out.extend_from_slice(b" BODY=BINARYMIME");
        }
        if offered.utf8 && utf8 {
            out.extend_from_slice(b" SMTPUTF8");
        }
        if let Some(ret) = ret.filter(|_| offered.dsn) {
            out.extend_from_slice(match ret {
                Return::Full => b" RET=FULL",
                Return::Headers => b" RET=HDRS",
            });
        }
        if let Some(envid) = envid.filter(|_| offered.dsn) {
            out.extend_from_slice(b" ENVID=");
            out.extend_from_slice(envid);
        }
        if let Some(by) = by.filter(|_| offered.deliver_by) {
            by.write(out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// `FROM:` or `TO:`, blanks (not allowed, but common), and the path.
fn path_after<'a>(arguments: &'a [u8], keyword: &[u8]) -> Result<(&'a [u8], &'a [u8]), Fault> {
    let rest = strip_prefix_ignore_case(arguments, keyword).ok_or(Fault::Syntax)?;
    address::path(trim_start(rest)).map_err(Fault::Address)
}

/// A parameter: its keyword, and its value if it has one.
type Parameter<'a> = (&'a [u8], Option<&'a [u8]>);

/// Takes the next parameter off `rest`, which begins with a blank unless it is empty.
fn parameter<'a>(rest: &mut &'a [u8], extended: bool) -> Result<Option<Parameter<'a>>, Fault> {
    if rest.is_empty() {
        return Ok(None);
    }
    if !matches!(rest[0], b' ' | b'\t') {
        return Err(Fault::Address(address::Fault::Syntax));
    }
    let (word, _) = split_word(trim_start(rest));
    *rest = &trim_start(rest)[word.len()..];
    if word.is_empty() {
        return Ok(None);
    }
    if !extended {
        return Err(Fault::ParameterUnknown);
    }
    let (keyword, value) = match memchr::memchr(b'=', word) {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    };
    let is_keyword = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
    if keyword.is_empty() || !keyword.iter().all(is_keyword) {
        return Err(Fault::ParameterBad);
    }
    Ok(Some((keyword, value)))
}

/// Sets what must be valid and not yet set.
fn once<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), Fault> {
    if slot.is_some() || value.is_none() {
        return Err(Fault::ParameterBad);
    }
    *slot = value;
    Ok(())
}

fn body_kind(value: &[u8]) -> Option<BodyKind> {
    let kinds: [(&[u8], _); 3] =
        [(b"7BIT", BodyKind::SevenBit), (b"8BITMIME", BodyKind::EightBit), (b"BINARYMIME", BodyKind::Binary)];
    kinds.into_iter().find_map(|(name, kind)| value.eq_ignore_ascii_case(name).then_some(kind))
}

fn ret(value: &[u8]) -> Option<Return> {
    if value.eq_ignore_ascii_case(b"FULL") {
        Some(Return::Full)
    } else {
        value.eq_ignore_ascii_case(b"HDRS").then_some(Return::Headers)
    }
}

/// `addr-type ";" xtext` (RFC 3461 section 4.2).
fn is_orcpt(value: &[u8], utf8: bool) -> bool {
    let Some(semicolon) = memchr::memchr(b';', value) else {
        return false;
    };
    let (kind, address) = (&value[..semicolon], &value[semicolon + 1..]);
    value.len() <= ORCPT_MAX
        && !kind.is_empty()
        && kind.iter().all(|b| matches!(b, 33..=126) && !b"()<>@,;:\\\"/[]?.=+".contains(b))
        && !address.is_empty()
        && is_xtext(address, utf8)
        && (address.is_ascii() || std::str::from_utf8(address).is_ok())
}
