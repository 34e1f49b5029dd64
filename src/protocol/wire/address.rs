//! Paths and mailboxes: RFC 5321 section 4.1.2, with UTF-8 by RFC 6531 section 3.3.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::text::strip_prefix_ignore_case;

/// A local part's most octets (RFC 5321 section 4.5.3.1.1).
pub const LOCAL_MAX: usize = 64;
/// A domain's most octets (RFC 5321 section 4.5.3.1.2).
pub const DOMAIN_MAX: usize = 255;
/// A path's most octets with its punctuation (RFC 5321 section 4.5.3.1.3).
pub const PATH_MAX: usize = 256;

/// What is wrong with an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It does not follow the grammar.
    Syntax,
    /// The local part is longer than [`LOCAL_MAX`].
    LocalTooLong,
    /// The domain is longer than [`DOMAIN_MAX`].
    DomainTooLong,
    /// The path is longer than [`PATH_MAX`].
    PathTooLong,
}

/// The domain of a path or mailbox: what follows the last `@` outside quotes. Empty if there is none.
pub fn domain(path: &[u8]) -> &[u8] {
    let rest = match path {
        [b'"', ..] => quoted(path).map_or(&[][..], |len| &path[len..]),
        _ => path,
    };
    memchr::memrchr(b'@', rest).map_or(&[], |at| &rest[at + 1..])
}

/// Takes `<path>` off the front of `text`: the path without brackets and source route, and what follows it.
/// The path may be empty (`<>`) or lack a domain (`<postmaster>`): the caller knows where that is allowed.
pub fn path(text: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let inner = text.strip_prefix(b"<").ok_or(Fault::Syntax)?;
    if let Some(rest) = inner.strip_prefix(b">") {
        return Ok((&[], rest));
    }
    let mailbox = skip_route(inner)?;
    let local = local_part(mailbox)?;
    let len = match &mailbox[local..] {
        [b'@', rest @ ..] => local + 1 + domain_part(rest)?,
        _ if mailbox[..local].eq_ignore_ascii_case(b"postmaster") => local,
        _ => return Err(Fault::Syntax),
    };
    let (path, rest) = mailbox.split_at(len);
    let rest = rest.strip_prefix(b">").ok_or(Fault::Syntax)?;
    if !path.is_ascii() && std::str::from_utf8(path).is_err() {
        return Err(Fault::Syntax);
    }
    match text.len() - rest.len() > PATH_MAX {
        true => Err(Fault::PathTooLong),
        false => Ok((path, rest)),
    }
}

/// Skips an obsolete source route, `@a,@b:`: accepted and ignored (RFC 5321 appendix F.2).
fn skip_route(text: &[u8]) -> Result<&[u8], Fault> {
    let mut rest = text;
    while let [b'@', host @ ..] = rest {
        match &host[domain_part(host)?..] {
            [b':', mailbox @ ..] => return Ok(mailbox),
            [b',', next @ ..] => rest = next,
            _ => return Err(Fault::Syntax),
        }
    }
    // No route, or one that breaks off: that then fails as a local part.
    Ok(text)
}

/// Length of the local part at the front of `text`.
fn local_part(text: &[u8]) -> Result<usize, Fault> {
    let len = match text {
        [b'"', ..] => quoted(text).ok_or(Fault::Syntax)?,
        _ => dotted(text, is_atext, |_| true).ok_or(Fault::Syntax)?,
    };
    if len > LOCAL_MAX { Err(Fault::LocalTooLong) } else { Ok(len) }
}

/// Length of the domain or address literal at the front of `text`.
fn domain_part(text: &[u8]) -> Result<usize, Fault> {
    let len = match text {
        [b'[', ..] => literal(text),
        _ => dotted(text, is_ldh, |label| label[0] != b'-' && label[label.len() - 1] != b'-'),
    };
    match len {
        Some(len) if len > DOMAIN_MAX => Err(Fault::DomainTooLong),
        Some(len) => Ok(len),
        None => Err(Fault::Syntax),
    }
}

/// Length of a run of non-empty elements of `is_element` octets, joined by dots.
fn dotted(text: &[u8], is_element: fn(u8) -> bool, is_whole: fn(&[u8]) -> bool) -> Option<usize> {
    let mut at = 0;
    loop {
        let len = text[at..].iter().position(|&b| !is_element(b)).unwrap_or(text.len() - at);
        if len == 0 || !is_whole(&text[at..at + len]) {
            return None;
        }
        at += len;
        match text.get(at) {
            Some(b'.') => at += 1,
            _ => return Some(at),
        }
    }
}

/// Length of the quoted string at the front of `text`, quotes included.
fn quoted(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += match &text[at.min(text.len())..] {
            [b'"', ..] => return Some(at + 1),
            [b'\\', 32..=126, ..] => 2,
            [b'\\', ..] => return None,
            [32..=126 | 128..=255, ..] => 1,
            _ => return None,
        };
    }
}

/// Length of the address literal at the front of `text`, brackets included (RFC 5321 section 4.1.3).
fn literal(text: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b']', &text[..text.len().min(DOMAIN_MAX + 2)])?;
    let inner = &text[1..end];
    let is_valid = if let Some(address) = strip_prefix_ignore_case(inner, b"IPv6:") {
        std::str::from_utf8(address).is_ok_and(|a| a.parse::<Ipv6Addr>().is_ok())
    } else if let Some(colon) = memchr::memchr(b':', inner) {
        let (tag, content) = (&inner[..colon], &inner[colon + 1..]);
        // `@` is legal here, but no registered tag needs it, and without it the last `@` is always the one.
        matches!(tag, [.., b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'])
            && tag.iter().all(|&b| is_ldh(b) && b.is_ascii())
            && !content.is_empty()
            && content.iter().all(|b| matches!(b, 33..=90 | 94..=126) && *b != b'@')
    } else {
        std::str::from_utf8(inner).is_ok_and(|a| a.parse::<Ipv4Addr>().is_ok())
    };
    is_valid.then_some(end + 1)
}

fn is_atext(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b >= 128 || b"!#$%&'*+-/=?^_`{|}~".contains(&b)
}

fn is_ldh(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-' || b >= 128
}
